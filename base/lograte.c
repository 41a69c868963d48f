#include "base/lograte.h"

#include <stdio.h>
#include <string.h>

/* A line passes when its kind and its site both have a token. */
#define KIND_BURST  10
#define KIND_FILL_S 10.0 /* seconds for one token */
#define SITE_BURST  200
#define SITE_FILL_S 1.0
#define WAYS        8 /* a key may be in one of so many slots */
#define LOOK_NS     UINT64_C(10000000000)

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = (a ^ (b * UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xbf58476d1ce4e5b9);

	x ^= x >> 31;
	return x ? x : 1;
}

static void fill(struct fz_lograte_slot *s, double burst, double fill_s, uint64_t now_ns)
{
	s->tokens += (double)(now_ns - s->filled_ns) / 1e9 / fill_s;
	if (s->tokens > burst)
		s->tokens = burst;
	s->filled_ns = now_ns;
}

/* The key's slot; where it has none, that of the key which was seen least lately, rather of one with nothing to tell. What
 * that had to tell goes to the new one: the number stays true. */
static struct fz_lograte_slot *find(struct fz_lograte_slot *v, size_t n, uint64_t key, double burst, uint64_t now_ns)
{
	struct fz_lograte_slot *worst = NULL;

	for (size_t i = 0; i < WAYS; i++) {
		struct fz_lograte_slot *s = &v[(key + i) % n];

		if (s->key == key)
			return s;
		if (!worst || (s->suppressed != 0) < (worst->suppressed != 0) ||
		    ((s->suppressed != 0) == (worst->suppressed != 0) && s->seen_ns < worst->seen_ns))
			worst = s;
	}
	worst->key = key;
	worst->tokens = burst;
	worst->filled_ns = now_ns;
	return worst;
}

bool fz_lograte_take(struct fz_lograte *r, uint64_t site, uint64_t what, enum fz_log_level level, const char *msg,
                     uint64_t now_ns, uint64_t *suppressed)
{
	struct fz_lograte_slot *s, *k;
	bool pass;

	*suppressed = 0;
	pthread_mutex_lock(&r->mu);
	s = find(r->sites, FZ_LOGRATE_SITES, mix(site, 1), SITE_BURST, now_ns);
	s->seen_ns = now_ns;
	k = find(r->kinds, FZ_LOGRATE_KINDS, mix(mix(site, 2), what), KIND_BURST, now_ns);
	k->seen_ns = now_ns;
	fill(s, SITE_BURST, SITE_FILL_S, now_ns);
	fill(k, KIND_BURST, KIND_FILL_S, now_ns);
	pass = s->tokens >= 1 && k->tokens >= 1;
	if (pass) {
		s->tokens -= 1;
		k->tokens -= 1;
		*suppressed = k->suppressed;
		k->suppressed = 0;
	} else {
		if (!k->suppressed++)
			snprintf(k->sample, sizeof(k->sample), "%s", msg);
		k->level = level;
	}
	pthread_mutex_unlock(&r->mu);
	return pass;
}

bool fz_lograte_told(struct fz_lograte *r, uint64_t now_ns, bool all, struct fz_lograte_slot *out)
{
	bool found = false;

	pthread_mutex_lock(&r->mu);
	for (size_t i = 0; i < FZ_LOGRATE_KINDS && !found; i++) {
		struct fz_lograte_slot *s = &r->kinds[i];

		if (!s->suppressed)
			continue;
		fill(s, KIND_BURST, KIND_FILL_S, now_ns);
		if (s->tokens < 1 && !all)
			continue;
		*out = *s;
		s->suppressed = 0;
		s->tokens = s->tokens < 1 ? 0 : s->tokens - 1;
		found = true;
	}
	pthread_mutex_unlock(&r->mu);
	return found;
}

bool fz_lograte_due(struct fz_lograte *r, uint64_t now_ns)
{
	bool due;

	pthread_mutex_lock(&r->mu);
	due = now_ns - r->looked_ns >= LOOK_NS;
	if (due)
		r->looked_ns = now_ns;
	pthread_mutex_unlock(&r->mu);
	return due;
}
