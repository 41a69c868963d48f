/* progress.h - how far a long command is, on stderr, and how it is interrupted. One line that is drawn anew on a terminal; with
 * --progress elsewhere a line a second. Nothing otherwise, and never on stdout.
 * THREADS  ticks may come from any one thread at a time. */
#ifndef FZ_CMD_PROGRESS_H
#define FZ_CMD_PROGRESS_H

#include "replica/restore.h"

#include <stdbool.h>
#include <stdint.h>

struct cmd_progress {
	struct replica_progress bytes; /* first: what replica/ calls with bytes done and in all */
	const char *what;              /* "restoring"; borrowed */
	bool on, terminal, shown;
	uint64_t start_ns, last_ns;
	uint64_t objects, of_objects;  /* 0 = not counted */
	uint64_t bytes_done, of_bytes; /* of the last tick */
};
/* wanted: --progress. quiet: the command prints JSON, so only --progress shows anything. */
void cmd_progress_begin(struct cmd_progress *p, const char *what, bool wanted, bool quiet);
/* of_bytes 0 = not known. Draws at most five times a second (once, where it is no terminal). */
void cmd_progress_tick(struct cmd_progress *p, uint64_t bytes, uint64_t of_bytes);
/* Takes the line off the terminal; elsewhere says how far it came. Can be repeated. */
void cmd_progress_end(struct cmd_progress *p);

/* From now on SIGINT and SIGTERM do not end the process but set what is returned; a second one ends it. */
const volatile bool *cmd_interruptible(void);
/* -ECANCELED once it was set. */
int cmd_interrupted(struct fz_err *err) FZ_MUST_CHECK;

#endif
