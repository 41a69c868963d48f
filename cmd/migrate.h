/* migrate.h - numbered SQL files (0001-name.sql ...) applied to a database of a mount, each in one transaction, and taken back.
 *
 * What was applied stands in the database itself, in the table fazt_migrations: number, name, sha256 of the file, when, and the
 * lineage and TXID right before it, which is read while the migration holds the writer's lock: so its own commit is the next one.
 * Undoing brings that TXID back in place, as one new commit. Which TXIDs are undoings, and what they undid, stands in
 * "migrate.undone" in the state directory: those are no commits of others.
 * All of it is done as an application does it: by SQLite, through the mount. */
#ifndef FZ_CMD_MIGRATE_H
#define FZ_CMD_MIGRATE_H

#include "cmd/place.h"
#include "cmd/progress.h"

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sqlite3;
struct cJSON;

#define CMD_MIGRATION_NAME 128

/* ---- the files (cmd/migrate_files.c) ---- */
struct cmd_migration {
	uint32_t number;
	char name[CMD_MIGRATION_NAME]; /* of the file */
	char sha256[65];
	struct fz_buf sql; /* of a file only */
	/* applied: */
	char applied[32]; /* when */
	char lineage[17];
	uint64_t txid_before;
};
struct cmd_migrations {
	struct cmd_migration *v; /* by number */
	size_t n;
};
/* Reads dir. -FZ_EUSAGE: a number twice or missing, a file without one, a statement that a migration cannot have; with file and line. */
int cmd_migrations_read(struct cmd_migrations *m, const char *dir, struct fz_err *err) FZ_MUST_CHECK;
struct cmd_migration *cmd_migrations_add(struct cmd_migrations *m); /* NULL on -ENOMEM */
void cmd_migrations_fini(struct cmd_migrations *m);
/* The statement at sql: its length with the ';', comments before it included; 0 at the end. Triggers are one statement. */
size_t cmd_migrate_statement(const char *sql);
/* Why it cannot stand in a migration, or NULL. */
const char *cmd_migrate_refuses(const char *statement, size_t n);

/* ---- the table and applying (cmd/migrate_apply.c) ---- */
/* Opens the database as an application does. dir, path, flags: of replica_opendb(). */
int cmd_migrate_open(struct sqlite3 **db, const int *dir, const char *path, int flags,
                     struct fz_err *err) FZ_MUST_CHECK;
/* What was applied; none when there is no table. */
int cmd_migrate_applied(struct sqlite3 *db, struct cmd_migrations *m, struct fz_err *err) FZ_MUST_CHECK;
/* -FZ_ECHANGED: an applied file is another one now, or is gone, or one below the newest applied was not applied. */
int cmd_migrate_compare(const struct cmd_migrations *applied, const struct cmd_migrations *files, const char *dir,
                        struct fz_err *err) FZ_MUST_CHECK;
/* Applies one, unless another process has meanwhile (*done = false). where NULL: a copy, no TXID is asked for. */
int cmd_migrate_apply(struct sqlite3 *db, struct cmd_migration *file, const struct cmd_place *where, bool *done,
                      struct fz_err *err) FZ_MUST_CHECK;

/* Where the log of a database stands, with everything captured that is committed; 0 and "" = nothing of it was ever captured. Safe while this
 * process holds SQLite's locks: it opens no file. */
int cmd_migrate_position(const struct cmd_place *where, uint64_t *txid, char lineage[static 17],
                         struct fz_err *err) FZ_MUST_CHECK;

/* ---- undoing (cmd/migrate_undo.c) ---- */
struct cmd_undo {
	const struct cmd_place *where;
	const char *identity, *config;
	struct cmd_progress p;
	bool force, dry_run;
	uint32_t number; /* back to before this migration; 0 = the newest */
	/* filled: */
	struct cmd_migration first; /* that one */
	uint64_t tail, txid;        /* the log's end before; of the undoing itself */
	uint64_t commits, others;   /* between, without what was undone already; those of them that are no migrations */
	int64_t first_ms, last_ms;  /* of the others */
	uint32_t changed_pages;
};
int cmd_migrate_undo(struct cmd_undo *u, struct fz_err *err) FZ_MUST_CHECK;

#endif
