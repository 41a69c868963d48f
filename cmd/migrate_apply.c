#include "cmd/migrate.h"

#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/progress.h"
#include "replica/opendb.h"

#include <cJSON.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define BUSY_TRIES 6000 /* of 5 ms: 30 s */
#define ASK_MS     30000
#define STEPS      10000 /* of SQLite's virtual machine between two looks at whether it is interrupted */

static const char table[] =
        "CREATE TABLE IF NOT EXISTS fazt_migrations(number INTEGER PRIMARY KEY, name TEXT NOT NULL, "
        "sha256 TEXT NOT NULL, applied TEXT NOT NULL, lineage TEXT NOT NULL, txid_before INTEGER NOT NULL)";

/* SQLite's wait for a lock, and its work, end when the command is interrupted: what is open then is rolled back. */
static int wait_on(void *arg, int times)
{
	if (times >= BUSY_TRIES || cmd_interrupted(NULL) < 0)
		return 0;
	nanosleep(&(struct timespec){0, 5000000}, NULL);
	return 1;
}

static int stop(void *arg)
{
	return cmd_interrupted(NULL) < 0;
}

static int sql_fail(sqlite3 *db, const char *what, struct fz_err *err)
{
	int rc = sqlite3_errcode(db);

	if (cmd_interrupted(err) < 0)
		return fz_err_prefix(err, "%s", what);
	return fz_fail(err,
	               rc == SQLITE_BUSY || rc == SQLITE_LOCKED      ? FZ_EBUSY
	               : rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB ? FZ_ECORRUPT
	                                                             : FZ_ESQL,
	               "%s: %s", what, sqlite3_errmsg(db));
}

int cmd_migrate_open(sqlite3 **db, const int *dir, const char *path, int flags, struct fz_err *err)
{
	if (replica_opendb(db, dir, path, flags | SQLITE_OPEN_NOMUTEX) != SQLITE_OK)
		return sql_fail(*db, path, err);
	sqlite3_busy_handler(*db, wait_on, NULL);
	sqlite3_progress_handler(*db, STEPS, stop, NULL);
	return 0;
}

static void text_at(sqlite3_stmt *st, int column, char *out, size_t cap)
{
	const char *s = (const char *)sqlite3_column_text(st, column);

	snprintf(out, cap, "%s", s ? s : "");
}

int cmd_migrate_applied(sqlite3 *db, struct cmd_migrations *m, struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = 0, step;

	if (sqlite3_prepare_v2(
	            db, "SELECT number, name, sha256, applied, lineage, txid_before FROM fazt_migrations ORDER BY 1",
	            -1, &st, NULL) != SQLITE_OK) {
		/* no table is told as an error in SQL, what else is wrong is not */
		return sqlite3_errcode(db) == SQLITE_ERROR && strstr(sqlite3_errmsg(db), "no such table")
		               ? 0
		               : sql_fail(db, "fazt_migrations", err);
	}
	while (rc == 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
		struct cmd_migration *v = cmd_migrations_add(m);

		if (!v) {
			rc = fz_fail(err, FZ_EINTERNAL, "no memory for migrations");
			break;
		}
		v->number = (uint32_t)sqlite3_column_int64(st, 0);
		text_at(st, 1, v->name, sizeof(v->name));
		text_at(st, 2, v->sha256, sizeof(v->sha256));
		text_at(st, 3, v->applied, sizeof(v->applied));
		text_at(st, 4, v->lineage, sizeof(v->lineage));
		v->txid_before = (uint64_t)sqlite3_column_int64(st, 5);
	}
	if (rc == 0 && step != SQLITE_DONE)
		rc = sql_fail(db, "fazt_migrations", err);
	sqlite3_finalize(st);
	return rc;
}

static const struct cmd_migration *find(const struct cmd_migrations *m, uint32_t number)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->v[i].number == number)
			return &m->v[i];
	return NULL;
}

int cmd_migrate_compare(const struct cmd_migrations *applied, const struct cmd_migrations *files, const char *dir,
                        struct fz_err *err)
{
	uint32_t newest = applied->n ? applied->v[applied->n - 1].number : 0;

	for (size_t i = 0; i < applied->n; i++) {
		const struct cmd_migration *a = &applied->v[i], *f = find(files, a->number);

		if (!f)
			return fz_fail(err, FZ_ECHANGED,
			               "migration %u (%s) was applied on %s, and its file is not in %s", a->number,
			               a->name, a->applied, dir);
		if (strcmp(a->sha256, f->sha256) != 0)
			return fz_fail(
			        err, FZ_ECHANGED,
			        "%s is not what was applied on %s as %s: its SHA-256 is %.16s..., was %.16s...; write "
			        "what is to change into a new file",
			        f->name, a->applied, a->name, f->sha256, a->sha256);
	}
	for (size_t i = 0; i < files->n; i++)
		if (files->v[i].number < newest && !find(applied, files->v[i].number))
			return fz_fail(err, FZ_ECHANGED, "%s was not applied, but %u was: give it a number above that",
			               files->v[i].name, newest);
	return 0;
}

