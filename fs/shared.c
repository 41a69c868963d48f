#include "fs/shared.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int fs_shared_create(int *out_fd, const char *dir, int rootfd, struct fz_err *err)
{
	struct fs_shared *sh = NULL;
	struct fs_cell *root;
	struct stat st;
	int fd, rc;

	*out_fd = -1;
	fd = memfd_create("fazt-nodes", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot make the node table");
	if (ftruncate(fd, (off_t)(FS_CELL_OFF + FS_SEG_CELLS * sizeof(struct fs_cell))) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0 || fstat(rootfd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "cannot make the node table of %s", dir);
		goto out;
	}
	sh = mmap(NULL, FS_MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (sh == MAP_FAILED) {
		sh = NULL;
		rc = fz_fail_errno(err, errno, "cannot map the node table");
		goto out;
	}
	sh->version = FS_SHARED_VERSION;
	sh->cell_bytes = sizeof(struct fs_cell);
	root = (struct fs_cell *)(void *)((uint8_t *)sh + FS_CELL_OFF);
	root->node = 1;
	root->dev = st.st_dev;
	root->ino = st.st_ino;
	root->mode = st.st_mode;
	root->nlookup = 1;
	root->id = 1;
	sh->cells = 1;
	sh->next_id = 2;
	sh->magic = FS_SHARED_MAGIC;
	*out_fd = fd;
	fd = -1;
	rc = 0;
out:
	fs_shared_unmap(sh);
	fz_close(&fd);
	return rc;
}

int fs_shared_map(struct fs_shared **out, int fd, struct fz_err *err)
{
	struct fs_shared *sh;

	*out = NULL;
	/* Longer than the file: cells appear as the file grows, and nothing is ever mapped again. */
	sh = mmap(NULL, FS_MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (sh == MAP_FAILED)
		return fz_fail_errno(err, errno, "cannot map the node table");
	if (sh->magic != FS_SHARED_MAGIC || sh->version != FS_SHARED_VERSION ||
	    sh->cell_bytes != sizeof(struct fs_cell)) {
		uint32_t version = sh->version;

		fs_shared_unmap(sh);
		return fz_fail(err, FZ_EVERSION,
		               "the mount's state has version %u, this program needs %u: umount and mount", version,
		               FS_SHARED_VERSION);
	}
	*out = sh;
	return 0;
}

void fs_shared_unmap(struct fs_shared *sh)
{
	if (sh)
		munmap(sh, FS_MAP_BYTES);
}
