/* What a log line looks like in each form, which of many equal ones are written, and where they go: a file that is moved away,
 * exchanged for a link, or grows beyond its limit beside other processes, a socket that stands for journald's, and a pipe that
 * nobody reads. */
#include "base/file.h"
#include "base/log.h"
#include "base/logline.h"
#include "base/lograte.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)

/* ---- the line --------------------------------------------------------------------------------------------------- */

static void is(const char *name, const char *got, size_t n, const char *want)
{
	if (n != strlen(want) || memcmp(got, want, n))
		fail_msg("%s:\n got  %.*s want %s", name, (int)n, got, want);
}

static void form(const char *name, const struct fz_logline *l, const char *people, const char *logfmt, const char *json,
                 const char *journald)
{
	char out[FZ_LOGLINE_SIZE];

	is(name, out, fz_logline_format(out, sizeof(out), FZ_LOG_TEXT, l), people);
	is(name, out, fz_logline_format(out, sizeof(out), FZ_LOG_LOGFMT, l), logfmt);
	is(name, out, fz_logline_format(out, sizeof(out), FZ_LOG_JSON, l), json);
	is(name, out, fz_logline_journal(out, sizeof(out), l), journald);
}

static void forms(void **state)
{
	form("all fields",
	     &(struct fz_logline){FZ_LOG_WARN, 1763738644123, "worker", 7, -FZ_ENET, "shop/app.db", "off site",
	                          "it \"is\" away", 12},
	     "2025-11-21T15:24:04.123Z worker[7] warning: it \"is\" away (FZ-1303) (12 lines like this were "
	     "suppressed)\n",
	     "time=2025-11-21T15:24:04.123Z level=warning part=worker pid=7 code=FZ-1303 db=shop/app.db target=\"off "
	     "site\" suppressed=12 msg=\"it \\\"is\\\" away\"\n",
	     "{\"time\":\"2025-11-21T15:24:04.123Z\",\"level\":\"warning\",\"part\":\"worker\",\"pid\":7,\"code\":\"FZ-"
	     "1303\",\"db\":\"shop/app.db\",\"target\":\"off site\",\"suppressed\":12,\"msg\":\"it \\\"is\\\" "
	     "away\"}\n",
	     "PRIORITY=4\nSYSLOG_IDENTIFIER=fazt\nFZ_PART=worker\nFZ_CODE=FZ-1303\nFZ_DATABASE=shop/"
	     "app.db\nFZ_TARGET=off "
	     "site\nFZ_SUPPRESSED=12\nMESSAGE=worker: it \"is\" away (FZ-1303) (suppressed: 12)\n");
	form("nothing known but the message", &(struct fz_logline){FZ_LOG_INFO, 0, "agent", 1, 0, NULL, "", "ready", 0},
	     "agent[1] info: ready\n", "level=info part=agent pid=1 msg=\"ready\"\n",
	     "{\"level\":\"info\",\"part\":\"agent\",\"pid\":1,\"msg\":\"ready\"}\n",
	     "PRIORITY=6\nSYSLOG_IDENTIFIER=fazt\nFZ_PART=agent\nMESSAGE=agent: ready\n");
	form("an errno, control characters, a backslash, no UTF-8, UTF-8",
	     &(struct fz_logline){FZ_LOG_ERROR, 0, "w", 1, -ENOSPC, "a\nFZ_CODE=x", NULL,
	                          "a\tb\\c\x1b[0m \xff \xc3\xa9 \xed\xa0\x80", 0},
	     "w[1] error: a b\\c [0m \xef\xbf\xbd \xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\n",
	     "level=error part=w pid=1 code=FZ-0028 db=\"a FZ_CODE=x\" msg=\"a b\\\\c [0m \xef\xbf\xbd \xc3\xa9 "
	     "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"\n",
	     "{\"level\":\"error\",\"part\":\"w\",\"pid\":1,\"code\":\"FZ-0028\",\"db\":\"a FZ_CODE=x\",\"msg\":\"a "
	     "b\\\\c "
	     "[0m \xef\xbf\xbd \xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"}\n",
	     "PRIORITY=3\nSYSLOG_IDENTIFIER=fazt\nFZ_PART=w\nFZ_CODE=FZ-0028\nFZ_DATABASE=a FZ_CODE=x\nMESSAGE=w: a "
	     "b\\c [0m "
	     "\xef\xbf\xbd \xc3\xa9 \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd (FZ-0028)\n");
}

