/* test_cmd_link.c - both ends of the link, real sockets in between: what a primary's logs hold arrives on the replica byte
 * for byte and in order, whatever stops, starts, folds, cuts or lies on the way. */
#include "tests/unit/link_bench.h"
#include "tests/unit/link_proxy.h"

#include <sodium.h>
#include <sys/resource.h>

static int setup(void **state)
{
	*state = link_new();
	return 0;
}

static int teardown(void **state)
{
	struct link *l = *state;

	follow_not(l);
	serve_not(l);
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		source_free(sources[i]);
	link_free(l);
	return 0;
}

static void test_every_commit_arrives(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	struct ltx_log_info info;
	struct ltx_log *log;

	for (int i = 0; i < 50; i++)
		source_commit(s, 0);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 50);
	for (int i = 0; i < 500; i++) {
		source_commit(s, 0);
		if (i % 50 == 0)
			UNTIL(host_tail(&l->r, s->lineage) == s->last);
	}
	OK(primary_server_wait(l->server, s->lineage, s->last, 1, LIMIT_S * 1000, e));
	log = host_log(&l->r, s->lineage);
	ltx_log_info(log, &info);
	ltx_log_put(log);
	assert_int_equal(info.synced_txid, s->last); /* durable is what survives a power cut */
	assert_int_equal(judge(&l->r, s), 550);
	source_free(s);
}

/* ---- the applier's place ---- */

struct replica_applier {
	pthread_mutex_t mu;
	bool held; /* says of nothing that it is applied */
	struct {
		char name[64], lineage[17];
		uint64_t posted;
	} v[LINK_DBS];
	size_t n;
};

int replica_applier_post(struct replica_applier *a, const char *name, const char *lineage, uint64_t txid,
                         struct fz_err *err)
{
	size_t i;

	pthread_mutex_lock(&a->mu);
	for (i = 0; i < a->n && strcmp(a->v[i].lineage, lineage); i++)
		;
	if (i == a->n)
		a->n++;
	assert_true(a->n <= LINK_DBS);
	snprintf(a->v[i].name, sizeof(a->v[i].name), "%s", name);
	memcpy(a->v[i].lineage, lineage, 17);
	assert_true(txid >= a->v[i].posted);
	a->v[i].posted = txid;
	pthread_mutex_unlock(&a->mu);
	return 0;
}

int replica_applier_hold(struct replica_applier *a, const char *name, const char *lineage, int wait_ms,
                         struct fz_err *err)
{
	pthread_mutex_lock(&a->mu);
	for (size_t i = 0; i < a->n; i++)
		if (!strcmp(a->v[i].lineage, lineage))
			a->v[i].posted = 0; /* may go back */
	pthread_mutex_unlock(&a->mu);
	return 0;
}

bool replica_applier_get(struct replica_applier *a, const char *lineage, struct replica_applied *out)
{
	bool found = false;

	pthread_mutex_lock(&a->mu);
	for (size_t i = 0; i < a->n && !a->held; i++)
		if (!strcmp(a->v[i].lineage, lineage)) {
			memset(out, 0, sizeof(*out));
			out->state.txid = a->v[i].posted;
			found = true;
		}
	pthread_mutex_unlock(&a->mu);
	return found;
}

static uint64_t posted(struct replica_applier *a, const char *lineage)
{
	uint64_t txid = 0;

	pthread_mutex_lock(&a->mu);
	for (size_t i = 0; i < a->n; i++)
		if (!strcmp(a->v[i].lineage, lineage))
			txid = a->v[i].posted;
	pthread_mutex_unlock(&a->mu);
	return txid;
}

static double number_of(cJSON *o, const char *field)
{
	return cJSON_GetNumberValue(cJSON_GetObjectItem(o, field));
}

/* What the primary's status says of the first follower's database. */
static double server_db(struct link *l, const char *lineage, const char *field)
{
	cJSON *a = server_status(l), *db;
	double v = -1;

	cJSON_ArrayForEach (db, cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "databases")) {
		if (!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(db, "lineage")), lineage))
			v = number_of(db, field);
	}
	cJSON_Delete(a);
	return v;
}

