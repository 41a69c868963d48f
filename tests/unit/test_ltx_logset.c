/* test_ltx_logset.c - the logs of one state directory: names, lives of a database, waiting, removal, damage. */
#include "base/file.h"
#include "ltx/enc.h"
#include "ltx/log.h"
#include "ltx/logmeta.h"
#include "tests/unit/ok.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fix {
	char dir[160];
	int dirfd;
	struct ltx_logset *set;
	struct fz_err err;
};

#define OK(call) OK_OR(call, f->err)

static int setup(void **state)
{
	struct fix *f = calloc(1, sizeof(*f));

	assert_non_null(tmp_make(f->dir, sizeof(f->dir), "fz-logset"));
	f->dirfd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	OK(ltx_logset_open(&f->set, f->dirfd, NULL, &f->err));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fix *f = *state;

	ltx_logset_close(f->set);
	close(f->dirfd);
	OK(fz_remove_tree(AT_FDCWD, f->dir, &f->err));
	free(f);
	return 0;
}

static void reopen(struct fix *f)
{
	ltx_logset_close(f->set);
	f->set = NULL;
	OK(ltx_logset_open(&f->set, f->dirfd, NULL, &f->err));
}

/* A transaction of one page. */
static void append(struct fix *f, struct ltx_log *log)
{
	struct ltx_log_info info;
	struct ltx_trailer t;
	struct ltx_enc *enc;
	struct fz_sink *sink;
	uint8_t page[512];
	uint64_t bytes;

	ltx_log_info(log, &info);
	memset(page, (int)info.tail_txid + 1, sizeof(page));
	struct ltx_header h = {.page_size = 512,
	                       .commit = 1,
	                       .min_txid = info.tail_txid + 1,
	                       .max_txid = info.tail_txid + 1,
	                       .time_ms = 1,
	                       .pre_checksum = info.tail_txid ? info.tail_checksum : 0};
	OK(ltx_enc_open(&enc, &f->err));
	OK(ltx_log_begin(log, &h, &sink, &f->err));
	OK(ltx_enc_begin(enc, sink, &h, &f->err));
	OK(ltx_enc_page(enc, 1, page, &f->err));
	OK(ltx_enc_end(enc, LTX_FLAG | ltx_page_checksum(1, page, 512), &t, &bytes, &f->err));
	OK(ltx_log_commit(log, bytes, 1, &t, false, &f->err));
	ltx_enc_close(enc);
}

static void escapes(void **state)
{
	static const struct {
		const char *name, *want;
	} cases[] = {
	        {"app.db",      "app.db"     },
                {"a/b c.db",    "a%2Fb c.db" },
	        {".hidden",     "%2Ehidden"  },
                {"100%",        "100%25"     },
	        {"a\nb",        "a%0Ab"      },
                {"\x7f",        "%7F"        },
	        {"..",          "%2E."       },
                {"\xc3\xa4.db", "\xc3\xa4.db"},
	        {"%2F",         "%252F"      },
                {"x/../y",      "x%2F..%2Fy" }
        };
	struct fix *f = *state;
	char out[64], back[64];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		OK(ltx_log_escape(out, sizeof(out), cases[i].name));
		assert_string_equal(out, cases[i].want);
		OK(ltx_log_unescape(back, sizeof(back), out, &f->err));
		assert_string_equal(back, cases[i].name);
	}
	assert_int_equal(ltx_log_escape(out, 4, "abcd"), -ENAMETOOLONG);
	assert_int_equal(ltx_log_escape(out, 4, "a/"), -ENAMETOOLONG);
	OK(ltx_log_escape(out, 5, "abcd"));
	assert_int_equal(ltx_log_escape(out, 4, ""), -EINVAL);
	assert_int_equal(ltx_log_unescape(back, sizeof(back), "a%2", &f->err), -FZ_ECORRUPT);
	assert_int_equal(ltx_log_unescape(back, sizeof(back), "a%zz", &f->err), -FZ_ECORRUPT);
	assert_int_equal(ltx_log_unescape(back, sizeof(back), "a%00", &f->err), -FZ_ECORRUPT);
}

