#include "fs/dirty.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Layout: words[] in groups of 64; each group has a summary word before it (bit i = word i is not zero):
 * group g = 65 u64: summary, then 64 words of 64 blocks = 16 MiB of database. */
#define GROUP_WORDS  65u
#define GROUP_BLOCKS 4096u

struct fs_dirty {
	int fd;
	uint64_t *map;
	size_t groups;
};

static size_t map_size(size_t groups)
{
	return (groups * GROUP_WORDS * 8 + 4095) & ~(size_t)4095;
}

static int resize(struct fs_dirty *d, size_t groups, struct fz_err *err)
{
	void *map;
	int rc;

	if (d->fd >= 0) {
		rc = posix_fallocate(d->fd, 0, (off_t)map_size(groups));
		if (rc)
			return fz_fail_errno(err, rc, "cannot grow the dirty set");
	}
	if (d->map)
		map = mremap(d->map, map_size(d->groups), map_size(groups), MREMAP_MAYMOVE);
	else
		map = mmap(NULL, map_size(groups), PROT_READ | PROT_WRITE,
		           d->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, d->fd, 0);
	if (map == MAP_FAILED)
		return fz_fail_errno(err, errno, "cannot map the dirty set");
	d->map = map;
	d->groups = groups;
	return 0;
}

int fs_dirty_open(struct fs_dirty **out, int dirfd, const char *name, struct fz_err *err)
{
	struct fs_dirty *d = calloc(1, sizeof(*d));
	size_t groups = 7; /* one page: 112 MiB of database */
	struct stat st;
	int rc;

	if (!d)
		return fz_fail(err, -ENOMEM, "no memory");
	d->fd = -1;
	if (dirfd >= 0) {
		d->fd = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (d->fd < 0 || fstat(d->fd, &st) < 0) {
			rc = fz_fail_errno(err, errno, "cannot open the dirty set");
			goto out;
		}
		if ((size_t)st.st_size > map_size(groups))
			groups = (size_t)st.st_size / (GROUP_WORDS * 8);
	}
	rc = resize(d, groups, err);
	if (rc < 0)
		goto out;
	*out = d;
	d = NULL;
out:
	fs_dirty_close(d);
	return rc;
}

void fs_dirty_close(struct fs_dirty *d)
{
	if (!d)
		return;
	if (d->map)
		munmap(d->map, map_size(d->groups));
	fz_close(&d->fd);
	free(d);
}

int fs_dirty_mark(struct fs_dirty *d, uint64_t off_bytes, uint64_t len_bytes, struct fz_err *err)
{
	uint64_t last;

	if (!len_bytes)
		return 0;
	last = (off_bytes + len_bytes - 1) / FS_DIRTY_BLOCK;
	if (last / GROUP_BLOCKS >= d->groups) {
		int rc = resize(d, last / GROUP_BLOCKS + 1 + d->groups / 4, err);

		if (rc < 0)
			return rc;
	}
	for (uint64_t b = off_bytes / FS_DIRTY_BLOCK; b <= last; b++) {
		uint64_t *g = d->map + b / GROUP_BLOCKS * GROUP_WORDS;
		unsigned word = (unsigned)(b % GROUP_BLOCKS / 64);

		g[1 + word] |= UINT64_C(1) << (b % 64);
		g[0] |= UINT64_C(1) << word;
	}
	return 0;
}

bool fs_dirty_next(const struct fs_dirty *d, uint64_t block, uint64_t *found)
{
	for (size_t gi = (size_t)(block / GROUP_BLOCKS); gi < d->groups; gi++, block = (uint64_t)gi * GROUP_BLOCKS) {
		const uint64_t *g = d->map + gi * GROUP_WORDS;
		unsigned word = (unsigned)(block % GROUP_BLOCKS / 64);
		uint64_t first = g[0] >> word & 1 ? g[1 + word] & ~UINT64_C(0) << (block % 64) : 0;
		uint64_t rest = word < 63 ? g[0] & ~UINT64_C(0) << (word + 1) : 0;

		if (!first) {
			if (!rest)
				continue;
			word = (unsigned)__builtin_ctzll(rest);
			first = g[1 + word];
		}
		*found = (uint64_t)gi * GROUP_BLOCKS + word * 64u + (unsigned)__builtin_ctzll(first);
		return true;
	}
	return false;
}

bool fs_dirty_empty(const struct fs_dirty *d)
{
	uint64_t b;

	return !fs_dirty_next(d, 0, &b);
}

void fs_dirty_clear(struct fs_dirty *d)
{
	for (size_t gi = 0; gi < d->groups; gi++) {
		uint64_t *g = d->map + gi * GROUP_WORDS;

		while (g[0]) {
			unsigned word = (unsigned)__builtin_ctzll(g[0]);

			g[1 + word] = 0;
			g[0] &= g[0] - 1;
		}
	}
}