static void test_applied_is_told(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "dir/app.db", 512, 64);
	struct replica_applier a = {.mu = PTHREAD_MUTEX_INITIALIZER, .held = true};
	cJSON *o, *db;

	l->fconf.applier = &a;
	serve(l);
	follow(l);
	for (int i = 0; i < 20; i++)
		source_commit(s, 0);
	OK(primary_server_wait(l->server, s->lineage, 20, 1, LIMIT_S * 1000, e));
	UNTIL(posted(&a, s->lineage) == 20);
	assert_int_equal(server_db(l, s->lineage, "durable_txid"), 20);
	assert_int_equal(server_db(l, s->lineage, "applied_txid"), 0);
	assert_true(server_db(l, s->lineage, "lag_txns") == 20);
	assert_true(server_db(l, s->lineage, "lag_bytes") > 1000);
	pthread_mutex_lock(&a.mu);
	a.held = false;
	pthread_mutex_unlock(&a.mu);
	replica_follow_applied(l->follow);
	UNTIL(server_db(l, s->lineage, "applied_txid") == 20);
	assert_true(server_db(l, s->lineage, "lag_ms") == 0);
	o = follow_status(l);
	db = cJSON_GetArrayItem(cJSON_GetObjectItem(o, "databases"), 0);
	assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(db, "name")), "dir/app.db");
	assert_int_equal(number_of(db, "received_txid"), 20);
	assert_int_equal(number_of(db, "durable_txid"), 20);
	assert_int_equal(number_of(db, "applied_txid"), 20);
	assert_int_equal(number_of(db, "primary_txid"), 20);
	assert_int_equal(number_of(db, "lag_txns"), 0);
	assert_true(number_of(o, "bytes_in") > 1000);
	cJSON_Delete(o);
	follow_not(l); /* what was durable before is posted at the next start as well */
	memset(&a.v, 0, sizeof(a.v));
	a.n = 0;
	follow(l);
	UNTIL(posted(&a, s->lineage) == 20);
	source_free(s);
}

/* ---- bases, folds, squashes ---- */

static void test_base_first(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 4000);
	struct ltx_log *log;
	struct ltx_log_info info;

	source_commit(s, 3000); /* some MB */
	for (int i = 0; i < 10; i++)
		source_commit(s, 0);
	OK(ltx_log_fold(s->log, 8, NULL, e));
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 11);
	source_commit(s, 0);
	OK(primary_server_wait(l->server, s->lineage, 12, 1, LIMIT_S * 1000, e));
	log = host_log(&l->r, s->lineage);
	ltx_log_info(log, &info);
	assert_int_equal(info.base_txid, 8);
	ltx_log_put(log);
	assert_int_equal(judge(&l->r, s), 4);
	source_free(s);
}

/* A transaction that does not fit into memory goes through a part; small ones follow it. */
static void test_large_transaction(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 65536, 400), *other = source_make(&l->p, "other.db", 512, 16);

	serve(l);
	follow(l);
	source_commit(s, 2);
	UNTIL(host_tail(&l->r, s->lineage) == 1);
	for (int i = 0; i < 3; i++) {
		make_resize(&s->db, 2);
		source_commit(s, 390);
		source_commit(other, 0);
		source_commit(s, 0);
	}
	UNTIL(host_tail(&l->r, s->lineage) == s->last && host_tail(&l->r, other->lineage) == other->last);
	assert_int_equal(judge(&l->r, s), 7);
	assert_int_equal(judge(&l->r, other), 3);
	source_free(s);
	source_free(other);
}

/* The primary gives up detail below, at, and above where the replica is, while it is away. */
static void test_folded_while_away(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);

	serve(l);
	for (uint64_t fold = 20; fold <= 140; fold += 60) {
		for (int i = 0; i < 50; i++)
			source_commit(s, 0);
		OK(ltx_log_sync(s->log, e));
		OK(ltx_log_fold(s->log, fold < s->last ? fold : s->last, NULL, e));
		follow(l);
		OK(primary_server_wait(l->server, s->lineage, s->last, 1, LIMIT_S * 1000, e));
		judge(&l->r, s);
		follow_not(l);
	}
	source_free(s);
}

/* The replica stands inside what was squashed into one range: it gets the rest of that range. */
static void test_squashed_while_away(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 100);
	struct ltx_log_info info;
	uint64_t before;

	serve(l);
	follow(l);
	for (int i = 0; i < 120; i++)
		source_commit(s, i % 30 == 29 ? 10 + (uint32_t)i % 50 : 0);
	OK(primary_server_wait(l->server, s->lineage, 120, 1, LIMIT_S * 1000, e));
	follow_not(l);
	for (int i = 0; i < 300; i++)
		source_commit(s, i % 30 == 29 ? 10 + (uint32_t)i % 50 : 0);
	ltx_log_info(s->log, &info);
	before = info.entries;
	OK(ltx_log_squash(s->log, 1, s->last, e));
	ltx_log_info(s->log, &info);
	assert_true(info.entries < before / 2);
	follow(l);
	OK(primary_server_wait(l->server, s->lineage, s->last, 1, LIMIT_S * 1000, e));
	assert_in_range(judge(&l->r, s), 120, 400);
	source_commit(s, 0);
	OK(primary_server_wait(l->server, s->lineage, s->last, 1, LIMIT_S * 1000, e));
	source_free(s);
}

