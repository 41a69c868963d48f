/* tune.c - `fazt tune [DIR]`. */
#include "cmd/tune.h"

#include "base/file.h"
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"
#include "cmd/control.h"
#include "cmd/place.h"
#include "cmd/quote.h"
#include "cmd/state.h"
#include "replica/opendb.h"

#include <cJSON.h>
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ASK_MS 10000

struct tuning {
	struct cmd_where w;
	struct cmd_conf conf;
	cJSON *status, *list;
	int statefd;
};

static int ask_mount(struct tuning *t, const char *dir, struct fz_err *err)
{
	int rc = cmd_ask(dir, cmd_request("status"), ASK_MS, &t->w, &t->status, err);

	if (rc == 0)
		rc = cmd_state_open(&t->w, NULL, &t->statefd, err);
	return rc < 0 ? rc : cmd_state_snapshot(&t->conf, t->statefd, err);
}

/* The one persistent setting that is worth it. Other connections must let go for a moment. */
static int use_wal(const char *file, struct fz_err *err)
{
	sqlite3_stmt *s = NULL;
	sqlite3 *db = NULL;
	int dirfd, rc = cmd_place_of(file, &dirfd, err);

	if (rc == 0 && replica_opendb(&db, dirfd < 0 ? NULL : &dirfd, file, SQLITE_OPEN_READWRITE) != SQLITE_OK)
		rc = fz_fail(err, FZ_ENOTFOUND, "%s: %s", file, sqlite3_errmsg(db));
	if (rc == 0) {
		sqlite3_busy_timeout(db, 5000);
		if (sqlite3_prepare_v2(db, "PRAGMA journal_mode=WAL", -1, &s, NULL) != SQLITE_OK ||
		    sqlite3_step(s) != SQLITE_ROW)
			rc = fz_fail(err, FZ_EBUSY, "%s: %s", file, sqlite3_errmsg(db));
		else if (sqlite3_stricmp((const char *)sqlite3_column_text(s, 0), "wal") != 0)
			rc = fz_fail(err, FZ_EBUSY, "%s stays in journal_mode %s: a connection is using it", file,
			             (const char *)sqlite3_column_text(s, 0));
	}
	sqlite3_finalize(s);
	sqlite3_close(db);
	fz_close(&dirfd);
	return rc;
}

static void print(const struct tuning *t, bool applied)
{
	struct fz_buf key = {0};
	const cJSON *o;

	cJSON_ArrayForEach (o, t->list) {
		bool set = applied && !strcmp(cmd_text(o, "kind"), "kernel");

		fz_buf_reset(&key);
		cmd_quote_text(&key, cmd_text(o, "key")); /* with a database's name */
		printf("%s: %s -> %s%s\n        why: %s\n", fz_buf_str(&key), cmd_text(o, "now"), cmd_text(o, "want"),
		       set ? " (set)" : "", cmd_text(o, "why"));
		if (!set)
			printf("        do:  %s\n", cmd_text(o, "command"));
	}
	fz_buf_fini(&key);
	if (!cJSON_GetArraySize(t->list))
		printf("nothing of the kernel or of a database needs to be another\n");
	printf("\nIn the application, on each connection (nothing outside can set them):\n"
	       "  PRAGMA busy_timeout=5000      -- a lock that is held for a moment is no error\n"
	       "  PRAGMA synchronous=NORMAL     -- in WAL mode: a power cut may take the last commits here, not the "
	       "database; FULL with ack = replica\n"
	       "  PRAGMA mmap_size=268435456    -- reads without a request while nothing was written since it was "
	       "opened (README \"Numbers\")\n"
	       "  wal_autocheckpoint stays 1000 -- 0 lets the WAL grow, and beyond 64 MiB that wait for capture "
	       "commits are merged\n");
	if (cmd_tune_count(t->list) && !applied)
		printf("\nfazt tune --apply sets what is the kernel's, and keeps it in " CMD_TUNE_FILE
		       "; --undo takes it back.\n");
}

