/* inplace.h - bring a mounted database back while applications have it open, as one new transaction that acts on the
 * files as an application does: WAL frames and wal-index under SQLite's own locks (reference: docs/design.md "Apply"), or
 * in rollback mode under a rollback journal of its own. Schema cookie and change counter move above every value used. */
#ifndef FZ_REPLICA_INPLACE_H
#define FZ_REPLICA_INPLACE_H

#include "replica/restore.h"

#include <stdbool.h>

struct replica_inplace_result {
	uint32_t changed_pages, pages;
	bool wal; /* how it was written */
};
/* Embed as first member. locked() is called once, when the writer's lock is held and nothing is written yet: a negative code ends it
 * there. It may open and close no file of the database: that would drop the locks. */
struct replica_inplace_guard {
	int (*locked)(struct replica_inplace_guard *g, struct fz_err *err);
};
/* dir: the directory of live, where the caller has it open; NULL = as the path says. Nothing is looked up anywhere else, and
 * no symbolic link in it is followed. restored: path of a complete database file (made by replica_restore) with the same page size; live: path of the
 * database in the mount. wait_ms: how long to wait for the writer's lock (-FZ_EBUSY). cancel, NULL = none: once it is true, waiting
 * ends, and nothing that was not begun is written (-ECANCELED). Another page size: -FZ_EUSAGE with what to do. */
int replica_inplace(const char *restored, const char *live, int64_t wait_ms, struct replica_inplace_result *result,
                    struct fz_err *err) FZ_MUST_CHECK;
int replica_inplace_guarded(const char *restored, const char *live, const int *dir, int64_t wait_ms,
                            const volatile bool *cancel, struct replica_inplace_guard *guard,
                            struct replica_inplace_result *result, struct fz_err *err) FZ_MUST_CHECK;

#endif
