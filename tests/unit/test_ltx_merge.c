/* test_ltx_merge.c - the merge of files must leave the same database as the files one after the other. */
#include "ltx/merge.h"

#include "base/cursor.h"
#include "base/file.h"
#include "tests/unit/ltx_make.h"

#include <errno.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature) /* clang */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* All files of a history in one buffer, as a segment of the log holds them. */
struct history {
	struct make_db db;
	struct fz_buf f;
	uint64_t off[1000], size[1000];
	uint64_t n;
	struct fz_src *src;
};

static void init(struct history *h, uint32_t page_size, uint32_t cap, uint32_t seed)
{
	memset(h, 0, sizeof(*h));
	make_init(&h->db, page_size, cap, seed);
}

static void commit(struct history *h)
{
	h->off[h->n] = h->f.size;
	h->size[h->n++] = make_commit(&h->db, &h->f);
}

static void fini(struct history *h)
{
	fz_src_close(h->src);
	fz_buf_fini(&h->f);
	make_fini(&h->db);
}

static struct fz_src *source(struct history *h)
{
	fz_src_close(h->src);
	h->src = NULL;
	assert_int_equal(fz_src_mem(&h->src, h->f.data, h->f.size, NULL), 0);
	return h->src;
}

/* Merges files [from, to) of h. */
static int merge(struct history *h, uint64_t from, uint64_t to, struct fz_buf *out, struct ltx_merge_result *r,
                 struct fz_err *err)
{
	struct ltx_merge_input in[1000];
	struct fz_buf_sink sink;

	for (uint64_t i = from; i < to; i++)
		in[i - from] = (struct ltx_merge_input){source(h), h->off[i], h->size[i]};
	for (uint64_t i = from; i < to; i++)
		in[i - from].src = h->src;
	fz_buf_sink_init(&sink, out);
	return ltx_merge_array(in, to - from, &sink.sink, r, err);
}

static struct ltx_header header_at(const uint8_t *p)
{
	struct ltx_header h;

	assert_int_equal(ltx_header_get(&h, p, NULL), 0);
	return h;
}

/* files [0, from) applied one by one, then the merge of [from, to): the same as [0, to) one by one. */
static void compare(struct history *h, uint64_t from, uint64_t to)
{
	struct make_db want, got;
	struct fz_buf out = {0};
	struct ltx_merge_result r;
	struct ltx_header first, last;
	struct fz_err err = {0};
	struct fz_src *src = NULL;
	struct ltx_trailer t;
	uint64_t bytes;
	uint32_t pages;

	make_init(&want, h->db.page_size, h->db.cap, 0);
	make_init(&got, h->db.page_size, h->db.cap, 0);
	for (uint64_t i = 0; i < to; i++) {
		make_apply(&want, h->f.data + h->off[i], h->size[i]);
		if (i < from)
			make_apply(&got, h->f.data + h->off[i], h->size[i]);
	}
	if (merge(h, from, to, &out, &r, &err) != 0)
		print_error("%llu-%llu: %s\n", (unsigned long long)from, (unsigned long long)to, err.text);
	assert_int_equal(err.code, 0);
	make_apply(&got, out.data, out.size);
	assert_int_equal(got.commit, want.commit);
	assert_int_equal(got.txid, want.txid);
	assert_int_equal(got.sum, want.sum);
	assert_int_equal(make_sum(&got), want.sum);
	assert_memory_equal(got.pages, want.pages, (size_t)want.commit * want.page_size);

	first = header_at(h->f.data + h->off[from]);
	last = header_at(h->f.data + h->off[to - 1]);
	assert_int_equal(r.header.min_txid, first.min_txid);
	assert_int_equal(r.header.pre_checksum, first.pre_checksum);
	assert_int_equal(r.header.max_txid, last.max_txid);
	assert_int_equal(r.header.time_ms, last.time_ms);
	assert_int_equal(fz_src_mem(&src, out.data, out.size, NULL), 0);
	assert_int_equal(ltx_dec_verify(src, 0, NULL, &t, &bytes, &pages, NULL), 0);
	assert_int_equal(r.pages, pages);
	assert_int_equal(r.file_bytes, bytes);
	assert_int_equal(r.trailer.file_checksum, t.file_checksum);
	assert_int_equal(r.trailer.post_checksum, t.post_checksum);
	fz_src_close(src);
	fz_buf_fini(&out);
	make_fini(&want);
	make_fini(&got);
}