/* databases: in WAL mode now. */
static void print_json(const struct tuning *t, int n, const struct cmd_words *databases)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddItemToObject(o, "settings", cJSON_Duplicate(t->list, true));
	cJSON_AddNumberToObject(o, "set", n);
	cJSON_AddItemToObject(o, "databases",
	                      cJSON_CreateStringArray((const char *const *)databases->v, (int)databases->n));
	cmd_print_json(o);
	cJSON_Delete(o);
}

static int run(struct tuning *t, const char *dir, bool apply, const struct cmd_words *databases, bool json,
               struct fz_err *err)
{
	struct cmd_tune_facts f = {.conf = &t->conf};
	int n = 0, rc = 0;

	if (dir) {
		rc = ask_mount(t, dir, err);
		f.status = t->status;
		f.dir = t->w.dir;
		f.n_databases = (size_t)cJSON_GetArraySize(cJSON_GetObjectItem(t->status, "databases"));
	}
	for (size_t i = 0; rc == 0 && i < databases->n; i++) /* before anything is set */
		if (access(databases->v[i], W_OK) < 0)
			rc = fz_fail(err, errno == ENOENT ? FZ_ENOTFOUND : errno, "%s: %s", databases->v[i],
			             strerror(errno));
	if (rc < 0)
		return rc;
	cmd_tune_kernel(&f, t->list);
	cmd_tune_host(&f, t->list);
	cmd_tune_sqlite(&f, t->list);
	if (apply)
		rc = cmd_tune_apply(t->list, &n, err);
	for (size_t i = 0; rc == 0 && i < databases->n; i++) {
		rc = use_wal(databases->v[i], err);
		if (rc == 0 && !json)
			printf("%s: journal_mode=WAL\n", databases->v[i]);
	}
	if (rc == 0 && json)
		print_json(t, n, databases);
	else if (rc == 0)
		print(t, apply);
	return rc;
}

int cmd_tune(int argc, char **argv)
{
	struct tuning t = {.statefd = -1};
	struct cmd_words databases = {0};
	bool apply = false, undo = false, json = false;
	const struct cmd_opt opts[] = {
	        {"apply", 0, NULL, "set what is the kernel's, now and after each boot", &apply, NULL, NULL},
	        {"undo",   0, NULL, "set back what was before, and keep nothing", &undo, NULL, NULL},
	        {"database", 0, "FILE", "with --apply: journal_mode=WAL for this database (repeatable)", NULL, NULL,
	         &databases},
	        CMD_OPT_JSON(&json),
	        {0  },
	};
	const struct cmd_spec spec = {
	        "tune",
	        "[--apply [--database FILE]] [--json] [DIR] | --undo",
	        "Prints the settings of the kernel, and of the databases of the mount DIR, that should be others on "
	        "this host, each "
	        "with its\n"
	        "reason. With --apply it sets those of the kernel and keeps them in " CMD_TUNE_FILE
	        ", together with what was "
	        "before. A\n"
	        "database is changed only when it is named.",
	        "fazt tune /var/lib/app\nfazt tune --apply /var/lib/app\nfazt tune --apply --database "
	        "/var/lib/app/app.db "
	        "/var/lib/app\nfazt tune --undo\n",
	        0,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n = 0, count, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	cmd_conf_init(&t.conf);
	t.list = cJSON_CreateArray();
	if (rc == 0 && apply && undo)
		rc = fz_fail(&err, FZ_EUSAGE, "--apply and --undo exclude each other");
	if (rc == 0 && undo && (json || n))
		rc = fz_fail(&err, FZ_EUSAGE, "--undo stands alone: it takes back all that was set on this host");
	if (rc == 0 && databases.n && !apply)
		rc = fz_fail(&err, FZ_EUSAGE, "--database goes with --apply");
	if (rc == 0 && undo) {
		rc = cmd_tune_undo(&count, &err);
		if (rc == 0)
			printf(count ? "%d settings are as they were, and " CMD_TUNE_FILE " is gone\n"
			             : "nothing was set\n",
			       count);
	} else if (rc == 0) {
		rc = run(&t, n ? args[0] : NULL, apply, &databases, json, &err);
	}
	cJSON_Delete(t.status);
	cJSON_Delete(t.list);
	cmd_conf_fini(&t.conf);
	fz_close(&t.statefd);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
