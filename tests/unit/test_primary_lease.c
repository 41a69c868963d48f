/* test_primary_lease.c - two hosts never hold the lease at the same time, whatever is lost, late or stopped; and somebody gets it in the
 * end. The hosts have clocks of their own, which start anywhere and one of which may run faster by a fifth. */
#include "primary/lease.h"
#include "store/backend.h"
#include "tests/unit/primary_fix.h"

#include <sodium.h>

#define MS    UINT64_C(1000000)
#define D_MS  1000
#define HOSTS 3

/* ---- a store in memory whose requests take time, lose their answers, or arrive late ---- */

struct mem_store {
	struct fz_store store;
	struct world *w;
	unsigned host;
	bool no_if; /* it has no conditional PUT */
};
struct late { /* a PUT that is still under way: its sender has given up */
	bool used;
	uint64_t at_ns;
	char tag[FZ_STORE_TAG];
	struct fz_buf data;
};
struct world {
	uint64_t real_ns, offset[HOSTS];
	unsigned rate[HOSTS]; /* percent */
	unsigned host;        /* whose clock is asked */
	struct mem_store stores[HOSTS];
	struct primary_lease lease[HOSTS];
	bool away[HOSTS]; /* cannot reach the store */
	struct fz_buf object;
	unsigned version;
	struct late late[8];
	unsigned slow_ms; /* half a request, at most */
	unsigned trouble; /* percent of requests that go wrong */
	bool nested;      /* another host acts while a request is under way */
	unsigned overlaps, takes, renewals;
	uint64_t seed;
};
static struct world *world; /* now_ns() has no argument */

static unsigned roll(struct world *w, unsigned n)
{
	w->seed = w->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(w->seed >> 33) % n;
}

static uint64_t clock_of(struct world *w, unsigned host)
{
	return w->offset[host] + w->real_ns / 100 * w->rate[host];
}

static uint64_t now(void)
{
	return clock_of(world, world->host);
}

static bool holds(struct world *w, unsigned host)
{
	unsigned was = w->host;
	bool holds;

	w->host = host;
	holds = now() < primary_lease_until(&w->lease[host]);
	w->host = was;
	return holds;
}

static void check(struct world *w)
{
	unsigned n = 0;

	for (unsigned h = 0; h < HOSTS; h++)
		n += holds(w, h);
	w->overlaps += n > 1;
}

static bool matches(const struct world *w, const char *tag)
{
	char now_tag[FZ_STORE_TAG] = "";

	if (w->object.size)
		snprintf(now_tag, sizeof(now_tag), "v%u", w->version);
	return strcmp(now_tag, tag) == 0;
}

static void replace(struct world *w, const void *data, size_t n)
{
	fz_buf_reset(&w->object);
	assert_int_equal(fz_buf_add(&w->object, data, n), 0);
	w->version++;
}

static void advance(struct world *w, uint64_t ns)
{
	for (uint64_t step = 20 * MS; ns; ns -= step) {
		if (step > ns)
			step = ns;
		w->real_ns += step;
		for (size_t i = 0; i < 8; i++)
			if (w->late[i].used && w->late[i].at_ns <= w->real_ns) {
				w->late[i].used = false;
				if (matches(w, w->late[i].tag))
					replace(w, w->late[i].data.data, w->late[i].data.size);
			}
		check(w);
	}
}

static void act(struct world *w, unsigned host);

/* Time passes while a request is under way, and others do something. */
static void travel(struct world *w, unsigned host)
{
	advance(w, roll(w, w->slow_ms) * MS);
	if (!w->nested && roll(w, 3) == 0) {
		w->nested = true;
		act(w, (host + 1 + roll(w, HOSTS - 1)) % HOSTS);
		w->nested = false;
	}
	w->host = host;
}

static bool wrong(struct world *w)
{
	return roll(w, 100) < w->trouble;
}

