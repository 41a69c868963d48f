/* replica/apply.h, judged by SQLite connections in other processes that read while it writes. */
#include "tests/unit/apply_world.h"
#include "tests/unit/walindex_make.h"

#include "ltx/wal.h"
#include "replica/position.h"

#include <stdatomic.h>
#include <sys/inotify.h>
#include <sys/syscall.h>

/* ---- in a child: the n-th call that changes a file is the last one of that process ---- */
static atomic_long kill_at = -1;

static bool no_sync; /* a GiB need not reach the disk */

static atomic_long fail_at = -1; /* the n-th call fails once, as on a full disk */

static bool fails(void)
{
	if (atomic_load(&fail_at) < 0 || atomic_fetch_sub(&fail_at, 1) != 0)
		return false;
	errno = ENOSPC;
	return true;
}

static void maybe_die(void)
{
	if (atomic_load(&kill_at) >= 0 && atomic_fetch_sub(&kill_at, 1) == 0)
		kill(getpid(), SIGKILL);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t off)
{
	if (atomic_load(&kill_at) == 0 && n > 64) /* torn: half of it reaches the file */
		(void)syscall(SYS_pwrite64, fd, p, n / 2, off);
	maybe_die();
	if (fails()) {
		if (n > 64) /* half of it has gone there */
			(void)syscall(SYS_pwrite64, fd, p, n / 2, off);
		errno = ENOSPC;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, p, n, off);
}
int fdatasync(int fd)
{
	maybe_die();
	if (fails())
		return -1;
	return no_sync ? 0 : (int)syscall(SYS_fdatasync, fd);
}
int fsync(int fd)
{
	maybe_die();
	return no_sync ? 0 : (int)syscall(SYS_fsync, fd);
}
int ftruncate64(int fd, off64_t n)
{
	maybe_die();
	return fails() ? -1 : (int)syscall(SYS_ftruncate, fd, n);
}
int unlinkat(int fd, const char *path, int flags)
{
	maybe_die();
	return (int)syscall(SYS_unlinkat, fd, path, flags);
}
int renameat2(int fd, const char *from, int tofd, const char *to, unsigned flags)
{
	maybe_die();
	return (int)syscall(SYS_renameat2, fd, from, tofd, to, flags);
}
static size_t synced_max; /* bytes of the largest msync */
int msync(void *p, size_t n, int flags)
{
	if (n > synced_max)
		synced_max = n;
	maybe_die();
	if (fails())
		return -1;
	return no_sync ? 0 : (int)syscall(SYS_msync, p, n, flags);
}

static struct replica_apply *open_apply(struct world *w, const struct replica_apply_conf *more)
{
	struct replica_apply_conf conf = more ? *more : (struct replica_apply_conf){0};
	struct replica_apply *a = NULL;

	conf.mountfd = w->mountfd;
	conf.name = "app.db";
	conf.log = w->ro;
	WOK(replica_apply_open(&a, &conf, 1000, &w->err));
	return a;
}

static void run(struct world *w, struct replica_apply *a, uint64_t txid)
{
	WOK(replica_apply_run(a, txid, NULL, &w->err));
}

static uint64_t applied(struct replica_apply *a)
{
	struct replica_apply_state s;

	replica_apply_get(a, &s);
	return s.txid;
}

static const struct kind {
	const char *mode;
	uint32_t page_size;
} kinds[] = {
        {"DELETE", 4096 },
        {"WAL",    4096 },
        {"DELETE", 512  },
        {"WAL",    65536},
};

/* What it leaves behind is the history's last state. */
static void finish(struct world *w, struct replica_apply *a)
{
	replica_apply_close(a, true);
	world_same(w);
	world_fini(w);
}

/* Made, brought on one by one and many at once, beside readers of every sort; the file at the end is the primary's. */
static void test_beside_readers(void **state)
{
	(void)state;
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		struct world world, *w = &world;
		struct replica_apply *a;
		struct replica_apply_state s;

		world_init_in(w, kinds[k].page_size, kinds[k].mode, k + 1);
		world_commits(w, 5, false);
		a = open_apply(w, &(struct replica_apply_conf){.wal_bytes = 256 * 1024});
		assert_int_equal(applied(a), 0); /* nothing of the log is durable yet */
		run(w, a, 3);
		assert_int_equal(applied(a), 3);
		assert_int_equal(world_visible(w), 3);
		world_reader_start(w, 0, WORLD_SHORT);
		world_reader_start(w, 1, WORLD_LONG);
		world_reader_start(w, 2, WORLD_OPENER);
		world_reader_start(w, 3, WORLD_MMAP);
		for (unsigned i = 0; i < 4; i++)
			world_reader_wait(w, i, 1);
		for (unsigned i = 0; i < 60; i++) {
			world_commits(w, i % 10 ? 1 : 20, false);
			run(w, a, 0);
			assert_int_equal(applied(a), w->txid);
			if (i % 17 == 0)
				WOK(replica_apply_checkpoint(a, &w->err));
		}
		for (unsigned i = 0; i < 4; i++)
			world_reader_wait(w, i, 2);
		assert_int_equal(world_visible(w), w->txid);
		for (unsigned i = 0; i < 4; i++) {
			assert_int_equal(w->r[i].seen->last, w->txid);
			world_reader_stop(w, i);
		}
		replica_apply_get(a, &s);
		assert_int_equal(s.checksum, w->checksum);
		assert_true(s.batches < s.transactions);
		finish(w, a);
	}
}

/* ---- processes that apply, and die ---- */
enum steps {
	STEP_TO = 1, /* in two runs, with a checkpoint between */
	STEP_CHECKPOINT = 2,
	STEP_SCRUB = 4,
	STEP_CLOSE = 8, /* in order, checkpointed; else as a SIGKILL would */
	STEP_REMOVE = 16,
};

static int child(struct world *w, const struct replica_apply_conf *more, unsigned steps, uint64_t txid, long die_at)
{
	int st;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		struct replica_apply_conf conf = more ? *more : (struct replica_apply_conf){0};
		struct replica_apply *a = NULL;
		uint32_t pgno = 0;
		int rc;

		for (unsigned i = 0; i < WORLD_READERS; i++) /* a reader ends when its pipe has no writer */
			if (w->r[i].pid > 0)
				close(w->r[i].stop);
		kill_at = die_at;
		conf.mountfd = w->mountfd;
		conf.name = "app.db";
		conf.log = w->ro;
		rc = replica_apply_open(&a, &conf, 5000, &w->err);
		if (rc == 0 && steps & STEP_REMOVE)
			world_exit(replica_apply_remove(a, &w->err) < 0);
		if (rc == 0 && steps & STEP_TO)
			rc = replica_apply_run(a, w->txid - 2, NULL, &w->err);
		if (rc == 0 && steps & STEP_CHECKPOINT)
			rc = replica_apply_checkpoint(a, &w->err);
		if (rc == 0)
			do
				rc = replica_apply_run(a, txid, NULL, &w->err);
			while (rc == -FZ_EBUSY);
		if (rc == 0 && steps & STEP_SCRUB)
			do
				rc = replica_apply_scrub(a, &pgno, 100, &w->err);
			while (rc == 0 && pgno);
		if (rc == 0 && steps & STEP_CLOSE)
			replica_apply_close(a, true);
		if (rc < 0)
			print_error("apply: %s\n", w->err.text);
		world_exit(rc < 0);
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFSIGNALED(st) ? -WTERMSIG(st) : WEXITSTATUS(st);
}

/* ---- the wal-index is what SQLite's recovery makes of the WAL ---- */
static uint8_t *slurp(const char *path, const char *suffix, size_t *n)
{
	struct fz_buf b = {0};
	struct fz_err err;
	char p[400];

	world_path(p, sizeof(p), "%s%s", path, suffix);
	if (fz_read_file(AT_FDCWD, p, (size_t)1 << 31, &b, &err) < 0)
		fail_msg("%s", err.text);
	*n = b.size;
	assert_non_null(fz_buf_room(&b, 65536));
	memset(b.data + b.size, 0, 65536);
	return b.data;
}

static void copy(const char *from, const char *to, const char *suffix)
{
	struct fz_err err;
	char p[400];
	size_t n;
	uint8_t *data = slurp(from, suffix, &n);

	world_path(p, sizeof(p), "%s%s", to, suffix);
	if (fz_write_file(AT_FDCWD, p, data, n, 0600, &err) < 0)
		fail_msg("%s", err.text);
	free(data);
}

