/* test_cmd_linkhistory.c - what becomes of databases and of their histories on a replica: made, deleted, another epoch, another
 * history than its own; both ends of the link with real sockets in between. */
#include "replica/herald.h"
#include "tests/unit/link_raw.h"

#include <dirent.h>
#include <stdatomic.h>

/* ---- lives of databases ---- */

struct recorder {
	struct replica_follow_events ev;
	pthread_mutex_t mu;
	char text[4096];
	uint32_t epoch; /* the peer's */
};

static void note_database(struct replica_follow_events *ev, const char *name, const char *lineage, bool ended)
{
	struct recorder *r = (struct recorder *)ev;
	size_t n;

	pthread_mutex_lock(&r->mu);
	n = strlen(r->text);
	snprintf(r->text + n, sizeof(r->text) - n, "%s%s:%.4s ", ended ? "-" : "+", name, lineage);
	pthread_mutex_unlock(&r->mu);
}

static void note_peer(struct replica_follow_events *ev, const struct ltx_wire_hello *h)
{
	struct recorder *r = (struct recorder *)ev;

	pthread_mutex_lock(&r->mu);
	r->epoch = h->epoch;
	pthread_mutex_unlock(&r->mu);
}

static bool noted(struct recorder *r, const char *text)
{
	bool is;

	pthread_mutex_lock(&r->mu);
	is = strcmp(r->text, text) == 0;
	if (strlen(r->text) > strlen(text))
		fail_msg("events were %s, not %s", r->text, text);
	pthread_mutex_unlock(&r->mu);
	return is;
}

static void test_deleted_and_made_anew(void **state)
{
	struct link *l = *state;
	struct recorder rec = {
	        .ev = {.database = note_database, .peer = note_peer},
                  .mu = PTHREAD_MUTEX_INITIALIZER
        };
	struct source *s[4];
	char want[200];

	l->fconf.events = &rec.ev;
	serve(l);
	follow(l);
	for (int i = 0; i < 4; i++) {
		if (i == 2) /* this one comes while the replica is away */
			follow_not(l);
		s[i] = source_make(&l->p, "app.db", 512, 64);
		for (int k = 0; k < 20; k++)
			source_commit(s[i], 0);
		if (i < 2)
			UNTIL(host_tail(&l->r, s[i]->lineage) == 20);
		if (i < 3)
			OK(ltx_log_set_ended(s[i]->log, fz_now_ms(), e));
		if (i < 2)
			UNTIL(host_ended(&l->r, s[i]->lineage));
	}
	follow(l);
	UNTIL(host_tail(&l->r, s[3]->lineage) == 20);
	snprintf(want, sizeof(want), "+app.db:%.4s -app.db:%.4s +app.db:%.4s -app.db:%.4s +app.db:%.4s ", s[0]->lineage,
	         s[0]->lineage, s[1]->lineage, s[1]->lineage, s[3]->lineage);
	assert_true(noted(&rec, want));
	assert_false(host_ended(&l->r, s[3]->lineage));
	assert_null(host_log(&l->r, s[2]->lineage)); /* it came and went */
	/* deleted and made anew in the replica's absence */
	follow_not(l);
	OK(ltx_log_set_ended(s[3]->log, fz_now_ms(), e));
	source_free(s[2]);
	s[2] = source_make(&l->p, "app.db", 512, 64);
	source_commit(s[2], 0);
	follow(l);
	UNTIL(host_tail(&l->r, s[2]->lineage) == 1);
	assert_true(host_ended(&l->r, s[3]->lineage));
	for (int i = 0; i < 4; i++) {
		judge(&l->r, s[i]);
		source_free(s[i]);
	}
	follow_not(l);
}

static bool goes(struct host *h, const char *lineage)
{
	struct ltx_log *log = host_log(h, lineage);
	int rc = ltx_logset_remove(h->set, log, NULL);

	ltx_log_put(log);
	return rc == 0;
}