static int mem_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                       char tag[static FZ_STORE_TAG], struct fz_err *err)
{
	struct mem_store *m = (struct mem_store *)s;
	struct world *w = m->w;
	bool there;

	travel(w, m->host);
	if (w->away[m->host] || wrong(w))
		return fz_fail(err, FZ_ETIMEOUT, "no answer");
	there = w->object.size > 0;
	if (there) {
		assert_int_equal(fz_buf_add(out, w->object.data, w->object.size), 0);
		snprintf(tag, FZ_STORE_TAG, "v%u", w->version);
	}
	travel(w, m->host);
	if (wrong(w))
		return fz_fail(err, FZ_ENET, "the answer is lost");
	return there ? 0 : fz_fail(err, FZ_ENOTFOUND, "nothing");
}

static void put_later(struct world *w, const void *data, size_t n, const char *tag)
{
	for (size_t i = 0; i < 8; i++) {
		struct late *l = &w->late[i];

		if (l->used)
			continue;
		l->used = true;
		l->at_ns = w->real_ns + roll(w, 3 * D_MS) * MS;
		memcpy(l->tag, tag, sizeof(l->tag));
		fz_buf_reset(&l->data);
		assert_int_equal(fz_buf_add(&l->data, data, n), 0);
		return;
	}
}

static int mem_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                      struct fz_err *err)
{
	struct mem_store *m = (struct mem_store *)s;
	struct world *w = m->w;

	if (m->no_if)
		return fz_fail(err, FZ_ECONFIG, "no such condition");
	travel(w, m->host);
	if (w->away[m->host])
		return fz_fail(err, FZ_ENET, "cannot be reached");
	if (wrong(w)) {
		if (roll(w, 2))
			put_later(w, data, n, tag);
		return fz_fail(err, FZ_ETIMEOUT, "no answer");
	}
	if (!matches(w, tag))
		return fz_fail(err, FZ_ECONFLICT, "another version");
	replace(w, data, n);
	snprintf(tag, FZ_STORE_TAG, "v%u", w->version);
	travel(w, m->host);
	return wrong(w) ? fz_fail(err, FZ_ENET, "the answer is lost") : 0;
}

static void world_init(struct world *w, uint64_t seed)
{
	static const struct store_ops ops = {.get_tag = mem_get_tag, .put_if = mem_put_if};

	memset(w, 0, sizeof(*w));
	world = w;
	w->seed = seed * 2654435761u + 1;
	w->slow_ms = 100;
	for (unsigned h = 0; h < HOSTS; h++) {
		uint8_t node[16] = {(uint8_t)(h + 1)};
		struct primary_lease *l = &w->lease[h];

		w->offset[h] = (uint64_t)roll(w, 1000000) * 1000 * MS;
		w->rate[h] = 100;
		assert_int_equal(store_base_init(&w->stores[h].store, &ops, "mem:", NULL), 0);
		w->stores[h].w = w;
		w->stores[h].host = h;
		l->store = &w->stores[h].store;
		l->duration_ms = D_MS;
		l->now_ns = now;
		assert_int_equal(primary_lease_init(l, node, NULL), 0);
		snprintf(l->self.host, sizeof(l->self.host), "host%u", h);
		snprintf(l->self.key, sizeof(l->self.key), "key%u", h);
	}
	w->rate[roll(w, HOSTS)] = 120;
}

static void world_fini(struct world *w)
{
	for (unsigned h = 0; h < HOSTS; h++)
		store_base_fini(&w->stores[h].store);
	for (size_t i = 0; i < 8; i++)
		fz_buf_fini(&w->late[i].data);
	fz_buf_fini(&w->object);
}

