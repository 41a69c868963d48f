/* metrics.c - one row for each metric: where in the status its samples are, and what they are called by. */
#include "cmd/metrics.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Lists in the status: each item gives samples with its name as label. */
enum where { ROOT, DATABASES, TARGETS, TARGET_DATABASES, REPLICAS, REPLICA_DATABASES, FOLLOWED, ACKS, DRILLS };

struct metric {
	const char *name, *type, *help;
	enum where where;
	const char *
	        path; /* of the value: keys with dots between them; a bool counts as 0 or 1, a missing one as no sample */
	const char *each; /* the value is an object: a sample for each member, with its key as this label */
	double scale;     /* 0 = 1 */
};

#define COUNTER "counter"
#define GAUGE   "gauge"
#define M(name, type, where, path, each, scale, help)                                                                  \
	{                                                                                                              \
		name, type, help, where, path, each, scale                                                             \
	}
static const struct metric metrics[] = {
        /* the mount */
        M("fazt_healthy", GAUGE, ROOT, "healthy", NULL, 0, "1 while fazt status finds nothing wrong."),
        M("fazt_worker_restarts_total", COUNTER, ROOT, "restarts", NULL, 0,
          "Times that the worker was replaced since the mount."),
        M("fazt_passthrough", GAUGE, ROOT, "passthrough", NULL, 0,
          "1 where the kernel passes reads and writes through."),
        M("fazt_epoch", GAUGE, ROOT, "epoch", NULL, 0, "Epoch of this host; it grows with each change of the primary."),
        M("fazt_fuse_requests_total", COUNTER, ROOT, "requests.requests", "opcode", 0,
          "FUSE requests served, by opcode."),
        M("fazt_fuse_resent_total", COUNTER, ROOT, "requests.resent", NULL, 0,
          "Requests that the kernel sent again after a worker had died."),
        M("fazt_fuse_fsyncs_total", COUNTER, ROOT, "requests.fsyncs", NULL, 0, "fsyncs carried out for applications."),
        M("fazt_lease_held", GAUGE, ROOT, "lease.held", NULL, 0,
          "failover = auto: 1 while this host may accept commits."),
        M("fazt_lease_remaining_seconds", GAUGE, ROOT, "lease.remaining_ms", NULL, 1e-3,
          "failover = auto: time until the lease runs out."),
        /* databases */
        M("fazt_commits_total", COUNTER, DATABASES, "commits", NULL, 0,
          "Commits captured (on a replica: received) since the worker started."),
        M("fazt_captured_pages_total", COUNTER, DATABASES, "captured_pages", NULL, 0, "Pages in these commits."),
        M("fazt_captured_bytes_total", COUNTER, DATABASES, "captured_bytes", NULL, 0,
          "Bytes of these commits in the local log."),
        M("fazt_txid", GAUGE, DATABASES, "txid", NULL, 0, "Transaction that the local log ends with."),
        M("fazt_log_size_bytes", GAUGE, DATABASES, "log_bytes", NULL, 0, "Size of the local log without its base."),
        M("fazt_log_base_bytes", GAUGE, DATABASES, "base_bytes", NULL, 0,
          "Size of the snapshot that the local log begins with."),
        M("fazt_log_syncs_total", COUNTER, DATABASES, "log_syncs", NULL, 0, "fsyncs of the local log."),
        M("fazt_database_pages", GAUGE, DATABASES, "pages", NULL, 0, "Size of the database in pages."),
        M("fazt_database_page_size_bytes", GAUGE, DATABASES, "page_size", NULL, 0, "Size of a page."),
        M("fazt_capture_errors_total", COUNTER, DATABASES, "errors", "code", 0, "Failures of capture, by code."),
        M("fazt_merged_commits_total", COUNTER, DATABASES, "merged_txns", NULL, 0,
          "Commits that can be restored as a part of a range only."),
        M("fazt_capture_resyncs_total", COUNTER, DATABASES, "resyncs", NULL, 0,
          "Times that all pages had to be compared to go on."),
        M("fazt_scrub_found_pages_total", COUNTER, DATABASES, "scrub_found", NULL, 0,
          "Pages that the scrub found different from what was captured."),
        M("fazt_ack_degraded", GAUGE, ACKS, "degraded", NULL, 0,
          "ack = replica: 1 while commits go on without waiting."),
        M("fazt_ack_degraded_commits_total", COUNTER, ACKS, "degraded_commits", NULL, 0,
          "ack = replica: commits that did not wait."),
        /* targets */
        M("fazt_target_lag_seconds", GAUGE, TARGETS, "lag_seconds", NULL, 0,
          "Age of the oldest commit that the target does not hold."),
        M("fazt_target_lag_bytes", GAUGE, TARGETS, "lag_bytes", NULL, 0,
          "Bytes in the local logs that the target does not hold."),
        M("fazt_target_lag_limit_seconds", GAUGE, TARGETS, "lag_max_seconds", NULL, 0, "lag_max of the target."),
        M("fazt_target_last_success_timestamp_seconds", GAUGE, TARGETS, "last_success_ms", NULL, 1e-3,
          "When the target last acknowledged something; 0 = not yet."),
        M("fazt_target_uploads_total", COUNTER, TARGETS, "uploads", "kind", 0, "Objects that the target acknowledged."),
        M("fazt_target_requests_total", COUNTER, TARGETS, "requests_by_kind", "kind", 0,
          "Requests made to the store, by kind as stores charge for them."),
        M("fazt_target_cost_total", COUNTER, TARGETS, "cost", "kind", 0,
          "What these requests cost, in the currency of prices (US dollars by default)."),
        M("fazt_target_retries_total", COUNTER, TARGETS, "retries", NULL, 0,
          "Requests that were made again after a failure."),
        M("fazt_target_errors_total", COUNTER, TARGETS, "errors", "code", 0, "Failures, each attempt by its code."),
        M("fazt_target_sent_bytes_total", COUNTER, TARGETS, "bytes_out", NULL, 0, "Bytes sent to the store."),
        M("fazt_target_received_bytes_total", COUNTER, TARGETS, "bytes_in", NULL, 0, "Bytes received from the store."),
        M("fazt_target_ship_interval_seconds", GAUGE, TARGETS, "ship_interval_ms", NULL, 1e-3,
          "Time between two uploads, as stretched by requests_per_month."),
        M("fazt_lag_seconds", GAUGE, TARGET_DATABASES, "lag_seconds", NULL, 0,
          "Age of the oldest commit of the database that the target does not hold."),
        M("fazt_lag_bytes", GAUGE, TARGET_DATABASES, "lag_bytes", NULL, 0,
          "Bytes of the database's local log that the target does not hold."),
        M("fazt_lag_commits", GAUGE, TARGET_DATABASES, "lag_txns", NULL, 0,
          "Commits of the database that the target does not hold."),
        M("fazt_shipped_txid", GAUGE, TARGET_DATABASES, "txid", NULL, 0,
          "Transaction up to which the target can restore the database."),
        /* replicas */
        M("fazt_replica_connected", GAUGE, REPLICAS, "connected", NULL, 0,
          "1 while that replica is connected to this host."),
        M("fazt_replica_sent_bytes_total", COUNTER, REPLICAS, "bytes_out", NULL, 0, "Bytes sent to that replica."),
        M("fazt_replica_lag_seconds", GAUGE, REPLICA_DATABASES, "lag_ms", NULL, 1e-3,
          "How far that replica is behind."),
        M("fazt_replica_lag_commits", GAUGE, REPLICA_DATABASES, "lag_txns", NULL, 0,
          "Commits that that replica does not show yet."),
        M("fazt_replica_lag_bytes", GAUGE, REPLICA_DATABASES, "lag_bytes", NULL, 0, "Bytes of these commits."),
        M("fazt_follow_connected", GAUGE, ROOT, "following.connected", NULL, 0,
          "On a replica: 1 while its primary (or store) answers."),
        M("fazt_follow_received_bytes_total", COUNTER, ROOT, "following.bytes_in", NULL, 0,
          "On a replica: bytes received."),
        M("fazt_follow_lag_seconds", GAUGE, FOLLOWED, "lag_ms", NULL, 1e-3,
          "On a replica: how far the database is behind."),
        M("fazt_follow_lag_commits", GAUGE, FOLLOWED, "lag_txns", NULL, 0,
          "On a replica: commits that it knows of and does not show yet."),
        M("fazt_follow_txid", GAUGE, FOLLOWED, "applied_txid", NULL, 0,
          "On a replica: transaction that the database shows."),
        /* restore drills */
        M("fazt_verify_runs_total", COUNTER, DRILLS, "runs", "result", 0,
          "fazt verify of this mount's databases in a target, by result."),
        M("fazt_verify_last_timestamp_seconds", GAUGE, DRILLS, "time_ms", NULL, 1e-3, "When the last of these ended."),
        M("fazt_verify_last_ok", GAUGE, DRILLS, "ok", NULL, 0, "1 when the last of these found all in order."),
        M("fazt_proven_txid", GAUGE, DRILLS, "proven_txid", NULL, 0, "Its transaction."),
};
#undef M