/* Whatever is too long, and wherever it is cut: a whole line, its end where it belongs, no half escape or character. */
static void cut(void **state)
{
	static const char *const units[] = {"x", "\"", "\\", "\xc3\xa9", "\xf0\x9f\x98\x80", "\xff"};
	char out[FZ_LOGLINE_SIZE], msg[6000];

	for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++)
		for (size_t shift = 0; shift < 8; shift++)
			for (int f = FZ_LOG_TEXT; f <= FZ_LOG_JSON + 1; f++) {
				struct fz_logline l = {FZ_LOG_WARN, 1, "worker", 1, -FZ_ENET, msg, msg, msg, 9};
				size_t n, end, slashes = 0;

				memset(msg, 'a', shift);
				msg[shift] = 0;
				while (strlen(msg) + 8 < sizeof(msg))
					strcat(msg, units[u]);
				n = f > FZ_LOG_JSON ? fz_logline_journal(out, sizeof(out), &l)
				                    : fz_logline_format(out, sizeof(out), (enum fz_log_format)f, &l);
				assert_true(n <= sizeof(out) && out[n - 1] == '\n');
				if (f <= FZ_LOG_JSON)
					assert_ptr_equal(memchr(out, '\n', n), out + n - 1);
				if (f == FZ_LOG_TEXT || f > FZ_LOG_JSON)
					continue;
				end = n - (f == FZ_LOG_JSON ? 3 : 2);
				assert_int_equal(out[end], '"');
				assert_memory_equal(out + end - 3, "...", 3);
				for (size_t i = end - 3; out[i - 1] == '\\'; i--)
					slashes++;
				assert_true(slashes % 2 == 0 || (u == 1 && out[end - 4] == '"'));
			}
}

/* ---- the rate --------------------------------------------------------------------------------------------------- */

static struct fz_lograte rate;

static unsigned storm(uint64_t site, uint64_t what, unsigned n, uint64_t at, uint64_t *suppressed)
{
	unsigned passed = 0;
	uint64_t s;

	for (unsigned i = 0; i < n; i++) {
		passed += fz_lograte_take(&rate, site, what, FZ_LOG_WARN, "a line", at, &s);
		*suppressed += s;
	}
	return passed;
}

static void rates(void **state)
{
	struct fz_lograte_slot slot;
	uint64_t at = 1000 * SECOND, suppressed = 0, told = 0;

	memset(&rate, 0, sizeof(rate));
	pthread_mutex_init(&rate.mu, NULL);
	assert_int_equal(storm(1, 1, 1000, at, &suppressed), 10);
	assert_int_equal(storm(1, 2, 3, at, &suppressed), 3); /* another database, another site: not its storm */
	assert_int_equal(storm(2, 1, 3, at, &suppressed), 3);
	assert_int_equal(suppressed, 0);
	assert_false(fz_lograte_told(&rate, at + SECOND, false, &slot));
	assert_int_equal(storm(1, 1, 100, at + 10 * SECOND, &suppressed), 1);
	assert_int_equal(suppressed, 990);
	/* the storm is over: what was left out is told without a further line */
	assert_true(fz_lograte_told(&rate, at + 20 * SECOND, false, &slot));
	assert_int_equal(slot.suppressed, 99);
	assert_string_equal(slot.sample, "a line");
	assert_false(fz_lograte_told(&rate, at + 100 * SECOND, true, &slot));

	/* ten thousand databases fail in one place: the site's own bucket holds, and none is lost in the count */
	at += 10000 * SECOND;
	suppressed = 0;
	unsigned passed = 0;
	for (unsigned i = 0; i < 10000; i++)
		passed += storm(3, i, 1, at, &suppressed);
	assert_int_equal(passed, 200);
	while (fz_lograte_told(&rate, at, true, &slot))
		told += slot.suppressed;
	assert_int_equal(passed + told + suppressed, 10000);
	pthread_mutex_destroy(&rate.mu);
}