/* The log of what has ended is not kept open for as long as the connection lasts. */
static void test_ended_while_connected(void **state)
{
	struct link *l = *state;
	struct source *s, *other = source_make(&l->p, "other.db", 512, 64);
	struct ltx_log *log;

	serve(l);
	follow(l);
	for (int i = 0; i < 3; i++) {
		s = source_make(&l->p, "app.db", 512, 64);
		for (int k = 0; k < 10; k++)
			source_commit(s, 0);
		if (i != 1)
			UNTIL(host_tail(&l->r, s->lineage) == 10);
		OK(ltx_log_set_ended(s->log, fz_now_ms(), e));
		UNTIL(host_ended(&l->r, s->lineage) && host_tail(&l->r, s->lineage) == 10);
		judge(&l->r, s);
		source_commit(other, 0);
		UNTIL(goes(&l->r, s->lineage));
		source_free(s);
	}
	UNTIL(host_tail(&l->r, other->lineage) == 3);
	judge(&l->r, other);
	s = source_make(&l->p, "app.db", 512, 64); /* it has ended here, but not all of it had come */
	source_commit(s, 0);
	UNTIL(host_tail(&l->r, s->lineage) == 1);
	follow_not(l);
	log = host_log(&l->r, s->lineage);
	OK(ltx_log_set_ended(log, fz_now_ms(), e));
	ltx_log_put(log);
	source_commit(s, 0);
	OK(ltx_log_set_ended(s->log, fz_now_ms(), e));
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 2);
	judge(&l->r, s);
	UNTIL(goes(&l->r, s->lineage));
	source_free(s);
	source_free(other);
}

static uint32_t host_epoch(struct host *h, const char *lineage)
{
	struct ltx_log *log = host_log(h, lineage);
	struct ltx_log_info info = {.epoch = 0};

	if (log)
		ltx_log_info(log, &info);
	ltx_log_put(log);
	return info.epoch;
}

static uint8_t superseded_by[LTX_NOISE_KEY];
static atomic_bool superseded;

static void note_superseded(struct primary_server_events *ev, const uint8_t key[static LTX_NOISE_KEY],
                            const struct ltx_wire_hello *h)
{
	assert_int_equal(h->epoch, 9);
	memcpy(superseded_by, key, LTX_NOISE_KEY);
	atomic_store(&superseded, true);
}

static void test_epochs_and_roles(void **state)
{
	struct link *l = *state;
	struct recorder rec = {
	        .ev = {.database = note_database, .peer = note_peer},
                  .mu = PTHREAD_MUTEX_INITIALIZER
        };
	struct primary_server_events sev = {.superseded = note_superseded};
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	struct ltx_wire_hello h = l->sconf.hello;
	struct ltx_log_info info;
	struct ltx_log *log;

	l->fconf.events = &rec.ev;
	l->sconf.events = &sev;
	for (int i = 0; i < 10; i++)
		source_commit(s, 0);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 10);
	OK(ltx_log_set_epoch(s->log, 3, e)); /* while nothing is written */
	UNTIL(host_epoch(&l->r, s->lineage) == 3);
	follow_not(l);
	OK(ltx_log_set_epoch(s->log, 4, e)); /* while it is away, and then written */
	source_commit(s, 0);
	follow(l);
	UNTIL(host_epoch(&l->r, s->lineage) == 4 && host_tail(&l->r, s->lineage) == 11);
	log = host_log(&l->r, s->lineage);
	ltx_log_info(log, &info);
	assert_int_equal(info.epoch_txid, 10);
	assert_int_equal(info.epoch_checksum, s->txns[10].post);
	ltx_log_put(log);
	judge(&l->r, s);

	h.epoch = 5;
	primary_server_announce(l->server, &h);
	UNTIL((pthread_mutex_lock(&rec.mu), h.epoch = rec.epoch, pthread_mutex_unlock(&rec.mu), h.epoch == 5));
	follow_not(l);
	l->fconf.hello.epoch = 9;
	follow(l);
	UNTIL(atomic_load(&superseded));
	follow_not(l);
	serve_not(l);
	assert_memory_equal(superseded_by, l->r.key.public_key, LTX_NOISE_KEY);
	source_free(s);
}