/* One file at a time, and whatever is larger than the window all the same. */
static void test_smallest_window(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 300), *t = source_make(&l->p, "other.db", 512, 16);

	l->sconf.window_bytes = 1;
	for (int i = 0; i < 30; i++) {
		source_commit(s, i % 10 == 9 ? 200 : 10);
		source_commit(t, 0);
	}
	serve(l);
	follow(l);
	OK(primary_server_wait(l->server, s->lineage, 30, 1, LIMIT_S * 1000, e));
	OK(primary_server_wait(l->server, t->lineage, 30, 1, LIMIT_S * 1000, e));
	assert_int_equal(judge(&l->r, s), 30);
	assert_int_equal(judge(&l->r, t), 30);
	source_free(s);
	source_free(t);
}

/* What a replica still reads is not folded away under it. */
static void test_floor(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 3000);
	struct proxy *p;

	source_commit(s, 3000);
	source_commit(s, 0);
	OK(ltx_log_fold(s->log, 1, NULL, e));
	serve(l);
	assert_true(primary_server_floor(l->server, s->lineage) == UINT64_MAX);
	p = proxy_start(l);
	atomic_store(&p->mode, PROXY_SLOW);
	follow(l);
	UNTIL(atomic_load(&p->bytes_down) > 1 << 20);
	assert_int_equal(primary_server_floor(l->server, s->lineage), 0);
	atomic_store(&p->mode, PROXY_PASS);
	OK(primary_server_wait(l->server, s->lineage, 2, 1, LIMIT_S * 1000, e));
	assert_int_equal(primary_server_floor(l->server, s->lineage), 2);
	assert_true(primary_server_floor(l->server, "0000000000000000") == UINT64_MAX);
	follow_not(l); /* it will be back */
	assert_int_equal(primary_server_floor(l->server, s->lineage), 2);
	proxy_stop(p);
	source_free(s);
}

/* ---- load ---- */

struct writer {
	struct source *s;
	pthread_t thread;
	atomic_bool stop;
	unsigned pause_us;
	uint64_t until;
};

static void *write_on(void *arg)
{
	struct writer *w = arg;

	while (!atomic_load(&w->stop) && w->s->db.txid < w->until) {
		source_commit(w->s, w->s->db.txid % 40 == 20 ? 4 + make_rnd(&w->s->db, w->s->db.cap - 4) : 0);
		if (w->pause_us)
			usleep(w->pause_us);
	}
	return NULL;
}

static void writer_start(struct writer *w, struct source *s, uint64_t until, unsigned pause_us)
{
	w->s = s;
	w->until = until;
	w->pause_us = pause_us;
	atomic_init(&w->stop, false);
	assert_int_equal(pthread_create(&w->thread, NULL, write_on, w), 0);
}

static void writer_join(struct writer *w)
{
	pthread_join(w->thread, NULL);
}

/* Several databases are written, folded and squashed, while either end stops and starts, and the network is cut. */
static void test_storm(void **state)
{
	struct link *l = *state;
	struct source *s[4];
	struct writer w[4];
	struct proxy *p;
	uint32_t seed = 12345;

	serve(l);
	p = proxy_start(l);
	follow(l);
	for (int i = 0; i < 4; i++) {
		char name[16];

		snprintf(name, sizeof(name), "db%d", i);
		s[i] = source_make(&l->p, name, i == 3 ? 4096 : 512, 200);
		writer_start(&w[i], s[i], 1500, 300);
	}
	for (int round = 0; round < 40; round++) {
		struct source *one;

		seed = seed * 1664525 + 1013904223;
		one = s[seed >> 30];
		switch (seed >> 8 & 7) {
		case 0:
			serve_not(l);
			serve(l);
			break;
		case 1:
			follow_not(l);
			if (seed >> 11 & 1) { /* all of the process */
				ltx_logset_close(l->r.set);
				host_open(&l->r);
			}
			follow(l);
			break;
		case 2:
			proxy_do(p, PROXY_CUT);
			break;
		case 3:
			if (host_tail(&l->p, one->lineage) > 20)
				OK(ltx_log_fold(one->log, host_tail(&l->p, one->lineage) - 10, NULL, e));
			break;
		case 4:
			OK(ltx_log_squash(one->log, 1, host_tail(&l->p, one->lineage), e));
			break;
		default:
			break;
		}
		usleep(seed >> 12 & 0x7fff);
	}
	for (int i = 0; i < 4; i++)
		writer_join(&w[i]);
	for (int i = 0; i < 4; i++) {
		UNTIL(host_tail(&l->r, s[i]->lineage) == 1500);
		judge(&l->r, s[i]);
	}
	follow_not(l);
	proxy_stop(p);
	for (int i = 0; i < 4; i++)
		source_free(s[i]);
}

