#include "cmd/alertbook.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/utf8.h"
#include "cmd/ask.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME "alerts"
#define FILE_MAX  (1u << 20)
#define GIVE_UP   5

/* ---- what is so ------------------------------------------------------------------------------------------------- */

static struct cmd_alert *add(struct cmd_alertbook *b, const char *kind, const char *about, int64_t now_ms)
{
	struct cmd_alert *v = reallocarray(b->v, b->n + 1, sizeof(*v));

	if (!v)
		return NULL;
	b->v = v;
	v += b->n++;
	memset(v, 0, sizeof(*v));
	snprintf(v->kind, sizeof(v->kind), "%s", kind);
	fz_utf8_copy(v->about, sizeof(v->about), about);
	v->since_ms = now_ms;
	b->changed = true;
	return v;
}

static struct cmd_alert *find(struct cmd_alertbook *b, const char *kind, const char *about)
{
	char name[sizeof(b->v->about)];

	fz_utf8_copy(name, sizeof(name), about);
	for (size_t i = 0; i < b->n; i++)
		if (!b->v[i].notice && !strcmp(b->v[i].kind, kind) && !strcmp(b->v[i].about, name))
			return &b->v[i];
	return NULL;
}

static int lasts(struct cmd_alertbook *b, const char *kind, const char *about, const char *text, int64_t now_ms,
                 struct fz_err *err)
{
	struct cmd_alert *a = find(b, kind, about);

	if (!a)
		a = add(b, kind, about, now_ms);
	if (!a)
		return fz_fail_errno(err, ENOMEM, "alerts");
	if (a->until_ms > 0) { /* it is back */
		a->since_ms = now_ms;
		b->changed = true;
	}
	a->until_ms = -1; /* seen this time */
	fz_utf8_copy(a->text, sizeof(a->text), text);
	return 0;
}

static int notice_role(struct cmd_alertbook *b, const cJSON *status, int64_t now_ms, struct fz_err *err)
{
	const char *role = cmd_text(status, "role"), *primary = cmd_text(status, "primary");
	uint32_t epoch = (uint32_t)cmd_number(status, "epoch");
	bool lost = !strcmp(b->role, "primary") && !strcmp(role, "replica");
	bool won = !strcmp(b->role, "replica") && !strcmp(role, "primary");
	struct cmd_alert *a = NULL;

	if (!*role || (!strcmp(b->role, role) && b->epoch == epoch))
		return 0;
	if (lost || won) {
		a = add(b, lost ? "fenced" : "role", "this host", now_ms);
		if (!a)
			return fz_fail_errno(err, ENOMEM, "alerts");
		a->notice = true;
		a->until_ms = now_ms;
	}
	if (lost)
		snprintf(a->text, sizeof(a->text),
		         "another host is the primary (epoch %u): this one takes no commits any more and follows %s",
		         epoch, *primary ? primary : "it");
	if (won)
		snprintf(a->text, sizeof(a->text), "this host, a replica, is the primary from epoch %u on", epoch);
	snprintf(b->role, sizeof(b->role), "%s", role);
	b->epoch = epoch;
	b->changed = true;
	return 0;
}

/* It will not take what is over: after an interval that is left at that. What lasts is tried anew then. */
static bool given_up(const struct cmd_alertbook *b, const struct cmd_alert *a, size_t url, int64_t now_ms)
{
	const struct cmd_alert_told *t = &a->url[url];

	if (t->given_up_ms && a->until_ms <= 0)
		return now_ms - t->given_up_ms < b->interval_ms && now_ms >= t->given_up_ms;
	return t->refused && a->until_ms > 0 && now_ms - a->until_ms >= b->interval_ms;
}

/* Nobody has to hear of it any more. */
static bool is_over(const struct cmd_alertbook *b, const struct cmd_alert *a, int64_t now_ms)
{
	for (size_t u = 0; u < b->n_urls; u++) {
		const struct cmd_alert_told *t = &a->url[u];

		if (given_up(b, a, u, now_ms))
			continue;
		if (a->notice ? !t->told : t->told || t->tried || now_ms - t->at_ms < b->interval_ms)
			return false;
	}
	return a->until_ms != 0;
}