static void random_histories(void **state)
{
	for (uint32_t seed = 1; seed <= 30; seed++) {
		uint32_t page_size = 512u << seed % 4;
		struct history h;

		init(&h, page_size, 60, seed);
		make_resize(&h.db, 10);
		for (int i = 0; i < 25; i++) {
			uint32_t changes = make_rnd(&h.db, 6);

			if (make_rnd(&h.db, 3) == 0) /* shrinks as often as it grows */
				make_resize(&h.db, 1 + make_rnd(&h.db, 60));
			while (changes--)
				make_change(&h.db, 1 + make_rnd(&h.db, h.db.commit));
			memset(h.db.dirty + h.db.commit + 1, 0, h.db.cap - h.db.commit);
			commit(&h);
		}
		for (int i = 0; i < 20; i++) {
			uint64_t from = make_rnd(&h.db, 25);

			compare(&h, i < 5 ? 0 : from, from + 1 + make_rnd(&h.db, (uint32_t)(25 - from)));
		}
		fini(&h);
	}
	(void)state;
}

/* Shrinks, then grows again: the old pages 4..6 are in an input and must not come back. */
static void pages_do_not_come_back(void **state)
{
	struct history h;

	init(&h, 512, 10, 1);
	make_resize(&h.db, 6);
	commit(&h);
	make_resize(&h.db, 3);
	make_change(&h.db, 1);
	commit(&h);
	make_resize(&h.db, 6);
	make_change(&h.db, 1);
	commit(&h);
	compare(&h, 0, 3);
	compare(&h, 1, 3);
	compare(&h, 0, 2);
	fini(&h);

	/* the growing file lacks page 5, and another snapshot's page 5 lies ready to be taken instead */
	init(&h, 512, 10, 1);
	make_resize(&h.db, 6);
	commit(&h);
	make_resize(&h.db, 3);
	make_change(&h.db, 1);
	commit(&h);
	make_resize(&h.db, 6);
	h.db.dirty[5] = 0;
	commit(&h);
	{
		struct fz_buf out = {0};
		struct fz_err err = {0};

		assert_int_equal(merge(&h, 0, 3, &out, NULL, &err), -FZ_ECORRUPT);
		assert_int_equal(merge(&h, 1, 3, &out, NULL, &err), -FZ_ECORRUPT);
		fz_buf_fini(&out);
	}
	fini(&h);
	(void)state;
}

static void append(struct history *h, const struct fz_buf *f)
{
	h->off[h->n] = h->f.size;
	h->size[h->n++] = f->size;
	assert_int_equal(fz_buf_add(&h->f, f->data, f->size), 0);
}

/* VACUUM with another page size: what is older, in pages of another size, counts for nothing. */
static void page_size_changes(void **state)
{
	struct fz_buf f = {0}, out = {0};
	struct history h;
	struct make_db b, got;
	struct ltx_merge_result r;

	init(&h, 1024, 50, 1);
	make_resize(&h.db, 50);
	commit(&h);
	make_change(&h.db, 7);
	commit(&h);
	make_init(&b, 4096, 20, 2);
	make_resize(&b, 14);
	b.sum = make_sum(&b);
	make_file(&b, 3, 3, h.db.sum, b.sum, true, &f);
	append(&h, &f);
	memset(b.dirty, 0, 21);
	b.txid = 3;
	make_change(&b, 2);
	make_resize(&b, 12);
	fz_buf_reset(&f);
	make_commit(&b, &f);
	append(&h, &f);
	for (uint64_t from = 0; from < 4; from++) {
		fz_buf_reset(&out);
		assert_int_equal(merge(&h, from, 4, &out, &r, NULL), 0);
		assert_int_equal(r.header.page_size, 4096);
		assert_int_equal(r.pages, from == 3 ? 1 : 12);
		if (from == 3)
			continue;
		make_init(&got, 4096, 20, 0);
		make_apply(&got, out.data, out.size);
		assert_memory_equal(got.pages, b.pages, 12 * 4096);
		make_fini(&got);
	}
	/* a file that changes the page size without holding every page */
	fz_buf_reset(&f);
	b.txid = 3;
	h.n = 2;
	b.dirty[1] = 1;
	make_file(&b, 3, 3, h.db.sum, b.sum, false, &f);
	append(&h, &f);
	assert_int_equal(merge(&h, 0, 3, &out, &r, NULL), -FZ_ECORRUPT);
	assert_int_equal(merge(&h, 1, 3, &out, &r, NULL), -FZ_ECORRUPT);
	make_fini(&b);
	fz_buf_fini(&f);
	fz_buf_fini(&out);
	fini(&h);
	(void)state;
}