static void names_and_lives(void **state)
{
	struct fix *f = *state;
	struct ltx_log *a, *b, *again;
	struct ltx_log_info first, second, info;
	char longest[512], too_long[513];

	assert_int_equal(ltx_logset_get(f->set, "a.db", false, &a, &f->err), -FZ_ENOTFOUND);
	OK(ltx_logset_get(f->set, "a.db", true, &a, &f->err));
	OK(ltx_logset_get(f->set, "a.db", true, &again, &f->err));
	assert_ptr_equal(a, again);
	ltx_log_put(again);
	append(f, a);
	append(f, a);
	ltx_log_info(a, &first);
	OK(ltx_log_set_ended(a, first.created_ms, &f->err)); /* in the same ms, even */
	ltx_log_put(a);
	assert_int_equal(ltx_logset_get(f->set, "a.db", false, &a, &f->err), -FZ_ENOTFOUND);
	OK(ltx_logset_get(f->set, "a.db", true, &a, &f->err));
	ltx_log_info(a, &second);
	assert_string_not_equal(first.lineage, second.lineage);
	assert_int_equal(second.tail_txid, 0);
	ltx_log_put(a);

	memset(longest, 'x', sizeof(longest));
	longest[100] = '/';
	longest[511] = 0;
	OK(ltx_logset_get(f->set, longest, true, &b, &f->err));
	ltx_log_put(b);
	memset(too_long, 'x', sizeof(too_long));
	too_long[512] = 0;
	assert_true(ltx_logset_get(f->set, too_long, true, &b, &f->err) < 0);

	for (int round = 0; round < 2; round++) { /* all of it is on disk */
		a = ltx_logset_at(f->set, 0);
		b = ltx_logset_at(f->set, 1);
		again = ltx_logset_at(f->set, 2);
		assert_null(ltx_logset_at(f->set, 3));
		ltx_log_info(again, &info);
		assert_string_equal(info.name, longest);
		ltx_log_info(a, &info);
		if (info.ended_ms == 0) /* made in the same ms: the order of these two is by lineage */
			ltx_log_info(b, &info);
		assert_string_equal(info.lineage, first.lineage);
		assert_int_equal(info.tail_txid, 2);
		assert_int_equal(info.tail_checksum, first.tail_checksum);
		ltx_log_put(a);
		ltx_log_put(b);
		ltx_log_put(again);
		OK(ltx_logset_get(f->set, "a.db", false, &a, &f->err));
		ltx_log_info(a, &info);
		assert_string_equal(info.lineage, second.lineage);
		ltx_log_put(a);
		reopen(f);
	}
}

