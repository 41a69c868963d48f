#include "cmd/where.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOUNTINFO "/proc/self/mountinfo"

/* "\040" -> ' ' in place, as the kernel escapes blanks. */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else
			*to++ = *s;
	}
	*to = 0;
}

/* One line: 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 * False when it is none. *point is inside line. */
static bool parse_line(char *line, char **point, bool *fazt, unsigned *uid)
{
	char *field[64], *s = NULL;
	size_t n = 0, dash = 0;

	for (char *f = strtok_r(line, " ", &s); f && n < 64; f = strtok_r(NULL, " ", &s)) {
		if (!strcmp(f, "-") && !dash && n > 5)
			dash = n;
		field[n++] = f;
	}
	if (!dash || dash + 3 >= n)
		return false;
	unescape(field[4]);
	*point = field[4];
	*fazt = !strcmp(field[dash + 1], "fuse.fazt") ||
	        (!strncmp(field[dash + 1], "fuse", 4) && !strcmp(field[dash + 2], "fazt"));
	s = strstr(field[dash + 3], "user_id=");
	*uid = s ? (unsigned)strtoul(s + 8, NULL, 10) : 0;
	return true;
}

int cmd_where_refresh(struct cmd_where *w, struct fz_err *err)
{
	struct fz_buf b = {0};
	char *save = NULL;
	int rc = fz_read_file(AT_FDCWD, MOUNTINFO, 64u << 20, &b, err);

	w->mounted = w->fazt = false;
	for (char *l = rc == 0 ? strtok_r((char *)b.data, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save)) {
		unsigned uid;
		char *point;
		bool fazt;

		if (!parse_line(l, &point, &fazt, &uid) || strcmp(point, w->dir) != 0)
			continue;
		/* The last mount on a point is the one on top. */
		w->mounted = true;
		w->fazt = fazt;
		w->uid = uid;
	}
	fz_buf_fini(&b);
	return rc;
}

int cmd_where_all(struct cmd_where **out, size_t *n, struct fz_err *err)
{
	struct fz_buf b = {0};
	char *save = NULL;
	int rc = fz_read_file(AT_FDCWD, MOUNTINFO, 64u << 20, &b, err);

	*out = NULL;
	*n = 0;
	for (char *l = rc == 0 ? strtok_r((char *)b.data, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save)) {
		struct cmd_where *v;
		unsigned uid;
		char *point;
		bool fazt, known = false;

		if (!parse_line(l, &point, &fazt, &uid) || !fazt)
			continue;
		for (size_t i = 0; i < *n; i++)
			known |= !strcmp((*out)[i].dir, point);
		v = known ? NULL : realloc(*out, (*n + 1) * sizeof(*v));
		if (!v)
			continue;
		*out = v;
		v[*n] = (struct cmd_where){.mounted = true, .fazt = true, .uid = uid};
		snprintf(v[(*n)++].dir, sizeof(v->dir), "%s", point);
	}
	fz_buf_fini(&b);
	return rc;
}

/* The path below its resolved parent: of a mount that is dead, or does not answer, only that one can be asked. */
static bool below_parent(const char *path, char *out, size_t cap)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	char dir[PATH_MAX], parent[PATH_MAX];

	if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	return realpath(*dir ? dir : "/", parent) &&
	       snprintf(out, cap, "%s/%s", strcmp(parent, "/") ? parent : "", name) < (int)cap;
}

int cmd_where_find(struct cmd_where *w, const char *arg, struct fz_err *err)
{
	char copy[PATH_MAX];
	struct stat st;
	size_t n;
	int rc;

	memset(w, 0, sizeof(*w));
	n = strlen(arg);
	while (n > 1 && arg[n - 1] == '/')
		n--;
	if (n == 0 || n >= sizeof(copy))
		return fz_fail(err, FZ_EUSAGE, "'%s' is no directory", arg);
	snprintf(copy, sizeof(copy), "%.*s", (int)n, arg);
	if (below_parent(copy, w->dir, sizeof(w->dir))) {
		rc = cmd_where_refresh(w, err);
		if (rc < 0 || w->fazt)
			return rc;
	}
	if (!realpath(copy, w->dir))
		return fz_fail_errno(err, errno, "%s", arg);
	rc = cmd_where_refresh(w, err);
	if (rc == 0 && !w->mounted && (stat(w->dir, &st) < 0 || !S_ISDIR(st.st_mode)))
		rc = fz_fail_errno(err, ENOTDIR, "%s", arg);
	return rc;
}

int cmd_where_wait_gone(struct cmd_where *w, int64_t timeout_ms, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + (uint64_t)timeout_ms * 1000000;
	struct pollfd p = {.events = POLLPRI};
	int rc = 0;

	p.fd = open(MOUNTINFO, O_RDONLY | O_CLOEXEC); /* POLLPRI: the table has changed since it was opened */
	if (p.fd < 0)
		return fz_fail_errno(err, errno, "opening " MOUNTINFO);
	for (;;) {
		uint64_t now;

		rc = cmd_where_refresh(w, err);
		if (rc < 0 || !w->fazt)
			break;
		now = fz_mono_ns();
		if (now >= end) {
			rc = fz_fail(err, FZ_ETIMEOUT, "%s is still mounted", w->dir);
			break;
		}
		(void)!poll(&p, 1, (int)((end - now) / 1000000 + 1));
	}
	fz_close(&p.fd);
	return rc;
}

bool cmd_where_dead(const char *dir)
{
	struct statvfs st;
	pid_t pid = fork();
	struct pollfd p = {.events = POLLIN};
	int status = 0;

	if (pid == 0) {
		(void)syscall(SYS_close_range, 0, ~0u, 0); /* should it hang, nobody waits for the end of our output */
		_exit(statvfs(dir, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED) ? 0 : 1);
	}
	if (pid < 0)
		return false;
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0 || poll(&p, 1, 3000) == 0) {
		fz_close(&p.fd);
		kill(pid,
		     SIGKILL); /* works when nobody has read its question; else it ends when the mount answers or dies */
		return false;
	}
	fz_close(&p.fd);
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void cmd_where_unit(const char *dir, const char *before, const char *after, char out[static CMD_UNIT_SIZE])
{
	size_t n = (size_t)snprintf(out, CMD_UNIT_SIZE, "%s", before);

	dir += strspn(dir, "/");
	if (!*dir)
		n += (size_t)snprintf(out + n, CMD_UNIT_SIZE - n, "-");
	for (const char *p = dir; *p && n < CMD_UNIT_SIZE; p++) {
		bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
		             *p == ':' || *p == '_' || (*p == '.' && p != dir);

		n += (size_t)(*p == '/' ? snprintf(out + n, CMD_UNIT_SIZE - n, "-")
		              : plain   ? snprintf(out + n, CMD_UNIT_SIZE - n, "%c", *p)
		                        : snprintf(out + n, CMD_UNIT_SIZE - n, "\\x%02x", (unsigned char)*p));
	}
	if (n < CMD_UNIT_SIZE)
		n += (size_t)snprintf(out + n, CMD_UNIT_SIZE - n, "%s", after);
	if (n >= CMD_UNIT_SIZE)
		out[0] = 0;
}