static void index_is_sqlites(struct world *w)
{
	char other[300], shm[320];
	uint8_t *ours, *theirs;
	size_t n, m;

	world_path(other, sizeof(other), "%s/other.db", w->dir);
	world_path(shm, sizeof(shm), "%s-shm", other);
	copy(w->db, other, "");
	copy(w->db, other, "-wal");
	(void)unlink(shm);
	ours = slurp(w->db, "-shm", &n);
	{
		int p[2], q[2], st;
		pid_t pid;
		char c = 0;

		assert_int_equal(pipe2(p, O_CLOEXEC), 0);
		assert_int_equal(pipe2(q, O_CLOEXEC), 0);
		pid = fork();
		if (!pid) {
			sqlite3 *db;

			close(q[1]);
			if (sqlite3_open(other, &db) || sqlite3_exec(db, "SELECT count(*) FROM kv", NULL, NULL, NULL) ||
			    write(p[1], "x", 1) != 1 || read(q[0], &c, 1) != 0)
				world_exit(1);
			world_exit(0); /* as it is */
		}
		close(p[1]);
		close(q[0]);
		assert_int_equal(read(p[0], &c, 1), 1);
		theirs = slurp(other, "-shm", &m);
		close(p[0]);
		close(q[1]);
		assert_int_equal(waitpid(pid, &st, 0), pid);
		assert_int_equal(st, 0);
	}
	assert_memory_equal(ours, ours + 48, 48);
	assert_memory_equal(ours + 12, theirs + 12, 28); /* but iChange and the sum over it */
	assert_true(walindex_u32(ours + 16) > 0);
	for (uint32_t f = 1; f <= walindex_u32(ours + 16); f++) {
		uint32_t r = (f + 33) / 4096, at = r ? f - 4062 - 1 - (r - 1) * 4096 : f - 1 + 34;

		assert_int_equal(walindex_u32(ours + (size_t)r * 32768 + at * 4),
		                 walindex_u32(theirs + (size_t)r * 32768 + at * 4));
	}
	for (uint32_t pg = 1; pg <= walindex_u32(ours + 20) + 50; pg++)
		assert_int_equal(walindex_lookup(ours, pg, walindex_u32(ours + 16)),
		                 walindex_lookup(theirs, pg, walindex_u32(theirs + 16)));
	free(ours);
	free(theirs);
	(void)unlink(other);
	(void)unlink(shm);
}

static void test_index(void **state)
{
	static const uint32_t sizes[] = {512, 4096, 65536};

	(void)state;
	for (size_t k = 0; k < 3; k++) {
		struct world world, *w = &world;
		struct replica_apply *a;

		world_init_in(w, sizes[k], "DELETE", 30 + k);
		a = open_apply(w, &(struct replica_apply_conf){.wal_bytes = 1 << 30});
		/* across the border of regions (4062 frames, then 4096 each), and after a restart of the WAL */
		for (unsigned round = 0; round < 2; round++) {
			for (unsigned i = 0; i < (sizes[k] == 512 ? 90u : 15u); i++) {
				world_commit(w, false);
				run(w, a, 0);
			}
			index_is_sqlites(w);
			WOK(replica_apply_checkpoint(a, &w->err));
			world_commit(w, true);
			run(w, a, 0);
			index_is_sqlites(w);
		}
		finish(w, a);
	}
}

/* ---- crashes ---- */

/* Each call that changes a file is the last one once, in every step of applying; a reader beside sees nothing but states that
 * follow one another, and whoever comes next goes on. */
static void test_killed_anywhere(void **state)
{
	struct world world, *w = &world;
	int st = -SIGKILL;

	(void)state;
	world_init_in(w, 4096, "DELETE", 2);
	world_commits(w, 3, false);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_reader_start(w, 0, WORLD_SHORT | WORLD_PATIENT);
	world_reader_start(w, 1, WORLD_LONG | WORLD_PATIENT | WORLD_MMAP);
	for (long n = 0; n < 400 && st == -SIGKILL; n++) {
		struct replica_apply_conf conf = {.wal_bytes = n % 3 ? 32 * 1024 : 0, .sync_each = n % 2};

		world_commits(w, 5, false);
		st = child(w, &conf, STEP_TO | STEP_CHECKPOINT | STEP_SCRUB | STEP_CLOSE, 0, n);
		assert_true(st == 0 || st == -SIGKILL);
		if (n % 4 == 0)
			world_commit(w, true);
		assert_int_equal(child(w, NULL, 0, 0, -1), 0);
		assert_int_equal(world_visible(w), w->txid);
		world_reader_check(w, 0);
		world_reader_check(w, 1);
	}
	assert_int_equal(st, 0); /* it came to an end without meeting its own */
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_same(w);
	world_fini(w);
}

static void test_killed_while_made(void **state)
{
	struct world world, *w = &world;
	int st = -SIGKILL;

	(void)state;
	world_init_in(w, 4096, "WAL", 3);
	world_commits(w, 20, false);
	WOK(ltx_log_fold(w->log, 10, NULL, &w->err));
	WOK(ltx_log_sync(w->log, &w->err));
	for (long n = 0; n < 100 && st == -SIGKILL; n++) {
		st = child(w, NULL, STEP_CLOSE, 0, n);
		assert_true(st == 0 || st == -SIGKILL);
		if (access(w->db, F_OK) == 0) /* whoever sees it, sees it whole */
			assert_in_range(world_visible(w), 10, w->txid);
		assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
		world_same(w);
		/* removed as well, in pieces */
		for (long k = 0;
		     child(w, &(struct replica_apply_conf){.to_remove = true}, STEP_REMOVE, 0, k) == -SIGKILL; k++)
			;
		assert_int_equal(access(w->db, F_OK), -1);
	}
	assert_int_equal(st, 0);
	world_fini(w);
}

/* The disk is full, at each call once: nobody sees anything of it, and it goes on when there is room. */
static void test_full_disk(void **state)
{
	struct world world, *w = &world;
	unsigned failed = 0, whole = 0;

	(void)state;
	world_init_in(w, 1024, "DELETE", 21);
	world_commits(w, 5, false);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_reader_start(w, 0, WORLD_SHORT);
	world_reader_start(w, 1, WORLD_LONG);
	for (long n = 0; whole < 3; n++) {
		struct replica_apply_conf conf = {.wal_bytes = n % 2 ? 0 : 8192, .sync_each = n % 3 == 0};
		struct replica_apply *a = open_apply(w, &conf);
		int rc;

		world_commits(w, 6, false);
		if (n % 5 == 4)
			world_vacuum(w, n % 2 ? 1024 : 512);
		atomic_store(&fail_at, n);
		for (unsigned k = 0; k < 3; k++) {
			do
				rc = replica_apply_run(a, k < 2 ? w->txid - 2 + k : 0, NULL, &w->err);
			while (rc == -FZ_EBUSY);
			assert_true(rc == 0 || rc == -ENOSPC);
			failed += rc < 0;
		}
		rc = replica_apply_checkpoint(a, &w->err);
		assert_true(rc == 0 || rc == -ENOSPC);
		whole += atomic_load(&fail_at) >= 0;
		atomic_store(&fail_at, -1);
		do
			rc = replica_apply_run(a, 0, NULL, &w->err);
		while (rc == -FZ_EBUSY);
		assert_int_equal(rc, 0);
		assert_int_equal(applied(a), w->txid);
		assert_int_equal(world_visible(w), w->txid);
		replica_apply_close(a, n % 2);
		world_reader_check(w, 0);
		world_reader_check(w, 1);
	}
	assert_true(failed > 3);
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_same(w);
	world_fini(w);
}

/* At moments that no system call marks. */
static void test_killed_at_random(void **state)
{
	struct world world, *w = &world;
	unsigned killed = 0;

	(void)state;
	world_init_in(w, 512, "DELETE", 4);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_reader_start(w, 0, WORLD_SHORT | WORLD_PATIENT);
	world_reader_start(w, 1, WORLD_LONG | WORLD_PATIENT);
	for (unsigned n = 0; n < 40; n++) {
		uint64_t first = w->txid;
		pid_t pid;
		int st;

		world_commits(w, 40, true);
		pid = fork();
		if (!pid) {
			struct replica_apply_conf conf = {
			        .mountfd = w->mountfd, .name = "app.db", .log = w->ro, .wal_bytes = 16 * 1024};
			struct replica_apply *a;

			if (replica_apply_open(&a, &conf, 5000, &w->err) < 0)
				world_exit(2);
			for (uint64_t t = first + 1;; t = t < w->txid ? t + 1 : t)
				if (replica_apply_run(a, t, NULL, &w->err) < 0)
					world_exit(3);
		}
		usleep((useconds_t)world_rnd(w, 20000));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &st, 0), pid);
		assert_true(WIFSIGNALED(st));
		killed++;
		world_reader_check(w, 0);
		world_reader_check(w, 1);
		assert_in_range(world_visible(w), first, w->txid);
		assert_int_equal(child(w, NULL, n % 5 ? 0 : STEP_CLOSE, 0, -1), 0);
		assert_int_equal(world_visible(w), w->txid);
	}
	assert_int_equal(killed, 40);
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_same(w);
	world_fini(w);
}

