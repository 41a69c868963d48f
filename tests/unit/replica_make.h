/* replica_make.h - a store with the history of one database, as shipping leaves it, for the tests of replica: every commit
 * of a make_db is kept with a copy of its pages, and packs, merged files and snapshots over any range of them can be put
 * under their names, plain or encrypted. */
#ifndef FZ_TESTS_REPLICA_MAKE_H
#define FZ_TESTS_REPLICA_MAKE_H

#include "base/file.h"
#include "ltx/age.h"
#include "ltx/merge.h"
#include "ltx/name.h"
#include "ltx/pack.h"
#include "replica/source.h"
#include "store/store.h"
#include "tests/unit/ltx_make.h"

#include <fcntl.h>
#include <unistd.h>

#define HIST_MAX 512
#define HIST_LIN "00000000000000aa"

struct hist_commit {
	uint64_t off, size, post; /* of its LTX file in bytes */
	int64_t time_ms;
	uint32_t commit, pages;
	uint8_t *copy;
};
struct hist {
	char dir[64], url[96];
	struct fz_store *store;
	struct make_db db;
	struct fz_buf bytes;
	struct hist_commit c[HIST_MAX + 1]; /* by TXID */
	bool encrypt;
	struct ltx_age_identity id;
	struct ltx_age_identities ids;
	char lineage[17];
	uint32_t epoch;
	unsigned puts;
};

static inline void hist_store(struct hist *h)
{
	struct fz_store_conf conf = {.create = true};
	struct fz_err err = {0};
	int rc = fz_store_open(&h->store, h->url, &conf, &err);

	if (rc < 0)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
}

/* It takes the history's store, which gets another one; with_key: it can read what is encrypted. */
static inline struct replica_source *hist_source(struct hist *h, bool with_key)
{
	struct replica_source *s = NULL;
	struct fz_err err = {0};

	assert_int_equal(replica_source_store(&s, h->store, with_key ? &h->ids : NULL, &err), 0);
	hist_store(h);
	return s;
}

static inline void hist_init(struct hist *h, uint32_t page_size, uint32_t cap, bool encrypt)
{
	memset(h, 0, sizeof(*h));
	strcpy(h->dir, "/tmp/fazt-replica-XXXXXX");
	assert_non_null(mkdtemp(h->dir));
	snprintf(h->url, sizeof(h->url), "dir:%s/app.db", h->dir);
	hist_store(h);
	make_init(&h->db, page_size, cap, 7);
	h->encrypt = encrypt;
	ltx_age_identity_make(&h->id);
	h->ids = (struct ltx_age_identities){&h->id, 1};
	strcpy(h->lineage, HIST_LIN);
	h->epoch = 1;
}

static inline void hist_fini(struct hist *h)
{
	struct fz_err err;

	for (int i = 0; i <= HIST_MAX; i++)
		free(h->c[i].copy);
	make_fini(&h->db);
	fz_buf_fini(&h->bytes);
	fz_store_close(h->store);
	assert_int_equal(fz_remove_tree(AT_FDCWD, h->dir, &err), 0);
}

/* Commits what was changed; time_ms is make_file()'s: 1700000000000 + TXID. */
static inline void hist_commit(struct hist *h)
{
	struct hist_commit *c = &h->c[h->db.txid + 1];
	uint32_t lock = ltx_lock_page(h->db.page_size);

	assert_true(h->db.txid < HIST_MAX);
	c->off = h->bytes.size;
	c->pages = 0;
	for (uint32_t p = 1; p <= h->db.commit; p++)
		c->pages += p != lock && (h->db.txid == 0 || h->db.dirty[p]);
	c->size = make_commit(&h->db, &h->bytes);
	c->post = h->db.sum;
	c->time_ms = 1700000000000 + (int64_t)h->db.txid;
	c->commit = h->db.commit;
	c->copy = malloc((size_t)c->commit * h->db.page_size);
	assert_non_null(c->copy);
	memcpy(c->copy, h->db.pages, (size_t)c->commit * h->db.page_size);
}

