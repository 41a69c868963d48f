/* migrate.c - `fazt migrate DB DIR`, `--status`, `--undo`: see cmd/migrate.h. */
#include "cmd/migrate.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/temp.h"
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/config.h"
#include "cmd/progress.h"
#include "cmd/quote.h"
#include "replica/backup.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_WAIT_MS 30000

struct migrating {
	struct cmd_place place;
	struct cmd_migrations applied, files;
	bool dry_run, json, progress, existed;
	uint64_t txid; /* after the last one */
	cJSON *list;   /* of what was done */
};

static void add_json(cJSON *list, const struct cmd_migration *m, const char *state, uint64_t txid)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "number", m->number);
	cJSON_AddStringToObject(o, "name", m->name);
	cJSON_AddStringToObject(o, "state", state);
	cJSON_AddStringToObject(o, "sha256", m->sha256);
	if (*m->applied) {
		cJSON_AddStringToObject(o, "applied", m->applied);
		cJSON_AddNumberToObject(o, "txid_before", (double)m->txid_before);
		cJSON_AddStringToObject(o, "lineage", m->lineage);
	}
	if (txid)
		cJSON_AddNumberToObject(o, "txid", (double)txid);
	cJSON_AddItemToArray(list, o);
}

static bool is_applied(const struct migrating *m, uint32_t number)
{
	for (size_t i = 0; i < m->applied.n; i++)
		if (m->applied.v[i].number == number)
			return true;
	return false;
}

/* Reads what was applied, without making the file; closes the database again. */
static int look(struct migrating *m, struct fz_err *err)
{
	sqlite3 *db = NULL;
	struct stat st;
	int rc;

	m->existed = fstatat(m->place.dirfd, basename(m->place.path), &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!m->existed)
		return errno == ENOENT ? 0 : fz_fail_errno(err, errno, "%s", m->place.path);
	if (!S_ISREG(st.st_mode))
		return fz_fail(err, FZ_EUSAGE, "%s is no file", m->place.path);
	rc = cmd_migrate_open(&db, &m->place.dirfd, m->place.path, SQLITE_OPEN_READONLY, err);
	if (rc == 0)
		rc = cmd_migrate_applied(db, &m->applied, err);
	sqlite3_close(db);
	return rc;
}

/* ---- applying --------------------------------------------------------------------------------------------------- */

/* A new file is its directory's owner's, not root's, so that the application can write it. */
static int make_new(const struct cmd_place *p, struct fz_err *err)
{
	struct stat st;
	int fd, rc = 0;

	fd = openat(p->dirfd, basename(p->path), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || fstat(p->dirfd, &st) < 0 || (geteuid() == 0 && fchown(fd, st.st_uid, st.st_gid) < 0))
		rc = fz_fail_errno(err, errno, "making %s", p->path);
	fz_close(&fd);
	return rc;
}