/* Dead between the two copies of the header: who comes next finishes it, fazt or SQLite. */
static void test_killed_between_header_copies(void **state)
{
	struct world world, *w = &world;

	(void)state;
	world_init_in(w, 4096, "DELETE", 5);
	assert_int_equal(child(w, NULL, 0, 0, -1), 0);
	for (unsigned by_sqlite = 0; by_sqlite < 2; by_sqlite++) {
		struct replica_apply *a;
		uint8_t old[48];
		size_t n;
		uint8_t *shm;
		int fd;

		/* somebody stays, so that the wal-index does */
		world_reader_start(w, 0, WORLD_SHORT | WORLD_PATIENT);
		world_reader_wait(w, 0, 1);
		world_commit(w, true);
		assert_int_equal(child(w, NULL, 0, 0, -1), 0);
		shm = slurp(w->db, "-shm", &n);
		memcpy(old, shm, 48);
		free(shm);
		world_commit(w, true);
		assert_int_equal(child(w, NULL, 0, 0, -1), 0);
		kill(w->r[0].pid, SIGSTOP);
		shm = slurp(w->db, "-shm", &n);
		world_path((char *)shm + n, 400, "%s-shm", w->db);
		fd = open((char *)shm + n, O_RDWR | O_CLOEXEC);
		assert_int_equal(pwrite(fd, old, 48, 0), 48);
		close(fd);
		free(shm);
		if (by_sqlite) {
			kill(w->r[0].pid, SIGCONT);
			world_reader_wait(w, 0, 2);
			assert_int_equal(w->r[0].seen->last, w->txid);
		}
		a = open_apply(w, NULL);
		assert_int_equal(applied(a), w->txid);
		kill(w->r[0].pid, SIGCONT);
		world_reader_wait(w, 0, 2);
		assert_int_equal(w->r[0].seen->last, w->txid);
		index_is_sqlites(w);
		replica_apply_close(a, false);
		world_reader_stop(w, 0);
	}
	world_fini(w);
}

static void poke(struct world *w, const char *path, const void *data, size_t n, off_t off)
{
	int fd = openat(ltx_log_dirfd(w->log), path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, n, off), n);
	close(fd);
}

/* Where the frames of the WAL that count end. */
static uint64_t wal_end(struct world *w)
{
	size_t n;
	uint8_t *shm = slurp(w->db, "-shm", &n);
	uint64_t end = ltx_wal_frame_off(1024, walindex_u32(shm + 16) + 1);

	free(shm);
	return end;
}

/* The power fails: of what was not synced, any part of the WAL may be there; position and sums are of some earlier time. Who reads
 * before the replica is started sees some state, and never an older one afterwards. */
static void test_power_cut(void **state)
{
	struct world world, *w = &world;

	(void)state;
	world_init_in(w, 1024, "DELETE", 6);
	for (unsigned n = 0; n < 25; n++) {
		uint64_t floor, sums_txid, seen, at, synced, end;
		char path[400];

		world_commits(w, 4, false);
		assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
		world_commits(w, 1, true);
		assert_int_equal(child(w, &(struct replica_apply_conf){.sync_each = true}, 0, 0, -1), 0);
		floor = w->txid;
		synced = wal_end(w);
		for (unsigned k = 0; k < 6; k++) {
			world_commits(w, 1 + (unsigned)world_rnd(w, 8), false);
			assert_int_equal(child(w, &(struct replica_apply_conf){.wal_bytes = 1 << 30}, 0, 0, -1), 0);
		}
		end = wal_end(w);
		world_path(path, sizeof(path), "%s-wal", w->db);
		assert_int_equal(truncate(path, (off_t)(synced + world_rnd(w, end - synced + 1))), 0);
		world_path(path, sizeof(path), "%s-shm", w->db);
		assert_int_equal(unlink(path), 0);
		at = floor + world_rnd(w, w->txid - floor + 1);
		sums_txid = at;
		poke(w, "apply", &at, 8, offsetof(struct replica_position, txid));
		poke(w, "apply", &at, 8, offsetof(struct replica_position, reach));
		poke(w, "apply", "another boot", 13, offsetof(struct replica_position, boot_id));
		poke(w, "fs-sums", &sums_txid, 8, offsetof(struct ltx_sums_head, txid));
		poke(w, "fs-sums", "another boot", 13, offsetof(struct ltx_sums_head, boot_id));
		if (n % 2)
			poke(w, "fs-sums", &at, 8, 4096 + 8 * (off_t)world_rnd(w, 5));
		seen = world_visible(w); /* SQLite recovers, and at its end copies the WAL */
		assert_in_range(seen, floor, w->txid);
		if (n % 3) /* or it is open now */
			world_reader_start(w, 0, WORLD_SHORT | WORLD_PATIENT);
		if (n % 4 == 0)
			world_commit(w, false);
		assert_int_equal(child(w, NULL, 0, 0, -1), 0);
		assert_int_equal(world_visible(w), w->txid);
		if (n % 3) {
			world_reader_wait(w, 0, 2);
			world_reader_stop(w, 0);
		}
		assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
		world_same(w);
	}
	world_fini(w);
}

static void hold_snapshot(struct world *w)
{
	world_reader_start(w, 0, WORLD_HOLD);
	while (!w->r[0].seen->held && !w->r[0].seen->wrong[0])
		usleep(500);
}

/* ---- readers that hold the WAL, writers that want it ---- */
static void test_readers_hold(void **state)
{
	struct world world, *w = &world;
	struct replica_apply_state s;
	struct replica_apply *a;

	(void)state;
	world_init_in(w, 4096, "DELETE", 7);
	a = open_apply(w, &(struct replica_apply_conf){.wal_bytes = 64 * 1024, .wal_hard_bytes = 2 << 20});
	run(w, a, 0);
	world_commit(w, true);
	run(w, a, 0);
	hold_snapshot(w);
	world_reader_start(w, 1, WORLD_SHORT);
	world_reader_wait(w, 1, 1);
	do { /* it is never refused, and grows as long as somebody holds it */
		world_commits(w, 20, false);
		run(w, a, 0);
		assert_int_equal(applied(a), w->txid);
		replica_apply_get(a, &s);
	} while (s.wal_bytes < 3 << 20);
	assert_true(s.readers_hold_wal);
	world_reader_wait(w, 1, 2);
	assert_int_equal(w->r[1].seen->last, w->txid);
	assert_int_equal(w->r[0].seen->held, 2);
	kill(w->r[0].pid, SIGUSR1);
	while (w->r[0].seen->held == 2 && !w->r[0].seen->wrong[0])
		usleep(1000);
	/* now it can start anew, and the file shrinks */
	for (unsigned i = 0; i < 2000 && s.wal_bytes > 1 << 20; i++) {
		WOK(replica_apply_checkpoint(a, &w->err));
		world_commit(w, true);
		run(w, a, 0);
		replica_apply_get(a, &s);
	}
	assert_true(s.wal_bytes < 1 << 20);
	assert_true(s.restarts > 0);
	{
		struct stat st;
		char path[400];

		world_path(path, sizeof(path), "%s-wal", w->db);
		assert_int_equal(stat(path, &st), 0);
		assert_true(st.st_size < 1 << 20);
	}
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	finish(w, a);
}

/* Under a steady stream, with readers that overlap, the WAL is copied and started anew in passing. */
static void test_bounded(void **state)
{
	struct world world, *w = &world;
	struct replica_apply_state s;
	struct replica_apply *a;

	(void)state;
	world_init_in(w, 4096, "DELETE", 8);
	a = open_apply(w, &(struct replica_apply_conf){.wal_bytes = 64 * 1024});
	run(w, a, 0);
	world_reader_start(w, 0, WORLD_SHORT);
	world_reader_start(w, 1, WORLD_SHORT);
	s = (struct replica_apply_state){0};
	for (unsigned i = 0; i < 300 || (s.restarts < 4 && i < 20000); i++) {
		world_commit(w, i % 20 != 0);
		run(w, a, 0);
		replica_apply_get(a, &s);
	}
	assert_true(s.checkpoints > 3);
	assert_true(s.restarts > 3);
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	world_commit(w, true);
	run(w, a, 0);
	for (replica_apply_get(a, &s); s.wal_bytes; replica_apply_get(a, &s)) { /* at rest it becomes empty by itself */
		replica_apply_rest(a);
		usleep(1000);
	}
	assert_int_equal(s.floor_txid, w->txid);
	world_same(w);
	replica_apply_close(a, false);
	world_fini(w);
}

static void test_writers(void **state)
{
	static const struct {
		const char *sql, *want;
	} cases[] = {
	        {"BEGIN IMMEDIATE",                  "error 5: database is locked"},
	        {"INSERT INTO kv VALUES(-1,0,NULL)", "error 5: database is locked"},
	        {"PRAGMA wal_checkpoint(TRUNCATE)",  "1"                          },
	        {"PRAGMA wal_checkpoint",            "1"                          },
	        {"PRAGMA journal_mode=DELETE",       "error 5: database is locked"},
	        {"SELECT txid FROM meta",            "3"                          },
	};
	struct world world, *w = &world;
	struct replica_apply *a;
	char res[256];

	(void)state;
	world_init_in(w, 4096, "DELETE", 9);
	world_commits(w, 2, false);
	a = open_apply(w, NULL);
	run(w, a, 2);
	run(w, a, 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		world_ask(w, w->db, SQLITE_OPEN_READWRITE, cases[i].sql, res, sizeof(res));
		assert_string_equal(res, cases[i].want);
	}
	replica_apply_close(a, false);
	world_ask(w, w->db, SQLITE_OPEN_READWRITE, "INSERT INTO kv VALUES(-1,0,NULL)", res, sizeof(res));
	assert_string_equal(res, "ok");
	world_fini(w);
}

