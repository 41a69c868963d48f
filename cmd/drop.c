/* drop.c - `fazt drop`: the history of a database that was deleted goes, here and in the stores.
 *
 * The local logs first, since a log that is there would be shipped; a lane that has one in hand is waited for. Then the stores
 * (primary/drop.h). What fails or is interrupted is done by repeating the command. */
#include "cmd/drop.h"

#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/file.h"
#include "cmd/ask.h"
#include "cmd/branch.h"
#include "cmd/place.h"
#include "cmd/progress.h"
#include "cmd/quote.h"
#include "cmd/stores.h"
#include "cmd/worker.h"
#include "ltx/log.h"
#include "primary/drop.h"
#include "primary/server.h"
#include "store/store.h"

#include <cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WAIT_MS 30000
#define LOOK_MS 10

/* ---- the worker's side ------------------------------------------------------------------------------------------- */

/* The first log of that name; NULL = none. */
static struct ltx_log *log_of(struct ltx_logset *set, const char *name, struct ltx_log_info *info)
{
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(set, i)); i++) {
		ltx_log_info(log, info);
		if (!strcmp(info->name, name))
			return log;
		ltx_log_put(log);
	}
	return NULL;
}

static bool lives(struct ltx_logset *set, const char *name)
{
	struct ltx_log *log = NULL;
	bool yes = ltx_logset_get(set, name, false, &log, NULL) == 0;

	ltx_log_put(log);
	return yes;
}

/* What a lane has for that lineage: ship/<target>/<name>.<lineage>. */
static bool lane_has(int statefd, const char *lineage)
{
	DIR *d = fz_opendir(statefd, "ship");
	struct dirent *t, *e;
	bool found = false;

	while (d && !found && (t = readdir(d))) {
		DIR *s = t->d_name[0] == '.' ? NULL : fz_opendir(dirfd(d), t->d_name);

		while (s && !found && (e = readdir(s))) {
			const char *dot = strrchr(e->d_name, '.');

			found = dot && !strcmp(dot + 1, lineage);
		}
		if (s)
			closedir(s);
	}
	if (d)
		closedir(d);
	return found;
}

/* -FZ_EBUSY while somebody works with it. */
static int remove_one(struct cmd_serving *w, struct ltx_log *log, const struct ltx_log_info *info, struct fz_err *err)
{
	uint64_t floor = w->link.server ? primary_server_floor(w->link.server, info->lineage) : UINT64_MAX;

	if (floor < info->tail_txid)
		return fz_fail(err, FZ_EBUSY, "%s: a replica has not followed to its end yet", info->name);
	return ltx_logset_remove(w->logs, log, err);
}

static int remove_logs(struct cmd_serving *w, const char *name, unsigned *removed, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + WAIT_MS * UINT64_C(1000000);
	struct ltx_log_info info;
	struct ltx_log *log;
	int rc = 0;

	while (rc == 0 && (log = log_of(w->logs, name, &info))) {
		if (!info.ended_ms)
			rc = fz_fail(err, FZ_EEXISTS, "%s is there: delete it first, or --force", name);
		else
			rc = remove_one(w, log, &info, err);
		ltx_log_put(log);
		if (rc == 0) {
			(*removed)++;
			while (w->ship && lane_has(w->statefd, info.lineage) && fz_mono_ns() < end) {
				ltx_logset_wake(w->logs); /* the lanes look, and forget it */
				(void)!poll(NULL, 0, LOOK_MS);
			}
		}
		if (rc == -FZ_EBUSY && fz_mono_ns() < end && !cmd_control_gone(w->control)) {
			(void)!poll(NULL, 0, LOOK_MS);
			rc = 0;
		}
	}
	return rc;
}

struct branches {
	const char *name;
	char dir[128];
};

