/* logopen.c - open a log's directory and find out what of it holds.
 *
 * Every step of a change to the directory leaves a state that this accepts:
 *   install_base  tmp synced | renamed, directory synced | head | old base and covered segments unlinked, oldest first
 *   squash        tmp synced | index unlinked, directory synced | segment renamed over | new index renamed
 *   truncate      segments unlinked, newest first | the last one shortened | head
 * The highest base counts, what lies wholly at or below it is litter, a segment without (or with an unfit) index is
 * decoded, the chain ends at the first file that is not whole.
 *
 * How much is decoded: while the head names our own home (logmeta.h) only SIGKILL can have happened, so index and
 * segments are right up to head and only what follows is looked at: a restart costs a few reads. Otherwise every
 * segment that reaches beyond the synced TXID is decoded in full. */
#include "ltx/logpriv.h"

#include "base/array.h"
#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct listing {
	uint64_t *min; /* of the segments, ascending */
	size_t n, cap;
	uint64_t base, old_base; /* the highest, and one that was to be replaced by it */
};

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Litter: files of an interrupted change. Only a writer may remove it. */
static bool is_litter(const char *name)
{
	return !strncmp(name, "log-tmp-", 8);
}

static int list_dir(struct ltx_log *log, struct listing *l, struct fz_err *err)
{
	DIR *d = fz_opendir(log->dirfd, ".");
	struct dirent *e;
	int rc = 0;

	if (!d)
		return fz_fail_errno(err, errno, "reading the log's directory");
	while (rc == 0 && (e = readdir(d))) {
		uint64_t txid;

		if (ltx_seg_name_parse(e->d_name, "base-", ".ltx", &txid)) {
			if (txid > l->base) {
				l->old_base = l->base;
				l->base = txid;
			} else {
				l->old_base = txid;
			}
		} else if (ltx_seg_name_parse(e->d_name, "", ".seg", &txid)) {
			if (fz_array_room(l->min, l->n, l->cap))
				l->min[l->n++] = txid;
			else
				rc = fz_fail_errno(err, ENOMEM, "listing the log");
		} else if (!log->readonly && is_litter(e->d_name)) {
			unlinkat(log->dirfd, e->d_name, 0);
		}
	}
	closedir(d);
	if (l->n)
		qsort(l->min, l->n, sizeof(*l->min), by_value);
	return rc;
}

int ltx_log_base_read(struct ltx_log_base *b, int dirfd, const char *name, struct fz_err *err)
{
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	uint8_t head[LTX_HEADER_SIZE], tail[LTX_TRAILER_SIZE];
	struct ltx_header h;
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", name);
	if (fstat(fd, &st) < 0)
		rc = fz_fail_errno(err, errno, "cannot read %s", name);
	else if (st.st_size < LTX_HEADER_SIZE + LTX_TRAILER_SIZE ||
	         fz_pread(fd, head, sizeof(head), 0) != sizeof(head) ||
	         fz_pread(fd, tail, sizeof(tail), st.st_size - LTX_TRAILER_SIZE) != sizeof(tail))
		rc = fz_fail(err, FZ_ETRUNCATED, "%s is too short", name);
	else
		rc = ltx_header_get(&h, head, err);
	if (rc == 0 && !ltx_is_snapshot(&h))
		rc = fz_fail(err, FZ_ECORRUPT, "%s is no snapshot", name);
	if (rc == 0)
		*b = (struct ltx_log_base){
		        .e = {.min_txid = 1,
		              .max_txid = h.max_txid,
		              .time_ms = h.time_ms,
		              .size_bytes = (uint64_t)st.st_size,
		              .pages = h.commit - (h.commit >= ltx_lock_page(h.page_size)),
		              .commit = h.commit},
		        .checksum = fz_be64(tail),
		        .page_size = h.page_size
                };
	fz_close(&fd);
	return rc;
}

/* Index entries of a segment, as far as they can be believed: all that fit (checked), or those up to head, whose
 * writes came before it (same home). */