/* Ranges may overlap, and a later snapshot may stand in the chain. */
static void overlapping_ranges(void **state)
{
	struct fz_buf f[3] = {{0}, {0}, {0}};
	struct history h, o;

	init(&h, 512, 30, 3);
	make_resize(&h.db, 20);
	for (int i = 0; i < 12; i++) {
		make_change(&h.db, 1 + make_rnd(&h.db, 20));
		commit(&h);
	}
	assert_int_equal(merge(&h, 0, 6, &f[0], NULL, NULL), 0);
	assert_int_equal(merge(&h, 4, 9, &f[1], NULL, NULL), 0);
	assert_int_equal(merge(&h, 0, 12, &f[2], NULL, NULL), 0);
	init(&o, 512, 30, 0);
	for (int i = 0; i < 3; i++)
		append(&o, &f[i]);
	compare(&o, 0, 2);
	compare(&o, 0, 3);
	compare(&o, 1, 3);
	for (int i = 0; i < 3; i++)
		fz_buf_fini(&f[i]);
	fini(&h);
	fini(&o);
	(void)state;
}

static const struct chain_case {
	const char *name;
	uint64_t min[3], max[3];
	uint64_t pre_xor; /* into the second file's pre-apply checksum */
	int want;
} chain_cases[] = {
        {"as they follow",                    {2, 3, 4}, {2, 3, 4},  0, 0           },
        {"ranges",                            {2, 5, 6}, {4, 5, 90}, 0, 0           },
        {"gap",                               {2, 4, 5}, {2, 4, 5},  0, -FZ_EGAP    },
        {"gap after a range",                 {2, 5, 7}, {4, 5, 7},  0, -FZ_EGAP    },
        {"the same twice",                    {2, 3, 3}, {2, 3, 3},  0, -FZ_EGAP    },
        {"inside the one before",             {2, 3, 3}, {2, 9, 9},  0, -FZ_EGAP    },
        {"backwards",                         {3, 2, 4}, {3, 2, 4},  0, -FZ_EGAP    },
        {"pre-apply checksum",                {2, 3, 4}, {2, 3, 4},  1, -FZ_ECORRUPT},
        {"pre-apply checksum inside a range", {2, 3, 4}, {3, 4, 5},  1, 0           },
};

