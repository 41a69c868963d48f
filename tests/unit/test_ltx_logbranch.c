/* test_ltx_logbranch.c - what a log holds is kept as a branch, then its end is cut off and another history goes on there: both read back
 * right, wherever the cut lies in a log of many segments. */
#include "tests/unit/log_make.h"

#include <signal.h>
#include <sys/resource.h>

#define LAST    200
#define SEGMENT 2000

/* A log where one lies in a state directory: DIR/db/app. */
static int setup_below(void **state)
{
	struct fix *f;
	int rc = setup(state), fd;

	f = *state;
	ltx_log_close(f->log);
	f->log = NULL;
	f->conf.segment_bytes = SEGMENT;
	OK(fz_mkdirs(f->dirfd, "db/app", 0700, &f->err));
	fd = openat(f->dirfd, "db/app", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	OK(ltx_log_make(fd, "app.db", "0123456789abcdef", 0, &f->err));
	OK(ltx_log_open(&f->log, fd, &f->conf, NULL, &f->err));
	return rc;
}

/* The database as it was after txid. */
static void go_back(struct fix *f, uint64_t txid)
{
	for (uint64_t t = 1; t <= txid; t++)
		for (uint32_t i = 0; i < PAGES; i++)
			if (t == 1 || i == t % PAGES || (i == PAGES - 1 && t % 3 == 0))
				fill(f->page[i], PAGE, t * 100 + i);
}

static unsigned links(struct ltx_log *log, const struct ltx_seg *s)
{
	struct stat st;
	char name[32];

	snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)s->min);
	assert_int_equal(fstatat(log->dirfd, name, &st, 0), 0);
	return (unsigned)st.st_nlink;
}