/* A deletion that the next primary never heard of is undone; one of the same epoch is not. */
static void test_deleted_in_another_history(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64), *other;

	for (int i = 0; i < 5; i++)
		source_commit(s, 0);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 5);
	OK(ltx_log_set_ended(s->log, fz_now_ms(), e));
	UNTIL(host_ended(&l->r, s->lineage));
	follow_not(l);
	OK(ltx_log_set_ended(s->log, 0, e));
	source_commit(s, 0);
	other = source_make(&l->p, "other.db", 512, 64);
	source_commit(other, 0);
	follow(l);
	UNTIL(host_tail(&l->r, other->lineage) == 1);
	assert_true(host_ended(&l->r, s->lineage));
	follow_not(l);
	OK(ltx_log_set_epoch(s->log, 1, e));
	source_commit(s, 0);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 7);
	assert_false(host_ended(&l->r, s->lineage));
	OK(ltx_log_set_ended(s->log, fz_now_ms(),
	                     e)); /* and while the replica is connected: of the same epoch, then of another */
	UNTIL(host_ended(&l->r, s->lineage));
	OK(ltx_log_set_ended(s->log, 0, e));
	source_commit(other, 0);
	UNTIL(host_tail(&l->r, other->lineage) == 2);
	assert_true(host_ended(&l->r, s->lineage));
	OK(ltx_log_set_ended(s->log, fz_now_ms(), e));
	source_commit(other, 0);
	UNTIL(host_tail(&l->r, other->lineage) == 3);
	OK(ltx_log_set_ended(s->log, 0, e));
	OK(ltx_log_set_epoch(s->log, 2, e));
	source_commit(s, 0);
	UNTIL(host_tail(&l->r, s->lineage) == 8 && !host_ended(&l->r, s->lineage));
	follow_not(l);
	judge(&l->r, s);
	source_free(other);
	source_free(s);
}

struct herald {
	struct replica_herald_events ev;
	atomic_uint heard;
	uint8_t key[LTX_NOISE_KEY];
};

static void note_heard(struct replica_herald_events *ev, const uint8_t key[static LTX_NOISE_KEY])
{
	struct herald *h = (struct herald *)ev;

	memcpy(h->key, key, LTX_NOISE_KEY);
	atomic_fetch_add(&h->heard, 1);
}

/* It calls until it is heard: nobody listens, then somebody who does not follow yet, then one that does. */
static void test_herald(void **state)
{
	struct link *l = *state;
	struct primary_server_events sev = {.superseded = note_superseded};
	struct herald her = {.ev = {note_heard}};
	struct replica_herald_conf conf = {
	        .events = &her.ev, .hello = {.role = LTX_WIRE_PRIMARY, .epoch = 9}
        };
	struct ltx_wire_hello h = l->sconf.hello;
	struct replica_herald *herald = NULL;

	atomic_store(&superseded, false);
	l->sconf.events = &sev;
	serve(l); /* for the address */
	serve_not(l);
	conf.to = l->address;
	memcpy(conf.key, l->p.key.public_key, LTX_NOISE_KEY);
	memcpy(conf.secret, l->r.id.secret, LTX_NOISE_KEY);
	OK(replica_herald_start(&herald, &conf, e));
	usleep(50000);
	serve(l);
	UNTIL(atomic_load(&superseded));
	assert_memory_equal(superseded_by, l->r.key.public_key, LTX_NOISE_KEY);
	assert_int_equal(atomic_load(&her.heard), 0);
	h.epoch = 9;
	primary_server_announce(l->server, &h);
	UNTIL(atomic_load(&her.heard) == 1);
	assert_memory_equal(her.key, l->p.key.public_key, LTX_NOISE_KEY);
	replica_herald_stop(herald);
}

