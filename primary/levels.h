/* levels.h - which level file of a database is due, and when to look again. Pure: no I/O, no clock of its own.
 *
 * Commits fall into windows of wall-clock time (time / window). When a window is over and everything in it was shipped,
 * each level makes its file of it, starting where its last one ended:
 *   1, 2  the commits of a minute, an hour, back to back: fewer objects, every commit stays restorable
 *   3     one merged LTX per minute, from the log;  4, 5  per hour and day, from the plain files of the level below
 *   9     a snapshot: when one is needed to heal a gap; when more was shipped since the last than the database is large;
 *         and by interval while there is news. It ends where windows of levels 3..5 end, so that each of these can
 *         follow it.
 * Once nothing new was shipped, every level catches up and then nothing is due for ever. */
#ifndef FZ_PRIMARY_LEVELS_H
#define FZ_PRIMARY_LEVELS_H

#include "ltx/name.h"

#define PRIMARY_LEVELS (LTX_L_DAY + 1)

struct primary_levels_conf {
	int64_t window_ms[PRIMARY_LEVELS]; /* [0] unused */
	int64_t snapshot_interval_ms;
	int64_t settle_ms; /* a commit may reach the log so long after its time */
};
/* Where one database stands; part of the durable cursor. */
struct primary_levels_state {
	uint64_t from_txid[PRIMARY_LEVELS]; /* first TXID the level does not hold; 0 while nothing was shipped */
	int64_t first_ms[PRIMARY_LEVELS];   /* its commit time; -1 = everything shipped is held */
	uint32_t packs[PRIMARY_LEVELS];     /* [1], [2]: level 0 packs shipped since from_txid */
	uint64_t snap_txid;                 /* newest snapshot; 0 = none */
	int64_t snap_ms;                    /* when it was made; without one: when shipping began */
	uint64_t since_snap_bytes;          /* shipped in packs since */
	bool need_snapshot;                 /* history up to now has a hole, or does not start at TXID 1 */
};

/* Less than this is never worth a snapshot by volume. */
#define PRIMARY_LEVELS_VOLUME_MIN (UINT64_C(1) << 20)

/* End of the window that t_ms is in. */
int64_t primary_levels_window_end(int64_t window_ms, int64_t t_ms);
/* A pack [min..max] went out. */
void primary_levels_shipped(struct primary_levels_state *s, uint64_t min_txid, int64_t first_ms, uint64_t bytes,
                            int64_t now_ms);
/* Level l now holds everything below next_txid, whose commit time is next_ms (-1 = not shipped yet). */
void primary_levels_advance(struct primary_levels_state *s, int level, uint64_t next_txid, int64_t next_ms);
/* The level that is due at now_ms (1..5, LTX_L_SNAPSHOT) or 0. Then *wait_ms = time until one may be; -1 = never
 * without news. shipped_txid: everything up to it was shipped. */
int primary_levels_due(const struct primary_levels_conf *c, const struct primary_levels_state *s, uint64_t shipped_txid,
                       uint64_t db_bytes, int64_t now_ms, int64_t *wait_ms);
/* Where the next snapshot that heals nothing should end. */
uint64_t primary_levels_snapshot_txid(const struct primary_levels_state *s, uint64_t shipped_txid);

#endif
