#include "ltx/sums.h"

#include "base/file.h"
#include "ltx/ltx.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES 4096u
#define STEP_BYTES 65536u

static const char sums_magic[8] = {'F', 'Z', 'S', 'U', 'M', 'S', '0', '1'};

struct ltx_sums {
	int fd;
	size_t bytes; /* of the mapping and the file */
	uint8_t *map;
};

struct ltx_sums_head *ltx_sums_head(struct ltx_sums *s)
{
	return (struct ltx_sums_head *)(void *)s->map;
}

static uint64_t *table(const struct ltx_sums *s)
{
	return (uint64_t *)(void *)(s->map + HEAD_BYTES);
}

static uint64_t room_pages(const struct ltx_sums *s)
{
	return (s->bytes - HEAD_BYTES) / 8;
}

void ltx_sums_boot_id(char out[static 40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, out, 39);

	fz_close(&fd);
	memset(out + (n > 0 ? n : 0), 0, 40 - (size_t)(n > 0 ? n : 0));
	out[strcspn(out, "\n")] = 0;
}

static int map_bytes(struct ltx_sums *s, size_t bytes, struct fz_err *err)
{
	void *map;
	int rc = posix_fallocate(s->fd, 0, (off_t)bytes); /* no SIGBUS when the disk is full */

	if (rc)
		return fz_fail_errno(err, rc, "cannot grow the checksum table to %zu bytes", bytes);
	map = s->map ? mremap(s->map, s->bytes, bytes, MREMAP_MAYMOVE)
	             : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (map == MAP_FAILED)
		return fz_fail_errno(err, errno, "cannot map the checksum table");
	s->map = map;
	s->bytes = bytes;
	return 0;
}

int ltx_sums_open(struct ltx_sums **out, int dirfd, struct fz_err *err)
{
	struct ltx_sums *s = calloc(1, sizeof(*s));
	struct ltx_sums_head *h;
	struct stat st;
	size_t bytes;
	int rc;

	if (!s)
		return fz_fail(err, -ENOMEM, "no memory");
	s->fd = openat(dirfd, "fs-sums", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->fd < 0 || fstat(s->fd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "cannot open the checksum table");
		goto out;
	}
	bytes = st.st_size > (off_t)HEAD_BYTES ? (size_t)st.st_size & ~(size_t)7 : HEAD_BYTES;
	rc = map_bytes(s, bytes, err);
	if (rc < 0)
		goto out;
	h = ltx_sums_head(s);
	if (memcmp(h->magic, sums_magic, sizeof(sums_magic)) || h->commit > room_pages(s) ||
	    (h->page_size && !ltx_page_size_ok(h->page_size)))
		ltx_sums_clear(s);
	h->boot_id[sizeof(h->boot_id) - 1] = 0;
	*out = s;
	s = NULL;
	rc = 0;
out:
	ltx_sums_close(s);
	return rc;
}

void ltx_sums_close(struct ltx_sums *s)
{
	if (!s)
		return;
	if (s->map)
		munmap(s->map, s->bytes);
	fz_close(&s->fd);
	free(s);
}

uint64_t ltx_sums_get(const struct ltx_sums *s, uint32_t pgno)
{
	return pgno && pgno <= room_pages(s) ? table(s)[pgno - 1] : 0;
}

int ltx_sums_room(struct ltx_sums *s, uint32_t pages, struct fz_err *err)
{
	size_t want = HEAD_BYTES + (size_t)pages * 8;

	if (want <= s->bytes)
		return 0;
	/* in steps, larger ones as it grows */
	return map_bytes(s, (want + s->bytes / 8 + STEP_BYTES) & ~(size_t)(HEAD_BYTES - 1), err);
}

void ltx_sums_set(struct ltx_sums *s, uint32_t pgno, uint64_t sum)
{
	if (pgno && pgno <= room_pages(s))
		table(s)[pgno - 1] = sum;
}

uint64_t ltx_sums_total(const struct ltx_sums *s)
{
	const struct ltx_sums_head *h = (const void *)s->map;
	uint64_t x = 0;

	for (uint32_t p = 1; p <= h->commit; p++)
		x ^= ltx_sums_get(s, p);
	return LTX_FLAG | x;
}

void ltx_sums_clear(struct ltx_sums *s)
{
	struct ltx_sums_head *h = ltx_sums_head(s);
	char boot_id[sizeof(h->boot_id)] = "";

	if (!memcmp(h->magic, sums_magic, sizeof(sums_magic)))
		memcpy(boot_id, h->boot_id, sizeof(boot_id));
	memset(s->map, 0, s->bytes);
	memcpy(h->magic, sums_magic, sizeof(sums_magic));
	memcpy(h->boot_id, boot_id, sizeof(boot_id));
	h->checksum = LTX_EMPTY_DB;
}

void ltx_sums_clear_pages(struct ltx_sums *s)
{
	struct ltx_sums_head *h = ltx_sums_head(s);

	h->txid = 0;
	atomic_thread_fence(memory_order_release);
	memset(s->map + HEAD_BYTES, 0, s->bytes - HEAD_BYTES);
	h->page_size = h->commit = 0;
	h->checksum = LTX_EMPTY_DB;
}

int ltx_sums_sync(struct ltx_sums *s, struct fz_err *err)
{
	if (msync(s->map, s->bytes, MS_SYNC) < 0)
		return fz_fail_errno(err, errno, "cannot sync the checksum table");
	return 0;
}