static void test_only_what_it_may_follow(void **state)
{
	struct link *l = *state;
	static const char *const globs[] = {"shop/*.db", "a.db"};
	struct primary_server_events sev = {.superseded = note_superseded};
	char key[LTX_AGE_RECIPIENT_SIZE];
	struct fz_err err;
	struct source *s[3] = {source_make(&l->p, "a.db", 512, 16), source_make(&l->p, "secret.db", 512, 16),
	                       source_make(&l->p, "shop/x.db", 512, 16)};

	atomic_store(&superseded, false);
	l->sconf.events = &sev;
	l->follower.databases = globs;
	l->follower.n_databases = 2;
	for (int i = 0; i < 3; i++)
		source_commit(s[i], 0);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s[0]->lineage) == 1 && host_tail(&l->r, s[2]->lineage) == 1);
	source_commit(s[0], 0);
	UNTIL(host_tail(&l->r, s[0]->lineage) == 2);
	assert_null(host_log(&l->r, s[1]->lineage));
	ltx_age_recipient_format(key, &l->r.key);
	assert_int_equal(primary_server_handoff(l->server, key, true, 1000, &err), -FZ_ECONFIG);
	follow_not(l);
	l->fconf.hello.epoch = 9; /* it was promoted, say: that is its own affair */
	follow(l);
	source_commit(s[0], 0);
	UNTIL(host_tail(&l->r, s[0]->lineage) == 3);
	follow_not(l);
	serve_not(l);
	assert_false(atomic_load(&superseded));
	for (int i = 0; i < 3; i++)
		source_free(s[i]);
}

/* ---- trouble of one database ---- */

static bool replica_db_diverged(struct link *l, const char *lineage)
{
	cJSON *o = follow_status(l), *db;
	bool is = false;

	cJSON_ArrayForEach (db, cJSON_GetObjectItem(o, "databases")) {
		if (!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(db, "lineage")), lineage))
			is = cJSON_IsTrue(cJSON_GetObjectItem(db, "diverged")) &&
			     cJSON_GetStringValue(cJSON_GetObjectItem(db, "last_error"));
	}
	cJSON_Delete(o);
	return is;
}

