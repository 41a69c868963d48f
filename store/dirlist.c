/* dirlist.c - what lies in a directory store. Removes what a put left that was killed, on the way. */
#include "store/dirpriv.h"

#include "base/clock.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 128, TMP_STALE_MS = 24 * 3600 * 1000 };

struct walk {
	struct dir_store *d;
	const char *prefix, *start_after;
	size_t prefix_len;
	bool delimiter;
	struct fz_store_list *out;
	struct fz_buf path; /* "a/b/", the directory being read */
};

/* Can a key that begins with dir ("a/b/") be wanted? */
static bool may_hold(const struct walk *w, const char *dir, size_t n)
{
	if (strncmp(dir, w->prefix, n < w->prefix_len ? n : w->prefix_len) != 0)
		return false;
	/* All keys below dir sort before start_after, unless that itself lies below dir. */
	return !w->start_after || strncmp(dir, w->start_after, n) >= 0;
}

static int entry_type(int fd, const struct dirent *e, struct stat *st)
{
	if (e->d_type == DT_DIR)
		return DT_DIR;
	if (e->d_type != DT_REG && e->d_type != DT_UNKNOWN)
		return DT_LNK;
	if (fstatat(fd, e->d_name, st, AT_SYMLINK_NOFOLLOW) < 0)
		return DT_LNK; /* gone in between */
	return S_ISREG(st->st_mode) ? DT_REG : S_ISDIR(st->st_mode) ? DT_DIR : DT_LNK;
}

static int walk_dir(struct walk *w, int fd, int depth, bool *found, struct fz_err *err);

static int walk_entry(struct walk *w, int fd, const struct dirent *e, int depth, bool *found, struct fz_err *err)
{
	size_t before = w->path.size;
	struct stat st;
	int type = entry_type(fd, e, &st), rc, sub;
	const char *slash;

	if (type == DT_REG && strncmp(e->d_name, STORE_DIR_TMP, strlen(STORE_DIR_TMP)) == 0) {
		/* what a put left that was killed; nobody writes a file for a day without touching it */
		if (strcmp(e->d_name, STORE_DIR_LOCK) != 0 &&
		    fz_now_ms() - (int64_t)st.st_mtim.tv_sec * 1000 > TMP_STALE_MS)
			unlinkat(fd, e->d_name, 0);
		return 0;
	}
	if (type != DT_REG && type != DT_DIR)
		return 0;
	if (fz_buf_addf(&w->path, "%s%s", e->d_name, type == DT_DIR ? "/" : "") < 0)
		return fz_fail_errno(err, ENOMEM, "listing %s", w->d->path);
	rc = 0;
	if (type == DT_REG) {
		if (found)
			*found = true;
		else if (strncmp(fz_buf_str(&w->path), w->prefix, w->prefix_len) == 0)
			rc = store_list_add(w->out, fz_buf_str(&w->path), w->path.size, (uint64_t)st.st_size,
			                    (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000, err);
	} else if (found || may_hold(w, fz_buf_str(&w->path), w->path.size)) {
		bool any = false;

		slash = !found && w->delimiter && w->path.size > w->prefix_len ? "/" : NULL;
		sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			rc = walk_dir(w, sub, depth + 1, slash ? &any : found, err);
		else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
			rc = store_dir_fail_io(w->d, errno, "listing", fz_buf_str(&w->path), err);
		if (rc == 0 && any) /* a "directory" only if there is an object in it, as S3 sees it */
			rc = store_list_add(w->out, fz_buf_str(&w->path), w->path.size, 0, 0, err);
	}
	w->path.size = before;
	w->path.data[before] = 0;
	return rc;
}

/* Reads directory fd (taken over). found != NULL: only asks whether there is any object. */
static int walk_dir(struct walk *w, int fd, int depth, bool *found, struct fz_err *err)
{
	struct dirent *e;
	DIR *dir = fdopendir(fd);
	int rc = store_check_cancel(&w->d->store, err);

	if (!dir) {
		fz_close(&fd);
		return fz_fail_errno(err, ENOMEM, "listing %s", w->d->path);
	}
	if (rc == 0 && depth > DEPTH_MAX)
		rc = fz_fail(err, FZ_ESTORE, "%s/%s lies too deep", w->d->path, fz_buf_str(&w->path));
	while (rc == 0 && !(found && *found)) {
		errno = 0;
		e = readdir(dir);
		if (!e) {
			if (errno && errno != ENOENT)
				rc = store_dir_fail_io(w->d, errno, "listing", fz_buf_str(&w->path), err);
			break;
		}
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = walk_entry(w, fd, e, depth, found, err);
	}
	closedir(dir);
	return rc;
}

int store_dir_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                   struct fz_store_list *out, struct fz_err *err)
{
	struct walk w = {.d = store_dir_of(s),
	                 .prefix = prefix,
	                 .start_after = start_after,
	                 .prefix_len = strlen(prefix),
	                 .delimiter = delimiter,
	                 .out = out};
	int rc, fd = store_dir_open_root(w.d, false, err);

	store_count(s, FZ_STORE_LIST);
	if (fd < 0)
		return fd == -FZ_ENOTFOUND && w.d->create ? 0 : fd; /* not made yet: empty */
	rc = walk_dir(&w, fd, 0, NULL, err);
	fz_buf_fini(&w.path);
	return rc;
}
