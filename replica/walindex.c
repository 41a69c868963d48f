#include "replica/walindex.h"

#include "base/cursor.h"
#include "base/file.h"
#include "ltx/wal.h"
#include "replica/lock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define REGION_BYTES 32768
#define REGION_PAGES 4096 /* frames a region, but the first */
#define FIRST_PAGES  4062
#define SLOTS        8192
#define FIRST_OFF    136 /* header copies and checkpoint info */
#define VERSION      3007000
#define UNUSED_MARK  0xffffffffu

_Static_assert(sizeof(struct replica_walindex_header) == 48 && sizeof(struct replica_walindex_info) == 40,
               "SQLite's layout");

static void barrier(void)
{
	__sync_synchronize();
}

uint16_t replica_walindex_size_put(uint32_t n)
{
	return (uint16_t)((n & 0xff00) | n >> 16);
}

uint32_t replica_walindex_size_get(uint16_t n)
{
	return (n & 0xfe00u) + ((n & 1u) << 16);
}

static int shm_error(struct fz_err *err, int rc, const char *what)
{
	return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "%s: another connection holds the lock", what)
	                     : fz_fail_errno(err, -rc, "%s", what);
}

/* ---- regions ---- */
static uint8_t *region(struct replica_walindex *x, uint32_t i, struct fz_err *err)
{
	while (x->n_regions <= i) {
		off_t end = (off_t)(x->n_regions + 1) * REGION_BYTES;
		uint8_t **v = reallocarray(x->regions, x->n_regions + 1, sizeof(*v));
		struct stat st;
		void *m;

		if (!v) {
			(void)fz_fail_errno(err, ENOMEM, "mapping the wal-index");
			return NULL;
		}
		x->regions = v;
		if (fstat(x->fd, &st) < 0) {
			(void)fz_fail_errno(err, errno, "reading the size of the wal-index");
			return NULL;
		}
		/* as SQLite: the last byte of each 4 KiB, so that a full disk shows here and not as SIGBUS */
		for (off_t off = st.st_size / 4096; off < end / 4096; off++) {
			int rc = fz_pwrite(x->fd, "", 1, off * 4096 + 4095);

			if (rc < 0) {
				(void)fz_fail_errno(err, -rc, "extending the wal-index");
				return NULL;
			}
		}
		m = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, end - REGION_BYTES);
		if (m == MAP_FAILED) {
			(void)fz_fail_errno(err, errno, "mapping the wal-index");
			return NULL;
		}
		(void)madvise(m, REGION_BYTES, MADV_DONTFORK); /* a mapping would keep our locks alive in a child */
		x->regions[x->n_regions++] = m;
	}
	return x->regions[i];
}

static uint32_t region_of(uint32_t frame)
{
	return (frame + REGION_PAGES - FIRST_PAGES - 1) / REGION_PAGES;
}

struct hash {
	volatile uint32_t *pgno; /* [0] = frame zero + 1 */
	volatile uint16_t *slot;
	uint32_t zero, n;
};

static int hash_of(struct replica_walindex *x, uint32_t i, struct hash *h, struct fz_err *err)
{
	uint8_t *r = region(x, i, err);

	if (!r)
		return err->code;
	h->slot = (volatile uint16_t *)(void *)(r + REGION_PAGES * 4);
	h->pgno = (volatile uint32_t *)(void *)(i ? r : r + FIRST_OFF);
	h->zero = i ? FIRST_PAGES + (i - 1) * REGION_PAGES : 0;
	h->n = i ? REGION_PAGES : FIRST_PAGES;
	return 0;
}

/* Forget what an unfinished transaction left beyond frame mx. */
static int forget(struct replica_walindex *x, uint32_t mx, struct fz_err *err)
{
	struct hash h;
	uint32_t keep;
	int rc;

	if (!mx)
		return 0; /* the first entry of a region zeroes it */
	rc = hash_of(x, region_of(mx), &h, err);
	if (rc < 0)
		return rc;
	keep = mx - h.zero;
	for (unsigned i = 0; i < SLOTS; i++)
		if (h.slot[i] > keep)
			h.slot[i] = 0;
	for (uint32_t i = keep; i < h.n; i++)
		h.pgno[i] = 0;
	return 0;
}

