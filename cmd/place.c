#include "cmd/place.h"

#include "base/file.h"
#include "cmd/ask.h"
#include "fs/inuse.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASK_MS    30000
#define LINKS_MAX 40

bool cmd_place_name(const char *s)
{
	static const char *const companions[] = {"-wal", "-shm", "-journal"};
	size_t n = strlen(s);

	for (size_t i = 0; i < 3; i++)
		if (n >= strlen(companions[i]) && !strcmp(s + n - strlen(companions[i]), companions[i]))
			return false;
	for (const char *p = s; *p; p += strcspn(p, "/"), p += *p == '/') {
		size_t part = strcspn(p, "/");

		if (part == 0 || (p[0] == '.' && (part == 1 || (part == 2 && p[1] == '.'))) ||
		    (p == s && part == 5 && !strncmp(p, ".fazt", 5)))
			return false;
	}
	return n > 0 && s[n - 1] != '/';
}

/* A path, one step after the other, by descriptors: above what fazt serves as anybody goes, below it through no symbolic link, which
 * whoever owns the directory can turn. What was reached stays open, whatever becomes of the names. */
struct walk {
	char rest[PATH_MAX]; /* what is still to go */
	char path[PATH_MAX]; /* of fd, without links; "" = the root */
	int fd;
	unsigned links;
	struct cmd_where w; /* the innermost directory on the way that fazt serves, or served */
	bool in;            /* there is one */
	size_t top;         /* its part of path */
	dev_t dev;
};

static int look(struct walk *s, struct fz_err *err)
{
	struct cmd_where w = {0};
	struct stat st;
	int rc;

	snprintf(w.dir, sizeof(w.dir), "%s", *s->path ? s->path : "/");
	rc = cmd_where_refresh(&w, err);
	if (rc < 0 || !(w.fazt || (!w.mounted && faccessat(s->fd, ".fazt", X_OK, 0) == 0)))
		return rc;
	s->w = w;
	s->in = true;
	s->top = strlen(s->path);
	if (fstat(s->fd, &st) < 0)
		return fz_fail_errno(err, errno, "cannot open %s", w.dir);
	s->dev = st.st_dev;
	return 0;
}

/* From the root: before + "/" + what was still to go. */
static int begin(struct walk *s, const char *before, struct fz_err *err)
{
	char rest[PATH_MAX];

	if (snprintf(rest, sizeof(rest), "%s/%s", before, s->rest) >= (int)sizeof(rest))
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	memcpy(s->rest, rest, sizeof(rest));
	s->path[0] = 0;
	s->in = false;
	fz_close(&s->fd);
	s->fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return s->fd < 0 ? fz_fail_errno(err, errno, "cannot open /") : look(s, err);
}

/* Anywhere else it goes on where the link leads. */
static int follow(struct walk *s, const char *name, const char *to, struct fz_err *err)
{
	char before[2 * PATH_MAX];

	if (s->in)
		return fz_fail(
		        err, EPERM,
		        "%s/%s: a symbolic link below %s leads to another place, and whoever owns its directory can "
		        "turn it: name that place itself",
		        s->path, name, s->w.dir);
	if (++s->links > LINKS_MAX)
		return fz_fail_errno(err, ELOOP, "%s/%s", s->path, name);
	snprintf(before, sizeof(before), "%s%s%s", *to == '/' ? "" : s->path, *to == '/' ? "" : "/", to);
	return begin(s, before, err);
}

