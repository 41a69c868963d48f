#include "cmd/problems.h"

#include "cmd/ask.h"
#include "cmd/worker.h"

#include <cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#define DISK_MIN_BYTES (UINT64_C(256) << 20)
#define LOG_MAX_BYTES  (UINT64_C(1) << 30)

static cJSON *list(cJSON *answer, const char *name)
{
	cJSON *l = cJSON_GetObjectItem(answer, name);

	return l ? l : cJSON_AddArrayToObject(answer, name);
}

static void add(cJSON *answer, const char *kind, const char *about, const char *text)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "kind", kind);
	cJSON_AddStringToObject(o, "about", about);
	cJSON_AddStringToObject(o, "text", text);
	cJSON_AddItemToArray(list(answer, "alerts"), o);
}

/* Before the next sentence of either kind, so that both lists keep one order. What it is about is the sentence without its
 * numbers, which change. */
static void catch_up(cJSON *answer)
{
	cJSON *problems = list(answer, "problems");
	int n = cJSON_GetArraySize(list(answer, "alerts"));

	for (cJSON *p = cJSON_GetArrayItem(problems, n); p; p = p->next) {
		const char *text = cJSON_GetStringValue(p);
		char about[200];
		size_t k = 0;

		for (const char *s = text; s && *s && k < sizeof(about) - 1; s++)
			if (!isdigit((unsigned char)*s))
				about[k++] = *s;
		about[k] = 0;
		add(answer, "other", about, text ? text : "");
	}
}

void cmd_problem(cJSON *answer, const char *kind, const char *about, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	catch_up(answer);
	cJSON_AddItemToArray(list(answer, "problems"), cJSON_CreateString(text));
	add(answer, kind, about ? about : "", text);
}

static void judge_disk(const struct cmd_serving *w, cJSON *answer)
{
	struct statvfs st;
	uint64_t unit, left, min = w->conf.disk_min;
	cJSON *o;

	if (fstatvfs(w->statefd, &st) < 0)
		return;
	unit = st.f_frsize ? st.f_frsize : st.f_bsize;
	left = (uint64_t)st.f_bavail * unit;
	if (!min) { /* a small disk has a limit of its own */
		min = (uint64_t)st.f_blocks * unit / 20;
		min = min < DISK_MIN_BYTES ? min : DISK_MIN_BYTES;
	}
	o = cJSON_AddObjectToObject(answer, "state_disk");
	cJSON_AddNumberToObject(o, "free_bytes", (double)left);
	cJSON_AddNumberToObject(o, "total_bytes", (double)st.f_blocks * (double)unit);
	cJSON_AddNumberToObject(o, "min_bytes", (double)min);
	if (left < min)
		cmd_problem(answer, "disk", w->state_path,
		            "%.0f MB are left on the disk of %s (limit %.0f MB): make room before commits cannot be "
		            "captured",
		            (double)left / 1e6, w->state_path, (double)min / 1e6);
}

static double lacking(const cJSON *answer, const char *lineage)
{
	const cJSON *t, *d;
	double worst = 0;

	cJSON_ArrayForEach (t, cJSON_GetObjectItem(answer, "targets")) {
		cJSON_ArrayForEach (d, cJSON_GetObjectItem(t, "databases")) {
			const char *of = cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage"));

			if (lineage && of && !strcmp(lineage, of) && cmd_number(d, "lag_bytes") > worst)
				worst = cmd_number(d, "lag_bytes");
		}
	}
	return worst;
}

/* A log that is full of what every target holds is no trouble, nor is one without targets: it is made smaller as a matter of
 * course. */
static void judge_log(const struct cmd_serving *w, const cJSON *d, cJSON *answer)
{
	double max = (double)(w->conf.log_max ? w->conf.log_max : LOG_MAX_BYTES), bytes = cmd_number(d, "log_bytes");
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
	double lag = lacking(answer, cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage")));

	if (name && bytes >= 0.8 * max && lag >= 0.5 * max)
		cmd_problem(answer, "log", name,
		            "%s: its log has %.0f of %.0f MB (log_max), and a target lacks %.0f MB of it: at the limit "
		            "commits are "
		            "merged into ranges",
		            name, bytes / 1e6, max / 1e6, lag / 1e6);
}

void cmd_problems_room(const struct cmd_serving *w, cJSON *answer)
{
	const cJSON *d;

	judge_disk(w, answer);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		judge_log(w, d, answer);
	}
}

void cmd_problems_finish(cJSON *answer)
{
	catch_up(answer);
}
