/* follow.c - the one thread of a replica's link: call the primary, take what it sends, say how far it got.
 *
 * A ROUND  reads what the socket has (up to ROUND_BYTES), gives parts some time, syncs each log that was appended to, posts
 *          what is durable to the applier, and lets one ACK for each database go out. The longer a sync takes the more the next
 *          round finds, so the rate adapts by itself. Nothing is read while answers cannot be written.
 * ERRORS   of one database hold up that one (replica/followdb.h); anything else ends the connection, which is told when the
 *          state or the reason changes, and called again after a pause. */
#include "replica/follow.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/worker.h"
#include "ltx/dec.h"
#include "ltx/log.h"
#include "replica/applier.h"
#include "replica/dial.h"
#include "replica/followpriv.h"
#include "replica/followstore.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS_NS          UINT64_C(1000000)
#define PING_MS        1000
#define DEAD_MS        3000
#define WRITE_MS       10000
#define READ_BYTES     (256 * 1024)
#define ROUND_BYTES    (1024 * 1024)
#define WORK_NS        (2 * MS_NS)
#define BACKOFF_MS     100
#define BACKOFF_MAX_MS 10000
#define AWAY_MS        5000 /* without the primary, until the store is followed */
#define GOOD_MS        2000 /* a connection that lasted so long was worth calling again at once */

/* ---- saying ---- */

static int say(struct replica_follow *f, const struct ltx_wire_msg *m, struct fz_err *err)
{
	return ltx_wire_put(&f->out.plain, m, err);
}

/* Writes as much as the socket takes. */
static int flush(struct replica_follow *f, struct fz_err *err)
{
	uint64_t now = fz_mono_ns();
	ssize_t n;
	int rc;

	if (f->out.sent == f->out.sealed.size) {
		fz_buf_reset(&f->out.sealed);
		f->out.sent = 0;
		f->out.since_ns = now;
		rc = f->out.plain.size ? ltx_wire_seal(&f->out.cipher, &f->out.plain, &f->out.sealed, err) : 0;
		if (rc < 0)
			return rc;
	}
	if (f->out.sent == f->out.sealed.size)
		return 0;
	n = send(f->fd, f->out.sealed.data + f->out.sent, f->out.sealed.size - f->out.sent, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return fz_fail_errno(err, errno, "the connection to %s is lost", f->primary);
	if (n > 0) {
		f->out.sent += (size_t)n;
		f->out.since_ns = f->said_ns = now;
	}
	if (f->out.sent < f->out.sealed.size && now - f->out.since_ns > WRITE_MS * MS_NS)
		return fz_fail(err, FZ_ETIMEOUT, "%s has read nothing for %d s: it hangs, or the network does",
		               f->primary, WRITE_MS / 1000);
	return 0;
}

static bool flushed(const struct replica_follow *f)
{
	return f->out.sent == f->out.sealed.size;
}

static int say_want(struct replica_follow *f, struct replica_followdb *db, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_WANT};

	replica_followdb_want(db, &m.want);
	db->ack_due = true; /* the primary may have nothing more to send, and does not know what is applied */
	return say(f, &m, err);
}

/* What is held in doubt; also that nothing is, after each WANT: so the primary knows that this host takes it. */
static int say_held(struct replica_follow *f, struct fz_err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < f->n_ids; i++) {
		struct replica_followdb *db = f->ids[i];
		struct ltx_wire_msg m = {.type = LTX_WIRE_HELD};

		if (!db->held_due)
			continue;
		db->held_due = false;
		m.mark.id = db->db.id;
		m.mark.txid = replica_held_txid(&db->held, &m.mark.value);
		rc = say(f, &m, err);
	}
	return rc;
}

