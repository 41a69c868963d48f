#include "cmd/state.h"

#include "base/file.h"
#include "cmd/control.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *cmd_fd_path(char out[static CMD_FD_PATH_SIZE], int fd)
{
	snprintf(out, CMD_FD_PATH_SIZE, "/proc/self/fd/%d", fd);
	return out;
}

int cmd_state_open(const struct cmd_where *w, const char *configured, int *fd, struct fz_err *err)
{
	cJSON *request, *answer = NULL;
	char path[PATH_MAX + 8];
	int rc;

	*fd = -1;
	if (!w->fazt) {
		snprintf(path, sizeof(path), "%s/.fazt", w->dir);
		*fd = open(configured ? configured : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (*fd < 0 && errno == ENOENT)
			return fz_fail(err, FZ_ENOTFOUND, "there is no state directory %s: fazt has never served %s",
			               configured ? configured : path, w->dir);
		return *fd < 0 ? fz_fail_errno(err, errno, "state directory %s", configured ? configured : path) : 0;
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

int cmd_state_snapshot(struct cmd_conf *c, int fd, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = fz_read_file(fd, CMD_CONF_SNAPSHOT, 1u << 20, &text, err);

	if (rc == 0)
		rc = cmd_conf_parse(c, fz_buf_str(&text), text.size, CMD_CONF_SNAPSHOT, err);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
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
