#include "cmd/nearest.h"

#include <string.h>

#define WORD 64

static unsigned min(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

unsigned cmd_distance(const char *a, const char *b)
{
	unsigned row[3][WORD], *before = row[0], *last = row[1], *now = row[2], *spare;
	size_t n = strlen(a), m = strlen(b);

	if (n >= WORD || m >= WORD)
		return (unsigned)(n > m ? n : m);
	for (size_t j = 0; j <= m; j++)
		last[j] = (unsigned)j;
	for (size_t i = 1; i <= n; i++) {
		now[0] = (unsigned)i;
		for (size_t j = 1; j <= m; j++) {
			now[j] = min(min(last[j] + 1, now[j - 1] + 1), last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = min(now[j], before[j - 2] + 1);
		}
		spare = before;
		before = last;
		last = now;
		now = spare;
	}
	return last[m];
}

void cmd_nearest_see(struct cmd_nearest *n, const char *known)
{
	unsigned d = cmd_distance(n->word, known), third = (unsigned)strlen(n->word) / 3;

	if (d > (third ? third : 1) || (n->best && d >= n->distance))
		return;
	n->best = known;
	n->distance = d;
}
