/* place.h - DIR/NAME as the place where clone and import put a database: below a mount of fazt, captured from its first commit. */
#ifndef FZ_CMD_PLACE_H
#define FZ_CMD_PLACE_H

#include "cmd/where.h"

#include <stdint.h>

struct cmd_place {
	struct cmd_where w;
	char database[512];  /* below the mount */
	char path[PATH_MAX]; /* of the file */
	int dirfd;           /* of its directory, looked up once; -1 = closed */
	/* once it is settled */
	bool captured;
	char lineage[17];
	uint64_t txid;
};
/* Can a database below a mount be called that? Not ../x.db, app.db-wal or .fazt/x. */
bool cmd_place_name(const char *name);
/* A path that the user gave for a file. Below a directory that fazt serves, or served, it must lead to no other place: who owns a directory can
 * put symbolic links there, and root follows them. *dirfd: the directory of the file, open, for all that is done with it from then on, since the
 * names can become others at any moment; -1: it lies anywhere else. -EPERM says what is in the way; -ENOENT: no such directory; -FZ_EUSAGE: what
 * cmd_place_name() refuses. There may be no file yet. */
int cmd_place_of(const char *path, int *dirfd, struct fz_err *err) FZ_MUST_CHECK;
/* On success the caller closes it. -FZ_ENOTFOUND, -FZ_ENOTMOUNTED, those of cmd_place_of(); -FZ_EUSAGE where the mount is a replica's, whose databases come from its primary, or the name is none. */
int cmd_place_find(struct cmd_place *p, const char *arg, struct fz_err *err) FZ_MUST_CHECK;
void cmd_place_close(struct cmd_place *p);
/* The file is there: has it captured, and says as what. captured = false: the configuration excludes it. */
int cmd_place_settle(struct cmd_place *p, struct fz_err *err) FZ_MUST_CHECK;
#define CMD_PLACE_WHO 64
/* Does a program other than fazt's own have the file open? who: "sqlite3[1234]". */
bool cmd_place_used(const char *path, char who[static CMD_PLACE_WHO]);
/* err says that the file is locked (-FZ_EBUSY): puts in front who has it open, where that can be told. Returns its code. */
int cmd_place_busy(const char *path, struct fz_err *err);
/* All that was committed below DIR before the call is in the logs. Nothing to do on a replica. */
int cmd_place_capture(const char *dir, struct fz_err *err) FZ_MUST_CHECK;

#endif