/* What cmd/lease.c does, once: a holder renews, the others look and take what has run out. */
static void act(struct world *w, unsigned host)
{
	struct primary_lease *l = &w->lease[host];
	struct fz_err err;
	int rc;

	w->host = host;
	if (l->state == PRIMARY_LEASE_MINE || (l->state <= PRIMARY_LEASE_NONE && host == 0)) {
		rc = primary_lease_renew(l, 0, &err);
		w->renewals += rc == 0;
	} else {
		rc = primary_lease_look(l, &err);
		if (rc == 0 && (l->state == PRIMARY_LEASE_EXPIRED || l->state == PRIMARY_LEASE_RELEASED)) {
			rc = primary_lease_take(l, 0, false, "", &err);
			w->takes += rc == 0;
		}
	}
	check(w);
}

/* ---- the tests ---- */

static void never_two_at_a_time(void **state)
{
	unsigned takes = 0, renewals = 0;

	for (uint64_t seed = 1; seed <= 3000; seed++) {
		struct world w;
		bool somebody = false;

		world_init(&w, seed);
		w.trouble = (unsigned)(seed % 5) * 12;
		for (int i = 0; i < 120; i++) {
			unsigned h = roll(&w, HOSTS);

			if (roll(&w, 15) == 0)
				w.away[h] = !w.away[h];
			if (roll(&w, 10) == 0)
				advance(&w, roll(&w, 2 * D_MS) * MS); /* everybody is stopped */
			w.host = h;
			if (roll(&w, 40) == 0) /* fazt promote --force */
				(void)!primary_lease_take(&w.lease[h], 0, true, "", NULL);
			if (roll(&w, 40) == 0 && w.lease[h].state == PRIMARY_LEASE_MINE && !holds(&w, h))
				(void)!primary_lease_release(&w.lease[h], "", NULL);
			act(&w, h);
			advance(&w, roll(&w, D_MS / 4) * MS);
		}
		if (w.overlaps)
			fail_msg("seed %llu: two held it at the same time", (unsigned long long)seed);
		takes += w.takes;
		renewals += w.renewals;
		/* all is well again: one of them has it soon, and keeps it */
		w.trouble = 0;
		w.slow_ms = 20;
		memset(w.away, 0, sizeof(w.away));
		for (int i = 0; i < 60; i++) {
			act(&w, (unsigned)i % HOSTS);
			advance(&w, D_MS / 12 * MS);
		}
		for (unsigned h = 0; h < HOSTS; h++)
			somebody |= holds(&w, h);
		if (!somebody || w.overlaps)
			fail_msg("seed %llu: %s in the end", (unsigned long long)seed, somebody ? "two" : "nobody");
		world_fini(&w);
	}
	assert_true(takes > 1000 && renewals > 10000); /* the walks went where it matters */
}

static void expiry_is_judged_by_ones_own_watch(void **state)
{
	struct world w;
	struct primary_lease *a = &w.lease[0], *b = &w.lease[1];
	unsigned n = 0;

	world_init(&w, 1);
	w.nested = true; /* nobody else acts */
	w.rate[0] = w.rate[1] = 100;
	w.host = 1;
	assert_int_equal(primary_lease_look(b, NULL), 0);
	assert_int_equal(b->state, PRIMARY_LEASE_NONE);
	w.host = 0;
	assert_int_equal(primary_lease_renew(a, 7, NULL), 0);
	assert_true(holds(&w, 0));
	assert_int_equal(a->body.epoch, 7);
	assert_int_equal(a->body.term, 1);
	w.host = 1;
	assert_int_equal(primary_lease_look(b, NULL), 0);
	assert_int_equal(b->state, PRIMARY_LEASE_OTHERS);
	assert_int_equal(primary_lease_take(b, 3, false, "", NULL), -FZ_EBUSY);
	assert_true(primary_lease_left_ms(b) > D_MS);
	for (; b->state == PRIMARY_LEASE_OTHERS; n++) {
		advance(&w, 50 * MS);
		w.host = 1;
		assert_int_equal(primary_lease_look(b, NULL), 0);
	}
	assert_int_equal(b->state, PRIMARY_LEASE_EXPIRED);
	assert_false(holds(&w, 0));
	assert_int_equal(primary_lease_take(b, 3, false, "app.db: 2 transactions", NULL), 0);
	assert_true(holds(&w, 1));
	assert_int_equal(b->body.term, 2);
	assert_int_equal(b->body.epoch, 8); /* never below the former one's */
	assert_string_equal(b->body.lost, "app.db: 2 transactions");
	w.host = 0;
	assert_int_equal(primary_lease_renew(a, 7, NULL), -FZ_EFENCED);
	assert_int_equal(a->state, PRIMARY_LEASE_OTHERS);
	assert_int_equal(primary_lease_until(a), 0);
	world_fini(&w);
}

