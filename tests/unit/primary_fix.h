/* primary_fix.h - for the tests of primary: a state directory with a log, a store in a directory, and a judge that shares
 * nothing with the code under test but the codecs: it reads every object with the identity, and says which commits can be
 * reached by a chain of checksums. */
#ifndef FZ_TESTS_PRIMARY_FIX_H
#define FZ_TESTS_PRIMARY_FIX_H

#include "base/clock.h"
#include "base/file.h"
#include "ltx/age.h"
#include "ltx/log.h"
#include "ltx/name.h"
#include "primary/ship.h"
#include "store/store.h"
#include "tests/unit/ltx_make.h"
#include "tests/unit/ok.h"
#include "tests/unit/tmp.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIX_COMMITS 4096

struct fix {
	char dir[160], url[180];
	int dirfd, statefd;
	struct ltx_logset *set;
	struct ltx_log *log;
	struct make_db db;
	uint64_t sums[FIX_COMMITS]; /* by TXID: what the database was */
	struct ltx_age_identity id;
	struct ltx_age_recipient to;
	struct fz_store *look; /* the judge's own */
	struct primary_ship *ship;
	struct fz_err err;
};

#define OK(call) OK_OR(call, f->err)

static inline void fix_open_logs(struct fix *f, const char *name)
{
	struct ltx_logset_conf conf = {.segment_bytes = 16384};

	f->statefd = openat(f->dirfd, "state", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	OK(ltx_logset_open(&f->set, f->statefd, &conf, &f->err));
	OK(ltx_logset_get(f->set, name, true, &f->log, &f->err));
}

static inline void fix_close_logs(struct fix *f)
{
	ltx_log_put(f->log);
	ltx_logset_close(f->set);
	fz_close(&f->statefd);
	f->log = NULL;
	f->set = NULL;
}

static inline struct fz_store *fix_store(struct fix *f)
{
	struct fz_store_conf conf = {.create = true};
	struct fz_store *s = NULL;

	OK(fz_store_open(&s, f->url, &conf, &f->err));
	return s;
}

static const struct primary_target_conf fix_quick __attribute__((unused)) = {.ship_interval_ms = 5};

static inline struct fix *fix_new(void)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(tmp_make(f->dir, sizeof(f->dir), "fz-primary"));
	f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(f->dirfd, "state", 0700), 0);
	snprintf(f->url, sizeof(f->url), "dir:%s/store", f->dir);
	make_init(&f->db, 512, 64, 7);
	ltx_age_identity_make(&f->id);
	ltx_age_identity_recipient(&f->id, &f->to);
	f->sums[0] = LTX_EMPTY_DB;
	f->look = fix_store(f);
	fix_open_logs(f, "app.db");
	return f;
}

static inline void fix_free(struct fix *f)
{
	if (f->ship)
		primary_ship_stop(f->ship, 0);
	if (f->log)
		fix_close_logs(f);
	fz_store_close(f->look);
	make_fini(&f->db);
	OK(fz_remove_tree(f->dirfd, "store", &f->err));
	OK(fz_remove_tree(f->dirfd, "state", &f->err));
	close(f->dirfd);
	rmdir(f->dir);
	free(f);
}

/* Of a test's own; *state is the fix. */
static inline int fix_setup(void **state)
{
	*state = fix_new();
	return 0;
}

static inline int fix_teardown(void **state)
{
	fix_free(*state);
	return 0;
}

/* One more transaction in the log: a few changed pages, sometimes another size. */
static inline uint64_t fix_commit_at(struct fix *f, int64_t time_ms)
{
	struct make_db *db = &f->db;
	struct ltx_header h = {.page_size = db->page_size, .time_ms = time_ms, .wal_offset = 0};
	struct ltx_trailer t;
	struct fz_sink *sink;
	struct ltx_enc *e = NULL;
	uint64_t bytes;

	if (db->commit == 0)
		make_resize(db, 5);
	else if (make_rnd(db, 6) == 0)
		make_resize(db, 3 + make_rnd(db, 40));
	make_change(db, 1 + make_rnd(db, db->commit));
	h.commit = db->commit;
	h.min_txid = h.max_txid = ++db->txid;
	h.pre_checksum = db->txid > 1 ? db->sum : 0;
	db->sum = make_sum(db);
	assert_true(db->txid < FIX_COMMITS);
	f->sums[db->txid] = db->sum;
	OK(ltx_enc_open(&e, &f->err));
	OK(ltx_log_begin(f->log, &h, &sink, &f->err));
	OK(ltx_enc_begin(e, sink, &h, &f->err));
	for (uint32_t pgno = 1; pgno <= db->commit; pgno++)
		if (db->txid == 1 || db->dirty[pgno])
			OK(ltx_enc_page(e, pgno, make_page(db, pgno), &f->err));
	OK(ltx_enc_end(e, db->sum, &t, &bytes, &f->err));
	OK(ltx_log_commit(f->log, bytes, ltx_enc_pages(e), &t, false, &f->err));
	ltx_enc_close(e);
	memset(db->dirty, 0, db->cap + 1);
	return db->txid;
}

