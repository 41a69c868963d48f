/* test_cmd_linkstore.c - link and store together: what the primary's log no longer has comes from the store as it was committed,
 * and by the link when the store cannot give it. Real sockets, the primary's own shipper, a directory as the store. */
#include "primary/ship.h"
#include "replica/followstore.h"
#include "store/store.h"
#include "tests/unit/link_make.h"

#include <netinet/in.h>
#include <sodium.h>
#include <sys/socket.h>

struct both {
	struct link *l;
	char dir[160], url[180];
	struct ltx_age_identity key;
	struct ltx_age_identities ids;
	struct primary_ship *ship;
	struct primary_target_conf target; /* where the primary ships to */
	struct replica_followstore *store;
	char silent[200]; /* a store that is called and never answers; empty: the real one */
};

static int setup(void **state)
{
	struct both *b = calloc(1, sizeof(*b));

	b->l = link_new();
	assert_non_null(tmp_make(b->dir, sizeof(b->dir), "fz-linkstore"));
	snprintf(b->url, sizeof(b->url), "dir:%s", b->dir);
	ltx_age_identity_make(&b->key);
	b->ids = (struct ltx_age_identities){&b->key, 1};
	*state = b;
	return 0;
}

static void follow_both_not(struct both *b)
{
	follow_not(b->l);
	replica_followstore_stop(b->store);
	b->store = NULL;
}

static int teardown(void **state)
{
	struct both *b = *state;

	follow_both_not(b);
	serve_not(b->l);
	primary_ship_stop(b->ship, 0);
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		source_free(sources[i]);
	link_free(b->l);
	OK(fz_remove_tree(AT_FDCWD, b->dir, e));
	free(b);
	return 0;
}

static struct fz_store *open_store(struct both *b)
{
	struct fz_store_conf conf = {0};
	struct fz_store *store;

	OK(fz_store_open(&store, b->url, &conf, e));
	return store;
}

/* All that the logs hold lies in the store. */
static void ship(struct both *b)
{
	struct primary_ship_conf conf = {
	        .targets = &b->target, .n_targets = 1, .statefd = b->l->p.fd, .logs = b->l->p.set, .writer = "one"};
	struct ltx_age_recipient key;

	ltx_age_identity_recipient(&b->key, &key);
	b->target.store = open_store(b);
	b->target.recipients = &key;
	b->target.n_recipients = 1;
	b->target.ship_interval_ms = 1;
	OK(primary_ship_start(&b->ship, &conf, e));
	OK(primary_ship_sync(b->ship, LIMIT_S * 1000, e));
	primary_ship_stop(b->ship, LIMIT_S * 1000);
	b->ship = NULL;
}

static struct fz_store *open_silent(struct both *b)
{
	struct fz_store_conf conf = {.access_key = "k", .secret_key = "s", .region = "r"};
	struct fz_store *store;

	OK(fz_store_open(&store, b->silent, &conf, e));
	return store;
}

static void follow_both(struct both *b, const struct ltx_age_identities *ids)
{
	struct replica_followstore_conf conf = {.store = b->silent[0] ? open_silent(b) : open_store(b),
	                                        .ids = ids,
	                                        .logs = b->l->r.set,
	                                        .interval_ms = 5,
	                                        .still_ms = 300,
	                                        .paused = true};

	OK(replica_followstore_start(&b->store, &conf, e));
	b->l->fconf.store = b->store;
	follow(b->l);
}

static void fold(struct source *s)
{
	OK(ltx_log_sync(s->log, e));
	OK(ltx_log_fold(s->log, s->last, NULL, e));
}

static double bytes_in(struct both *b)
{
	cJSON *o = follow_status(b->l);
	double n = cJSON_GetNumberValue(cJSON_GetObjectItem(o, "bytes_in"));

	cJSON_Delete(o);
	return n;
}

static uint64_t base_of(struct both *b, const struct source *s)
{
	struct ltx_log *log = host_log(&b->l->r, s->lineage);
	struct ltx_log_info info = {0};

	assert_non_null(log);
	ltx_log_info(log, &info);
	ltx_log_put(log);
	return info.base_txid;
}

static void arrives(struct both *b, struct source *s)
{
	OK(primary_server_wait(b->l->server, s->lineage, s->last, 1, LIMIT_S * 1000, e));
}

