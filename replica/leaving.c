#include "replica/leaving.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

int replica_note(struct ltx_log *log, const char *what, struct fz_err *err)
{
	return fz_write_file(ltx_log_dirfd(log), what, "", 0, 0600, err);
}

void replica_note_done(struct ltx_log *log, const char *what)
{
	if (unlinkat(ltx_log_dirfd(log), what, 0) < 0 && errno != ENOENT)
		fz_warn("the note \"%s\" of a database that has gone stays: %s", what, fz_strerror(-errno));
}

bool replica_noted(struct ltx_log *log, const char *what)
{
	return faccessat(ltx_log_dirfd(log), what, F_OK, 0) == 0;
}
