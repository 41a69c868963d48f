/* capture_world.h - a directory, a state directory, a capture, and the oracle of its tests: after every commit the test takes
 * SQLite's own view of the database (sqlite3_serialize); the log must hold exactly one transaction for each, and rebuilding the
 * log page by page must give exactly that view, with the chain of checksums unbroken. */
#ifndef CAPTURE_WORLD_H
#define CAPTURE_WORLD_H

#include "base/file.h"
#include "base/log.h"
#include "fs/agent.h"
#include "ltx/dec.h"
#include "ltx/log.h"

#include "capture_vfs.h"
#include "tests/unit/tmp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

struct view {
	uint64_t sum;
	uint32_t pages;
};
struct world {
	char dir[160], root[180], state[180];
	int rootfd, statefd;
	struct ltx_logset *logs;
	struct fs_capture *c;
	struct fs_capture_conf conf;
};
/* What SQLite showed after each commit of one database. */
struct history {
	struct view v[4096];
	size_t n;
};

static inline void ok(int rc, const struct fz_err *err)
{
	if (rc < 0)
		fail_msg("%s", err->text);
}

static inline void start(struct world *w, bool passthrough)
{
	struct fz_err err = {0};

	w->rootfd = open(w->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	w->statefd = open(w->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(w->rootfd >= 0 && w->statefd >= 0);
	ok(ltx_logset_open(&w->logs, w->statefd, &(struct ltx_logset_conf){0}, &err), &err);
	w->conf.rootfd = w->rootfd;
	w->conf.statefd = w->statefd;
	w->conf.logs = w->logs;
	w->conf.passthrough = passthrough;
	w->conf.scrub_bytes_per_s = UINT64_MAX;
	ok(fs_capture_open(&w->c, &w->conf, &err), &err);
	vfs_attach(w->c, w->root);
}

static inline void stop(struct world *w)
{
	struct fz_err err = {0};

	vfs_attach(NULL, "");
	ok(fs_capture_close(w->c, &err), &err);
	ltx_logset_close(w->logs);
	fz_close(&w->rootfd);
	fz_close(&w->statefd);
	w->c = NULL;
}

static inline void make_dirs(struct world *w)
{
	*w = (struct world){0};
	assert_non_null(tmp_make(w->dir, sizeof(w->dir), "fz-capture"));
	snprintf(w->root, sizeof(w->root), "%s/root", w->dir);
	snprintf(w->state, sizeof(w->state), "%s/state", w->dir);
	assert_int_equal(mkdir(w->root, 0700), 0);
	assert_int_equal(mkdir(w->state, 0700), 0);
}

static inline void make_world(struct world *w, bool passthrough)
{
	make_dirs(w);
	start(w, passthrough);
}

static inline void end_world(struct world *w)
{
	struct fz_err err = {0};

	if (w->c)
		stop(w);
	ok(fz_remove_tree(AT_FDCWD, w->dir, &err), &err);
}

static inline sqlite3 *open_db(struct world *w, const char *name)
{
	char path[512];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/%s", w->root, name);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	return db;
}

static inline void sql(sqlite3 *db, const char *fmt, ...)
{
	va_list ap;
	char *q, *msg = NULL;

	va_start(ap, fmt);
	q = sqlite3_vmprintf(fmt, ap);
	va_end(ap);
	if (sqlite3_exec(db, q, NULL, NULL, &msg) != SQLITE_OK)
		fail_msg("%s: %s", q, msg);
	sqlite3_free(q);
}

static inline struct view view_of(sqlite3 *db, const char *schema)
{
	sqlite3_int64 size = 0;
	unsigned char *b = sqlite3_serialize(db, schema, &size, 0);
	struct view v = {LTX_EMPTY_DB, 0};
	uint32_t ps;

	if (!b || size < 100) {
		sqlite3_free(b);
		return v;
	}
	ps = (uint32_t)(b[16] << 8 | b[17]);
	ps = ps == 1 ? 65536 : ps;
	v.pages = (uint32_t)(size / ps);
	for (uint32_t p = 1; p <= v.pages; p++)
		if (p != ltx_lock_page(ps))
			v.sum = LTX_FLAG | (v.sum ^ ltx_page_checksum(p, b + (size_t)(p - 1) * ps, ps));
	sqlite3_free(b);
	return v;
}

/* Notes the state if it is a new one. */
static inline void note_schema(struct history *h, sqlite3 *db, const char *schema)
{
	struct view v = view_of(db, schema);

	if (v.pages && (!h->n || h->v[h->n - 1].sum != v.sum)) {
		assert_true(h->n < 4096);
		h->v[h->n++] = v;
	}
}

/* Through a connection of its own: the writer's cache may hold free pages that it never wrote. */
static inline void note(struct history *h, sqlite3 *db)
{
	sqlite3 *r;

	assert_int_equal(sqlite3_open(sqlite3_db_filename(db, "main"), &r), SQLITE_OK);
	note_schema(h, r, "main");
	sqlite3_close(r);
}

/* Rebuilds every state of the log; returns the number of LTX files. Checks each against what SQLite showed, or (only_last)
 * the last one alone: some commits were made while the log could not follow one by one. */
static inline uint64_t check_states(struct ltx_logset *logs, const char *name, const struct history *h, bool only_last)
{
	struct ltx_log *log = NULL;
	struct ltx_log_info info;
	struct fz_err err = {0};
	uint8_t *image = NULL;
	uint32_t ps = 0, cap = 0;
	uint64_t files = 0, post = 0;

	ok(ltx_logset_get(logs, name, false, &log, &err), &err);
	ltx_log_info(log, &info);
	if (info.tail_txid != h->n && !only_last)
		fail_msg("%s: %llu transactions in the log, SQLite made %zu", name, (unsigned long long)info.tail_txid,
		         h->n);
	for (uint64_t txid = 1; txid <= info.tail_txid;) {
		struct ltx_log_entry e;
		struct fz_src *src = NULL;
		struct ltx_dec *d = NULL;
		const struct ltx_header *hd;
		const struct view *v;
		const uint8_t *data;
		uint64_t sum = LTX_EMPTY_DB, bytes;
		uint32_t pgno;
		int rc;

		ok(ltx_log_find(log, txid, &e, &err), &err);
		ok(ltx_log_src(log, &e, &src, &err), &err);
		ok(ltx_dec_open(&d, src, 0, &err), &err);
		hd = ltx_dec_header(d);
		assert_true(hd->min_txid == txid || (txid == 1 && hd->min_txid == 1));
		assert_int_equal(hd->pre_checksum, post);
		if (ps != hd->page_size) {
			free(image);
			image = NULL;
			ps = hd->page_size;
			cap = 0;
		}
		if (hd->commit > cap) {
			image = realloc(image, (size_t)hd->commit * ps);
			memset(image + (size_t)cap * ps, 0xee, (size_t)(hd->commit - cap) * ps);
			cap = hd->commit;
		}
		while ((rc = ltx_dec_page(d, &pgno, &data, &err)) > 0)
			memcpy(image + (size_t)(pgno - 1) * ps, data, ps);
		ok(rc, &err);
		for (pgno = 1; pgno <= hd->commit; pgno++)
			if (pgno != ltx_lock_page(ps))
				sum = LTX_FLAG | (sum ^ ltx_page_checksum(pgno, image + (size_t)(pgno - 1) * ps, ps));
		post = ltx_dec_end(d, &bytes)->post_checksum;
		v = only_last ? hd->max_txid == info.tail_txid ? &h->v[h->n - 1] : NULL : &h->v[hd->max_txid - 1];
		if (v && (hd->commit != v->pages || sum != v->sum))
			fail_msg("%s: TXID %llu is not what SQLite showed (%u pages, SQLite %u)", name,
			         (unsigned long long)hd->max_txid, hd->commit, v->pages);
		assert_int_equal(sum, post);
		txid = hd->max_txid + 1;
		if (hd->commit < cap) /* what lies beyond is gone */
			memset(image + (size_t)hd->commit * ps, 0xee, (size_t)(cap - hd->commit) * ps);
		ltx_dec_close(d);
		fz_src_close(src);
		files++;
	}
	free(image);
	ltx_log_put(log);
	return files;
}

static inline uint64_t check_log(struct ltx_logset *logs, const char *name, const struct history *h)
{
	return check_states(logs, name, h, false);
}

static inline void sync_all(struct world *w)
{
	struct fz_err err = {0};

	ok(fs_capture_sync(w->c, NULL, &err), &err);
}

/* In memory that a forked child shares. */
static inline struct history *new_history(void)
{
	struct history *h = mmap(NULL, sizeof(*h), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(h != MAP_FAILED);
	return h;
}

static inline void free_history(struct history *h)
{
	munmap(h, sizeof(*h));
}

/* Runs the capture and an application in one process, which then dies by SIGKILL: whatever they had open is as a crash
 * leaves it. */
static inline void run_and_kill(struct world *w, bool passthrough, void (*app)(struct world *w, struct history *h),
                                struct history *h)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		start(w, passthrough);
		app(w, h);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("the application failed: status %x", status);
}

static inline void copy_file(const char *from, const char *to)
{
	struct fz_err err = {0};
	struct fz_buf b = {0};
	int rc = fz_read_file(AT_FDCWD, from, 1u << 30, &b, &err);

	if (rc == -ENOENT) {
		unlink(to);
		return;
	}
	ok(rc, &err);
	ok(fz_write_file(AT_FDCWD, to, b.data, b.size, 0600, &err), &err);
	fz_buf_fini(&b);
}

/* Adds a state that somebody else made, as a plain connection sees it. */
static inline void note_offline(struct world *w, struct history *h, const char *name)
{
	sqlite3 *db = open_db(w, name);

	note_schema(h, db, "main");
	sqlite3_close(db);
}

#endif
