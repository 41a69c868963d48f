#include "cmd/logto.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/state.h"
#include "cmd/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_NAME  "fazt.log"
#define LOG_BYTES (UINT64_C(16) << 20)

static void settings(const char *who, const struct cmd_conf *c)
{
	const char *format = c->log_format ? c->log_format : "logfmt";

	fz_log_init(who, (enum fz_log_level)cmd_log_level(c));
	fz_log_never_wait();
	fz_log_set_format(!strcasecmp(format, "json")   ? FZ_LOG_JSON
	                  : !strcasecmp(format, "text") ? FZ_LOG_TEXT
	                                                : FZ_LOG_LOGFMT);
}

static uint64_t limit(const struct cmd_conf *c)
{
	return c->log_file_max ? c->log_file_max : LOG_BYTES;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int cmd_logto_open(struct cmd_logto *l, const struct cmd_conf *c, int statefd, const char *state_dir, bool foreground,
                   struct fz_err *err)
{
	char dir[PATH_MAX];
	struct stat st;
	bool device;
	int fd;

	*l = (struct cmd_logto){.dirfd = -1, .fd = -1};
	if (!c->log_file && foreground)
		return 0;
	if (snprintf(l->path, sizeof(l->path), "%s%s", c->log_file ? c->log_file : state_dir,
	             c->log_file ? "" : "/" LOG_NAME) >= (int)sizeof(l->path))
		return fz_fail(err, FZ_ECONFIG, "log_file: the path is too long");
	device = !strncmp(l->path, "/dev/", 5) && !strchr(l->path + 5, '/'); /* a link as /dev/stderr only root makes */
	l->fd = openat(c->log_file ? AT_FDCWD : statefd, c->log_file ? l->path : LOG_NAME,
	               O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (device ? 0 : O_NOFOLLOW), 0600);
	if (l->fd < 0 && errno == ELOOP)
		return fz_fail(err, FZ_ECONFIG,
		               "log_file: %s is a symbolic link, which is not followed: name the file itself", l->path);
	if (l->fd < 0 || fstat(l->fd, &st) < 0)
		return fz_fail_errno(err, errno, "cannot open the log file %s", l->path);
	l->start = st.st_size;
	if (device || !S_ISREG(st.st_mode))
		return 0;
	snprintf(l->name, sizeof(l->name), "%.255s", base_name(l->path));
	snprintf(dir, sizeof(dir), "%.*s", (int)(base_name(l->path) - l->path), l->path);
	fd = openat(c->log_file ? AT_FDCWD : statefd, c->log_file ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	l->dirfd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 64);
	fz_close(&fd);
	return l->dirfd < 0 ? fz_fail_errno(err, errno, "the directory of the log file %s", l->path) : 0;
}

int cmd_logto_use(struct cmd_logto *l, const char *who, const struct cmd_conf *c, struct fz_err *err)
{
	settings(who, c);
	if (l->dirfd >= 0)
		return fz_log_to_file(l->dirfd, l->name, limit(c), err);
	if (l->fd >= 0 && (dup2(l->fd, 2) < 0 || dup2(l->fd, 1) < 0))
		return fz_fail_errno(err, errno, "the log file %s", l->path);
	if (l->fd >= 0)
		fz_log_set_fd(2);
	return 0;
}

void cmd_logto_close(struct cmd_logto *l)
{
	fz_close(&l->fd);
	fz_close(&l->dirfd);
}

void cmd_logto_show_errors(const struct cmd_logto *l)
{
	static const char *const marks[] = {" level=error ", "\"level\":\"error\"", "] error: "};
	FILE *f = *l->path ? fopen(l->path, "r") : NULL;
	char line[2100];

	if (!f)
		return;
	if (fseeko(f, l->start, SEEK_SET) == 0)
		while (fgets(line, sizeof(line), f))
			if (strstr(line, marks[0]) || strstr(line, marks[1]) || strstr(line, marks[2]))
				fprintf(stderr, "  log: %s", line);
	fclose(f);
}

static void use(const char *who, int dirfd, const struct cmd_conf *c)
{
	struct fz_err err = {0};

	settings(who, c);
	if (fcntl(dirfd, F_GETFD) < 0)
		return;
	fcntl(dirfd, F_SETFD, FD_CLOEXEC);
	if (fz_log_to_file(dirfd, c->log_file ? base_name(c->log_file) : LOG_NAME, limit(c), &err) < 0)
		fz_log_err("log", &err);
}

void cmd_logto_child(const char *who, int statefd, int dirfd, const struct cmd_conf *c)
{
	struct fz_err err = {0};
	static struct cmd_conf own; /* log_file is borrowed for ever */

	if (c) {
		use(who, dirfd, c);
		return;
	}
	cmd_conf_init(&own);
	if (cmd_state_snapshot(&own, statefd, &err) < 0)
		fz_log_err("log", &err);
	use(who, dirfd, &own);
}
