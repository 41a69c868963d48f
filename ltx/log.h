/* log.h - the local log of one database, the only meeting point of capture, shipping, streaming and restore: whoever
 * captures appends, everybody else reads on from a position and waits for more.
 *
 * ON DISK  (docs/formats.md "Local log"), in the database's state directory db/<escaped name>.<lineage>/
 *   meta            name, lineage, epoch, page size, created ms, ended ms ("key=value" lines, replaced atomically)
 *   head            mapped, 4096 bytes: committed TXID, synced TXID, home of the last writer (logmeta.h)
 *   <min txid>.seg  back-to-back LTX files; a new segment at 16 MiB
 *   <min txid>.idx  48-byte entries as in ltx/pack.h, one per LTX file; a cache that open() rebuilds from the segment
 *   base-<txid>.ltx plain snapshot LTX (min 1, max txid) that the segments continue; absent while they start at TXID 1
 * INVARIANTS
 *   (1) base + segments are one chain: each pre-checksum is the previous post-checksum.
 *   (2) At most one prepared transaction, the last. Readers never see it.
 *   (3) Nothing is pruned that is newer than the base.
 *   (4) The torn tail (bytes after the last LTX that decodes with a right file checksum) is dropped at open.
 *   (5) A whole LTX file beyond head was not acknowledged: at open it is the prepared one. When a power cut left head
 *       behind, so that there are several, all but the last are committed: nothing is appended behind a prepared one.
 *   What a SIGKILL and a power cut leave, and why it is enough: log.c. A log whose synced part is damaged does not open
 *   (-FZ_ECORRUPT); the set says so, leaves it alone, and the database starts a new lineage.
 * LOCKS  thread-safe; one writer at a time (begin..commit is serialised by the caller), any number of readers. */
#ifndef FZ_LTX_LOG_H
#define FZ_LTX_LOG_H

#include "base/io.h"
#include "ltx/ltx.h"
#include "ltx/pack.h"

struct ltx_log;

struct ltx_log_info {
	char name[512]; /* the database's path below the mount */
	char lineage[17];
	uint32_t epoch;
	uint64_t epoch_txid,
	        epoch_checksum; /* what this epoch builds on: older ones hold nothing beyond it that counts */
	uint32_t page_size;     /* of the last transaction; 0 while empty */
	uint32_t commit;        /* pages after the last transaction */
	uint64_t base_txid;     /* 0 = no base */
	uint64_t first_txid;    /* oldest in the segments; 0 while there is none */
	uint64_t tail_txid;     /* newest committed; 0 while empty */
	uint64_t synced_txid;   /* newest that survives a power cut */
	uint64_t tail_checksum; /* post-checksum of tail; LTX_EMPTY_DB while empty */
	int64_t tail_time_ms;
	uint64_t entries;               /* transactions and merged ranges above the base, or a few more */
	uint64_t log_bytes, base_bytes; /* on disk */
	int64_t created_ms, ended_ms;   /* ended: the database was deleted or renamed away; 0 = lives */
	uint64_t syncs;                 /* fsyncs since it was opened */
	uint64_t added_txns, added_pages, added_bytes; /* committed here since it was opened */
	uint64_t merged_txns; /* commits whose detail was given up in this log since it was opened */
};
void ltx_log_info(struct ltx_log *log, struct ltx_log_info *out);

/* ---- writing (capture) ---- */
/* Starts the next LTX: header.min_txid must be tail + 1 (a merged range may end higher), pre_checksum the tail's. Write
 * it through *sink with an encoder. Small files go to the segment with one pwrite at commit. */
int ltx_log_begin(struct ltx_log *log, const struct ltx_header *h, struct fz_sink **sink,
                  struct fz_err *err) FZ_MUST_CHECK;
/* Ends it: file_bytes, pages and trailer from ltx_enc_end(). prepared = it stays invisible until ltx_log_confirm(). On
 * failure the tail has not moved. Wakes waiters unless prepared. */
int ltx_log_commit(struct ltx_log *log, uint64_t file_bytes, uint32_t pages, const struct ltx_trailer *t, bool prepared,
                   struct fz_err *err) FZ_MUST_CHECK;
