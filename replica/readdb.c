#include "replica/readdb.h"

#include "base/file.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define VFS_NAME "fazt-readdb"

struct file {
	sqlite3_file base;
	int fd;
};

static int db_close(sqlite3_file *f)
{
	return SQLITE_OK;
}

static int db_read(sqlite3_file *f, void *data, int n, sqlite3_int64 off)
{
	ssize_t got = fz_pread(((struct file *)f)->fd, data, (size_t)n, (off_t)off);

	if (got < 0)
		return SQLITE_IOERR_READ;
	memset((char *)data + got, 0, (size_t)(n - got));
	return got == n ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static int db_write(sqlite3_file *f, const void *data, int n, sqlite3_int64 off)
{
	return SQLITE_READONLY;
}

static int db_truncate(sqlite3_file *f, sqlite3_int64 size)
{
	return SQLITE_READONLY;
}

static int db_size(sqlite3_file *f, sqlite3_int64 *size)
{
	struct stat st;

	if (fstat(((struct file *)f)->fd, &st) < 0)
		return SQLITE_IOERR_FSTAT;
	*size = st.st_size;
	return SQLITE_OK;
}

static int db_nothing(sqlite3_file *f, int flags)
{
	return SQLITE_OK;
}

static int db_reserved(sqlite3_file *f, int *out)
{
	*out = 0;
	return SQLITE_OK;
}

static int db_control(sqlite3_file *f, int op, void *arg)
{
	return SQLITE_NOTFOUND;
}

static int db_sector(sqlite3_file *f)
{
	return 4096;
}

static int db_traits(sqlite3_file *f)
{
	return SQLITE_IOCAP_IMMUTABLE;
}

/* The name is the descriptor's number. */
static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags)
{
	static const sqlite3_io_methods methods = {
	        1,          db_close,   db_read,     db_write,   db_truncate, db_nothing, db_size,
	        db_nothing, db_nothing, db_reserved, db_control, db_sector,   db_traits,  NULL,
	        NULL,       NULL,       NULL,        NULL,       NULL,
	};

	f->pMethods = NULL;
	if (!name || !(flags & SQLITE_OPEN_MAIN_DB))
		return SQLITE_CANTOPEN;
	((struct file *)f)->fd = atoi(name);
	f->pMethods = &methods;
	if (out_flags)
		*out_flags = SQLITE_OPEN_READONLY;
	return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
	return SQLITE_READONLY;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
	*out = 0;
	return SQLITE_OK;
}

static int vfs_full(sqlite3_vfs *vfs, const char *name, int cap, char *out)
{
	snprintf(out, (size_t)cap, "%s", name);
	return SQLITE_OK;
}

static int refused(sqlite3 *db, struct fz_err *err)
{
	return fz_fail(err, FZ_ECORRUPT, "SQLite cannot read it: %s", sqlite3_errmsg(db));
}

int replica_readdb_open(sqlite3 **out, int fd, struct fz_err *err)
{
	static sqlite3_vfs vfs;
	char name[16];

	if (!vfs.zName) {
		const sqlite3_vfs *os = sqlite3_vfs_find(NULL);

		if (!os)
			return fz_fail(err, FZ_EINTERNAL, "SQLite has no file system");
		vfs = *os; /* time and randomness are the system's */
		vfs.pNext = NULL;
		vfs.szOsFile = sizeof(struct file);
		vfs.xOpen = vfs_open;
		vfs.xDelete = vfs_delete;
		vfs.xAccess = vfs_access;
		vfs.xFullPathname = vfs_full;
		vfs.zName = VFS_NAME;
		if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK)
			return fz_fail_errno(err, ENOMEM, "opening a database");
	}
	snprintf(name, sizeof(name), "%d", fd);
	if (sqlite3_open_v2(name, out, SQLITE_OPEN_READONLY, VFS_NAME) != SQLITE_OK)
		return refused(*out, err);
	(void)sqlite3_db_config(*out, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, (int *)NULL);
	return 0;
}

int replica_readdb_has_dbstat(struct fz_err *err)
{
	sqlite3_stmt *st = NULL;
	sqlite3 *db = NULL;
	int rc = 0;

	if (sqlite3_open(":memory:", &db) != SQLITE_OK ||
	    sqlite3_prepare_v2(db, "SELECT pageno FROM dbstat", -1, &st, NULL) != SQLITE_OK)
		rc = fz_fail(err, FZ_EUSAGE,
		             "SQLite %s here has no dbstat table (SQLITE_ENABLE_DBSTAT_VTAB), which "
		             "tells the tables: %s",
		             sqlite3_libversion(), sqlite3_errmsg(db));
	sqlite3_finalize(st);
	sqlite3_close(db);
	return rc;
}
