/* config.h - what the user asked for: /etc/fazt/fazt.conf (or --config), FAZT_* in the environment, flags, in rising
 * order. A list that is given at a higher level replaces the lower one's. An unknown key, a bad value or a missing key
 * file is -FZ_ECONFIG (or -FZ_EKEYFILE) with file and line. docs/fazt.conf.example shows every key.
 *
 * The configuration in effect is written to <state>/mount.conf (0600) at each mount: the worker, its successors and
 * commands on an unmounted directory read it from there, so nothing of it is ever in argv. */
#ifndef FZ_CMD_CONFIG_H
#define FZ_CMD_CONFIG_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

#define CMD_CONF_DEFAULT  "/etc/fazt/fazt.conf"
#define CMD_CONF_SNAPSHOT "mount.conf"

enum cmd_level { CMD_LEVEL_NONE, CMD_LEVEL_FILE, CMD_LEVEL_ENV, CMD_LEVEL_FLAG };

/* Where a value comes from, for messages: "FILE:LINE", "FAZT_STATE", "--state". line is 0 outside files. */
struct cmd_origin {
	enum cmd_level level;
	const char *where;
	int line;
};
struct cmd_list {
	char **v;
	size_t n;
	enum cmd_level level;
	int line; /* of the last one, for messages */
	char *where;
};
struct cmd_target {
	char *name; /* NULL = the URL */
	char *url;
	struct cmd_list recipients; /* none = those of [encrypt] */
	char *encrypt;              /* "age", "none"; NULL = as in [encrypt] */
	int64_t ship_interval_ms, minute_ms, hour_ms, day_ms, snapshot_interval_ms;
	int64_t keep_commits_ms, keep_minutes_ms, keep_hours_ms, keep_days_ms, delete_grace_ms; /* -1 = for ever */
	int64_t lag_max_ms; /* `fazt status` calls more a problem; 0 = 60 s */
	int64_t timeout_ms;
	uint64_t ship_bytes, keep_bytes, requests_per_month;
	bool append_only;
	char *prices; /* of requests (cmd/prices.h); NULL = S3's list price */
	char *region, *endpoint, *profile, *credentials_file, *access_key, *secret_key, *session_token;
	enum cmd_level level;
	int line; /* where the section begins */
	char *where;
};
struct cmd_conf {
	/* [mount] */
	char *state; /* absolute; NULL = DIR/.fazt */
	struct cmd_list databases, exclude;
	uint64_t log_max, scrub_rate; /* bytes, bytes per second; 0 = default; UINT64_MAX = no scrub */
	int64_t log_keep_ms;          /* of single transactions in the local log, at least; 0 = 1 h */
	bool no_passthrough, no_resend, private_mount, take_over;
	char *log_level, *log_file; /* NULL = info, <state>/fazt.log */
	uint64_t disk_min; /* bytes free in the state directory; 0 = 256 MiB, or a twentieth of a smaller disk */
	struct cmd_list alert_url;                         /* URLs, or files with one a line */
	char *alert_secret, *alert_headers, *alert_cacert; /* files */
	int64_t alert_interval_ms, alert_timeout_ms;       /* 0 = 1 h, 10 s */
	char *log_format;                                  /* "logfmt", "json", "text"; NULL = logfmt */
	uint64_t log_file_max;                             /* bytes; 0 = 16 MiB */
	int64_t stop_grace_ms;                             /* how long a stop waits for the targets; 0 = 5 s */
	/* [encrypt] */
	char *encrypt; /* "age" or "none"; NULL = age */
	struct cmd_list recipients;
	char *identity; /* where restore, log and verify find the secret key */
	int identity_line;
	char *identity_where;
	/* [link] */
	char *role; /* "primary" or "replica"; NULL = primary */
	char *listen, *advertise, *host_key;
	struct cmd_list followers; /* each "age1... [GLOB...]" */
	char *ack;                 /* "local", "replica", "N replicas"; NULL = local */
	int64_t ack_timeout_ms;    /* 0 = 2 s */
	char *ack_policy;          /* "degrade" or "wait"; NULL = degrade */
	char *primary, *primary_key;
	char *follow;               /* URL of a store: instead of a primary, or while that is away */
	int64_t follow_interval_ms; /* 0 = 5 s */
	char *failover;             /* "auto" or "manual"; NULL = manual */
	char *witness;    /* name or URL of the store with the lease; NULL = the first target, else `follow` */
	int64_t lease_ms; /* 0 = 10 s */
	/* [http] */
	char *http_listen;          /* ADDR:PORT of metrics and status page; NULL = nothing listens */
	struct cmd_list http_hosts; /* names it may be asked by, beside addresses, localhost and the host of listen */
	/* [target NAME] */
	struct cmd_target *targets;
	size_t n_targets;
	size_t n_warnings; /* unknown FAZT_* variables, told on stderr */
	/* where it comes from, for `fazt reload` (cmd/given.h) */
	char *file; /* absolute; NULL = the default one */
	struct cmd_flag {
		char *flag, *section, *key, *value;
	} * flags; /* in the order of cmd_conf_flag() */
	size_t n_flags;
};

