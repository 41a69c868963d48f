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
#include <sys/file.h>
#include <unistd.h>

#define LOOK_MS 20
#define WRITING CMD_CONF_NEXT ".new"

static bool there(int statefd, const char *name)
{
	return faccessat(statefd, name, F_OK, 0) == 0;
}

int cmd_reload_offer(int statefd, const struct fz_buf *text, int *fd, struct fz_err *err)
{
	int rc = 0;

	*fd = openat(statefd, WRITING, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*fd < 0 || flock(*fd, LOCK_EX | LOCK_NB) < 0)
		rc = fz_fail_errno(err, errno, "cannot write " WRITING);
	if (rc == 0 && fz_write(*fd, text->data, text->size) < 0)
		rc = fz_fail_errno(err, errno, "writing " WRITING);
	if (rc == 0 && (fsync(*fd) < 0 || renameat(statefd, WRITING, statefd, CMD_CONF_NEXT) < 0))
		rc = fz_fail_errno(err, errno, "writing " CMD_CONF_NEXT);
	if (rc < 0)
		fz_close(fd);
	return rc;
}

bool cmd_reload_take_back(int statefd)
{
	return unlinkat(statefd, CMD_CONF_NEXT, 0) == 0;
}

bool cmd_reload_settled(int statefd)
{
	return !there(statefd, CMD_CONF_NEXT) &&
	       !there(statefd, CMD_CONF_TRIED); /* in the order in which it moves on */
}

int cmd_reload_wait(int statefd, int64_t wait_ms, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)wait_ms * UINT64_C(1000000);

	while (there(statefd, CMD_CONF_TRIED)) {
		if (fz_mono_ns() > end)
			return fz_fail(err, FZ_ETIMEOUT,
			               "a worker is still starting with the configuration of an earlier reload; the "
			               "mount's log says more");
		(void)!poll(NULL, 0, LOOK_MS);
	}
	return 0;
}

void cmd_reload_failed(int statefd, const struct fz_err *why)
{
	struct fz_err err = {0};

	if (fz_write_file(statefd, CMD_CONF_REFUSED, why->text, strlen(why->text), 0600, &err) < 0)
		fz_log_err("reload", &err);
	if (unlinkat(statefd, CMD_CONF_TRIED, 0) == 0)
		fz_warn("reload: the former configuration stays in effect: %s", why->text);
}

/* Its reload lives: it has the lock. */
static bool wanted(int statefd)
{
	int fd = openat(statefd, CMD_CONF_TRIED, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	bool locked = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;

	fz_close(&fd);
	return locked;
}

bool cmd_reload_begin(int statefd)
{
	struct fz_err died = {.code = -FZ_EINTERNAL, .text = "the worker died before it served"};

	if (there(statefd, CMD_CONF_TRIED))
		cmd_reload_failed(statefd, &died);
	if (renameat(statefd, CMD_CONF_NEXT, statefd, CMD_CONF_TRIED) < 0)
		return false;
	if (wanted(statefd))
		return true;
	(void)unlinkat(statefd, CMD_CONF_TRIED, 0);
	fz_warn("a reload was ended before a worker had begun with its configuration: the former one stays in effect");
	return false;
}

void cmd_reload_done(int statefd)
{
	struct fz_err err = {0};
	int rc = 0;

	if (renameat(statefd, CMD_CONF_TRIED, statefd, CMD_CONF_SNAPSHOT) < 0)
		rc = fz_fail_errno(&err, errno, "keeping the new configuration");
	else
		rc = fz_sync_parent(statefd, CMD_CONF_SNAPSHOT, &err);
	if (rc < 0)
		fz_log_err("reload", &err);
	else
		fz_info("reload: the new configuration is in effect");
}

void cmd_reload_forget(int statefd)
{
	static const char *const names[] = {WRITING, CMD_CONF_NEXT, CMD_CONF_TRIED, CMD_CONF_REFUSED};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		(void)unlinkat(statefd, names[i], 0);
}
