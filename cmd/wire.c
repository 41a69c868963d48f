#include "cmd/wire.h"

#include "base/log.h"
#include "cmd/keys.h"
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

char *cmd_url_join(const char *url, const char *database)
{
	bool s3 = !strncmp(url, "s3:", 3);
	size_t head = s3 ? strcspn(url, "?") : strlen(url);
	const char *query = url + head;
	struct fz_buf b = {0};
	char *out;
	int rc;

	while (head > 0 && url[head - 1] == '/')
		head--;
	rc = fz_buf_addf(&b, "%.*s/", (int)head, url);
	for (const char *p = database; rc == 0 && *p; p++)
		rc = s3 && strchr("%?#&", *p) ? fz_buf_addf(&b, "%%%02X", (unsigned char)*p) : fz_buf_add(&b, p, 1);
	if (rc == 0)
		rc = fz_buf_addf(&b, "%s", query);
	out = rc == 0 ? strdup(fz_buf_str(&b)) : NULL;
	fz_buf_fini(&b);
	return out;
}

void cmd_target_access(struct fz_store_conf *out, const struct cmd_target *t)
{
	*out = (struct fz_store_conf){.region = t->region,
	                              .endpoint = t->endpoint,
	                              .profile = t->profile,
	                              .credentials_file = t->credentials_file,
	                              .access_key = t->access_key,
	                              .secret_key = t->secret_key,
	                              .session_token = t->session_token,
	                              .timeout_ms = t->timeout_ms};
}

int cmd_target_open(const struct cmd_target *t, const char *database, bool create, struct fz_store **out,
                    struct fz_err *err)
{
	struct fz_store_conf conf;
	char *url = database ? cmd_url_join(t->url, database) : strdup(t->url);
	int rc;

	cmd_target_access(&conf, t);
	conf.create = create;
	conf.interactive = !create;
	rc = url ? fz_store_open(out, url, &conf, err) : fz_fail_errno(err, ENOMEM, "opening %s", t->url);
	free(url);
	return rc;
}

int cmd_targets_init(struct cmd_targets *out, const struct cmd_conf *c, struct fz_err *err)
{
	int rc = 0;

	memset(out, 0, sizeof(*out));
	out->v = calloc(c->n_targets ? c->n_targets : 1, sizeof(*out->v));
	if (!out->v)
		return fz_fail_errno(err, ENOMEM, "opening targets");
	for (size_t i = 0; rc == 0 && i < c->n_targets; i++) {
		const struct cmd_target *t = &c->targets[i];
		const struct cmd_list *who = cmd_target_recipients(c, t);
		struct ltx_age_recipient *r = NULL;
		struct primary_target_conf *p = &out->v[i];

		*p = (struct primary_target_conf){
		        .name = t->name && *t->name != '#' ? t->name : NULL, /* "#1": cmd/config_format.c */
		        .ship_interval_ms = t->ship_interval_ms,
		        .ship_bytes = t->ship_bytes,
		        .minute_ms = t->minute_ms,
		        .hour_ms = t->hour_ms,
		        .day_ms = t->day_ms,
		        .snapshot_interval_ms = t->snapshot_interval_ms,
		        .keep_commits_ms = t->keep_commits_ms,
		        .keep_minutes_ms = t->keep_minutes_ms,
		        .keep_hours_ms = t->keep_hours_ms,
		        .keep_days_ms = t->keep_days_ms,
		        .keep_bytes = t->keep_bytes,
		        .delete_grace_ms = t->delete_grace_ms,
		        .requests_per_month = t->requests_per_month,
		        .append_only = t->append_only,
		};
		out->n = i + 1;
		if (cmd_target_encrypted(c, t)) {
			if (!who->n) /* plain objects must have been asked for */
				rc = fz_fail(err, FZ_ECONFIG, "%s: target %s has neither recipients nor encrypt = none",
				             t->where, t->url);
			else
				rc = cmd_key_recipients(who, &r, &p->n_recipients, err);
			p->recipients = r;
		}
		if (rc == 0)
			rc = cmd_target_open(t, NULL, true, &p->store, err);
	}
	if (rc < 0)
		cmd_targets_fini(out);
	return rc;
}

void cmd_targets_fini(struct cmd_targets *t)
{
	for (size_t i = 0; i < t->n; i++) {
		if (!t->started)
			fz_store_close(t->v[i].store);
		free((void *)t->v[i].recipients);
	}
	free(t->v);
	memset(t, 0, sizeof(*t));
}

void cmd_capture_conf(struct fs_capture_conf *out, const struct cmd_conf *c)
{
	memset(out, 0, sizeof(*out));
	out->databases = (const char *const *)c->databases.v;
	out->n_databases = c->databases.n;
	out->exclude = (const char *const *)c->exclude.v;
	out->n_exclude = c->exclude.n;
	out->log_max_bytes = c->log_max;
	out->scrub_bytes_per_s = c->scrub_rate;
}

int cmd_log_level(const struct cmd_conf *c)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};

	for (int i = 0; c->log_level && i < 4; i++)
		if (!strcasecmp(names[i], c->log_level))
			return i;
	return FZ_LOG_INFO;
}