int replica_walindex_append(struct replica_walindex *x, uint32_t pgno, struct fz_err *err)
{
	uint32_t frame = x->indexed + 1;
	struct hash h;
	uint32_t i, tries;
	unsigned k;
	int rc = hash_of(x, region_of(frame), &h, err);

	if (rc < 0)
		return rc;
	i = frame - h.zero;
	if (i == 1) {
		for (uint32_t p = 0; p < h.n; p++)
			h.pgno[p] = 0;
		for (unsigned s = 0; s < SLOTS; s++)
			h.slot[s] = 0;
	}
	if (h.pgno[i - 1]) {
		rc = forget(x, x->indexed, err);
		if (rc < 0)
			return rc;
	}
	tries = i;
	for (k = (pgno * 383) & (SLOTS - 1); h.slot[k]; k = (k + 1) & (SLOTS - 1))
		if (!tries--)
			return fz_fail(err, FZ_ECORRUPT, "the wal-index is damaged at frame %u", frame);
	h.pgno[i - 1] = pgno;
	__atomic_store_n(&h.slot[k], (uint16_t)i, __ATOMIC_RELEASE);
	x->indexed = frame;
	return 0;
}

int replica_walindex_find(struct replica_walindex *x, uint32_t pgno, uint32_t last, uint32_t *frame, struct fz_err *err)
{
	*frame = 0;
	for (uint32_t r = last ? region_of(last) + 1 : 0; r && !*frame; r--) {
		unsigned tries = SLOTS;
		struct hash h;
		int rc = hash_of(x, r - 1, &h, err);

		if (rc < 0)
			return rc;
		for (unsigned k = (pgno * 383) & (SLOTS - 1); h.slot[k]; k = (k + 1) & (SLOTS - 1)) {
			uint32_t i = h.slot[k];

			if (!tries-- || i > h.n)
				return fz_fail(err, FZ_ECORRUPT, "the wal-index is damaged");
			if (i + h.zero <= last && h.pgno[i - 1] == pgno && i + h.zero > *frame)
				*frame = i + h.zero;
		}
	}
	return 0;
}

int replica_walindex_page(struct replica_walindex *x, uint32_t frame, uint32_t *pgno, struct fz_err *err)
{
	struct hash h = {0};
	int rc = hash_of(x, region_of(frame), &h, err);

	if (rc < 0)
		return rc;
	*pgno = h.pgno[frame - h.zero - 1];
	return *pgno ? 0 : fz_fail(err, FZ_ECORRUPT, "the wal-index has no page for frame %u", frame);
}

/* ---- header ---- */
volatile struct replica_walindex_info *replica_walindex_info(struct replica_walindex *x)
{
	return (volatile struct replica_walindex_info *)(void *)(x->regions[0] + 96);
}

static void header_sum(const struct replica_walindex_header *h, uint32_t sum[2])
{
	const uint16_t one = 1;

	sum[0] = sum[1] = 0;
	ltx_wal_sum(*(const uint8_t *)&one == 0, h, 40, sum); /* this machine's byte order */
}

static bool header_ok(const struct replica_walindex_header *h)
{
	uint32_t sum[2];

	header_sum(h, sum);
	return h->is_init && h->version == VERSION && !memcmp(sum, h->sum, sizeof(sum));
}

/* Under WRITE. Copy 1 is written first, after frames and entries: when it is whole and copy 0 differs, whoever published died
 * between the two, and writing copy 0 finishes it. */
static bool read_header(struct replica_walindex *x)
{
	struct replica_walindex_header a, b;

	memcpy(&a, x->regions[0], sizeof(a));
	barrier();
	memcpy(&b, x->regions[0] + sizeof(a), sizeof(b));
	if (!header_ok(&b))
		return false;
	if (memcmp(&a, &b, sizeof(a))) {
		memcpy(x->regions[0], &b, sizeof(b));
		barrier();
	}
	x->h = b;
	return true;
}

void replica_walindex_publish(struct replica_walindex *x)
{
	x->h.is_init = 1;
	x->h.version = VERSION;
	header_sum(&x->h, x->h.sum);
	barrier();
	memcpy(x->regions[0] + sizeof(x->h), &x->h, sizeof(x->h));
	barrier();
	memcpy(x->regions[0], &x->h, sizeof(x->h));
	barrier();
}

