#include "fs/capture.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/baseline.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/discover.h"
#include "fs/guard.h"
#include "fs/keeper.h"
#include "fs/recover.h"
#include "fs/scrub.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

static int copy_list(char ***out, const char *const *in, size_t n)
{
	*out = calloc(n + 1, sizeof(**out));
	for (size_t i = 0; *out && i < n; i++) {
		(*out)[i] = strdup(in[i]);
		if (!(*out)[i])
			return -ENOMEM;
	}
	return *out ? 0 : -ENOMEM;
}

static void free_list(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static int start_known(struct fs_capture *c, const char *name, struct fz_err *err)
{
	struct fs_db *db = fs_registry_get(c, name, true);
	bool ended;
	int rc;

	if (!db)
		return fz_fail(err, -ENOMEM, "no memory");
	pthread_mutex_lock(&db->mu);
	db->opaque = fs_registry_named_database(c, name);
	rc = fs_db_attach_log(db, false, err);
	if (rc == 0)
		rc = c->conf.resume ? fs_recover_resume(db, err) : fs_recover_start(db, err);
	if (rc < 0 && db->log) {
		fs_db_note_error(db, err);
		fs_db_lose(db, "it could not be brought together with its log");
		rc = 0;
	}
	ended = db->state == FS_DB_ENDED;
	pthread_mutex_unlock(&db->mu);
	if (ended)
		fs_registry_forget(db);
	fs_registry_put(db);
	return rc;
}

static int start_all(struct fs_capture *c, struct fz_err *err)
{
	struct ltx_log_info info;
	int rc = 0;

	for (size_t i = 0; rc == 0 && ltx_logset_info(c->conf.logs, i, &info); i++)
		if (!info.ended_ms && !fs_registry_excluded(c, info.name))
			rc = start_known(c, info.name, err);
	return rc;
}

static void destroy(struct fs_capture *c)
{
	struct fs_scratch *sc;
	struct fs_file *f;
	struct fs_db *db;

	fs_syncer_fini(&c->syncer);
	/* a worker that hands over ends with files open: their handles live on in the kernel */
	while ((f = c->files)) {
		c->files = f->next;
		if (f->wd >= 0)
			fs_poll_unwatch(c, f->wd);
		fs_registry_put(f->db);
		free(f->path);
		free(f);
	}
	while ((db = fs_registry_next(c, NULL))) {
		fs_registry_forget(db);
		fs_registry_put(db);
	}
	while ((sc = c->free_scratch)) {
		c->free_scratch = sc->next;
		fs_scratch_free(sc);
	}
	fz_close(&c->inotify_fd);
	fz_close(&c->event_fd);
	fs_guard_close(c->guard);
	pthread_mutex_destroy(&c->mu);
	pthread_mutex_destroy(&c->discover_mu);
	free_list(c->databases);
	free_list(c->exclude);
	free(c);
}

static void stop_threads(struct fs_capture *c)
{
	uint64_t one = 1;

	atomic_store(&c->stop, true);
	__atomic_store_n(&c->cancel, true, __ATOMIC_RELAXED); /* the keeper reads it so */
	if (c->event_fd >= 0 && write(c->event_fd, &one, sizeof(one)) < 0)
		fz_warn("capture: eventfd: %s", fz_strerror(-errno));
	fz_worker_stop(&c->capture);
	fz_worker_stop(&c->keeper);
}

int fs_capture_open(struct fs_capture **out, const struct fs_capture_conf *conf, struct fz_err *err)
{
	struct fs_capture *c = calloc(1, sizeof(*c));
	int rc = -ENOMEM;

	if (!c)
		return fz_fail(err, -ENOMEM, "no memory");
	c->conf = *conf;
	c->inotify_fd = c->event_fd = -1;
	if (!c->conf.log_max_bytes)
		c->conf.log_max_bytes = UINT64_C(1) << 30;
	if (!c->conf.small_bytes)
		c->conf.small_bytes = FS_SMALL_BYTES;
	if (!c->conf.scrub_bytes_per_s)
		c->conf.scrub_bytes_per_s = 8u << 20;
	pthread_mutex_init(&c->mu, NULL);
	fs_syncer_init(&c->syncer);
	pthread_mutex_init(&c->discover_mu, NULL);
	if (copy_list(&c->databases, conf->databases, conf->n_databases) < 0 ||
	    copy_list(&c->exclude, conf->exclude, conf->n_exclude) < 0) {
		fz_fail(err, -ENOMEM, "no memory");
		goto fail;
	}
	rc = fs_guard_open(&c->guard, err);
	if (rc < 0)
		goto fail;
	if (conf->replica) { /* files are classified, that is all: no log, no thread */
		atomic_store(&c->settled, true);
		*out = c;
		return 0;
	}
	c->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	c->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (c->inotify_fd < 0 || c->event_fd < 0) {
		rc = fz_fail_errno(err, errno, "cannot watch the backing files");
		goto fail;
	}
	atomic_store(&c->settled, !conf->resume);
	c->last_open_ns = fz_mono_ns();
	atomic_store(&c->held, conf->resume && conf->held);
	rc = start_all(c, err);
	if (rc == 0)
		rc = fz_worker_start(&c->keeper, "fs-keeper", fs_keeper_run, c, err);
	if (rc == 0)
		rc = fz_worker_start(&c->capture, "fs-capture", fs_poll_run, c, err);
	if (rc < 0)
		goto fail;
	*out = c;
	return 0;
fail:
	stop_threads(c);
	destroy(c);
	return rc;
}

/* Requires db->mu. */
static int sync_one(struct fs_db *db, struct fz_err *err)
{
	int64_t n;

	if (db->state == FS_DB_ENDED || db->state == FS_DB_CANDIDATE)
		return 0;
	n = fs_wal_pass(db, FS_WAL_BARRIER, err);
	if (n < 0)
		return (int)n;
	if (!fs_db_in_wal(db) && !db->open_db && !fs_db_journal_hot(db) && (db->rb.loose || db->state == FS_DB_LOST)) {
		int rc = fs_rollback_capture(db, err);

		if (rc < 0)
			return rc;
	}
	return db->log ? ltx_log_sync(db->log, err) : 0;
}

static bool known_on_replica(struct fs_capture *c, const char *name)
{
	return c->conf.replica && fs_guard_protects(c->guard, name);
}

void fs_capture_seal(struct fs_capture *c)
{
	atomic_store(&c->sealed, true);
}

int fs_capture_sync(struct fs_capture *c, const char *name, struct fz_err *err)
{
	bool found = !name || known_on_replica(c, name);
	struct fs_db *db = NULL;
	int rc = 0;

	if (!c->conf.replica)
		fs_discover(c);
	while ((db = fs_registry_next(c, db))) {
		if (!name || !strcmp(name, db->name)) {
			int r;

			found = true;
			pthread_mutex_lock(&db->mu);
			r = sync_one(db, err);
			if (r < 0)
				fs_db_note_error(db, err);
			pthread_mutex_unlock(&db->mu);
			rc = rc ? rc : r;
		}
	}
	return found ? rc : fz_fail(err, FZ_ENOTFOUND, "no database %s", name);
}

static enum fs_pending pending(struct fs_db *db)
{
	struct fs_db_head h;

	if (db->state == FS_DB_ENDED || fs_db_read_head(db, &h, NULL) < 0 || (!h.page_size && !fs_db_in_wal(db)))
		return FS_PENDING_NOTHING;
	if (db->state == FS_DB_LOST)
		return FS_PENDING_COMPARE;
	if (!db->open_db || fs_db_in_wal(db) || fs_db_journal_hot(db))
		return FS_PENDING_NOTHING;
	if (db->passthrough && !db->rb.loose && fs_rollback_moved(db)) { /* the hint is still under way */
		fs_rollback_note_loose(db);
		fs_poll_later(db);
	}
	return db->rb.loose ? FS_PENDING_MOMENT : FS_PENDING_NOTHING;
}

enum fs_pending fs_capture_pending(struct fs_capture *c, char *name, size_t cap)
{
	enum fs_pending p = FS_PENDING_NOTHING;
	struct fs_db *db = NULL;

	while (p == FS_PENDING_NOTHING && (db = fs_registry_next(c, db))) {
		pthread_mutex_lock(&db->mu);
		p = pending(db);
		pthread_mutex_unlock(&db->mu);
		if (p != FS_PENDING_NOTHING)
			snprintf(name, cap, "%s", db->name);
	}
	fs_registry_put(db);
	return p;
}

void fs_capture_release(struct fs_capture *c)
{
	c->last_open_ns = fz_mono_ns();
	atomic_store(&c->held, false);
}

void fs_capture_interrupt(struct fs_capture *c)
{
	atomic_store(&c->interrupted, true);
}

int fs_capture_close(struct fs_capture *c, struct fz_err *err)
{
	struct fs_db *db = NULL;
	int rc;

	if (!c)
		return 0;
	stop_threads(c);
	rc = fs_capture_sync(c, NULL, err);
	while ((db = fs_registry_next(c, db))) {
		int r;

		pthread_mutex_lock(&db->mu);
		r = fs_recover_mark_clean(db, err);
		if (r < 0)
			fs_db_note_error(db, err);
		pthread_mutex_unlock(&db->mu);
		rc = rc ? rc : r;
	}
	destroy(c);
	return rc;
}

int fs_capture_scrub(struct fs_capture *c, const char *name, struct fs_scrub_result *out, struct fz_err *err)
{
	bool found = !name || known_on_replica(c, name);
	struct fs_db *db = NULL;
	int rc = 0;

	*out = (struct fs_scrub_result){0};
	while (rc == 0 && (db = fs_registry_next(c, db))) {
		uint32_t next = 1;
		int64_t n = 0;

		if (!name || !strcmp(name, db->name)) {
			found = true;
			out->databases += db->log != NULL;
			while (next && n >= 0) {
				n = fs_scrub_step(db, &next, 4u << 20, &out->differences, err);
				out->pages += n > 0 ? (uint64_t)n : 0;
			}
			if (n == -FZ_EBUSY)
				out->busy++;
			else if (n < 0)
				rc = (int)n;
		}
	}
	fs_registry_put(db);
	return found ? rc : fz_fail(err, FZ_ENOTFOUND, "no database %s", name);
}

static const char *capture_way(const struct fs_db *db)
{
	if (db->state != FS_DB_LIVE)
		return "baseline";
	if (fs_db_in_wal(db))
		return "wal";
	return db->passthrough || db->rb.whole ? "compare" : "journal";
}

/* Closed, a database keeps its mode in its header. */
static const char *journal_mode(struct fs_db *db)
{
	struct fs_db_head h;

	return fs_db_in_wal(db) || (fs_db_read_head(db, &h, NULL) == 0 && h.wal) ? "wal" : "rollback";
}

/* What the log knows. NULL: no memory. */
static cJSON *add_log_status(struct ltx_log *log, struct ltx_log_info *info, cJSON *array)
{
	cJSON *o = cJSON_CreateObject();
	char sum[20], time[FZ_TIME_SIZE];

	if (!o || !cJSON_AddItemToArray(array, o)) {
		cJSON_Delete(o);
		return NULL;
	}
	ltx_log_info(log, info);
	snprintf(sum, sizeof(sum), "%016llx", (unsigned long long)info->tail_checksum);
	cJSON_AddStringToObject(o, "name", info->name);
	cJSON_AddNumberToObject(o, "txid", (double)info->tail_txid);
	cJSON_AddStringToObject(o, "time", info->tail_txid ? fz_format_time(time, info->tail_time_ms) : "");
	cJSON_AddStringToObject(o, "checksum", sum);
	cJSON_AddNumberToObject(o, "epoch", info->epoch);
	cJSON_AddStringToObject(o, "lineage", info->lineage);
	cJSON_AddNumberToObject(o, "page_size", info->page_size);
	cJSON_AddNumberToObject(o, "pages", info->commit);
	cJSON_AddNumberToObject(o, "log_bytes", (double)info->log_bytes);
	cJSON_AddNumberToObject(o, "log_syncs", (double)info->syncs);
	cJSON_AddNumberToObject(o, "commits", (double)info->added_txns); /* since the worker started, as what follows */
	cJSON_AddNumberToObject(o, "captured_pages", (double)info->added_pages);
	cJSON_AddNumberToObject(o, "captured_bytes", (double)info->added_bytes);
	return cJSON_AddNumberToObject(o, "base_bytes", (double)info->base_bytes) ? o : NULL;
}

/* A histogram as Prometheus has it: each bucket holds those below it too. */
static void add_delay(const struct fs_delay *d, cJSON *o)
{
	cJSON *h = cJSON_AddObjectToObject(o, "capture_delay"), *list = cJSON_AddArrayToObject(h, "buckets"), *b;
	uint64_t n = 0;

	for (size_t i = 0; i < FS_DELAYS; i++) {
		n += d->n[i];
		b = cJSON_CreateObject();
		cJSON_AddNumberToObject(b, "seconds", (double)fs_delay_ms[i] / 1000);
		cJSON_AddNumberToObject(b, "count", (double)n);
		cJSON_AddItemToArray(list, b);
	}
	cJSON_AddNumberToObject(h, "count", (double)(n + d->n[FS_DELAYS]));
	cJSON_AddNumberToObject(h, "sum_seconds", (double)d->sum_ms / 1000);
}

static void add_errors(struct fz_tally *t, cJSON *o)
{
	cJSON *e = cJSON_AddObjectToObject(o, "errors");
	uint64_t n;
	int code;

	for (size_t i = 0; (code = fz_tally_at(t, i, &n)) != 0; i++) {
		char name[16];

		snprintf(name, sizeof(name), "FZ-%d", code);
		cJSON_AddNumberToObject(e, name, (double)n);
	}
}

static int add_status(struct fs_db *db, cJSON *array)
{
	const struct ltx_sums_head *head = ltx_sums_head(db->sums);
	struct ltx_log_info info;
	cJSON *o = add_log_status(db->log, &info, array);

	if (!o)
		return -ENOMEM;
	cJSON_AddStringToObject(o, "journal_mode", journal_mode(db));
	cJSON_AddStringToObject(o, "capture", capture_way(db));
	cJSON_AddBoolToObject(o, "in_doubt", fs_wal_in_doubt(db) || db->rb.staged);
	cJSON_AddNumberToObject(o, "merged_txns", (double)(info.merged_txns + db->merged));
	cJSON_AddNumberToObject(o, "resyncs", (double)db->resyncs);
	cJSON_AddNumberToObject(o, "scrub_found", (double)db->scrub_found);
	cJSON_AddNumberToObject(o, "scrub_percent", head->commit ? 100.0 * db->scrub_next / head->commit : 0);
	add_delay(&db->delay, o);
	add_errors(&db->errors, o);
	return cJSON_AddStringToObject(o, "last_error", db->last_error) ? 0 : -ENOMEM;
}

/* A replica's: txid is what its log holds; how far that is applied, who applies it knows. */
static int add_replica_status(struct fs_capture *c, cJSON *array)
{
	struct ltx_log *log;
	int rc = 0;

	for (size_t i = 0; rc == 0 && c->conf.logs && (log = ltx_logset_at(c->conf.logs, i)); i++) {
		struct ltx_log_info info;
		cJSON *o = NULL;

		ltx_log_info(log, &info);
		if (!info.ended_ms) {
			o = add_log_status(log, &info, array);
			rc = o && cJSON_AddStringToObject(o, "journal_mode", "wal") &&
			                     cJSON_AddStringToObject(o, "capture", "none") &&
			                     cJSON_AddStringToObject(o, "last_error", "")
			             ? 0
			             : -ENOMEM;
		}
		ltx_log_put(log);
	}
	return rc;
}

int fs_capture_status(struct fs_capture *c, struct cJSON *array)
{
	struct fs_db *db = NULL;
	int rc = 0;

	if (c->conf.replica)
		return add_replica_status(c, array);
	while (rc == 0 && (db = fs_registry_next(c, db))) {
		pthread_mutex_lock(&db->mu);
		if (db->log)
			rc = add_status(db, array);
		pthread_mutex_unlock(&db->mu);
	}
	fs_registry_put(db);
	return rc;
}

/* ---- read-only databases ---- */

int fs_capture_protect(struct fs_capture *c, const char *name, bool on, struct fz_err *err)
{
	return fs_guard_protect(c->guard, name, on, err);
}

void fs_capture_trust(struct fs_capture *c, int pid)
{
	fs_guard_trust(c->guard, pid);
}

void fs_capture_attached(struct fs_capture *c, const char *name, bool on)
{
	fs_guard_attached(c->guard, name, on);
}

bool fs_capture_guards(const struct fs_capture *c)
{
	return !fs_guard_idle(c->guard) || !fs_lapse_idle(&c->lapse);
}

bool fs_capture_protects(struct fs_capture *c, const char *path)
{
	return fs_guard_is_database(c->guard, path);
}

int fs_capture_may_open(struct fs_capture *c, const char *path, int flags, int pid)
{
	int rc = fs_guard_may_open(c->guard, path, flags, pid);

	return rc < 0 ? rc : fs_lapse_open(c, path, flags, pid);
}

int fs_capture_may_alter(struct fs_capture *c, const char *path, int pid)
{
	return fs_guard_may_alter(c->guard, path, pid);
}

int fs_capture_may_remove_dir(struct fs_capture *c, const char *path, int pid)
{
	return fs_guard_may_name(c->guard, path, pid);
}
