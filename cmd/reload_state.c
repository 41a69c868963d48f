/* reload_state.c - the files of a reload, and the worker's part in them. */
#include "cmd/reload.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "cmd/config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOK_MS 20

static bool there(int statefd, const char *name)
{
	return faccessat(statefd, name, F_OK, 0) == 0;
}

int cmd_reload_put_back(int statefd, struct fz_err *err)
{
	if (renameat(statefd, CMD_CONF_BEFORE, statefd, CMD_CONF_SNAPSHOT) < 0)
		return errno == ENOENT ? 0 : fz_fail_errno(err, errno, "putting the former configuration back");
	return fz_sync_parent(statefd, CMD_CONF_SNAPSHOT, err);
}

int cmd_reload_in_effect(int statefd, bool look, int64_t wait_ms, const char **name, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)wait_ms * UINT64_C(1000000);

	*name = CMD_CONF_SNAPSHOT;
	while (there(statefd, CMD_CONF_BEFORE) && there(statefd, CMD_CONF_TRIED)) {
		if (fz_mono_ns() > end)
			return fz_fail(err, FZ_ETIMEOUT,
			               "a worker is still starting with the configuration of an earlier reload; the "
			               "mount's log says more");
		(void)!poll(NULL, 0, LOOK_MS);
	}
	if (look && there(statefd, CMD_CONF_BEFORE))
		*name = CMD_CONF_BEFORE;
	return look ? 0 : cmd_reload_put_back(statefd, err);
}

void cmd_reload_failed(int statefd, const struct fz_err *why)
{
	struct fz_err err = {0};

	if (!there(statefd, CMD_CONF_BEFORE))
		return;
	if (fz_write_file(statefd, CMD_CONF_REFUSED, why->text, strlen(why->text), 0600, &err) < 0)
		fz_log_err("reload", &err);
	if (cmd_reload_put_back(statefd, &err) < 0)
		fz_log_err("reload", &err);
	else
		fz_warn("reload: the former configuration is in effect again: %s", why->text);
	(void)unlinkat(statefd, CMD_CONF_TRIED, 0);
}

void cmd_reload_begin(int statefd)
{
	struct fz_err why = {.code = -FZ_EINTERNAL, .text = "the worker died before it served"};
	int fd;

	if (!there(statefd, CMD_CONF_BEFORE))
		return;
	fd = openat(statefd, CMD_CONF_TRIED, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		cmd_reload_failed(statefd, &why);
	fz_close(&fd);
}

void cmd_reload_done(int statefd)
{
	(void)unlinkat(statefd, CMD_CONF_BEFORE, 0);
	(void)unlinkat(statefd, CMD_CONF_TRIED, 0);
}
