#include "base/log.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/logline.h"
#include "base/lograte.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define MSG_MAX        1400
#define OTHERS_NS      100000000

/* Set at the start, before there are threads; but what mu guards. */
static struct {
	const char *who;
	enum fz_log_level max;
	enum fz_log_format format;
	int fd;
	int dirfd; /* of the file, or -1 */
	const char *name;
	uint64_t max_bytes;
	int serving; /* never wait for a reader */
	int journal; /* socket, or -1 */
	struct sockaddr_un journal_at;
	atomic_ullong lost;  /* lines that journald, or the reader of a pipe, had no room for */
	pthread_mutex_t mu;  /* the file is changed for another one */
	pthread_mutex_t out; /* a line is written to what is no file */
} conf = {.who = "fazt",
          .max = FZ_LOG_INFO,
          .fd = 2,
          .dirfd = -1,
          .journal = -1,
          .mu = PTHREAD_MUTEX_INITIALIZER,
          .out = PTHREAD_MUTEX_INITIALIZER};

static struct fz_lograte rate = {.mu = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct {
	char db[256], target[128];
	int code;
} about; /* of this thread's next line */

/* systemd says which socket it connected stderr to; whoever redirected stderr since has another one. */
static int stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	char end;

	return stream && sscanf(stream, "%llu:%llu%c", &dev, &ino, &end) == 2 && fstat(2, &st) == 0 &&
	       st.st_dev == (dev_t)dev && st.st_ino == (ino_t)ino;
}

void fz_log_init(const char *who, enum fz_log_level max)
{
	conf.who = who;
	conf.max = max;
	if (conf.journal < 0 && stderr_is_journal())
		fz_log_to_journal(JOURNAL_SOCKET);
}

void fz_log_set_format(enum fz_log_format format)
{
	conf.format = format;
}

void fz_log_set_fd(int fd)
{
	fz_close(&conf.journal);
	conf.fd = fd;
}

void fz_log_never_wait(void)
{
	conf.serving = 1;
}