/* ---- another page size ---- */
static void test_page_size(void **state)
{
	static const uint32_t sizes[] = {512, 65536, 1024, 4096};
	struct world world, *w = &world;
	struct replica_apply *a;
	char other[300], res[256];
	int rc;

	(void)state;
	world_init_in(w, 4096, "DELETE", 11);
	world_commits(w, 30, false);
	a = open_apply(w, NULL);
	run(w, a, 0);
	world_reader_start(w, 0, WORLD_SHORT);
	world_reader_start(w, 1, WORLD_LONG);
	world_reader_start(w, 2, WORLD_SHORT | WORLD_MMAP);
	for (size_t i = 0; i < 4; i++) {
		for (unsigned r = 0; r < 3; r++)
			world_reader_wait(w, r, 1);
		world_commits(w, 3, false);
		world_vacuum(w, sizes[i]);
		world_commits(w, 3, false);
		do { /* a reader with a snapshot in the WAL: then it waits */
			rc = replica_apply_run(a, 0, NULL, &w->err);
			assert_true(rc == 0 || rc == -FZ_EBUSY);
		} while (rc < 0);
		assert_int_equal(applied(a), w->txid);
		for (unsigned r = 0; r < 3; r++) {
			world_reader_wait(w, r, 2);
			world_reader_check(w, r);
			assert_int_equal(w->r[r].seen->last, w->txid);
		}
		index_is_sqlites(w);
		/* if everybody died now: the file has the old size, the WAL the new one */
		world_path(other, sizeof(other), "%s/other.db", w->dir);
		copy(w->db, other, "");
		copy(w->db, other, "-wal");
		world_ask(w, other, SQLITE_OPEN_READWRITE, "PRAGMA integrity_check; SELECT txid FROM meta", res,
		          sizeof(res));
		assert_int_equal(strtoull(res, NULL, 10), w->txid);
		(void)unlink(other);
		if (i % 2)
			WOK(replica_apply_checkpoint(a, &w->err));
		else { /* and whoever comes next takes it over as it is */
			replica_apply_close(a, false);
			a = open_apply(w, NULL);
		}
	}
	for (unsigned r = 0; r < 3; r++)
		world_reader_stop(w, r);
	finish(w, a);
}

static void test_page_size_killed(void **state)
{
	struct world world, *w = &world;
	int st = -SIGKILL;

	(void)state;
	world_init_in(w, 4096, "DELETE", 12);
	world_commits(w, 10, false);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	world_reader_start(w, 0, WORLD_SHORT | WORLD_PATIENT);
	world_reader_start(w, 1, WORLD_LONG | WORLD_PATIENT);
	for (long n = 0; n < 200 && st == -SIGKILL; n++) {
		world_commits(w, 2, false);
		world_vacuum(w, n % 2 ? 4096 : 1024);
		world_commits(w, 1, false);
		st = child(w, NULL, STEP_TO | STEP_CHECKPOINT | STEP_CLOSE, 0, n);
		assert_true(st == 0 || st == -SIGKILL);
		assert_int_equal(child(w, NULL, 0, 0, -1), 0);
		assert_int_equal(world_visible(w), w->txid);
		world_reader_check(w, 0);
		world_reader_check(w, 1);
	}
	assert_int_equal(st, 0);
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	world_fini(w);
}

/* ---- what does not fit ---- */
static void damage(const char *path, off_t off)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t b;

	assert_int_equal(pread(fd, &b, 1, off), 1);
	b ^= 0x40;
	assert_int_equal(pwrite(fd, &b, 1, off), 1);
	close(fd);
}

static void scrub(struct world *w, struct replica_apply *a)
{
	uint32_t pgno = 0;

	do
		WOK(replica_apply_scrub(a, &pgno, 7, &w->err));
	while (pgno);
}

static void test_scrub(void **state)
{
	struct world world, *w = &world;
	struct replica_apply_state s;
	struct replica_apply *a;

	(void)state;
	for (unsigned mode = 0; mode < 2; mode++) {
		world_init_in(w, 4096, mode ? "WAL" : "DELETE", 13);
		world_commits(w, 20, false);
		a = open_apply(w, NULL);
		run(w, a, 0);
		scrub(w, a);
		replica_apply_get(a, &s);
		assert_int_equal(s.differences, 0);
		damage(w->db, 4096 * 3 + 100);
		damage(w->db, 4096 * 4 + 4000);
		damage(w->db, 60); /* user version */
		world_reader_start(w, 0, WORLD_HOLD);
		scrub(w, a);
		replica_apply_get(a, &s);
		assert_int_equal(s.repaired_pages, 3);
		assert_true(s.differences > 0);
		world_reader_start(w, 1, WORLD_SHORT);
		world_reader_wait(w, 1, 2);
		world_reader_stop(w, 1);
		kill(w->r[0].pid, SIGUSR1); /* it has seen the damage, or not: it does not matter */
		kill(w->r[0].pid, SIGKILL);
		close(w->r[0].stop);
		waitpid(w->r[0].pid, NULL, 0);
		w->r[0].pid = 0;
		finish(w, a);
	}
}

static void seg_path(struct world *w, char *out, size_t cap)
{
	struct ltx_log_entry e;
	char link[64];
	ssize_t n;

	WOK(ltx_log_find(w->log, w->txid, &e, &w->err));
	world_path(link, sizeof(link), "/proc/self/fd/%d", ltx_log_dirfd(w->log));
	n = readlink(link, out, cap - 32);
	assert_true(n > 0);
	snprintf(out + n, cap - (size_t)n, "/%016llx.seg", (unsigned long long)e.seg);
}

/* A log that lies is not applied: what came before it is, and it once it is right. */
static void test_damaged_log(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;
	struct ltx_log_entry e;
	char path[400];
	int rc;

	(void)state;
	world_init_in(w, 4096, "DELETE", 14);
	world_commits(w, 5, false);
	a = open_apply(w, NULL);
	run(w, a, 0);
	world_commits(w, 10, true);
	WOK(ltx_log_find(w->log, w->txid - 3, &e, &w->err));
	seg_path(w, path, sizeof(path));
	for (unsigned where = 0; where < 3; where++) {
		off_t off = (off_t)(e.e.off_bytes + (where == 0 ? 120 : where == 1 ? e.e.size_bytes - 12 : 60));

		damage(path, off);
		rc = replica_apply_run(a, 0, NULL, &w->err);
		assert_true(rc == -FZ_ECHECKSUM || rc == -FZ_ECORRUPT);
		assert_int_equal(applied(a), w->txid - 4);
		assert_int_equal(world_visible(w), w->txid - 4);
		damage(path, off);
	}
	run(w, a, 0);
	assert_int_equal(applied(a), w->txid);
	finish(w, a);
}

/* The table of sums lies: it is made anew from the log. */
static void test_damaged_sums(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;
	uint64_t lie = 42;

	(void)state;
	world_init_in(w, 4096, "DELETE", 15);
	world_commits(w, 5, false);
	a = open_apply(w, NULL);
	run(w, a, 0);
	for (unsigned p = 0; p < 8; p++)
		poke(w, "fs-sums", &lie, 8, 4096 + 8 * (off_t)p);
	world_commits(w, 5, true);
	run(w, a, 0);
	assert_int_equal(applied(a), w->txid);
	finish(w, a);
}

/* For go_back(). Returns the commit. */
static uint64_t keep_state(struct world *w)
{
	char path[300];

	copy(w->primary, world_path(path, sizeof(path), "%s/at-keep.db", w->dir), "");
	return w->txid;
}

/* The primary's database is once more what it was at keep_state(), after commit keep, and its log ends there. */
static void go_back(struct world *w, uint64_t keep)
{
	char path[300];

	world_path(path, sizeof(path), "%s/at-keep.db", w->dir);
	sqlite3_close(w->sql);
	copy(path, w->primary, "");
	assert_int_equal(sqlite3_open(w->primary, &w->sql), SQLITE_OK);
	WOK(ltx_log_truncate(w->log, keep, &w->err));
	free(w->image);
	w->image = slurp(w->primary, "", &w->image_bytes);
	w->txid = keep;
	w->checksum = LTX_EMPTY_DB;
	for (uint32_t p = 1; p <= w->image_bytes / 4096; p++)
		w->checksum = ltx_db_checksum_swap(w->checksum, 0,
		                                   ltx_page_checksum(p, w->image + (size_t)(p - 1) * 4096, 4096));
}

/* The log starts later than we stand, or it tells another history now: the pages are compared, and only those that differ are
 * written. */