/* ---- large and small, slow and fast ---- */

/* A connection that is lost in the middle of a base: what came is not sent again. */
static void test_base_is_gone_on_with(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 4000);
	struct ltx_log_info info;
	struct proxy *p;

	source_commit(s, 3500);
	source_commit(s, 0);
	OK(ltx_log_fold(s->log, 2, NULL, e));
	ltx_log_info(s->log, &info);
	assert_true(info.base_bytes > 4 << 20);
	serve(l);
	p = proxy_start(l);
	atomic_store(&p->mode, PROXY_SLOW);
	follow(l);
	UNTIL(atomic_load(&p->bytes_down) > info.base_bytes / 3);
	proxy_do(p, PROXY_CUT);
	UNTIL(atomic_load(&p->bytes_down) > info.base_bytes / 2);
	follow_not(l); /* and this host stops in between */
	atomic_store(&p->mode, PROXY_PASS);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 2);
	assert_true(atomic_load(&p->bytes_down) < info.base_bytes * 5 / 4); /* what was on its way at a cut is lost */
	judge(&l->r, s);
	follow_not(l);
	proxy_stop(p);
	source_free(s);
}

/* The base is folded anew between two connections: the part of the old one is worth nothing. */
static void test_other_base_after_a_cut(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 4000);
	struct ltx_log_info info;
	uint64_t before;
	struct proxy *p;

	source_commit(s, 2000);
	source_commit(s, 0);
	OK(ltx_log_fold(s->log, 2, NULL, e));
	serve(l);
	p = proxy_start(l);
	atomic_store(&p->mode, PROXY_SLOW);
	follow(l);
	UNTIL(atomic_load(&p->bytes_down) > 1 << 20);
	follow_not(l);
	for (int i = 0; i < 5; i++)
		source_commit(s, 0);
	OK(ltx_log_fold(s->log, 5, NULL, e));
	ltx_log_info(s->log, &info);
	atomic_store(&p->mode, PROXY_PASS);
	before = atomic_load(&p->bytes_down);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 7);
	assert_in_range(atomic_load(&p->bytes_down) - before, info.base_bytes, info.base_bytes * 5 / 4);
	judge(&l->r, s);
	follow_not(l);
	proxy_stop(p);
	source_free(s);
}

static void test_base_delays_no_other_database(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "large.db", 4096, 6000), *t = source_make(&l->p, "small.db", 512, 16);
	struct proxy *p;

	source_commit(s, 6000);
	source_commit(s, 0);
	OK(ltx_log_fold(s->log, 2, NULL, e));
	serve(l);
	p = proxy_start(l);
	atomic_store(&p->mode, PROXY_SLOW);
	follow(l);
	UNTIL(atomic_load(&p->bytes_down) > 1 << 20);
	for (int i = 0; i < 10; i++) {
		source_commit(t, 0);
		OK(primary_server_wait(l->server, t->lineage, t->last, 1, LIMIT_S * 1000, e));
	}
	assert_int_equal(host_tail(&l->r, s->lineage), 0); /* still on its way */
	atomic_store(&p->mode, PROXY_PASS);
	UNTIL(host_tail(&l->r, s->lineage) == 2);
	judge(&l->r, s);
	judge(&l->r, t);
	follow_not(l);
	proxy_stop(p);
	source_free(s);
	source_free(t);
}

