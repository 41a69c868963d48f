/* temp.h - room for copies that are too large for memory: in $TMPDIR, else in /var/tmp. Nothing of them may outlive the process, since
 * they are plain. */
#ifndef FZ_BASE_TEMP_H
#define FZ_BASE_TEMP_H

#include "base/err.h"

#include <limits.h>
#include <stdbool.h>

const char *fz_temp_dir(void);
/* Whether text begins with the number of a process that is no more (of another container it may be: look for its lock too);
 * *rest = what follows it. */
bool fz_temp_abandoned(const char *text, const char **rest);
/* An empty file in dir, without a name, for reading and writing. Returns the descriptor. */
int fz_temp_file(const char *dir, struct fz_err *err) FZ_MUST_CHECK;

/* A directory (0700) for files that need a name: SQLite opens its files by name. What killed processes left in dir is removed by the next
 * fz_temp_open(). */
struct fz_temp {
	char path[PATH_MAX];
	int fd; /* holds the lock that shows that it is in use; -1 = there is none */
};
int fz_temp_open(struct fz_temp *t, const char *dir, struct fz_err *err) FZ_MUST_CHECK;
void fz_temp_close(struct fz_temp *t); /* with all that is in it */

#endif
