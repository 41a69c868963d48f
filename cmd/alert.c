#include "cmd/alert.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "cmd/worker.h"

#include <cJSON.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define INTERVAL_MS INT64_C(3600000)
#define LOOK_MS     10000
#define LOOK_MIN_MS 100
#define WAIT_MAX_MS INT64_C(300000)
#define NS          UINT64_C(1000000) /* of a ms */

/* ---- one object ------------------------------------------------------------------------------------------------- */

/* The same for all objects about one problem, so that a receiver can put them together. */
static void problem_id(char out[static 17], const char *host, const char *dir, const struct cmd_alert *a)
{
	crypto_generichash_state st;
	const char *parts[] = {host, dir, a->kind, a->about};
	unsigned char hash[16];

	crypto_generichash_init(&st, NULL, 0, sizeof(hash));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		crypto_generichash_update(&st, (const unsigned char *)parts[i], strlen(parts[i]) + 1);
	crypto_generichash_update(&st, (const unsigned char *)&a->since_ms, sizeof(a->since_ms));
	crypto_generichash_final(&st, hash, sizeof(hash));
	sodium_bin2hex(out, 17, hash, 8);
}

static void put(cJSON *o, const char *key, const char *value)
{
	struct fz_buf b = {0};

	if (fz_utf8_add(&b, value) == 0)
		cJSON_AddStringToObject(o, key, fz_buf_str(&b));
	fz_buf_fini(&b);
}

