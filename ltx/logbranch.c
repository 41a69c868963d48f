/* logbranch.c - keep what a log holds before its end is cut off: history that another host does not share.
 *
 * ON DISK  branches/<id>/ in the state directory is a state directory itself, with the log as db/<its directory>, read-only
 *          from then on: base and closed segments are hard links, what the living log still changes (head, meta, the last segment) is copied. A
 *          segment that is shared is replaced when it is cut, and nothing is appended to it (logcut.c, log.c).
 *          It appears under its name with everything in it, synced, or not at all. */
#include "ltx/logpriv.h"

#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BRANCHES "branches"
#define NEW      BRANCHES "/.new"

int ltx_log_copy_file(int from_dirfd, int to_dirfd, const char *name, const char *to_name, uint64_t limit,
                      struct fz_err *err)
{
	int from = openat(from_dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), to = -1, rc = 0;
	struct stat st;

	if (from < 0 || fstat(from, &st) < 0)
		rc = -errno;
	if (rc == 0)
		to = openat(to_dirfd, to_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (rc == 0 && to < 0)
		rc = -errno;
	if (rc == 0 && (uint64_t)st.st_size < limit)
		limit = (uint64_t)st.st_size;
	for (off_t at = 0; rc == 0 && (uint64_t)at < limit;) {
		uint8_t buf[65536];
		uint64_t left = limit - (uint64_t)at;
		ssize_t n = fz_pread(from, buf, left < sizeof(buf) ? (size_t)left : sizeof(buf), at);

		rc = n < 0 ? (int)n : n == 0 ? -EIO : fz_pwrite(to, buf, (size_t)n, at);
		at += n;
	}
	if (rc == 0 && fsync(to) < 0)
		rc = -errno;
	fz_close(&from);
	fz_close(&to);
	return rc < 0 ? fz_fail_errno(err, -rc, "copying %s of the log", name) : 0;
}

static bool ends_in(const char *name, const char *suffix)
{
	size_t n = strlen(name), k = strlen(suffix);

	return n > k && !strcmp(name + n - k, suffix);
}

static bool of_segment(const char *name, const char *seg)
{
	return *seg && !strncmp(name, seg, strlen(seg));
}

/* What belongs to a log: 1 = it never changes where it lies, 2 = it does; 0 = something else's (caches, positions). A cut leaves what a
 * branch shares as it is, and nothing is appended to it. Held by tests/unit/test_ltx_logbranch.c. */
static int kind_of(const char *name, const char *last_seg)
{
	if (!strcmp(name, "meta") || !strcmp(name, "head"))
		return 2;
	if (ends_in(name, ".seg") || ends_in(name, ".idx"))
		return of_segment(name, last_seg) ? 2 : 1;
	return !strncmp(name, "base-", 5) && ends_in(name, ".ltx");
}

static int fill(struct ltx_log *log, int to_dirfd, struct fz_err *err)
{
	DIR *d = fz_opendir(log->dirfd, ".");
	char last[24] = "";
	struct dirent *e;
	int rc = 0;

	if (!d)
		return fz_fail_errno(err, errno, "reading the log's directory");
	if (log->n_segs)
		snprintf(last, sizeof(last), "%016" PRIx64 ".", log->segs[log->n_segs - 1].min);
	while (rc == 0 && (e = readdir(d))) {
		int kind = kind_of(e->d_name, last);

		if (kind == 1 && linkat(log->dirfd, e->d_name, to_dirfd, e->d_name, 0) == 0)
			continue;
		if (kind)
			rc = ltx_log_copy_file(log->dirfd, to_dirfd, e->d_name, e->d_name, UINT64_MAX, err);
	}
	closedir(d);
	if (rc == 0 && fsync(to_dirfd) < 0)
		rc = fz_fail_errno(err, errno, "syncing a branch of the log");
	return rc;
}

static int make(struct ltx_log *log, int statefd, const char *dir, uint64_t from_txid, struct fz_err *err)
{
	char path[400], text[64];
	int fd = -1, rc;

	rc = fz_remove_tree(statefd, NEW, err);
	snprintf(path, sizeof(path), NEW "/db/%s", dir);
	if (rc == 0)
		rc = fz_mkdirs(statefd, path, 0700, err);
	if (rc == 0) {
		fd = openat(statefd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = fd < 0 ? fz_fail_errno(err, errno, "cannot open %s", path) : fill(log, fd, err);
	}
	fz_close(&fd);
	snprintf(text, sizeof(text), "%" PRIu64 "\n", from_txid);
	if (rc == 0)
		rc = fz_write_file(statefd, NEW "/from", text, strlen(text), 0600, err);
	if (rc < 0 && fz_remove_tree(statefd, NEW, NULL) < 0)
		fz_debug("what a branch would have been stays until the next one");
	return rc;
}

/* The branch at path holds what the log holds: the same last transaction of the same epoch. */
static bool is_same(struct ltx_log *log, int statefd, const char *path)
{
	const struct ltx_logset_conf ro = {.readonly = true};
	int fd = openat(statefd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct ltx_logset *set = NULL;
	struct ltx_log_info a, b;
	bool same = false;

	ltx_log_info(log, &a);
	if (fd >= 0 && ltx_logset_open(&set, fd, &ro, NULL) == 0)
		same = ltx_logset_info(set, 0, &b) && a.epoch == b.epoch && a.tail_txid == b.tail_txid &&
		       a.tail_checksum == b.tail_checksum && a.tail_time_ms == b.tail_time_ms;
	if (set)
		ltx_logset_close(set);
	fz_close(&fd);
	return same;
}

int ltx_log_branch(struct ltx_log *log, uint64_t from_txid, char *id, size_t cap, struct fz_err *err)
{
	char path[400], dir[256], link[64];
	bool there = false;
	int statefd, rc;
	struct stat st;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", log->dirfd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = 0;
	snprintf(dir, sizeof(dir), "%s", strrchr(path, '/') ? strrchr(path, '/') + 1 : "");
	if (!*dir)
		return fz_fail(err, FZ_EINTERNAL, "the log's directory has no name");
	statefd = openat(log->dirfd, "../..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (statefd < 0)
		return fz_fail_errno(err, errno, "cannot open the state directory");
	pthread_mutex_lock(&log->maint);
	rc = ltx_log_sync(log, err);
	for (unsigned i = 1; rc == 0 && !there; i++) {
		snprintf(id, cap, i > 1 ? "epoch%u-%" PRIu64 "-%u" : "epoch%u-%" PRIu64, log->meta.epoch, log->tail, i);
		snprintf(path, sizeof(path), BRANCHES "/%.150s.%s", log->meta.lineage, id);
		if (fstatat(statefd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
			break;
		there = is_same(log, statefd, path); /* what came after it failed, and is done again */
	}
	if (rc == 0 && !there)
		rc = make(log, statefd, dir, from_txid, err);
	if (rc == 0 && !there && renameat(statefd, NEW, statefd, path) < 0)
		rc = fz_fail_errno(err, errno, "naming the branch %s", id);
	if (rc == 0)
		rc = fz_sync_parent(statefd, path, err);
	pthread_mutex_unlock(&log->maint);
	if (rc == 0 && !there)
		fz_warn("%s: transactions %" PRIu64 " to %" PRIu64
		        " are not known to be part of the primary's history; they are kept as the branch %s",
		        log->meta.name, from_txid + 1, log->tail, id);
	fz_close(&statefd);
	return rc;
}
