#include "primary/spool.h"

#include "base/array.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (LTX_NAME_MAX + 16)

static const char *file_name(char out[static FILE_MAX], const struct ltx_name *name, bool plain)
{
	char key[LTX_NAME_MAX];

	snprintf(out, FILE_MAX, "%s%s", plain ? "plain+" : "spool+", ltx_name_put(key, name));
	for (char *p = out; *p; p++)
		if (*p == '/')
			*p = '+';
	return out;
}

static bool parse_name(const char *file, bool plain, struct ltx_name *out)
{
	const char *prefix = plain ? "plain+" : "spool+";
	char key[LTX_NAME_MAX];

	if (strncmp(file, prefix, 6) != 0 || strlen(file + 6) >= sizeof(key))
		return false;
	snprintf(key, sizeof(key), "%s", file + 6);
	for (char *p = key; *p; p++)
		if (*p == '+')
			*p = '/';
	return ltx_name_get(out, key) == 0;
}

int primary_spool_begin(struct primary_spool *s, int dirfd, enum primary_spool_kind kind,
                        const struct ltx_age_recipient *r, size_t n, struct fz_err *err)
{
	static atomic_uint serial;
	int rc = 0;

	memset(s, 0, sizeof(*s));
	s->dirfd = dirfd;
	s->plain = kind == PRIMARY_SPOOL_PLAIN;
	s->in_memory = kind == PRIMARY_SPOOL_MEMORY;
	if (s->in_memory) {
		s->fd = memfd_create("fazt-spool", MFD_CLOEXEC);
	} else {
		snprintf(s->tmp, sizeof(s->tmp), "tmp-%u", atomic_fetch_add(&serial, 1));
		s->fd = openat(dirfd, s->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	}
	if (s->fd < 0) {
		rc = fz_fail_errno(err, errno, "cannot create a spool file");
		s->tmp[0] = 0;
		return rc;
	}
	fz_fd_sink_init(&s->out, s->fd, 0);
	s->sink = &s->out.sink;
	if (n > 0 && !s->plain) {
		rc = ltx_age_writer_open(&s->age, s->sink, r, n, err);
		if (rc == 0)
			s->sink = ltx_age_writer_sink(s->age);
	}
	if (rc < 0)
		primary_spool_fini(s);
	return rc;
}

int primary_spool_commit(struct primary_spool *s, const struct ltx_name *name, struct fz_err *err)
{
	char file[FILE_MAX];
	int rc = s->age ? ltx_age_writer_finish(s->age, err) : 0;

	if (rc == 0)
		rc = fz_fd_sink_flush(&s->out, err);
	if (rc == 0 && !s->in_memory) {
		if (fdatasync(s->fd) < 0 || renameat(s->dirfd, s->tmp, s->dirfd, file_name(file, name, s->plain)) < 0)
			rc = fz_fail_errno(err, errno, "finishing a spool file");
		else
			s->tmp[0] = 0;
	}
	ltx_age_writer_close(s->age);
	s->age = NULL;
	fz_fd_sink_fini(&s->out);
	s->sink = NULL;
	return rc;
}

int primary_spool_src(const struct primary_spool *s, struct fz_src **out, struct fz_err *err)
{
	int fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0), rc;

	if (fd < 0)
		return fz_fail_errno(err, errno, "reading a spool file");
	rc = fz_src_fd(out, fd, 0, s->out.off_bytes, true, err);
	if (rc < 0)
		fz_close(&fd);
	return rc;
}

void primary_spool_fini(struct primary_spool *s)
{
	ltx_age_writer_close(s->age);
	s->age = NULL;
	fz_fd_sink_fini(&s->out);
	if (s->tmp[0])
		unlinkat(s->dirfd, s->tmp, 0);
	s->tmp[0] = 0;
	fz_close(&s->fd);
}

int primary_spool_open(int dirfd, const struct ltx_name *name, bool plain, struct fz_src **out, struct fz_err *err)
{
	char file[FILE_MAX];
	struct stat st;
	int rc, fd = openat(dirfd, file_name(file, name, plain), O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "opening %s", file);
		fz_close(&fd);
		return rc;
	}
	rc = fz_src_fd(out, fd, 0, (uint64_t)st.st_size, true, err);
	if (rc < 0)
		fz_close(&fd);
	return rc;
}

void primary_spool_drop(int dirfd, const struct ltx_name *name, bool plain)
{
	char file[FILE_MAX];

	unlinkat(dirfd, file_name(file, name, plain), 0);
}

static int by_place(const void *a, const void *b)
{
	const struct ltx_name *x = a, *y = b;

	if (x->level != y->level)
		return x->level < y->level ? -1 : 1;
	if (x->min_txid != y->min_txid)
		return x->min_txid < y->min_txid ? -1 : 1;
	return x->max_txid < y->max_txid ? -1 : x->max_txid > y->max_txid;
}

int primary_spool_list(int dirfd, bool plain, bool clean, struct ltx_name **out, size_t *n, struct fz_err *err)
{
	DIR *d = fz_opendir(dirfd, ".");
	struct ltx_name *v = NULL;
	struct dirent *e;
	size_t count = 0, cap = 0;
	int rc = 0;

	if (!d)
		return fz_fail_errno(err, errno, "listing a ship directory");
	while (rc == 0 && (e = readdir(d))) {
		struct ltx_name name;

		if (parse_name(e->d_name, plain, &name)) {
			if (fz_array_room(v, count, cap))
				v[count++] = name;
			else
				rc = fz_fail_errno(err, ENOMEM, "listing a ship directory");
		} else if (clean && e->d_name[0] != '.' && strcmp(e->d_name, "cursor") != 0 &&
		           !parse_name(e->d_name, !plain, &name)) {
			unlinkat(dirfd, e->d_name, 0);
		}
	}
	closedir(d);
	if (rc < 0) {
		free(v);
		return rc;
	}
	if (count > 1)
		qsort(v, count, sizeof(*v), by_place);
	*out = v;
	*n = count;
	return 0;
}