static int say_acks(struct replica_follow *f, struct fz_err *err)
{
	struct ltx_wire_msg m = {.type = LTX_WIRE_ACK};
	int rc = 0;

	for (size_t i = 0; rc == 0 && f->ack_due && i < f->n_ids; i++) {
		struct replica_followdb *db = f->ids[i];

		if (!db->ack_due)
			continue;
		db->ack_due = false;
		m.ack.id = db->db.id;
		m.ack.received = db->received;
		m.ack.durable = db->durable;
		m.ack.applied = f->set.applier ? db->applied : db->durable;
		m.ack.applied_ms = fz_now_ms();
		rc = say(f, &m, err);
	}
	f->ack_due = false;
	return rc;
}

/* ---- databases ---- */

/* What the primary would send a snapshot for may lie in the store as it was committed, and costs the primary nothing there. What the
 * store does not have after all is asked of the primary. */
static bool lend(struct replica_follow *f, struct replica_followdb *db)
{
	struct fz_err why;

	if (!f->store || !replica_followdb_lend(db))
		return false;
	if (replica_followstore_fill(f->store, &db->db, f->wake_fd, &why) < 0)
		fz_log_err(fz_log_db(db->name), &why); /* it is back with the next look */
	return true;
}

static int attend(struct replica_follow *f, struct replica_followdb *db, struct fz_err *err)
{
	struct fz_err why = {0};
	bool want;
	bool lent = db->state == REPLICA_FOLLOWDB_LENT;
	int rc;

	if (lent && replica_followstore_filling(f->store, db->lineage))
		return 0;
	rc = replica_followset_attend(&f->set, db, &want, &why);
	if (rc < 0) {
		replica_followdb_fail(db, &why);
		return 0;
	}
	if (lent && want && db->tail_txid >= db->db.base_txid)
		fz_info("%s: came from the store up to TXID %" PRIu64 ", the primary sends the rest",
		        fz_log_db(db->name), db->tail_txid);
	else if (lent && want)
		fz_info("%s: the store does not have what comes next, the primary sends a snapshot",
		        fz_log_db(db->name));
	return want && !lend(f, db) ? say_want(f, db, err) : 0;
}

static int add_db(struct replica_follow *f, const struct ltx_wire_db *d, struct replica_followdb **out,
                  struct fz_err *err)
{
	struct replica_followdb *db;

	if (!fz_array_room(f->ids, f->n_ids, f->cap_ids))
		return fz_fail_errno(err, ENOMEM, "listing databases");
	db = replica_followset_get(&f->set, d);
	if (!db)
		return fz_fail_errno(err, ENOMEM, "listing databases");
	if (db->db.id)
		return fz_fail(err, FZ_ECORRUPT, "%s: the same lineage was announced twice", d->name);
	f->ids[f->n_ids++] = db;
	*out = db;
	return 0;
}

static int take_db(struct replica_follow *f, const struct ltx_wire_db *d, struct fz_err *err)
{
	struct replica_followdb *db = NULL;
	int rc = 0;

	if (d->id == 0 || d->id > f->n_ids + 1)
		return fz_fail(err, FZ_ECORRUPT, "database %u was announced as number %zu", d->id, f->n_ids + 1);
	if (d->id == f->n_ids + 1)
		rc = add_db(f, d, &db, err);
	else
		db = f->ids[d->id - 1];
	if (rc < 0)
		return rc;
	if (strcmp(db->lineage, d->lineage) != 0)
		return fz_fail(err, FZ_ECORRUPT, "%s: its lineage has changed on the way", d->name);
	db->db = *d;
	return replica_followset_excluded(&f->set, db->name) ? 0 : attend(f, db, err);
}

/* What this host has beyond the primary's epoch is kept as a branch; from there on it follows. at: what the primary does not have. When this
 * host stands elsewhere by now (it went back after an earlier answer, or more came) that is no answer to it, and it asks again. */
static int part_ways(struct replica_follow *f, struct replica_followdb *db, const struct ltx_wire_mark *at,
                     struct fz_err *err)
{
	if (db->state == REPLICA_FOLLOWDB_FAILED) /* it asks by itself, later */
		return 0;
	if (replica_followdb_stands(db, at))
		return replica_followset_part(&f->set, db) ? say_want(f, db, err) : 0;
	if (replica_followdb_give_up(db))
		replica_followset_post(&f->set, db);
	return db->state == REPLICA_FOLLOWDB_FAILED ? 0 : say_want(f, db, err);
}