static void chains(void **state)
{
	for (size_t i = 0; i < sizeof(chain_cases) / sizeof(chain_cases[0]); i++) {
		const struct chain_case *c = &chain_cases[i];
		struct fz_buf f = {0}, out = {0};
		struct fz_err err = {0};
		struct history h;
		int rc;

		init(&h, 512, 5, 1);
		make_resize(&h.db, 5);
		for (uint64_t j = 0; j < 3; j++) {
			fz_buf_reset(&f);
			make_file(&h.db, c->min[j], c->max[j], LTX_FLAG | ((10 + j) ^ (j == 1 ? c->pre_xor : 0)),
			          LTX_FLAG | (11 + j), true, &f);
			append(&h, &f);
		}
		rc = merge(&h, 0, 3, &out, NULL, &err);
		if (rc != c->want)
			print_error("%s: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->want);
		fz_buf_fini(&f);
		fz_buf_fini(&out);
		fini(&h);
	}
	(void)state;
}

/* What is merged is checked: no damaged byte gets a fresh file checksum. */
static void damage_is_not_signed(void **state)
{
	struct history h;

	init(&h, 512, 8, 5);
	make_resize(&h.db, 4);
	commit(&h);
	make_change(&h.db, 2);
	commit(&h);
	make_change(&h.db, 2);
	make_change(&h.db, 3);
	commit(&h);
	for (uint64_t from = 0; from < 2; from++) {
		struct fz_buf want = {0}, out = {0};
		int caught = 0;

		assert_int_equal(merge(&h, from, 3, &want, NULL, NULL), 0);
		for (uint64_t i = h.off[from]; i < h.f.size; i++) {
			struct make_db a, b;

			h.f.data[i] ^= 0x10;
			fz_buf_reset(&out);
			if (merge(&h, from, 3, &out, NULL, NULL) == 0) {
				/* another way to compress the same page, a time, a node id, or a frame that was
				 * replaced later: what is in the result must be right */
				make_init(&a, 512, 8, 0);
				make_init(&b, 512, 8, 0);
				make_apply(&a, want.data, want.size);
				make_apply(&b, out.data, out.size);
				assert_memory_equal(a.pages, b.pages, 8 * 512);
				assert_int_equal(a.sum, b.sum);
				make_fini(&a);
				make_fini(&b);
			} else {
				caught++;
			}
			h.f.data[i] ^= 0x10;
		}
		assert_true(caught > 100);
		fz_buf_fini(&want);
		fz_buf_fini(&out);
	}
	fini(&h);
	(void)state;
}

/* Frames of both encodings, by the reference library; its own compaction is the judge. */
static void golden_files(void **state)
{
	static const char *const sets[][4] = {
	        {"block-1", "block-2", "block-3", "block-1-3"},
                {"frame-1", "frame-2", "frame-3", "block-1-3"},
	        {"block-1", "frame-2", "block-3", "frame-1-3"},
                {"frame-2", "frame-3", NULL,      "block-2-3"},
	        {"block-2", "block-3", NULL,      "frame-2-3"},
	};

	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
		struct fz_buf f = {0}, out = {0};
		struct make_db want, got;
		struct ltx_index ia, ib;
		struct fz_src *src = NULL;
		struct history h;
		char path[128];

		init(&h, 512, 10, 0);
		for (int j = 0; j < 3 && sets[i][j]; j++) {
			fz_buf_reset(&f);
			snprintf(path, sizeof(path), "tests/golden/ltx/%s.ltx", sets[i][j]);
			make_read(&f, path);
			append(&h, &f);
		}
		assert_int_equal(merge(&h, 0, h.n, &out, NULL, NULL), 0);
		fz_buf_reset(&f);
		snprintf(path, sizeof(path), "tests/golden/ltx/%s.ltx", sets[i][3]);
		make_read(&f, path);
		assert_memory_equal(out.data, f.data, LTX_HEADER_SIZE);
		make_init(&want, 512, 10, 0);
		make_init(&got, 512, 10, 0);
		make_apply(&want, f.data, f.size);
		make_apply(&got, out.data, out.size);
		assert_memory_equal(got.pages, want.pages, 10 * 512);
		assert_int_equal(got.sum, want.sum);
		assert_int_equal(fz_src_mem(&src, f.data, f.size, NULL), 0);
		assert_int_equal(ltx_index_read(&ia, src, 0, f.size, NULL), 0);
		fz_src_close(src);
		assert_int_equal(fz_src_mem(&src, out.data, out.size, NULL), 0);
		assert_int_equal(ltx_index_read(&ib, src, 0, out.size, NULL), 0);
		fz_src_close(src);
		assert_int_equal(ia.n, ib.n);
		for (uint32_t k = 0; k < ia.n; k++)
			assert_int_equal(ia.e[k].pgno, ib.e[k].pgno);
		ltx_index_fini(&ia);
		ltx_index_fini(&ib);
		make_fini(&want);
		make_fini(&got);
		fz_buf_fini(&f);
		fz_buf_fini(&out);
		fini(&h);
	}
	(void)state;
}