static int believe_index(struct ltx_segfile *f, uint64_t min, uint64_t bytes, bool whole, uint64_t head,
                         uint64_t *n_out, struct fz_err *err)
{
	uint64_t n = ltx_segfile_entries(f);
	struct ltx_pack_entry e;
	int rc;

	*n_out = 0;
	if (whole) {
		struct fz_buf idx = {0};
		uint8_t *p = fz_buf_room(&idx, n * LTX_PACK_ENTRY_SIZE + 1);

		rc = p ? 0 : fz_fail_errno(err, ENOMEM, "reading a log index");
		if (rc == 0 && f->idx_fd >= 0 &&
		    fz_pread(f->idx_fd, p, n * LTX_PACK_ENTRY_SIZE, 0) == (ssize_t)(n * LTX_PACK_ENTRY_SIZE) &&
		    ltx_seg_index_fits(p, n, min, bytes))
			*n_out = n;
		fz_buf_fini(&idx);
		return rc;
	}
	for (; n > 0; n--) {
		rc = ltx_segfile_entry(f, n - 1, &e, NULL);
		if (rc == 0 && e.max_txid <= head)
			break;
		if (rc < 0 && rc != -FZ_ECORRUPT)
			return fz_fail(err, -rc, "cannot read a log index");
	}
	if (n && e.off_bytes + e.size_bytes <= bytes &&
	    ltx_segfile_ends(f, &e, &(struct ltx_header){0}, NULL, NULL) == 0)
		*n_out = n;
	return 0;
}

struct load {
	bool same_home;
	uint64_t head, synced;
	struct ltx_pos pos; /* end of the chain so far */
	bool repaired;
};

/* One segment. Its files end up whole and indexed; pos moves to its end. */
static int load_segment(struct ltx_log *log, struct load *ld, uint64_t min, uint64_t next_min, struct fz_err *err)
{
	struct ltx_seg s = {.min = min, .max = min - 1};
	bool last = next_min == 0, trusted = ld->same_home || (!last && next_min - 1 <= ld->synced);
	bool live;
	struct fz_buf scanned = {0};
	struct ltx_segfile *f = NULL;
	struct ltx_pack_entry e = {0};
	int64_t bytes;
	uint64_t have;
	int rc;

	rc = ltx_segfile_open(&f, log->dirfd, min, !log->readonly, err);
	if (rc < 0)
		return rc;
	bytes = ltx_segfile_bytes(f);
	if (bytes < 0) {
		rc = fz_fail_errno(err, (int)-bytes, "looking at a log segment");
		goto out;
	}
	have = ltx_segfile_entries(f);
	if (trusted)
		rc = believe_index(f, min, (uint64_t)bytes, !ld->same_home, ld->head, &s.n, err);
	if (rc == 0 && s.n) {
		struct ltx_trailer t;

		rc = ltx_segfile_entry(f, s.n - 1, &e, err);
		if (rc == 0)
			rc = ltx_segfile_ends(f, &e, NULL, &t, err);
		if (rc < 0)
			goto out;
		s.bytes = e.off_bytes + e.size_bytes;
		s.max = e.max_txid;
		ld->pos.txid = e.max_txid;
		ld->pos.checksum = t.post_checksum;
	} else if (min <= ld->pos.txid) { /* straddles the base: its own chain starts below */
		struct ltx_header h;
		uint8_t raw[LTX_HEADER_SIZE];

		if (fz_pread(f->fd, raw, sizeof(raw), 0) == sizeof(raw) && ltx_header_get(&h, raw, NULL) == 0 &&
		    h.min_txid == min)
			ld->pos = (struct ltx_pos){.txid = min - 1, .checksum = h.pre_checksum};
	}
	live = log->readonly && ld->same_home; /* nothing beyond head is ours to see */
	if (rc == 0 && s.bytes < (uint64_t)bytes && !(live && s.max >= ld->head))
		rc = ltx_segfile_scan(f, s.bytes, &ld->pos, live ? ld->head : UINT64_MAX, &scanned, err);
	if (rc == 0 && ld->pos.txid < (last || ld->synced < next_min ? ld->synced : next_min - 1))
		rc = fz_fail(err, FZ_ECORRUPT,
		             "log of %s: damaged after TXID %" PRIu64 ", though %" PRIu64 " was synced", log->meta.name,
		             ld->pos.txid, ld->synced);
	if (rc < 0)
		goto out;
	if (scanned.size) {
		if (f->idx_fd < 0) {
			rc = s.n ? 0 : fz_buf_add(&f->idx, scanned.data, scanned.size);
		} else if (!log->readonly) {
			rc = fz_pwrite(f->idx_fd, scanned.data, scanned.size, (off_t)(s.n * LTX_PACK_ENTRY_SIZE));
		} else { /* entries that are right stay, the others are replaced in memory only */
			uint8_t *p = fz_buf_room(&f->idx, s.n * LTX_PACK_ENTRY_SIZE + 1);
			size_t keep = s.n * LTX_PACK_ENTRY_SIZE;

			if (!p || fz_pread(f->idx_fd, p, keep, 0) != (ssize_t)keep)
				rc = -EIO;
			f->idx.size = keep;
			if (rc == 0)
				rc = fz_buf_add(&f->idx, scanned.data, scanned.size);
			fz_close(&f->idx_fd);
		}
		if (rc < 0) {
			rc = fz_fail_errno(err, -rc, "rebuilding a log index");
			goto out;
		}
		s.n += scanned.size / LTX_PACK_ENTRY_SIZE;
		rc = ltx_seg_entry_get(&e, scanned.data + scanned.size - LTX_PACK_ENTRY_SIZE, err);
		if (rc < 0)
			goto out;
		s.bytes = e.off_bytes + e.size_bytes;
		s.max = e.max_txid;
		ld->repaired = true;
	}
	if (!log->readonly && (s.bytes < (uint64_t)bytes || s.n < have)) { /* the torn tail */
		if (ftruncate(f->fd, (off_t)s.bytes) < 0 ||
		    ftruncate(f->idx_fd, (off_t)(s.n * LTX_PACK_ENTRY_SIZE)) < 0 || fsync(f->fd) < 0) {
			rc = fz_fail_errno(err, errno, "dropping the torn tail of the log");
			goto out;
		}
		ld->repaired = true;
	}
	if (f->idx_fd < 0) { /* an index that lives in memory must stay with its segment */
		s.f = f;
		f = NULL;
	}
	rc = ltx_log_add_seg_locked(log, &s, err);
	if (rc < 0)
		ltx_segfile_put(s.f);
out:
	fz_buf_fini(&scanned);
	ltx_segfile_put(f);
	return rc;
}