/* What was cut off is a log of its own. */
static void judge_branch(struct host *h, struct source *s, const char *id, uint64_t txns)
{
	struct host b = {.fd = -1};
	char path[64];

	snprintf(path, sizeof(path), "branches/%s.%s", s->lineage, id);
	b.fd = openat(h->fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(b.fd >= 0);
	host_open(&b);
	assert_int_equal(judge(&b, s), txns);
	ltx_logset_close(b.set);
	close(b.fd);
}

/* A database of so many transactions that the replica follows, and has. */
static struct source *followed(struct link *l, uint64_t txns)
{
	struct source *s = source_make(&l->p, "app.db", 512, 64);

	serve(l);
	follow(l);
	while (s->last < txns)
		source_commit(s, 0);
	UNTIL(host_tail(&l->r, s->lineage) == txns);
	return s;
}

/* The same database on another host, up to TXID `same`: the same seed, so the same transactions. */
static struct source *same_history(struct host *h, struct source *s, uint64_t same)
{
	struct source *t;
	struct ltx_log *log;

	OK(ltx_logset_adopt(h->set, s->name, s->lineage, 0, &log, e));
	ltx_log_put(log);
	t = source_make(h, s->name, s->db.page_size, s->db.cap);
	while (t->last < same)
		source_commit(t, 0);
	assert_int_equal(t->txns[same].post, s->txns[same].post);
	return t;
}

/* The other host's history of the same database: like s up to TXID `same`, and its own from there. */
static struct source *other_history(struct host *h, struct source *s, uint64_t same)
{
	struct source *t = same_history(h, s, same);

	t->db.rnd = 99;
	return t;
}

/* Those of the common part came from the first host, at another time. */
static void judge_joined(struct host *h, struct source *s, struct source *t, uint64_t same)
{
	for (uint64_t k = 1; k <= same; k++) {
		struct txn mine = t->txns[k];

		t->txns[k] = s->txns[k];
		s->txns[k] = mine;
	}
	judge(h, t);
	for (uint64_t k = 1; k <= same; k++) {
		struct txn mine = t->txns[k];

		t->txns[k] = s->txns[k];
		s->txns[k] = mine;
	}
}

/* Another host has become the primary of this lineage, and its history is another one. */
static void test_diverged(void **state)
{
	static const struct {
		const char *name;
		uint64_t same, until; /* the other host's: transactions that are the same, and its last one */
		uint64_t fold;        /* of the other host's log */
		uint32_t epoch, my_epoch;
		enum { FOLLOWS, BRANCHES, STAYS } what;
	} cases[] = {
	        {"other transactions",               14, 30, 0,  2, 0, BRANCHES},
	        {"behind, same history",             14, 14, 0,  2, 0, BRANCHES},
	        {"older epoch there, same history",  20, 25, 0,  1, 3, STAYS   },
	        {"other transactions, folded above", 14, 30, 28, 2, 0, BRANCHES},
	        {"continues it",                     20, 30, 0,  2, 0, FOLLOWS },
	        {"continues it, folded above",       20, 30, 28, 2, 0, FOLLOWS },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct link *l = i ? link_new() : *state, *m = link_new();
		struct source *s = followed(l, 20), *t, *o = source_make(&m->p, "other.db", 512, 16);
		struct ltx_log_info info;
		struct ltx_log *log;

		print_message("           %s\n", cases[i].name);
		follow_not(l);
		serve_not(l);
		if (cases[i].my_epoch) {
			log = host_log(&l->r, s->lineage);
			OK(ltx_log_set_epoch(log, cases[i].my_epoch, e));
			ltx_log_put(log);
		}
		t = other_history(&m->p, s, cases[i].same);
		OK(ltx_log_set_epoch(t->log, cases[i].epoch, e));
		while (t->last < cases[i].until)
			source_commit(t, 0);
		if (cases[i].fold) {
			OK(ltx_log_sync(t->log, e));
			OK(ltx_log_fold(t->log, cases[i].fold, NULL, e));
		}
		source_commit(o, 0);
		memcpy(m->follower.key, l->r.key.public_key, 32);
		serve(m);
		memcpy(l->address, m->address, sizeof(l->address));
		l->p.key = m->p.key;
		follow(l);
		UNTIL(host_tail(&l->r, o->lineage) == 1); /* not held up */
		if (cases[i].what == STAYS) {
			UNTIL(replica_db_diverged(l, s->lineage));
			source_commit(t, 0);
			source_commit(o, 0);
			UNTIL(host_tail(&l->r, o->lineage) == 2);
			assert_int_equal(host_tail(&l->r, s->lineage), 20);
			assert_int_equal(judge(&l->r, s), 20); /* untouched */
		} else {
			UNTIL(host_tail(&l->r, s->lineage) == cases[i].until);
			if (cases[i].what == BRANCHES)
				judge_branch(&l->r, s, "epoch0-20", 20);
			judge_joined(&l->r, s, t, cases[i].same);
			log = host_log(&l->r, s->lineage);
			ltx_log_info(log, &info);
			assert_int_equal(info.epoch, cases[i].epoch);
			ltx_log_put(log);
		}
		follow_not(l);
		serve_not(m);
		source_free(s);
		source_free(t);
		source_free(o);
		link_free(m);
		if (i)
			link_free(l);
	}
}

static void turn_to(struct link *l, struct link *m)
{
	follow_not(l);
	serve_not(l);
	memcpy(m->follower.key, l->r.key.public_key, 32);
	serve(m);
	memcpy(l->address, m->address, sizeof(l->address));
	l->p.key = m->p.key;
	follow(l);
}

/* Several others have taken over since: the epoch that counts begins behind all that this host has, or at another
 * transaction than it has there. It goes back until the histories agree. */
static void test_several_epochs(void **state)
{
	static const struct {
		const char *name;
		uint64_t same, second, third, last, fold;
	} cases[] = {
	        {"the last one begins behind ours", 14, 30, 50, 60, 0 },
	        {"the last one begins within ours", 14, 20, 35, 60, 0 },
	        {"nothing in common",               0,  20, 50, 60, 0 },
	        {"all but one",                     39, 45, 50, 60, 0 },
	        {"where they agree is folded",      14, 30, 50, 60, 55},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct link *l = i ? link_new() : *state, *m = link_new();
		struct source *s = followed(l, 40), *t;

		print_message("           %s\n", cases[i].name);
		t = other_history(&m->p, s, cases[i].same);
		OK(ltx_log_set_epoch(t->log, 1, e));
		for (uint64_t k = cases[i].same + 1; k <= cases[i].last; k++) {
			source_commit(t, 0);
			if (k == cases[i].second)
				OK(ltx_log_set_epoch(t->log, 2, e));
			if (k == cases[i].third)
				OK(ltx_log_set_epoch(t->log, 3, e));
		}
		if (cases[i].fold) {
			OK(ltx_log_sync(t->log, e));
			OK(ltx_log_fold(t->log, cases[i].fold, NULL, e));
		}
		turn_to(l, m);
		UNTIL(host_tail(&l->r, s->lineage) == cases[i].last && host_epoch(&l->r, s->lineage) == 3);
		judge_branch(&l->r, s, "epoch0-40", 40);
		judge_joined(&l->r, s, t, cases[i].same);
		follow_not(l);
		serve_not(m);
		source_free(s);
		source_free(t);
		link_free(m);
		if (i)
			link_free(l);
	}
}

/* It is asked while it has cut its log and does not know of the new epoch yet, as a host that hands on may be: the replica
 * asks again when it does. */
static void test_asked_too_early(void **state)
{
	struct link *l = *state, *m = link_new();
	struct source *s = followed(l, 20), *t;

	t = other_history(&m->p, s, 14);
	turn_to(l, m);
	UNTIL(replica_db_diverged(l, s->lineage));
	assert_int_equal(host_tail(&l->r, s->lineage), 20);
	OK(ltx_log_set_epoch(t->log, 2, e));
	UNTIL(host_tail(&l->r, s->lineage) == 14 && host_epoch(&l->r, s->lineage) == 2);
	source_commit(t, 0);
	UNTIL(host_tail(&l->r, s->lineage) == 15);
	judge_branch(&l->r, s, "epoch0-20", 20);
	judge_joined(&l->r, s, t, 14);
	follow_not(l);
	serve_not(m);
	source_free(s);
	source_free(t);
	link_free(m);
}

static void hear_want(struct raw *r, size_t *used, uint64_t txid)
{
	struct ltx_wire_msg m;

	do
		raw_hear(r, &m, used);
	while (m.type != LTX_WIRE_WANT);
	assert_int_equal(m.want.txid, txid);
}

/* It has asked twice, and the answer to the first made it go back: what then comes as the second is about where it stands no more. */
static void test_answers_cross(void **state)
{
	struct link *l = *state;
	struct source *s = followed(l, 20);
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->sconf.hello}, db = {.type = LTX_WIRE_DB},
	                    no = {.type = LTX_WIRE_DIVERGED}, file = {.type = LTX_WIRE_FILE},
	                    data = {.type = LTX_WIRE_DATA};
	size_t used = 0;
	struct raw r;
	int fd;

	follow_not(l);
	serve_not(l);
	OK(fd = fz_net_listen("127.0.0.1:0", e));
	OK(fz_net_local(fd, l->address, e));
	follow(l);
	raw_answer(&r, fd, l);
	raw_say(&r, &hello);
	db.db = (struct ltx_wire_db){.id = 1,
	                             .epoch = 1,
	                             .epoch_txid = 14,
	                             .epoch_checksum = s->txns[14].post,
	                             .tail_txid = 14,
	                             .tail_checksum = s->txns[14].post};
	memcpy(db.db.name, s->name, sizeof(s->name));
	memcpy(db.db.lineage, s->lineage, sizeof(s->lineage));
	raw_say(&r, &db);
	hear_want(&r, &used, 20);
	no.mark = (struct ltx_wire_mark){.id = 1, .txid = 20, .value = s->txns[20].post};
	raw_say(&r, &no);
	raw_say(&r, &no);
	hear_want(&r, &used, 14);
	hear_want(&r, &used, 14);
	assert_false(replica_db_diverged(l, s->lineage));
	file.file = (struct ltx_wire_file){.id = 1, .min_txid = 15, .max_txid = 15, .size_bytes = s->txns[15].size};
	data.data = (struct ltx_wire_data){.id = 1, .bytes = s->txns[15].bytes, .n = (uint32_t)s->txns[15].size};
	raw_say(&r, &file);
	raw_say(&r, &data);
	UNTIL(host_tail(&l->r, s->lineage) == 15);
	assert_int_equal(host_epoch(&l->r, s->lineage), 1);
	judge_branch(&l->r, s, "epoch0-20", 20);
	follow_not(l);
	raw_close(&r);
	close(fd);
	source_free(s);
}