/* ---- the format ------------------------------------------------------------------------------------------------- */

struct page {
	struct fz_buf *out;
	bool told; /* HELP and TYPE of the metric at hand */
	int rc;
};

/* A name is a path and may hold any byte; one that is no UTF-8 would cost the whole scrape, and is shown as \xNN. */
static int put_label(struct fz_buf *b, const char *key, const char *value)
{
	int rc = fz_buf_addf(b, "%s=\"", key);

	for (const char *s = value; rc == 0 && *s;) {
		size_t n = fz_utf8_char(s);

		if (*s == '\n')
			rc = fz_buf_add(b, "\\n", 2);
		else if (*s == '"' || *s == '\\')
			rc = fz_buf_addf(b, "\\%c", *s);
		else if (!n)
			rc = fz_buf_addf(b, "\\\\x%02x", (unsigned)(unsigned char)*s);
		else
			rc = fz_buf_add(b, s, n);
		s += n ? n : 1;
	}
	return rc == 0 ? fz_buf_add(b, "\"", 1) : rc;
}

/* labels: name and value in turn, NULL at the end. */
static void sample(struct page *p, const char *name, const char *suffix, double value, ...)
{
	const char *key, *text;
	const char *before = "{";
	va_list ap;

	if (p->rc == 0)
		p->rc = fz_buf_addf(p->out, "%s%s", name, suffix);
	va_start(ap, value);
	while (p->rc == 0 && (key = va_arg(ap, const char *))) {
		text = va_arg(ap, const char *);
		if (!text)
			continue;
		p->rc = fz_buf_addf(p->out, "%s", before);
		if (p->rc == 0)
			p->rc = put_label(p->out, key, text);
		before = ",";
	}
	va_end(ap);
	if (p->rc == 0)
		p->rc = fz_buf_addf(p->out, "%s %.15g\n", *before == ',' ? "}" : "", value);
}