/* The last whole file lies beyond head: it is the prepared one (log.c (1), (3)). Takes it out of its segment's count. */
static int split_prepared(struct ltx_log *log, struct ltx_seg *s, uint64_t head, struct fz_err *err)
{
	struct ltx_segfile *f = NULL;
	int rc = ltx_log_segfile_locked(log, s, &f, err);

	if (rc == 0)
		rc = ltx_segfile_entry(f, s->n - 1, &log->prep_entry, err);
	if (rc == 0)
		rc = ltx_segfile_ends(f, &log->prep_entry, &log->prep_header, &log->prep_trailer, err);
	ltx_segfile_put(f);
	if (rc < 0 || log->prep_entry.min_txid <= head)
		return rc;
	s->n--;
	s->bytes = log->prep_entry.off_bytes;
	s->max = log->prep_entry.min_txid - 1;
	s->dirty = true;
	log->prepared = !log->readonly;
	return 0;
}

int ltx_log_find_tail_locked(struct ltx_log *log, struct fz_err *err)
{
	struct ltx_pack_entry e;
	struct ltx_trailer t;
	struct ltx_segfile *f = NULL;
	struct ltx_seg *s = NULL;
	int rc;

	for (size_t i = log->n_segs; i > 0 && !s; i--)
		if (log->segs[i - 1].n)
			s = &log->segs[i - 1];
	if (!s || s->max <= log->base.e.max_txid) {
		log->tail = log->base.e.max_txid;
		log->tail_checksum = log->tail ? log->base.checksum : LTX_EMPTY_DB;
		log->tail_header = (struct ltx_header){.page_size = log->base.page_size,
		                                       .commit = log->base.e.commit,
		                                       .min_txid = log->base.e.min_txid,
		                                       .max_txid = log->base.e.max_txid,
		                                       .time_ms = log->base.e.time_ms};
		return 0;
	}
	rc = ltx_log_segfile_locked(log, s, &f, err);
	if (rc == 0)
		rc = ltx_segfile_entry(f, s->n - 1, &e, err);
	if (rc == 0)
		rc = ltx_segfile_ends(f, &e, &log->tail_header, &t, err);
	ltx_segfile_put(f);
	if (rc < 0)
		return rc;
	log->tail = e.max_txid;
	log->tail_checksum = t.post_checksum;
	return 0;
}

static void drop_lists(struct ltx_log *log)
{
	while (log->n_segs)
		ltx_log_drop_seg_locked(log, log->n_segs - 1);
	log->base = (struct ltx_log_base){0};
	log->prepared = false;
}

