#include "cmd/state.h"

#include "base/file.h"
#include "cmd/control.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* DIR/.fazt, itself: not where a link in its place leads. */
static int open_default(const char *path, int *fd, struct fz_err *err)
{
	struct stat st;

	*fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*fd >= 0)
		return 0;
	if (errno == ENOENT)
		return -ENOENT;
	if ((errno == ELOOP || errno == ENOTDIR) && lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
		return fz_fail(
		        err, EPERM,
		        "%s is a symbolic link, which whoever owns the directory can turn: remove it, and say with "
		        "`state` (--state, FAZT_STATE) where the state directory lies",
		        path);
	return fz_fail_errno(err, errno, "state directory %s", path);
}

static int refuse_owner(const char *path, const struct stat *st, struct fz_err *err)
{
	return fz_fail(err, EPERM,
	               "the state directory %s belongs to user %u: it is not used; move it away, or make it yours",
	               path, (unsigned)st->st_uid);
}

int cmd_state_make(const struct cmd_where *w, const char *configured, char path[static PATH_MAX], int *fd,
                   struct fz_err *err)
{
	char own[PATH_MAX + 8];
	struct stat st;
	int rc = 0;

	*fd = -1;
	if (snprintf(path, PATH_MAX, "%s%s", configured ? configured : w->dir, configured ? "" : "/.fazt") >= PATH_MAX)
		return fz_fail_errno(err, ENAMETOOLONG, "%s", w->dir);
	if (configured) {
		snprintf(own, sizeof(own), "%s/.fazt",
		         w->dir); /* files that are deleted while open are kept there all the same */
		rc = open_default(own, fd, err);
		fz_close(fd);
		rc = rc == 0 || rc == -ENOENT ? fz_mkdirs(AT_FDCWD, path, 0700, err) : rc;
		*fd = rc < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	} else if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		rc = fz_fail_errno(err, errno, "cannot create directory %s", path);
	} else {
		rc = open_default(path, fd, err);
	}
	if (rc < 0 && rc != -ENOENT)
		return fz_err_prefix(err, "state directory");
	if (*fd < 0 || fstat(*fd, &st) < 0)
		rc = fz_fail_errno(err, *fd < 0 && rc < 0 ? -rc : errno, "state directory %s", path);
	else if (st.st_uid != geteuid())
		rc = refuse_owner(path, &st, err);
	else if ((st.st_mode & 077) && fchmod(*fd, 0700) < 0)
		rc = fz_fail_errno(err, errno, "state directory %s", path);
	if (rc < 0)
		fz_close(fd);
	return rc;
}

int cmd_state_open(const struct cmd_where *w, const char *configured, int *fd, struct fz_err *err)
{
	cJSON *request, *answer = NULL;
	char path[PATH_MAX + 8];
	struct stat st;
	int rc;

	*fd = -1;
	if (!w->fazt) {
		snprintf(path, sizeof(path), "%s/.fazt", w->dir);
		if (configured) {
			*fd = open(configured, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			rc = *fd >= 0          ? 0
			     : errno == ENOENT ? -ENOENT
			                       : fz_fail_errno(err, errno, "state directory %s", configured);
		} else {
			rc = open_default(path, fd, err);
		}
		if (rc == -ENOENT)
			return fz_fail(err, FZ_ENOTFOUND, "there is no state directory %s: fazt has never served %s",
			               configured ? configured : path, w->dir);
		if (rc == 0 && !configured && fstat(*fd, &st) == 0 && st.st_uid != geteuid() && st.st_uid != 0) {
			rc = refuse_owner(path, &st, err);
			fz_close(fd);
		}
		return rc;
	}
	request = cJSON_CreateObject();
	cJSON_AddStringToObject(request, "cmd", "state");
	rc = cmd_control_call(w, request, 10000, &answer, fd, err);
	cJSON_Delete(request);
	cJSON_Delete(answer);
	if (rc == 0 && *fd < 0)
		rc = fz_fail(err, FZ_EINTERNAL, "the worker passed no state directory");
	return rc;
}

int cmd_state_read(struct cmd_conf *c, int fd, const char *name, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = fz_read_file(fd, name, 1u << 20, &text, err);

	if (rc == 0)
		rc = cmd_conf_parse(c, fz_buf_str(&text), text.size, name, err);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}

int cmd_state_snapshot(struct cmd_conf *c, int fd, struct fz_err *err)
{
	return cmd_state_read(c, fd, CMD_CONF_SNAPSHOT, err);
}

static int use_snapshot(struct cmd_conf *c, const char *config, int fd, struct fz_err *err)
{
	struct cmd_conf own;
	int rc;

	if (config && c->n_targets)
		return 0;
	cmd_conf_init(&own);
	rc = cmd_state_snapshot(&own, fd, err);
	if (rc == 0 && c->identity && (config || getenv("FAZT_IDENTITY")))
		rc = cmd_conf_flag(&own, config ? "--config" : "FAZT_IDENTITY", "encrypt", "identity", c->identity,
		                   err);
	if (rc < 0) {
		cmd_conf_fini(&own);
		return rc == -ENOENT ? 0 : rc;
	}
	cmd_conf_fini(c);
	*c = own;
	return 0;
}

int cmd_state_find(const struct cmd_where *w, struct cmd_conf *c, const char *config, int *fd, struct fz_err *err)
{
	char own[PATH_MAX + 8];
	bool said = config || getenv("FAZT_STATE");
	int rc;

	snprintf(own, sizeof(own), "%s/.fazt", w->dir);
	rc = cmd_state_open(w, said || access(own, F_OK) < 0 ? c->state : NULL, fd, err);
	return rc < 0 ? rc : use_snapshot(c, config, *fd, err);
}
