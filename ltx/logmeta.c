#include "ltx/logmeta.h"

#include "base/file.h"
#include "ltx/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_MAGIC "FZHEAD01"
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x00004000U /* linux/stat.h since 6.8: never reused, unlike STATX_MNT_ID */
#endif

int ltx_log_escape(char *out, size_t cap, const char *name)
{
	size_t n = 0;

	for (const char *p = name; *p; p++) {
		unsigned char c = (unsigned char)*p;
		bool plain = c >= 0x20 && c != 0x7f && c != '/' && c != '%' && !(c == '.' && p == name);

		if (n + (plain ? 1 : 3) >= cap)
			return -ENAMETOOLONG;
		n += (size_t)snprintf(out + n, cap - n, plain ? "%c" : "%%%02X", c);
	}
	if (n == 0)
		return -EINVAL;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int ltx_log_unescape(char *out, size_t cap, const char *text, struct fz_err *err)
{
	size_t n = 0;

	for (const char *p = text; *p; p++) {
		char c = *p;

		if (c == '%') {
			int hi = hex_digit(p[1]), lo = hi < 0 ? -1 : hex_digit(p[2]);

			if (lo < 0 || (hi | lo) == 0)
				return fz_fail(err, FZ_ECORRUPT, "bad escape in a database's name");
			c = (char)(hi << 4 | lo);
			p += 2;
		}
		if (n + 1 >= cap)
			return fz_fail(err, FZ_ECORRUPT, "a database's name is too long");
		out[n++] = c;
	}
	out[n] = 0;
	return 0;
}

static int parse_number(const char *text, int64_t max, int64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoll(text, &end, 10);
	return errno || *end || end == text || *out < 0 || *out > max ? -EINVAL : 0;
}

static int parse_line(struct ltx_log_meta *m, const char *key, const char *value, struct fz_err *err)
{
	int64_t v = 0;
	int rc = 0;

	if (!strcmp(key, "name")) {
		rc = ltx_log_unescape(m->name, sizeof(m->name), value, err);
	} else if (!strcmp(key, "lineage")) {
		if (strlen(value) != 16 || strspn(value, "0123456789abcdef") != 16)
			rc = -EINVAL;
		else
			memcpy(m->lineage, value, 17);
	} else if (!strcmp(key, "version")) {
		rc = parse_number(value, INT64_MAX, &v);
		if (rc == 0 && v > 1)
			return fz_fail(err, FZ_EVERSION, "log of version %" PRId64, v);
	} else if (!strcmp(key, "epoch")) {
		rc = parse_number(value, UINT32_MAX, &v);
		m->epoch = (uint32_t)v;
	} else if (!strcmp(key, "epoch_txid")) {
		rc = parse_number(value, INT64_MAX, &v);
		m->epoch_txid = (uint64_t)v;
	} else if (!strcmp(key, "epoch_checksum")) {
		char *end;

		errno = 0;
		m->epoch_checksum = strtoull(value, &end, 16);
		rc = errno || *end || end == value ? -EINVAL : 0;
	} else if (!strcmp(key, "page_size")) {
		rc = parse_number(value, 65536, &v);
		m->page_size = (uint32_t)v;
	} else if (!strcmp(key, "created_ms")) {
		rc = parse_number(value, INT64_MAX, &m->created_ms);
	} else if (!strcmp(key, "ended_ms")) {
		rc = parse_number(value, INT64_MAX, &m->ended_ms);
	}
	return rc < 0 ? fz_fail(err, FZ_ECORRUPT, "log meta: bad value of %s", key) : 0;
}

int ltx_log_meta_read(struct ltx_log_meta *m, int dirfd, struct fz_err *err)
{
	struct fz_buf text = {0};
	char *line, *save = NULL;
	int rc;

	memset(m, 0, sizeof(*m));
	rc = fz_read_file(dirfd, "meta", 65536, &text, err);
	if (rc < 0)
		goto out;
	line = text.size ? strtok_r((char *)text.data, "\n", &save) : NULL;
	for (; rc == 0 && line; line = strtok_r(NULL, "\n", &save)) {
		char *eq = strchr(line, '=');

		if (!eq)
			continue;
		*eq = 0;
		rc = parse_line(m, line, eq + 1, err);
	}
	if (rc == 0 && (!m->name[0] || !m->lineage[0]))
		rc = fz_fail(err, FZ_ECORRUPT, "log meta: name or lineage missing");
out:
	fz_buf_fini(&text);
	return rc;
}

int ltx_log_meta_write(const struct ltx_log_meta *m, int dirfd, struct fz_err *err)
{
	char name[3 * sizeof(m->name)];
	struct fz_buf text = {0};
	int rc = ltx_log_escape(name, sizeof(name), m->name);

	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing log meta");
	rc = fz_buf_addf(&text,
	                 "version=1\nname=%s\nlineage=%s\nepoch=%u\nepoch_txid=%" PRIu64 "\nepoch_checksum=%016" PRIx64
	                 "\npage_size=%u\ncreated_ms=%" PRId64 "\nended_ms=%" PRId64 "\n",
	                 name, m->lineage, m->epoch, m->epoch_txid, m->epoch_checksum, m->page_size, m->created_ms,
	                 m->ended_ms);
	if (rc < 0)
		rc = fz_fail_errno(err, ENOMEM, "writing log meta");
	else
		rc = fz_write_file(dirfd, "meta", text.data, text.size, 0600, err);
	fz_buf_fini(&text);
	return rc;
}

int ltx_head_create(int dirfd, struct fz_err *err)
{
	uint8_t page[LTX_HEAD_SIZE] = {0};

	memcpy(page + 24, HEAD_MAGIC, 8);
	return fz_write_file(dirfd, "head", page, sizeof(page), 0600, err);
}

int ltx_head_open(struct ltx_head *h, int dirfd, bool writable, struct fz_err *err)
{
	int fd = openat(dirfd, "head", (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	struct stat st;
	void *map;
	int rc = 0;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open the log's head");
	if (fstat(fd, &st) < 0) {
		rc = fz_fail_errno(err, errno, "cannot open the log's head");
		goto out;
	}
	if (st.st_size != LTX_HEAD_SIZE) {
		rc = fz_fail(err, FZ_ECORRUPT, "log head has %lld bytes", (long long)st.st_size);
		goto out;
	}
	map = mmap(NULL, LTX_HEAD_SIZE, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		rc = fz_fail_errno(err, errno, "cannot map the log's head");
		goto out;
	}
	h->map = map;
	h->writable = writable;
	if (memcmp(h->map + 24, HEAD_MAGIC, 8)) {
		rc = fz_fail(err, FZ_ECORRUPT, "log head is damaged");
		ltx_head_close(h);
	}
out:
	fz_close(&fd);
	return rc;
}

void ltx_head_close(struct ltx_head *h)
{
	if (h->map)
		munmap(h->map, LTX_HEAD_SIZE);
	h->map = NULL;
}

static uint64_t load(const struct ltx_head *h, size_t at)
{
	return __builtin_bswap64(__atomic_load_n((const uint64_t *)(const void *)(h->map + at), __ATOMIC_ACQUIRE));
}

static void store(struct ltx_head *h, size_t at, uint64_t v)
{
	__atomic_store_n((uint64_t *)(void *)(h->map + at), __builtin_bswap64(v), __ATOMIC_RELEASE);
}

uint64_t ltx_head_txid(const struct ltx_head *h)
{
	return load(h, 0);
}

void ltx_head_set_txid(struct ltx_head *h, uint64_t txid)
{
	store(h, 0, txid);
}

uint64_t ltx_head_synced(const struct ltx_head *h)
{
	return load(h, 8);
}

void ltx_head_set_synced(struct ltx_head *h, uint64_t txid)
{
	store(h, 8, txid);
}

bool ltx_head_follows(const struct ltx_head *h)
{
	return load(h, 32) == 1;
}

void ltx_head_set_follows(struct ltx_head *h, bool on)
{
	store(h, 32, on);
}

uint64_t ltx_head_last_home(const struct ltx_head *h)
{
	return load(h, 16);
}

void ltx_head_set_home(struct ltx_head *h, uint64_t home)
{
	store(h, 16, home);
}

int ltx_head_sync(struct ltx_head *h, struct fz_err *err)
{
	if (msync(h->map, LTX_HEAD_SIZE, MS_SYNC) < 0)
		return fz_fail_errno(err, errno, "syncing the log's head");
	return 0;
}

uint64_t ltx_head_home(int dirfd)
{
	struct fz_buf id = {0};
	struct statx sx;
	uint64_t home = 0;

	if (statx(dirfd, "head", AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_MNT_ID_UNIQUE, &sx) < 0 ||
	    !(sx.stx_mask & STATX_MNT_ID_UNIQUE))
		return 0;
	if (fz_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &id, NULL) == 0 &&
	    fz_buf_addf(&id, "%llx %llx %x:%x", (unsigned long long)sx.stx_mnt_id, (unsigned long long)sx.stx_ino,
	                sx.stx_dev_major, sx.stx_dev_minor) == 0)
		home = ltx_crc64(0, id.data, id.size);
	fz_buf_fini(&id);
	return home;
}
