#include "fs/backing.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/super_client.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

int32_t fs_backing_own_open(int fusefd, int fd)
{
	struct backing_map m = {.fd = fd};
	int id = ioctl(fusefd, BACKING_OPEN, &m);

	return id > 0 ? id : id == 0 ? -EIO : -errno;
}

int fs_backing_own_close(int fusefd, int32_t id)
{
	uint32_t x = (uint32_t)id;

	return ioctl(fusefd, BACKING_CLOSE, &x) < 0 ? -errno : 0;
}

int32_t fs_backing_open(int fusefd, int fd)
{
	int32_t id = fs_backing_own_open(fusefd, fd);

	return id == -EPERM ? fs_super_backing_open(fd) : id;
}

void fs_backing_close(int fusefd, int32_t id)
{
	/* ENOENT is well: a former worker closed it. */
	if (fs_backing_own_close(fusefd, id) == -EPERM)
		fs_super_backing_close(id);
}

/* An id for an empty memfd. */
static int32_t probe(int fusefd)
{
	int fd = memfd_create("fazt-probe", MFD_CLOEXEC);
	int32_t id = fd < 0 ? -errno : fs_backing_open(fusefd, fd);

	fz_close(&fd);
	if (id > 0)
		fs_backing_close(fusefd, id);
	return id;
}

bool fs_backing_works(int fusefd, struct fs_shared *sh)
{
	int32_t id = probe(fusefd);

	if (id < 0)
		fz_info("kernel passthrough cannot be used: %s", fz_strerror(id));
	return id > 0;
}

void fs_backing_sweep(int fusefd, struct fs_table *t)
{
	struct fs_shared *sh = t->sh;
	int32_t last = sh->last_backing_id, now = probe(fusefd);

	for (int32_t id = last + 1; id < now && now - last < 4096; id++) {
		bool claimed = false;

		fs_table_lock(t);
		for (uint32_t i = 0; i < sh->cells && !claimed; i++) {
			struct fs_cell *c = (struct fs_cell *)(void *)((uint8_t *)sh + FS_CELL_OFF) + i;

			claimed = c->id && c->backing_id == id;
		}
		fs_table_unlock(t);
		if (!claimed)
			fs_backing_close(fusefd, id);
	}
	if (now > last)
		sh->last_backing_id = now;
}
