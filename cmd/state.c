#include "cmd/state.h"

#include "cmd/control.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

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