/* ---- hearing ---- */

/* They do not come along: its user is to know, once. */
static void take_others(struct replica_follow *f, const struct ltx_wire_others *o)
{
	bool first = !f->others.files;

	pthread_mutex_lock(&f->set.env.mu);
	f->others = *o;
	pthread_mutex_unlock(&f->set.env.mu);
	if (first)
		fz_warn("the primary has files beside its databases that are not replicated (%" PRIu64 "; such as %s)",
		        o->files, o->example);
}

static int take_message(struct replica_follow *f, const struct ltx_wire_msg *m, struct fz_err *err)
{
	struct replica_followdb *db = NULL;
	uint32_t id = 0;

	switch (m->type) {
	case LTX_WIRE_FILE:
	case LTX_WIRE_PREPARED:
		id = m->file.id;
		break;
	case LTX_WIRE_DATA:
		id = m->data.id;
		break;
	case LTX_WIRE_DIVERGED:
	case LTX_WIRE_COMMIT:
	case LTX_WIRE_ABORT:
		id = m->mark.id;
		break;
	case LTX_WIRE_DB:
		return take_db(f, &m->db, err);
	case LTX_WIRE_HELLO:
	case LTX_WIRE_ROLE:
		pthread_mutex_lock(&f->set.env.mu);
		f->peer = m->hello;
		f->has_peer = true;
		pthread_mutex_unlock(&f->set.env.mu);
		for (size_t i = 0; m->type == LTX_WIRE_HELLO && i < f->set.n_dbs; i++)
			replica_followdb_doubt(f->set.dbs[i]);
		if (f->set.events && f->set.events->peer)
			f->set.events->peer(f->set.events, &m->hello);
		return 0;
	case LTX_WIRE_OTHERS:
		take_others(f, &m->others);
		return 0;
	case LTX_WIRE_HANDOFF:
		if (f->set.events && f->set.events->handoff)
			f->set.events->handoff(f->set.events);
		return 0;
	case LTX_WIRE_PING:
		return say(f, &(struct ltx_wire_msg){.type = LTX_WIRE_PONG, .mark.value = m->mark.value}, err);
	case LTX_WIRE_WANT:
	case LTX_WIRE_ACK:
	case LTX_WIRE_HELD:
		return fz_fail(err, FZ_ECORRUPT, "%s said what a primary does not say (message %d)", f->primary,
		               (int)m->type);
	default: /* of a newer version */
		return 0;
	}
	if (id >= 1 && id <= f->n_ids)
		db = f->ids[id - 1];
	if (!db)
		return fz_fail(err, FZ_ECORRUPT, "%s sent bytes of a database that it did not announce", f->primary);
	if (!db->log)
		return 0; /* not wanted any more */
	if (m->type == LTX_WIRE_FILE)
		return replica_followdb_file(db, &m->file, err);
	if (m->type == LTX_WIRE_PREPARED)
		return replica_followdb_prepared(db, &m->file, err);
	if (m->type == LTX_WIRE_COMMIT)
		replica_followdb_commit(db, m->mark.txid);
	else if (m->type == LTX_WIRE_ABORT)
		replica_followdb_abort(db, m->mark.txid);
	if (m->type == LTX_WIRE_COMMIT || m->type == LTX_WIRE_ABORT)
		return 0;
	if (m->type == LTX_WIRE_DATA)
		return replica_followdb_data(db, m->data.bytes, m->data.n, err);
	return part_ways(f, db, &m->mark, err);
}

static int take_messages(struct replica_follow *f, struct fz_err *err)
{
	struct fz_buf *b = &f->in.plain;
	size_t at = 0;
	int rc = 1;

	while (rc > 0 && at < b->size) {
		struct ltx_wire_msg m;

		rc = ltx_wire_get(&m, b->data + at, b->size - at, err);
		if (rc > 0) {
			int took = take_message(f, &m, err);

			at += (size_t)rc;
			rc = took < 0 ? took : rc;
		}
	}
	if (at) {
		memmove(b->data, b->data + at, b->size - at);
		b->size -= at;
	}
	return rc < 0 ? rc : 0;
}

