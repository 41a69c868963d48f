#include "replica/rollback.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "replica/lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES 512 /* of the journal's header; what SQLite takes where a sector write harms no neighbour */
#define PIECE_NS     50000000u

static const uint8_t magic[8] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

int replica_rollback_hot(int dbfd, int dirfd, const char *path, struct fz_err *err)
{
	char *journal;
	uint8_t first = 0;
	int fd, who, rc = 0;

	if (asprintf(&journal, "%s-journal", path) < 0)
		return fz_fail_errno(err, ENOMEM, "looking for a journal of %s", path);
	fd = openat(dirfd, basename(journal), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd >= 0 && fz_pread(fd, &first, 1, 0) == 1 && first) {
		/* with a RESERVED lock it is a transaction under way, not one that died */
		who = replica_lock_test(dbfd, REPLICA_LOCK_RESERVED, 1);
		rc = who < 0 ? fz_fail_errno(err, -who, "locking %s", path) : who == F_UNLCK;
	} else if (fd < 0 && errno != ENOENT) {
		rc = fz_fail_errno(err, errno, "cannot open %s", journal);
	}
	fz_close(&fd);
	free(journal);
	return rc;
}

int replica_rollback_begin(struct replica_rollback *r, int dbfd, int dirfd, const char *path, uint32_t page_size,
                           uint64_t deadline_ns, struct fz_err *err)
{
	uint8_t head[SECTOR_BYTES] = {0};
	struct stat st;
	int rc;

	*r = (struct replica_rollback){.dbfd = dbfd,
	                               .dirfd = dirfd,
	                               .path = path,
	                               .jfd = -1,
	                               .page_size = page_size,
	                               .deadline_ns = deadline_ns};
	rc = replica_lock(dbfd, F_WRLCK, REPLICA_LOCK_RESERVED, 1, 0);
	if (rc < 0)
		return rc == -EAGAIN ? rc : fz_fail_errno(err, -rc, "locking %s", path);
	r->level = 1;
	/* our own RESERVED lock does not show in a test of our own description, so a journal now is a dead one's */
	rc = replica_rollback_hot(dbfd, dirfd, path, err);
	if (rc)
		return rc < 0 ? rc : fz_fail(err, FZ_EORDER, "%s-journal must be played back first", path);
	if (fstat(dbfd, &st) < 0 || getrandom(&r->seed, sizeof(r->seed), 0) != sizeof(r->seed))
		return fz_fail_errno(err, errno, "starting a transaction on %s", path);
	r->old_pages = (uint32_t)(st.st_size / page_size);
	if (asprintf(&r->journal, "%s-journal", path) < 0) {
		r->journal = NULL;
		return fz_fail_errno(err, ENOMEM, "starting a transaction on %s", path);
	}
	r->jfd = openat(dirfd, basename(r->journal), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
	                st.st_mode & 0777);
	if (r->jfd < 0)
		return fz_fail_errno(err, errno, "cannot create %s", r->journal);
	r->level = 2;
	(void)fchmod(r->jfd, st.st_mode & 0777);
	if (fchown(r->jfd, st.st_uid, st.st_gid) < 0 && errno != EPERM)
		return fz_fail_errno(err, errno, "setting the owner of %s", r->journal);
	memcpy(head, magic, sizeof(magic)); /* record count 0 until the records are on disk */
	fz_put32(head + 12, r->seed);
	fz_put32(head + 16, r->old_pages);
	fz_put32(head + 20, SECTOR_BYTES);
	fz_put32(head + 24, page_size);
	fz_fd_sink_init(&r->sink, r->jfd, 0);
	return fz_sink_write(&r->sink.sink, head, sizeof(head), err);
}

int replica_rollback_save(struct replica_rollback *r, uint32_t pgno, const uint8_t *old, struct fz_err *err)
{
	uint32_t sum = r->seed;
	uint8_t word[4];
	int rc;

	for (int64_t i = (int64_t)r->page_size - 200; i > 0; i -= 200)
		sum += old[i];
	fz_put32(word, pgno);
	rc = fz_sink_write(&r->sink.sink, word, 4, err);
	if (rc == 0)
		rc = fz_sink_write(&r->sink.sink, old, r->page_size, err);
	fz_put32(word, sum);
	if (rc == 0)
		rc = fz_sink_write(&r->sink.sink, word, 4, err);
	if (rc == 0)
		r->records++;
	return rc < 0 ? fz_err_prefix(err, "writing %s", r->journal) : 0;
}

/* In pieces, so that it can be cancelled. */
static int lock_out(struct replica_rollback *r)
{
	int rc;

	do {
		uint64_t now = fz_mono_ns(), until = now + PIECE_NS < r->deadline_ns ? now + PIECE_NS : r->deadline_ns;

		rc = replica_lock(r->dbfd, F_WRLCK, REPLICA_LOCK_PENDING, 1, until);
		if (rc == 0)
			rc = replica_lock(r->dbfd, F_WRLCK, REPLICA_LOCK_SHARED, REPLICA_LOCK_SHARED_N, until);
	} while (rc == -EAGAIN && fz_mono_ns() < r->deadline_ns && !(r->cancel && *r->cancel));
	return rc;
}

int replica_rollback_exclusive(struct replica_rollback *r, struct fz_err *err)
{
	uint8_t count[4];
	int rc = fz_fd_sink_flush(&r->sink, err);

	if (rc < 0)
		return rc;
	fz_put32(count, r->records);
	if (fdatasync(r->jfd) < 0)
		return fz_fail_errno(err, errno, "syncing %s", r->journal);
	rc = fz_pwrite(r->jfd, count, 4, 8);
	if (rc < 0 || fsync(r->jfd) < 0)
		return fz_fail_errno(err, rc < 0 ? -rc : errno, "syncing %s", r->journal);
	if (fsync(r->dirfd) < 0)
		return fz_fail_errno(err, errno, "syncing the directory of %s", r->path);
	rc = lock_out(r);
	if (rc < 0)
		return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "%s is being read by an application", r->path)
		                     : fz_fail_errno(err, -rc, "locking %s", r->path);
	r->level = 3;
	return 0;
}

static void unlock(struct replica_rollback *r)
{
	(void)replica_lock(r->dbfd, F_RDLCK, REPLICA_LOCK_SHARED, REPLICA_LOCK_SHARED_N, 0);
	(void)replica_lock(r->dbfd, F_UNLCK, REPLICA_LOCK_PENDING, 2, 0);
	r->level = 0;
}

int replica_rollback_commit(struct replica_rollback *r, uint32_t pages, struct fz_err *err)
{
	if (ftruncate(r->dbfd, (off_t)pages * r->page_size) < 0 || fsync(r->dbfd) < 0)
		return fz_fail_errno(err, errno, "syncing %s", r->path);
	if (unlinkat(r->dirfd, basename(r->journal), 0) < 0)
		return fz_fail_errno(err, errno, "removing %s", r->journal);
	unlock(r);
	return fsync(r->dirfd) < 0 ? fz_fail_errno(err, errno, "syncing the directory of %s", r->path) : 0;
}

void replica_rollback_end(struct replica_rollback *r)
{
	if (r->level == 2)
		(void)unlinkat(r->dirfd, basename(r->journal), 0); /* nothing was written to the database */
	if (r->level)
		unlock(r);
	fz_fd_sink_fini(&r->sink);
	fz_close(&r->jfd);
	free(r->journal);
	r->journal = NULL;
}
