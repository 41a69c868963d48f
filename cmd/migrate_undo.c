#include "cmd/migrate.h"

#include "base/clock.h"
#include "base/file.h"
#include "cmd/fetch.h"
#include "cmd/progress.h"
#include "cmd/state.h"
#include "replica/inplace.h"
#include "replica/source.h"

#include <cJSON.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define FILE_NAME  "migrate.undone"
#define FILE_MAX   (1u << 20)
#define RANGES_MAX 256

/* ---- what was undone before ------------------------------------------------------------------------------------- */

/* {"ranges": [{"lineage", "first", "last"}]}: those TXIDs together changed nothing. What is lost of it only asks for --force. */
static cJSON *read_undone(int statefd)
{
	struct fz_buf text = {0};
	cJSON *o = NULL;

	if (fz_read_file(statefd, FILE_NAME, FILE_MAX, &text, NULL) == 0)
		o = cJSON_Parse(fz_buf_str(&text));
	fz_buf_fini(&text);
	if (!cJSON_IsArray(cJSON_GetObjectItem(o, "ranges"))) {
		cJSON_Delete(o);
		o = cJSON_CreateObject();
		cJSON_AddArrayToObject(o, "ranges");
	}
	return o;
}

static bool in_ranges(const cJSON *undone, const char *lineage, uint64_t txid)
{
	const cJSON *r;

	cJSON_ArrayForEach (r, cJSON_GetObjectItem(undone, "ranges")) {
		const char *l = cJSON_GetStringValue(cJSON_GetObjectItem(r, "lineage"));
		double first = cJSON_GetNumberValue(cJSON_GetObjectItem(r, "first"));
		double last = cJSON_GetNumberValue(cJSON_GetObjectItem(r, "last"));

		if (l && !strcmp(l, lineage) && (double)txid >= first && (double)txid <= last)
			return true;
	}
	return false;
}

static int write_undone(int statefd, cJSON *undone, const char *lineage, uint64_t first, uint64_t last,
                        struct fz_err *err)
{
	cJSON *list = cJSON_GetObjectItem(undone, "ranges"), *r = cJSON_CreateObject();
	char *text;
	int rc;

	cJSON_AddStringToObject(r, "lineage", lineage);
	cJSON_AddNumberToObject(r, "first", (double)first);
	cJSON_AddNumberToObject(r, "last", (double)last);
	cJSON_AddItemToArray(list, r);
	while (cJSON_GetArraySize(list) > RANGES_MAX)
		cJSON_DeleteItemFromArray(list, 0);
	text = cJSON_PrintUnformatted(undone);
	rc = text ? fz_write_file(statefd, FILE_NAME, text, strlen(text), 0600, err)
	          : fz_fail_errno(err, ENOMEM, "migrate");
	cJSON_free(text);
	return rc;
}

/* ---- what lies between ------------------------------------------------------------------------------------------ */

struct between {
	struct cmd_migrations applied;
	cJSON *undone;
	const char *lineage;
};

static bool ours(const struct between *b, uint64_t txid)
{
	for (size_t i = 0; i < b->applied.n; i++)
		if (!strcmp(b->applied.v[i].lineage, b->lineage) && b->applied.v[i].txid_before + 1 == txid)
			return true;
	return in_ranges(b->undone, b->lineage, txid);
}

/* TXIDs are without gaps, so they can be counted without the log; it gives the times. */
static void count(struct cmd_undo *u, const struct between *b, struct replica_source *s)
{
	struct replica_commits *list = NULL;
	struct replica_commit c;

	u->commits = u->others = 0;
	for (uint64_t t = u->first.txid_before + 1; t <= u->tail; t++) {
		u->commits += !in_ranges(b->undone, b->lineage, t);
		u->others += !ours(b, t);
	}
	if (!u->others || replica_commits_open(&list, s, NULL) < 0)
		return;
	while (replica_commits_next(list, &c, NULL) == 1) {
		if (strcmp(c.lineage, b->lineage) != 0 || c.txid <= u->first.txid_before || c.txid > u->tail ||
		    (c.min_txid == c.txid && ours(b, c.txid)))
			continue;
		if (!u->first_ms)
			u->first_ms = c.time_ms;
		u->last_ms = c.time_ms;
	}
	replica_commits_close(list);
}

static int find_first(struct cmd_undo *u, struct between *b, struct fz_err *err)
{
	sqlite3 *db = NULL;
	int rc = cmd_migrate_open(&db, &u->where->dirfd, u->where->path, SQLITE_OPEN_READONLY, err);

	if (rc == 0)
		rc = cmd_migrate_applied(db, &b->applied, err);
	sqlite3_close(db); /* before anything else opens the file: POSIX locks end with any descriptor of it */
	if (rc < 0)
		return rc;
	if (!b->applied.n)
		return fz_fail(err, FZ_ENOTFOUND, "%s: no migration was applied", u->where->path);
	for (size_t i = 0; i < b->applied.n; i++)
		if (b->applied.v[i].number == u->number || (!u->number && i == b->applied.n - 1)) {
			u->first = b->applied.v[i];
			return 0;
		}
	return fz_fail(err, FZ_ENOTFOUND, "%s: migration %u was not applied", u->where->path, u->number);
}

