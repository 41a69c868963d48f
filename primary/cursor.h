/* cursor.h - what one target holds of one database, durable in the state directory as ship/<target>/<db>.<lineage>/cursor.
 *
 * The cursor may be older than the truth (killed between the store's answer and the write): the pack that waits in the
 * spool is then put once more, byte for byte. It is never newer. A cursor that cannot be read counts as lost: history
 * starts anew with a snapshot. Text, "key=value" lines, the last one a CRC-64 of the others. */
#ifndef FZ_PRIMARY_CURSOR_H
#define FZ_PRIMARY_CURSOR_H

#include "primary/levels.h"

struct primary_cursor {
	char lineage[17];
	uint32_t epoch; /* of the log, for which `claim` stands */
	uint32_t claim; /* number of our claim; 0 = none yet */
	uint32_t ended; /* the claim whose end was marked; 0 = none */
	/* of the target's configuration when the claim was last seen to be ours: what they allowed is used up */
	uint32_t promoted;
	uint64_t took; /* take_over */
	uint64_t txid; /* the next pack starts above it; 0 = nothing shipped */
	uint64_t checksum;
	uint64_t held_txid;  /* the target can restore up to it: less than txid while a snapshot that must come first is
	                       still on its way */
	bool anchor_wait;    /* a snapshot must land before anything above held_txid can be restored */
	int64_t retained_ms; /* when the listing was last judged; 0 = never */
	struct primary_levels_state levels;
};

void primary_cursor_init(struct primary_cursor *c, const char *lineage);
/* -ENOENT when there is none, -FZ_ECORRUPT when damaged. */
int primary_cursor_load(struct primary_cursor *c, int dirfd, struct fz_err *err) FZ_MUST_CHECK;
int primary_cursor_save(const struct primary_cursor *c, int dirfd, struct fz_err *err) FZ_MUST_CHECK;

#endif