/* A commit whose file is right but for the checksum that it says it starts from. */
static inline void hist_commit_off_chain(struct hist *h)
{
	struct hist_commit *c;

	make_change(&h->db, 1);
	h->db.sum ^= 0xff;
	hist_commit(h);
	c = &h->c[h->db.txid];
	assert_int_equal(c->post, h->db.sum);
}

/* n commits of a few pages each, growing and shrinking at times. */
static inline void hist_commits(struct hist *h, unsigned n)
{
	while (n--) {
		if (!h->db.commit)
			make_resize(&h->db, h->db.cap / 2);
		else if (make_rnd(&h->db, 8) == 0)
			make_resize(&h->db, h->db.cap / 4 + make_rnd(&h->db, h->db.cap * 3 / 4));
		for (unsigned k = 1 + make_rnd(&h->db, 4); k; k--)
			make_change(&h->db, 1 + make_rnd(&h->db, h->db.commit));
		hist_commit(h);
	}
}

static inline void hist_put_bytes(struct hist *h, const struct ltx_name *n, const struct fz_buf *plain, char *key_out)
{
	struct fz_buf cipher = {0};
	const struct fz_buf *b = plain;
	struct fz_src *src = NULL;
	struct fz_err err = {0};
	char key[LTX_NAME_MAX];

	if (h->encrypt) {
		struct ltx_age_writer *w = NULL;
		struct ltx_age_recipient r;
		struct fz_buf_sink sink;

		ltx_age_identity_recipient(&h->id, &r);
		fz_buf_sink_init(&sink, &cipher);
		assert_int_equal(ltx_age_writer_open(&w, &sink.sink, &r, 1, &err), 0);
		assert_int_equal(fz_sink_write(ltx_age_writer_sink(w), plain->data, plain->size, &err), 0);
		assert_int_equal(ltx_age_writer_finish(w, &err), 0);
		ltx_age_writer_close(w);
		b = &cipher;
	}
	assert_int_equal(fz_src_mem(&src, b->data, b->size, &err), 0);
	assert_int_equal(fz_store_put(h->store, ltx_name_put(key, n), src, &err), 0);
	fz_src_close(src);
	fz_buf_fini(&cipher);
	h->puts++;
	if (key_out)
		strcpy(key_out, key);
}

static inline struct ltx_name hist_name(struct hist *h, int level, uint64_t min, uint64_t max)
{
	struct ltx_name n = {.epoch = h->epoch,
	                     .level = level,
	                     .min_txid = min,
	                     .max_txid = max,
	                     .first_ms = h->c[min].time_ms,
	                     .last_ms = h->c[max].time_ms,
	                     .post_checksum = h->c[max].post,
	                     .encrypted = h->encrypt};

	strcpy(n.lineage, h->lineage);
	return n;
}

static inline void hist_pack(struct hist *h, int level, uint64_t min, uint64_t max, char *key)
{
	struct ltx_name n = hist_name(h, level, min, max);
	struct ltx_pack_writer w = {0};
	struct fz_buf out = {0};
	struct fz_buf_sink sink;
	struct fz_err err = {0};

	fz_buf_sink_init(&sink, &out);
	for (uint64_t t = min; t <= max; t++) {
		const struct hist_commit *c = &h->c[t];
		struct ltx_pack_entry e = {t, t, c->time_ms, out.size, c->size, c->pages, c->commit};

		assert_int_equal(fz_buf_add(&out, h->bytes.data + c->off, c->size), 0);
		assert_int_equal(ltx_pack_note(&w, &e, &err), 0);
	}
	assert_int_equal(ltx_pack_finish(&w, &sink.sink, &err), 0);
	ltx_pack_writer_fini(&w);
	hist_put_bytes(h, &n, &out, key);
	fz_buf_fini(&out);
}

