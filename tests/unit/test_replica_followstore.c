/* Following a store: what lies there reaches the log as it is, in the finest detail kept, and nothing that is wrong does. */
#include "replica/followstore.h"

#include "base/clock.h"
#include "ltx/log.h"
#include "ltx/merge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cjson/cJSON.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/replica_make.h"

#define WAIT_NS UINT64_C(20000000000)

struct world {
	struct hist h;
	char state[96];
	int statefd;
	struct ltx_logset *logs;
	struct replica_followstore *f;
};

static void begin(struct world *w, bool encrypt)
{
	struct ltx_logset_conf conf = {0};
	struct fz_err err;

	memset(w, 0, sizeof(*w));
	hist_init(&w->h, 512, 40, encrypt);
	snprintf(w->state, sizeof(w->state), "%s/.fazt", w->h.dir); /* no place: its name is not a database's */
	assert_int_equal(mkdir(w->state, 0700), 0);
	w->statefd = open(w->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(ltx_logset_open(&w->logs, w->statefd, &conf, &err), 0);
}

static void follow(struct world *w, const struct ltx_age_identities *ids)
{
	struct replica_followstore_conf conf = {.ids = ids, .logs = w->logs, .interval_ms = 5};
	struct fz_store_conf sc = {0};
	struct fz_err err = {0};
	char url[96];

	snprintf(url, sizeof(url), "dir:%s", w->h.dir);
	assert_int_equal(fz_store_open(&conf.store, url, &sc, &err), 0);
	assert_int_equal(replica_followstore_start(&w->f, &conf, &err), 0);
}

static void unfollow(struct world *w)
{
	replica_followstore_stop(w->f);
	w->f = NULL;
}

static void end(struct world *w)
{
	unfollow(w);
	ltx_logset_close(w->logs);
	close(w->statefd);
	hist_fini(&w->h);
}

static bool look(struct world *w, struct ltx_log_info *info)
{
	struct ltx_log *log;

	memset(info, 0, sizeof(*info));
	if (ltx_logset_get(w->logs, "app.db", false, &log, NULL) < 0)
		return false;
	ltx_log_info(log, info);
	ltx_log_put(log);
	return true;
}

/* What status says of the database, or of all of it; heap. */
static char *error_of(struct world *w, bool database)
{
	cJSON *o = cJSON_CreateObject(), *d;
	const char *text;
	char *out;

	assert_int_equal(replica_followstore_status(w->f, o), 0);
	d = cJSON_GetArrayItem(cJSON_GetObjectItem(o, "databases"), 0);
	text = cJSON_GetStringValue(cJSON_GetObjectItem(database ? d : o, "last_error"));
	out = strdup(text ? text : "");
	cJSON_Delete(o);
	return out;
}

static void arrives(struct world *w, uint64_t txid)
{
	uint64_t end_ns = fz_mono_ns() + WAIT_NS;
	struct ltx_log_info info;

	while (!look(w, &info) || info.synced_txid < txid) {
		if (fz_mono_ns() > end_ns)
			fail_msg("TXID %llu did not arrive, %llu did: %s %s", (unsigned long long)txid,
			         (unsigned long long)info.tail_txid, error_of(w, false), error_of(w, true));
		(void)poll(NULL, 0, 1);
	}
	assert_int_equal(info.tail_txid, txid);
	assert_true(info.tail_checksum == w->h.c[txid].post);
}

/* Until status says so, and then nothing of it is in the log. */
static void refuses(struct world *w, const char *words, uint64_t tail)
{
	uint64_t end_ns = fz_mono_ns() + WAIT_NS;
	struct ltx_log_info info;
	bool said = false;

	while (!said) {
		char *text = error_of(w, true);

		said = strstr(text, words) != NULL;
		if (!said && fz_mono_ns() > end_ns)
			fail_msg("status says \"%s\", not \"%s\"", text, words);
		free(text);
		(void)poll(NULL, 0, 1);
	}
	(void)look(w, &info);
	assert_int_equal(info.tail_txid, tail);
}

/* The log holds [from, to] as single transactions, byte for byte. */
static void verbatim(struct world *w, uint64_t from, uint64_t to)
{
	struct fz_err err = {0};
	struct ltx_log *log;

	assert_int_equal(ltx_logset_get(w->logs, "app.db", false, &log, &err), 0);
	for (uint64_t t = from; t <= to; t++) {
		const struct hist_commit *c = &w->h.c[t];
		struct ltx_log_entry e;
		struct fz_src *src;
		uint8_t *bytes = malloc(c->size);

		assert_non_null(bytes);
		assert_int_equal(ltx_log_find(log, t, &e, &err), 0);
		assert_int_equal(e.e.min_txid, t);
		assert_int_equal(e.e.max_txid, t);
		assert_int_equal(e.e.size_bytes, c->size);
		assert_int_equal(ltx_log_src(log, &e, &src, &err), 0);
		assert_int_equal(fz_src_read(src, 0, bytes, c->size, &err), 0);
		assert_memory_equal(bytes, w->h.bytes.data + c->off, c->size);
		fz_src_close(src);
		free(bytes);
	}
	ltx_log_put(log);
}

/* What the log holds up to txid is the database: its merge, whose checksum is that of all pages. */
static void played(struct world *w, uint64_t txid)
{
	struct fz_buf buf = {0};
	struct fz_buf_sink sink;
	struct ltx_merge_result r;
	struct fz_err err = {0};
	struct ltx_log *log;

	assert_int_equal(ltx_logset_get(w->logs, "app.db", false, &log, &err), 0);
	fz_buf_sink_init(&sink, &buf);
	if (ltx_log_snapshot(log, txid, &sink.sink, &r, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(r.trailer.post_checksum == w->h.c[txid].post);
	fz_buf_fini(&buf);
	ltx_log_put(log);
}

static void test_packs(void **state)
{
	struct world w;

	(void)state;
	for (int encrypt = 0; encrypt < 2; encrypt++) {
		begin(&w, encrypt);
		hist_commits(&w.h, 60);
		hist_claim(&w.h, 1, 1, 0);
		hist_pack(&w.h, LTX_L_PACK_MINUTE, 1, 20, NULL);
		hist_pack(&w.h, LTX_L_PACK, 15, 30, NULL); /* they may overlap */
		follow(&w, encrypt ? &w.h.ids : NULL);
		arrives(&w, 30);
		for (uint64_t t = 31; t <= 60; t += 3) {
			hist_pack(&w.h, LTX_L_PACK, t, t + 2, NULL);
			arrives(&w, t + 2);
		}
		verbatim(&w, 1, 60);
		unfollow(&w);
		follow(&w, encrypt ? &w.h.ids : NULL); /* again: nothing is missing, nothing comes twice */
		hist_commits(&w.h, 1);
		hist_pack(&w.h, LTX_L_PACK, 61, 61, NULL);
		arrives(&w, 61);
		verbatim(&w, 1, 61);
		end(&w);
	}
}

static void test_keys(void **state)
{
	struct ltx_age_identity other;
	struct ltx_age_identities others = {&other, 1};
	struct world w;

	(void)state;
	begin(&w, true);
	ltx_age_identity_make(&other);
	hist_commits(&w.h, 5);
	hist_claim(&w.h, 1, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 5, NULL);
	follow(&w, NULL);
	refuses(&w, "-i KEY", 0);
	unfollow(&w);
	follow(&w, &others);
	refuses(&w, "identit", 0);
	unfollow(&w);
	follow(&w, &w.h.ids);
	arrives(&w, 5);
	end(&w);
}

/* What is kept singly is taken singly, else merged files that fit, else a snapshot. */
static void test_gone(void **state)
{
	struct ltx_log_info info;
	struct world w;
	char key[LTX_NAME_MAX];

	(void)state;
	begin(&w, true);
	hist_commits(&w.h, 100);
	hist_claim(&w.h, 1, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 10, key);
	follow(&w, &w.h.ids);
	arrives(&w, 10);
	unfollow(&w);
	hist_remove(&w.h, key);
	hist_merged(&w.h, LTX_L_MINUTE, 11, 20, NULL);
	hist_pack(&w.h, LTX_L_PACK, 21, 30, NULL);
	follow(&w, &w.h.ids);
	arrives(&w, 30);
	assert_true(look(&w, &info));
	assert_int_equal(info.base_txid, 0);
	verbatim(&w, 21, 30);
	unfollow(&w);
	hist_merged(&w.h, LTX_L_HOUR, 25, 40, NULL); /* begins earlier: the rest of it comes in one piece */
	hist_merged(&w.h, LTX_L_DAY, 11, 50, NULL);
	follow(&w, &w.h.ids);
	arrives(&w, 50);
	assert_true(look(&w, &info));
	assert_int_equal(info.base_txid, 0);
	verbatim(&w, 21, 30);
	played(&w, 50);
	unfollow(&w);
	hist_merged(&w.h, LTX_L_HOUR, 52, 60, NULL); /* begins too late */
	follow(&w, &w.h.ids);
	refuses(&w, "TXID 51 is in no object", 50);
	hist_merged(&w.h, LTX_L_SNAPSHOT, 1, 60, NULL);
	hist_pack(&w.h, LTX_L_PACK, 61, 70, NULL);
	arrives(&w, 70);
	assert_true(look(&w, &info));
	assert_int_equal(info.base_txid, 60);
	verbatim(&w, 61, 70);
	end(&w);
	begin(&w, false); /* a new replica begins with the newest snapshot */
	hist_commits(&w.h, 20);
	hist_merged(&w.h, LTX_L_SNAPSHOT, 1, 5, NULL);
	hist_merged(&w.h, LTX_L_SNAPSHOT, 1, 12, NULL);
	hist_pack(&w.h, LTX_L_PACK, 6, 20, NULL);
	hist_claim(&w.h, 1, 1, 0);
	follow(&w, NULL);
	arrives(&w, 20);
	assert_true(look(&w, &info));
	assert_int_equal(info.base_txid, 12);
	end(&w);
}

/* A byte of an object is another one: nothing of that transaction is taken, and it goes on when the object is right. */
static void test_damaged(void **state)
{
	struct world w;
	char key[LTX_NAME_MAX];

	(void)state;
	begin(&w, false);
	hist_commits(&w.h, 20);
	hist_claim(&w.h, 1, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 10, NULL);
	hist_pack(&w.h, LTX_L_PACK, 11, 20, key);
	hist_damage(&w.h, key, (long)(w.h.c[16].off - w.h.c[11].off + w.h.c[16].size / 2));
	follow(&w, NULL);
	refuses(&w, "TXID 16", 15);
	verbatim(&w, 1, 15);
	hist_pack(&w.h, LTX_L_PACK, 11, 20, NULL);
	arrives(&w, 20);
	end(&w);
}

/* A transaction that does not build on what is here is not taken, though the file is right. */
static void test_chain(void **state)
{
	struct world w;

	(void)state;
	begin(&w, false);
	hist_commits(&w.h, 10);
	hist_commit_off_chain(&w.h);
	hist_claim(&w.h, 1, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 11, NULL);
	follow(&w, NULL);
	refuses(&w, "builds on another database", 10);
	end(&w);
}

/* While it is paused nothing is touched, whatever is on its way; then it goes on. */
static void test_pause(void **state)
{
	struct ltx_log_info info;
	struct world w;

	(void)state;
	begin(&w, true);
	hist_commits(&w.h, 300);
	hist_claim(&w.h, 1, 1, 0);
	follow(&w, &w.h.ids);
	for (uint64_t t = 1; t <= 300; t += 10) {
		uint64_t tail;

		hist_pack(&w.h, LTX_L_PACK, t, t + 9, NULL);
		if (t % 3)
			arrives(&w, t + 9);
		replica_followstore_pause(w.f);
		(void)look(&w, &info);
		tail = info.tail_txid;
		(void)poll(NULL, 0, 12);
		(void)look(&w, &info);
		assert_int_equal(info.tail_txid, tail);
		replica_followstore_resume(w.f, 0);
	}
	arrives(&w, 300);
	verbatim(&w, 1, 300);
	end(&w);
}

/* The whole store is away: told, and no more; then it is there again. */
static void test_away(void **state)
{
	uint64_t end_ns = fz_mono_ns() + WAIT_NS;
	struct world w;
	char moved[96];

	(void)state;
	begin(&w, false);
	hist_commits(&w.h, 20);
	hist_claim(&w.h, 1, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 10, NULL);
	follow(&w, NULL);
	arrives(&w, 10);
	snprintf(moved, sizeof(moved), "%s.away", w.h.dir);
	assert_int_equal(rename(w.h.dir, moved), 0);
	for (char *text = NULL; !text || !*text; (void)poll(NULL, 0, 1)) {
		assert_true(fz_mono_ns() < end_ns);
		free(text);
		text = error_of(&w, false);
		if (*text) {
			free(text);
			break;
		}
	}
	assert_int_equal(rename(moved, w.h.dir), 0);
	hist_pack(&w.h, LTX_L_PACK, 11, 20, NULL);
	arrives(&w, 20);
	end(&w);
}

/* Another life of that name: the one that was claimed last is followed, the other one has ended. */
static void test_lives(void **state)
{
	uint64_t end_ns = fz_mono_ns() + WAIT_NS;
	struct ltx_log_info info;
	struct world w;

	(void)state;
	begin(&w, false);
	hist_commits(&w.h, 10);
	hist_claim(&w.h, 1, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 5, NULL);
	follow(&w, NULL);
	arrives(&w, 5);
	strcpy(w.h.lineage, "00000000000000bb");
	hist_claim(&w.h, 2, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 7, NULL);
	while (!look(&w, &info) || strcmp(info.lineage, w.h.lineage) || info.synced_txid < 7) {
		assert_true(fz_mono_ns() < end_ns);
		(void)poll(NULL, 0, 1);
	}
	unfollow(&w);
	/* a store that knows nothing of the life that is here: it waits */
	strcpy(w.h.lineage, "00000000000000cc");
	{
		struct ltx_log *log;
		struct fz_err err;

		assert_int_equal(ltx_logset_get(w.logs, "app.db", false, &log, &err), 0);
		assert_int_equal(ltx_log_set_ended(log, 1, &err), 0);
		ltx_log_put(log);
		assert_int_equal(ltx_logset_get(w.logs, "app.db", true, &log, &err), 0);
		ltx_log_put(log);
	}
	hist_claim(&w.h, 3, 1, 0);
	hist_pack(&w.h, LTX_L_PACK, 1, 7, NULL);
	follow(&w, NULL);
	refuses(&w, "does not know the database", 0);
	end(&w);
}

static void gone(struct world *w, const char *name)
{
	uint64_t end_ns = fz_mono_ns() + WAIT_NS;
	struct ltx_log *log;

	while (ltx_logset_get(w->logs, name, false, &log, NULL) == 0) {
		ltx_log_put(log);
		assert_true(fz_mono_ns() < end_ns);
		(void)poll(NULL, 0, 1);
	}
}

static double looks(struct world *w)
{
	cJSON *o = cJSON_CreateObject();
	double n;

	assert_int_equal(replica_followstore_status(w->f, o), 0);
	n = cJSON_GetNumberValue(cJSON_GetObjectItem(o, "looks"));
	cJSON_Delete(o);
	return n;
}

/* The store says that the database has ended: it ends here, with all its commits in the log; what comes after it is followed. */
static void test_ended(void **state)
{
	uint64_t end_ns = fz_mono_ns() + WAIT_NS;
	struct ltx_log_info info;
	struct ltx_log *log;
	struct world w;
	double n;

	(void)state;
	for (int away = 0; away < 3;
	     away++) { /* it looks on; it was away; all of a later life came and went meanwhile */
		begin(&w, true);
		hist_commits(&w.h, 30);
		hist_claim(&w.h, 1, 1, 0);
		hist_pack(&w.h, LTX_L_PACK, 1, 10, NULL);
		follow(&w, &w.h.ids);
		arrives(&w, 10);
		if (away)
			unfollow(&w);
		if (away == 2) {
			strcpy(w.h.lineage, "00000000000000bb");
			hist_claim(&w.h, 2, 1, 0);
			hist_pack(&w.h, LTX_L_PACK, 1, 7, NULL);
			hist_end(&w.h, 2, 1700000000000);
		} else {
			hist_pack(&w.h, LTX_L_PACK, 11, 20, NULL);
			hist_end(&w.h, 1, 1700000000000);
		}
		if (away)
			follow(&w, &w.h.ids);
		gone(&w, "app.db");
		log = ltx_logset_at(w.logs, 0);
		do {
			assert_true(fz_mono_ns() < end_ns);
			ltx_log_info(log, &info);
		} while (info.tail_txid < (away == 2 ? 10 : 20));
		if (away != 2)
			assert_int_equal(info.ended_ms, 1700000000000);
		ltx_log_put(log);
		log = ltx_logset_at(w.logs, 1);
		assert_null(log); /* nothing was made for what came and went */
		n = looks(&w);
		while (looks(&w) < n + 40) /* it stays so */
			assert_true(fz_mono_ns() < end_ns);
		assert_int_equal(ltx_logset_get(w.logs, "app.db", false, &log, NULL), -FZ_ENOTFOUND);
		strcpy(w.h.lineage, "00000000000000cc");
		hist_claim(&w.h, 3, 1, 0);
		hist_pack(&w.h, LTX_L_PACK, 1, 5, NULL);
		arrives(&w, 5);
		end(&w);
	}
}

static void put_pack(struct hist *h, uint32_t epoch, uint64_t min, uint64_t max)
{
	h->epoch = epoch;
	hist_pack(h, LTX_L_PACK, min, max, NULL);
}

/* Another writer took over. What it ships again from its first transaction on is no other history; where it is one, what is here
 * beyond the last common point becomes a branch. */
static void test_epoch(void **state)
{
	struct ltx_log_info info;
	struct make_db fork;
	struct fz_err err;
	struct world w;
	uint64_t size;

	(void)state;
	begin(&w, true);
	hist_commits(&w.h, 20);
	hist_claim(&w.h, 1, 1, 0);
	put_pack(&w.h, 1, 1, 20);
	follow(&w, &w.h.ids);
	arrives(&w, 20);
	hist_claim(&w.h, 2, 2, 0);
	put_pack(&w.h, 2, 1, 15);
	hist_commits(&w.h, 10);
	put_pack(&w.h, 2, 16, 30);
	arrives(&w, 30);
	verbatim(&w, 1, 30);
	assert_true(look(&w, &info));
	assert_int_equal(info.epoch, 2);
	assert_int_equal(mkdirat(w.statefd, "branches", 0700), 0);
	assert_int_equal(unlinkat(w.statefd, "branches", AT_REMOVEDIR), 0); /* there was none */
	/* the next writer never had 26 to 30 */
	unfollow(&w);
	fork = w.h.db;
	fork.txid = 25;
	fork.commit = w.h.c[25].commit;
	fork.sum = w.h.c[25].post;
	memcpy(fork.pages, w.h.c[25].copy, (size_t)fork.commit * fork.page_size);
	memset(fork.dirty, 0, fork.cap + 1);
	w.h.db = fork;
	size = w.h.bytes.size;
	for (int t = 26; t <= 30; t++) {
		free(w.h.c[t].copy);
		w.h.c[t].copy = NULL;
	}
	hist_commits(&w.h, 10);
	assert_true(w.h.bytes.size > size);
	hist_claim(&w.h, 3, 3, 0);
	put_pack(&w.h, 3, 1, 22);
	put_pack(&w.h, 3, 23, 35);
	follow(&w, &w.h.ids);
	arrives(&w, 35);
	verbatim(&w, 1, 35);
	assert_true(look(&w, &info));
	assert_int_equal(info.epoch, 3);
	assert_int_equal(faccessat(w.statefd, "branches/" HIST_LIN ".epoch2-30", F_OK, 0), 0);
	assert_int_equal(fz_remove_tree(w.statefd, "branches", &err), 0);
	end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_packs),   cmocka_unit_test(test_keys),  cmocka_unit_test(test_gone),
	        cmocka_unit_test(test_damaged), cmocka_unit_test(test_chain), cmocka_unit_test(test_pause),
	        cmocka_unit_test(test_away),    cmocka_unit_test(test_lives), cmocka_unit_test(test_epoch),
	        cmocka_unit_test(test_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