static inline uint64_t fix_commit(struct fix *f)
{
	return fix_commit_at(f, fz_now_ms());
}

static inline void fix_start(struct fix *f, const struct primary_target_conf *conf)
{
	struct primary_target_conf c = *conf;
	struct primary_ship_conf s = {
	        .targets = &c, .n_targets = 1, .statefd = f->statefd, .logs = f->set, .writer = "here"};

	if (!c.store)
		c.store = fix_store(f);
	OK(primary_ship_start(&f->ship, &s, &f->err));
}

static inline void fix_stop(struct fix *f, int64_t grace_ms)
{
	primary_ship_stop(f->ship, grace_ms);
	f->ship = NULL;
}

/* Repeats check(f) until it is true; what it waits for must come, so the limit is only there to end a broken test. */
static inline void fix_until(struct fix *f, bool (*check)(struct fix *f), const char *what)
{
	uint64_t end = fz_mono_ns() + UINT64_C(60) * 1000000000;

	while (!check(f)) {
		if (fz_mono_ns() > end)
			fail_msg("never came: %s", what);
		usleep(2000);
	}
}

static inline cJSON *fix_status(struct fix *f)
{
	cJSON *a = cJSON_CreateArray();

	assert_int_equal(primary_ship_status(f->ship, a), 0);
	return a;
}

static inline void fix_status_text(struct fix *f, const char *field, char *out, size_t cap)
{
	cJSON *a = fix_status(f);

	snprintf(out, cap, "%s", cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), field)));
	cJSON_Delete(a);
}

static inline double fix_status_number(struct fix *f, const char *field)
{
	cJSON *a = fix_status(f);
	double v = cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), field));

	cJSON_Delete(a);
	return v;
}

/* ---- the judge --------------------------------------------------------------------------------------------------- */

struct judge_file {
	struct ltx_header h;
	uint64_t post;
	uint8_t *data; /* of the object, borrowed */
	uint64_t off, size;
	int level;
	bool used;
};
struct judge {
	struct judge_file *v;
	size_t n;
	uint8_t **objects;
	size_t n_objects;
	size_t per_level[10];
	bool reached[FIX_COMMITS];
	uint64_t last; /* newest reached */
};

static inline void judge_file(struct judge *j, const struct ltx_name *name, struct fz_src *src, uint8_t *data,
                              uint64_t off, uint64_t size)
{
	struct fz_err err = {.code = 0};
	struct judge_file *p;
	struct ltx_trailer t;
	uint64_t bytes;
	uint32_t pages;

	j->v = realloc(j->v, (j->n + 1) * sizeof(*j->v));
	p = &j->v[j->n++];
	*p = (struct judge_file){.data = data, .off = off, .size = size, .level = name->level};
	if (ltx_dec_verify(src, off, &p->h, &t, &bytes, &pages, &err) < 0)
		fail_msg("object %llx-%llx: %s", (unsigned long long)name->min_txid, (unsigned long long)name->max_txid,
		         err.text);
	assert_int_equal(bytes, size);
	p->post = t.post_checksum;
}

