/* feedpriv.h - what primary/feed.c (what a replica is sent) and primary/feedwant.c (from where on) share. All of it is the sender's. */
#ifndef FZ_PRIMARY_FEEDPRIV_H
#define FZ_PRIMARY_FEEDPRIV_H

#include "primary/feed.h"

/* What is under way is sent no further. */
void primary_feed_drop_file(struct primary_feed *f);
/* The log cannot be read. 1: it was folded, squashed or cut meanwhile, and is to be looked at again. 0: this database waits, the others go on.
 * info: as it was before. */
int primary_feed_fail(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                      const struct fz_err *why);
int primary_feed_trailer(struct fz_src *src, struct ltx_trailer *out, struct fz_err *err) FZ_MUST_CHECK;

/* Takes the WANT that has come, if one has. Both: 0 = go on, 1 = again at once, or a negative code when the connection cannot go on; a
 * history that is another one is told to the replica. */
int primary_feed_take_want(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                           struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;
/* A host that hands on what it follows may have had to part with the end of its log, and the replica that it sent this end to would
 * wait for what comes behind it for ever, showing what is no history any more. */
int primary_feed_look_back(struct primary_feed *f, struct ltx_log *log, const struct ltx_log_info *info,
                           struct fz_buf *out, struct fz_err *err) FZ_MUST_CHECK;

#endif
