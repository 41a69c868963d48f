#include "cmd/place.h"

#include "base/file.h"
#include "cmd/ask.h"
#include "cmd/source_arg.h"
#include "fs/inuse.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASK_MS 30000

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

int cmd_place_below(const struct cmd_where *w, const char *name, int *dirfd, struct fz_err *err)
{
	const char *slash = strrchr(name, '/');
	char parent[PATH_MAX];
	struct stat top, st;
	int root, rc;

	*dirfd = -1;
	snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - name) : 0, name);
	root = open(w->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0 || fstat(root, &top) < 0) {
		rc = fz_fail_errno(err, errno, "cannot open %s", w->dir);
		goto out;
	}
	rc = fz_open_below(root, parent);
	if (rc >= 0) {
		*dirfd = rc;
		rc = fstat(*dirfd, &st) < 0 ? -errno : 0;
	}
	if (rc == -ELOOP)
		rc = fz_fail(
		        err, EPERM,
		        "%s/%s: a symbolic link below %s leads to another place, and whoever owns its directory can "
		        "turn it: name that place itself",
		        w->dir, name, w->dir);
	else if (rc < 0)
		rc = fz_fail_errno(err, -rc, "%s/%s", w->dir, parent);
	else if (w->fazt && st.st_dev != top.st_dev)
		rc = fz_fail(err, EPERM, "%s/%s lies on another file system than %s: fazt does not serve it", w->dir,
		             name, w->dir);
	if (rc == 0 && fstatat(*dirfd, slash ? slash + 1 : name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode))
		rc = fz_fail(err, EPERM, "%s/%s is %s, not a file: name the database itself", w->dir, name,
		             S_ISLNK(st.st_mode)   ? "a symbolic link"
		             : S_ISDIR(st.st_mode) ? "a directory"
		                                   : "no regular file");
out:
	fz_close(&root);
	if (rc < 0)
		fz_close(dirfd);
	return rc;
}

/* A link below one mount may lead to another: that one's owner would get what was meant for here. */
static int one_mount(const char *arg, const struct cmd_where *w, struct fz_err *err)
{
	char copy[PATH_MAX + 2];
	struct cmd_where up;

	if (strstr(arg, "/../")) /* leads out again without a link */
		return 0;
	snprintf(copy, sizeof(copy), "%s%s", *arg == '/' ? "" : "./",
	         arg); /* the link may lie in the working directory */
	for (char *slash; (slash = strrchr(copy, '/')) && slash != copy;) {
		size_t n;

		*slash = 0;
		if (cmd_where_find(&up, copy, NULL) < 0 || !up.fazt)
			continue;
		n = strlen(up.dir);
		if (strncmp(w->dir, up.dir, n) || (w->dir[n] && w->dir[n] != '/'))
			return fz_fail(err, EPERM, "%s: a symbolic link leads from %s to %s: name that place itself",
			               arg, up.dir, w->dir);
	}
	return 0;
}

int cmd_place_of(const char *path, int *dirfd, struct fz_err *err)
{
	struct cmd_where w;
	char name[512];
	int rc;

	*dirfd = -1;
	if (cmd_source_split(path, &w, name, sizeof(name), NULL) < 0)
		return 0;
	if (!strncmp(name, "../", 3)) /* DIR/../NAME: out of it again */
		return 0;
	if (!cmd_place_name(name)) /* a live database's WAL, say */
		return fz_fail(err, FZ_EUSAGE, "'%s' cannot be the name of a database", name);
	rc = one_mount(path, &w, err);
	return rc < 0 ? rc : cmd_place_below(&w, name, dirfd, err);
}

int cmd_place_find(struct cmd_place *p, const char *arg, struct fz_err *err)
{
	struct cmd_where w;
	cJSON *answer = NULL;
	const char *role;
	int rc;

	memset(p, 0, sizeof(*p));
	p->dirfd = -1;
	rc = cmd_source_split(arg, &p->w, p->database, sizeof(p->database), err);
	if (rc < 0)
		return rc == -FZ_ENOTFOUND
		               ? fz_fail(err, FZ_ENOTFOUND, "'%s' is no name below a directory that fazt serves", arg)
		               : rc;
	if (!p->w.fazt)
		return fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", p->w.dir);
	if (!cmd_place_name(p->database))
		return fz_fail(err, FZ_EUSAGE, "'%s' cannot be the name of a database", p->database);
	if (snprintf(p->path, sizeof(p->path), "%s/%s", strcmp(p->w.dir, "/") ? p->w.dir : "", p->database) >=
	    (int)sizeof(p->path))
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	rc = one_mount(arg, &p->w, err);
	if (rc == 0)
		rc = cmd_place_below(&p->w, p->database, &p->dirfd, err);
	if (rc < 0)
		return rc;
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
	int fd = openat(p->dirfd, strrchr(p->path, '/') + 1, O_RDONLY | O_CLOEXEC | O_NOFOLLOW),
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