static void head(struct page *p, const char *name, const char *type, const char *help)
{
	if (p->rc == 0 && !p->told)
		p->rc = fz_buf_addf(p->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
	p->told = true;
}

/* ---- samples ---------------------------------------------------------------------------------------------------- */

static const char *text_of(const cJSON *o, const char *key)
{
	return cJSON_GetStringValue(cJSON_GetObjectItem(o, key));
}

static const cJSON *find(const cJSON *o, const char *path)
{
	char key[32];
	size_t n;

	for (; o && *path; path += n + (path[n] == '.')) {
		n = strcspn(path, ".");
		if (n >= sizeof(key))
			return NULL;
		memcpy(key, path, n);
		key[n] = 0;
		o = cJSON_GetObjectItem(o, key);
	}
	return o;
}

static bool number(const cJSON *v, double *out)
{
	if (!cJSON_IsNumber(v) && !cJSON_IsBool(v))
		return false;
	*out = cJSON_IsNumber(v) ? v->valuedouble : cJSON_IsTrue(v);
	return true;
}

/* The samples of one object; up to two labels tell which one it is. */
static void show(struct page *p, const struct metric *m, const cJSON *o, const char *k1, const char *v1, const char *k2,
                 const char *v2)
{
	const cJSON *v = find(o, m->path), *e;
	double scale = m->scale != 0 ? m->scale : 1, x;

	if (!m->each) {
		if (number(v, &x)) {
			head(p, m->name, m->type, m->help);
			sample(p, m->name, "", x * scale, k1 ? k1 : "", v1, k2 ? k2 : "", v2, NULL);
		}
		return;
	}
	cJSON_ArrayForEach (e, v) {
		if (!number(e, &x))
			continue;
		head(p, m->name, m->type, m->help);
		sample(p, m->name, "", x * scale, k1 ? k1 : "", v1, k2 ? k2 : "", v2, m->each, e->string, NULL);
	}
}

/* Of several lineages of one name, which follow one another in every list, the last one is the living one. */
static bool followed_by_same(const cJSON *o)
{
	const char *name = text_of(o, "name"), *next = text_of(o->next, "name");

	return o->next && name && next && !strcmp(name, next);
}

static void show_list(struct page *p, const struct metric *m, const cJSON *list, const char *label, const char *k2,
                      const char *v2)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, list) {
		if (!followed_by_same(o))
			show(p, m, o, label, text_of(o, "name"), k2, v2);
	}
}