static int count_branches(struct host *h)
{
	int fd = openat(h->fd, "branches", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	for (const struct dirent *f; d && (f = readdir(d));)
		n += f->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

/* Of the same epoch, and further than whom it follows now, who follows too: when that one has come as far it goes on by itself. */
static void test_ahead_of_whom_it_follows(void **state)
{
	for (uint32_t epoch = 0; epoch < 3; epoch += 2) { /* which that one may enter after it was asked */
		struct link *l = epoch ? link_new() : *state, *m = link_new();
		struct source *s = followed(l, 20), *t;
		struct ltx_log *log;

		follow_not(l);
		if (epoch) {
			log = host_log(&l->r, s->lineage);
			OK(ltx_log_set_epoch(log, epoch, e));
			ltx_log_put(log);
		}
		t = same_history(&m->p, s, 14);
		turn_to(l, m);
		UNTIL(replica_db_diverged(l, s->lineage));
		if (epoch)
			OK(ltx_log_set_epoch(t->log, epoch, e));
		source_commit(t, 0);
		usleep(20000); /* it may be told of that by itself */
		while (t->last < 20)
			source_commit(t, 0);
		UNTIL(!replica_db_diverged(l, s->lineage));
		source_commit(t, 0);
		UNTIL(host_tail(&l->r, s->lineage) == 21);
		assert_int_equal(count_branches(&l->r), 0);
		follow_not(l);
		serve_not(m);
		source_free(s);
		source_free(t);
		link_free(m);
		if (epoch)
			link_free(l);
	}
}

/* What the replica has ends on the host that it follows now, which may never have had all of it: then it is kept. */
static void test_deleted_where_it_was_not_known(void **state)
{
	static const struct {
		const char *name;
		bool known;                   /* that host has the lineage, up to 14 of 20, and it has ended there, */
		uint32_t my_epoch, old_epoch; /* of what is here, and of that one when it ended */
		uint32_t epoch;               /* of what lives there under that name */
		bool ended, base; /* it has ended here too, before anybody asked about it; all of it is in the base */
		bool kept;
		uint64_t tail;
	} cases[] = {
	        {"another life, of a higher epoch",               false, 0, 0, 2, false, false, true,  20},
	        {"another life, of an older epoch",               false, 3, 0, 1, false, false, true,  20},
	        {"another life, of the same epoch",               false, 0, 0, 0, false, false, false, 20},
	        {"less of the same life",                         true,  0, 0, 0, false, false, true,  20},
	        {"the same life, another epoch",                  true,  0, 2, 2, false, false, true,  14},
	        {"the same, died here before it was asked about", true,  0, 2, 2, true,  false, true,  14},
	        {"more of it, of an older epoch",                 true,  3, 1, 1, false, false, true,  20},
	        {"where they part is below the base",             true,  0, 2, 2, false, true,  true,  20},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct link *l = i ? link_new() : *state, *m = link_new();
		struct source *s = followed(l, 20), *t, *old = NULL;
		struct ltx_log *log;
		char id[32];

		print_message("           %s\n", cases[i].name);
		if (cases[i].known) {
			old = other_history(&m->p, s, 14);
			if (cases[i].old_epoch)
				OK(ltx_log_set_epoch(old->log, cases[i].old_epoch, e));
			while (cases[i].my_epoch && old->last < 30)
				source_commit(old, 0);
			OK(ltx_log_set_ended(old->log, fz_now_ms(), e));
		}
		t = source_make(&m->p, "app.db", 512, 64);
		assert_string_not_equal(t->lineage, s->lineage);
		if (cases[i].epoch)
			OK(ltx_log_set_epoch(t->log, cases[i].epoch, e));
		source_commit(t, 0);
		follow_not(l);
		log = host_log(&l->r, s->lineage);
		if (cases[i].my_epoch)
			OK(ltx_log_set_epoch(log, cases[i].my_epoch, e));
		if (cases[i].base)
			OK(ltx_log_fold(log, 20, NULL, e));
		if (cases[i].ended)
			OK(ltx_log_set_ended(log, fz_now_ms(), e));
		ltx_log_put(log);
		snprintf(id, sizeof(id), "epoch%u-20", cases[i].my_epoch);
		turn_to(l, m);
		UNTIL(host_ended(&l->r, s->lineage) && host_tail(&l->r, t->lineage) == 1);
		UNTIL(count_branches(&l->r) == cases[i].kept);
		source_commit(t, 0);
		UNTIL(host_tail(&l->r, t->lineage) == 2);
		assert_false(replica_db_diverged(l, s->lineage));
		UNTIL(host_tail(&l->r, s->lineage) == cases[i].tail);
		follow_not(l);
		follow(l); /* nothing comes twice */
		source_commit(t, 0);
		UNTIL(host_tail(&l->r, t->lineage) == 3);
		if (cases[i].kept)
			judge_branch(&l->r, s, id, cases[i].base ? 0 : 20);
		assert_int_equal(count_branches(&l->r), cases[i].kept);
		judge(&l->r, s);
		judge(&l->r, t);
		follow_not(l);
		serve_not(m);
		source_free(s);
		source_free(t);
		source_free(old);
		link_free(m);
		if (i)
			link_free(l);
	}
}

/* What a replica holds is cut off where it came from, and nothing new comes: it must not show it any more. */
static void test_cut_while_idle(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);

	serve(l);
	follow(l);
	for (int k = 0; k < 20; k++)
		source_commit(s, 0);
	OK(primary_server_wait(l->server, s->lineage, 20, 1, LIMIT_S * 1000, e));
	OK(ltx_log_truncate(s->log, 14, e));
	OK(ltx_log_set_epoch(s->log, 2, e));
	UNTIL(host_tail(&l->r, s->lineage) == 14 && host_epoch(&l->r, s->lineage) == 2);
	judge_branch(&l->r, s, "epoch0-20", 20);
	judge(&l->r, s);
	source_free(s);
}

static bool cannot_be_sent(struct link *l)
{
	cJSON *a = server_status(l), *db;
	bool is = false;

	cJSON_ArrayForEach (db, cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "databases")) {
		const char *code = cJSON_GetStringValue(cJSON_GetObjectItem(db, "last_error"));

		is = is || (code && !strstr(code, "histor"));
	}
	cJSON_Delete(a);
	return is;
}