static void test_other_history(void **state)
{
	struct world world, *w = &world;
	struct replica_apply_state s;
	struct replica_apply *a;
	uint64_t keep;

	(void)state;
	world_init_in(w, 4096, "DELETE", 16);
	world_commits(w, 10, false);
	world_commits(w, 20, true);
	a = open_apply(w, NULL);
	run(w, a, 10);
	world_reader_start(w, 0, WORLD_LONG);
	WOK(ltx_log_sync(w->log, &w->err));
	WOK(ltx_log_fold(w->log, 25, NULL, &w->err));
	world_commit(w, true); /* another process sees a fold when the log goes on */
	run(w, a, 0);
	assert_int_equal(applied(a), w->txid);
	world_reader_wait(w, 0, 2);
	assert_int_equal(w->r[0].seen->last, w->txid);
	world_reader_stop(w, 0);
	replica_apply_get(a, &s);
	assert_in_range(s.repaired_pages, 1, w->image_bytes / 4096 - 1);

	/* the new primary has not got our last ones, and goes on from before: that is where we must be */
	keep = keep_state(w);
	world_commits(w, 3, true);
	run(w, a, 0);
	go_back(w, keep);
	run(w, a, 0);
	assert_int_equal(applied(a), keep);
	assert_int_equal(world_visible(w), keep);
	world_commits(w, 5, false);
	run(w, a, 0);
	assert_int_equal(world_visible(w), w->txid);
	finish(w, a);
}

/* Back to where the database was larger: what the WAL still has of its end was copied, or given up, when it was smaller, and no
 * reader looks there. */
static void test_back_to_larger(void **state)
{
	(void)state;
	for (unsigned held = 0; held < 2; held++) {
		struct world world, *w = &world;
		struct replica_apply *a;
		uint64_t keep;

		world_init_in(w, 4096, "DELETE", 18);
		world_commits(w, 3, true);
		a = open_apply(w, NULL);
		run(w, a, 0);
		world_sql(
		        w,
		        "BEGIN IMMEDIATE; INSERT INTO kv SELECT 1000+value, value, randomblob(900) FROM (WITH "
		        "RECURSIVE "
		        "c(value) AS (SELECT 1 UNION ALL SELECT value+1 FROM c WHERE value<300) SELECT value FROM c)");
		world_close_transaction(w);
		run(w, a, 0);
		keep = keep_state(w);
		if (held)
			hold_snapshot(w); /* as far as may be copied */
		world_sql(w, "BEGIN IMMEDIATE; DELETE FROM kv WHERE k > 1000; PRAGMA incremental_vacuum");
		world_close_transaction(w);
		assert_true(w->image_bytes < 40 * 4096);
		run(w, a, 0);
		WOK(replica_apply_checkpoint(a, &w->err));
		go_back(w, keep);
		run(w, a, 0);
		assert_int_equal(applied(a), keep);
		world_reader_start(w, 1, WORLD_SHORT);
		world_reader_wait(w, 1, 2);
		assert_int_equal(w->r[1].seen->last, keep);
		world_reader_stop(w, 1);
		if (held)
			world_reader_stop(w, 0);
		world_commits(w, 3, false);
		run(w, a, 0);
		finish(w, a);
	}
}

/* ---- what is known of the database's state, and what must not be taken for known ---- */

/* One row in place: the size stays. */
static void update_row(struct world *w, unsigned k, unsigned v)
{
	world_sql(w, "BEGIN IMMEDIATE; UPDATE kv SET h=%u WHERE k=%u", v, k);
	world_close_transaction(w);
}

static void fill_rows(struct world *w)
{
	world_sql(w, "BEGIN IMMEDIATE; INSERT INTO kv SELECT value, value, randomblob(900) FROM (WITH RECURSIVE "
	             "c(value) AS (SELECT 1 UNION ALL SELECT value+1 FROM c WHERE value<300) SELECT value FROM c)");
	world_close_transaction(w);
}

/* On three pages. */
static void update_far_rows(struct world *w)
{
	update_row(w, 5, 1111);
	update_row(w, 150, 2222);
	update_row(w, 295, 3333);
}

/* A new reader sees the primary's state, whole. */
static void sees(struct world *w, const char *when, long n)
{
	char is[100], want[100];

	world_ask(w, w->db, SQLITE_OPEN_READWRITE,
	          "PRAGMA busy_timeout=20000; SELECT CASE WHEN n=(SELECT count(*) FROM kv) AND s=(SELECT "
	          "coalesce(sum(h+length(v)),0) FROM kv) THEN 'whole ' ELSE 'torn ' END || txid FROM meta",
	          is, sizeof(is));
	snprintf(want, sizeof(want), "whole %llu", (unsigned long long)w->txid);
	if (strcmp(is, want) != 0)
		fail_msg("%s (%ld): a reader sees %s, not %s", when, n, is, want);
}

static void other_boot(struct world *w)
{
	poke(w, "apply", "another boot", 13, offsetof(struct replica_position, boot_id));
	poke(w, "fs-sums", "another boot", 13, offsetof(struct ltx_sums_head, boot_id));
}

/* A former primary, whose capture has followed the WAL to its end, gets later transactions before it attaches; that fails, or it is killed,
 * while it compares. The table is further than the database then. */
static void test_mend_interrupted(void **state)
{
	unsigned failed = 0;

	(void)state;
	for (int dies = 0; dies < 2; dies++) {
		bool done = false;

		for (long n = 0; n < 60 && !done; n++) {
			struct world world, *w = &world;
			struct replica_apply_conf conf = {.name = "app.db"};
			struct replica_apply *a;
			int rc;

			world_init_in(w, 4096, "WAL", 16);
			fill_rows(w);
			a = open_apply(w, NULL);
			run(w, a, 0);
			hold_snapshot(w); /* the WAL is not started anew */
			update_row(w, 3, 7);
			run(w, a, 0);
			replica_apply_close(
			        a, true); /* the table's place in the WAL is where it ends, as after a capture */
			assert_int_equal(unlinkat(ltx_log_dirfd(w->log), LTX_LOG_APPLIED, 0), 0);
			update_far_rows(w);
			WOK(ltx_log_sync(w->log, &w->err));
			conf.mountfd = w->mountfd;
			conf.log = w->ro;
			if (dies) {
				rc = child(w, NULL, 0, 0, n);
				failed += rc == -SIGKILL;
				done = rc == 0;
			} else {
				atomic_store(&fail_at, n);
				rc = replica_apply_open(&a, &conf, 1000, &w->err);
				done = atomic_load(&fail_at) >= 0;
				atomic_store(&fail_at, -1);
				failed += rc < 0;
				if (rc == 0)
					replica_apply_close(a, false);
			}
			a = open_apply(w, NULL); /* once more */
			sees(w, dies ? "killed" : "failed", n);
			update_row(w, 10, 1);
			run(w, a, 0);
			sees(w, "one more", n);
			replica_apply_close(a, false);
			world_reader_stop(w, 0);
			world_fini(w);
		}
		assert_true(done);
	}
	assert_true(failed > 4);
}

/* Killed inside a batch; the log is cut below that, and has gone on past it when the next agent comes. */
static void test_cut_while_dead(void **state)
{
	unsigned dead = 0;

	(void)state;
	for (long n = 0; n < 40; n++) {
		struct world world, *w = &world;
		struct replica_apply *a;
		uint64_t keep;

		world_init_in(w, 4096, "DELETE", 16);
		fill_rows(w);
		keep = keep_state(w);
		update_far_rows(w);
		WOK(ltx_log_sync(w->log, &w->err));
		assert_int_equal(child(w, NULL, 0, 0, -1), 0);
		update_row(w, 10, 4444);
		WOK(ltx_log_sync(w->log, &w->err));
		if (child(w, NULL, 0, 0, n) == 0) {
			world_fini(w);
			break;
		}
		dead++;
		go_back(w, keep);
		for (unsigned i = 0; i < 8; i++)
			update_row(w, 200 + i, i);
		WOK(ltx_log_sync(w->log, &w->err));
		a = open_apply(w, NULL);
		run(w, a, 0);
		sees(w, "cut while nobody applied", n);
		replica_apply_close(a, false);
		world_fini(w);
	}
	assert_true(dead > 4);
}

/* The power fails after the log was cut, and before what was applied is taken back. */
static void test_cut_power(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;
	uint64_t keep;

	(void)state;
	world_init_in(w, 4096, "DELETE", 16);
	fill_rows(w);
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0); /* on disk */
	update_row(w, 200, 1);
	keep = keep_state(w);
	update_row(w, 5, 1111);
	update_row(w, 150, 2222);
	WOK(ltx_log_sync(w->log, &w->err));
	assert_int_equal(child(w, &(struct replica_apply_conf){0}, 0, 0, -1), 0);
	WOK(replica_apply_hold(NULL, w->ro, &w->err));
	go_back(w, keep);
	other_boot(w);
	a = open_apply(w, NULL);
	run(w, a, 0);
	sees(w, "after the power cut", 0);
	update_row(w, 201, 1);
	run(w, a, 0);
	sees(w, "one more", 0);
	replica_apply_close(a, false);
	world_fini(w);
}

