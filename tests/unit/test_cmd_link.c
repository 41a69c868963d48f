/* test_cmd_link.c - both ends of the link, real sockets in between: what a primary's logs hold arrives on the replica byte
 * for byte and in order, whatever stops, starts, folds, cuts or lies on the way. Who may call, and what a caller may do:
 * test_cmd_linkcaller.c; what becomes of databases and histories: test_cmd_linkhistory.c. */
#include "tests/unit/link_bench.h"
#include "tests/unit/link_proxy.h"

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
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_every_commit_arrives, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_applied_is_told, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_base_first, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_large_transaction, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_folded_while_away, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_squashed_while_away, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_smallest_window, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_floor, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_storm, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_base_is_gone_on_with, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_other_base_after_a_cut, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_base_delays_no_other_database, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_stalled_replica_beside_a_fast_one, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_bad_network, link_setup, link_teardown),
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