static void removal(void **state)
{
	struct fix *f = *state;
	struct ltx_log *log, *other;
	int n = 0, fd;
	DIR *d;

	OK(ltx_logset_get(f->set, "sub/a.db", true, &log, &f->err));
	append(f, log);
	assert_int_equal(ltx_logset_remove(f->set, log, &f->err), -FZ_EBUSY); /* it lives */
	OK(ltx_log_set_ended(log, 1, &f->err));
	other = ltx_logset_at(f->set, 0);
	assert_int_equal(ltx_logset_remove(f->set, log, &f->err), -FZ_EBUSY); /* somebody else holds it */
	ltx_log_put(other);
	OK(ltx_logset_remove(f->set, log, &f->err));
	ltx_log_put(log);
	assert_null(ltx_logset_at(f->set, 0));
	fd = openat(f->dirfd, "db", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fdopendir(fd);
	while (readdir(d))
		n++;
	closedir(d);
	assert_int_equal(n, 2);
}

/* One damaged log does not keep the others from working, is left as it is, and its database begins anew. */
static void a_damaged_log_is_left_alone(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info before, info;
	struct ltx_log *a, *b;
	char meta[128];
	struct fz_buf text = {0};

	OK(ltx_logset_get(f->set, "a.db", true, &a, &f->err));
	OK(ltx_logset_get(f->set, "b.db", true, &b, &f->err));
	append(f, a);
	append(f, b);
	ltx_log_info(a, &before);
	ltx_log_put(a);
	ltx_log_put(b);
	snprintf(meta, sizeof(meta), "db/a.db.%s/head", before.lineage);
	OK(fz_write_file(f->dirfd, meta, "short", 5, 0600, &f->err));
	reopen(f);
	OK(ltx_logset_get(f->set, "b.db", false, &b, &f->err));
	ltx_log_info(b, &info);
	assert_int_equal(info.tail_txid, 1);
	ltx_log_put(b);
	assert_int_equal(ltx_logset_get(f->set, "a.db", false, &a, &f->err), -FZ_ENOTFOUND);
	OK(ltx_logset_get(f->set, "a.db", true, &a, &f->err));
	ltx_log_info(a, &info);
	assert_string_not_equal(info.lineage, before.lineage);
	ltx_log_put(a);
	snprintf(meta, sizeof(meta), "db/a.db.%s/0000000000000001.seg", before.lineage);
	OK(fz_read_file(f->dirfd, meta, 1 << 20, &text, &f->err));
	assert_true(text.size > 0);
	fz_buf_fini(&text);
}

#define THEIRS "fedcba9876543210"

/* A replica's log has the primary's lineage and epoch, is found again (ended, too), and never mixes with another one. */
static void adopts_a_lineage(void **state)
{
	static const struct {
		const char *what, *name, *lineage;
		int want;
	} cases[] = {
	        {"another database's lineage", "b.db", THEIRS,              -FZ_EEXISTS },
	        {"another one lives",          "a.db", "0000000000000001",  -FZ_EEXISTS },
	        {"capitals",                   "c.db", "FEDCBA9876543210",  -FZ_ECORRUPT},
	        {"too short",                  "c.db", "fedcba987654321",   -FZ_ECORRUPT},
	        {"too long",                   "c.db", "fedcba98765432100", -FZ_ECORRUPT},
	        {"a way out",                  "c.db", "../../../../../..", -FZ_ECORRUPT},
	        {"no name",                    "",     "0000000000000002",  -EINVAL     },
	};
	struct fix *f = *state;
	struct ltx_log_info info;
	struct ltx_log *a, *again, *ours;
	uint64_t gen = ltx_logset_wait(f->set, UINT64_MAX, 0);

	OK(ltx_logset_adopt(f->set, "a.db", THEIRS, 7, &a, &f->err));
	assert_int_not_equal(ltx_logset_wait(f->set, gen, 0), gen);
	append(f, a);
	for (int i = 0; i < 2; i++) { /* as made, and as found on disk; a log that is there keeps its epoch */
		OK(ltx_logset_adopt(f->set, "a.db", THEIRS, 9, &again, &f->err));
		assert_true(i > 0 || again == a);
		ltx_log_info(again, &info);
		assert_string_equal(info.name, "a.db");
		assert_string_equal(info.lineage, THEIRS);
		assert_int_equal(info.epoch, 7);
		assert_int_equal(info.tail_txid, 1);
		ltx_log_put(again);
		if (i == 0) {
			ltx_log_put(a);
			reopen(f);
		}
	}
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int rc = ltx_logset_adopt(f->set, cases[i].name, cases[i].lineage, 1, &a, &f->err);

		if (rc != cases[i].want)
			fail_msg("%s: %d, not %d", cases[i].what, rc, cases[i].want);
	}
	OK(ltx_logset_get(f->set, "a.db", false, &a, &f->err));
	OK(ltx_log_set_ended(a, 5, &f->err));
	OK(ltx_logset_get(f->set, "a.db", true, &ours, &f->err)); /* a new life, and the ended one is still theirs */
	OK(ltx_logset_adopt(f->set, "a.db", THEIRS, 9, &again, &f->err));
	assert_ptr_equal(again, a);
	ltx_log_put(again);
	ltx_log_put(ours);
	OK(ltx_logset_remove(f->set, a, &f->err));
	ltx_log_put(a);
	assert_int_equal(ltx_logset_adopt(f->set, "a.db", THEIRS, 9, &again, &f->err), -FZ_EEXISTS);
}