static int load(struct ltx_log *log, struct fz_err *err)
{
	uint64_t home = ltx_head_home(log->dirfd);
	struct load ld = {.head = ltx_head_txid(&log->head), .synced = ltx_head_synced(&log->head)};
	struct listing l = {0};
	struct stat st;
	char name[64];
	int rc;

	ld.same_home = home && home == ltx_head_last_home(&log->head);
	log->listed_home = ld.same_home && fstat(log->dirfd, &st) == 0 ? home : 0;
	if (log->listed_home)
		log->listed = st.st_mtim;
	drop_lists(log);
	rc = list_dir(log, &l, err);
	if (rc == 0 && l.base) {
		snprintf(name, sizeof(name), "base-%016" PRIx64 ".ltx", l.base);
		rc = ltx_log_base_read(&log->base, log->dirfd, name, err);
		if (rc == 0 && log->base.e.max_txid != l.base)
			rc = fz_fail(err, FZ_ECORRUPT, "%s is not what its name says", name);
		ld.pos = (struct ltx_pos){.txid = l.base, .checksum = log->base.checksum};
		if (rc == 0 && l.old_base && !log->readonly) {
			snprintf(name, sizeof(name), "base-%016" PRIx64 ".ltx", l.old_base);
			unlinkat(log->dirfd, name, 0);
		}
	}
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		uint64_t next = i + 1 < l.n ? l.min[i + 1] : 0;

		if (next && next - 1 <= l.base) { /* covered by the base */
			if (!log->readonly)
				ltx_log_unlink_seg(log, l.min[i]);
			continue;
		}
		if (l.min[i] > ld.pos.txid + 1) { /* what was before it is torn or gone */
			if (l.min[i] <= ld.synced)
				rc = fz_fail(err, FZ_ECORRUPT, "log of %s: TXID %" PRIu64 " is missing before %" PRIu64,
				             log->meta.name, ld.pos.txid + 1, l.min[i]);
			else if (!log->readonly)
				ltx_log_unlink_seg(log, l.min[i]);
			ld.repaired = true;
			continue;
		}
		rc = load_segment(log, &ld, l.min[i], next, err);
		if (ld.pos.txid < l.base) /* it ends below the base: the chain goes on from the base */
			ld.pos = (struct ltx_pos){.txid = l.base, .checksum = log->base.checksum};
	}
	free(l.min);
	if (rc < 0)
		return rc;
	if (ld.pos.txid < ld.synced)
		return fz_fail(err, FZ_ECORRUPT, "log of %s ends at TXID %" PRIu64 ", but %" PRIu64 " had been synced",
		               log->meta.name, ld.pos.txid, ld.synced);
	for (size_t i = log->n_segs; i > 0; i--) {
		struct ltx_seg *s = &log->segs[i - 1];

		if (s->n == 0)
			continue;
		if (s->max > ld.head && s->max > l.base && !ltx_head_follows(&log->head)) /* log.c (7) */
			rc = split_prepared(log, s, ld.head, err);
		break;
	}
	if (rc == 0)
		rc = ltx_log_find_tail_locked(log, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < log->n_segs; i++) /* a log at rest holds no descriptor but its directory's */
		if (log->segs[i].f && log->segs[i].f->idx_fd >= 0) {
			ltx_segfile_put(log->segs[i].f);
			log->segs[i].f = NULL;
		}
	log->cached = SIZE_MAX;
	log->synced = ld.synced < log->tail ? ld.synced : log->tail;
	if (log->readonly)
		return 0;
	if (ld.head != log->tail || ld.repaired || ltx_head_follows(&log->head)) { /* log.c (4), (7) */
		ltx_head_set_txid(&log->head, log->tail);
		ltx_head_set_follows(&log->head, false);
		rc = ltx_head_sync(&log->head, err);
	}
	ltx_head_set_home(&log->head, home);
	log->seq = 1; /* what we found may not have reached the disk: the first sync sees to it */
	log->head_dirty = log->dir_dirty = true;
	for (size_t i = 0; i < log->n_segs; i++)
		log->segs[i].dirty = log->segs[i].max > ld.synced || log->segs[i].dirty;
	return rc;
}

/* Readonly: nothing but appends to the last segment since the directory was listed. Its index is right up to head then (same home:
 * it is written first), so one entry tells. Everything else, and whatever does not fit, is for a full look. */