/* What was on disk of a history that was given up counts for nothing in the next one. */
static void test_floor_of_another_history(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;
	char aside[300], beside[400];
	uint64_t keep;

	(void)state;
	world_init_in(w, 4096, "DELETE", 16);
	fill_rows(w);
	keep = keep_state(w);
	update_far_rows(w);
	WOK(ltx_log_sync(w->log, &w->err));
	assert_int_equal(child(w, NULL, STEP_CLOSE, 0, -1), 0);
	go_back(w, keep);
	WOK(ltx_log_sync(w->log, &w->err));
	a = open_apply(w, NULL);
	for (unsigned i = 0; i < 6; i++)
		update_row(w, 200 + i, i);
	run(w, a, 0);
	/* the power fails, and nothing of the WAL was synced */
	world_path(aside, sizeof(aside), "%s/aside", w->dir);
	copy(w->db, aside, "");
	replica_apply_close(a, false);
	copy(aside, w->db, "");
	world_path(beside, sizeof(beside), "%s-wal", w->db);
	unlink(beside);
	world_path(beside, sizeof(beside), "%s-shm", w->db);
	unlink(beside);
	other_boot(w);
	a = open_apply(w, NULL);
	run(w, a, 0);
	sees(w, "after the power cut", 0);
	replica_apply_close(a, false);
	world_fini(w);
}

/* The capture died between its place in the WAL and the table; what it had captured last was cut off. */
static void test_captured_then_cut(void **state)
{
	struct fz_buf before = {0}, after = {0};
	struct world world, *w = &world;
	struct ltx_sums_head *old, *now;
	struct replica_apply *a;
	char sums[400];
	uint64_t keep;

	(void)state;
	world_init_in(w, 4096, "WAL", 16);
	fill_rows(w);
	a = open_apply(w, NULL);
	run(w, a, 0);
	hold_snapshot(w);
	update_row(w, 3, 7);
	run(w, a, 0);
	keep = keep_state(w);
	replica_apply_close(a, true);
	world_path(sums, sizeof(sums), "/proc/self/fd/%d/fs-sums", ltx_log_dirfd(w->log));
	WOK(fz_read_file(AT_FDCWD, sums, 1 << 20, &before, &w->err));
	update_row(w, 5, 1111); /* ours alone */
	a = open_apply(w, NULL);
	run(w, a, 0);
	replica_apply_close(a, true);
	WOK(fz_read_file(AT_FDCWD, sums, 1 << 20, &after, &w->err));
	old = (void *)before.data;
	now = (void *)after.data;
	assert_true(now->pos_frame > old->pos_frame && old->txid == keep);
	old->pos_frame = now->pos_frame;
	memcpy(old->pos_salt, now->pos_salt, sizeof(old->pos_salt));
	memcpy(old->last_frame, now->last_frame, sizeof(old->last_frame));
	poke(w, "fs-sums", before.data, before.size, 0);
	assert_int_equal(unlinkat(ltx_log_dirfd(w->log), LTX_LOG_APPLIED, 0), 0);
	WOK(replica_apply_hold(NULL, w->ro, &w->err));
	go_back(w, keep);
	WOK(ltx_log_sync(w->log, &w->err));
	a = open_apply(w, NULL);
	update_row(w, 200, 9);
	run(w, a, 0);
	sees(w, "cut", 0);
	replica_apply_close(a, false);
	world_reader_stop(w, 0);
	fz_buf_fini(&before);
	fz_buf_fini(&after);
	world_fini(w);
}

/* A connection of before: reads page 1, and later, in one transaction, what meta says and what the rows say. */
static void old_connection(struct world *w, int out)
{
	long long want = 0, is = 0;
	sqlite3_stmt *s;
	sqlite3 *db;
	char verdict;
	int rc;

	for (int fd = 3; fd < 256; fd++)
		if (fd != out)
			close(fd);
	sqlite3_open_v2(w->db, &db, SQLITE_OPEN_READWRITE, NULL);
	sqlite3_exec(db, "SELECT txid FROM meta", NULL, NULL, NULL);
	raise(SIGSTOP);
	sqlite3_exec(db, "BEGIN", NULL, NULL, NULL);
	sqlite3_prepare_v2(db, "SELECT s FROM meta", -1, &s, NULL);
	rc = sqlite3_step(s);
	want = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	raise(SIGSTOP);
	if (rc == SQLITE_ROW) {
		sqlite3_prepare_v2(db, "SELECT coalesce(sum(h+length(v)),0) FROM kv", -1, &s, NULL);
		rc = sqlite3_step(s);
		is = sqlite3_column_int64(s, 0);
		sqlite3_finalize(s);
	}
	verdict = rc != SQLITE_ROW ? '-' : want == is ? 'w' : 't';
	world_exit(write(out, &verdict, 1) == 1 ? 0 : 1);
}