/* One replica gets nothing through: the other one has everything all the same. */
static void test_stalled_replica_beside_a_fast_one(void **state)
{
	struct link *l = *state, *m = link_new();
	struct primary_follower two[2] = {l->follower, m->follower};
	struct source *s = source_make(&l->p, "app.db", 4096, 3000);
	struct proxy *p;

	l->sconf.followers = two;
	l->sconf.n_followers = 2;
	l->sconf.window_bytes = 256 * 1024;
	serve(l);
	memcpy(m->address, l->address, sizeof(m->address));
	m->p.key = l->p.key;
	p = proxy_start(m);
	follow(m);
	UNTIL(follows(m));
	atomic_store(&p->mode, PROXY_STALL);
	follow(l);
	for (int i = 0; i < 20; i++)
		source_commit(s, i % 2 ? 2 : 1000); /* far more than sockets and window hold */
	UNTIL(host_tail(&l->r, s->lineage) == 20);
	assert_true(host_tail(&m->r, s->lineage) < 20);
	assert_int_equal(primary_server_wait(l->server, s->lineage, 20, 2, 0, NULL), -FZ_ETIMEOUT);
	atomic_store(&p->mode, PROXY_PASS);
	OK(primary_server_wait(l->server, s->lineage, 20, 2, LIMIT_S * 1000, e));
	assert_int_equal(judge(&m->r, s), 20);
	assert_int_equal(judge(&l->r, s), 20);
	follow_not(m);
	proxy_stop(p);
	link_free(m);
	source_free(s);
}

/* ---- a bad network ---- */

static void test_bad_network(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	struct writer w;
	struct proxy *p;
	static const enum proxy_harm harms[] = {PROXY_CUT,    PROXY_FLIP, PROXY_INSERT,
	                                        PROXY_REPLAY, PROXY_FLIP, PROXY_REPLAY};
	static const enum proxy_mode modes[] = {PROXY_TRICKLE, PROXY_STALL, PROXY_STALL_UP, PROXY_STALL_DOWN};

	serve(l);
	p = proxy_start(l);
	follow(l);
	writer_start(&w, s, LINK_TXNS - 1, 2000);
	for (size_t i = 0; i < sizeof(harms) / sizeof(harms[0]); i++) {
		unsigned before = atomic_load(&p->connections);

		proxy_do(p, harms[i]);
		UNTIL(atomic_load(&p->connections) > before); /* noticed: it was never taken for good */
		UNTIL(follows(l));
	}
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		unsigned before = atomic_load(&p->connections);
		uint64_t tail = host_tail(&l->r, s->lineage);

		atomic_store(&p->mode, modes[i]);
		if (modes[i] == PROXY_TRICKLE)
			UNTIL(host_tail(&l->r, s->lineage) > tail + 20);
		else
			UNTIL(atomic_load(&p->connections) > before); /* found dead, called again */
		atomic_store(&p->mode, PROXY_PASS);
		tail = host_tail(&l->p, s->lineage);
		UNTIL(host_tail(&l->r, s->lineage) >= tail);
	}
	atomic_store(&w.stop, true);
	writer_join(&w);
	UNTIL(host_tail(&l->r, s->lineage) == s->last);
	assert_int_equal(judge(&l->r, s), s->last);
	follow_not(l);
	proxy_stop(p);
	source_free(s);
}

/* ---- strangers ---- */

/* A caller that does the handshake by itself. */
struct raw {
	int fd;
	struct ltx_noise_cipher send, receive;
	struct fz_buf sealed, plain;
};

static uint64_t soon(void)
{
	return fz_mono_ns() + LIMIT_S * UINT64_C(1000000000);
}

static bool raw_call(struct raw *r, struct link *l, const uint8_t *secret)
{
	uint8_t out[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG1], in[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG2], none[1];
	struct ltx_noise n;
	bool ok;

	memset(r, 0, sizeof(*r));
	OK(r->fd = fz_net_connect(l->address, LIMIT_S * 1000, -1, e));
	ltx_wire_hello_put(out, LTX_WIRE_VERSION, LTX_NOISE_MSG1);
	OK(ltx_noise_init(&n, true, secret, l->p.key.public_key, out, LTX_WIRE_PROLOGUE, e));
	OK(ltx_noise_write(&n, NULL, 0, out + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG1, e));
	OK(fz_net_write(r->fd, out, sizeof(out), soon(), -1, e));
	ok = fz_net_read(r->fd, in, sizeof(in), soon(), -1, NULL) == 0;
	if (ok) {
		OK(ltx_noise_read(&n, in + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG2, none, sizeof(none), e));
		OK(ltx_noise_split(&n, &r->send, &r->receive, e));
	}
	ltx_noise_fini(&n);
	return ok;
}

static void raw_say(struct raw *r, const struct ltx_wire_msg *m)
{
	struct fz_buf plain = {0}, sealed = {0};

	OK(ltx_wire_put(&plain, m, e));
	OK(ltx_wire_seal(&r->send, &plain, &sealed, e));
	OK(fz_net_write(r->fd, sealed.data, sealed.size, soon(), -1, e));
	fz_buf_fini(&plain);
	fz_buf_fini(&sealed);
}