void fz_log_to_journal(const char *socket_path)
{
	fz_close(&conf.journal);
	conf.journal_at = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(conf.journal_at.sun_path, sizeof(conf.journal_at.sun_path), "%s", socket_path);
	conf.journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

/* Whoever may write to the directory could have put a link there, which root would follow to any file, or a FIFO, which would
 * have us wait for its reader. */
static int open_file(void)
{
	int fd = openat(conf.dirfd, conf.name,
	                O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
	struct stat st;

	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
		fz_close(&fd);
		errno = EINVAL;
	}
	return fd;
}

static int same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Makes name.1 of the file that fd is, unless another process was faster. */
static void rotate(int fd)
{
	char old[300];
	struct stat st, now;

	if (flock(fd, LOCK_EX) < 0)
		return;
	if (fstat(fd, &st) == 0 && (uint64_t)st.st_size > conf.max_bytes &&
	    fstatat(conf.dirfd, conf.name, &now, AT_SYMLINK_NOFOLLOW) == 0 && same_file(&st, &now) &&
	    snprintf(old, sizeof(old), "%s.1", conf.name) < (int)sizeof(old))
		(void)!renameat(conf.dirfd, conf.name, conf.dirfd, old);
	flock(fd, LOCK_UN);
}

/* fd 2 is the file of that name, and smaller than its limit: before each line. */
static void right_file(void)
{
	struct stat mine, there;
	int fd = -1, moved, large;

	moved = fstat(2, &mine) < 0 || fstatat(conf.dirfd, conf.name, &there, AT_SYMLINK_NOFOLLOW) < 0 ||
	        !same_file(&mine, &there);
	large = !moved && conf.max_bytes && (uint64_t)mine.st_size > conf.max_bytes;
	if (!moved && !large)
		return;
	pthread_mutex_lock(&conf.mu);
	if (large) {
		fd = open_file(); /* an open file of its own: flock() knows no other owners */
		if (fd >= 0)
			rotate(fd);
		fz_close(&fd);
	}
	fd = open_file();
	if (fd >= 0) {
		(void)dup2(fd, 2);
		(void)dup2(fd, 1);
	}
	fz_close(&fd);
	pthread_mutex_unlock(&conf.mu);
}

int fz_log_to_file(int dirfd, const char *name, uint64_t max_bytes, struct fz_err *err)
{
	int fd;

	conf.dirfd = dirfd;
	conf.name = name;
	conf.max_bytes = max_bytes;
	conf.fd = 2;
	fz_close(&conf.journal);
	fd = open_file();
	if (fd < 0 || dup2(fd, 2) < 0 || dup2(fd, 1) < 0) {
		int why = errno;

		fz_close(&fd);
		conf.dirfd = -1;
		return fz_fail_errno(err, why, "cannot open the log file %s", name);
	}
	fz_close(&fd);
	return 0;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void write_all(const char *line, size_t n)
{
	while (write(conf.fd, line, n) < 0 && errno == EINTR)
		;
}

/* A pipe that poll() calls writable takes PIPE_BUF bytes without waiting, from one writer. Another process may come between, so no
 * thread waits long for the one that is at it. */
_Static_assert(FZ_LOGLINE_SIZE <= PIPE_BUF, "a line is one write to a pipe");

/* 0: there was no room for it. */
static int write_if_room(const char *line, size_t n)
{
	struct pollfd p = {.fd = conf.fd, .events = POLLOUT};
	struct timespec until;
	int room;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += OTHERS_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	if (pthread_mutex_timedlock(&conf.out, &until) != 0)
		return 0;
	do
		room = poll(&p, 1, 0);
	while (room < 0 && errno == EINTR);
	if (room)
		write_all(line, n);
	pthread_mutex_unlock(&conf.out);
	return room != 0;
}

/* 0: the line is lost. */
static int write_line(const char *line, size_t n)
{
	struct stat st;

	if (conf.dirfd >= 0)
		right_file();
	else if (conf.serving && fstat(conf.fd, &st) == 0 && !S_ISREG(st.st_mode))
		return write_if_room(line, n);
	write_all(line, n);
	return 1;
}

/* Never waits for journald. 1; 0: it has no room, -1: nobody is there. */
static int to_journal(const struct fz_logline *l)
{
	char line[FZ_LOGLINE_SIZE];
	size_t n = fz_logline_journal(line, sizeof(line), l);

	if (sendto(conf.journal, line, n, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&conf.journal_at,
	           sizeof(conf.journal_at)) >= 0)
		return 1;
	return errno == EAGAIN || errno == ENOBUFS ? 0 : -1;
}

/* 0: it is lost, and the next one tells. */
static int emit(struct fz_logline *l)
{
	char line[FZ_LOGLINE_SIZE];
	size_t n = 0;
	int rc = -1;

	l->who = conf.who;
	l->pid = (int)getpid();
	l->suppressed += atomic_exchange(&conf.lost, 0);
	if (conf.journal >= 0)
		rc = to_journal(l);
	if (rc < 0 && conf.journal >= 0) {
		n = (size_t)snprintf(line, sizeof(line), "<%d>", fz_logline_priority(l->level));
		n += fz_logline_format(line + n, sizeof(line) - n, FZ_LOG_LOGFMT, l); /* journald adds the time */
	} else if (rc < 0) {
		l->time_ms = fz_now_ms();
		n = fz_logline_format(line, sizeof(line), conf.format, l);
	}
	if (rc < 0)
		rc = write_line(line, n);
	if (!rc)
		atomic_fetch_add(&conf.lost, l->suppressed + 1);
	return rc;
}

void fz_log_flush(int now)
{
	struct fz_logline lost = {.level = FZ_LOG_WARN, .msg = "lines are lost: nobody read the log for a time"};
	struct fz_lograte_slot s;

	if (atomic_load(&conf.lost) && !emit(&lost))
		atomic_fetch_sub(&conf.lost, 1); /* this one was none */
	while (fz_lograte_told(&rate, fz_mono_ns(), now, &s)) {
		struct fz_logline l = {.level = s.level, .msg = s.sample, .suppressed = s.suppressed};

		emit(&l);
	}
}

static uint64_t hash(uint64_t h, const char *s)
{
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
	return h * 31;
}

static void put(enum fz_log_level level, const void *site, int code, const char *fmt, va_list ap) FZ_PRINTF(4, 0);
static void put(enum fz_log_level level, const void *site, int code, const char *fmt, va_list ap)
{
	struct fz_logline l = {
	        .level = level, .db = about.db, .target = about.target, .code = code ? code : about.code};
	uint64_t what = hash(hash((uint64_t)(unsigned)l.code, about.db), about.target), now = fz_mono_ns();
	char msg[MSG_MAX];
	int saved = errno;

	if (level <= conf.max) {
		vsnprintf(msg, sizeof(msg), fmt, ap);
		l.msg = msg;
		if (!site || level == FZ_LOG_DEBUG ||
		    fz_lograte_take(&rate, (uint64_t)(uintptr_t)site, what, level, msg, now, &l.suppressed))
			emit(&l);
		if (fz_lograte_due(&rate, now))
			fz_log_flush(0);
	}
	about.db[0] = about.target[0] = 0;
	about.code = 0;
	errno = saved;
}

#define VERB(name, level)                                                                                              \
	void name(const char *fmt, ...)                                                                                \
	{                                                                                                              \
		va_list ap;                                                                                            \
		va_start(ap, fmt);                                                                                     \
		put(level, __builtin_return_address(0), 0, fmt, ap);                                                   \
		va_end(ap);                                                                                            \
	}
VERB(fz_error, FZ_LOG_ERROR)
VERB(fz_warn, FZ_LOG_WARN)
VERB(fz_info, FZ_LOG_INFO)
VERB(fz_debug, FZ_LOG_DEBUG)

static void put_err(const void *site, int code, const char *fmt, ...) FZ_PRINTF(3, 4);
static void put_err(const void *site, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(FZ_LOG_ERROR, site, code, fmt, ap);
	va_end(ap);
}

void fz_log_err(const char *what, const struct fz_err *err)
{
	put_err(__builtin_return_address(0), err->code, "%s: %s", what, err->text);
}

const char *fz_log_db(const char *name)
{
	snprintf(about.db, sizeof(about.db), "%s", name);
	return name;
}

const char *fz_log_target(const char *name)
{
	snprintf(about.target, sizeof(about.target), "%s", name);
	return name;
}

const char *fz_log_why(const struct fz_err *err)
{
	about.code = err->code;
	return err->text;
}

void fz_panic(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put(FZ_LOG_ERROR, NULL, 0, fmt, ap);
	va_end(ap);
	abort();
}
