#include "fs/capture_priv.h"

#include <fnmatch.h>
#include <string.h>

static struct fs_db *find_locked(struct fs_capture *c, const char *name)
{
	for (struct fs_db *db = c->dbs; db; db = db->next)
		if (!strcmp(db->name, name))
			return db;
	return NULL;
}

struct fs_db *fs_registry_get(struct fs_capture *c, const char *name, bool create)
{
	struct fs_db *db;

	pthread_mutex_lock(&c->mu);
	db = find_locked(c, name);
	if (!db && create) {
		db = fs_db_new(c, name);
		if (db) {
			db->serial = ++c->serial;
			db->next = c->dbs;
			c->dbs = db; /* its first reference is the registry's */
		}
	}
	if (db)
		db->refs++;
	pthread_mutex_unlock(&c->mu);
	return db;
}

void fs_registry_put(struct fs_db *db)
{
	struct fs_capture *c;
	bool last;

	if (!db)
		return;
	c = db->c;
	pthread_mutex_lock(&c->mu);
	last = --db->refs == 0;
	pthread_mutex_unlock(&c->mu);
	if (last)
		fs_db_free(db);
}

void fs_registry_forget(struct fs_db *db)
{
	struct fs_capture *c = db->c;
	bool found = false;

	pthread_mutex_lock(&c->mu);
	for (struct fs_db **at = &c->dbs; *at; at = &(*at)->next)
		if (*at == db) {
			*at = db->next;
			db->next = NULL;
			db->forgotten = true;
			found = true;
			break;
		}
	pthread_mutex_unlock(&c->mu);
	if (found)
		fs_registry_put(db);
}

struct fs_db *fs_registry_next(struct fs_capture *c, struct fs_db *prev)
{
	struct fs_db *db;

	pthread_mutex_lock(&c->mu);
	if (prev && !prev->forgotten) {
		db = prev->next;
	} else {
		db = c->dbs;
		while (prev && db && db->serial > prev->serial)
			db = db->next;
	}
	if (db)
		db->refs++;
	pthread_mutex_unlock(&c->mu);
	fs_registry_put(prev);
	return db;
}

static bool matches(char *const *patterns, size_t n, const char *path)
{
	for (size_t i = 0; i < n; i++)
		if (fnmatch(patterns[i], path, 0) == 0)
			return true;
	return false;
}

bool fs_registry_named_database(const struct fs_capture *c, const char *path)
{
	return matches(c->databases, c->conf.n_databases, path);
}

bool fs_registry_excluded(const struct fs_capture *c, const char *path)
{
	/* the state directory: what was unlinked while open has its path there (fs/node.h) */
	return !strncmp(path, ".fazt/", 6) || matches(c->exclude, c->conf.n_exclude, path);
}

const char *const fs_registry_suffix[FS_ROLES] = {
        [FS_ROLE_DB] = "", [FS_ROLE_WAL] = "-wal", [FS_ROLE_SHM] = "-shm", [FS_ROLE_JOURNAL] = "-journal"};

const char *fs_registry_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strncmp(path, dir, n) && path[n] == '/' ? path + n : NULL;
}

enum fs_role fs_registry_split(const char *path, size_t *base_len)
{
	size_t n = strlen(path);

	for (enum fs_role role = FS_ROLE_WAL; role < FS_ROLES; role++) {
		size_t k = strlen(fs_registry_suffix[role]);

		if (n > k && path[n - k - 1] != '/' && !strcmp(path + n - k, fs_registry_suffix[role])) {
			*base_len = n - k;
			return role;
		}
	}
	*base_len = n;
	return FS_ROLE_DB;
}