int cmd_alertbook_see(struct cmd_alertbook *b, const cJSON *status, int64_t now_ms, struct fz_err *err)
{
	const cJSON *list = cJSON_GetObjectItem(status, "alerts"), *o;
	char more[80];
	int n = 0, rc = notice_role(b, status, now_ms, err);

	cJSON_ArrayForEach (o, list) {
		if (rc == 0 && n++ < CMD_ALERT_MAX)
			rc = lasts(b, cmd_text(o, "kind"), cmd_text(o, "about"), cmd_text(o, "text"), now_ms, err);
	}
	if (rc == 0 && n > CMD_ALERT_MAX) {
		snprintf(more, sizeof(more), "%d problems more: `fazt status` lists them", n - CMD_ALERT_MAX);
		rc = lasts(b, "more", "", more, now_ms, err);
	}
	for (size_t i = 0; rc == 0 && i < b->n; i++) {
		struct cmd_alert *a = &b->v[i];

		if (!a->notice && a->until_ms == 0) {
			a->until_ms = now_ms;
			b->changed = true;
		} else if (a->until_ms == -1)
			a->until_ms = 0;
	}
	for (size_t i = 0; rc == 0 && i < b->n;)
		if (is_over(b, &b->v[i], now_ms)) {
			memmove(&b->v[i], &b->v[i + 1], (--b->n - i) * sizeof(*b->v));
			b->changed = true;
		} else
			i++;
	return rc;
}

/* ---- what to tell ----------------------------------------------------------------------------------------------- */

static const char *event_of(const struct cmd_alertbook *b, const struct cmd_alert *a, size_t url, int64_t now_ms)
{
	const struct cmd_alert_told *t = &a->url[url];

	if (given_up(b, a, url, now_ms))
		return NULL;
	if (a->notice)
		return t->told ? NULL : "notice";
	if (a->until_ms)
		return t->told || t->tried ? "resolved" : NULL;
	if (t->at_ms && now_ms - t->at_ms < b->interval_ms && now_ms >= t->at_ms)
		return NULL;
	return t->told ? "repeat" : "problem";
}

const char *cmd_alertbook_next(struct cmd_alertbook *b, size_t url, int64_t now_ms, bool again, struct cmd_alert **a)
{
	const char *found = NULL;

	for (size_t i = 0; i < b->n; i++) {
		const char *event = event_of(b, &b->v[i], url, now_ms);
		unsigned failed = b->v[i].url[url].failed;

		if (!event || (failed && !again) || (found && failed >= (*a)->url[url].failed))
			continue;
		*a = &b->v[i];
		found = event;
	}
	return found;
}

/* Returns whether that was once too often. */
static bool count_failure(struct cmd_alert_told *t, unsigned arrived)
{
	t->passed += t->failed && t->arrived != arrived;
	t->arrived = arrived;
	t->failed++;
	return t->passed >= GIVE_UP;
}

bool cmd_alertbook_sent(struct cmd_alertbook *b, size_t url, struct cmd_alert *a, const char *event,
                        enum cmd_alert_outcome outcome, int64_t now_ms)
{
	struct cmd_alert_told *t = &a->url[url];
	bool tried = outcome == CMD_ALERT_LOST || outcome == CMD_ALERT_FAILED; /* what was refused is not there */

	if (outcome == CMD_ALERT_ARRIVED) {
		b->changed = true;
		b->arrived[url]++;
		*t = (struct cmd_alert_told){.at_ms = t->at_ms, .told = strcmp(event, "resolved") != 0};
		if (t->told)
			t->at_ms = now_ms;
		return false;
	}
	b->changed |= t->tried != tried;
	t->tried = tried;
	t->refused = !tried;
	if (!count_failure(t, b->arrived[url]))
		return false;
	b->changed = true;
	t->failed = t->passed = 0;
	t->given_up_ms = now_ms;
	if (a->until_ms > 0) { /* there will be no other occasion */
		t->told = a->notice;
		t->tried = false;
	}
	return true;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static void read_told(const struct cmd_alertbook *b, struct cmd_alert *a, const cJSON *list)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, list) {
		for (size_t u = 0; u < b->n_urls; u++)
			if (!strcmp(b->url_id[u], cmd_text(o, "url")))
				a->url[u] =
				        (struct cmd_alert_told){.at_ms = (int64_t)cmd_number(o, "at_ms"),
				                                .told = cJSON_IsTrue(cJSON_GetObjectItem(o, "told")),
				                                .tried = cJSON_IsTrue(cJSON_GetObjectItem(o, "tried"))};
	}
}