void cmd_conf_init(struct cmd_conf *c);
void cmd_conf_fini(struct cmd_conf *c);
/* Reads a file (path NULL = the default one, which may be missing). It must not be readable by others when it holds a
 * secret_key. */
int cmd_conf_read(struct cmd_conf *c, const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* The same from memory; where stands for the file's name in messages. */
int cmd_conf_parse(struct cmd_conf *c, const char *text, size_t size, const char *where,
                   struct fz_err *err) FZ_MUST_CHECK;
/* FAZT_<KEY> for every key of [mount], [encrypt] and [link], FAZT_HTTP_<KEY> of [http], FAZT_TARGETS: one or more URLs. environ ends with NULL. */
int cmd_conf_env(struct cmd_conf *c, char *const *env, struct fz_err *err) FZ_MUST_CHECK;
/* One value from a flag: section "mount", "encrypt", "link" or "target" (then key "url" adds a target). */
int cmd_conf_flag(struct cmd_conf *c, const char *flag, const char *section, const char *key, const char *value,
                  struct fz_err *err) FZ_MUST_CHECK;
/* File, environment: what every command but mount needs. */
int cmd_conf_load(struct cmd_conf *c, const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* What only looking outside can tell (cmd/keys.c): key files exist, recipients and URLs are right. Recipients that are
 * given as files are replaced by what the files hold. */
int cmd_conf_check(struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
/* The n-th of its checks, none of which needs another; 1 = there is no such one. Each is made once. */
int cmd_conf_check_nth(struct cmd_conf *c, size_t n, struct fz_err *err) FZ_MUST_CHECK;
/* Appends to a list (used by cmd/keys.c). */
int cmd_list_add(struct cmd_list *l, const char *item, size_t n, const struct cmd_origin *o,
                 struct fz_err *err) FZ_MUST_CHECK;
void cmd_list_clear(struct cmd_list *l);
/* The configuration in effect in the file's own form; cmd_conf_parse() reads it back. */
int cmd_conf_format(const struct cmd_conf *c, struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;
/* "key = value", in as many lines as it takes. -FZ_ECONFIG: a reader would take the value for another one. */
int cmd_conf_format_line(struct fz_buf *out, const char *key, const char *v, struct fz_err *err) FZ_MUST_CHECK;

/* This host follows another one. */
bool cmd_conf_replica(const struct cmd_conf *c);
bool cmd_conf_failover(const struct cmd_conf *c); /* it is auto */
bool cmd_target_encrypted(const struct cmd_conf *c, const struct cmd_target *t);
const struct cmd_list *cmd_target_recipients(const struct cmd_conf *c, const struct cmd_target *t);

#endif