/* On a copy, which goes again. */
static int rehearse(struct migrating *m, struct fz_err *err)
{
	struct replica_backup_result copied;
	struct cmd_progress p;
	char copy[PATH_MAX + 16];
	struct fz_temp tmp;
	sqlite3 *db = NULL;
	bool done;
	int rc = fz_temp_open(&tmp, fz_temp_dir(), err), fd;

	if (rc < 0)
		return rc;
	snprintf(copy, sizeof(copy), "%s/copy", tmp.path);
	fd = open(copy, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		rc = fz_fail_errno(err, errno, "cannot create %s", copy);
	fz_close(&fd);
	cmd_progress_begin(&p, "copying", m->progress, m->json);
	if (rc == 0 && m->existed)
		rc = replica_backup(m->place.path, &m->place.dirfd, copy, COPY_WAIT_MS, &p.bytes, cmd_interruptible(),
		                    &copied, err);
	cmd_progress_end(&p);
	if (rc == 0)
		rc = cmd_migrate_open(&db, &tmp.fd, copy, SQLITE_OPEN_READWRITE, err);
	for (size_t i = 0; rc == 0 && i < m->files.n; i++)
		if (!is_applied(m, m->files.v[i].number)) {
			rc = cmd_migrate_apply(db, &m->files.v[i], NULL, &done, err);
			if (rc == 0)
				add_json(m->list, &m->files.v[i], "works", 0);
			if (rc == 0 && !m->json)
				cmd_print("%s works (on a copy: --dry-run)\n", m->files.v[i].name);
		}
	sqlite3_close(db);
	fz_temp_close(&tmp);
	return rc;
}

static int apply_one(struct migrating *m, sqlite3 *db, struct cmd_migration *file, struct fz_err *err)
{
	char lineage[17];
	uint64_t txid;
	bool done;
	int rc = cmd_migrate_apply(db, file, &m->place, &done, err);

	if (rc < 0)
		return rc;
	if (!done) {
		if (!m->json)
			cmd_print("%s was applied by another process just now\n", file->name);
		return 0;
	}
	rc = cmd_place_capture(m->place.w.dir, err); /* opens no file of the database */
	if (rc == 0)
		rc = cmd_migrate_position(&m->place, &txid, lineage, err);
	if (rc < 0)
		return fz_err_prefix(err, "%s is committed, but", file->name);
	m->txid = *lineage ? file->txid_before + 1 : 0;
	add_json(m->list, file, "applied", m->txid);
	if (m->json)
		return 0;
	if (*lineage)
		cmd_print("%s applied: transaction %llu (before it: %llu)\n", file->name, (unsigned long long)m->txid,
		          (unsigned long long)file->txid_before);
	else
		cmd_print("%s applied\n  the configuration excludes %s: nothing of it is captured, and it cannot be "
		          "undone\n",
		          file->name, m->place.path);
	return 0;
}

static int apply_all(struct migrating *m, struct fz_err *err)
{
	sqlite3 *db = NULL;
	size_t n = 0;
	int rc = 0;

	for (size_t i = 0; i < m->files.n; i++)
		n += !is_applied(m, m->files.v[i].number);
	if (n == 0) {
		if (!m->json)
			cmd_print("%s is up to date: %zu migrations applied\n", m->place.path, m->applied.n);
		return 0;
	}
	if (m->dry_run)
		return rehearse(m, err);
	if (m->existed)
		rc = cmd_place_capture(m->place.w.dir, err);
	else
		rc = make_new(&m->place, err);
	if (rc == 0)
		rc = cmd_migrate_open(&db, &m->place.dirfd, m->place.path, SQLITE_OPEN_READWRITE, err);
	for (size_t i = 0; rc == 0 && i < m->files.n; i++)
		if (!is_applied(m, m->files.v[i].number))
			rc = apply_one(m, db, &m->files.v[i], err);
	sqlite3_close(db);
	return rc;
}

static int migrate(struct migrating *m, const char *dir, struct fz_err *err)
{
	int rc = cmd_migrations_read(&m->files, dir, err);

	if (rc == 0)
		rc = look(m, err);
	if (rc == 0)
		rc = cmd_migrate_compare(&m->applied, &m->files, dir, err);
	return rc < 0 ? rc : apply_all(m, err);
}

/* ---- status and undo -------------------------------------------------------------------------------------------- */

static int status(struct migrating *m, const char *dir, struct fz_err *err)
{
	struct fz_err why = {0};
	int rc = dir ? cmd_migrations_read(&m->files, dir, err) : 0;

	if (rc == 0)
		rc = look(m, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < m->applied.n; i++) {
		const struct cmd_migration *a = &m->applied.v[i];

		add_json(m->list, a, "applied", 0);
		if (!m->json)
			cmd_print("%04u  applied %s, after transaction %llu  %s\n", a->number, a->applied,
			          (unsigned long long)a->txid_before, a->name);
	}
	for (size_t i = 0; i < m->files.n; i++)
		if (!is_applied(m, m->files.v[i].number)) {
			add_json(m->list, &m->files.v[i], "pending", 0);
			if (!m->json)
				cmd_print("%04u  pending  %s\n", m->files.v[i].number, m->files.v[i].name);
		}
	if (!m->applied.n && !m->files.n && !m->json)
		cmd_print("%s: no migration was applied\n", m->place.path);
	if (dir && cmd_migrate_compare(&m->applied, &m->files, dir, &why) < 0) {
		*err = why;
		return why.code;
	}
	return 0;
}

static void print_undo(const struct cmd_undo *u, bool json)
{
	char from[FZ_TIME_SIZE], to[FZ_TIME_SIZE];
	cJSON *o;

	if (json) {
		o = cJSON_CreateObject();
		cJSON_AddNumberToObject(o, "number", u->first.number);
		cJSON_AddStringToObject(o, "name", u->first.name);
		cJSON_AddNumberToObject(o, "txid_before", (double)u->first.txid_before);
		cJSON_AddNumberToObject(o, "undone_commits", (double)u->commits);
		cJSON_AddNumberToObject(o, "of_others", (double)u->others);
		cJSON_AddBoolToObject(o, "dry_run", u->dry_run);
		if (!u->dry_run)
			cJSON_AddNumberToObject(o, "txid", (double)u->txid);
		cmd_print_json(o);
		cJSON_Delete(o);
		return;
	}
	cmd_print("%s: %s before migration %u (%s), transaction %llu\n", u->where->path,
	          u->dry_run ? "would go back to" : "is as", u->first.number, u->first.name,
	          (unsigned long long)u->first.txid_before);
	cmd_print("  %llu commit%s %s undone", (unsigned long long)u->commits, u->commits == 1 ? "" : "s",
	          u->dry_run        ? "would be"
	          : u->commits == 1 ? "was"
	                            : "were");
	if (u->others && u->first_ms)
		cmd_print(", %llu of others, from %s to %s", (unsigned long long)u->others,
		          fz_format_time(from, u->first_ms), fz_format_time(to, u->last_ms));
	else
		cmd_print(", %llu of others", (unsigned long long)u->others);
	if (u->dry_run)
		cmd_print("; nothing was written (--dry-run)\n");
	else
		cmd_print(
		        "\n  as one new transaction, %llu (%u pages); `fazt restore --in-place %s --txid %llu` brings "
		        "them again\n",
		        (unsigned long long)u->txid, u->changed_pages, u->where->path, (unsigned long long)u->tail);
}

/* [N] DB */
static int undo(struct cmd_undo *u, struct cmd_place *place, char **args, int n, bool json, bool progress,
                struct fz_err *err)
{
	unsigned long long number = 0;
	int rc = 0;

	if (n > 2)
		return fz_fail(err, FZ_EUSAGE, "--undo takes DIR/NAME, or N DIR/NAME");
	if (n == 2)
		rc = cmd_args_number("undo", args[0], UINT32_MAX, &number, err);
	if (rc == 0)
		rc = cmd_place_find(place, args[n - 1], err);
	u->number = (uint32_t)number;
	u->where = place;
	cmd_progress_begin(&u->p, "restoring", progress, json);
	if (rc == 0)
		rc = cmd_migrate_undo(u, err);
	cmd_progress_end(&u->p);
	if (rc == 0)
		print_undo(u, json);
	return rc;
}

int cmd_migrate(int argc, char **argv)
{
	struct migrating m = {.place.dirfd = -1};
	struct cmd_undo u = {0};
	bool take_back = false, list = false;
	const struct cmd_opt opts[] = {
	        {"undo",      0, NULL, "go back to before migration N (the newest), in place", &take_back, NULL, NULL},
	        {"force",       0, NULL, "with --undo: also when others have committed since", &u.force, NULL, NULL},
	        {"status", 's', NULL, "list what was applied and, with FILES, what is pending", &list, NULL, NULL},
	        {"dry-run",       'n', NULL, "try the files on a copy of the database; with --undo: only tell", &m.dry_run,
	         NULL, NULL},
	        {"identity",     'i', "KEY",
	         "with --undo: identity that decrypts the backup, should the log not reach back", NULL, &u.identity,
	         NULL},
	        CMD_OPT_PROGRESS(&m.progress),
	        CMD_OPT_JSON(&m.json),
	        CMD_OPT_CONFIG(&u.config),
	        {0      },
	};
	const struct cmd_spec spec = {
	        .name = "migrate",
	        .synopsis = "[options] DIR/NAME FILES | --undo [N] DIR/NAME | --status DIR/NAME [FILES]",
	        .about = "Applies the SQL files of the directory FILES (0001-name.sql, 0002-...) that were not applied "
	                 "to the database "
	                 "NAME of the\n"
	                 "mount DIR, in order, each in one transaction, and records number, SHA-256 and the "
	                 "transaction before it in "
	                 "the table\n"
	                 "fazt_migrations. A failing statement rolls its file back and ends the command. --undo brings "
	                 "the state "
	                 "before migration N back\n"
	                 "as one new transaction, under the open connections of applications.",
	        .examples = "fazt migrate /var/lib/app/app.db migrations/\nfazt migrate --dry-run /var/lib/app/app.db "
	                    "migrations/\n"
	                    "fazt migrate --undo /var/lib/app/app.db\nfazt migrate --undo 3 /var/lib/app/app.db\n",
	        .min_args = 1,
	        .max_args = 2,
	        .opts = opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	m.list = cJSON_CreateArray();
	u.dry_run = m.dry_run;
	if (rc == 0 && (take_back + list > 1 || (list && m.dry_run) || (u.force && !take_back)))
		rc = fz_fail(&err, FZ_EUSAGE,
		             "--undo, --status, and --dry-run or --force do not go together like this");
	if (rc == 0 && !take_back && !list && n != 2)
		rc = fz_fail(&err, FZ_EUSAGE, "which files? fazt migrate DIR/NAME FILES");
	if (rc == 0 && take_back)
		rc = undo(&u, &m.place, args, n, m.json, m.progress, &err);
	else if (rc == 0)
		rc = cmd_place_find(&m.place, args[0], &err);
	(void)cmd_interruptible();
	if (rc == 0 && !take_back)
		rc = list ? status(&m, n > 1 ? args[1] : NULL, &err) : migrate(&m, args[1], &err);
	if (rc == -FZ_EBUSY && *m.place.path && !take_back) /* undoing says it itself */
		rc = cmd_place_busy(m.place.path, &err);
	if (m.json && !take_back)
		cmd_print_json(m.list);
	cJSON_Delete(m.list);
	cmd_migrations_fini(&m.applied);
	cmd_migrations_fini(&m.files);
	cmd_place_close(&m.place);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