static void show_nested(struct page *p, const struct metric *m, const cJSON *list, const char *label)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, list) {
		show_list(p, m, cJSON_GetObjectItem(o, "databases"), "database", label, text_of(o, "name"));
	}
}

static void show_metric(struct page *p, const struct metric *m, const cJSON *s)
{
	const cJSON *o;

	p->told = false;
	switch (m->where) {
	case ROOT:
		show(p, m, s, NULL, NULL, NULL, NULL);
		break;
	case DATABASES:
		show_list(p, m, cJSON_GetObjectItem(s, "databases"), "database", NULL, NULL);
		break;
	case TARGETS:
		show_list(p, m, cJSON_GetObjectItem(s, "targets"), "target", NULL, NULL);
		break;
	case TARGET_DATABASES:
		show_nested(p, m, cJSON_GetObjectItem(s, "targets"), "target");
		break;
	case REPLICAS:
		show_list(p, m, cJSON_GetObjectItem(s, "replicas"), "replica", NULL, NULL);
		break;
	case REPLICA_DATABASES:
		show_nested(p, m, cJSON_GetObjectItem(s, "replicas"), "replica");
		break;
	case FOLLOWED:
		show_list(p, m, find(s, "following.databases"), "database", NULL, NULL);
		break;
	case ACKS:
		show_list(p, m, find(s, "ack.databases"), "database", NULL, NULL);
		break;
	case DRILLS:
		cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "drills")) {
			show(p, m, o, "database", text_of(o, "database"), "target", text_of(o, "target"));
		}
		break;
	}
}

/* ---- what is no row --------------------------------------------------------------------------------------------- */

static void show_delays(struct page *p, const cJSON *status)
{
	static const char name[] = "fazt_capture_delay_seconds";
	const cJSON *d, *b;
	char le[32];

	p->told = false;
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(status, "databases")) {
		const cJSON *h = cJSON_GetObjectItem(d, "capture_delay");
		double n, x;

		if (!h || followed_by_same(d) || !number(cJSON_GetObjectItem(h, "count"), &n))
			continue;
		head(p, name, "histogram",
		     "Time from a commit until it is in the local log (at most; the clock of files ticks).");
		cJSON_ArrayForEach (b, cJSON_GetObjectItem(h, "buckets")) {
			snprintf(le, sizeof(le), "%.15g", cJSON_GetNumberValue(cJSON_GetObjectItem(b, "seconds")));
			if (number(cJSON_GetObjectItem(b, "count"), &x))
				sample(p, name, "_bucket", x, "database", text_of(d, "name"), "le", le, NULL);
		}
		sample(p, name, "_bucket", n, "database", text_of(d, "name"), "le", "+Inf", NULL);
		if (number(cJSON_GetObjectItem(h, "sum_seconds"), &x))
			sample(p, name, "_sum", x, "database", text_of(d, "name"), NULL);
		sample(p, name, "_count", n, "database", text_of(d, "name"), NULL);
	}
}

