/* top.c - `fazt top`: what the worker says once a second, as a picture that a terminal keeps up to date (cmd/topframe.h).
 *
 * A thread asks, since an answer may take seconds while a worker is replaced; the main thread has the terminal. They meet in
 * struct asker, and an eventfd wakes the main thread for an answer and for a signal. Nothing of the mount is held open. */
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/topframe.h"
#include "cmd/topscreen.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/worker.h"

#include <cJSON.h>
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ASK_MS      1000
#define ANSWER_MS   10000
#define ONCE_WIDTH  120
#define ONCE_SECOND 1000

struct asker {
	struct fz_worker thread;
	const char *dir;
	int wake; /* eventfd */
	atomic_bool asking;
	pthread_mutex_t mu;
	cJSON *answer; /* mu: the newest, until it is taken */
	uint64_t at_ns;
	int rc; /* mu: of the last question */
	struct fz_err err;
};

/* For the handlers of signals: the process has one asker. */
static int wake_fd = -1;
static volatile sig_atomic_t signalled;

static void on_signal(int sig)
{
	uint64_t one = 1;

	signalled = sig;
	(void)!write(wake_fd, &one, sizeof(one));
}

/* ---- the thread that asks --------------------------------------------------------------------------------------- */

static void run_asker(void *arg)
{
	struct asker *a = arg;
	uint64_t one = 1;

	do {
		struct fz_err err = {0};
		struct cmd_where where;
		cJSON *answer = NULL;
		int rc;

		atomic_store(&a->asking, true);
		rc = cmd_ask(a->dir, cmd_request("status"), ANSWER_MS, &where, &answer, &err);
		atomic_store(&a->asking, false);
		pthread_mutex_lock(&a->mu);
		a->rc = rc;
		a->err = err;
		if (rc == 0) {
			cJSON_Delete(a->answer);
			a->answer = answer;
			a->at_ns = fz_mono_ns();
		}
		pthread_mutex_unlock(&a->mu);
		(void)!write(a->wake, &one, sizeof(one));
	} while (fz_worker_wait(&a->thread, ASK_MS));
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static void type_filter(struct cmd_topview *v, int key)
{
	size_t n = strlen(v->filter);

	v->first = 0;
	if (key == '\r' || key == '\n') {
		v->typing = false;
	} else if (key == 27) {
		v->typing = false;
		v->filter[0] = 0;
	} else if (key == CMD_TOP_KEY_BACKSPACE) {
		while (n && ((unsigned char)v->filter[--n] & 0xc0) == 0x80)
			;
		v->filter[n] = 0;
	} else if (key >= ' ' && key < 256 && n + 1 < sizeof(v->filter)) {
		v->filter[n] = (char)key;
		v->filter[n + 1] = 0;
	}
}

static bool scroll_by(struct cmd_topview *v, int key)
{
	size_t page = v->page_size ? v->page_size : 1;

	switch (key) {
	case CMD_TOP_KEY_UP:
	case 'k':
		v->first -= v->first > 0;
		return true;
	case CMD_TOP_KEY_DOWN:
	case 'j':
		v->first++;
		return true;
	case CMD_TOP_KEY_PAGE_UP:
		v->first -= v->first < page ? v->first : page;
		return true;
	case CMD_TOP_KEY_PAGE_DOWN:
		v->first += page;
		return true;
	case CMD_TOP_KEY_HOME:
		v->first = 0;
		return true;
	case CMD_TOP_KEY_END:
		v->first = v->total;
		return true;
	default:
		return false;
	}
}

static void turn_to(struct cmd_topview *v, enum cmd_toppage page)
{
	v->page = v->page == page ? CMD_TOP_MAIN : page;
	v->first = 0;
}

/* Returns false when the user wants to leave. */
static bool press(struct cmd_topview *v, int key)
{
	if (key == CMD_TOP_KEY_RESIZE || key == CMD_TOP_KEY_OTHER)
		return true;
	if (v->typing) {
		type_filter(v, key);
		return true;
	}
	if (key == 'q' || key == 'Q')
		return false;
	if (v->page == CMD_TOP_HELP) {
		turn_to(v, CMD_TOP_MAIN);
		return true;
	}
	if (scroll_by(v, key))
		return true;
	switch (key) {
	case '?':
	case 'h':
		turn_to(v, CMD_TOP_HELP);
		break;
	case 't':
		turn_to(v, CMD_TOP_PEERS);
		break;
	case 'p':
		turn_to(v, CMD_TOP_PROBLEMS);
		break;
	case 's':
		v->sort = (v->sort + 1) % CMD_TOP_SORTS;
		v->first = 0;
		break;
	case 'r':
		v->reverse = !v->reverse;
		v->first = 0;
		break;
	case '/':
		v->page = CMD_TOP_MAIN;
		v->typing = true;
		break;
	case ' ':
		v->paused = !v->paused;
		break;
	case 27:
		v->page = CMD_TOP_MAIN;
		v->filter[0] = 0;
		v->first = 0;
		break;
	}
	return true;
}

/* ---- live ------------------------------------------------------------------------------------------------------- */

static int ask_once(const char *dir, struct cmd_topmodel *m, struct fz_err *err)
{
	struct cmd_where where;
	cJSON *answer;
	int rc = cmd_ask(dir, cmd_request("status"), ANSWER_MS, &where, &answer, err);

	return rc < 0 ? rc : cmd_topmodel_take(m, answer, fz_mono_ns(), err);
}

/* Takes what has been answered. trouble (of size cap) says why there is nothing new; "" = all is well. Returns 0, or the reason to
 * end: the mount has ended. */
static int take(struct asker *a, struct cmd_topmodel *m, struct cmd_topview *v, char *trouble, size_t cap,
                struct fz_err *err)
{
	cJSON *answer = NULL;
	uint64_t at_ns;
	int rc;

	pthread_mutex_lock(&a->mu);
	rc = a->rc;
	at_ns = a->at_ns;
	if (rc < 0)
		*err = a->err;
	if (!v->paused) {
		answer = a->answer;
		a->answer = NULL;
	}
	pthread_mutex_unlock(&a->mu);
	if (rc == -FZ_ENOTMOUNTED)
		return rc;
	trouble[0] = 0;
	if (rc < 0)
		snprintf(trouble, cap, "what is shown is %.0f s old: %s", (double)(fz_mono_ns() - m->at_ns) / 1e9,
		         err->text);
	return answer ? cmd_topmodel_take(m, answer, at_ns, err) : 0;
}

/* Waits for a key, an answer or a signal, a second at most. Returns false when the terminal is gone. */
static bool wait_a_moment(int wake)
{
	struct pollfd p[2] = {
	        {.fd = STDIN_FILENO, .events = POLLIN},
                {.fd = wake,         .events = POLLIN}
        };
	uint64_t n;

	if (poll(p, 2, ASK_MS) > 0 && (p[1].revents & POLLIN))
		(void)!read(wake, &n, sizeof(n));
	return !(p[0].revents & (POLLHUP | POLLERR | POLLNVAL));
}

static int live(struct asker *a, struct cmd_topmodel *m, struct cmd_topview *v, struct fz_err *err)
{
	struct fz_buf frame = {0};
	bool stay = true;
	int rc = 0, key;

	while (rc == 0 && stay && !signalled) {
		char trouble[700];

		rc = take(a, m, v, trouble, sizeof(trouble), err);
		while (rc == 0 && stay && (key = cmd_topscreen_key()) != CMD_TOP_KEY_NONE)
			stay = press(v, key);
		if (rc < 0 || !stay)
			break;
		v->trouble = *trouble ? trouble : NULL;
		v->now_ms = fz_now_ms();
		cmd_topscreen_size(&v->width, &v->height);
		fz_buf_reset(&frame);
		rc = cmd_topframe_draw(m, v, &frame, err);
		if (rc == 0) {
			cmd_topscreen_show(fz_buf_str(&frame));
			stay = wait_a_moment(a->wake);
		}
	}
	fz_buf_fini(&frame);
	return rc;
}

static int start(struct asker *a, struct fz_err *err)
{
	struct sigaction sa = {.sa_handler = on_signal};
	int rc;

	a->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (a->wake < 0)
		return fz_fail_errno(err, errno, "eventfd");
	wake_fd = a->wake;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	sigaction(SIGQUIT, &sa, NULL);
	rc = cmd_topscreen_open(err);
	return rc < 0 ? rc : fz_worker_start(&a->thread, "top-ask", run_asker, a, err);
}

static int top(const char *dir, struct cmd_topmodel *m, struct cmd_topview *v, struct fz_err *err)
{
	struct asker a = {.dir = dir, .wake = -1, .mu = PTHREAD_MUTEX_INITIALIZER};
	bool serving;
	int rc = ask_once(dir, m, err); /* whoever names a wrong directory is told without a change of the screen */

	if (rc == 0)
		rc = start(&a, err);
	serving = rc == 0;
	if (rc == 0)
		rc = live(&a, m, v, err);
	cmd_topscreen_close();
	if (rc == -FZ_ENOTMOUNTED && serving) {
		printf("fazt top: %s is not mounted any more\n", dir);
		rc = 0;
	}
	if (rc == 0 && atomic_load(&a.asking)) { /* its answer may take seconds, and nobody wants it any more */
		fflush(stdout);
		_exit(CMD_EXIT_OK);
	}
	fz_worker_stop(&a.thread);
	cJSON_Delete(a.answer);
	fz_close(&a.wake);
	return rc;
}

/* ---- one frame -------------------------------------------------------------------------------------------------- */

static int once(const char *dir, struct cmd_topmodel *m, struct cmd_topview *v, struct fz_err *err)
{
	struct fz_buf frame = {0};
	int rc = ask_once(dir, m, err);

	if (rc == 0) {
		(void)!poll(NULL, 0, ONCE_SECOND); /* rates need two answers */
		rc = ask_once(dir, m, err);
	}
	v->width = ONCE_WIDTH;
	if (rc == 0)
		rc = cmd_topframe_draw(m, v, &frame, err);
	if (rc == 0) {
		for (const char *p = fz_buf_str(&frame); *p;) { /* spaces at a line's end are no text */
			size_t n = strcspn(p, "\n"), keep = n;

			while (keep && (p[keep - 1] == ' ' || (unsigned char)p[keep - 1] < ' '))
				keep--;
			for (size_t i = 0; i < keep; i++)
				if ((unsigned char)p[i] >= ' ')
					putchar(p[i]);
			putchar('\n');
			p += n + (p[n] == '\n');
		}
	}
	fz_buf_fini(&frame);
	return rc;
}

int cmd_top(int argc, char **argv)
{
	bool one = false;
	const struct cmd_opt opts[] = {
	        {"once", 0, NULL, "print one frame as text, after a second, and end", &one, NULL, NULL},
	        {0 },
	};
	const struct cmd_spec spec = {
	        "top",
	        "[--once] DIR",
	        "Shows databases, targets and replicas with their rates, lag and errors, live in the terminal, until "
	        "the mount ends.\n"
	        "Keys: q quits, ? shows the others. No colours with NO_COLOR in the environment.",
	        "fazt top /var/lib/app\nfazt top --once /var/lib/app\n",
	        1,
	        1,
	        opts};
	struct cmd_topview v = {.page = CMD_TOP_MAIN};
	struct cmd_topmodel m = {0};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	setlocale(LC_CTYPE, "");
	v.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	if (rc == 0)
		rc = one ? once(args[0], &m, &v, &err) : top(args[0], &m, &v, &err);
	cmd_topmodel_fini(&m);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