static void an_outage_is_not_the_holders_fault(void **state)
{
	struct world w;
	struct primary_lease *a = &w.lease[0], *b = &w.lease[1];

	world_init(&w, 2);
	w.nested = true;
	act(&w, 0);
	act(&w, 1);
	w.away[0] = w.away[1] = true;
	for (int i = 0; i < 50; i++) {
		act(&w, (unsigned)i % 2);
		advance(&w, D_MS / 5 * MS);
	}
	assert_false(holds(&w, 0));
	w.away[0] = w.away[1] = false;
	act(&w, 1); /* the observer is first */
	assert_int_equal(b->state, PRIMARY_LEASE_OTHERS);
	act(&w, 0);
	assert_true(holds(&w, 0));
	w.away[0] = true; /* but when the holder does not come back, it is taken */
	for (int i = 0; i < 20 && b->state != PRIMARY_LEASE_MINE; i++) {
		act(&w, 1);
		advance(&w, D_MS / 5 * MS);
	}
	assert_true(holds(&w, 1));
	assert_int_equal(a->state, PRIMARY_LEASE_MINE); /* for all it knows; its time has run out */
	assert_false(holds(&w, 0));
	world_fini(&w);
}

static void released_for_one_host(void **state)
{
	struct world w;
	struct primary_lease *a = &w.lease[0], *b = &w.lease[1], *c = &w.lease[2];

	world_init(&w, 3);
	w.nested = true;
	act(&w, 0);
	w.host = 0;
	assert_int_equal(primary_lease_release(a, "key1", NULL), 0);
	assert_false(holds(&w, 0));
	w.host = 2;
	assert_int_equal(primary_lease_look(c, NULL), 0);
	assert_int_equal(c->state, PRIMARY_LEASE_OTHERS);
	w.host = 1;
	assert_int_equal(primary_lease_look(b, NULL), 0);
	assert_int_equal(b->state, PRIMARY_LEASE_RELEASED);
	assert_int_equal(primary_lease_take(b, 1, false, "", NULL), 0);
	w.host = 0; /* which does not take it: the one that gave it up may have it again */
	assert_int_equal(primary_lease_renew(a, 0, NULL), -FZ_EFENCED);
	world_fini(&w);
	world_init(&w, 4);
	w.nested = true;
	act(&w, 0);
	w.host = 0;
	assert_int_equal(primary_lease_release(a, "key1", NULL), 0);
	assert_int_equal(primary_lease_renew(a, 0, NULL), 0);
	assert_true(holds(&w, 0));
	world_fini(&w);
}

/* A worker that starts anew is the same holder; after a reboot, or as a copy of the host, it waits as any other. */
static void who_comes_back(void **state)
{
	static const struct {
		const char *name;
		bool boot;
	} t[] = {
	        {"another process", true },
                {"another boot",    false}
        };

	for (size_t i = 0; i < 2; i++) {
		struct world w;
		struct primary_lease *b = &w.lease[1];

		world_init(&w, 5);
		w.nested = true;
		act(&w, 0);
		memcpy(b->self.node, w.lease[0].self.node, sizeof(b->self.node));
		if (!t[i].boot)
			snprintf(b->self.boot, sizeof(b->self.boot), "another");
		w.host = 1;
		assert_int_equal(primary_lease_renew(b, 0, NULL), t[i].boot ? 0 : -FZ_EFENCED);
		assert_int_equal(holds(&w, 1), t[i].boot);
		world_fini(&w);
	}
}