static bool raw_hung_up(struct raw *r)
{
	uint8_t byte;
	int rc;

	while ((rc = fz_net_read(r->fd, &byte, 1, soon(), -1, NULL)) == 0)
		;
	return rc == -ECONNRESET;
}

static void raw_close(struct raw *r)
{
	close(r->fd);
	fz_buf_fini(&r->plain);
	fz_buf_fini(&r->sealed);
}

static bool server_has(struct link *l)
{
	cJSON *a = server_status(l);
	bool is = cJSON_IsTrue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "connected"));

	assert_int_equal(cJSON_GetArraySize(a), 1);
	cJSON_Delete(a);
	return is;
}

static double server_since(struct link *l)
{
	cJSON *a = server_status(l);
	double ms = number_of(cJSON_GetArrayItem(a, 0), "since_ms");

	cJSON_Delete(a);
	return ms;
}

static bool server_error_has(struct link *l, const char *what)
{
	cJSON *a = server_status(l);
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "last_error"));
	bool has = text && strstr(text, what);

	cJSON_Delete(a);
	return has;
}

static void test_wrong_keys(void **state)
{
	struct link *l = *state;
	struct ltx_age_identity other;
	struct ltx_age_recipient key;
	char text[LTX_AGE_RECIPIENT_SIZE];
	struct raw r;

	serve(l);
	ltx_age_identity_make(&other);
	ltx_age_identity_recipient(&other, &key);
	assert_false(raw_call(&r, l, other.secret)); /* not a word */
	raw_close(&r);

	l->follower.key[0] ^= 1; /* the primary expects another one */
	follow(l);
	ltx_age_recipient_format(text, &l->r.key);
	UNTIL(follow_error_has(l, text)); /* it says which key is to be listed */
	follow_not(l);
	assert_false(server_has(l));
	l->follower.key[0] ^= 1;

	l->p.key = key; /* the replica expects another one */
	follow(l);
	UNTIL(follow_error_has(l, "--primary-key"));
	follow_not(l);
	ltx_age_identity_recipient(&l->p.id, &l->p.key);
	assert_false(server_has(l));
	follow(l);
	UNTIL(follows(l) && server_has(l));
}

/* Message 1 of a follower, recorded and played back: it opens nothing. */
static void test_replayed_handshake(void **state)
{
	struct link *l = *state;
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->fconf.hello};
	uint8_t junk[600];
	struct raw r;

	serve(l);
	assert_true(raw_call(&r, l, l->r.id.secret)); /* whoever has no key cannot go on from here: */
	randombytes_buf(junk, sizeof(junk));
	junk[0] = 0;
	junk[1] = 200;
	OK(fz_net_write(r.fd, junk, sizeof(junk), soon(), -1, e));
	assert_true(raw_hung_up(&r));
	assert_true(server_since(l) == 0); /* it was never taken for the follower */
	raw_close(&r);
	assert_true(raw_call(&r, l, l->r.id.secret)); /* the same with the key */
	raw_say(&r, &hello);
	UNTIL(server_has(l));
	raw_close(&r);
	UNTIL(!server_has(l));
}

/* The next message; m's data is borrowed until the next call. */
static void raw_hear(struct raw *r, struct ltx_wire_msg *m, size_t *used)
{
	int rc;

	if (*used)
		memmove(r->plain.data, r->plain.data + *used, r->plain.size - *used);
	r->plain.size -= *used;
	for (;;) {
		struct pollfd p = {.fd = r->fd, .events = POLLIN};
		ssize_t n;

		OK(rc = r->plain.size ? ltx_wire_get(m, r->plain.data, r->plain.size, e) : 0);
		if (rc > 0)
			break;
		assert_int_equal(poll(&p, 1, LIMIT_S * 1000), 1);
		n = recv(r->fd, fz_buf_room(&r->sealed, 65536), 65536, 0);
		assert_true(n > 0);
		r->sealed.size += (size_t)n;
		OK(ltx_wire_open(&r->receive, &r->sealed, &r->plain, e));
	}
	*used = (size_t)rc;
}

