/* attach.c - get hold of the database: make it, or take over what is there and bring it to a state that is known.
 *
 * What is there can be: nothing; the file as a former process left it, at the position or, when that process died inside a
 * transaction or the power failed, somewhere above it; a file that is not this database's. Where the position does not lead on
 * (another history, the log starts later, nothing known), every page is compared with the table of sums. */
#include "replica/applypriv.h"

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "base/log.h"
#include "ltx/dec.h"
#include "ltx/log.h"
#include "ltx/wal.h"
#include "replica/lock.h"
#include "replica/replay.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_BYTES 300

static const char *const beside[] = {"-journal", "-wal", "-shm"};

/* ---- names ---- */
static bool name_ok(const char *name)
{
	const char *p = name;

	for (;;) {
		size_t n = strcspn(p, "/");

		if (n == 0 || n > 255 || (n <= 2 && !strncmp(p, "..", n)) || (n == 5 && !strncmp(p, ".fazt", n)))
			return false;
		if (!p[n])
			return true;
		p += n + 1;
	}
}

/* Into the directory called so, which is made where there is none. */
static int enter(int *dirfd, const char *name, mode_t mode)
{
	int next = mkdirat(*dirfd, name, mode) < 0 && errno != EEXIST
	                   ? -1
	                   : fz_open_below(*dirfd, name, O_RDONLY | O_DIRECTORY, 0);

	fz_close(dirfd);
	*dirfd = next;
	return next < 0 ? -errno : 0;
}

/* The directory, opened once, and through no link: nothing that is renamed or linked, before or later, leads out of the mount. */
int replica_attach_directory(struct replica_apply *a, struct fz_err *err)
{
	const char *slash;
	struct stat st;
	int rc = 0;

	if (!name_ok(a->name))
		return fz_fail(err, FZ_EUSAGE, "\"%s\" is no path of a database", a->name);
	if (fstat(a->conf.mountfd, &st) < 0)
		return fz_fail_errno(err, errno, "reading the mount's directory");
	slash = strrchr(a->name, '/');
	a->file = slash ? slash + 1 : a->name;
	a->dirfd = fz_open_below(a->conf.mountfd, ".", O_RDONLY | O_DIRECTORY, 0);
	for (const char *p = a->name; a->dirfd >= 0 && p != a->file; p += strcspn(p, "/") + 1) {
		char name[NAME_BYTES];

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, "/"), p);
		rc = enter(&a->dirfd, name, st.st_mode & 0777);
	}
	return a->dirfd < 0 ? fz_fail_errno(err, rc < 0 ? -rc : errno, "cannot open the directory of %s", a->name) : 0;
}

static char *with(char out[static NAME_BYTES], const char *file, const char *suffix)
{
	snprintf(out, NAME_BYTES, "%s%s", file, suffix);
	return out;
}

static int gone(struct replica_apply *a, const char *suffix, struct fz_err *err)
{
	char name[NAME_BYTES];

	return unlinkat(a->dirfd, with(name, a->file, suffix), 0) < 0 && errno != ENOENT
	               ? fz_fail_errno(err, errno, "removing %s%s", a->name, suffix)
	               : 0;
}

static int sync_directory(struct replica_apply *a, struct fz_err *err)
{
	/* a file system that cannot: there is nothing more to do */
	return fsync(a->dirfd) < 0 && errno != EINVAL && errno != ENOSYS
	               ? fz_fail_errno(err, errno, "syncing the directory of %s", a->name)
	               : 0;
}

/* A file that is not this database's is never written: somebody may still want it. Its WAL and journal belong to it: they have the
 * new name before it has, and lose the old one after it. So a death in between parts nothing, and no reader finds the
 * database without them (it could not make them on a replica: SQLITE_CANTOPEN). */
