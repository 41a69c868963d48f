/* readdb.h - SQLite, read-only, over the database in a descriptor: for files without a name. No lock, journal or WAL is
 * looked at; the file must not change while it is open. */
#ifndef FZ_REPLICA_READDB_H
#define FZ_REPLICA_READDB_H

#include "base/err.h"

struct sqlite3;
/* fd borrowed. The caller closes *out with sqlite3_close(), also when this failed. -FZ_ECORRUPT, -ENOMEM. */
int replica_readdb_open(struct sqlite3 **out, int fd, struct fz_err *err) FZ_MUST_CHECK;
/* -FZ_EUSAGE when this SQLite was built without its dbstat table. */
int replica_readdb_has_dbstat(struct fz_err *err) FZ_MUST_CHECK;

#endif