/* A replica that makes nothing durable gets a window's worth; and more with each ACK. */
static void test_window(void **state)
{
	struct link *l = *state;
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->fconf.hello}, m,
	                    want = {.type = LTX_WIRE_WANT, .want.id = 1}, ack = {.type = LTX_WIRE_ACK, .ack.id = 1};
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	uint64_t bytes = 0, before = 0, window = 32 * 1024;
	size_t used = 0;
	struct raw r;

	for (int i = 0; i < 1000; i++)
		source_commit(s, 0);
	l->sconf.window_bytes = window;
	serve(l);
	assert_true(raw_call(&r, l, l->r.id.secret));
	raw_say(&r, &hello);
	for (int acks = 0; acks < 3;) {
		raw_hear(&r, &m, &used);
		if (m.type == LTX_WIRE_DB)
			raw_say(&r, &want);
		if (m.type == LTX_WIRE_FILE)
			ack.ack.durable = m.file.max_txid;
		if (m.type == LTX_WIRE_DATA)
			bytes += m.data.n;
		if (m.type == LTX_WIRE_PING) { /* it has nothing else to say */
			assert_in_range(bytes - before, window, window + LTX_WIRE_CHUNK);
			before = bytes;
			raw_say(&r, &ack);
			acks++;
		}
	}
	assert_true(ack.ack.durable < s->last);
	raw_close(&r);
	source_free(s);
}

/* Many connections that say nothing, a little, or nonsense; among them one that may follow. */
static void test_strangers_in_numbers(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 16);
	struct rlimit files;
	int *fds, n = 1000;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	if (n > (int)files.rlim_cur - 100)
		n = (int)files.rlim_cur - 100;
	fds = calloc((size_t)n, sizeof(*fds));
	serve(l);
	for (int i = 0; i < n; i++) {
		static const char *const words[] = {"", "F", "FZTL\x01", "GET / HTTP/1.0\r\n\r\n",
		                                    "FZTL\x01\0\0\x60........"};
		static const size_t sizes[] = {0, 1, 5, 18, 16};

		fds[i] = fz_net_connect(l->address, LIMIT_S * 1000, -1, NULL);
		assert_true(fds[i] >= 0);
		if (sizes[i % 5])
			(void)!send(fds[i], words[i % 5], sizes[i % 5], MSG_NOSIGNAL | MSG_DONTWAIT);
		if (i == n / 2) {
			follow(l);
			source_commit(s, 0);
		}
	}
	OK(primary_server_wait(l->server, s->lineage, 1, 1, LIMIT_S * 1000, e));
	for (int i = 0; i < n; i++)
		close(fds[i]);
	free(fds);
	source_free(s);
}

static void test_replica_that_stops_reading(void **state)
{
	struct link *l = *state, *m = link_new();
	struct primary_follower two[2] = {l->follower, m->follower};
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->fconf.hello},
	                    want = {.type = LTX_WIRE_WANT, .want.id = 1};
	struct source *s = source_make(&l->p, "app.db", 4096, 4000);
	struct raw r;

	for (int i = 0; i < 8; i++)
		source_commit(s, i % 2 ? 2 : 3000);
	l->sconf.followers = two;
	l->sconf.n_followers = 2;
	l->sconf.window_bytes = UINT64_C(1) << 40; /* TCP alone holds it back */
	serve(l);
	memcpy(m->address, l->address, sizeof(m->address));
	m->p.key = l->p.key;
	assert_true(raw_call(&r, l, l->r.id.secret));
	raw_say(&r, &hello);
	UNTIL(server_db(l, s->lineage, "durable_txid") >= -1);
	do /* until it was announced */
		OK(fz_net_read(r.fd, &(char){0}, 1, soon(), -1, e));
	while (recv(r.fd, &(char){0}, 1, MSG_PEEK) < 0);
	raw_say(&r, &want);
	follow(m);
	UNTIL(host_tail(&m->r, s->lineage) == 8);
	UNTIL(server_error_has(l, "read nothing") || server_error_has(l, "nothing was heard"));
	raw_close(&r);
	assert_int_equal(judge(&m->r, s), 8);
	follow_not(m);
	link_free(m);
	source_free(s);
}

/* ---- versions ---- */

struct fake {
	int fd;
	const uint8_t *answer;
	size_t n;
	atomic_bool stop;
	pthread_t thread;
};

static void *fake_run(void *arg)
{
	struct fake *f = arg;

	while (!atomic_load(&f->stop)) {
		char peer[FZ_NET_ADDR];
		struct pollfd p = {.fd = f->fd, .events = POLLIN};
		int c = poll(&p, 1, 20) > 0 ? fz_net_accept(f->fd, peer, NULL) : -1;
		uint8_t in[8];

		if (c < 0)
			continue;
		if (fz_net_read(c, in, sizeof(in), soon(), -1, NULL) == 0)
			(void)!send(c, f->answer, f->n, MSG_NOSIGNAL);
		close(c);
	}
	return NULL;
}

