/* wait.c - `fazt wait`: reading one's own writes. A program that got TXID N from the primary waits here until this host shows it. */
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include "base/clock.h"

#include <cJSON.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_MAX_MS 50

struct wanted {
	const char *name; /* NULL: all databases, up to what the primary is known to have */
	double txid;
	const cJSON *goals; /* of the first answer, when name is NULL */
};

static const cJSON *find(const cJSON *databases, const char *name)
{
	const cJSON *d;

	cJSON_ArrayForEach (d, databases) {
		const char *s = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));

		if (s && !strcmp(s, name))
			return d;
	}
	return NULL;
}

/* After a change of the primary a database may be further on its own history than the new one will ever be. */
static bool shows(const cJSON *d, double txid)
{
	return !cJSON_IsFalse(cJSON_GetObjectItem(d, "agreed")) && cmd_number(d, "txid") >= txid;
}

static bool reached(const struct wanted *want, const cJSON *answer)
{
	const cJSON *now = cJSON_GetObjectItem(answer, "databases"), *d;

	if (want->name) {
		d = find(now, want->name);
		return d && shows(d, want->txid);
	}
	if (!cJSON_IsTrue(cJSON_GetObjectItem(answer, "connected")))
		return false; /* what the primary has is not known */
	cJSON_ArrayForEach (d, now) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
		const cJSON *goal = name && want->goals ? find(want->goals, name) : NULL;

		if (!shows(d, cmd_number(goal ? goal : d, "primary_txid")))
			return false;
	}
	return true;
}

/* DIR/NAME: the longest directory in it that is a mount. */
static int split(const char *arg, char *dir, size_t cap, const char **name, struct fz_err *err)
{
	struct cmd_where w;

	if (strlen(arg) >= cap)
		return fz_fail_errno(err, ENAMETOOLONG, "%s", arg);
	for (const char *slash = strrchr(arg, '/'); slash && slash > arg;
	     slash = memrchr(arg, '/', (size_t)(slash - arg))) {
		memcpy(dir, arg, (size_t)(slash - arg));
		dir[slash - arg] = 0;
		if (cmd_where_find(&w, dir, NULL) == 0 && w.fazt) {
			*name = slash + 1;
			return 0;
		}
	}
	return fz_fail(err, FZ_ENOTMOUNTED, "%s lies below no directory that fazt serves", arg);
}

static int wait_for(const char *dir, struct wanted *want, int64_t timeout_ms, bool *in_time, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000;
	cJSON *first = NULL, *answer = NULL;
	struct cmd_where w;
	int step = 1, rc;

	for (*in_time = true;;) {
		rc = cmd_ask(dir, cmd_request("positions"), 30000, &w, &answer, err);
		if (rc < 0)
			break;
		if (!first && cJSON_IsTrue(cJSON_GetObjectItem(answer, "connected"))) {
			first = cJSON_Duplicate(answer, true);
			want->goals = cJSON_GetObjectItem(first, "databases");
		}
		if (reached(want, answer))
			break;
		if (timeout_ms >= 0 && fz_mono_ns() >= end) {
			*in_time = false;
			break;
		}
		cJSON_Delete(answer);
		answer = NULL;
		(void)!poll(NULL, 0, step);
		step = 2 * step > STEP_MAX_MS ? STEP_MAX_MS : 2 * step;
	}
	cJSON_Delete(answer);
	cJSON_Delete(first);
	return rc;
}

int cmd_wait(int argc, char **argv)
{
	const char *timeout = NULL;
	bool caught_up = false, in_time = true;
	const struct cmd_opt opts[] = {
	        {"caught-up", 'c', NULL, "until every database shows what the primary had at the call", &caught_up,
	         NULL, NULL},
	        {"timeout",       't', "S", "give up after S seconds (or 500ms, 10m, 2h) with exit code 5", NULL, &timeout,
	         NULL},
	        {0},
	};
	const struct cmd_spec spec = {
	        "wait",
	        "[--timeout S] DIR/NAME TXID | --caught-up [--timeout S] DIR",
	        "Returns when the database below DIR shows that transaction, or when a replica shows "
	        "all that its primary had.\n"
	        "Exit code 5: the time is up.",
	        "fazt wait --timeout 2 /var/lib/app/app.db 1042\n"
	        "fazt wait --caught-up /var/lib/app\n",
	        1,
	        2,
	        opts};
	struct wanted want = {0};
	unsigned long long txid = 0;
	struct fz_err err = {0};
	char dir[PATH_MAX];
	int64_t ms = -1;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0 && n != (caught_up ? 1 : 2))
		rc = fz_fail(&err, FZ_EUSAGE,
		             caught_up ? "--caught-up takes a directory only" : "DIR/NAME and a TXID are needed");
	if (rc == 0)
		rc = cmd_timeout(timeout, -1, &ms, &err);
	if (rc == 0 && !caught_up) {
		rc = cmd_args_number("TXID", args[1], UINT64_MAX, &txid, &err);
		want.txid = (double)txid;
		if (rc == 0)
			rc = split(args[0], dir, sizeof(dir), &want.name, &err);
	}
	if (rc == 0)
		rc = wait_for(caught_up ? args[0] : dir, &want, ms, &in_time, &err);
	if (rc < 0)
		return cmd_report(spec.name, &err);
	return in_time ? CMD_EXIT_OK : CMD_EXIT_TIME;
}