void ltx_log_abort(struct ltx_log *log);
/* The prepared transaction, if any: true and its header and trailer. */
bool ltx_log_prepared(struct ltx_log *log, struct ltx_header *h, struct ltx_trailer *t);
int ltx_log_confirm(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK; /* prepared -> committed */
int ltx_log_drop_prepared(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
/* Everything committed (and prepared) so far survives a power cut. Concurrent callers share one fdatasync. */
int ltx_log_sync(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
/* For a replica: from now on until the log is opened again nothing is prepared in it, so whatever is whole was committed, and a sync
 * costs one flush instead of two (log.c (7)). */
int ltx_log_follow(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
/* Drops committed transactions above txid, which must end an entry (-FZ_EORDER, -FZ_EGAP): at start, before anything above was
 * read by others (design 8), or on a replica whose history is not its primary's (ltx_log_branch() first). */
int ltx_log_truncate(struct ltx_log *log, uint64_t txid, struct fz_err *err) FZ_MUST_CHECK;
/* The database checksum after txid. -FZ_EGAP when the log no longer tells, -FZ_EORDER inside a merged range. */
int ltx_log_checksum_at(struct ltx_log *log, uint64_t txid, uint64_t *out, struct fz_err *err) FZ_MUST_CHECK;
/* A new epoch begins: at the tail, or (a replica's log) where the primary says that it began. */
int ltx_log_set_epoch(struct ltx_log *log, uint32_t epoch, struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_set_epoch_at(struct ltx_log *log, const struct ltx_pos *start, struct fz_err *err) FZ_MUST_CHECK;
/* Keeps the whole log as a named branch, below branches/ in the state directory: "<lineage>.<id>" there is a state directory of
 * its own, which ltx_logset_open() reads. id (64 bytes are enough) tells epoch and last TXID ("epoch3-1042"); from_txid:
 * what the other history shares with it. By the writer only, with nothing prepared. */
int ltx_log_branch(struct ltx_log *log, uint64_t from_txid, char *id, size_t cap, struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_set_ended(struct ltx_log *log, int64_t ms, struct fz_err *err) FZ_MUST_CHECK;
/* Installs a finished plain snapshot (an open temporary file in the log's directory, named tmp_name) as base; the
 * segments at or below its max_txid are then removed. With an empty log this is the baseline: tail = its max_txid. Above
 * the tail (by the writer only): the tail jumps there and the log goes on from the new base. -FZ_ECHECKSUM when it is
 * not what the log holds at that TXID. Temporary files named "log-tmp-..." are removed at the next open. */
int ltx_log_install_base(struct ltx_log *log, const char *tmp_name, struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_dirfd(struct ltx_log *log); /* borrowed: the database's state directory; other modules keep files there
					  * whose names start with their folder ("fs-sums", "ship-...") */
#define LTX_LOG_APPLIED                                                                                                \
	"apply" /* one of them: how far the log was applied on this host (replica/position.h). Whoever captures removes it */

/* ---- reading ---- */
struct ltx_log_entry {
	struct ltx_pack_entry e; /* off_bytes is in segment seg */
	uint64_t seg;            /* min txid that names the segment; 0 = the base file */
};
/* The LTX file that holds txid (min <= txid <= max). -FZ_ENOTFOUND past the tail, -FZ_EGAP when pruned. A txid at or
 * below the base's gives the base entry. */
int ltx_log_find(struct ltx_log *log, uint64_t txid, struct ltx_log_entry *out, struct fz_err *err) FZ_MUST_CHECK;
/* That one and what follows it in the same segment, up to cap (LTX_LOG_RUN is enough). Returns their number, at least 1. */
#define LTX_LOG_RUN 64
int ltx_log_find_run(struct ltx_log *log, uint64_t txid, struct ltx_log_entry *out, size_t cap,
                     struct fz_err *err) FZ_MUST_CHECK;
/* The last entry with time_ms <= at_ms. -FZ_ENOCOMMIT. */
int ltx_log_find_time(struct ltx_log *log, int64_t at_ms, struct ltx_log_entry *out, struct fz_err *err) FZ_MUST_CHECK;
/* A source over one LTX file; stays valid when the segment is pruned meanwhile. Caller closes. -FZ_EGAP when the entry
 * was folded or squashed since it was found: find again. */
int ltx_log_src(struct ltx_log *log, const struct ltx_log_entry *e, struct fz_src **out,
                struct fz_err *err) FZ_MUST_CHECK;
/* A source over consecutive entries of ONE segment: first.off .. last.off + last.size (for packs: bytes are copied). */
int ltx_log_src_range(struct ltx_log *log, const struct ltx_log_entry *first, const struct ltx_log_entry *last,
                      struct fz_src **out, struct fz_err *err) FZ_MUST_CHECK;
/* Waits until the tail is above txid or timeout_ms passed (-1 = for ever) or ltx_log_wake(). Returns the tail. A wake
 * ends every wait that goes on; with none going on, the next one. Readonly: looks every 20 ms. */
uint64_t ltx_log_wait(struct ltx_log *log, uint64_t txid, int64_t timeout_ms);
void ltx_log_wake(struct ltx_log *log);

/* ---- bounding ---- */
/* Merges base + transactions up to txid (0 = tail; inside a merged range: up to the one before) into a new base, in the
 * calling thread: minutes for many GB; appends go on. Old segments are removed. */
int ltx_log_fold(struct ltx_log *log, uint64_t txid, const volatile bool *cancel, struct fz_err *err) FZ_MUST_CHECK;
/* What a fold up to txid frees: the bytes of the segments that end at or below it. */
uint64_t ltx_log_bytes_upto(struct ltx_log *log, uint64_t txid);
/* Merges the transactions of the closed segments within [first, last] into one LTX range each: detail is given up. */
int ltx_log_squash(struct ltx_log *log, uint64_t first_txid, uint64_t last_txid, struct fz_err *err) FZ_MUST_CHECK;
/* Writes the snapshot at txid (merge of base and log up to it; 0 = tail) into sink. */
struct ltx_merge_result;
int ltx_log_snapshot(struct ltx_log *log, uint64_t txid, struct fz_sink *sink, struct ltx_merge_result *result,
                     const volatile bool *cancel, struct fz_err *err) FZ_MUST_CHECK;

/* ---- the logs of one state directory ---- */
struct ltx_logset;
struct ltx_logset_conf {
	uint64_t segment_bytes; /* 0 = 16 MiB */
	bool readonly;          /* for another process than the worker: nothing is repaired or written */
	uint32_t epoch;         /* of logs that ltx_logset_get() makes */
};
/* state_dirfd is duplicated. Opens every log found (idx files are read, segments checked only in their last one). */
int ltx_logset_open(struct ltx_logset **out, int state_dirfd, const struct ltx_logset_conf *conf,
                    struct fz_err *err) FZ_MUST_CHECK;
void ltx_logset_close(struct ltx_logset *set); /* every log must have been put */
/* The living log of that name (ended_ms == 0), counted; -FZ_ENOTFOUND unless create (then: new lineage). */
int ltx_logset_get(struct ltx_logset *set, const char *name, bool create, struct ltx_log **out,
                   struct fz_err *err) FZ_MUST_CHECK;
/* The log of another host's lineage, made empty when it is not there (replicas): ended logs of that lineage count too. The
 * living log of that name and another lineage, if any, is left alone: the caller ends it first (-FZ_EEXISTS). epoch is for
 * the one that is made; a log that is there keeps its own. One that is too damaged to open is kept aside as
 * db/.damaged-<lineage>-<ms> and made anew: the primary has what it held. Its files are for a person to look at. */
int ltx_logset_adopt(struct ltx_logset *set, const char *name, const char *lineage, uint32_t epoch,
                     struct ltx_log **out, struct fz_err *err) FZ_MUST_CHECK;
/* The log of that lineage, living or ended, for reading, in a process that holds no set: its last put closes it. -FZ_ENOTFOUND. */
int ltx_log_open_lineage(struct ltx_log **out, int state_dirfd, const char *lineage, struct fz_err *err) FZ_MUST_CHECK;
/* Such a log was cut by its writer, perhaps to end again where it did: what is known of it is read anew. */
int ltx_log_reload(struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
void ltx_log_put(struct ltx_log *log); /* NULL is fine */
/* All logs, living and ended, in the order (name, created_ms): i-th or NULL; counted. */
struct ltx_log *ltx_logset_at(struct ltx_logset *set, size_t i);
/* ltx_log_info() of that; false: there are no more. */
bool ltx_logset_info(struct ltx_logset *set, size_t i, struct ltx_log_info *info);
/* The log of that lineage, living or ended, or NULL; counted. */
struct ltx_log *ltx_logset_find(struct ltx_logset *set, const char *lineage);
/* Deletes an ended log's directory; the caller holds the only reference but the set's. */
int ltx_logset_remove(struct ltx_logset *set, struct ltx_log *log, struct fz_err *err) FZ_MUST_CHECK;
/* Anything appended, created, ended in any log, and a wake, moves the generation. Waits for it to differ from gen. */
uint64_t ltx_logset_wait(struct ltx_logset *set, uint64_t gen, int64_t timeout_ms);
void ltx_logset_wake(struct ltx_logset *set);
/* Escapes a name for one path component ('/' -> "%2F", '%' -> "%25", control bytes, a leading '.'). */
int ltx_log_escape(char *out, size_t cap, const char *name) FZ_MUST_CHECK;

#endif
