/* opendb.h - a database opened by SQLite in a directory that the caller has open. */
#ifndef FZ_REPLICA_OPENDB_H
#define FZ_REPLICA_OPENDB_H

struct sqlite3;

/* sqlite3_open_v2(path, db, flags). dir: the directory of path, where the caller has it open; NULL = as the path says. With dir, database, journal,
 * WAL and wal-index are those that have the last element's name in it, whatever becomes of its own name; no symbolic link is followed,
 * and it stays open for as long as *db. Returns SQLite's code; *db is to be closed also when that is an error. */
int replica_opendb(struct sqlite3 **db, const int *dir, const char *path, int flags);

#endif
