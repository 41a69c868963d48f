/* pulse.c - says to the supervisor, as often as it wants to know, that this worker works, and where it stands. It asks what `fazt
 * status` asks, so it has been through every lock of capture, logs and shipping before it speaks. */
#include "cmd/ask.h"
#include "cmd/worker.h"

#include "base/buf.h"
#include "fs/super_client.h"

#include <cJSON.h>
#include <string.h>

#define NAMES_MAX 3 /* databases named in the line */

/* "app.db at 1042, users.db at 7; s3: 0.4 s behind". A line that does not fit is cut. */
static void line_of(const cJSON *status, struct fz_buf *out)
{
	const cJSON *databases = cJSON_GetObjectItem(status, "databases"), *o;
	const cJSON *problems = cJSON_GetObjectItem(status, "problems"), *f = cJSON_GetObjectItem(status, "following");
	int n = 0, all = cJSON_GetArraySize(databases), rc = 0;

	if (f)
		databases = cJSON_GetObjectItem(f, "databases"), all = cJSON_GetArraySize(databases);
	cJSON_ArrayForEach (o, databases)
		if (n++ < NAMES_MAX)
			rc |= fz_buf_addf(out, "%s%s at %.0f", n > 1 ? ", " : "", cmd_text(o, "name"),
			                  cmd_number(o, "txid"));
	if (!all)
		rc |= fz_buf_addf(out, "no databases yet");
	else if (all > NAMES_MAX)
		rc |= fz_buf_addf(out, " and %d more", all - NAMES_MAX);
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(status, "targets"))
		rc |= fz_buf_addf(out, "; %s: %.1f s behind", cmd_text(o, "name"), cmd_number(o, "lag_seconds"));
	if (f)
		rc |= fz_buf_addf(out, "; follows %s",
		                  *cmd_text(f, "store") ? cmd_text(f, "store") : cmd_text(status, "primary"));
	cJSON_ArrayForEach (o, problems) {
		rc |= fz_buf_addf(out, "; PROBLEM: %s", cJSON_GetStringValue(o) ? cJSON_GetStringValue(o) : "?");
		break;
	}
	(void)rc;
}

static void run(void *arg)
{
	struct cmd_serving *w = arg;
	int64_t every_ms = (int64_t)fs_super_report_ms(), wait_ms = 0;

	for (; fz_worker_wait(&w->pulse, wait_ms); wait_ms = every_ms) {
		cJSON *request = cJSON_CreateObject(), *answer = cJSON_CreateObject();
		struct fz_buf line = {0};
		struct fz_err err = {0};
		int fd = -1;

		cJSON_AddStringToObject(request, "cmd", "status");
		if (cmd_answer(&w->handler, request, answer, &fd, &err) == 0) {
			line_of(answer, &line);
			fs_super_report(fz_buf_str(&line));
		}
		fz_buf_fini(&line);
		cJSON_Delete(request);
		cJSON_Delete(answer);
	}
}

int cmd_pulse_start(struct cmd_serving *w, struct fz_err *err)
{
	return fs_super_report_ms() ? fz_worker_start(&w->pulse, "pulse", run, w, err) : 0;
}
