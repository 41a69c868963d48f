#include "cmd/ack.h"

#include "base/log.h"
#include "cmd/link.h"
#include "ltx/log.h"
#include "primary/acks.h"
#include "replica/held.h"

#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool cmd_ack_parse(const char *text, unsigned *n)
{
	char *end;
	unsigned long v;

	*n = !strcasecmp(text, "replica");
	if (*n || !strcasecmp(text, "local"))
		return true;
	if (*text < '1' || *text > '9')
		return false;
	v = strtoul(text, &end, 10);
	end += strspn(end, " \t");
	*n = (unsigned)v;
	return v <= 1000 && (!strcasecmp(end, "replicas") || (v == 1 && !strcasecmp(end, "replica")));
}

int cmd_ack_check(const struct cmd_conf *c, struct fz_err *err)
{
	unsigned n;

	if (!c->ack || !cmd_ack_parse(c->ack, &n) || n == 0)
		return 0;
	if (!c->listen || n > c->followers.n)
		return fz_fail(
		        err, FZ_ECONFIG,
		        "ack = %s, but %zu hosts may follow this one: --listen ADDR:PORT and a --follower age1... for "
		        "each",
		        c->ack, c->listen ? c->followers.n : 0);
	return 0;
}

static int wait(struct fs_acks *hook, const struct fs_ack *what)
{
	struct cmd_ack *a = (struct cmd_ack *)(void *)hook;
	struct primary_acks_want want = {.log = what->log,
	                                 .name = what->name,
	                                 .lineage = what->lineage,
	                                 .txid = what->txid,
	                                 .checksum = what->checksum,
	                                 .committed = what->committed,
	                                 .bounded = what->bounded,
	                                 .since_ns = what->since_ns,
	                                 .pid = what->pid,
	                                 .stop = what->stop,
	                                 .until_ns = what->until_ns};

	return primary_acks_wait(a->acks, &want);
}

int cmd_ack_open(struct cmd_link *l, struct fz_err *err)
{
	struct primary_acks_conf conf = {.timeout_ms = l->conf->ack_timeout_ms,
	                                 .wait = l->conf->ack_policy && !strcasecmp(l->conf->ack_policy, "wait")};

	l->ack.hook.wait = wait;
	if (l->role.replica || !l->conf->ack || !cmd_ack_parse(l->conf->ack, &conf.n) || conf.n == 0)
		return 0;
	return primary_acks_open(&l->ack.acks, &conf, err);
}

void cmd_ack_close(struct cmd_link *l)
{
	primary_acks_close(l->ack.acks);
	l->ack.acks = NULL;
}

void cmd_ack_status(struct cmd_link *l, struct cJSON *answer)
{
	cJSON *o = cJSON_AddObjectToObject(answer, "ack");

	cJSON_AddStringToObject(o, "mode", l->ack.acks ? "replica" : "local");
	if (l->ack.acks)
		(void)primary_acks_status(l->ack.acks, l->logs, o);
}

int cmd_ack_settle(struct cmd_link *l, bool drop, struct fz_err *err)
{
	struct ltx_log *log;
	int rc = 0;

	for (size_t i = 0; rc >= 0 && (log = ltx_logset_at(l->logs, i)); i++) {
		struct ltx_log_info info;

		ltx_log_info(log, &info);
		rc = info.ended_ms ? 0 : replica_held_settle(log, drop, err);
		if (rc > 0) {
			fz_info("%s: transaction %llu, which the primary had in doubt, is the last one of its epoch",
			        fz_log_db(info.name), (unsigned long long)info.tail_txid + 1);
			rc = replica_applier_post(l->applier, info.name, info.lineage, info.tail_txid + 1, err);
		}
		ltx_log_put(log);
	}
	return rc < 0 ? rc : 0;
}