static int of_name(const struct cmd_branch *b, void *arg)
{
	struct branches *x = arg;

	if (strcmp(b->name, x->name) != 0)
		return 0;
	snprintf(x->dir, sizeof(x->dir), "%s", b->dir);
	return 1;
}

static int remove_branches(struct cmd_serving *w, const char *name, unsigned *removed, struct fz_err *err)
{
	struct branches b = {.name = name};
	char path[160];
	int rc;

	while ((rc = cmd_branch_each(w->statefd, of_name, &b, err)) == 1) {
		snprintf(path, sizeof(path), "branches/%s", b.dir);
		rc = fz_remove_tree(w->statefd, path, err);
		if (rc < 0)
			break;
		(*removed)++;
	}
	return rc;
}

int cmd_drop_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer, struct fz_err *err)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(request, "name"));
	unsigned removed = 0, branches = 0;
	int rc;

	if (!name)
		return fz_fail(err, FZ_EUSAGE, "the request names no database");
	if (w->link.role.replica)
		return fz_fail(err, FZ_EUSAGE, "%s is a replica: its databases are its primary's", w->dir);
	if (cJSON_IsTrue(cJSON_GetObjectItem(request, "ask")))
		return lives(w->logs, name)
		               ? 0
		               : fz_fail(err, FZ_ENOTFOUND, "%s is there, and no database that fazt captures", name);
	if (lives(w->logs, name))
		return fz_fail(err, FZ_EEXISTS, "%s is there: delete it first, or --force", name);
	rc = remove_logs(w, name, &removed, err);
	if (rc == 0)
		rc = remove_branches(w, name, &branches, err);
	cJSON_AddNumberToObject(answer, "removed", removed);
	cJSON_AddNumberToObject(answer, "branches", branches);
	return rc;
}

/* ---- the command's side ------------------------------------------------------------------------------------------ */

struct dropping {
	const char *config;
	bool force, yes, dry_run, json, progress;
	struct cmd_stores s;
	char path[PATH_MAX], writer_id[PRIMARY_WRITER_ID_SIZE], host[256];
	unsigned logs, branches;
	struct cmd_progress p;
};

struct one {
	struct primary_drop d; /* first */
	struct cmd_progress *p;
};

static void tick(struct primary_drop *d)
{
	struct cmd_progress *p = ((struct one *)d)->p;

	p->objects = d->deleted;
	p->of_objects = d->objects;
	cmd_progress_tick(p, 0, 0);
}

static bool stop(struct primary_drop *d)
{
	return cmd_interrupted(NULL) < 0;
}

/* The name once more, of whoever sits there. */
static int ask_for_name(const struct dropping *x, struct fz_err *err)
{
	char line[600];

	if (x->yes || x->dry_run)
		return 0;
	if (!isatty(0))
		return fz_fail(err, FZ_EUSAGE, "nobody is there to be asked: --yes means it");
	fprintf(stderr,
	        "The whole history of %s goes, here and in %zu target%s; it cannot be brought back.\nType the name to "
	        "go on: ",
	        x->s.database, x->s.n, x->s.n == 1 ? "" : "s");
	if (!fgets(line, sizeof(line), stdin))
		return fz_fail(err, ECANCELED, "nothing was dropped");
	line[strcspn(line, "\n")] = 0;
	return strcmp(line, x->s.database) ? fz_fail(err, ECANCELED, "'%s' is not the name: nothing was dropped", line)
	                                   : 0;
}

/* As `rm` does, with what belongs to it: in the directory that was looked at, whoever owns the one above may have put a link there by now. */
static int delete_file(const struct dropping *x, int dirfd, struct fz_err *err)
{
	static const char *const with[] = {"", "-wal", "-shm", "-journal"};
	char who[CMD_PLACE_WHO];
	int rc = 0;

	if (cmd_place_used(x->path, who))
		rc = fz_fail(err, FZ_EBUSY, "%s has %s open", who, x->path);

	for (size_t i = 0; rc == 0 && i < 4; i++) {
		char name[PATH_MAX + 16];

		snprintf(name, sizeof(name), "%s%s", basename(x->path), with[i]);
		if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
			rc = fz_fail_errno(err, errno, "cannot delete %s%s", x->path, with[i]);
	}
	return rc;
}