static int move_aside(struct replica_apply *a, struct fz_err *err)
{
	char to[NAME_BYTES], from[NAME_BYTES], local[64];
	int rc = 0;

	snprintf(local, sizeof(local), ".local-%" PRId64, fz_now_ms());
	for (unsigned i = 0; rc == 0 && i < 3; i++) {
		const char *suffix = i < 2 ? beside[i] : "";

		with(from, a->file, suffix);
		snprintf(to, sizeof(to), "%s%s%s", a->file, local, suffix);
		if (i < 2 && linkat(a->dirfd, from, a->dirfd, to, 0) == 0)
			continue;
		if ((i == 2 || errno != ENOENT) && renameat(a->dirfd, from, a->dirfd, to) < 0) /* no links there */
			rc = fz_fail_errno(err, errno, "renaming %s%s", a->name, suffix);
	}
	for (unsigned i = 0; rc == 0 && i < 3; i++)
		rc = gone(a, beside[i], err);
	if (rc == 0)
		rc = sync_directory(a, err);
	if (rc == 0)
		fz_warn("%s was not made from the primary's history: it is %s%s now", fz_log_db(a->name), a->name,
		        local);
	return rc;
}

/* ---- make ---- */

/* As if an application had made it there: the directory's owner, its permissions to read and write. */
static int permit(int fd, int dirfd, const char *name, struct fz_err *err)
{
	struct stat st;

	if (fstat(dirfd, &st) < 0)
		return fz_fail_errno(err, errno, "making %s", name);
	if (fchown(fd, st.st_uid, st.st_gid) < 0 && errno != EPERM)
		return fz_fail_errno(err, errno, "setting the owner of %s", name);
	if (fchmod(fd, st.st_mode & 0666) < 0)
		return fz_fail_errno(err, errno, "setting the mode of %s", name);
	return 0;
}

static int hold(struct replica_apply *a, uint32_t page_size, uint64_t deadline_ns, struct fz_err *err)
{
	const struct replica_fence *f = a->conf.fence;
	int shm_fd = f && f->shm_fd >= 0 ? fcntl(f->shm_fd, F_DUPFD_CLOEXEC, 0) : -1;
	int rc = replica_wal_attach(&a->wal, a->dbfd, shm_fd, a->dirfd, a->file, page_size, deadline_ns, err);

	return rc < 0 ? rc : replica_wal_hold(a->wal, !a->conf.sync_each, deadline_ns, err);
}

/* Locks, WAL and wal-index are there before the name is: the first reader finds what the last one will. */
static int make(struct replica_apply *a, uint64_t txid, uint64_t deadline_ns, const volatile bool *cancel,
                struct fz_err *err)
{
	struct replica_replay r = {.log = a->conf.log, .sums = a->sums, .txid = txid, .cancel = cancel};
	char tmp[NAME_BYTES];
	int rc, fd;

	rc = gone(a, ".fazt-new", err);
	for (unsigned i = 0; rc == 0 && i < 3; i++)
		rc = gone(a, beside[i], err); /* of a database that is no more */
	if (rc < 0)
		return rc;
	replica_position_close(a->pos);
	a->pos = NULL;
	rc = replica_position_remove(ltx_log_dirfd(a->conf.log), err);
	if (rc == 0)
		rc = replica_position_open(&a->pos, ltx_log_dirfd(a->conf.log), true, err);
	if (rc < 0)
		return rc;
	a->pos->making = 1;
	fd = openat(a->dirfd, with(tmp, a->file, ".fazt-new"), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
	            0600);
	if (fd < 0)
		return fz_fail_errno(err, errno, "making %s", a->name);
	a->dbfd = r.fd = fd;
	ltx_sums_clear(a->sums);
	rc = replica_replay(&r, err);
	if (rc == 0)
		rc = permit(fd, a->dirfd, a->name, err);
	if (rc == 0 && fsync(fd) < 0)
		rc = fz_fail_errno(err, errno, "syncing %s", a->name);
	if (rc == 0 && (rc = replica_lock_shared(fd, deadline_ns)) < 0)
		rc = fz_fail_errno(err, -rc, "locking %s", a->name);
	if (rc == 0)
		rc = hold(a, ltx_sums_head(a->sums)->page_size, deadline_ns, err);
	if (rc == 0)
		rc = replica_position_sync(a->pos, err);
	if (rc == 0 && renameat2(a->dirfd, tmp, a->dirfd, a->file, RENAME_NOREPLACE) < 0 &&
	    (errno != EINVAL || renameat(a->dirfd, tmp, a->dirfd, a->file) < 0))
		rc = fz_fail_errno(err, errno, "naming %s", a->name);
	if (rc < 0 && unlinkat(a->dirfd, tmp, 0) < 0 && errno != ENOENT) /* a full disk needs the room */
		fz_warn("could not remove %s", tmp);
	if (rc == 0)
		rc = sync_directory(a, err);
	if (rc < 0)
		return rc;
	a->pos->floor = ltx_sums_head(a->sums)->txid;
	replica_apply_arrived(a);
	a->pos->making = 0;
	return replica_position_sync(a->pos, err);
}