/* Inputs by number, each from a source that is closed at the next get(). */
struct one_by_one {
	struct ltx_merge_list list;
	struct history *h;
	struct fz_src *open;
	uint64_t gets;
};

static int get_one(struct ltx_merge_list *l, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	struct one_by_one *o = (struct one_by_one *)l;
	int rc;

	fz_src_close(o->open);
	o->open = NULL;
	o->gets++;
	rc = fz_src_mem(&o->open, o->h->f.data + o->h->off[i], o->h->size[i], err);
	*out = (struct ltx_merge_input){o->open, 0, o->h->size[i]};
	return rc;
}

/* Page numbers far apart need many windows, the frames lie in sources that come and go. */
static void windows_and_short_lived_sources(void **state)
{
	enum { FILES = 40, PAGES = 30, APART = 1000003 };
	static uint32_t newest[FILES * PAGES]; /* by page: the file, 0 = none */
	struct one_by_one o = {
	        .list = {get_one, FILES}
        };
	struct fz_buf out = {0};
	struct fz_buf_sink sink;
	struct ltx_merge_result r;
	struct fz_err err = {0};
	struct fz_src *src = NULL;
	struct ltx_dec *d = NULL;
	struct ltx_enc *e = NULL;
	struct history h;
	const uint8_t *page;
	uint8_t data[512];
	uint32_t pgno, n = 0, rnd = 3;
	int rc;

	init(&h, 512, 1, 1);
	o.h = &h;
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	for (uint32_t i = 0; i < FILES; i++) {
		struct ltx_header hd = {.page_size = 512,
		                        .commit = UINT32_MAX,
		                        .min_txid = i + 2,
		                        .max_txid = i + 2,
		                        .pre_checksum = LTX_FLAG | i};

		fz_buf_sink_init(&sink, &h.f);
		h.off[h.n] = h.f.size;
		assert_int_equal(ltx_enc_begin(e, &sink.sink, &hd, NULL), 0);
		for (uint32_t p = 0; p < PAGES; p++) {
			rnd = rnd * 1664525 + 1013904223;
			if (rnd >> 30)
				continue;
			memset(data, (int)(i + 1), sizeof(data));
			newest[p] = i + 1;
			fz_put32(data, p * APART + 1);
			assert_int_equal(ltx_enc_page(e, p * APART + 1, data, NULL), 0);
		}
		assert_int_equal(ltx_enc_end(e, LTX_FLAG | (i + 1), NULL, &h.size[h.n], NULL), 0);
		h.n++;
	}
	ltx_enc_close(e);
	fz_buf_sink_init(&sink, &out);
	rc = ltx_merge(&o.list, &sink.sink, &r, NULL, &err);
	if (rc)
		print_error("%s\n", err.text);
	assert_int_equal(rc, 0);
	/* one walk over the inputs for each page, since they lie a window apart, not one for each empty window */
	assert_in_range(o.gets, FILES * 2, FILES * (PAGES + 2));
	assert_int_equal(fz_src_mem(&src, out.data, out.size, NULL), 0);
	assert_int_equal(ltx_dec_open(&d, src, 0, NULL), 0);
	while ((rc = ltx_dec_page(d, &pgno, &page, NULL)) == 1) {
		uint32_t p = (pgno - 1) / APART;

		assert_int_equal((pgno - 1) % APART, 0);
		assert_int_equal(fz_be32(page), pgno);
		assert_int_equal(page[4], newest[p]);
		newest[p] = 0;
		n++;
	}
	assert_int_equal(rc, 0);
	assert_int_equal(n, r.pages);
	for (uint32_t p = 0; p < PAGES; p++)
		assert_int_equal(newest[p], 0);
	ltx_dec_close(d);
	fz_src_close(src);
	fz_src_close(o.open);
	fz_buf_fini(&out);
	fini(&h);
	(void)state;
}

