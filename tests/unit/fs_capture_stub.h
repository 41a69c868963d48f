/* fs_capture_stub.h - fs/capture.h that captures nothing: for tests of the file system alone. */
#ifndef FZ_TESTS_FS_CAPTURE_STUB_H
#define FZ_TESTS_FS_CAPTURE_STUB_H

#include "fs/capture.h"

#include <stdlib.h>

struct fs_capture {
	struct fs_capture_conf conf;
};
struct fs_file {
	int fd;
};

int fs_capture_open(struct fs_capture **out, const struct fs_capture_conf *conf, struct fz_err *err)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -12;
	(*out)->conf = *conf;
	return 0;
}
int fs_capture_close(struct fs_capture *c, struct fz_err *err)
{
	free(c);
	return 0;
}
int fs_capture_file_open(struct fs_capture *c, const char *path, int fd, bool created, enum fs_mode *mode,
                         struct fs_file **out, struct fz_err *err)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return -12;
	(*out)->fd = fd;
	if (*mode == FS_MODE_ANY)
		*mode = c->conf.passthrough ? FS_MODE_PASSTHROUGH : FS_MODE_WRITE_THROUGH;
	return 0;
}
void fs_capture_file_close(struct fs_file *f)
{
	free(f);
}
enum fs_role fs_capture_file_role(const struct fs_file *f)
{
	return FS_ROLE_OTHER;
}
enum fs_role fs_capture_role(struct fs_capture *c, const char *path)
{
	return FS_ROLE_OTHER;
}
int fs_capture_before(struct fs_capture *c, struct fs_event *ev)
{
	return 0;
}
void fs_capture_after(struct fs_capture *c, struct fs_event *ev, int rc)
{
}

#endif