/* The log is cut where it is being read: that is no damage, and nothing waits for it. */
static void test_cut_while_sent(void **state)
{
	struct link *l = *state;

	serve(l);
	follow(l);
	for (int i = 0; i < 30; i++) {
		char name[16];
		struct source *s;

		snprintf(name, sizeof(name), "%d.db", i);
		s = source_make(&l->p, name, 512, 64);
		for (int k = 0; k < 400; k++)
			source_commit(s, 60);
		UNTIL(host_tail(&l->r, s->lineage) > 10);
		OK(ltx_log_truncate(s->log, 10, e));
		OK(ltx_log_set_epoch(s->log, 1, e));
		UNTIL(cannot_be_sent(l) || (host_tail(&l->r, s->lineage) == 10 && host_epoch(&l->r, s->lineage) == 1));
		assert_false(cannot_be_sent(l));
		judge(&l->r, s);
		source_free(s);
	}
}

/* A byte of the primary's log is wrong: that database waits, is tried again, and no other one notices. */
static void test_damaged_log(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "bad.db", 512, 16), *t = source_make(&l->p, "good.db", 512, 16);
	uint8_t byte;
	int fd;

	for (int i = 0; i < 10; i++)
		source_commit(s, 0);
	fd = openat(ltx_log_dirfd(s->log), "0000000000000001.seg", O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)(s->txns[1].size + 150)), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(s->txns[1].size + 150)), 1);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 1);
	for (int i = 0; i < 30; i++) {
		source_commit(t, 0);
		UNTIL(host_tail(&l->r, t->lineage) == t->last);
	}
	assert_int_equal(host_tail(&l->r, s->lineage), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)(s->txns[1].size + 150)), 1);
	UNTIL(host_tail(&l->r, s->lineage) == 10);
	judge(&l->r, s);
	close(fd);
	source_free(s);
	source_free(t);
}
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_deleted_and_made_anew, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_ended_while_connected, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_epochs_and_roles, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_deleted_in_another_history, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_herald, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_only_what_it_may_follow, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_diverged, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_several_epochs, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_asked_too_early, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_answers_cross, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_ahead_of_whom_it_follows, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_deleted_where_it_was_not_known, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_cut_while_idle, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_cut_while_sent, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_damaged_log, link_setup, link_teardown),
	};

	if (argc > 1) /* a pattern: these only */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
