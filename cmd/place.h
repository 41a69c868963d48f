/* place.h - DIR/NAME as the place where clone and import put a database: below a mount of fazt, captured from its first commit. */
#ifndef FZ_CMD_PLACE_H
#define FZ_CMD_PLACE_H

#include "cmd/where.h"

#include <stdint.h>

struct cmd_place {
	struct cmd_where w;
	char database[512];  /* below the mount */
	char path[PATH_MAX]; /* of the file */
	/* once it is settled */
	bool captured;
	char lineage[17];
	uint64_t txid;
};
/* Can a database below a mount be called that? Not ../x.db, app.db-wal or .fazt/x. */
bool cmd_place_name(const char *name);
/* -FZ_ENOTFOUND, -FZ_ENOTMOUNTED; -FZ_EUSAGE where the mount is a replica's, whose databases come from its primary, or the name is none. */
int cmd_place_find(struct cmd_place *p, const char *arg, struct fz_err *err) FZ_MUST_CHECK;
/* The file is there: has it captured, and says as what. captured = false: the configuration excludes it. */
int cmd_place_settle(struct cmd_place *p, struct fz_err *err) FZ_MUST_CHECK;
/* All that was committed below DIR before the call is in the logs. Nothing to do on a replica. */
int cmd_place_capture(const char *dir, struct fz_err *err) FZ_MUST_CHECK;

#endif