/* A database of more pages than a window has slots, with small changes: each page is the newest one. */
static void more_pages_than_a_window(void **state)
{
	enum { PAGES = 300000 };
	struct history h;

	init(&h, 512, PAGES, 1);
	h.db.commit = PAGES;
	for (uint32_t i = 0; i < PAGES; i++)
		fz_put32(h.db.pages + (size_t)i * 512 + 100, i);
	commit(&h);
	for (int i = 0; i < 3; i++) {
		make_change(&h.db, 5);
		make_change(&h.db, 262144);
		make_change(&h.db, 262145);
		make_change(&h.db, 299990 + (uint32_t)i);
		commit(&h);
	}
	compare(&h, 0, 4);
	compare(&h, 1, 4);
	fini(&h);
	(void)state;
}

/* ---- failures on the way ---- */

struct counted;
struct counted_src {
	struct fz_src src; /* over h->f */
	struct counted *c;
};
struct counted {
	struct ltx_merge_list list;
	struct history *h;
	struct counted_src src;
	int calls, fail_at;
	bool cancel_instead;
	volatile bool cancel;
};

static int step(struct counted *c, struct fz_err *err)
{
	if (++c->calls != c->fail_at)
		return 0;
	if (!c->cancel_instead)
		return fz_fail_errno(err, EIO, "failing on purpose");
	c->cancel = true;
	return 0;
}

static int counted_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct counted *c = ((struct counted_src *)s)->c;

	memcpy(data, c->h->f.data + off, n);
	return step(c, err);
}

static int counted_get(struct ltx_merge_list *l, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	struct counted *c = (struct counted *)l;

	*out = (struct ltx_merge_input){&c->src.src, c->h->off[i], c->h->size[i]};
	return step(c, err);
}

static void each_step_can_fail(void **state)
{
	struct history h;

	init(&h, 512, 20, 2);
	make_resize(&h.db, 10);
	commit(&h);
	for (int i = 0; i < 4; i++) {
		make_change(&h.db, 1 + (uint32_t)i);
		commit(&h);
	}
	for (int cancel = 0; cancel < 2; cancel++) {
		int rc = -1, n = 1, failed = 0;

		for (; rc != 0; n++) {
			struct counted c = {.h = &h, .fail_at = n, .cancel_instead = cancel};
			struct fz_buf out = {0};
			struct fz_buf_sink sink;
			struct fz_err err = {0};

			assert_in_range(n, 1, 1000);
			c.list.get = counted_get;
			c.list.n = h.n;
			c.src.src.read_at = counted_read;
			c.src.src.size_bytes = h.f.size;
			c.src.c = &c;
			fz_buf_sink_init(&sink, &out);
			rc = ltx_merge(&c.list, &sink.sink, NULL, &c.cancel, &err);
			assert_int_equal(rc, err.code);
			if (rc != 0)
				assert_int_equal(rc, cancel ? -ECANCELED : -EIO);
			else if (cancel && c.calls >= n)
				rc = -1; /* after the last look at the flag: it may finish */
			failed += rc != 0;
			fz_buf_fini(&out);
		}
		assert_true(failed > 15);
	}
	fini(&h);
	(void)state;
}

static void nothing_to_merge(void **state)
{
	struct fz_buf out = {0};
	struct fz_buf_sink sink;

	fz_buf_sink_init(&sink, &out);
	assert_int_equal(ltx_merge_array(NULL, 0, &sink.sink, NULL, NULL), -FZ_EINTERNAL);
	assert_int_equal(out.size, 0);
	(void)state;
}

/* Memory does not grow with the number of inputs. */
static uint64_t rss_anon(void)
{
	char line[256];
	unsigned long kb = 0;
	FILE *f = fopen("/proc/self/status", "r");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "RssAnon: %lu kB", &kb) == 1)
			break;
	fclose(f);
	return kb * 1024;
}

struct many {
	struct ltx_merge_list list;
	struct fz_src *src; /* back to back, all of one length */
	uint64_t first_bytes, each_bytes, peak;
};

