#include "replica/opendb.h"

#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

#define VFS_NAME "fazt-dir"

/* SQLite opens by name, journal and WAL later than the database, and looks only at the last element itself (O_NOFOLLOW). Its own
 * xFullPathname would put the directory's name in the place of /proc/self/fd/N. */
static int vfs_full(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
	sqlite3_snprintf(n, out, "%s", name);
	return SQLITE_OK;
}

int replica_opendb(sqlite3 **db, const int *dir, const char *path, int flags)
{
	static sqlite3_vfs vfs;
	char name[32 + NAME_MAX];

	*db = NULL;
	if (!dir)
		return sqlite3_open_v2(path, db, flags, NULL);
	if (!vfs.zName) {
		const sqlite3_vfs *os = sqlite3_vfs_find(NULL);

		if (!os)
			return SQLITE_CANTOPEN;
		vfs = *os;
		vfs.pNext = NULL;
		vfs.xFullPathname = vfs_full;
		vfs.zName = VFS_NAME;
		if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK)
			return SQLITE_NOMEM;
	}
	if (snprintf(name, sizeof(name), "/proc/self/fd/%d/%s", *dir, basename(path)) >= (int)sizeof(name))
		return SQLITE_CANTOPEN;
	return sqlite3_open_v2(name, db, flags, VFS_NAME);
}
