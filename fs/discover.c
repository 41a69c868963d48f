#include "fs/discover.h"

#include "base/file.h"
#include "base/io.h"
#include "base/log.h"
#include "fs/capture_priv.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_DEPTH 64

/* Only the first bytes are read, and only of files that no log knows. */
static bool is_database(struct fs_capture *c, int dirfd, const char *base, const char *path)
{
	int fd = openat(dirfd, base, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	bool yes = fd >= 0 && fs_file_is_database(c, path, fd);

	fz_close(&fd);
	return yes;
}

/* A replica tells its user about them, with an example. */
static void note_other(struct fs_capture *c, const char *path)
{
	bool shown = strlen(path) < sizeof(c->other);

	for (const char *p = path; shown && *p; p++)
		shown = (unsigned char)*p >= 0x20 && *p != 0x7f;
	pthread_mutex_lock(&c->mu);
	if (shown && !c->other[0])
		memcpy(c->other, path, strlen(path) + 1);
	pthread_mutex_unlock(&c->mu);
}

void fs_discover_other(struct fs_capture *c, const char *path, int fd)
{
	struct stat st;

	if (!c->others && !fs_registry_excluded(c, path) && fstat(fd, &st) == 0 && st.st_size > 0) {
		note_other(c, path);
		c->others = 1;
	}
}

bool fs_capture_others(struct fs_capture *c, uint64_t *n, char *example, size_t cap)
{
	*n = c->others;
	pthread_mutex_lock(&c->mu);
	snprintf(example, cap, "%s", c->other);
	pthread_mutex_unlock(&c->mu);
	return *n > 0;
}

static void consider(struct fs_capture *c, int dirfd, const char *base, const char *path)
{
	struct fs_db *db = fs_registry_get(c, path, false);
	size_t len;

	if (db || fs_registry_excluded(c, path) || fs_registry_split(path, &len) != FS_ROLE_DB) {
		fs_registry_put(db);
		return;
	}
	if (!is_database(c, dirfd, base, path)) {
		note_other(c, path);
		c->walked++;
		return;
	}
	db = fs_registry_get(c, path, true);
	if (!db)
		return;
	pthread_mutex_lock(&db->mu);
	if (db->state == FS_DB_CANDIDATE && !db->open_db) {
		db->opaque = fs_registry_named_database(c, path);
		fs_db_lose(db, "not seen before");
		fz_info("%s: a database that was not seen before", path);
	}
	pthread_mutex_unlock(&db->mu);
	fs_registry_put(db);
}

/* dir is owned. */
static void walk(struct fs_capture *c, int dir, const char *prefix, int depth)
{
	DIR *d = fdopendir(dir);
	struct dirent *e;

	if (!d) {
		fz_close(&dir);
		return;
	}
	while (!atomic_load(&c->stop) && (e = readdir(d))) {
		struct stat st;
		char *path = NULL;

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || (!*prefix && !strcmp(e->d_name, ".fazt")))
			continue;
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
			continue;
		path = malloc(strlen(prefix) + strlen(e->d_name) + 2);
		if (!path)
			break;
		stpcpy(stpcpy(stpcpy(path, prefix), *prefix ? "/" : ""), e->d_name);
		if (S_ISREG(st.st_mode) && st.st_size > 0) {
			consider(c, dirfd(d), e->d_name, path);
		} else if (S_ISDIR(st.st_mode) && depth < MAX_DEPTH) {
			int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

			if (sub >= 0)
				walk(c, sub, path, depth + 1);
		}
		free(path);
	}
	closedir(d);
}

void fs_discover(struct fs_capture *c)
{
	/* with applications that live on, their files are opened again first */
	while (!atomic_load(&c->settled) && !atomic_load(&c->stop))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	pthread_mutex_lock(&c->discover_mu);
	if (!c->discovered && !atomic_load(&c->stop)) {
		int root = openat(c->conf.rootfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (root >= 0)
			walk(c, root, "", 0);
		else
			fz_warn("capture: cannot look for databases");
		if (c->walked)
			c->others = c->walked;
		c->discovered = true;
	}
	pthread_mutex_unlock(&c->discover_mu);
}
