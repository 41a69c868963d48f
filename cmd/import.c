/* import.c - `fazt import FILE DIR/NAME`: a database file becomes one of a mount, or, with --force, the next commit of one that is there. */
#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/cursor.h"
#include "base/file.h"
#include "base/temp.h"
#include "cmd/ask.h"
#include "cmd/config.h"
#include "cmd/fetch.h"
#include "cmd/place.h"
#include "cmd/progress.h"
#include "cmd/quote.h"
#include "replica/backup.h"
#include "replica/inplace.h"
#include "replica/output.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WAIT_MS   30000
#define COPY_SIZE (PATH_MAX + 16)
#define PIECE     (1u << 20)

struct importing {
	const char *name;
	bool json, progress, force, replaced;
	const volatile bool *cancel;
	struct cmd_place place;
	struct replica_backup_result copy;
	struct replica_inplace_result placed;
	struct cmd_progress p;
};

/* SQLite opens its files by name: where nobody else can put another one there. */
static int copy_apart(struct importing *m, const char *file, struct fz_temp *tmp, char copy[static COPY_SIZE],
                      struct fz_err *err)
{
	int rc = fz_temp_open(tmp, fz_temp_dir(), err), fd;

	if (rc < 0)
		return rc;
	snprintf(copy, COPY_SIZE, "%s/copy", tmp->path);
	fd = open(copy, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	rc = fd < 0 ? fz_fail_errno(err, errno, "cannot create %s", copy) : 0;
	fz_close(&fd);
	if (rc == 0)
		rc = replica_backup(file, NULL, copy, WAIT_MS, &m->p.bytes, m->cancel, &m->copy, err);
	return rc == -FZ_EBUSY ? cmd_place_busy(file, err) : rc;
}

static int copy_bytes(const char *from, int to, const char *path, struct fz_err *err)
{
	int fd = open(from, O_RDONLY | O_CLOEXEC), rc = 0;
	uint8_t *buf = malloc(PIECE);
	ssize_t n = 0;

	if (fd < 0 || !buf)
		rc = fz_fail_errno(err, fd < 0 ? errno : ENOMEM, "reading %s", from);
	for (off_t off = 0; rc == 0; off += n) {
		rc = cmd_interrupted(err);
		if (rc < 0)
			break;
		n = fz_pread(fd, buf, PIECE, off);
		if (n < 0)
			rc = fz_fail_errno(err, (int)-n, "reading %s", from);
		if (n <= 0)
			break;
		rc = fz_pwrite(to, buf, (size_t)n, off);
		if (rc < 0)
			rc = fz_fail_errno(err, -rc, "writing %s", path);
	}
	free(buf);
	fz_close(&fd);
	return rc;
}

/* A new name: what was copied and checked elsewhere goes through a descriptor into a file beside it, where nobody looks, which gets the name
 * when it is whole. Who owns the directory can put another file there, but not have us write it (tests/e2e/planted.py). */
static int as_new(struct importing *m, const char *file, const struct stat *st, struct fz_err *err)
{
	struct replica_output out;
	char copy[COPY_SIZE];
	struct fz_temp tmp = {.fd = -1};
	int rc = replica_output_open(&out, m->place.path, &m->place.dirfd, false, err);

	if (rc == 0)
		rc = copy_apart(m, file, &tmp, copy, err);
	if (rc == 0)
		rc = copy_bytes(copy, out.fd, out.path, err);
	fz_temp_close(&tmp);
	replica_output_like(&out, st); /* who may use it stays as it was */
	if (rc == 0)
		rc = replica_output_commit(&out, err);
	replica_output_close(&out);
	return rc;
}

/* 0 = it has no pages yet. */
static uint32_t page_size_of(const struct cmd_place *p)
{
	int fd = openat(p->dirfd, basename(p->path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	uint8_t head[18];
	uint32_t size = 0;

	if (fd >= 0 && fz_pread(fd, head, sizeof(head), 0) == sizeof(head))
		size = fz_be16(head + 16) == 1 ? 65536 : fz_be16(head + 16);
	fz_close(&fd);
	return size;
}

/* One that is there: the copy is made elsewhere, and what differs becomes one transaction. */
static int in_place(struct importing *m, const char *file, struct fz_err *err)
{
	uint32_t live = page_size_of(&m->place);
	char copy[COPY_SIZE];
	struct fz_temp tmp = {.fd = -1};
	int rc = copy_apart(m, file, &tmp, copy, err);

	if (rc == 0 && live && live != m->copy.page_size)
		rc = fz_fail(err, FZ_EUSAGE,
		             "%s has pages of %u bytes and %s of %u: make a copy with PRAGMA page_size=%u; VACUUM INTO "
		             "'COPY'; and import that",
		             m->place.path, live, file, m->copy.page_size, live);
	if (rc == 0)
		rc = cmd_in_place(copy, m->place.path, &m->place.dirfd, NULL, &m->placed, err);
	fz_temp_close(&tmp);
	m->replaced = rc == 0;
	return rc;
}

static void print_result(const struct importing *m, const char *file)
{
	const char *mode = m->copy.wal ? "WAL" : "rollback";
	cJSON *o;

	if (!m->json) {
		cmd_print("%s: %u pages of %u bytes, %s mode, SQLite's integrity_check is in order\n", file,
		          m->copy.pages, m->copy.page_size, mode);
		if (m->replaced)
			cmd_print("  %s is that now, as one new transaction: %u pages changed", m->place.path,
			          m->placed.changed_pages);
		else
			cmd_print("  %s is there", m->place.path);
		if (m->place.captured)
			cmd_print(", commit %llu of lineage %s\n", (unsigned long long)m->place.txid, m->place.lineage);
		else
			cmd_print("; the configuration excludes it: nothing of it is captured\n");
		return;
	}
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "source", file);
	cJSON_AddStringToObject(o, "output", m->place.path);
	cJSON_AddNumberToObject(o, "page_size", m->copy.page_size);
	cJSON_AddNumberToObject(o, "pages", m->copy.pages);
	cJSON_AddBoolToObject(o, "in_place", m->replaced);
	if (m->replaced)
		cJSON_AddNumberToObject(o, "changed_pages", m->placed.changed_pages);
	cJSON_AddBoolToObject(o, "captured", m->place.captured);
	cJSON_AddStringToObject(o, "lineage", m->place.lineage);
	cJSON_AddNumberToObject(o, "new_txid", (double)m->place.txid);
	cmd_print_json(o);
	cJSON_Delete(o);
}

static int place_it(struct importing *m, const char *file, const struct stat *st, struct fz_err *err)
{
	struct stat there;
	bool exists;
	int rc;

	exists = fstatat(m->place.dirfd, basename(m->place.path), &there, AT_SYMLINK_NOFOLLOW) == 0;
	if (exists && !m->force)
		return fz_fail(err, FZ_EEXISTS,
		               "%s exists: choose another name, or make FILE its next commit with --force",
		               m->place.path);
	if (exists && there.st_dev == st->st_dev && there.st_ino == st->st_ino)
		return fz_fail(err, FZ_EUSAGE, "%s and %s are the same file", file, m->place.path);
	m->cancel = cmd_interruptible();
	cmd_progress_begin(&m->p, "importing", m->progress, m->json);
	rc = exists ? in_place(m, file, err) : as_new(m, file, st, err);
	cmd_progress_end(&m->p);
	if (rc == 0)
		rc = cmd_place_settle(&m->place, err);
	if (rc == 0)
		print_result(m, file);
	return rc;
}

static int import_it(struct importing *m, const char *file, const char *to, struct fz_err *err)
{
	char path[PATH_MAX + 512];
	struct stat st;
	int rc;

	if (stat(file, &st) < 0)
		return fz_fail_errno(err, errno, "cannot open %s", file);
	if (!S_ISREG(st.st_mode))
		return fz_fail(err, FZ_EUSAGE, "%s is not a regular file", file);
	if (snprintf(path, sizeof(path), "%s%s%s", to, m->name ? "/" : "", m->name ? m->name : "") >= PATH_MAX)
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	rc = cmd_place_find(&m->place, path, err);
	if (rc < 0)
		return rc;
	rc = place_it(m, file, &st, err);
	cmd_place_close(&m->place);
	return rc;
}

int cmd_import(int argc, char **argv)
{
	struct importing m = {0};
	const struct cmd_opt opts[] = {
	        {"name",  0, "NAME", "the second argument is the directory, and this the name below it", NULL, &m.name,
	         NULL},
	        {"force", 0, NULL,
	         "a database of that name is there: make FILE its next commit, under running applications", &m.force,
	         NULL, NULL},
	        CMD_OPT_PROGRESS(&m.progress),
	        CMD_OPT_JSON(&m.json),
	        {0  },
	};
	const struct cmd_spec spec = {
	        "import",
	        "[options] FILE DIR/NAME",
	        "Copies a SQLite database into a mount, where it is captured from its first commit. FILE may be in "
	        "use: "
	        "the copy is\n"
	        "consistent, made by SQLite's backup interface, and checked by its integrity_check before it gets its "
	        "name. A database\n"
	        "that is there is replaced with --force only, as one transaction that can be undone; the page size "
	        "must "
	        "be the same.",
	        "fazt import old.db /var/lib/app/app.db\n"
	        "fazt import --name app.db old.db /var/lib/app\n"
	        "fazt import --force corrected.db /var/lib/app/app.db\n",
	        2,
	        2,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0)
		rc = import_it(&m, args[0], args[1], &err);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
