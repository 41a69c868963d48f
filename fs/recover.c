#include "fs/recover.h"

#include "fs/capture_wal.h"
#include "fs/txn.h"

int fs_recover_start(struct fs_db *db, struct fz_err *err)
{
	int rc = fs_txn_replay_sums(db, err);

	if (rc == 0)
		db->state = FS_DB_LOST;
	return rc;
}
int fs_recover_resume(struct fs_db *db, struct fz_err *err)
{
	return fs_recover_start(db, err);
}
int fs_recover_mark_clean(struct fs_db *db, struct fz_err *err)
{
	return 0;
}