static int many_get(struct ltx_merge_list *l, uint64_t i, struct ltx_merge_input *out, struct fz_err *err)
{
	struct many *m = (struct many *)l;

	*out = (struct ltx_merge_input){m->src, i ? m->first_bytes + (i - 1) * m->each_bytes : 0,
	                                i ? m->each_bytes : m->first_bytes};
	if (i % 1000 == 0 && rss_anon() > m->peak)
		m->peak = rss_anon();
	(void)err;
	return 0;
}

static int drop_write(struct fz_sink *s, const void *data, size_t n, struct fz_err *err)
{
	(void)s;
	(void)data;
	(void)n;
	(void)err;
	return 0;
}

static void many_small_inputs(void **state)
{
	enum { N = 100000 };
	char path[] = "/tmp/test_ltx_merge.XXXXXX";
	struct fz_sink drop = {drop_write};
	struct many m = {
	        .list = {many_get, N + 1}
        };
	struct ltx_merge_result r;
	struct fz_fd_sink to;
	struct ltx_enc *e = NULL;
	struct make_db db;
	uint64_t sum, size, start;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	make_init(&db, 512, 1000, 1);
	make_resize(&db, 1000);
	sum = make_sum(&db);
	fz_fd_sink_init(&to, fd, 0);
	assert_int_equal(ltx_enc_open(&e, NULL), 0);
	for (uint64_t i = 0; i <= N; i++) {
		struct ltx_header h = {.page_size = 512,
		                       .commit = 1000,
		                       .min_txid = i + 1,
		                       .max_txid = i + 1,
		                       .pre_checksum = i ? sum : 0};
		uint32_t pgno = 200 + (uint32_t)(i % 700); /* page numbers of 2 bytes: files of one length */
		uint8_t *p = make_page(&db, pgno);

		assert_int_equal(ltx_enc_begin(e, &to.sink, &h, NULL), 0);
		if (i == 0) {
			for (pgno = 1; pgno <= 1000; pgno++)
				assert_int_equal(ltx_enc_page(e, pgno, make_page(&db, pgno), NULL), 0);
		} else {
			sum = ltx_db_checksum_swap(sum, ltx_page_checksum(pgno, p, 512), 0);
			for (int k = 0; k < 512; k++)
				p[k] = (uint8_t)(k * 2654435761u >> 24); /* does not compress: one length again */
			fz_put64(p, i * UINT64_C(0x9e3779b97f4a7c15));
			sum = ltx_db_checksum_swap(sum, 0, ltx_page_checksum(pgno, p, 512));
			assert_int_equal(ltx_enc_page(e, pgno, p, NULL), 0);
		}
		assert_int_equal(ltx_enc_end(e, sum, NULL, &size, NULL), 0);
		if (i == 0)
			m.first_bytes = size;
		else if (i == 1)
			m.each_bytes = size;
		else
			assert_int_equal(size, m.each_bytes);
	}
	assert_int_equal(fz_fd_sink_flush(&to, NULL), 0);
	ltx_enc_close(e);
	fz_fd_sink_fini(&to);
	assert_int_equal(fz_src_fd(&m.src, fd, 0, to.off_bytes, true, NULL), 0);
	start = rss_anon();
	assert_int_equal(ltx_merge(&m.list, &drop, &r, NULL, NULL), 0);
	assert_int_equal(r.pages, 1000);
	assert_int_equal(r.trailer.post_checksum, sum);
	assert_int_equal(sum, make_sum(&db));
	if (!SANITIZED) /* their shadow memory counts too */
		assert_in_range(m.peak, 0, start + (6 << 20));
	fz_src_close(m.src);
	make_fini(&db);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(random_histories),
	        cmocka_unit_test(pages_do_not_come_back),
	        cmocka_unit_test(page_size_changes),
	        cmocka_unit_test(overlapping_ranges),
	        cmocka_unit_test(chains),
	        cmocka_unit_test(damage_is_not_signed),
	        cmocka_unit_test(golden_files),
	        cmocka_unit_test(windows_and_short_lived_sources),
	        cmocka_unit_test(more_pages_than_a_window),
	        cmocka_unit_test(each_step_can_fail),
	        cmocka_unit_test(nothing_to_merge),
	        cmocka_unit_test(many_small_inputs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