/* Builds the wal-index anew from the WAL, as SQLite does: every valid commit frame counts. Caller holds WRITE. */
static int recover(struct replica_walindex *x, int walfd, uint64_t deadline_ns, struct fz_err *err)
{
	uint8_t head[LTX_WAL_HEADER_SIZE], *private = NULL, *shared, *frame = NULL;
	uint32_t frame_bytes;
	volatile struct replica_walindex_info *info;
	struct ltx_wal_header wh;
	struct ltx_wal_frame f;
	uint32_t good[2] = {0, 0}, sum[2];
	struct fz_err ignored;
	int rc;

	rc = replica_lock(x->fd, F_WRLCK, REPLICA_SHM_CKPT + x->held, 2 - x->held, deadline_ns);
	if (rc < 0)
		return shm_error(err, rc, "recovering the wal-index");
	memset(&x->h, 0, sizeof(x->h));
	/* any failure to read a whole, valid header means an empty WAL */
	if (fz_pread(walfd, head, sizeof(head), 0) == sizeof(head) && ltx_wal_header_get(&wh, head, &ignored) == 0) {
		bool more = true;

		if (x->held)
			x->page_size = wh.page_size;
		if (wh.page_size != x->page_size) {
			rc = fz_fail(err, FZ_ECORRUPT, "the WAL has pages of %u bytes, the database of %u",
			             wh.page_size, x->page_size);
			goto out;
		}
		x->h.big_endian = wh.big_endian;
		memcpy(x->h.salt, head + 16, 8);
		memcpy(sum, wh.sum, sizeof(sum));
		frame_bytes = LTX_WAL_FRAME_SIZE + x->page_size;
		private = malloc(REGION_BYTES);
		frame = malloc(frame_bytes);
		if (!private || !frame) {
			rc = fz_fail_errno(err, ENOMEM, "recovering the wal-index");
			goto out;
		}
		/* each region is built aside: what readers rely on is overwritten with the same bytes only */
		for (uint32_t r = 0, n = 1; more; r++) {
			shared = region(x, r, err);
			if (!shared) {
				rc = err->code;
				goto out;
			}
			memset(private, 0, REGION_BYTES);
			x->regions[r] = private;
			for (; rc == 0 && n <= FIRST_PAGES + r * REGION_PAGES; n++) {
				more = fz_pread(walfd, frame, frame_bytes, (off_t)ltx_wal_frame_off(x->page_size, n)) ==
				               (ssize_t)frame_bytes &&
				       ltx_wal_frame_ok(&wh, frame, sum);
				if (!more)
					break;
				ltx_wal_frame_get(&f, frame);
				x->indexed = n - 1;
				rc = replica_walindex_append(x, f.pgno, err);
				if (f.commit) {
					x->h.mx_frame = n;
					x->h.pages = f.commit;
					x->h.page_size = replica_walindex_size_put(x->page_size);
					memcpy(good, sum, sizeof(good));
				}
			}
			x->regions[r] = shared;
			if (rc < 0)
				goto out;
			memcpy(shared + (r ? 0 : FIRST_OFF), private + (r ? 0 : FIRST_OFF),
			       REGION_BYTES - (r ? 0 : FIRST_OFF));
		}
	}
	memcpy(x->h.frame_sum, good, sizeof(good));
	if (x->h.mx_frame)
		rc = forget(x, x->h.mx_frame, err);
	if (rc < 0)
		goto out;
	replica_walindex_publish(x);
	info = replica_walindex_info(x);
	info->backfill = 0;
	info->backfill_attempted = x->h.mx_frame;
	info->mark[0] = 0;
	for (int i = 1; i < 5; i++) {
		if (replica_lock(x->fd, F_WRLCK, REPLICA_SHM_READ(i), 1, 0) < 0)
			continue; /* a reader relies on it */
		info->mark[i] = i == 1 && x->h.mx_frame ? x->h.mx_frame : UNUSED_MARK;
		(void)replica_lock(x->fd, F_UNLCK, REPLICA_SHM_READ(i), 1, 0);
	}
out:
	(void)replica_lock(x->fd, F_UNLCK, REPLICA_SHM_CKPT + x->held, 2 - x->held, 0);
	free(private);
	free(frame);
	return rc;
}