/* ---- take over ---- */

static int back_to_shared(struct replica_apply *a, struct fz_err *err)
{
	int rc = replica_lock(a->dbfd, F_RDLCK, REPLICA_LOCK_SHARED, REPLICA_LOCK_SHARED_N, 0);

	(void)replica_lock(a->dbfd, F_UNLCK, REPLICA_LOCK_PENDING, 2, 0);
	return rc < 0 ? fz_fail_errno(err, -rc, "locking %s", a->name) : 0;
}

/* ---- a database that is the primary's no more may be in rollback mode ---- */

/* What SQLite looks at first: a WAL that is not empty counts, whatever the file's header says. */
static bool has_wal(struct replica_apply *a)
{
	char name[NAME_BYTES];
	struct stat st;

	return fstatat(a->dirfd, with(name, a->file, "-wal"), &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

/* Nobody reads. */
static int lock_all(struct replica_apply *a, uint64_t deadline_ns, struct fz_err *err)
{
	int rc = replica_lock(a->dbfd, F_WRLCK, REPLICA_LOCK_PENDING, 2 + REPLICA_LOCK_SHARED_N, deadline_ns);

	if (rc < 0)
		return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "%s is in use by an application", a->name)
		                     : fz_fail_errno(err, -rc, "locking %s", a->name);
	return 0;
}

/* The WAL first, then the header: a connection that has page 1 cached, and finds no WAL, would go on as in rollback mode. */
static int into_wal_mode(struct replica_apply *a, struct fz_err *err)
{
	static const uint8_t mode[2] = {2, 2};
	int rc = replica_wal_frames(a->wal) ? 0 : replica_wal_begin(a->wal, 0, err);

	if (rc == 0 && !replica_wal_frames(a->wal)) {
		rc = replica_wal_read(a->wal, 1, a->page, err);
		memcpy(a->page + REPLICA_P1_MODE, mode, sizeof(mode));
		if (rc == 0)
			rc = replica_wal_write(a->wal, 1, a->page, err);
		if (rc == 0)
			rc = replica_wal_commit(a->wal, replica_wal_pages(a->wal), err);
	}
	if (rc < 0)
		return rc;
	rc = fz_pwrite(a->dbfd, mode, sizeof(mode), REPLICA_P1_MODE);
	if (rc == 0 && fdatasync(a->dbfd) < 0)
		rc = -errno;
	return rc < 0 ? fz_fail_errno(err, -rc, "switching %s to WAL mode", a->name) : 0;
}

/* What an unfinished end left: the pages of every transaction that may be visible, in one. Anything of them may be visible
 * already; after it, all is, and nobody saw a state go back. The table is at the end of it. */
static int catch_up(struct replica_apply *a, uint64_t from, struct fz_err *err)
{
	const struct ltx_sums_head *head = ltx_sums_head(a->sums);
	uint64_t at = from;
	struct ltx_dec *d = NULL;
	int rc;

	rc = replica_wal_begin(a->wal, 0, err);
	while (rc == 0 && at < head->txid) {
		struct ltx_log_entry e;
		struct fz_src *src = NULL;
		const uint8_t *data;
		uint32_t pgno;

		rc = ltx_log_find(a->conf.log, at + 1, &e, err);
		if (rc == 0)
			rc = ltx_log_src(a->conf.log, &e, &src, err);
		if (rc == 0)
			rc = d ? ltx_dec_reopen(d, src, 0, err) : ltx_dec_open(&d, src, 0, err);
		if (rc == 0 && (e.seg == 0 || ltx_dec_header(d)->page_size != replica_wal_page_size(a->wal) ||
		                e.e.max_txid > head->txid))
			rc = fz_fail(err, FZ_EGAP, "the log has no single way there");
		while (rc == 0 && (rc = ltx_dec_page(d, &pgno, &data, err)) == 1)
			rc = pgno <= head->commit ? replica_apply_page(a, pgno, data, err) : 0;
		fz_src_close(src);
		at = e.e.max_txid;
	}
	if (rc == 0)
		rc = replica_wal_commit(a->wal, head->commit, err);
	if (rc < 0)
		replica_wal_abort(a->wal);
	ltx_dec_close(d);
	return rc;
}

/* The table at txid: as it stands when that is proven, else from the log. */
static int table(struct replica_apply *a, uint64_t txid, bool proven, const volatile bool *cancel, struct fz_err *err)
{
	struct replica_replay r = {.log = a->conf.log, .sums = a->sums, .txid = txid, .fd = -1, .cancel = cancel};
	const struct ltx_sums_head *head = ltx_sums_head(a->sums);
	uint64_t checksum = 0;
	int rc;

	if (proven && head->txid == txid)
		return 0;
	if (head->txid > txid || !head->txid || replica_replay_checksum(a->conf.log, head->txid, &checksum, err) < 0 ||
	    checksum != head->checksum || ltx_sums_total(a->sums) != checksum)
		ltx_sums_clear(a->sums);
	rc = replica_replay(&r, err);
	if (rc == -FZ_ECHECKSUM) { /* it was cleared: once more, from the start */
		r.txid = txid;
		rc = replica_replay(&r, err);
	}
	return rc;
}

static int settle(struct replica_apply *a, uint64_t txid, const volatile bool *cancel, struct fz_err *err)
{
	struct replica_position *p = a->pos;
	struct ltx_sums_head *head = ltx_sums_head(a->sums);
	bool fresh = replica_position_fresh(p), certain, known;
	struct ltx_log_info info;
	uint64_t from, reach, goal, checksum = 0;
	char boot[40];
	int rc;

	ltx_log_info(a->conf.log, &info);
	ltx_sums_boot_id(boot);
	certain = fresh && p->reach == p->txid;
	from = fresh ? p->txid : p->floor;
	/* after a power cut nothing says how far it was: at most what the log has */
	reach = fresh ? p->reach : info.tail_txid;
	known = from && from >= info.base_txid && from <= info.tail_txid && reach <= info.tail_txid;
	if (known && fresh) {
		rc = replica_replay_checksum(a->conf.log, from, &checksum, err);
		known = rc == 0 ? checksum == p->checksum : rc == -FZ_EGAP;
	}
	/* no reader goes back: what may have been seen, or else all there is */
	goal = reach < info.tail_txid ? reach : info.tail_txid;
	if (!known && txid > goal)
		goal = txid < info.tail_txid ? txid : info.tail_txid;
	rc = table(a, goal ? goal : info.tail_txid,
	           known && certain && !strcmp(head->boot_id, boot) && head->checksum == p->checksum, cancel, err);
	head = ltx_sums_head(a->sums);
	if (rc < 0)
		return rc;
	if (!known) {
		fz_warn("%s: where it stands is not known: every page is compared with the log", fz_log_db(a->name));
	} else if (head->txid > from) {
		fz_info("%s: brought from TXID %" PRIu64 " to %" PRIu64 " after an unclean end", fz_log_db(a->name),
		        from, head->txid);
		rc = catch_up(a, from, err);
		known = rc == 0;
		if (rc < 0 && rc != -FZ_EGAP)
			return rc;
	}
	rc = 0;
	if (!known)
		rc = replica_mend_all(a, err);
	else
		replica_apply_arrived(a);
	if (rc < 0)
		return rc;
	memcpy(p->boot_id, boot, sizeof(boot));
	return 0;
}

int replica_apply_rewind(struct replica_apply *a, const volatile bool *cancel, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc;

	replica_backfill_poll(a, true);
	if (!a->wal)
		return 0; /* attaching compares */
	ltx_log_info(a->conf.log, &info);
	a->held = false;
	rc = replica_position_void(a->pos, err);
	if (rc < 0)
		return rc;
	ltx_sums_clear(a->sums);
	rc = table(a, info.tail_txid, false, cancel, err);
	return rc < 0 ? rc : replica_mend_all(a, err);
}

/* The fence is on the file that has the name now. */
static bool fenced(struct replica_apply *a)
{
	struct stat is, was;

	return a->conf.fence && a->conf.fence->db_fd >= 0 && fstat(a->conf.fence->db_fd, &was) == 0 &&
	       fstatat(a->dirfd, a->file, &is, AT_SYMLINK_NOFOLLOW) == 0 && is.st_ino == was.st_ino &&
	       is.st_dev == was.st_dev;
}

/* Returns 1 when what lies there is no database: the caller moves it. */
static int take_over(struct replica_apply *a, uint64_t deadline_ns, struct fz_err *err)
{
	uint8_t head[100];
	char name[NAME_BYTES];
	struct stat st;
	bool rollback, alone = false;
	uint32_t page_size;
	int rc;

	a->dbfd = a->conf.fence && a->conf.fence->db_fd >= 0
	                  ? fcntl(a->conf.fence->db_fd, F_DUPFD_CLOEXEC, 0)
	                  : openat(a->dirfd, a->file, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (a->dbfd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", a->name);
	rc = replica_lock_shared(a->dbfd, deadline_ns);
	if (rc < 0)
		return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "%s is locked by an application", a->name)
		                     : fz_fail_errno(err, -rc, "locking %s", a->name);
	if (fz_pread(a->dbfd, head, sizeof(head), 0) != sizeof(head) || memcmp(head, "SQLite format 3", 16) != 0)
		return 1;
	page_size = fz_be16(head + 16) == 1 ? 65536 : fz_be16(head + 16);
	if (!ltx_page_size_ok(page_size))
		return 1;
	rollback = head[18] != 2 || head[19] != 2;
	if (rollback) {
		if (fstatat(a->dirfd, with(name, a->file, "-journal"), &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0)
			return 1; /* half a transaction: whoever wants it must let SQLite play it back */
		alone = !has_wal(a);
		rc = alone ? lock_all(a, deadline_ns, err) : 0;
	}
	if (rc == 0)
		rc = hold(a, page_size, deadline_ns, err);
	if (rc == 0 && rollback)
		rc = into_wal_mode(a, err);
	if (alone) {
		struct fz_err ignored;
		int back = back_to_shared(a, rc < 0 ? &ignored : err);

		rc = rc < 0 ? rc : back;
	}
	return rc;
}

/* Without a position this host was the primary. When its capture has followed the WAL to the very frame where it ends now, and nobody else can
 * write any more, the table of sums is what the database is: nothing has to be compared. */
static void trust_capture(struct replica_apply *a)
{
	const struct ltx_sums_head *head = ltx_sums_head(a->sums);
	uint8_t last[LTX_WAL_FRAME_SIZE];
	struct ltx_log_info info;
	uint32_t frame, salt[2];
	struct fz_err ignored;
	char boot[40];

	ltx_log_info(a->conf.log, &info);
	ltx_sums_boot_id(boot);
	/* behind the log: it died between the two, with some pages of the last transaction in the table */
	if (!head->txid || head->txid < info.tail_txid || head->unsure || head->recheck || head->rolling_txid ||
	    !boot[0] || strcmp(head->boot_id, boot) != 0 || head->page_size != replica_wal_page_size(a->wal) ||
	    head->commit != replica_wal_pages(a->wal))
		return;
	if (replica_wal_end(a->wal, &frame, salt, last, &ignored) < 0 || !frame || frame != head->pos_frame ||
	    salt[0] != head->pos_salt[0] || salt[1] != head->pos_salt[1] ||
	    memcmp(last, head->last_frame, sizeof(last)) != 0)
		return;
	memcpy(a->pos->boot_id, boot, sizeof(boot));
	replica_position_set(a->pos, head->txid, head->checksum);
}

/* What a capture noted there about files and WAL is of another time. */
static void own_table(struct ltx_sums_head *head)
{
	ltx_sums_boot_id(head->boot_id);
	head->clean = head->recheck = head->pos_frame = 0;
	head->rolling_txid = 0;
}

void replica_attach_end(struct replica_apply *a)
{
	replica_wal_detach(a->wal);
	a->wal = NULL;
	fz_close(&a->dbfd);
	replica_position_close(a->pos);
	a->pos = NULL;
}

int replica_attach(struct replica_apply *a, uint64_t txid, uint64_t deadline_ns, const volatile bool *cancel,
                   struct fz_err *err)
{
	int logdir = ltx_log_dirfd(a->conf.log), rc;
	bool exists, ours, captured;
	char name[NAME_BYTES];
	struct stat st;

	if (!fenced(a))
		a->conf.fence = NULL;
	rc = replica_position_open(&a->pos, logdir, false, err);
	if (rc < 0 && rc != -FZ_ENOTFOUND)
		return rc;
	exists = fstatat(a->dirfd, a->file, &st, AT_SYMLINK_NOFOLLOW) == 0;
	captured = !a->pos || (!a->pos->reach && !a->pos->making); /* or an attempt that has come no further */
	/* without a position: this host was the primary of it, as the table tells that its capture kept */
	ours = exists && S_ISREG(st.st_mode) && (a->pos || ltx_sums_head(a->sums)->txid);
	if (ours && a->pos && a->pos->making &&
	    fstatat(a->dirfd, with(name, a->file, ".fazt-new"), &st, AT_SYMLINK_NOFOLLOW) == 0)
		ours = false; /* ours has not got its name yet */
	rc = 0;
	if (ours && !a->pos)
		rc = replica_position_open(&a->pos, logdir, true, err);
	if (rc == 0 && ours) {
		rc = take_over(a, deadline_ns, err);
		if (rc == 1) {
			fz_close(&a->dbfd);
			ours = false;
			rc = 0;
		} else if (rc == 0) {
			if (captured)
				trust_capture(a);
			/* of the table as it is now: not of what settling makes of it, should it not come to its end */
			ltx_sums_head(a->sums)->pos_frame = 0;
			rc = settle(a, txid, cancel, err);
			a->pos->making = 0;
		}
	}
	if (rc == 0 && !ours && !txid) { /* nothing that it could be made from yet */
		replica_attach_end(a);
		return 0;
	}
	if (rc == 0 && !ours) {
		rc = exists ? move_aside(a, err) : 0;
		if (rc == 0)
			rc = make(a, txid, deadline_ns, cancel, err);
	}
	if (rc < 0) {
		replica_attach_end(a);
		return rc;
	}
	own_table(ltx_sums_head(a->sums));
	return 1;
}
