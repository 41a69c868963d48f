#include "replica/leaving.h"

#include "base/file.h"
#include "base/log.h"
#include "ltx/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEAVING   "leaving"
#define UNSETTLED "unsettled"

static int note(struct ltx_log *log, const char *name, struct fz_err *err)
{
	return fz_write_file(ltx_log_dirfd(log), name, "", 0, 0600, err);
}

static void done(struct ltx_log *log, const char *name)
{
	if (unlinkat(ltx_log_dirfd(log), name, 0) < 0 && errno != ENOENT)
		fz_warn("the note \"%s\" of a database that has gone stays: %s", name, fz_strerror(-errno));
}

static bool is(struct ltx_log *log, const char *name)
{
	return faccessat(ltx_log_dirfd(log), name, F_OK, 0) == 0;
}

int replica_leaving_note(struct ltx_log *log, struct fz_err *err)
{
	return note(log, LEAVING, err);
}

void replica_leaving_done(struct ltx_log *log)
{
	done(log, LEAVING);
}

bool replica_leaving_is(struct ltx_log *log)
{
	return is(log, LEAVING);
}

int replica_unsettled_note(struct ltx_log *log, struct fz_err *err)
{
	return note(log, UNSETTLED, err);
}

void replica_unsettled_done(struct ltx_log *log)
{
	done(log, UNSETTLED);
}

bool replica_unsettled_is(struct ltx_log *log)
{
	return is(log, UNSETTLED);
}