/* It fails between rollback mode and the first frame of the WAL. */
static void test_into_wal_fails(void **state)
{
	(void)state;
	for (long n = 0; n < 12; n++) {
		struct world world, *w = &world;
		struct replica_apply_conf conf = {.name = "app.db"};
		struct replica_apply *a;
		int p[2], rc, status;
		char mode[20], verdict = 0;
		pid_t pid;

		world_init_in(w, 4096, "DELETE", 16);
		fill_rows(w);
		a = open_apply(w, NULL);
		run(w, a, 0);
		replica_apply_close(a, true);
		world_ask(w, w->db, SQLITE_OPEN_READWRITE, "PRAGMA busy_timeout=20000; PRAGMA journal_mode=DELETE",
		          mode, sizeof(mode));
		assert_string_equal(mode, "delete");
		assert_int_equal(unlinkat(ltx_log_dirfd(w->log), LTX_LOG_APPLIED, 0), 0);
		assert_int_equal(pipe2(p, O_CLOEXEC), 0);
		pid = fork();
		if (!pid)
			old_connection(w, p[1]);
		close(p[1]);
		assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
		conf.mountfd = w->mountfd;
		conf.log = w->ro;
		atomic_store(&fail_at, n);
		rc = replica_apply_open(&a, &conf, 1000, &w->err);
		atomic_store(&fail_at, -1);
		if (rc == 0)
			replica_apply_close(a, false);
		kill(pid, SIGCONT);
		assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
		rc = replica_apply_open(&a, &conf, 1000, &w->err);
		if (rc == 0) {
			for (unsigned i = 0; i < 6; i++)
				update_row(w, 50 * i + 1, 5000 + i);
			run(w, a, 0);
			WOK(replica_apply_checkpoint(a, &w->err));
		}
		kill(pid, SIGCONT);
		assert_int_equal(read(p[0], &verdict, 1), 1);
		close(p[0]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (verdict == 't')
			fail_msg("%ld: a connection of before sees half of a transaction", n);
		if (rc == 0)
			replica_apply_close(a, false);
		world_fini(w);
	}
}

/* A checkpoint copies up to a reader's snapshot; what it says to be on disk is. */
static void test_floor_beside_readers(void **state)
{
	char path[400], aside[300], beside[400];
	struct world world, *w = &world;
	struct replica_apply_state s;
	struct replica_apply *a;

	(void)state;
	world_init_in(w, 4096, "DELETE", 16);
	fill_rows(w);
	a = open_apply(w, NULL);
	run(w, a, 0);
	update_row(w, 3, 7);
	run(w, a, 0);
	hold_snapshot(w);
	update_far_rows(w);
	run(w, a, 0);
	synced_max = 0;
	WOK(replica_apply_checkpoint(a, &w->err));
	replica_apply_get(a, &s);
	assert_int_equal(s.floor_txid, w->txid);
	/* the power fails: of the WAL the disk has what was synced */
	world_path(aside, sizeof(aside), "%s/aside", w->dir);
	world_path(beside, sizeof(beside), "%s-wal", aside);
	world_path(path, sizeof(path), "%s-wal", w->db);
	copy(w->db, aside, "");
	copy(path, beside, "");
	replica_apply_close(a, false);
	world_reader_stop(w, 0);
	copy(aside, w->db, "");
	copy(beside, path, "");
	assert_int_equal(truncate(path, (off_t)synced_max), 0);
	world_path(path, sizeof(path), "%s-shm", w->db);
	unlink(path);
	other_boot(w);
	a = open_apply(w, NULL);
	update_row(w, 10, 1);
	run(w, a, 0);
	sees(w, "after the power cut", 0);
	replica_apply_close(a, false);
	world_fini(w);
}

/* As an application that was killed leaves it: what it committed last is in the WAL alone. */
static void killed_writer(const char *path)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		sqlite3 *db;

		_exit(sqlite3_open(path, &db) != SQLITE_OK ||
		      sqlite3_exec(db, "PRAGMA journal_mode=WAL; CREATE TABLE mine(x); INSERT INTO mine VALUES(7)",
		                   NULL, NULL, NULL) != SQLITE_OK);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* It goes before its WAL does, so that nobody opens it without; and both are together afterwards. */
static void test_moved_aside(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;
	char res[256], path[300], aside[300] = "", events[8192];
	const char *first = NULL;
	ssize_t n;
	FILE *f;
	int fd;

	(void)state;
	world_init_in(w, 4096, "WAL", 17);
	world_commits(w, 5, false);
	killed_writer(w->db);
	fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	assert_true(inotify_add_watch(fd, w->mount, IN_MOVED_FROM | IN_DELETE) >= 0);
	a = open_apply(w, NULL);
	run(w, a, 0);
	assert_int_equal(world_visible(w), w->txid);
	n = read(fd, events, sizeof(events));
	for (ssize_t at = 0; at < n && !first;) {
		const struct inotify_event *ev = (const void *)(events + at);

		if (!strcmp(ev->name, "app.db") || !strcmp(ev->name, "app.db-wal"))
			first = ev->name;
		at += (ssize_t)(sizeof(*ev) + ev->len);
	}
	close(fd);
	assert_non_null(first);
	assert_string_equal(first, "app.db");
	world_path(path, sizeof(path), "ls %s/app.db.local-*[0-9]", w->mount);
	f = popen(path, "r");
	assert_non_null(fgets(aside, sizeof(aside), f));
	pclose(f);
	aside[strcspn(aside, "\n")] = 0;
	world_ask(w, aside, SQLITE_OPEN_READWRITE, "SELECT x FROM mine", res, sizeof(res));
	assert_string_equal(res, "7");
	finish(w, a);
}

/* A file of that name that is not ours is kept; one that this host served as primary is taken over. */
static void test_what_lies_there(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;
	char res[256], path[300], aside[300] = "";
	struct fz_buf list = {0};

	(void)state;
	world_init_in(w, 4096, "DELETE", 17);
	world_commits(w, 5, false);
	world_ask(w, w->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
	          "CREATE TABLE mine(x); INSERT INTO mine VALUES(7)", res, sizeof(res));
	assert_string_equal(res, "ok");
	a = open_apply(w, NULL);
	run(w, a, 0);
	assert_int_equal(world_visible(w), w->txid);
	{
		FILE *f;

		world_path(path, sizeof(path), "ls %s/app.db.local-*", w->mount);
		f = popen(path, "r");
		assert_non_null(fgets(aside, sizeof(aside), f));
		pclose(f);
		aside[strcspn(aside, "\n")] = 0;
	}
	world_ask(w, aside, SQLITE_OPEN_READWRITE, "SELECT x FROM mine", res, sizeof(res));
	assert_string_equal(res, "7");
	replica_apply_close(a, true);
	fz_buf_fini(&list);

	/* it was the primary, in rollback mode, and has written what nobody else has */
	world_ask(w, w->db, SQLITE_OPEN_READWRITE, "PRAGMA journal_mode=DELETE; UPDATE kv SET h=h+1 WHERE k%3=0", res,
	          sizeof(res));
	assert_int_equal(unlinkat(ltx_log_dirfd(w->log), "apply", 0), 0);
	a = open_apply(w, NULL);
	world_reader_start(w, 0, WORLD_SHORT);
	world_reader_wait(w, 0, 1);
	run(w, a, 0);
	assert_int_equal(world_visible(w), w->txid);
	world_commits(w, 3, false);
	run(w, a, 0);
	world_reader_wait(w, 0, 2);
	assert_int_equal(w->r[0].seen->last, w->txid);
	world_reader_stop(w, 0);
	finish(w, a);
}

/* Larger than what is held in memory; and one that only cuts the file. */
static void test_large_and_empty(void **state)
{
	struct world world, *w = &world;
	struct replica_apply *a;

	(void)state;
	world_init_in(w, 4096, "DELETE", 18);
	world_commits(w, 3, false);
	a = open_apply(w, NULL);
	run(w, a, 0);
	world_reader_start(w, 0, WORLD_LONG);
	world_reader_start(w, 1, WORLD_SHORT);
	world_commits(w, 3, true);
	world_sql(w, "BEGIN; INSERT INTO kv SELECT 5000+value, value, randomblob(3000) FROM (WITH RECURSIVE c(value) "
	             "AS (SELECT 1 UNION ALL "
	             "SELECT value+1 FROM c WHERE value<4000) SELECT value FROM c)");
	world_close_transaction(w);
	world_commits(w, 6, true);
	run(w, a, 0);
	assert_int_equal(applied(a), w->txid);
	world_sql(w, "BEGIN; DELETE FROM kv WHERE k>5000");
	world_close_transaction(w);
	world_sql(w, "BEGIN; PRAGMA incremental_vacuum");
	world_close_transaction(w);
	run(w, a, 0);
	assert_int_equal(world_visible(w), w->txid);
	for (unsigned i = 0; i < 2; i++) {
		world_reader_wait(w, i, 2);
		assert_int_equal(w->r[i].seen->last, w->txid);
		world_reader_stop(w, i);
	}
	finish(w, a);
}

/* Nothing leads out of the mount, and what the mount's directory says about owner and mode counts. */
static void test_names(void **state)
{
	static const char *const bad[] = {"",     "/app.db",    "../app.db",    "a/../app.db",
	                                  "a//b", "out/app.db", ".fazt/app.db", "out/made/app.db"};
	struct world world, *w = &world;
	char path[300], elsewhere[300];
	struct stat st;

	(void)state;
	world_init_in(w, 4096, "DELETE", 19);
	world_path(path, sizeof(path), "%s/out", w->mount);
	world_path(elsewhere, sizeof(elsewhere), "%s/elsewhere", w->dir);
	assert_int_equal(mkdir(elsewhere, 0700) + symlink(elsewhere, path), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct replica_apply_conf conf = {.mountfd = w->mountfd, .name = bad[i], .log = w->ro};
		struct replica_apply *a = NULL;

		assert_true(replica_apply_open(&a, &conf, 0, &w->err) < 0);
	}
	assert_int_equal(rmdir(elsewhere), 0); /* nothing was made there */
	world_path(path, sizeof(path), "%s/target", w->dir);
	assert_int_equal(symlink(path, w->db), 0); /* a link in the database's place is moved, not followed */
	assert_int_equal(fchmod(w->mountfd, 0770), 0);
	if (geteuid() == 0)
		assert_int_equal(fchown(w->mountfd, 1234, 2345), 0);
	assert_int_equal(child(w, NULL, 0, 0, -1), 0);
	assert_int_equal(access(path, F_OK), -1);
	for (unsigned i = 0; i < 3; i++) {
		static const char *const suffix[] = {"", "-wal", "-shm"};

		world_path(path, sizeof(path), "%s%s", w->db, suffix[i]);
		assert_int_equal(lstat(path, &st), 0);
		assert_true(S_ISREG(st.st_mode));
		assert_int_equal(st.st_mode & 0777, 0660);
		if (geteuid() == 0)
			assert_true(st.st_uid == 1234 && st.st_gid == 2345);
	}
	world_fini(w);
}

/* Beyond 1 GiB: the page that holds SQLite's lock bytes has no content, and is never written. */
struct giant {
	struct world *w;
	uint32_t commit;
	uint64_t txid, sum;
	uint64_t *sums;
	uint8_t page[65536];
};

static void giant_page(struct giant *g, uint32_t pgno)
{
	memset(g->page, 0, sizeof(g->page));
	if (pgno == 1)
		memcpy(g->page, "SQLite format 3\0\0\1\1\1\0\x40\x20\x20", 24);
	fz_put64(g->page + 4096, g->txid);
	fz_put32(g->page + 65000, pgno);
}

static void giant_commit(struct giant *g, const uint32_t *pages, unsigned n, uint32_t commit)
{
	struct world *w = g->w;
	struct ltx_header h = {.page_size = 65536,
	                       .commit = commit,
	                       .min_txid = g->txid + 1,
	                       .max_txid = g->txid + 1,
	                       .time_ms = 1,
	                       .pre_checksum = g->txid ? g->sum : 0};
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes;

	g->txid++;
	WOK(ltx_log_begin(w->log, &h, &sink, &w->err));
	WOK(ltx_enc_begin(w->enc, sink, &h, &w->err));
	for (uint32_t p = 1; p <= commit; p++) {
		bool in = !pages;

		for (unsigned i = 0; i < n; i++)
			in |= pages[i] == p;
		if (!in || p == ltx_lock_page(65536))
			continue;
		giant_page(g, p);
		WOK(ltx_enc_page(w->enc, p, g->page, &w->err));
		g->sum ^= g->sums[p];
		g->sums[p] = ltx_page_checksum(p, g->page, 65536);
		g->sum ^= g->sums[p];
	}
	for (uint32_t p = commit + 1; p <= g->commit; p++) {
		g->sum ^= g->sums[p];
		g->sums[p] = 0;
	}
	g->sum |= LTX_FLAG;
	g->commit = commit;
	WOK(ltx_enc_end(w->enc, g->sum, &t, &bytes, &w->err));
	WOK(ltx_log_commit(w->log, bytes, ltx_enc_pages(w->enc), &t, false, &w->err));
}

static void giant_holds(struct giant *g, uint32_t pgno, uint64_t txid)
{
	int fd = open(g->w->db, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, g->page, 65536, (off_t)(pgno - 1) * 65536), 65536);
	close(fd);
	assert_int_equal(fz_be64(g->page + 4096), txid);
	assert_int_equal(fz_be32(g->page + 65000), txid ? pgno : 0);
}