static void test_versions(void **state)
{
	struct link *l = *state;
	static const struct {
		const char *answer;
		size_t n;
		const char *says;
	} cases[] = {
	        {"FZTL\x09\0\0\0",	                                            8,  "speaks version 9"},
	        {"FZTL\0\0\0\0",	                                              8,  "no fazt link"    },
	        {"HTTP/1.1 400 Bad Request\r\n\r\n",                                  28, "no fazt link"    },
	        {"FZTL\x01\0\x01\0................",                                  24, "no fazt link"    },
	        {"FZTL\x01\0\0\x30"
	         "................................................", 56, "--primary-key"   },
	};

	l->fconf.version = LTX_WIRE_VERSION + 1; /* a newer replica finds an older primary */
	serve(l);
	follow(l);
	UNTIL(follows(l));
	follow_not(l);
	serve_not(l);
	l->fconf.version = 0;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake f = {.answer = (const uint8_t *)cases[i].answer, .n = cases[i].n};

		f.fd = fz_net_listen("127.0.0.1:0", NULL);
		OK(fz_net_local(f.fd, l->address, e));
		assert_int_equal(pthread_create(&f.thread, NULL, fake_run, &f), 0);
		follow(l);
		UNTIL(follow_error_has(l, cases[i].says));
		follow_not(l);
		atomic_store(&f.stop, true);
		pthread_join(f.thread, NULL);
		close(f.fd);
	}
}

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

static void test_only_what_it_may_follow(void **state)
{
	struct link *l = *state;
	static const char *const globs[] = {"shop/*.db", "a.db"};
	struct source *s[3] = {source_make(&l->p, "a.db", 512, 16), source_make(&l->p, "secret.db", 512, 16),
	                       source_make(&l->p, "shop/x.db", 512, 16)};

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
		struct source *s = source_make(&l->p, "app.db", 512, 64), *t,
		              *o = source_make(&m->p, "other.db", 512, 16);
		struct ltx_log_info info;
		struct ltx_log *log;

		print_message("           %s\n", cases[i].name);
		serve(l);
		follow(l);
		for (int k = 0; k < 20; k++)
			source_commit(s, 0);
		UNTIL(host_tail(&l->r, s->lineage) == 20);
		follow_not(l);
		serve_not(l);
		if (cases[i].my_epoch) {
			log = host_log(&l->r, s->lineage);
			OK(ltx_log_set_epoch(log, cases[i].my_epoch, e));
			ltx_log_put(log);
		}
		OK(ltx_logset_adopt(m->p.set, s->name, s->lineage, 0, &log, e));
		ltx_log_put(log);
		t = source_make(&m->p, s->name, 512, 64); /* the same seed: the same transactions, until: */
		for (uint64_t k = 1; k <= cases[i].until; k++) {
			if (k == cases[i].same + 1) {
				OK(ltx_log_set_epoch(t->log, cases[i].epoch, e));
				t->db.rnd = 99;
			}
			source_commit(t, 0);
		}
		assert_int_equal(t->txns[14].post, s->txns[14].post);
		if (cases[i].same == cases[i].until)
			OK(ltx_log_set_epoch(t->log, cases[i].epoch, e));
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
			for (uint64_t k = 1; k <= cases[i].same;
			     k++) { /* these came from the first host, at another time */
				struct txn mine = t->txns[k];

				t->txns[k] = s->txns[k];
				s->txns[k] = mine;
			}
			judge(&l->r, t);
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
	        cmocka_unit_test_setup_teardown(test_every_commit_arrives, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_applied_is_told, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_base_first, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_large_transaction, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_folded_while_away, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_squashed_while_away, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_smallest_window, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_floor, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_storm, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_base_is_gone_on_with, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_other_base_after_a_cut, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_base_delays_no_other_database, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_stalled_replica_beside_a_fast_one, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_bad_network, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_wrong_keys, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_replayed_handshake, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_window, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_strangers_in_numbers, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_replica_that_stops_reading, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_deleted_and_made_anew, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_epochs_and_roles, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_only_what_it_may_follow, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_diverged, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_damaged_log, setup, teardown),
	};

	if (argc > 1 && !strcmp(argv[1], "bench")) { /* [SECONDS] */
		double seconds = argc > 2 ? atof(argv[2]) : 5;

		bench_rate(50, seconds);
		bench_rate(5000, seconds);
		bench_rate(25000, seconds);
		bench_rate(1e9, seconds * 25000 / 1e9); /* as fast as it goes */
		return 0;
	}
	if (argc > 1) /* a pattern: these only */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