/* false: it was deleted since it was listed. */
static inline bool judge_object(struct fix *f, struct judge *j, const char *key, const struct ltx_name *name)
{
	struct ltx_age_identities ids = {&f->id, 1};
	struct fz_src *cipher = NULL, *plain = NULL;
	size_t first = j->n;
	uint8_t *data;
	int rc;

	rc = fz_store_src(f->look, key, UINT64_MAX, &cipher, &f->err);
	if (rc == -FZ_ENOTFOUND)
		return false;
	OK(rc);
	if (name->encrypted)
		OK(ltx_age_src(&plain, cipher, &ids, &f->err));
	else
		plain = cipher;
	data = malloc(plain->size_bytes + 1);
	OK(fz_src_read(plain, 0, data, plain->size_bytes, &f->err));
	j->objects = realloc(j->objects, (j->n_objects + 1) * sizeof(*j->objects));
	j->objects[j->n_objects++] = data;
	if (ltx_level_is_pack(name->level)) {
		struct ltx_pack_index ix;

		OK(ltx_pack_index_read(&ix, plain, &f->err));
		assert_true(ix.n > 0);
		for (uint64_t i = 0; i < ix.n; i++) {
			judge_file(j, name, plain, data, ix.e[i].off_bytes, ix.e[i].size_bytes);
			assert_int_equal(j->v[j->n - 1].h.min_txid, ix.e[i].min_txid);
			assert_int_equal(j->v[j->n - 1].h.max_txid, ix.e[i].max_txid);
			assert_int_equal(j->v[j->n - 1].h.time_ms, ix.e[i].time_ms);
		}
		assert_int_equal(name->first_ms, ix.e[0].time_ms);
		ltx_pack_index_fini(&ix);
	} else {
		judge_file(j, name, plain, data, 0, plain->size_bytes);
	}
	assert_int_equal(j->v[first].h.min_txid, name->min_txid);
	assert_int_equal(j->v[j->n - 1].h.max_txid, name->max_txid);
	assert_int_equal(j->v[j->n - 1].h.time_ms, name->last_ms);
	assert_int_equal(j->v[j->n - 1].post, name->post_checksum);
	j->per_level[name->level]++;
	if (plain != cipher)
		fz_src_close(plain);
	fz_src_close(cipher);
	return true;
}

static inline void judge_fini(struct judge *j)
{
	for (size_t i = 0; i < j->n_objects; i++)
		free(j->objects[i]);
	free(j->objects);
	free(j->v);
	memset(j, 0, sizeof(*j));
}

/* Reads the store and follows the chains. lineage NULL = the log's. */
static inline void judge_read(struct fix *f, struct judge *j, const char *lineage)
{
	struct fz_store_list l = {0};
	struct ltx_log_info info;
	bool more = true;

	ltx_log_info(f->log, &info);
again:
	memset(j, 0, sizeof(*j));
	OK(fz_store_list(f->look, "app.db/", NULL, false, &l, &f->err));
	for (size_t i = 0; i < l.n; i++) {
		struct ltx_name name;

		if (ltx_name_get(&name, l.v[i].key + strlen("app.db/")) < 0) {
			assert_non_null(strstr(l.v[i].key, "/claim/"));
			continue;
		}
		if (strcmp(name.lineage, lineage ? lineage : info.lineage) == 0 &&
		    !judge_object(f, j, l.v[i].key, &name)) { /* retention is at work: look again */
			fz_store_list_fini(&l);
			judge_fini(j);
			goto again;
		}
	}
	fz_store_list_fini(&l);
	j->reached[0] = true;
	while (more) {
		more = false;
		for (size_t i = 0; i < j->n; i++) {
			const struct judge_file *p = &j->v[i];
			uint64_t from = p->h.min_txid - 1;

			if (!j->reached[from] || j->reached[p->h.max_txid])
				continue;
			assert_int_equal(p->h.pre_checksum, from ? f->sums[from] : 0);
			assert_int_equal(p->post, f->sums[p->h.max_txid]);
			more = j->reached[p->h.max_txid] = true;
		}
	}
	for (uint64_t t = 0; t < FIX_COMMITS; t++)
		if (j->reached[t])
			j->last = t;
}

/* Page for page: the restore of the newest commit, by the largest steps, is the database. */
static inline void judge_pages(struct fix *f, struct judge *j)
{
	struct make_db got;
	uint64_t at = 0;

	make_init(&got, f->db.page_size, f->db.cap, 1);
	while (at < f->db.txid) {
		const struct judge_file *best = NULL;

		for (size_t i = 0; i < j->n; i++)
			if (j->v[i].h.min_txid == at + 1 && (!best || j->v[i].h.max_txid > best->h.max_txid))
				best = &j->v[i];
		if (!best)
			fail_msg("nothing follows %llu", (unsigned long long)at);
		make_apply(&got, best->data + best->off, best->size);
		at = best->h.max_txid;
	}
	assert_int_equal(got.commit, f->db.commit);
	assert_memory_equal(got.pages, f->db.pages, (size_t)got.commit * got.page_size);
	assert_int_equal(make_sum(&got), f->db.sum);
	make_fini(&got);
}

/* Every commit from..to can be restored. */
static inline void judge_all(struct fix *f, uint64_t from, uint64_t to)
{
	struct judge j;

	judge_read(f, &j, NULL);
	for (uint64_t t = from; t <= to; t++)
		if (!j.reached[t])
			fail_msg("commit %llu of %llu cannot be restored", (unsigned long long)t,
			         (unsigned long long)to);
	if (to == f->db.txid)
		judge_pages(f, &j);
	judge_fini(&j);
}

#endif