static void test_lock_page(void **state)
{
	const uint32_t lock = ltx_lock_page(65536);
	struct world world, *w = &world;
	struct giant *g = calloc(1, sizeof(*g));
	struct replica_apply_state s;
	struct replica_apply *a;
	uint32_t pgno = lock - 3;
	struct stat st;

	(void)state;
	no_sync = true;
	world_init_in(w, 65536, "DELETE", 20);
	ltx_log_put(w->ro); /* a log of its own */
	ltx_log_put(w->log);
	ltx_logset_close(w->rologs);
	WOK(ltx_logset_get(w->logs, "giant.db", true, &w->log, &w->err));
	w->name = "giant.db";
	world_path(w->db, sizeof(w->db), "%s/giant.db", w->mount);
	world_logs(w);
	g->w = w;
	g->sum = LTX_EMPTY_DB;
	g->sums = calloc(lock + 16, sizeof(*g->sums));
	giant_commit(g, NULL, 0, lock - 1);
	{
		struct replica_apply_conf conf = {.mountfd = w->mountfd, .name = "giant.db", .log = w->ro};

		WOK(replica_apply_open(&a, &conf, 1000, &w->err));
	}
	run(w, a, 0);
	/* it grows to, over and back before that page */
	giant_commit(g, (uint32_t[]){1, lock - 1}, 2, lock);
	run(w, a, 0);
	giant_commit(g, (uint32_t[]){2, lock + 1, lock + 2}, 3, lock + 2);
	run(w, a, 0);
	giant_commit(g, (uint32_t[]){lock - 1, lock + 2, lock + 3}, 3, lock + 3);
	giant_commit(g, (uint32_t[]){lock - 2}, 1, lock + 2);
	for (unsigned i = 0; i < 6; i++) /* many waiting: merged */
		giant_commit(g, (uint32_t[]){1, lock + 1}, 2, lock + 2);
	run(w, a, 0);
	assert_int_equal(applied(a), g->txid);
	WOK(replica_apply_checkpoint(a, &w->err));
	giant_holds(g, lock, 0);
	giant_holds(g, lock - 1, 4);
	giant_holds(g, lock - 2, 5);
	giant_holds(g, lock + 1, g->txid);
	giant_holds(g, lock + 2, 4);
	giant_holds(g, 2, 3);
	assert_int_equal(stat(w->db, &st), 0);
	assert_int_equal(st.st_size, (int64_t)(lock + 2) * 65536);
	damage(w->db, (off_t)lock * 65536 + 77);
	WOK(replica_apply_scrub(a, &pgno, 20, &w->err));
	replica_apply_get(a, &s);
	assert_int_equal(s.repaired_pages, 1);
	giant_commit(g, (uint32_t[]){1}, 1, lock - 2);
	run(w, a, 0);
	WOK(replica_apply_checkpoint(a, &w->err));
	assert_int_equal(stat(w->db, &st), 0);
	assert_int_equal(st.st_size, (int64_t)(lock - 2) * 65536);
	replica_apply_close(a, true);
	free(g->sums);
	free(g);
	world_fini(w);
	no_sync = false;
}

/* ---- not a test: `test_replica_apply measure [TRANSACTIONS]` prints how fast it is ---- */
static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void measure_once(struct world *w, const char *what, bool each, unsigned readers)
{
	struct replica_apply *a = open_apply(w, NULL);
	uint64_t *ns = calloc(w->txid + 1, sizeof(*ns)), start, reads = 0, total;
	struct replica_apply_state s;
	size_t n = 0;

	run(w, a, 2);
	for (unsigned i = 0; i < readers; i++) {
		world_reader_start(w, i, WORLD_POINT);
		world_reader_wait(w, i, 100);
		reads -= w->r[i].seen->reads;
	}
	start = fz_mono_ns();
	for (uint64_t t = each ? 3 : w->txid; t <= w->txid; t++) {
		uint64_t before = fz_mono_ns();

		run(w, a, t);
		ns[n++] = fz_mono_ns() - before;
	}
	total = fz_mono_ns() - start;
	replica_apply_get(a, &s);
	for (unsigned i = 0; i < readers; i++) {
		reads += w->r[i].seen->reads;
		world_reader_stop(w, i);
	}
	qsort(ns, n, sizeof(*ns), by_value);
	printf("%-28s %u readers: %8.0f transactions/s", what, readers, (double)(w->txid - 2) * 1e9 / (double)total);
	if (each)
		printf(", microseconds p50 %.1f p99 %.1f max %.0f", (double)ns[n / 2] / 1e3,
		       (double)ns[n * 99 / 100] / 1e3, (double)ns[n - 1] / 1e3);
	if (readers)
		printf(", %.0f reads/s", (double)reads * 1e9 / (double)total);
	printf(", %llu WAL transactions, %llu checkpoints, %llu restarts, WAL %llu KiB\n",
	       (unsigned long long)s.batches, (unsigned long long)s.checkpoints, (unsigned long long)s.restarts,
	       (unsigned long long)s.wal_bytes / 1024);
	WOK(replica_apply_remove(a, &w->err));
	replica_apply_close(a, false);
	free(ns);
}

static void measure_row(const char *what, uint64_t *ns, size_t n)
{
	qsort(ns, n, sizeof(*ns), by_value);
	printf("%-28s           : microseconds p50 %.1f p99 %.1f max %.0f\n", what, (double)ns[n / 2] / 1e3,
	       (double)ns[n * 99 / 100] / 1e3, (double)ns[n - 1] / 1e3);
}

static int measure(unsigned n)
{
	struct world world, *w = &world;
	uint64_t start, reads, *ns = calloc(n, sizeof(*ns));
	struct replica_apply *live;

	world_init_in(w, 4096, "DELETE", 1);
	world_sql(w, "BEGIN; INSERT INTO kv SELECT value, 1, randomblob(100) FROM (WITH RECURSIVE c(value) AS (SELECT "
	             "1 UNION ALL "
	             "SELECT value+1 FROM c WHERE value<10000) SELECT value FROM c)");
	world_close_transaction(w);
	live = open_apply(w, NULL);
	run(w, live, 0);
	for (unsigned i = 0; i < n; i++) { /* a row and the TXID: two pages or three */
		world_sql(w, "BEGIN; UPDATE kv SET h=h+1 WHERE k=%llu; UPDATE meta SET txid=%llu, s=s+1; COMMIT",
		          (unsigned long long)world_rnd(w, 10000) + 1, (unsigned long long)w->txid + 1);
		world_capture(w);
		start = fz_mono_ns();
		run(w, live, w->txid);
		ns[i] = fz_mono_ns() - start;
	}
	measure_row("each as it is appended", ns, n);
	free(ns);
	WOK(replica_apply_remove(live, &w->err));
	replica_apply_close(live, false);
	{
		struct replica_apply *a = open_apply(w, NULL);

		run(w, a, 2);
		for (unsigned i = 0; i < 2; i++)
			world_reader_start(w, i, WORLD_POINT);
		world_reader_wait(w, 0, 100);
		world_reader_wait(w, 1, 100);
		reads = w->r[0].seen->reads + w->r[1].seen->reads;
		start = fz_mono_ns();
		usleep(1000000);
		reads = w->r[0].seen->reads + w->r[1].seen->reads - reads;
		printf("nothing applied               2 readers: %.0f reads/s\n",
		       (double)reads * 1e9 / (double)(fz_mono_ns() - start));
		world_reader_stop(w, 0);
		world_reader_stop(w, 1);
		WOK(replica_apply_remove(a, &w->err));
		replica_apply_close(a, false);
	}
	measure_once(w, "one by one", true, 0);
	measure_once(w, "one by one", true, 2);
	measure_once(w, "merged (catching up)", false, 0);
	measure_once(w, "merged (catching up)", false, 2);
	world_fini(w);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_beside_readers),
	        cmocka_unit_test(test_index),
	        cmocka_unit_test(test_killed_anywhere),
	        cmocka_unit_test(test_killed_while_made),
	        cmocka_unit_test(test_full_disk),
	        cmocka_unit_test(test_killed_at_random),
	        cmocka_unit_test(test_killed_between_header_copies),
	        cmocka_unit_test(test_power_cut),
	        cmocka_unit_test(test_readers_hold),
	        cmocka_unit_test(test_bounded),
	        cmocka_unit_test(test_writers),
	        cmocka_unit_test(test_page_size),
	        cmocka_unit_test(test_page_size_killed),
	        cmocka_unit_test(test_scrub),
	        cmocka_unit_test(test_damaged_log),
	        cmocka_unit_test(test_damaged_sums),
	        cmocka_unit_test(test_other_history),
	        cmocka_unit_test(test_mend_interrupted),
	        cmocka_unit_test(test_cut_while_dead),
	        cmocka_unit_test(test_cut_power),
	        cmocka_unit_test(test_floor_of_another_history),
	        cmocka_unit_test(test_captured_then_cut),
	        cmocka_unit_test(test_into_wal_fails),
	        cmocka_unit_test(test_floor_beside_readers),
	        cmocka_unit_test(test_back_to_larger),
	        cmocka_unit_test(test_moved_aside),
	        cmocka_unit_test(test_what_lies_there),
	        cmocka_unit_test(test_large_and_empty),
	        cmocka_unit_test(test_names),
	        cmocka_unit_test(test_lock_page),
	};

	if (argc > 1 && !strcmp(argv[1], "measure"))
		return measure(argc > 2 ? (unsigned)atoi(argv[2]) : 20000);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