static void show_last_commits(struct page *p, const cJSON *status)
{
	static const char name[] = "fazt_last_commit_timestamp_seconds";
	const cJSON *d;
	int64_t ms;

	p->told = false;
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(status, "databases")) {
		const char *time = text_of(d, "time");

		if (!time || !*time || followed_by_same(d) || fz_parse_time(time, 0, &ms, NULL) < 0)
			continue;
		head(p, name, GAUGE, "When the newest commit was made.");
		sample(p, name, "", (double)ms / 1000, "database", text_of(d, "name"), NULL);
	}
}

/* Not in the status, which else would be another one each second. */
static void show_ages(struct page *p, const cJSON *status)
{
	static const char name[] = "fazt_proven_commit_age_seconds";
	const cJSON *d;
	double ms;

	p->told = false;
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(status, "drills")) {
		if (!number(cJSON_GetObjectItem(d, "proven_time_ms"), &ms))
			continue;
		head(p, name, GAUGE, "Age of the newest commit whose restore fazt verify has proven.");
		sample(p, name, "", ((double)fz_now_ms() - ms) / 1000, "database", text_of(d, "database"), "target",
		       text_of(d, "target"), NULL);
	}
}

static void show_states(struct page *p, const cJSON *status)
{
	static const char *const states[] = {"ok", "retrying", "failed", "fenced"};
	static const char name[] = "fazt_target_state";
	const cJSON *t;

	p->told = false;
	cJSON_ArrayForEach (t, cJSON_GetObjectItem(status, "targets")) {
		const char *state = text_of(t, "state");

		head(p, name, GAUGE, "1 for the state that the target is in.");
		for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
			sample(p, name, "", state && !strcmp(state, states[i]), "target", text_of(t, "name"), "state",
			       states[i], NULL);
	}
}

static void one(struct page *p, const char *name, const char *type, const char *help, double value)
{
	p->told = false;
	head(p, name, type, help);
	sample(p, name, "", value, NULL);
}

static void show_mount(struct page *p, const cJSON *s)
{
	const char *started = text_of(s, "worker_started");
	int64_t ms;

	p->told = false;
	head(p, "fazt_build_info", GAUGE, "Version of fazt, the mount and the host's role in it.");
	sample(p, "fazt_build_info", "", 1, "version", text_of(s, "version"), "dir", text_of(s, "dir"), "role",
	       text_of(s, "role"), NULL);
	one(p, "fazt_problems", GAUGE, "What fazt status calls a problem.",
	    cJSON_GetArraySize(cJSON_GetObjectItem(s, "problems")));
	if (started && fz_parse_time(started, 0, &ms, NULL) == 0)
		one(p, "process_start_time_seconds", GAUGE, "When the worker started.", (double)ms / 1000);
}

/* The names that Prometheus' own clients use. */
static void show_process(struct page *p)
{
	unsigned long long size = 0, resident = 0;
	struct rusage u;
	char text[128];
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = 0;
	if (sscanf(text, "%llu %llu", &size, &resident) == 2)
		one(p, "process_resident_memory_bytes", GAUGE, "Memory of the worker.",
		    (double)resident * (double)sysconf(_SC_PAGESIZE));
	if (getrusage(RUSAGE_SELF, &u) == 0)
		one(p, "process_cpu_seconds_total", COUNTER, "Processor time of the worker.",
		    (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
		            (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
}

int cmd_metrics(const struct cJSON *status, struct fz_buf *out, struct fz_err *err)
{
	struct page p = {.out = out};

	show_mount(&p, status);
	for (size_t i = 0; i < sizeof(metrics) / sizeof(metrics[0]); i++)
		show_metric(&p, &metrics[i], status);
	show_delays(&p, status);
	show_last_commits(&p, status);
	show_ages(&p, status);
	show_states(&p, status);
	show_process(&p);
	return p.rc < 0 ? fz_fail_errno(err, ENOMEM, "metrics") : 0;
}