static int judge(struct cmd_undo *u, struct fz_err *err)
{
	char from[FZ_TIME_SIZE] = "", to[FZ_TIME_SIZE] = "";

	if (!u->others || u->force)
		return 0;
	if (u->first_ms) {
		fz_format_time(from, u->first_ms);
		fz_format_time(to, u->last_ms);
	}
	return fz_fail(err, FZ_ECHANGED,
	               "%s: undoing migration %u would also undo %llu commit%s of others%s%s%s%s; --force does it",
	               u->where->path, u->first.number, (unsigned long long)u->others, u->others == 1 ? "" : "s",
	               *from ? ", from " : "", from, *to ? " to " : "", to);
}

struct guard {
	struct replica_inplace_guard guard; /* first */
	struct cmd_undo *u;
	const char *lineage;
};

/* Nobody can commit from here on: was there anything after what was looked at? */
static int nobody_else(struct replica_inplace_guard *g, struct fz_err *err)
{
	struct guard *me = (struct guard *)g;
	char lineage[17];
	uint64_t txid;
	int rc = cmd_migrate_position(me->u->where, &txid, lineage, err);

	if (rc == 0 && strcmp(lineage, me->lineage) != 0)
		rc = fz_fail(err, FZ_ECHANGED, "%s is another database now", me->u->where->path);
	if (rc == 0 && txid != me->u->tail && !me->u->force)
		rc = fz_fail(err, FZ_ECHANGED,
		             "%s: somebody committed just now (TXID %llu); nothing was undone: try again",
		             me->u->where->path, (unsigned long long)txid);
	if (rc == 0)
		me->u->tail = txid;
	return rc;
}

int cmd_migrate_undo(struct cmd_undo *u, struct fz_err *err)
{
	struct replica_restore_conf conf = {.when = REPLICA_TXID, .cancel = cmd_interruptible()};
	struct replica_restore_result result = {0};
	struct replica_inplace_result placed = {0};
	struct guard g = {{nobody_else}, u, NULL};
	struct between b = {0};
	struct cmd_source s;
	char lineage[17];
	bool opened = false;
	int statefd = -1, rc;

	rc = cmd_place_capture(u->where->w.dir, err);
	if (rc == 0)
		rc = find_first(u, &b, err);
	if (rc == 0)
		rc = cmd_migrate_position(u->where, &u->tail, lineage, err);
	if (rc == 0 && !*lineage)
		rc = fz_fail(err, FZ_ENOTFOUND,
		             "the configuration excludes %s: nothing of it is captured, and it cannot be undone",
		             u->where->path);
	if (rc == 0 && strcmp(lineage, u->first.lineage) != 0)
		rc = fz_fail(err, FZ_ECHANGED,
		             u->first.lineage[0]
		                     ? "%s was made anew since migration %u was applied: its TXIDs are others"
		                     : "%s did not exist before migration %u: remove it with `fazt drop`",
		             u->where->path, u->first.number);
	if (rc == 0)
		rc = cmd_state_open(&u->where->w, NULL, &statefd, err);
	if (rc < 0)
		goto out;
	b.undone = read_undone(statefd);
	b.lineage = g.lineage = lineage;
	rc = cmd_source_open(&s, u->where->path, u->identity, u->config, err);
	if (rc < 0)
		goto out;
	opened = true;
	count(u, &b, s.source);
	rc = judge(u, err);
	conf.txid = u->first.txid_before;
	memcpy(conf.lineage, lineage, sizeof(conf.lineage));
	if (rc == 0 && u->dry_run) {
		conf.dry_run = true;
		rc = cmd_fetch(&s, &conf, NULL, &result, err);
	} else if (rc == 0) {
		rc = cmd_fetch_in_place(&s, &conf, &u->p, u->where->path, &u->where->dirfd, &g.guard, &result, &placed,
		                        err);
	}
	if (rc < 0 || u->dry_run)
		goto out;
	u->changed_pages = placed.changed_pages;
	u->txid = u->tail + 1;
	rc = cmd_place_capture(u->where->w.dir, err);
	if (rc == 0)
		rc = write_undone(statefd, b.undone, lineage, u->first.txid_before + 1, u->txid, err);
	if (rc < 0)
		fz_err_prefix(err, "it is undone, but");
out:
	if (opened)
		cmd_source_close(&s);
	cmd_migrations_fini(&b.applied);
	cJSON_Delete(b.undone);
	fz_close(&statefd);
	return rc;
}
