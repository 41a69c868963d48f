/* logpriv.h - what log.c, logopen.c, logread.c, logoffer.c, logfold.c and logset.c share: struct ltx_log. Nobody else includes it.
 *
 * LOCKS    outermost first: set->mu, log->maint, log->mu, set->wait_mu.
 *          maint   one of fold, squash, install_base, truncate at a time
 *          mu      everything marked "mu"; held for a few loads and stores, at most an openat(2), never for data I/O
 *          writer  fields that only whoever is between begin and commit touches (serialised by the caller) */
#ifndef FZ_LTX_LOGPRIV_H
#define FZ_LTX_LOGPRIV_H

#include "ltx/log.h"
#include "ltx/logmeta.h"
#include "ltx/logseg.h"

#include <pthread.h>

#define LTX_LOG_BUFFER_BYTES  (1u << 20)  /* a transaction above this goes to the segment before its commit */
#define LTX_LOG_SEGMENT_BYTES (16u << 20) /* default */

struct ltx_seg {
	uint64_t min, max; /* max = min - 1 while it holds nothing committed */
	uint64_t n;        /* committed entries */
	uint64_t bytes;    /* end of the last committed file */
	uint64_t idx_bytes;
	bool dirty;            /* has bytes that were not synced yet */
	struct ltx_segfile *f; /* NULL = not open now */
};

struct ltx_log_base {
	struct ltx_pack_entry e; /* e.max_txid == 0: no base */
	uint64_t checksum;
	uint32_t page_size;
};

struct ltx_log_sink {
	struct fz_sink sink;
	struct ltx_log *log;
	struct fz_buf buf;
	uint64_t spilled_bytes; /* already in the segment */
	int failed;
};

struct ltx_log {
	struct ltx_logset *set; /* NULL in tests of a single log */
	int dirfd;
	bool readonly;
	uint64_t segment_bytes;
	atomic_int refs;
	struct ltx_head head;

	/* writer */
	struct {
		struct ltx_segfile *f;  /* counted; NULL = not open now */
		uint64_t min, n, bytes; /* as in the last struct ltx_seg */
	} w;
	struct ltx_log_sink sink;
	struct ltx_header cur;
	bool in_begin;
	struct ltx_offer_sink *offering; /* an offer is being made */
	bool broken;                     /* a failed append could not be taken back: nothing more is written */

	pthread_mutex_t maint;
	pthread_mutex_t mu;
	pthread_cond_t cond; /* tail moved, wake, a sync ended */

	/* mu */
	struct ltx_log_meta meta;
	struct ltx_seg *segs; /* ascending; the last one is appended to */
	size_t n_segs, cap_segs;
	size_t cached; /* number of the closed segment kept open for readers, SIZE_MAX = none */
	struct ltx_log_base base;
	struct timespec listed; /* readonly: the directory's mtime before it was listed */
	uint64_t listed_home;   /* 0: the writer was elsewhere, so nothing it noted counts */
	uint64_t tail, tail_checksum;
	struct ltx_header tail_header;
	bool roll; /* the next begin starts a new segment */
	bool prepared;
	struct ltx_header prep_header;
	struct ltx_trailer prep_trailer;
	struct ltx_pack_entry prep_entry;
	bool prep_offered;         /* offer.h */
	struct ltx_offered *offer; /* in doubt and not in the log; NULL = nothing */
	uint64_t seq, synced_seq;  /* changes made, changes that survive a power cut */
	uint64_t synced, n_syncs;
	bool syncing, dir_dirty, head_dirty;
	int sync_error; /* sticky: after a failed fsync the kernel forgets what was lost */
	uint64_t wakes;
	bool wake_pending; /* a wake that nobody waited for: the next wait returns at once */
	uint64_t merged_txns;
	uint64_t added_txns, added_pages, added_bytes;
};

/* logopen.c: takes over dirfd (also on failure). set may be NULL. */
int ltx_log_open(struct ltx_log **out, int dirfd, const struct ltx_logset_conf *conf, struct ltx_logset *set,
                 struct fz_err *err) FZ_MUST_CHECK;
void ltx_log_close(struct ltx_log *log); /* NULL is fine */
/* Fills an empty directory: meta (lineage drawn here) and head, synced. */
int ltx_log_make(int dirfd, const char *name, const char *lineage, uint32_t epoch, struct fz_err *err) FZ_MUST_CHECK;
/* Readonly: takes in what the writer did since; refresh only when head moved, reload always. mu held. */
int ltx_log_reload_locked(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_refresh_locked(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_base_read(struct ltx_log_base *b, int dirfd, const char *name, struct fz_err *err) FZ_MUST_CHECK;

/* Sets tail and what goes with it from the segments and the base. */
int ltx_log_find_tail_locked(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;

/* log.c */
struct ltx_seg *ltx_log_seg_locked(struct ltx_log *log, uint64_t txid); /* that holds it, or NULL */
/* The segment's files, counted; those of one closed segment stay open for the next reader. */
int ltx_log_segfile_locked(struct ltx_log *log, struct ltx_seg *s, struct ltx_segfile **out,
                           struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_add_seg_locked(struct ltx_log *log, const struct ltx_seg *s, struct fz_err *err) FZ_MUST_CHECK;
/* Takes the i-th segment out of the list (its files stay). */
void ltx_log_drop_seg_locked(struct ltx_log *log, size_t i);
void ltx_log_unlink_seg(struct ltx_log *log, uint64_t min);
/* What is to take a segment's place is written to these two, synced. swap: they have its names then; whoever reads from the old ones goes on.
 * Not locked and not swapped: drop. */
#define LTX_LOG_TMP_SEG "log-tmp-seg"
#define LTX_LOG_TMP_IDX "log-tmp-idx"
int ltx_log_swap_seg_locked(struct ltx_log *log, struct ltx_seg *s, struct fz_err *err) FZ_MUST_CHECK;
void ltx_log_drop_tmp_seg(struct ltx_log *log);
/* The first limit bytes of a file, under another name, synced; what has that name is written over. (logbranch.c) */
int ltx_log_copy_file(int from_dirfd, int to_dirfd, const char *name, const char *to_name, uint64_t limit,
                      struct fz_err *err) FZ_MUST_CHECK;
void ltx_log_changed_locked(struct ltx_log *log); /* wakes whoever waits */

/* logread.c: a source over bytes of a segment; f is taken over, also on failure. */
int ltx_log_segfile_src(struct ltx_segfile *f, uint64_t off_bytes, uint64_t size_bytes, struct fz_src **out,
                        struct fz_err *err) FZ_MUST_CHECK;
/* logoffer.c */
void ltx_log_offer_fini(struct ltx_log *log);
void ltx_log_offer_expire(struct ltx_log *log); /* the writer, once the tail has moved */

/* logset.c */
void ltx_logset_changed(struct ltx_logset *set); /* NULL is fine */

#endif
