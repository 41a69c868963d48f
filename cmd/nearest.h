/* nearest.h - "did you mean ...?": the known word that a mistyped one is closest to. */
#ifndef FZ_CMD_NEAREST_H
#define FZ_CMD_NEAREST_H

#include <stddef.h>

/* Letters to insert, delete, replace or swap with their neighbour until a is b. Words longer than 63 bytes are as far apart as the longer is. */
unsigned cmd_distance(const char *a, const char *b);
/* Feed it all known words; best is NULL while none is near enough (a third of the word's letters, at least one). */
struct cmd_nearest {
	const char *word, *best; /* borrowed */
	unsigned distance;
};
void cmd_nearest_see(struct cmd_nearest *n, const char *known);

#endif