static struct ltx_log *open_at(struct fix *f, const char *path)
{
	struct ltx_log *log = NULL;
	int fd = openat(f->dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	OK(ltx_log_open(&log, fd, &f->conf, NULL, &f->err));
	return log;
}

/* The log as it is, and what it was as the branch; the log after a restart too. */
static void check_both(struct fix *f, struct fix *then, const char *id)
{
	struct ltx_log *branch;
	char path[200];

	check(f, f->log, LAST + 20);
	snprintf(path, sizeof(path), "branches/0123456789abcdef.%s/db/app", id);
	branch = open_at(f, path);
	check(then, branch, LAST);
	ltx_log_close(branch);
	ltx_log_close(f->log);
	f->log = open_at(f, "db/app");
	check(f, f->log, LAST + 20);
}

static void keeps_both(void **state)
{
	static const struct {
		const char *name;
		uint64_t fold;
		int seg,
		        of_seg; /* the cut: of this segment, -1 = the last one: 0 before its first, 1 in its middle, 2 its last TXID */
	} cases[] = {
	        {"in the middle of a segment",        0,  5,  1},
                {"behind the last of a segment",      0,  5,  2},
	        {"before the first of a segment",     0,  5,  0},
                {"everything",                        0,  0,  0},
	        {"in the first segment",              0,  0,  1},
                {"in the last segment",               0,  -1, 1},
	        {"in a segment, behind a base",       30, 5,  1},
                {"at the base: all segments are cut", 30, 0,  0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		void *s = *state;
		struct fix *f, *then;
		char id[64];
		uint64_t cut;
		size_t n;

		print_message("           %s\n", cases[i].name);
		if (i)
			setup_below(&s);
		f = s;
		append_many(f, 1, LAST);
		OK(ltx_log_sync(f->log, &f->err));
		if (cases[i].fold)
			OK(ltx_log_fold(f->log, cases[i].fold, NULL, &f->err));
		assert_true(f->log->n_segs > 10);
		n = cases[i].seg < 0 ? f->log->n_segs - 1 : (size_t)cases[i].seg;
		cut = cases[i].fold && !n    ? cases[i].fold
		      : cases[i].of_seg == 0 ? f->log->segs[n].min - 1
		      : cases[i].of_seg == 2 ? f->log->segs[n].max
		                             : (f->log->segs[n].min + f->log->segs[n].max) / 2;
		then = malloc(sizeof(*then));
		memcpy(then, f, sizeof(*then));

		OK(ltx_log_branch(f->log, cut, id, sizeof(id), &f->err));
		assert_string_equal(id, "epoch0-200");
		for (size_t k = 0; k < f->log->n_segs; k++)
			assert_int_equal(links(f->log, &f->log->segs[k]), k + 1 == f->log->n_segs ? 1 : 2);
		OK(ltx_log_truncate(f->log, cut, &f->err));
		go_back(f, cut);
		f->salt = 7; /* another history */
		append_many(f, cut + 1, LAST + 20);
		OK(ltx_log_sync(f->log, &f->err));
		assert_true(f->sum[LAST] != then->sum[LAST]);
		check_both(f, then, id);
		free(then);
		if (i)
			teardown(&s);
	}
}

/* Cut, and cut again further back, in what the branch shares: where it ends in the middle of a segment, with one, and where another
 * history goes on in between. */
static void cut_again(void **state)
{
	static const struct {
		const char *name;
		int first, of_first, second, of_second; /* segments; 1 = in its middle, 2 = its last TXID */
		bool between;
	} cases[] = {
	        {"in the middle, in the middle",            9, 1, 4, 1, false},
	        {"in the middle, with a segment",           9, 1, 4, 2, false},
	        {"with a segment, in its middle",           5, 2, 5, 1, false},
	        {"with a segment, in its middle, written",  5, 2, 5, 1, true },
	        {"in the middle, with one before, written", 9, 1, 8, 2, true },
	        {"twice in one, written",                   5, 1, 5, 1, true },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		void *s = *state;
		struct fix *f, *then;
		uint64_t first, second;
		char id[64];

		print_message("           %s\n", cases[i].name);
		if (i)
			setup_below(&s);
		f = s;
		append_many(f, 1, LAST);
		OK(ltx_log_sync(f->log, &f->err));
		first = f->log->segs[cases[i].first].max;
		if (cases[i].of_first == 1)
			first = (f->log->segs[cases[i].first].min + first) / 2;
		second = f->log->segs[cases[i].second].max;
		if (cases[i].of_second == 1)
			second = f->log->segs[cases[i].second].min;
		assert_true(second < first);
		then = malloc(sizeof(*then));
		memcpy(then, f, sizeof(*then));
		OK(ltx_log_branch(f->log, first, id, sizeof(id), &f->err));
		if (cases[i].of_first == 1) { /* no room for what it takes: as if nothing had been asked */
			setrlimit(RLIMIT_FSIZE, &(struct rlimit){100, RLIM_INFINITY});
			assert_true(ltx_log_truncate(f->log, first, &f->err) < 0);
			setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY});
			check(f, f->log, LAST);
		}
		OK(ltx_log_truncate(f->log, first, &f->err));
		if (cases[i].between) {
			go_back(f, first);
			f->salt = 3;
			append_many(f, first + 1, first + 5);
			OK(ltx_log_sync(f->log, &f->err));
		}
		OK(ltx_log_truncate(f->log, second, &f->err));
		go_back(f, second);
		f->salt = 7;
		append_many(f, second + 1, LAST + 20);
		OK(ltx_log_sync(f->log, &f->err));
		check_both(f, then, id);
		free(then);
		if (i)
			teardown(&s);
	}
}

/* What is there already is not made again; another history that ends at the same TXID has a name of its own. */
static void names(void **state)
{
	struct fix *f = *state;
	char id[64];

	append_many(f, 1, 20);
	OK(ltx_log_branch(f->log, 10, id, sizeof(id), &f->err));
	assert_string_equal(id, "epoch0-20");
	OK(ltx_log_branch(f->log, 10, id, sizeof(id), &f->err));
	assert_string_equal(id, "epoch0-20");
	OK(ltx_log_truncate(f->log, 10, &f->err));
	go_back(f, 10);
	f->salt = 7;
	append_many(f, 11, 20);
	for (int i = 0; i < 2; i++) {
		OK(ltx_log_branch(f->log, 10, id, sizeof(id), &f->err));
		assert_string_equal(id, "epoch0-20-2");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(keeps_both, setup_below, teardown),
	        cmocka_unit_test_setup_teardown(cut_again, setup_below, teardown),
	        cmocka_unit_test_setup_teardown(names, setup_below, teardown),
	};

	signal(SIGXFSZ, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