/* One merged file of min..max; min == 1 and level LTX_L_SNAPSHOT: a snapshot. */
static inline void hist_merged(struct hist *h, int level, uint64_t min, uint64_t max, char *key)
{
	struct ltx_name n = hist_name(h, level, min, max);
	struct ltx_merge_input *in = calloc(max - min + 1, sizeof(*in));
	struct ltx_merge_result r;
	struct fz_buf out = {0};
	struct fz_buf_sink sink;
	struct fz_src *src = NULL;
	struct fz_err err = {0};

	assert_non_null(in);
	fz_buf_sink_init(&sink, &out);
	assert_int_equal(fz_src_mem(&src, h->bytes.data, h->bytes.size, &err), 0);
	for (uint64_t t = min; t <= max; t++)
		in[t - min] = (struct ltx_merge_input){src, h->c[t].off, h->c[t].size};
	assert_int_equal(ltx_merge_array(in, max - min + 1, &sink.sink, &r, &err), 0);
	if (level == LTX_L_SNAPSHOT)
		n.first_ms = n.last_ms;
	hist_put_bytes(h, &n, &out, key);
	fz_src_close(src);
	fz_buf_fini(&out);
	free(in);
}

static inline void hist_put_claim(struct hist *h, uint32_t n, uint32_t epoch, uint64_t base, int64_t time_ms)
{
	struct fz_err err = {0};
	char key[32], json[512];

	snprintf(key, sizeof(key), "claim/%08x", n);
	snprintf(json, sizeof(json),
	         "{\"lineage\":\"%s\",\"epoch\":%u,\"base_txid\":\"%016llx\",\"base_checksum\":\"%016llx\","
	         "\"writer\":\"host\",\"writer_id\":\"x\",\"time_ms\":%lld}",
	         h->lineage, epoch, (unsigned long long)base, (unsigned long long)(base ? h->c[base].post : 0),
	         (long long)time_ms);
	assert_int_equal(fz_store_put_new(h->store, key, json, strlen(json), &err), 0);
}

static inline void hist_claim(struct hist *h, uint32_t n, uint32_t epoch, uint64_t base)
{
	hist_put_claim(h, n, epoch, base, 1);
}

static inline void hist_claim_at(struct hist *h, uint32_t n, uint32_t epoch, int64_t time_ms)
{
	hist_put_claim(h, n, epoch, 0, time_ms);
}

static inline void hist_end(struct hist *h, uint32_t n, int64_t ms)
{
	struct fz_err err = {0};
	char key[32], json[200];

	snprintf(key, sizeof(key), "claim/%08x-ended", n);
	snprintf(json, sizeof(json), "{\"lineage\":\"%s\",\"epoch\":1,\"txid\":\"0000000000000001\",\"time_ms\":%lld}",
	         h->lineage, (long long)ms);
	assert_int_equal(fz_store_put_new(h->store, key, json, strlen(json), &err), 0);
}

/* Flips one byte of an object. at < 0: from its end. */
static inline void hist_damage(struct hist *h, const char *key, long at)
{
	char path[8192];
	uint8_t b;
	int fd;

	snprintf(path, sizeof(path), "%s/app.db/%s", h->dir, key);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	at = at < 0 ? (long)lseek(fd, 0, SEEK_END) + at : at;
	assert_int_equal(pread(fd, &b, 1, at), 1);
	b ^= 0x55;
	assert_int_equal(pwrite(fd, &b, 1, at), 1);
	close(fd);
}

/* The whole store is gone, or back. */
static inline void hist_hide(struct hist *h, bool gone)
{
	char from[96], to[96];

	snprintf(from, sizeof(from), "%s/app.db", h->dir);
	snprintf(to, sizeof(to), "%s/away", h->dir);
	assert_int_equal(rename(gone ? from : to, gone ? to : from), 0);
}

static inline void hist_remove(struct hist *h, const char *key)
{
	struct fz_err err = {0};

	assert_int_equal(fz_store_delete(h->store, &key, 1, NULL, &err), 0);
}

#endif