/* What the socket has, up to a round's worth. */
static int hear(struct replica_follow *f, struct fz_err *err)
{
	size_t sum = 0;
	int rc = 0;

	while (rc == 0 && sum < ROUND_BYTES && !atomic_load(&f->stop)) {
		uint8_t *room = fz_buf_room(&f->in.sealed, READ_BYTES);
		ssize_t n = room ? recv(f->fd, room, READ_BYTES, 0) : 0;

		if (!room)
			return fz_fail_errno(err, ENOMEM, "reading from the primary");
		if (n == 0)
			return fz_fail(err, ECONNRESET, "%s has closed the connection", f->primary);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0)
			return fz_fail_errno(err, errno, "the connection to %s is lost", f->primary);
		sum += (size_t)n;
		f->heard_ns = fz_mono_ns();
		f->in.sealed.size += (size_t)n;
		rc = ltx_wire_open(&f->in.cipher, &f->in.sealed, &f->in.plain, err);
		if (rc == 0)
			rc = take_messages(f, err);
		if (n < READ_BYTES)
			break;
	}
	pthread_mutex_lock(&f->set.env.mu);
	f->bytes_in += sum;
	if (sum)
		f->heard_ms = fz_now_ms();
	pthread_mutex_unlock(&f->set.env.mu);
	return rc;
}

/* The primary's commits wait for what is held: it is told before anything else is synced. */
static int hear_and_hold(struct replica_follow *f, struct fz_err *err)
{
	int rc = hear(f, err);

	if (rc == 0)
		rc = say_held(f, err);
	return rc == 0 && f->out.plain.size && flushed(f) ? flush(f, err) : rc;
}

/* ---- a connection ---- */

/* Makes durable what this round brought, hands it on, and looks after what failed. Returns whether a part wants more time. */
static int settle(struct replica_follow *f, bool *busy, uint64_t *next_ns, struct fz_err *err)
{
	uint64_t now = fz_mono_ns();
	int rc = 0;

	*busy = false;
	for (size_t i = 0; rc == 0 && i < f->n_ids; i++) {
		struct replica_followdb *db = f->ids[i];

		if (db->state == REPLICA_FOLLOWDB_LENT || (db->state == REPLICA_FOLLOWDB_FAILED && now >= db->retry_ns))
			rc = attend(f, db, err);
		else if (db->state == REPLICA_FOLLOWDB_FAILED && db->retry_ns < *next_ns)
			*next_ns = db->retry_ns;
		if (replica_followdb_complete(db))
			replica_followdb_close(db);
		if (!db->log)
			continue;
		if (replica_followdb_work(db, WORK_NS))
			*busy = true;
		if (replica_followdb_sync(db))
			replica_followset_post(&f->set, db);
		if (f->ask_applied)
			replica_followset_look(&f->set, db);
		f->ack_due |= db->ack_due;
	}
	f->ask_applied = false;
	return rc;
}

