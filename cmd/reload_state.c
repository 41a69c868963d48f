/* reload_state.c - the worker's part of a reload. */
#include "cmd/reload.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool there(int statefd, const char *name)
{
	return faccessat(statefd, name, F_OK, 0) == 0;
}

void cmd_reload_failed(int statefd, const struct fz_err *why)
{
	struct fz_err err = {0};

	if (!there(statefd, CMD_CONF_BEFORE))
		return;
	if (fz_write_file(statefd, CMD_CONF_REFUSED, why->text, strlen(why->text), 0600, &err) < 0)
		fz_log_err("reload", &err);
	if (renameat(statefd, CMD_CONF_BEFORE, statefd, CMD_CONF_SNAPSHOT) < 0 ||
	    fz_sync_parent(statefd, CMD_CONF_SNAPSHOT, &err) < 0)
		fz_error("reload: cannot put the former configuration back: %s", strerror(errno));
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