int cmd_migrate_position(const struct cmd_place *where, uint64_t *txid, char lineage[static 17], struct fz_err *err)
{
	cJSON *answer = NULL;
	struct cmd_where w;
	const cJSON *d;
	int rc = cmd_ask(where->w.dir, cmd_request("sync"), ASK_MS, &w, &answer, err);

	cJSON_Delete(answer);
	answer = NULL;
	*txid = 0;
	lineage[0] = 0;
	if (rc == 0)
		rc = cmd_ask(where->w.dir, cmd_request("status"), ASK_MS, &w, &answer, err);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
		const char *l = cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage"));

		if (!name || strcmp(name, where->database) != 0)
			continue;
		*txid = (uint64_t)cJSON_GetNumberValue(cJSON_GetObjectItem(d, "txid"));
		snprintf(lineage, 17, "%s", l ? l : "");
	}
	cJSON_Delete(answer);
	return rc;
}

/* ---- one file --------------------------------------------------------------------------------------------------- */

static int statement_fail(sqlite3 *db, const struct cmd_migration *m, const char *statement, struct fz_err *err)
{
	const char *sql = fz_buf_str(&m->sql);
	int off = sqlite3_error_offset(db), line = 1, column = 1;

	if (off < 0) /* it is not told where in the statement: its first word */
		for (off = 0; statement[off] == ' ' || statement[off] == '\t' || statement[off] == '\n' ||
		              statement[off] == '\r';)
			off++;
	for (const char *p = sql; p < statement + off; p++) {
		column = *p == '\n' ? 1 : column + 1;
		line += *p == '\n';
	}
	return fz_fail(err,
	               cmd_interrupted(NULL) < 0            ? ECANCELED
	               : sqlite3_errcode(db) == SQLITE_BUSY ? FZ_EBUSY
	                                                    : FZ_ESQL,
	               "%s:%d:%d: %s; the file was rolled back as a whole", m->name, line, column, sqlite3_errmsg(db));
}

/* What the list of refused statements does not know by its first word. */
static int authorize(void *arg, int action, const char *a, const char *b, const char *c, const char *d)
{
	return action == SQLITE_TRANSACTION || action == SQLITE_ATTACH || action == SQLITE_DETACH ? SQLITE_DENY
	                                                                                          : SQLITE_OK;
}

static int run_file(sqlite3 *db, const struct cmd_migration *m, struct fz_err *err)
{
	const char *p = fz_buf_str(&m->sql);
	int rc = 0;

	sqlite3_set_authorizer(db, authorize, NULL);
	while (rc == 0 && *p) {
		sqlite3_stmt *st = NULL;
		const char *tail = p;
		int step = SQLITE_DONE;

		if (sqlite3_prepare_v2(db, p, -1, &st, &tail) != SQLITE_OK) {
			rc = statement_fail(db, m, p, err);
			break;
		}
		while (st && (step = sqlite3_step(st)) == SQLITE_ROW)
			;
		if (step != SQLITE_DONE)
			rc = statement_fail(db, m, p, err);
		sqlite3_finalize(st);
		if (rc == 0 && sqlite3_get_autocommit(db))
			rc = fz_fail(err, FZ_ESQL,
			             "%s: a statement ended the transaction: nothing of the file is applied", m->name);
		p = tail;
	}
	sqlite3_set_authorizer(db, NULL, NULL);
	return rc;
}

static int record(sqlite3 *db, const struct cmd_migration *m, struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	int rc = 0;

	if (sqlite3_prepare_v2(db, "INSERT INTO fazt_migrations VALUES (?, ?, ?, ?, ?, ?)", -1, &st, NULL) !=
	            SQLITE_OK ||
	    sqlite3_bind_int64(st, 1, m->number) || sqlite3_bind_text(st, 2, m->name, -1, SQLITE_STATIC) ||
	    sqlite3_bind_text(st, 3, m->sha256, -1, SQLITE_STATIC) ||
	    sqlite3_bind_text(st, 4, m->applied, -1, SQLITE_STATIC) ||
	    sqlite3_bind_text(st, 5, m->lineage, -1, SQLITE_STATIC) ||
	    sqlite3_bind_int64(st, 6, (sqlite3_int64)m->txid_before) || sqlite3_step(st) != SQLITE_DONE)
		rc = sql_fail(db, "recording it in fazt_migrations", err);
	sqlite3_finalize(st);
	return rc;
}

static int exec(sqlite3 *db, const char *sql, const char *what, struct fz_err *err)
{
	return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_fail(db, what, err);
}

int cmd_migrate_apply(sqlite3 *db, struct cmd_migration *file, const struct cmd_place *where, bool *done,
                      struct fz_err *err)
{
	struct cmd_migrations now = {0};
	const struct cmd_migration *other;
	int rc = cmd_interrupted(err);

	*done = false;
	if (rc == 0)
		rc = exec(db, "BEGIN IMMEDIATE", file->name, err);
	if (rc < 0)
		return rc;
	rc = cmd_migrate_applied(db, &now, err); /* while we hold the lock */
	other = find(&now, file->number);
	if (rc == 0 && other && strcmp(other->sha256, file->sha256) != 0)
		rc = fz_fail(err, FZ_ECHANGED, "%s: another migration of that number was applied just now", file->name);
	if (rc < 0 || other)
		goto out;
	if (where)
		rc = cmd_migrate_position(where, &file->txid_before, file->lineage, err);
	if (rc == 0)
		rc = run_file(db, file, err);
	if (rc == 0)
		rc = exec(db, table, "making fazt_migrations", err);
	fz_format_time(file->applied, fz_now_ms());
	if (rc == 0)
		rc = record(db, file, err);
	if (rc == 0)
		rc = exec(db, "COMMIT", file->name, err);
	*done = rc == 0;
out:
	if (!*done && !sqlite3_get_autocommit(db))
		sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	cmd_migrations_fini(&now);
	return rc;
}