/* The log is pruned past a replica that was away: it gets every commit all the same, and goes on by the link. */
static void test_gap(void **state)
{
	struct both *b = *state;
	struct source *s = source_make(&b->l->p, "dir/app.db", 4096, 2000), *t = source_make(&b->l->p, "t.db", 512, 16);

	source_commit(s, 1500); /* some MB: a base would be seen in bytes_in */
	for (int i = 0; i < 20; i++)
		source_commit(t, 0);
	serve(b->l);
	follow_both(b, &b->ids);
	arrives(b, s);
	arrives(b, t);
	for (int turn = 0; turn < 3; turn++) {
		follow_both_not(b);
		for (int i = 0; i < 100; i++) {
			source_commit(s, 0);
			source_commit(t, 0);
		}
		ship(b);
		fold(s); /* t's log has everything */
		source_commit(s, 0);
		follow_both(b, &b->ids);
		arrives(b, s);
		arrives(b, t);
		assert_true(bytes_in(b) < 2e6);
		for (int i = 0; i < 5; i++)
			source_commit(s, 0);
		arrives(b, s);
	}
	assert_int_equal(base_of(b, s), 0); /* never a snapshot */
	assert_int_equal(judge(&b->l->r, s), s->last);
	assert_int_equal(judge(&b->l->r, t), t->last);
}

/* A new replica begins with the store's snapshot, and costs the primary nothing of that. */
static void test_first_copy(void **state)
{
	struct both *b = *state;
	struct source *s = source_make(&b->l->p, "app.db", 4096, 2000);

	source_commit(s, 1500);
	for (int i = 0; i < 50; i++)
		source_commit(s, 0);
	fold(s);
	ship(b); /* the shipper begins with a snapshot: the log has no single transactions any more */
	for (int i = 0; i < 20; i++)
		source_commit(s, 0);
	serve(b->l);
	follow_both(b, &b->ids);
	arrives(b, s);
	assert_true(bytes_in(b) < 2e6);
	assert_int_equal(base_of(b, s), 51);
	judge(&b->l->r, s);
}

/* What the store cannot give is asked of the primary: no key, nothing shipped, a gap there too, another epoch. */
static void test_store_cannot(void **state)
{
	struct both *b = *state;
	struct source *s = source_make(&b->l->p, "app.db", 512, 64);
	struct ltx_age_identity other;
	struct ltx_age_identities others = {&other, 1};

	ltx_age_identity_make(&other);
	serve(b->l);
	for (int what = 0; what < 4; what++) {
		for (int i = 0; i < 30; i++)
			source_commit(s, 0);
		if (what == 1)
			ship(b);
		if (what == 3) {
			ship(b);
			OK(ltx_log_set_epoch(s->log, 7, e)); /* which the store does not know */
		}
		fold(s);
		source_commit(s, 0);
		follow_both(b, what == 1 ? &others : &b->ids);
		arrives(b, s);
		assert_int_equal(base_of(b, s), s->last - 1);
		judge(&b->l->r, s);
		follow_both_not(b);
	}
}

/* It takes the call and says nothing: the primary is asked after a while, and stopping waits for nobody. */
static void test_store_hangs(void **state)
{
	struct both *b = *state;
	struct source *s = source_make(&b->l->p, "app.db", 512, 64), *t = source_make(&b->l->p, "t.db", 512, 64);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
	snprintf(b->silent, sizeof(b->silent), "s3://bucket/x?endpoint=http://127.0.0.1:%u&path-style=yes",
	         ntohs(at.sin_port));
	for (int i = 0; i < 30; i++) {
		source_commit(s, 0);
		source_commit(t, 0);
	}
	fold(s);
	fold(t);
	source_commit(s, 0);
	serve(b->l);
	follow_both(b, &b->ids);
	arrives(b, s);
	arrives(b, t);
	judge(&b->l->r, s);
	judge(&b->l->r, t);
	follow_both_not(b);
	close(fd);
}

/* The link is cut and made anew while the store fills: whoever has the log, nothing is lost or torn. */
static void test_cut_meanwhile(void **state)
{
	struct both *b = *state;
	struct source *s = source_make(&b->l->p, "app.db", 512, 64);

	source_commit(s, 0);
	serve(b->l);
	follow_both(b, &b->ids);
	arrives(b, s);
	follow_both_not(b);
	for (int i = 0; i < 600; i++) {
		source_commit(s, 0);
		if (i % 20 == 0)
			ship(b); /* many packs */
	}
	ship(b);
	fold(s);
	source_commit(s, 0);
	follow_both(b, &b->ids);
	for (int i = 0; i < 30; i++) {
		usleep(1000 * randombytes_uniform(8));
		if (i % 3 == 0) {
			follow_both_not(b);
			follow_both(b, &b->ids);
		} else {
			serve_not(b->l);
			serve(b->l);
		}
	}
	arrives(b, s);
	judge(&b->l->r, s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_gap, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_first_copy, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_store_cannot, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_store_hangs, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_cut_meanwhile, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