/* Into the directory name of s->fd. */
static int step(struct walk *s, const char *name, struct fz_err *err)
{
	size_t at = strlen(s->path);
	char to[PATH_MAX];
	ssize_t n;
	int next, rc;

	if (!*name || !strcmp(name, "."))
		return 0;
	if (!strcmp(name, "..")) {
		snprintf(to, sizeof(to), "%.*s", at ? (int)(strrchr(s->path, '/') - s->path) : 0, s->path);
		return begin(s, to, err);
	}
	next = openat(s->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (next < 0)
		return fz_fail_errno(err, errno, "%s/%s", s->path, name);
	n = readlinkat(next, "", to, sizeof(to) - 1); /* asks a mount that is dead for nothing */
	if (n >= 0) {
		to[n] = 0;
		rc = follow(s, name, to, err);
	} else if (snprintf(s->path + at, sizeof(s->path) - at, "/%s", name) >= (int)(sizeof(s->path) - at)) {
		rc = fz_fail(err, FZ_EUSAGE, "the path is too long");
	} else {
		fz_close(&s->fd);
		s->fd = next;
		return look(s, err);
	}
	fz_close(&next);
	return rc;
}

/* All but the last element of path, which is *name then. */
static int walk(struct walk *s, const char *path, const char **name, struct fz_err *err)
{
	char cwd[PATH_MAX] = "";
	int rc;

	*s = (struct walk){.fd = -1};
	*name = "";
	if (*path != '/' && !getcwd(cwd, sizeof(cwd)))
		return fz_fail_errno(err, errno, "the current directory");
	if (snprintf(s->rest, sizeof(s->rest), "%s", path) >= (int)sizeof(s->rest))
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	rc = begin(s, cwd, err);
	for (char *slash; rc == 0 && (slash = strchr(s->rest, '/'));) {
		char step_name[PATH_MAX];

		snprintf(step_name, sizeof(step_name), "%.*s", (int)(slash - s->rest), s->rest);
		memmove(s->rest, slash + 1, strlen(slash));
		rc = step(s, step_name, err);
	}
	*name = s->rest;
	return rc;
}

/* The file's own path, without links. There may be no file yet; what is there must be one. *dirfd: readable, while what was searched needs
 * not be. */
static int arrive(struct walk *s, const char *name, char path[static PATH_MAX], int *dirfd, struct fz_err *err)
{
	struct stat st;

	if (snprintf(path, PATH_MAX, "%s/%s", s->path, name) >= PATH_MAX)
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	if (!cmd_place_name(path + s->top + 1)) /* a live database's WAL, say */
		return fz_fail(err, FZ_EUSAGE, "'%s' cannot be the name of a database", path + s->top + 1);
	if (fstat(s->fd, &st) < 0 || (*dirfd = openat(s->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return fz_fail_errno(err, errno, "cannot open %s", s->path);
	if (s->w.fazt && st.st_dev != s->dev)
		return fz_fail(err, EPERM, "%s lies on another file system than %s: fazt does not serve it", path,
		               s->w.dir);
	if (fstatat(*dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode))
		return fz_fail(err, EPERM, "%s is %s, not a file: name the database itself", path,
		               S_ISLNK(st.st_mode)   ? "a symbolic link"
		               : S_ISDIR(st.st_mode) ? "a directory"
		                                     : "no regular file");
	return 0;
}

int cmd_place_of(const char *path, int *dirfd, struct fz_err *err)
{
	char there[PATH_MAX];
	const char *name;
	struct walk s;
	int rc = walk(&s, path, &name, err);

	*dirfd = -1;
	if (!s.in)
		rc = 0; /* whoever opens it says what is wrong */
	else if (rc == 0)
		rc = arrive(&s, name, there, dirfd, err);
	fz_close(&s.fd);
	if (rc < 0)
		fz_close(dirfd);
	return rc;
}

/* The place itself: nothing is asked of the worker yet. */
static int find(struct cmd_place *p, const char *arg, struct fz_err *err)
{
	const char *name;
	struct walk s;
	int rc = walk(&s, arg, &name, err);

	p->w = s.w;
	if (!s.in)
		rc = fz_fail(err, FZ_ENOTFOUND, "'%s' is no name below a directory that fazt serves", arg);
	else if (!p->w.fazt)
		rc = fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", p->w.dir);
	else if (rc == 0)
		rc = arrive(&s, name, p->path, &p->dirfd, err);
	if (rc == 0 &&
	    snprintf(p->database, sizeof(p->database), "%s", p->path + s.top + 1) >= (int)sizeof(p->database))
		rc = fz_fail(err, FZ_EUSAGE, "the path is too long");
	fz_close(&s.fd);
	return rc;
}

int cmd_place_find(struct cmd_place *p, const char *arg, struct fz_err *err)
{
	struct cmd_where w;
	cJSON *answer = NULL;
	const char *role;
	int rc;

	memset(p, 0, sizeof(*p));
	p->dirfd = -1;
	rc = find(p, arg, err);
	if (rc == 0)
		rc = cmd_ask(p->w.dir, cmd_request("status"), ASK_MS, &w, &answer, err);
	role = cJSON_GetStringValue(cJSON_GetObjectItem(answer, "role"));
	if (rc == 0 && role && !strcmp(role, "replica"))
		rc = fz_fail(err, FZ_EUSAGE, "%s is a replica: its databases come from its primary, do it there",
		             p->w.dir);
	cJSON_Delete(answer);
	if (rc < 0)
		cmd_place_close(p);
	return rc;
}

void cmd_place_close(struct cmd_place *p)
{
	fz_close(&p->dirfd);
}

bool cmd_place_used(const char *path, char who[static CMD_PLACE_WHO])
{
	char real[PATH_MAX], says[PATH_MAX + 128];
	pid_t own[16];
	size_t n = 0;

	while (n < 16 && realpath(path, real) && fs_inuse_find(real, own, n, says, sizeof(says))) {
		const char *pid = strstr(says, "] has ");

		if (!pid)
			return false;
		snprintf(who, CMD_PLACE_WHO, "%.*s", (int)(pid + 1 - says), says);
		if (strncmp(who, "fazt[", 5) != 0)
			return true;
		own[n++] = (pid_t)strtol(who + 5, NULL, 10);
	}
	return false;
}

int cmd_place_busy(const char *path, struct fz_err *err)
{
	char who[CMD_PLACE_WHO];

	return cmd_place_used(path, who) ? fz_err_prefix(err, "%s has %s open", who, path) : err->code;
}

int cmd_place_capture(const char *dir, struct fz_err *err)
{
	cJSON *request = cmd_request("sync"), *answer = NULL;
	struct cmd_where w;
	int rc;

	cJSON_AddBoolToObject(request, "captured", true);
	rc = cmd_ask(dir, request, -1, &w, &answer, err);
	cJSON_Delete(answer);
	return rc;
}

int cmd_place_settle(struct cmd_place *p, struct fz_err *err)
{
	int fd = openat(p->dirfd, basename(p->path), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK),
	    rc; /* the first handle of a file shows that it is a database */
	cJSON *answer = NULL;
	const cJSON *d;
	struct cmd_where w;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", p->path);
	fz_close(&fd);
	rc = cmd_place_capture(p->w.dir, err);
	if (rc == 0)
		rc = cmd_ask(p->w.dir, cmd_request("status"), ASK_MS, &w, &answer, err);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
		const char *lineage = cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage"));
		const cJSON *txid = cJSON_GetObjectItem(d, "txid");

		if (!name || strcmp(name, p->database) != 0)
			continue;
		p->captured = cJSON_IsNumber(txid) && txid->valuedouble > 0;
		p->txid = cJSON_IsNumber(txid) ? (uint64_t)txid->valuedouble : 0;
		snprintf(p->lineage, sizeof(p->lineage), "%s", lineage ? lineage : "");
	}
	cJSON_Delete(answer);
	return rc < 0 ? fz_err_prefix(err, "%s is written, but", p->path) : 0;
}