static int talk(struct replica_follow *f, struct fz_err *err)
{
	struct pollfd fds[3] = {
	        {.fd = f->cancel_fd, .events = POLLIN},
                {.fd = f->wake_fd,   .events = POLLIN}
        };
	struct ltx_wire_msg m = {.type = LTX_WIRE_HELLO, .hello = f->hello};
	bool busy = false;
	uint64_t count;
	int rc = say(f, &m, err);

	f->ask_applied = true;
	while (rc == 0 && !atomic_load(&f->stop)) {
		uint64_t next_ns = f->said_ns + PING_MS * MS_NS, now;

		rc = settle(f, &busy, &next_ns, err);
		if (rc == 0)
			rc = say_held(f, err);
		if (rc == 0 && flushed(f))
			rc = say_acks(f, err);
		if (rc == 0 && f->out.plain.size == 0 && flushed(f) && fz_mono_ns() - f->said_ns >= PING_MS * MS_NS)
			rc = say(f, &(struct ltx_wire_msg){.type = LTX_WIRE_PING, .mark.value = fz_mono_ns()}, err);
		if (rc == 0)
			rc = flush(f, err);
		if (rc < 0)
			break;
		now = fz_mono_ns();
		if (flushed(f) && next_ns > f->heard_ns + DEAD_MS * MS_NS)
			next_ns = f->heard_ns + DEAD_MS * MS_NS;
		fds[2] = (struct pollfd){.fd = f->fd, .events = flushed(f) ? POLLIN : POLLOUT};
		if (poll(fds, 3, busy || next_ns <= now ? 0 : (int)((next_ns - now) / MS_NS) + 1) < 0 && errno != EINTR)
			return fz_fail_errno(err, errno, "waiting for the primary");
		if (fds[0].revents)
			return fz_fail(err, ECANCELED, "following ends");
		if (fds[1].revents && read(f->wake_fd, &count, sizeof(count)) > 0)
			f->ask_applied = true;
		if (fds[2].revents & (POLLIN | POLLERR | POLLHUP))
			rc = hear_and_hold(f, err);
		else if (flushed(f) && fz_mono_ns() - f->heard_ns >= DEAD_MS * MS_NS)
			rc = fz_fail(err, FZ_ETIMEOUT,
			             "nothing was heard of %s for %d s: the host or the network is down", f->primary,
			             DEAD_MS / 1000);
	}
	return rc;
}

static int dial(struct replica_follow *f, struct fz_err *err)
{
	struct replica_dial d = {.primary = f->primary,
	                         .primary_key = f->primary_key,
	                         .secret = f->secret,
	                         .version = f->version,
	                         .cancel_fd = f->cancel_fd};
	int rc = replica_dial(&d, err);

	if (rc == 0) {
		f->fd = d.fd;
		f->out.cipher = d.send;
		f->in.cipher = d.receive;
		f->heard_ns = f->said_ns = f->out.since_ns = fz_mono_ns();
	}
	sodium_memzero(&d, sizeof(d));
	return rc;
}

static void hang_up(struct replica_follow *f)
{
	for (size_t i = 0; i < f->n_ids; i++) {
		if (replica_followdb_sync(f->ids[i]))
			replica_followset_post(&f->set, f->ids[i]);
		replica_followdb_close(f->ids[i]);
	}
	f->n_ids = 0;
	fz_close(&f->fd);
	fz_buf_reset(&f->in.sealed);
	fz_buf_reset(&f->in.plain);
	fz_buf_reset(&f->out.sealed);
	fz_buf_reset(&f->out.plain);
	f->out.sent = 0;
	f->ack_due = false;
	sodium_memzero(&f->in.cipher, sizeof(f->in.cipher));
	sodium_memzero(&f->out.cipher, sizeof(f->out.cipher));
}

/* Link and store take turns: the logs have one writer. */
static void take_logs(struct replica_follow *f, bool connected)
{
	if (f->store && connected)
		replica_followstore_pause(f->store);
	else if (f->store)
		replica_followstore_resume(f->store, AWAY_MS);
}

static void note(struct replica_follow *f, bool connected, const struct fz_err *why)
{
	pthread_mutex_lock(&f->set.env.mu);
	if (f->connected != connected)
		f->since_ms = fz_now_ms();
	f->connected = connected;
	if (why)
		f->err = *why;
	else
		f->err.code = 0;
	pthread_mutex_unlock(&f->set.env.mu);
}

/* Up to ms, less up to a half of it by chance: replicas of one primary shall not come back all at once. */
static void pause_ms(struct replica_follow *f, uint32_t ms)
{
	struct pollfd p = {.fd = f->cancel_fd, .events = POLLIN};
	uint64_t end_ns = fz_mono_ns() + (ms - randombytes_uniform(ms / 2 + 1)) * MS_NS, now;

	while (!atomic_load(&f->stop) && (now = fz_mono_ns()) < end_ns)
		if (poll(&p, 1, (int)((end_ns - now) / MS_NS) + 1) > 0)
			break;
}