/* ask: nothing is removed; is it a database? */
static int ask_worker(const struct dropping *x, bool ask, cJSON **answer, struct fz_err *err)
{
	cJSON *request = cmd_request("drop");
	struct cmd_where w;

	cJSON_AddStringToObject(request, "name", x->s.database);
	cJSON_AddBoolToObject(request, "ask", ask);
	return cmd_ask(x->s.w.dir, request, 2 * WAIT_MS, &w, answer, err);
}

static int drop_here(struct dropping *x, struct fz_err *err)
{
	cJSON *answer = NULL;
	int dirfd = -1, rc;
	struct stat st;
	bool there;

	if (!x->s.w.fazt)
		return fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", x->s.w.dir);
	if (snprintf(x->path, sizeof(x->path), "%s/%s", strcmp(x->s.w.dir, "/") ? x->s.w.dir : "", x->s.database) >=
	    (int)sizeof(x->path))
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	rc = cmd_place_of(x->path, &dirfd, err);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	there = dirfd >= 0 && fstatat(dirfd, basename(x->path), &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (there && !x->force)
		rc = fz_fail(err, FZ_EEXISTS, "%s is there: delete it first, or --force", x->path);
	else
		rc = there ? ask_worker(x, true, &answer, err) : 0;
	cJSON_Delete(answer);
	answer = NULL;
	if (rc == 0)
		rc = ask_for_name(x, err);
	if (rc == 0 && there && !x->dry_run)
		rc = delete_file(x, dirfd, err);
	fz_close(&dirfd);
	if (rc < 0 || x->dry_run)
		return rc;
	rc = ask_worker(x, false, &answer, err);
	if (rc == 0) {
		x->logs = (unsigned)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "removed"));
		x->branches = (unsigned)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "branches"));
		rc = primary_writer_id(x->s.statefd, x->writer_id, err);
	}
	cJSON_Delete(answer);
	return rc;
}

static void print_store(const struct dropping *x, const struct primary_drop *d, const char *label)
{
	cJSON *o;

	if (x->json) {
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "target", label);
		cJSON_AddStringToObject(o, "name", d->database);
		cJSON_AddBoolToObject(o, "dry_run", x->dry_run);
		cJSON_AddNumberToObject(o, "objects", (double)d->objects);
		cJSON_AddNumberToObject(o, "bytes", (double)d->bytes);
		cJSON_AddNumberToObject(o, "lineages", (double)d->lives);
		cJSON_AddNumberToObject(o, "deleted", (double)d->deleted);
		cJSON_AddNumberToObject(o, "claim", d->claim);
		cmd_print_json(o);
		cJSON_Delete(o);
		return;
	}
	cmd_print("%s in %s: %llu objects, %llu bytes of %llu lineage%s %s\n", d->database, label,
	          (unsigned long long)d->objects, (unsigned long long)d->bytes, (unsigned long long)d->lives,
	          d->lives == 1 ? "" : "s", x->dry_run ? "would be deleted" : "were deleted");
	if (d->others)
		cmd_print("  %llu objects below that name are not fazt's, and stay\n", (unsigned long long)d->others);
}

