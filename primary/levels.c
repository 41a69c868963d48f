#include "primary/levels.h"

int64_t primary_levels_window_end(int64_t window_ms, int64_t t_ms)
{
	return t_ms < 0 ? window_ms : (t_ms / window_ms + 1) * window_ms;
}

void primary_levels_shipped(struct primary_levels_state *s, uint64_t min_txid, int64_t first_ms, uint64_t bytes,
                            int64_t now_ms)
{
	for (int l = 1; l < PRIMARY_LEVELS; l++) {
		if (s->from_txid[l] == 0 || s->first_ms[l] < 0) {
			if (s->from_txid[l] == 0)
				s->from_txid[l] = min_txid;
			s->first_ms[l] = first_ms;
		}
		s->packs[l]++;
	}
	if (s->snap_ms == 0)
		s->snap_ms = now_ms;
	s->since_snap_bytes += bytes;
}

void primary_levels_advance(struct primary_levels_state *s, int level, uint64_t next_txid, int64_t next_ms)
{
	s->from_txid[level] = next_txid;
	s->first_ms[level] = next_ms;
	/* how many packs of the next window are there already is not counted: two are enough to make it worth while */
	s->packs[level] = next_ms < 0 ? 0 : 2;
}

uint64_t primary_levels_snapshot_txid(const struct primary_levels_state *s, uint64_t shipped_txid)
{
	for (int l = LTX_L_DAY; l >= LTX_L_MINUTE; l--)
		if (s->from_txid[l] > s->snap_txid + 1)
			return s->from_txid[l] - 1;
	return shipped_txid;
}

/* Everything below `until_ms` is in level l. */
static bool caught_up(const struct primary_levels_state *s, int level, int64_t until_ms)
{
	return s->first_ms[level] < 0 || s->first_ms[level] >= until_ms;
}

/* ms until level l is due: 0 = now; -1 = not before something else happens. */
static int64_t due_in(const struct primary_levels_conf *c, const struct primary_levels_state *s, int l,
                      uint64_t shipped_txid, int64_t now_ms)
{
	int64_t end, left;

	if (s->first_ms[l] < 0 || s->from_txid[l] == 0 || s->from_txid[l] > shipped_txid)
		return -1;
	end = primary_levels_window_end(c->window_ms[l], s->first_ms[l]);
	left = end + c->settle_ms - now_ms;
	if (left > 0)
		return left;
	return l < LTX_L_HOUR || caught_up(s, l - 1, end) ? 0 : -1;
}

static int64_t snapshot_in(const struct primary_levels_conf *c, const struct primary_levels_state *s,
                           uint64_t shipped_txid, uint64_t db_bytes, int64_t now_ms)
{
	uint64_t volume = db_bytes > PRIMARY_LEVELS_VOLUME_MIN ? db_bytes : PRIMARY_LEVELS_VOLUME_MIN;
	int64_t left = s->snap_ms + c->snapshot_interval_ms - now_ms;

	if (shipped_txid <= s->snap_txid || s->snap_ms == 0)
		return -1;
	/* The clock was far ahead when it was made: that day is not waited for. A clock that is set back by less only makes
	 * the next one come that much later, since a snapshot is dear. */
	if (s->snap_ms - now_ms > c->snapshot_interval_ms)
		return 0;
	/* by volume only where a minute ended: at most one a minute, and level 3 can follow it */
	if (left <= 0 || (s->since_snap_bytes > volume && s->from_txid[LTX_L_MINUTE] > s->snap_txid + 1))
		return 0;
	return left;
}

int primary_levels_due(const struct primary_levels_conf *c, const struct primary_levels_state *s, uint64_t shipped_txid,
                       uint64_t db_bytes, int64_t now_ms, int64_t *wait_ms)
{
	/* The rare ones first: when minutes come faster than they can be worked off, hours and snapshots still happen. Of
	 * the minutes' two the one that is further behind. */
	bool merged = s->first_ms[LTX_L_MINUTE] >= 0 && (s->first_ms[LTX_L_PACK_MINUTE] < 0 ||
	                                                 s->first_ms[LTX_L_MINUTE] < s->first_ms[LTX_L_PACK_MINUTE]);
	const int order[] = {LTX_L_DAY,
	                     LTX_L_HOUR,
	                     LTX_L_PACK_HOUR,
	                     LTX_L_SNAPSHOT,
	                     merged ? LTX_L_MINUTE : LTX_L_PACK_MINUTE,
	                     merged ? LTX_L_PACK_MINUTE : LTX_L_MINUTE};

	*wait_ms = 0;
	if (s->need_snapshot)
		return LTX_L_SNAPSHOT;
	*wait_ms = -1;
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		int64_t in = order[i] == LTX_L_SNAPSHOT ? snapshot_in(c, s, shipped_txid, db_bytes, now_ms)
		                                        : due_in(c, s, order[i], shipped_txid, now_ms);

		if (in == 0) {
			*wait_ms = 0;
			return order[i];
		}
		if (in > 0 && (*wait_ms < 0 || in < *wait_ms))
			*wait_ms = in;
	}
	return 0;
}