/* text is a whole sentence, since that is what Slack and its like show. */
static char *body_of(const struct cmd_alert *a, const char *event, const char *dir, const char *role)
{
	char host[256] = "", when[FZ_TIME_SIZE], id[17], text[1200];
	struct fz_buf whole = {0};
	cJSON *o = cJSON_CreateObject();
	char *body = NULL;

	gethostname(host, sizeof(host) - 1);
	if (fz_buf_addf(&whole, "fazt on %s, %s: %s: %s", host, dir, event, a->text) < 0)
		goto out;
	fz_utf8_copy(text, sizeof(text), fz_buf_str(&whole));
	problem_id(id, host, dir, a);
	put(o, "event", event);
	put(o, "kind", a->kind);
	put(o, "about", a->about);
	put(o, "text", text);
	put(o, "message", a->text);
	put(o, "host", host);
	put(o, "dir", dir);
	put(o, "role", role);
	put(o, "id", id);
	put(o, "since", fz_format_time(when, a->since_ms));
	if (a->until_ms > 0)
		put(o, "until", fz_format_time(when, a->until_ms));
	put(o, "time", fz_format_time(when, fz_now_ms()));
	put(o, "version", FZ_VERSION);
	body = cJSON_PrintUnformatted(o);
out:
	fz_buf_fini(&whole);
	cJSON_Delete(o);
	return body;
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

/* Whether it says something about this one body, or about the URL: a bad moment, too many at once, another address. */
static enum cmd_alert_outcome outcome_of(const struct cmd_alertsend_result *r, int rc)
{
	if (rc == 0)
		return CMD_ALERT_ARRIVED;
	if (r->status < 400 || r->status == 408 || r->status == 429 || r->retry_after_s >= 0)
		return CMD_ALERT_LOST;
	return r->status < 500 ? CMD_ALERT_REFUSED : CMD_ALERT_FAILED;
}

static uint64_t later(const struct cmd_alerts *a, unsigned times, int64_t retry_after_s)
{
	int64_t wait = a->look_ms;

	for (unsigned i = 0; i < times && wait < WAIT_MAX_MS; i++)
		wait *= 2;
	wait = wait < WAIT_MAX_MS ? wait : WAIT_MAX_MS;
	if (retry_after_s > wait / 1000) /* an hour of that at most */
		wait = retry_after_s < 3600 ? retry_after_s * 1000 : 3600 * 1000;
	return fz_mono_ns() + (uint64_t)wait * NS;
}

/* again: it had failed before. */
static void told(struct cmd_alerts *a, size_t url, bool again, enum cmd_alert_outcome outcome,
                 const struct cmd_alertsend_result *r, const struct fz_err *err)
{
	struct cmd_alert_way *way = &a->way[url];

	if (outcome == CMD_ALERT_LOST)
		way->next_ns = later(a, way->failures++, r->retry_after_s);
	else if (outcome != CMD_ALERT_ARRIVED)
		way->again_ns = later(a, way->refusals++, -1);
	else
		way->failures = way->refusals = 0;
	if (outcome == CMD_ALERT_ARRIVED && again)
		way->again_ns = 0;
	if (err->code && way->trouble.code != err->code)
		fz_log_err("an alert could not be sent, trying on", err);
	if (!err->code && way->trouble.code)
		fz_info("alerts reach %s again", a->send.shown[url]);
	pthread_mutex_lock(&a->mu);
	way->trouble = *err;
	pthread_mutex_unlock(&a->mu);
}

/* Tells one URL all there is to tell, or until it fails. What failed waits, and nothing else for that: it may be the server that
 * is ill, so only one is tried at a look; but with what it takes it goes on. */
static void tell(struct cmd_alerts *a, size_t url)
{
	struct cmd_alert_way *way = &a->way[url];

	while (!fz_worker_stopping(&a->worker) && fz_mono_ns() >= way->next_ns) {
		enum cmd_alert_outcome outcome;
		struct cmd_alertsend_result r;
		struct cmd_alert *which, copy;
		struct fz_err err = {0};
		const char *event;
		char role[16], *body;
		bool given_up;
		int rc;

		pthread_mutex_lock(&a->mu);
		event = cmd_alertbook_next(&a->book, url, fz_now_ms(), fz_mono_ns() >= way->again_ns, &which);
		if (event)
			copy = *which;
		snprintf(role, sizeof(role), "%s", a->book.role);
		pthread_mutex_unlock(&a->mu);
		if (!event)
			return;
		body = body_of(&copy, event, a->w->dir, role);
		if (!body)
			return;
		rc = cmd_alertsend_post(&a->send, url, body, &r, &err);
		cJSON_free(body);
		if (rc == -ECANCELED)
			return;
		outcome = outcome_of(&r, rc);
		pthread_mutex_lock(&a->mu); /* which is still there: only this thread takes any out */
		given_up = cmd_alertbook_sent(&a->book, url, which, event, outcome, fz_now_ms());
		way->given_up += given_up;
		pthread_mutex_unlock(&a->mu);
		told(a, url, copy.url[url].failed > 0, outcome, &r, &err);
		if (given_up)
			fz_warn("%s takes other alerts, but not this one, which is given up: %s, %s: %s",
			        a->send.shown[url], event, copy.kind, copy.text);
		if (outcome == CMD_ALERT_LOST || outcome == CMD_ALERT_FAILED)
			return;
	}
}

static void look(struct cmd_alerts *a)
{
	cJSON *ask = cJSON_CreateObject(), *status = cJSON_CreateObject();
	struct fz_err err = {0};
	int fd = -1, rc;

	cJSON_AddStringToObject(ask, "cmd", "status");
	rc = a->w->handler.answer(&a->w->handler, ask, status, &fd, &err);
	pthread_mutex_lock(&a->mu);
	if (rc == 0)
		rc = cmd_alertbook_see(&a->book, status, fz_now_ms(), &err);
	pthread_mutex_unlock(&a->mu);
	if (rc < 0)
		fz_log_err("alerts", &err);
	cJSON_Delete(ask);
	cJSON_Delete(status);
}

static void save(struct cmd_alerts *a)
{
	struct fz_err err = {0};
	int rc = 0;

	pthread_mutex_lock(&a->mu);
	if (a->book.changed)
		rc = cmd_alertbook_save(&a->book, a->w->statefd, &err);
	pthread_mutex_unlock(&a->mu);
	if (rc < 0 && !a->disk_told) /* nothing depends on it but that the next worker says some of it again */
		fz_log_err("alerts", &err);
	a->disk_told = rc < 0;
}

/* The first look comes late: what a worker has just started does not know of its targets yet is not over. */
static void run(void *arg)
{
	struct cmd_alerts *a = arg;

	while (fz_worker_wait(&a->worker, a->look_ms)) {
		look(a);
		for (size_t u = 0; u < a->send.n_urls; u++)
			tell(a, u);
		save(a);
	}
	save(a);
}

/* ---- start and stop --------------------------------------------------------------------------------------------- */

int cmd_alerts_start(struct cmd_alerts *a, struct cmd_serving *w, struct fz_err *err)
{
	struct fz_err why = {0};
	int rc;

	a->w = w;
	pthread_mutex_init(&a->mu, NULL);
	a->on = true;
	rc = cmd_alertsend_open(&a->send, &w->conf, w->dir, err);
	if (rc < 0 || !a->send.n_urls)
		return rc;
	a->book.interval_ms = w->conf.alert_interval_ms ? w->conf.alert_interval_ms : INTERVAL_MS;
	a->look_ms = a->book.interval_ms / 10 < LOOK_MS ? a->book.interval_ms / 10 : LOOK_MS;
	a->look_ms = a->look_ms > LOOK_MIN_MS ? a->look_ms : LOOK_MIN_MS;
	a->book.n_urls = a->send.n_urls;
	for (size_t u = 0; u < a->send.n_urls; u++) {
		unsigned char hash[16];

		crypto_generichash(hash, sizeof(hash), (const unsigned char *)a->send.url[u], strlen(a->send.url[u]),
		                   NULL, 0);
		sodium_bin2hex(a->book.url_id[u], sizeof(a->book.url_id[u]), hash, 8);
	}
	if (cmd_alertbook_load(&a->book, w->statefd, &why) < 0)
		fz_log_err("alerts", &why);
	return fz_worker_start(&a->worker, "alert", run, a, err);
}

void cmd_alerts_stop(struct cmd_alerts *a)
{
	if (!a->on)
		return;
	cmd_alertsend_cancel(&a->send);
	fz_worker_stop(&a->worker);
	cmd_alertsend_close(&a->send);
	cmd_alertbook_fini(&a->book);
	pthread_mutex_destroy(&a->mu);
	a->on = false;
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

void cmd_alerts_test(struct cmd_alertsend *s, const char *dir, const char *role, cJSON *urls)
{
	struct cmd_alert a = {.kind = "test", .about = "", .text = "this is a test, asked for with fazt alert --test"};

	a.since_ms = fz_now_ms();
	for (size_t u = 0; u < s->n_urls; u++) {
		struct cmd_alertsend_result r;
		cJSON *o = cJSON_CreateObject();
		struct fz_err err = {0};
		char *body = body_of(&a, "test", dir, role);
		int rc = body ? cmd_alertsend_post(s, u, body, &r, &err) : fz_fail_errno(&err, ENOMEM, "alerts");

		cJSON_AddStringToObject(o, "url", s->shown[u]);
		cJSON_AddBoolToObject(o, "arrived", rc == 0);
		if (body) {
			cJSON_AddNumberToObject(o, "status", r.status);
			cJSON_AddNumberToObject(o, "took_ms", (double)r.took_ms);
			cJSON_AddStringToObject(o, "said", r.said);
		}
		cJSON_AddNumberToObject(o, "code", -err.code);
		cJSON_AddStringToObject(o, "error", err.text);
		cJSON_AddItemToArray(urls, o);
		cJSON_free(body);
	}
}

int cmd_alerts_answer(struct cmd_alerts *a, const cJSON *request, cJSON *answer, struct fz_err *err)
{
	cJSON *urls = cJSON_AddArrayToObject(answer, "urls"), *list = cJSON_AddArrayToObject(answer, "alerts");
	char role[16];

	cJSON_AddNumberToObject(answer, "interval_ms", (double)a->book.interval_ms);
	pthread_mutex_lock(&a->mu);
	snprintf(role, sizeof(role), "%s", a->book.role);
	cmd_alertbook_show(&a->book, list);
	pthread_mutex_unlock(&a->mu);
	if (cJSON_IsTrue(cJSON_GetObjectItem(request, "test"))) {
		if (!a->send.n_urls)
			return fz_fail(err, FZ_ECONFIG, "%s was mounted without alert_url", a->w->dir);
		cmd_alerts_test(&a->send, a->w->dir, role, urls);
		return 0;
	}
	for (size_t u = 0; u < a->send.n_urls; u++) {
		cJSON *o = cJSON_CreateObject();

		cJSON_AddStringToObject(o, "url", a->send.shown[u]);
		pthread_mutex_lock(&a->mu);
		cJSON_AddNumberToObject(o, "code", -a->way[u].trouble.code);
		cJSON_AddStringToObject(o, "error", a->way[u].trouble.text);
		cJSON_AddNumberToObject(o, "given_up", (double)a->way[u].given_up);
		pthread_mutex_unlock(&a->mu);
		cJSON_AddItemToArray(urls, o);
	}
	return 0;
}
