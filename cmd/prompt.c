#include "cmd/prompt.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <termios.h>
#include <unistd.h>

static struct termios as_it_was; /* a signal handler has no argument */

bool cmd_prompt_possible(void)
{
	return isatty(0) && isatty(1);
}

/* read(2) and not stdio, which would keep a secret in its buffer. */
static int read_line(char *out, size_t cap, struct fz_err *err)
{
	size_t n = 0;
	bool too_long = false;

	for (;;) {
		char c;
		ssize_t got = read(0, &c, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return fz_fail(err, ECANCELED, "the input ended: nothing was changed");
		if (c == '\n')
			break;
		if (n + 1 < cap)
			out[n++] = c;
		else
			too_long = true;
	}
	out[n] = 0;
	while (n && (out[n - 1] == ' ' || out[n - 1] == '\r' || out[n - 1] == '\t'))
		out[--n] = 0;
	return too_long ? fz_fail(err, FZ_EUSAGE, "more than %zu characters", cap - 1) : 0;
}

int cmd_prompt(const char *question, const char *otherwise, char *out, size_t cap, struct fz_err *err)
{
	int rc;

	if (otherwise && *otherwise)
		printf("%s [%s]: ", question, otherwise);
	else
		printf("%s: ", question);
	fflush(stdout);
	rc = read_line(out, cap, err);
	if (rc == 0 && !*out && otherwise)
		snprintf(out, cap, "%s", otherwise);
	return rc;
}

static void restore(int sig)
{
	(void)tcsetattr(0, TCSANOW, &as_it_was);
	signal(sig, SIG_DFL);
	raise(sig);
}

int cmd_prompt_secret(const char *question, char *out, size_t cap, struct fz_err *err)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGTSTP};
	struct sigaction act = {.sa_handler = restore}, was[5];
	struct termios quiet;
	int rc;

	if (tcgetattr(0, &as_it_was) < 0)
		return fz_fail_errno(err, errno, "a secret is asked for at a terminal only");
	for (size_t i = 0; i < 5; i++)
		sigaction(signals[i], &act, &was[i]);
	quiet = as_it_was;
	quiet.c_lflag &= ~(tcflag_t)ECHO;
	if (tcsetattr(0, TCSAFLUSH, &quiet) < 0)
		rc = fz_fail_errno(err, errno, "the terminal cannot be kept from showing it");
	else
		rc = cmd_prompt(question, NULL, out, cap, err);
	(void)tcsetattr(0, TCSAFLUSH, &as_it_was);
	for (size_t i = 0; i < 5; i++)
		sigaction(signals[i], &was[i], NULL);
	printf("\n");
	return rc;
}

int cmd_prompt_yes(const char *question, bool otherwise, bool *yes, struct fz_err *err)
{
	char line[16];
	int rc;

	for (;;) {
		rc = cmd_prompt(question, otherwise ? "yes" : "no", line, sizeof(line), err);
		if (rc < 0)
			return rc;
		*yes = !strcasecmp(line, "yes") || !strcasecmp(line, "y");
		if (*yes || !strcasecmp(line, "no") || !strcasecmp(line, "n"))
			return 0;
	}
}
