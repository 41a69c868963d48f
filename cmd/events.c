/* events.c - `fazt events`: one JSON line for each transaction, role change and problem, as they come (cmd/watch.h).
 *
 * The worker is asked what its logs hold beyond what was seen, and once a second for role and problems. Nothing of the mount is held
 * open meanwhile. Ends when the mount does, or nobody reads any more. */
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/watch.h"

#include "base/clock.h"

#include <cJSON.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOK_MS 20
#define ASK_MS  1000

static bool print(struct cmd_watch *w, cJSON *o)
{
	char *text = cmd_json(o, false);
	bool ok = text && printf("%s\n", text) > 0 && fflush(stdout) == 0;

	(void)w;
	free(text);
	cJSON_Delete(o);
	return ok;
}

/* Returns 1 when there may be more at once, 0, or the reason to end. */
static int look(struct cmd_watch *w, const char *dir, struct fz_err *err)
{
	struct cmd_where where;
	cJSON *answer = NULL;
	bool more;
	int rc = cmd_ask(dir, cmd_watch_question(w), 30000, &where, &answer, err);

	if (rc < 0)
		return rc;
	more = cmd_watch_entries(w, answer);
	cJSON_Delete(answer);
	return more;
}

/* Role and problems: 0, or the reason to end. */
static int ask(struct cmd_watch *w, const char *dir, struct fz_err *err)
{
	struct cmd_where where;
	cJSON *answer = NULL;
	int rc = cmd_ask(dir, cmd_request("status"), 30000, &where, &answer, err);

	if (rc < 0)
		return rc;
	cmd_watch_status(w, answer);
	cJSON_Delete(answer);
	return 0;
}

static int watch(struct cmd_watch *w, const char *dir, struct fz_err *err)
{
	uint64_t next_ns = 0;
	int rc = 0;

	while (rc >= 0 && !w->deaf) {
		rc = look(w, dir, err);
		if (rc >= 0 && !w->deaf)
			(void)!poll(NULL, 0, rc ? 0 : LOOK_MS);
		if (rc >= 0 && !w->deaf && fz_mono_ns() >= next_ns) {
			rc = ask(w, dir, err);
			next_ns = fz_mono_ns() + ASK_MS * UINT64_C(1000000);
		}
	}
	return rc == -FZ_ENOTMOUNTED ? 0 : rc; /* the mount has ended, and so do its events */
}

int cmd_events(int argc, char **argv)
{
	const struct cmd_opt opts[] = {{0}};
	const struct cmd_spec spec = {
	        "events",
	        "DIR",
	        "Prints one JSON line for each transaction, new or deleted database, change of role and "
	        "problem from now on, until\n"
	        "the mount ends.",
	        "fazt events /var/lib/app | jq -r 'select(.event == \"problem\") | .text'\n",
	        1,
	        1,
	        opts};
	struct cmd_watch w = {.put = print};
	struct fz_err err = {0};
	int n, rc;
	char **args;

	rc = cmd_args(&spec, argc, argv, &args, &n, &err);
	if (rc == 0)
		rc = watch(&w, args[0], &err);
	cmd_watch_fini(&w);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
