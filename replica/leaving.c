#include "replica/leaving.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "leaving"

int replica_leaving_note(struct ltx_log *log, struct fz_err *err)
{
	return fz_write_file(ltx_log_dirfd(log), NAME, "", 0, 0600, err);
}

void replica_leaving_done(struct ltx_log *log)
{
	if (unlinkat(ltx_log_dirfd(log), NAME, 0) < 0 && errno != ENOENT)
		fz_warn("the note of a database that has gone stays: %s", fz_strerror(-errno));
}

bool replica_leaving_is(struct ltx_log *log)
{
	return faccessat(ltx_log_dirfd(log), NAME, F_OK, 0) == 0;
}