/* ---- where they go ---------------------------------------------------------------------------------------------- */

struct world {
	char dir[200];
	int dirfd, out, err;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	snprintf(w->dir, sizeof(w->dir), "%s/fazt-log-XXXXXX", tmp_top());
	if (!mkdtemp(w->dir))
		return -1;
	w->dirfd = open(w->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	w->out = dup(1);
	w->err = dup(2);
	*state = w;
	return w->dirfd < 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	dup2(w->out, 1);
	dup2(w->err, 2);
	close(w->out);
	close(w->err);
	fz_close(&w->dirfd);
	(void)!fz_remove_tree(AT_FDCWD, w->dir, NULL);
	free(w);
	return 0;
}

static size_t size_of(const struct world *w, const char *name)
{
	struct stat st;

	return fstatat(w->dirfd, name, &st, 0) == 0 ? (size_t)st.st_size : 0;
}

/* Runs fn in a process whose log is the file "f". */
static void in_process(struct world *w, uint64_t max, void (*fn)(struct world *w), unsigned times)
{
	pid_t pids[8];
	int status;

	assert_true(times <= 8);
	for (unsigned i = 0; i < times; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct fz_err err = {0};

			fz_log_init("test", FZ_LOG_DEBUG);
			fz_log_set_format(FZ_LOG_LOGFMT);
			if (fz_log_to_file(w->dirfd, "f", max, &err) < 0)
				_exit(1);
			fn(w);
			_exit(0);
		}
		assert_true(pids[i] > 0);
	}
	for (unsigned i = 0; i < times; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
}

static void much(struct world *w)
{
	for (int i = 0; i < 5000; i++)
		fz_debug("line %d of one process, which is as long as lines are on average, or somewhat longer than "
		         "that",
		         i);
}

static void whole_lines(struct world *w, const char *name)
{
	struct fz_buf b = {0};

	assert_int_equal(fz_read_file(w->dirfd, name, 10 << 20, &b, NULL), 0);
	assert_int_equal(b.data[b.size - 1], '\n');
	for (char *p = (char *)b.data, *nl; *p; p = nl + 1) {
		nl = strchr(p, '\n');
		assert_memory_equal(p, "time=20", 7);
		assert_int_equal(nl[-1], '"');
	}
	fz_buf_fini(&b);
}

/* Three processes, 15,000 lines, about 3 MB: the file and its predecessor stay within their limit. */
static void bounded(void **state)
{
	struct world *w = *state;

	in_process(w, 65536, much, 3);
	assert_in_range(size_of(w, "f"), 1, 65536 + 3 * FZ_LOGLINE_SIZE);
	assert_in_range(size_of(w, "f.1"), 65536, 65536 + 3 * FZ_LOGLINE_SIZE);
	whole_lines(w, "f");
	whole_lines(w, "f.1");
}

static void moved_while(struct world *w)
{
	fz_info("one");
	if (renameat(w->dirfd, "f", w->dirfd, "moved") < 0)
		_exit(2);
	fz_info("two");
	if (unlinkat(w->dirfd, "f", 0) < 0)
		_exit(3);
	fz_info("three");
	(void)!write(2, "libraries too\n", 14);
}

static void moved(void **state)
{
	struct world *w = *state;
	struct fz_buf b = {0};

	in_process(w, 0, moved_while, 1);
	whole_lines(w, "moved");
	assert_int_equal(fz_read_file(w->dirfd, "f", 10000, &b, NULL), 0);
	assert_non_null(strstr(fz_buf_str(&b), "msg=\"three\"\nlibraries too\n"));
	fz_buf_fini(&b);
}

/* Whoever can write to the directory puts there what leads elsewhere, and what would make us wait. */
static void exchanged_while(struct world *w)
{
	alarm(30);
	fz_info("one");
	if (renameat(w->dirfd, "f", w->dirfd, "ours") < 0 || symlinkat("victim", w->dirfd, "f") < 0)
		_exit(2);
	fz_info("two");
	if (unlinkat(w->dirfd, "f", 0) < 0 || mkfifoat(w->dirfd, "f", 0600) < 0)
		_exit(3);
	fz_info("three");
	if (unlinkat(w->dirfd, "f", 0) < 0)
		_exit(4);
	fz_info("four");
}

static void exchanged(void **state)
{
	struct world *w = *state;
	struct fz_err err = {0};
	struct fz_buf b = {0};

	assert_int_equal(fz_write_file(w->dirfd, "victim", "mine\n", 5, 0600, &err), 0);
	in_process(w, 1 << 20, exchanged_while, 1);
	assert_int_equal(size_of(w, "victim"), 5);
	assert_int_equal(fz_read_file(w->dirfd, "ours", 10000, &b, NULL), 0);
	assert_non_null(strstr(fz_buf_str(&b), "msg=\"one\"\n"));
	assert_non_null(strstr(fz_buf_str(&b), "msg=\"two\"\n")); /* none is lost */
	assert_non_null(strstr(fz_buf_str(&b), "msg=\"three\"\n"));
	fz_buf_reset(&b);
	assert_int_equal(fz_read_file(w->dirfd, "f", 10000, &b, NULL), 0);
	assert_non_null(strstr(fz_buf_str(&b), "msg=\"four\"\n"));
	assert_int_equal(symlinkat("victim", w->dirfd, "link"), 0);
	assert_int_equal(fz_log_to_file(w->dirfd, "link", 0, &err), -ELOOP); /* nor at the start */
	assert_int_equal(size_of(w, "victim"), 5);
	fz_buf_fini(&b);
}

static void stormy(struct world *w)
{
	struct fz_err err = {.code = -FZ_ENET, .text = "no way"};

	for (int i = 0; i < 20000; i++)
		fz_warn("%s: %s: %d", fz_log_db("a.db"), fz_log_why(&err), i);
	fz_error("another line");
	fz_log_flush(1);
}

static void suppressed(void **state)
{
	struct world *w = *state;
	struct fz_buf b = {0};
	unsigned lines_n = 0;

	in_process(w, 0, stormy, 1);
	assert_int_equal(fz_read_file(w->dirfd, "f", 1 << 20, &b, NULL), 0);
	for (const char *p = fz_buf_str(&b); *p; p++)
		lines_n += *p == '\n';
	assert_int_equal(lines_n, 12);
	assert_non_null(strstr(fz_buf_str(&b), " code=FZ-1303 db=a.db msg=\"a.db: no way: 9\"\n"));
	assert_non_null(
	        strstr(fz_buf_str(&b), " msg=\"another line\"\n")); /* neither code nor database of the line before */
	assert_non_null(strstr(fz_buf_str(&b), " suppressed=19990 msg=\"a.db: no way: 10\"\n"));
	fz_buf_fini(&b);
}

static void journal(void **state)
{
	struct world *w = *state;
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	char got[FZ_LOGLINE_SIZE];
	struct fz_buf b = {0};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), status;
	ssize_t n;
	pid_t pid;

	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/s", w->dirfd);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	pid = fork();
	if (pid == 0) {
		struct fz_err err = {.code = -FZ_EFENCED, .text = "gone"};
		int out = openat(w->dirfd, "f", O_WRONLY | O_CREAT, 0600);

		dup2(out, 2);
		fz_log_init("test", FZ_LOG_INFO);
		fz_log_to_journal(at.sun_path);
		fz_log_err(fz_log_target("t"), &err);
		for (int i = 0; i < 100; i++) /* nobody reads: more than a socket takes may not make it wait */
			for (int k = 0; k < 10; k++)
				fz_warn("%d%s", k, fz_log_db(i % 2 ? "x" : "y"));
		unlinkat(w->dirfd, "s", 0);
		fz_info("on stderr");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	n = recv(fd, got, sizeof(got), 0);
	assert_true(n > 0);
	is("datagram", got, (size_t)n,
	   "PRIORITY=3\nSYSLOG_IDENTIFIER=fazt\nFZ_PART=test\nFZ_CODE=FZ-1301\nFZ_TARGET=t\nMESSAGE=test: t: gone "
	   "(FZ-1301)\n");
	assert_int_equal(fz_read_file(w->dirfd, "f", 1 << 20, &b, NULL), 0);
	assert_non_null(strstr(fz_buf_str(&b), "<6>level=info part=test pid="));
	assert_non_null(strstr(fz_buf_str(&b), "msg=\"on stderr\"\n"));
	fz_buf_fini(&b);
	close(fd);
}

#define STALLED_THREADS 4
#define STALLED_LINES   100 /* of each, about 1.2 kB: more than a pipe takes */

static void *stalled_thread(void *arg)
{
	char filler[1100];

	(void)arg;
	memset(filler, 'x', sizeof(filler) - 1);
	filler[sizeof(filler) - 1] = 0;
	for (int i = 0; i < STALLED_LINES; i++)
		fz_debug("%s", filler);
	return NULL;
}

/* Whoever reads the pipe that stderr is has stopped: nobody waits, and the first line after that says how many are lost. */
static void stalled(void **state)
{
	int out[2], done[2], on[2], status;
	pthread_t t[STALLED_THREADS];
	unsigned passed = 0, lost = 0;
	struct fz_buf b = {0};
	char c;
	pid_t pid;

	assert_return_code(pipe(out), 0);
	assert_return_code(pipe(done), 0);
	assert_return_code(pipe(on), 0);
	pid = fork();
	if (pid == 0) {
		alarm(30);
		dup2(out[1], 2);
		close(out[0]);
		close(out[1]);
		fz_log_init("test", FZ_LOG_DEBUG);
		fz_log_set_format(FZ_LOG_LOGFMT);
		fz_log_never_wait();
		for (int i = 0; i < STALLED_THREADS; i++)
			if (pthread_create(&t[i], NULL, stalled_thread, NULL) != 0)
				_exit(2);
		for (int i = 0; i < STALLED_THREADS; i++)
			pthread_join(t[i], NULL);
		if (write(done[1], "x", 1) != 1 || read(on[0], &c, 1) != 1)
			_exit(3);
		fz_debug("it goes on");
		_exit(0);
	}
	close(out[1]);
	close(done[1]);
	if (read(done[0], &c, 1) != 1) /* it died of its alarm */
		fail_msg("a thread waits for the reader");
	/* what is in the pipe, and then all the rest */
	for (bool all = false; !all;) {
		uint8_t *p = fz_buf_room(&b, 65536);
		ssize_t n = read(out[0], p, 65536);

		assert_true(n >= 0);
		if (b.size == 0)
			assert_int_equal(write(on[1], "x", 1), 1);
		b.size += (size_t)n;
		all = n == 0;
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(fz_buf_add(&b, "", 1), 0);
	for (char *p = (char *)b.data, *nl; *p; p = nl + 1) {
		nl = strchr(p, '\n');
		*nl = 0;
		assert_memory_equal(p, "time=20", 7); /* whole lines */
		if (strstr(p, "msg=\"it goes on\""))
			assert_int_equal(sscanf(strstr(p, " suppressed="), " suppressed=%u ", &lost), 1);
		else
			passed++;
	}
	assert_true(lost > 0);
	assert_int_equal(passed + lost, STALLED_THREADS * STALLED_LINES);
	fz_buf_fini(&b);
	close(out[0]);
	close(done[0]);
	close(on[0]);
	close(on[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(forms),
	        cmocka_unit_test(cut),
	        cmocka_unit_test(rates),
	        cmocka_unit_test_setup_teardown(bounded, setup, teardown),
	        cmocka_unit_test_setup_teardown(moved, setup, teardown),
	        cmocka_unit_test_setup_teardown(exchanged, setup, teardown),
	        cmocka_unit_test_setup_teardown(suppressed, setup, teardown),
	        cmocka_unit_test_setup_teardown(journal, setup, teardown),
	        cmocka_unit_test(stalled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