int cmd_alertbook_load(struct cmd_alertbook *b, int statefd, struct fz_err *err)
{
	struct fz_buf text = {0};
	struct fz_err why = {0};
	cJSON *root = NULL;
	const cJSON *o;
	int rc = fz_read_file(statefd, FILE_NAME, FILE_MAX, &text, &why);

	if (rc == 0)
		root = cJSON_Parse(fz_buf_str(&text));
	rc = rc == -ENOENT ? 0 : rc < 0 ? fz_fail(err, rc, "%s", why.text) : 0;
	snprintf(b->role, sizeof(b->role), "%s", cmd_text(root, "role"));
	b->epoch = (uint32_t)cmd_number(root, "epoch");
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(root, "alerts")) {
		struct cmd_alert *a =
		        b->n < 2 * CMD_ALERT_MAX ? add(b, cmd_text(o, "kind"), cmd_text(o, "about"), 0) : NULL;

		if (!a)
			continue;
		fz_utf8_copy(a->text, sizeof(a->text), cmd_text(o, "text"));
		a->since_ms = (int64_t)cmd_number(o, "since_ms");
		a->until_ms = (int64_t)cmd_number(o, "until_ms");
		a->notice = cJSON_IsTrue(cJSON_GetObjectItem(o, "notice"));
		read_told(b, a, cJSON_GetObjectItem(o, "urls"));
	}
	b->changed = false;
	cJSON_Delete(root);
	fz_buf_fini(&text);
	return rc;
}

int cmd_alertbook_save(struct cmd_alertbook *b, int statefd, struct fz_err *err)
{
	cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "alerts");
	char *text;
	int rc;

	cJSON_AddStringToObject(root, "role", b->role);
	cJSON_AddNumberToObject(root, "epoch", b->epoch);
	for (size_t i = 0; i < b->n; i++) {
		const struct cmd_alert *a = &b->v[i];
		cJSON *o = cJSON_CreateObject(), *urls = cJSON_AddArrayToObject(o, "urls");

		cJSON_AddStringToObject(o, "kind", a->kind);
		cJSON_AddStringToObject(o, "about", a->about);
		cJSON_AddStringToObject(o, "text", a->text);
		cJSON_AddNumberToObject(o, "since_ms", (double)a->since_ms);
		cJSON_AddNumberToObject(o, "until_ms", (double)a->until_ms);
		cJSON_AddBoolToObject(o, "notice", a->notice);
		for (size_t u = 0; u < b->n_urls; u++) {
			cJSON *t = cJSON_CreateObject();

			cJSON_AddStringToObject(t, "url", b->url_id[u]);
			cJSON_AddNumberToObject(t, "at_ms", (double)a->url[u].at_ms);
			cJSON_AddBoolToObject(t, "told", a->url[u].told);
			cJSON_AddBoolToObject(t, "tried", a->url[u].tried);
			cJSON_AddItemToArray(urls, t);
		}
		cJSON_AddItemToArray(list, o);
	}
	text = cJSON_PrintUnformatted(root);
	rc = text ? fz_write_file(statefd, FILE_NAME, text, strlen(text), 0600, err)
	          : fz_fail_errno(err, ENOMEM, "alerts");
	if (rc == 0)
		b->changed = false;
	cJSON_free(text);
	cJSON_Delete(root);
	return rc;
}

void cmd_alertbook_show(const struct cmd_alertbook *b, cJSON *array)
{
	char when[FZ_TIME_SIZE];

	for (size_t i = 0; i < b->n; i++) {
		const struct cmd_alert *a = &b->v[i];
		cJSON *o = cJSON_CreateObject(), *told;

		cJSON_AddStringToObject(o, "kind", a->kind);
		cJSON_AddStringToObject(o, "about", a->about);
		cJSON_AddStringToObject(o, "text", a->text);
		cJSON_AddStringToObject(o, "since", fz_format_time(when, a->since_ms));
		if (a->until_ms > 0)
			cJSON_AddStringToObject(o, "until", fz_format_time(when, a->until_ms));
		else
			cJSON_AddNullToObject(o, "until");
		told = cJSON_AddArrayToObject(o, "told");
		for (size_t u = 0; u < b->n_urls; u++)
			cJSON_AddItemToArray(told, cJSON_CreateBool(a->url[u].at_ms > 0));
		cJSON_AddItemToArray(array, o);
	}
}

void cmd_alertbook_fini(struct cmd_alertbook *b)
{
	free(b->v);
	b->v = NULL;
	b->n = 0;
}