static int drop_stores(struct dropping *x, struct fz_err *err)
{
	bool here = *x->s.w.dir != 0, any = x->logs > 0 || x->branches > 0;
	struct fz_err why = {0};
	int failed = 0;

	if (gethostname(x->host, sizeof(x->host) - 1) < 0)
		x->host[0] = 0;
	for (size_t i = 0; i < x->s.n; i++) {
		struct one o = {
		        {.store = x->s.v[i].store,
		         .database = x->s.database,
		         .writer_id = *x->writer_id ? x->writer_id : NULL,
		         .force = x->force || x->dry_run,
		         .writer = x->host,
		         .dry_run = x->dry_run,
		         .tick = tick,
		         .stop = stop},
		        &x->p
                };
		int rc;

		if (here && !x->dry_run && access(x->path, F_OK) == 0)
			return fz_fail(err, FZ_EEXISTS, "%s was made anew: what it had before stays in the targets",
			               x->path);
		cmd_progress_begin(&x->p, "dropping", x->progress, x->json);
		rc = primary_drop_run(&o.d, &why);
		cmd_progress_end(&x->p);
		if (rc == 0) {
			any = true;
			print_store(x, &o.d, x->s.v[i].label);
		} else if (rc != -FZ_ENOTFOUND && !failed) { /* the other targets have their turn all the same */
			*err = why;
			failed = rc;
			if (rc == -ECANCELED)
				break;
		}
	}
	if (failed)
		return failed;
	return any ? 0 : fz_fail(err, FZ_ENOTFOUND, "nothing is left of a database %s", x->s.database);
}

static int drop_it(struct dropping *x, const char *arg, struct fz_err *err)
{
	int rc = cmd_stores_open(&x->s, arg, x->config, err);

	if (rc < 0)
		return rc;
	if (!*x->s.database)
		rc = fz_fail(err, FZ_EUSAGE, "%s names no database: DIR/DATABASE, NAME/DATABASE or the URL of one",
		             arg);
	else if (!cmd_place_name(x->s.database))
		rc = fz_fail(err, FZ_EUSAGE, "'%s' cannot be the name of a database", x->s.database);
	else if (*x->s.w.dir)
		rc = drop_here(x, err);
	else
		rc = ask_for_name(x, err);
	(void)cmd_interruptible();
	if (rc == 0 && x->logs && !x->json)
		cmd_print("%s: %u local log%s %s removed\n", x->path, x->logs, x->logs == 1 ? "" : "s",
		          x->logs == 1 ? "was" : "were");
	if (rc == 0 && x->branches && !x->json)
		cmd_print("%s: %u branch%s removed\n", x->path, x->branches, x->branches == 1 ? " was" : "es were");
	if (rc == 0)
		rc = drop_stores(x, err);
	cmd_stores_close(&x->s);
	return rc;
}

int cmd_drop(int argc, char **argv)
{
	struct dropping x = {0};
	const struct cmd_opt opts[] = {
	        {"force",   0, NULL,
	         "also a database that is there (it is deleted first), or that another host writes (it is fenced)", &x.force, NULL, NULL},
	        {"yes",     'y', NULL, "do not ask for the name again", &x.yes, NULL, NULL},
	        {"dry-run", 'n', NULL, "only tell how much there is in the targets", &x.dry_run, NULL, NULL},
	        CMD_OPT_PROGRESS(&x.progress),
	        {"json",     'j', NULL, "print JSON, an object for each target", &x.json, NULL, NULL},
	        CMD_OPT_CONFIG(&x.config),
	        {0    },
	};
	const struct cmd_spec spec = {"drop",
	                              "[options] DIR/DATABASE | NAME/DATABASE | URL",
	                              "Deletes the whole history of a database that was deleted: its local logs and "
	                              "branches, and what it has in "
	                              "the targets.\n"
	                              "It cannot be brought back. Asks for the name again. A database of the same name "
	                              "can begin at any time, "
	                              "with a history\n"
	                              "of its own. Interrupted, it can be repeated.",
	                              "rm /var/lib/app/old.db && fazt drop /var/lib/app/old.db\n"
	                              "fazt drop --yes --force /var/lib/app/try.db\n"
	                              "fazt drop --dry-run 's3://bucket/app/old.db?region=eu-central-1'\n",
	                              1,
	                              1,
	                              opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = drop_it(&x, args[0], &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