static void run(void *arg)
{
	struct replica_follow *f = arg;
	uint32_t backoff_ms = BACKOFF_MS;
	bool denied = false; /* by the call before */
	int told = 0;        /* code of the reason that was logged */

	while (!atomic_load(&f->stop)) {
		struct fz_err err = {0};
		uint64_t since_ns, bytes;
		int rc = dial(f, &err);

		if (rc == 0) {
			fz_info("connected to the primary at %s", f->primary);
			told = 0;
			note(f, true, NULL);
			since_ns = fz_mono_ns();
			bytes = f->bytes_in;
			take_logs(f, true);
			rc = talk(f, &err);
			hang_up(f);
			take_logs(f, false);
			if (fz_mono_ns() - since_ns > GOOD_MS * MS_NS || f->bytes_in - bytes > LTX_WIRE_CHUNK)
				backoff_ms = BACKOFF_MS;
			pthread_mutex_lock(&f->set.env.mu);
			f->reconnects++;
			pthread_mutex_unlock(&f->set.env.mu);
		}
		if (atomic_load(&f->stop))
			break;
		note(f, false, &err);
		if (rc != told && (rc != -FZ_EDENIED || denied)) /* once may be a primary that stops just now */
			fz_log_err("not connected to the primary, trying on", &err);
		told = rc != -FZ_EDENIED || denied ? rc : told;
		denied = rc == -FZ_EDENIED;
		pause_ms(f, backoff_ms);
		backoff_ms = backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff_ms * 2;
	}
	note(f, false, NULL);
}

/* ---- life ---- */

static void free_all(struct replica_follow *f)
{
	replica_followset_fini(&f->set);
	free(f->ids);
	fz_buf_fini(&f->in.sealed);
	fz_buf_fini(&f->in.plain);
	fz_buf_fini(&f->out.sealed);
	fz_buf_fini(&f->out.plain);
	fz_close(&f->cancel_fd);
	fz_close(&f->wake_fd);
	free(f->primary);
	sodium_memzero(f, sizeof(*f));
	free(f);
}

int replica_follow_start(struct replica_follow **out, const struct replica_follow_conf *conf, struct fz_err *err)
{
	struct replica_follow *f = calloc(1, sizeof(*f));
	int rc = 0;

	if (!f)
		return fz_fail_errno(err, ENOMEM, "following %s", conf->primary);
	f->fd = -1;
	f->primary = strdup(conf->primary);
	memcpy(f->primary_key, conf->primary_key, sizeof(f->primary_key));
	memcpy(f->secret, conf->secret, sizeof(f->secret));
	f->hello = conf->hello;
	f->set.logs = conf->logs;
	f->set.applier = conf->applier;
	f->set.events = conf->events;
	f->set.exclude = conf->exclude;
	f->set.n_exclude = conf->n_exclude;
	f->store = conf->store;
	f->version = conf->version ? conf->version : LTX_WIRE_VERSION;
	f->since_ms = fz_now_ms();
	replica_followset_init(&f->set);
	f->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!f->primary || f->cancel_fd < 0 || f->wake_fd < 0)
		rc = fz_fail_errno(err, errno, "following %s", conf->primary);
	if (rc == 0)
		rc = fz_worker_start(&f->worker, "follow", run, f, err);
	if (rc < 0) {
		free_all(f);
		return rc;
	}
	*out = f;
	return 0;
}

void replica_follow_stop(struct replica_follow *f)
{
	uint64_t one = 1;

	if (!f)
		return;
	atomic_store(&f->stop, true);
	if (write(f->cancel_fd, &one, sizeof(one)) < 0)
		fz_debug("an eventfd is full");
	fz_worker_stop(&f->worker);
	free_all(f);
}

void replica_follow_applied(struct replica_follow *f)
{
	uint64_t one = 1;

	if (write(f->wake_fd, &one, sizeof(one)) < 0)
		fz_debug("an eventfd is full");
}
