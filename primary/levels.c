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

int primary_levels_due(const struct primary_levels_conf *c, const struct primary_levels_state *s, uint64_t shipped_txid,
                       uint64_t db_bytes, int64_t now_ms, int64_t *wait_ms)
{
	static const int order[] = {LTX_L_PACK_MINUTE, LTX_L_MINUTE, LTX_L_PACK_HOUR, LTX_L_HOUR, LTX_L_DAY};
	int64_t wait = -1;

	*wait_ms = 0;
	if (s->need_snapshot)
		return LTX_L_SNAPSHOT;
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		int l = order[i];
		int64_t end, left;

		if (s->first_ms[l] < 0 || s->from_txid[l] == 0 || s->from_txid[l] > shipped_txid)
			continue;
		end = primary_levels_window_end(c->window_ms[l], s->first_ms[l]);
		left = end + c->settle_ms - now_ms;
		if (left <= 0 && (l < LTX_L_HOUR || caught_up(s, l - 1, end)))
			return l;
		if (left < 1) /* the level below comes first: it has a wait of its own */
			continue;
		if (wait < 0 || left < wait)
			wait = left;
	}
	if (shipped_txid > s->snap_txid && s->snap_ms > 0) {
		uint64_t volume = db_bytes > PRIMARY_LEVELS_VOLUME_MIN ? db_bytes : PRIMARY_LEVELS_VOLUME_MIN;
		int64_t left = s->snap_ms + c->snapshot_interval_ms - now_ms;

		/* by volume only where a minute ended: at most one a minute, and level 3 can follow it */
		if (left <= 0 || (s->since_snap_bytes > volume && s->from_txid[LTX_L_MINUTE] > s->snap_txid + 1))
			return LTX_L_SNAPSHOT;
		if (wait < 0 || left < wait)
			wait = left;
	}
	*wait_ms = wait;
	return 0;
}