int replica_walindex_restart(struct replica_walindex *x, struct fz_err *err)
{
	volatile struct replica_walindex_info *info = replica_walindex_info(x);
	uint8_t salt[4];
	int rc;

	if (getrandom(salt, sizeof(salt), 0) != sizeof(salt))
		return fz_fail_errno(err, errno, "getrandom");
	rc = replica_lock(x->fd, F_WRLCK, REPLICA_SHM_READ(1), 4, 0);
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return shm_error(err, rc, "restarting the WAL");
	/* first this: a death before the header leaves a WAL that is only backfilled once more */
	info->backfill = 0;
	info->backfill_attempted = 0;
	barrier();
	x->h.mx_frame = 0;
	fz_put32(x->h.salt, fz_be32(x->h.salt) + 1);
	memcpy(x->h.salt + 4, salt, sizeof(salt));
	replica_walindex_publish(x);
	info->mark[1] = 0;
	for (int i = 2; i < 5; i++)
		info->mark[i] = UNUSED_MARK;
	x->indexed = 0;
	(void)replica_lock(x->fd, F_UNLCK, REPLICA_SHM_READ(1), 4, 0);
	return 1;
}

/* The dead man's switch: whoever comes first discards what a crash left in the wal-index. */
static int take_dms(struct replica_walindex *x, uint64_t deadline_ns, struct fz_err *err)
{
	int rc;

	for (;;) {
		int who = replica_lock_test(x->fd, REPLICA_SHM_DMS, 1);

		if (who < 0)
			return fz_fail_errno(err, -who, "locking the wal-index");
		if (who == F_UNLCK && replica_lock(x->fd, F_WRLCK, REPLICA_SHM_DMS, 1, 0) == 0 &&
		    ftruncate(x->fd, 3) < 0)
			return fz_fail_errno(err, errno, "truncating the wal-index");
		/* a write lock of another process lasts for its truncation only */
		rc = replica_lock(x->fd, F_RDLCK, REPLICA_SHM_DMS, 1, who == F_WRLCK ? deadline_ns : 0);
		if (rc == 0)
			return 0;
		if (rc != -EAGAIN || who == F_WRLCK)
			return shm_error(err, rc, "locking the wal-index");
	}
}

void replica_walindex_cleanup(struct replica_walindex *x)
{
	struct fz_err ignored;

	/* best effort: whoever meets a leftover entry forgets it then */
	if (forget(x, x->h.mx_frame, &ignored) == 0)
		x->indexed = x->h.mx_frame;
}

int replica_walindex_open(struct replica_walindex *x, int fd, uint32_t page_size, uint64_t deadline_ns,
                          struct fz_err *err)
{
	int rc;

	*x = (struct replica_walindex){.fd = fd, .page_size = page_size};
	rc = take_dms(x, deadline_ns, err);
	if (rc == 0 && !region(x, 0, err))
		rc = err->code;
	return rc;
}

void replica_walindex_close(struct replica_walindex *x)
{
	for (uint32_t i = 0; i < x->n_regions; i++)
		munmap(x->regions[i], REGION_BYTES);
	free(x->regions);
	x->regions = NULL;
	x->n_regions = 0;
	fz_close(&x->fd);
}

int replica_walindex_read(struct replica_walindex *x, int walfd, uint64_t deadline_ns, struct fz_err *err)
{
	volatile struct replica_walindex_info *info;
	int rc = read_header(x) ? 0 : recover(x, walfd, deadline_ns, err);

	if (rc < 0)
		return rc;
	if (x->held && x->h.mx_frame)
		x->page_size = replica_walindex_size_get(x->h.page_size);
	if (x->h.mx_frame && replica_walindex_size_get(x->h.page_size) != x->page_size)
		return fz_fail(err, FZ_ECORRUPT, "the wal-index has pages of %u bytes, the database of %u",
		               replica_walindex_size_get(x->h.page_size), x->page_size);
	info = replica_walindex_info(x);
	if (info->backfill > x->h.mx_frame)
		info->backfill = 0; /* a crash inside a restart of the WAL */
	x->indexed = x->h.mx_frame;
	return 0;
}