static bool grown_locked(struct ltx_log *log, uint64_t head)
{
	struct ltx_seg *s = log->n_segs ? &log->segs[log->n_segs - 1] : NULL;
	struct ltx_segfile *f = NULL;
	struct ltx_pack_entry e = {0};
	struct ltx_header h;
	struct ltx_trailer t;
	struct stat st;
	bool ok = false;
	uint64_t n;

	if (!s || !s->n || s->max != log->tail || head < log->tail || !log->listed_home ||
	    log->listed_home != ltx_head_last_home(&log->head) || fstat(log->dirfd, &st) < 0 ||
	    memcmp(&st.st_mtim, &log->listed, sizeof(st.st_mtim)) != 0 || ltx_log_segfile_locked(log, s, &f, NULL) < 0)
		return false;
	if (f->idx_fd >= 0)
		for (n = ltx_segfile_entries(f); n > s->n && !ok; n -= !ok)
			ok = ltx_segfile_entry(f, n - 1, &e, NULL) == 0 && e.max_txid <= head;
	ok = ok && e.max_txid == head && e.off_bytes >= s->bytes && ltx_segfile_ends(f, &e, &h, &t, NULL) == 0;
	ltx_segfile_put(f);
	if (!ok)
		return false;
	s->n = n;
	s->max = head;
	s->bytes = e.off_bytes + e.size_bytes;
	log->tail = head;
	log->tail_checksum = t.post_checksum;
	log->tail_header = h;
	log->synced = ltx_head_synced(&log->head) < head ? ltx_head_synced(&log->head) : head;
	return true;
}

int ltx_log_refresh_locked(struct ltx_log *log, struct fz_err *err)
{
	uint64_t head = ltx_head_txid(&log->head);

	if (head == log->tail)
		return 0;
	return log->readonly && grown_locked(log, head) ? 0 : ltx_log_reload_locked(log, err);
}

int ltx_log_reload_locked(struct ltx_log *log, struct fz_err *err)
{
	/* The writer may prune or squash under our hands: what vanished is found in its new place the next time. */
	int rc = -EAGAIN;

	for (int i = 0; rc < 0 && i < 5; i++)
		rc = load(log, err);
	return rc;
}

int ltx_log_reload(struct ltx_log *log, struct fz_err *err)
{
	int rc;

	pthread_mutex_lock(&log->mu);
	rc = log->readonly ? ltx_log_reload_locked(log, err) : 0;
	pthread_mutex_unlock(&log->mu);
	return rc;
}

int ltx_log_make(int dirfd, const char *name, const char *lineage, uint32_t epoch, struct fz_err *err)
{
	struct ltx_log_meta m = {.epoch = epoch, .created_ms = fz_now_ms()};
	int rc;

	if (strlen(name) >= sizeof(m.name))
		return fz_fail_errno(err, ENAMETOOLONG, "the database's name has more than %zu bytes",
		                     sizeof(m.name) - 1);
	memcpy(m.name, name, strlen(name) + 1);
	memcpy(m.lineage, lineage, sizeof(m.lineage));
	rc = ltx_head_create(dirfd, err);
	return rc < 0 ? rc : ltx_log_meta_write(&m, dirfd, err);
}

int ltx_log_open(struct ltx_log **out, int dirfd, const struct ltx_logset_conf *conf, struct ltx_logset *set,
                 struct fz_err *err)
{
	struct ltx_log *log = calloc(1, sizeof(*log));
	pthread_condattr_t attr;
	int rc;

	if (!log) {
		fz_close(&dirfd);
		return fz_fail_errno(err, ENOMEM, "opening a log");
	}
	log->dirfd = dirfd;
	log->set = set;
	log->readonly = conf && conf->readonly;
	log->segment_bytes = conf && conf->segment_bytes ? conf->segment_bytes : LTX_LOG_SEGMENT_BYTES;
	log->cached = SIZE_MAX;
	atomic_init(&log->refs, 1);
	pthread_mutex_init(&log->maint, NULL);
	pthread_mutex_init(&log->mu, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&log->cond, &attr);
	pthread_condattr_destroy(&attr);
	rc = ltx_log_meta_read(&log->meta, dirfd, err);
	if (rc == 0)
		rc = ltx_head_open(&log->head, dirfd, !log->readonly, err);
	if (rc == 0) {
		pthread_mutex_lock(&log->mu);
		rc = log->readonly ? ltx_log_reload_locked(log, err) : load(log, err);
		pthread_mutex_unlock(&log->mu);
	}
	if (rc < 0) {
		ltx_log_close(log);
		return rc;
	}
	*out = log;
	return 0;
}

void ltx_log_close(struct ltx_log *log)
{
	if (!log)
		return;
	ltx_log_abort(log);
	ltx_log_offer_fini(log);
	drop_lists(log);
	free(log->segs);
	ltx_segfile_put(log->w.f);
	fz_buf_fini(&log->sink.buf);
	ltx_head_close(&log->head);
	pthread_cond_destroy(&log->cond);
	pthread_mutex_destroy(&log->mu);
	pthread_mutex_destroy(&log->maint);
	fz_close(&log->dirfd);
	free(log);
}