/* Each request of a renewal and of a take-over fails once, before and after it was carried out, on a real store. */
static void each_request_may_fail(void **state)
{
	char root[PATH_MAX], url[PATH_MAX + 8];
	unsigned fired_at_all = 0;

	for (int after = 0; after < 2; after++)
		for (uint64_t nth = 1; nth <= 6; nth++) {
			struct fz_store *inner = NULL, *s = NULL;
			struct primary_lease l = {.duration_ms = D_MS, .now_ns = fz_boot_ns}, other = l;
			bool fired = false;
			int rc;

			snprintf(root, sizeof(root), "%s/fz-lease-XXXXXX",
			         getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
			assert_non_null(mkdtemp(root));
			snprintf(url, sizeof(url), "dir:%s", root);
			assert_int_equal(fz_store_open(&inner, url, NULL, NULL), 0);
			assert_int_equal(fz_store_fault(&s, inner, nth, FZ_ENET, after, &fired, NULL), 0);
			assert_int_equal(primary_lease_init(&l, (uint8_t[16]){1}, NULL), 0);
			assert_int_equal(primary_lease_init(&other, (uint8_t[16]){2}, NULL), 0);
			l.store = other.store = s;
			for (int i = 0; i < 8; i++) {
				bool was = fired;

				rc = primary_lease_renew(&l, 0, NULL);
				if (rc < 0) {
					assert_true(!was && fired); /* the next one knows how it stands */
					assert_int_equal(rc, -FZ_ENET);
				}
			}
			assert_int_equal(rc, 0);
			assert_true(primary_lease_until(&l) > fz_boot_ns());
			assert_int_equal(primary_lease_look(&other, NULL), 0);
			assert_int_equal(other.state, PRIMARY_LEASE_OTHERS);
			fired_at_all += fired;
			fz_store_close(s);
			assert_int_equal(fz_remove_tree(AT_FDCWD, root, NULL), 0);
		}
	assert_true(fired_at_all >= 8);
}

static void text(void **state)
{
	static const char *const bad[] = {"", "{}", "[]", "{\"node\":1}"};
	struct primary_lease_body a =
	                                  {
	                                          .epoch = 4000000000u,
	                                          .term = 5,
	                                          .renewals = 123456789,
	                                          .duration_ms = 10000,
	                                          .released = true,
	                                          .who = {.node = "00",
	                                                  .host = "quote\" back\\ \xc3\xbc",
	                                                  .followers = 3},
	                                          .to = "age1x",
	                                          .lost = "app.db: 1 transactions",
	                                          .nonce = "ff"
        },
	                          b;
	struct fz_buf t = {0};
	struct fz_err err;

	assert_int_equal(primary_lease_format(&t, &a), 0);
	assert_int_equal(primary_lease_parse(&b, fz_buf_str(&t), &err), 0);
	assert_int_equal(a.epoch, b.epoch);
	assert_true(a.term == b.term && a.renewals == b.renewals && a.duration_ms == b.duration_ms && b.released);
	assert_string_equal(a.who.host, b.who.host);
	assert_string_equal(a.lost, b.lost);
	assert_string_equal(a.to, b.to);
	assert_int_equal(b.who.followers, 3);
	fz_buf_fini(&t);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(primary_lease_parse(&b, bad[i], &err), -FZ_ECORRUPT);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(text),
	        cmocka_unit_test(expiry_is_judged_by_ones_own_watch),
	        cmocka_unit_test(an_outage_is_not_the_holders_fault),
	        cmocka_unit_test(released_for_one_host),
	        cmocka_unit_test(who_comes_back),
	        cmocka_unit_test(each_request_may_fail),
	        cmocka_unit_test(never_two_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
