/* backup.h - a consistent copy of a SQLite file that applications may be using, by SQLite's own backup interface. In WAL mode it is one
 * read transaction: writers go on. In rollback mode the lock is given back between pieces, and the copy begins anew when somebody wrote
 * meanwhile; after a few times it is kept until the copy is done. */
#ifndef FZ_REPLICA_BACKUP_H
#define FZ_REPLICA_BACKUP_H

#include "replica/restore.h"

struct replica_backup_result {
	uint32_t page_size, pages;
	bool wal; /* the journal mode of the file, and of the copy */
};
/* dir: the directory of file, where the caller has it open; NULL = as the path says. copy: an empty file that is ours alone, at a path; it is synced by the caller. What SQLite's integrity_check says of the copy counts:
 * -FZ_EVERIFY. -FZ_EUSAGE: no database. -FZ_EBUSY: locked for longer than wait_ms. p, cancel: NULL = none. */
int replica_backup(const char *file, const int *dir, const char *copy, int64_t wait_ms, struct replica_progress *p,
                   const volatile bool *cancel, struct replica_backup_result *result, struct fz_err *err) FZ_MUST_CHECK;

#endif