/* A replica whose log is damaged gets it from the primary once more; what was there is kept aside. */
static void adopts_in_place_of_a_damaged_log(void **state)
{
	struct fix *f = *state;
	struct ltx_log_info info;
	struct ltx_log *log;
	struct dirent *e;
	int aside = 0;
	DIR *d;

	OK(ltx_logset_adopt(f->set, "a.db", THEIRS, 7, &log, &f->err));
	append(f, log);
	ltx_log_put(log);
	OK(fz_write_file(f->dirfd, "db/a.db." THEIRS "/head", "short", 5, 0600, &f->err));
	for (int i = 0; i < 2; i++) {
		reopen(f);
		OK(ltx_logset_adopt(f->set, "a.db", THEIRS, 8, &log, &f->err));
		ltx_log_info(log, &info);
		assert_int_equal(info.tail_txid, 0);
		assert_int_equal(info.epoch, 8);
		ltx_log_put(log);
	}
	d = fdopendir(openat(f->dirfd, "db", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(d);
	while ((e = readdir(d)))
		aside += !strncmp(e->d_name, ".damaged-" THEIRS, strlen(".damaged-" THEIRS));
	closedir(d);
	assert_int_equal(aside, 1);
}

/* Killed while it made a log: nothing of that name is there, and the litter goes. */
static void an_unfinished_log_goes(void **state)
{
	struct fix *f = *state;

	OK(fz_mkdirs(f->dirfd, "db/.new-0123456789abcdef", 0700, &f->err));
	OK(fz_write_file(f->dirfd, "db/.new-0123456789abcdef/head", "x", 1, 0600, &f->err));
	reopen(f);
	assert_null(ltx_logset_at(f->set, 0));
	assert_int_equal(faccessat(f->dirfd, "db/.new-0123456789abcdef", F_OK, 0), -1);
}

static void readonly_sees_what_the_worker_does(void **state)
{
	struct fix *f = *state;
	struct ltx_logset_conf conf = {.readonly = true};
	struct ltx_log *w, *r;
	struct ltx_logset *ro;
	struct ltx_log_info info;

	OK(ltx_logset_open(&ro, f->dirfd, &conf, &f->err));
	assert_int_equal(ltx_logset_get(ro, "a.db", true, &r, &f->err), -FZ_ENOTFOUND);
	OK(ltx_logset_get(f->set, "a.db", true, &w, &f->err));
	OK(ltx_logset_get(ro, "a.db", false, &r, &f->err));
	for (int i = 1; i < 10; i++) {
		append(f, w);
		ltx_log_info(r, &info);
		assert_int_equal(info.tail_txid, i);
	}
	assert_true(ltx_log_set_epoch(r, 3, &f->err) < 0);
	ltx_log_put(r);
	ltx_log_put(w);
	ltx_logset_close(ro);
}

struct waiter {
	struct ltx_logset *set;
	pthread_t thread;
	uint64_t seen;
	_Atomic int woken;
};

static void *wait_for(void *arg)
{
	struct waiter *w = arg;

	w->seen = ltx_logset_wait(w->set, w->seen, -1);
	w->woken = 1;
	return NULL;
}

static void waiting(void **state)
{
	struct fix *f = *state;
	struct waiter w = {.set = f->set};
	struct ltx_log *log;
	uint64_t gen = ltx_logset_wait(f->set, UINT64_MAX, 0), next;

	assert_int_equal(ltx_logset_wait(f->set, gen, 1), gen);
	OK(ltx_logset_get(f->set, "a.db", true, &log, &f->err));
	next = ltx_logset_wait(f->set, gen, -1);
	assert_int_not_equal(next, gen);
	for (int i = 0; i < 50; i++) { /* the waiter may or may not sleep already: it must wake either way */
		w.seen = ltx_logset_wait(f->set, UINT64_MAX, 0);
		assert_int_equal(pthread_create(&w.thread, NULL, wait_for, &w), 0);
		append(f, log);
		pthread_join(w.thread, NULL);
	}
	w.woken = 0;
	w.seen = ltx_logset_wait(f->set, UINT64_MAX, 0);
	assert_int_equal(pthread_create(&w.thread, NULL, wait_for, &w), 0);
	while (!w.woken)
		ltx_logset_wake(f->set);
	pthread_join(w.thread, NULL);
	ltx_log_put(log);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        T(escapes),
	        T(names_and_lives),
	        T(removal),
	        T(a_damaged_log_is_left_alone),
	        T(adopts_a_lineage),
	        T(adopts_in_place_of_a_damaged_log),
	        T(an_unfinished_log_goes),
	        T(readonly_sees_what_the_worker_does),
	        T(waiting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
