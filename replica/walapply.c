#include "replica/walapply.h"

#include "base/cursor.h"
#include "base/file.h"
#include "ltx/wal.h"
#include "replica/lock.h"

#include <errno.h>
#include <stdio.h>
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
#define BATCH_BYTES  (1024 * 1024)

/* lock bytes of the -shm file */
#define L_WRITE   120
#define L_CKPT    121
#define L_RECOVER 122
#define L_READ(i) (123 + (i))
#define L_DMS     128

struct index_header { /* WalIndexHdr, this machine's byte order */
	uint32_t version, unused, change;
	uint8_t is_init, big_endian;
	uint16_t page_size;
	uint32_t mx_frame, pages;
	uint32_t frame_sum[2];
	uint8_t salt[8]; /* as in the WAL's header */
	uint32_t sum[2];
};
struct index_info { /* WalCkptInfo */
	uint32_t backfill, mark[5];
	uint8_t locks[8];
	uint32_t backfill_attempted, unused;
};
_Static_assert(sizeof(struct index_header) == 48 && sizeof(struct index_info) == 40, "SQLite's layout");

struct replica_wal {
	int dbfd, walfd, shmfd;
	uint32_t page_size;
	uint8_t **regions;
	uint32_t n_regions;
	struct index_header h; /* current view */
	bool writing;          /* holds WRITE */
	/* the transaction under way */
	uint32_t frame;   /* last frame appended to the index or pending in the batch */
	uint32_t indexed; /* last frame in WAL and index */
	uint32_t sum[2];
	uint8_t *batch; /* frames not written yet */
	uint32_t *batch_pgno;
	uint32_t batch_n, batch_max;
	uint8_t *last;      /* page of the newest frame, which is not in the batch yet: it may be the commit frame */
	uint32_t last_pgno; /* 0 = none */
};

static void barrier(void)
{
	__sync_synchronize();
}

static uint16_t encode_size(uint32_t n)
{
	return (uint16_t)((n & 0xff00) | n >> 16);
}

static uint32_t decode_size(uint16_t n)
{
	return (n & 0xfe00u) + ((n & 1u) << 16);
}

static int shm_error(struct fz_err *err, int rc, const char *what)
{
	return rc == -EAGAIN ? fz_fail(err, FZ_EBUSY, "%s: another connection holds the lock", what)
	                     : fz_fail_errno(err, -rc, "%s", what);
}

/* ---- regions ---- */
static uint8_t *region(struct replica_wal *w, uint32_t i, struct fz_err *err)
{
	while (w->n_regions <= i) {
		off_t end = (off_t)(w->n_regions + 1) * REGION_BYTES;
		uint8_t **v = reallocarray(w->regions, w->n_regions + 1, sizeof(*v));
		struct stat st;
		void *m;

		if (!v) {
			(void)fz_fail_errno(err, ENOMEM, "mapping the wal-index");
			return NULL;
		}
		w->regions = v;
		if (fstat(w->shmfd, &st) < 0) {
			(void)fz_fail_errno(err, errno, "reading the size of the wal-index");
			return NULL;
		}
		/* as SQLite: the last byte of each 4 KiB, so that a full disk shows here and not as SIGBUS */
		for (off_t off = st.st_size / 4096; off < end / 4096; off++) {
			int rc = fz_pwrite(w->shmfd, "", 1, off * 4096 + 4095);

			if (rc < 0) {
				(void)fz_fail_errno(err, -rc, "extending the wal-index");
				return NULL;
			}
		}
		m = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, w->shmfd, end - REGION_BYTES);
		if (m == MAP_FAILED) {
			(void)fz_fail_errno(err, errno, "mapping the wal-index");
			return NULL;
		}
		w->regions[w->n_regions++] = m;
	}
	return w->regions[i];
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

static int hash_of(struct replica_wal *w, uint32_t i, struct hash *h, struct fz_err *err)
{
	uint8_t *r = region(w, i, err);

	if (!r)
		return err->code;
	h->slot = (volatile uint16_t *)(void *)(r + REGION_PAGES * 4);
	h->pgno = (volatile uint32_t *)(void *)(i ? r : r + FIRST_OFF);
	h->zero = i ? FIRST_PAGES + (i - 1) * REGION_PAGES : 0;
	h->n = i ? REGION_PAGES : FIRST_PAGES;
	return 0;
}

/* Forget what an unfinished transaction left beyond frame mx. */
static int cleanup(struct replica_wal *w, uint32_t mx, struct fz_err *err)
{
	struct hash h;
	uint32_t keep;
	int rc;

	if (!mx)
		return 0; /* the first entry of a region zeroes it */
	rc = hash_of(w, region_of(mx), &h, err);
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

static int index_append(struct replica_wal *w, uint32_t frame, uint32_t pgno, struct fz_err *err)
{
	struct hash h;
	uint32_t i, tries;
	unsigned k;
	int rc = hash_of(w, region_of(frame), &h, err);

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
		rc = cleanup(w, w->indexed, err);
		if (rc < 0)
			return rc;
	}
	tries = i;
	for (k = (pgno * 383) & (SLOTS - 1); h.slot[k]; k = (k + 1) & (SLOTS - 1))
		if (!tries--)
			return fz_fail(err, FZ_ECORRUPT, "the wal-index is damaged at frame %u", frame);
	h.pgno[i - 1] = pgno;
	__atomic_store_n(&h.slot[k], (uint16_t)i, __ATOMIC_RELEASE);
	return 0;
}

/* The newest frame <= last that holds pgno; 0 = none. */
static int find_frame(struct replica_wal *w, uint32_t pgno, uint32_t last, uint32_t *frame, struct fz_err *err)
{
	*frame = 0;
	for (uint32_t r = last ? region_of(last) + 1 : 0; r && !*frame; r--) {
		unsigned tries = SLOTS;
		struct hash h;
		int rc = hash_of(w, r - 1, &h, err);

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

/* ---- header ---- */
static volatile struct index_info *info_of(struct replica_wal *w)
{
	return (volatile struct index_info *)(void *)(w->regions[0] + 96);
}

static void header_sum(const struct index_header *h, uint32_t sum[2])
{
	const uint16_t one = 1;

	sum[0] = sum[1] = 0;
	ltx_wal_sum(*(const uint8_t *)&one == 0, h, 40, sum); /* this machine's byte order */
}

static bool read_header(struct replica_wal *w)
{
	struct index_header a, b;
	uint32_t sum[2];

	memcpy(&a, w->regions[0], sizeof(a));
	barrier();
	memcpy(&b, w->regions[0] + sizeof(a), sizeof(b));
	header_sum(&a, sum);
	if (memcmp(&a, &b, sizeof(a)) || !a.is_init || a.version != VERSION || memcmp(sum, a.sum, sizeof(sum)))
		return false;
	w->h = a;
	return true;
}

static void publish(struct replica_wal *w)
{
	w->h.is_init = 1;
	w->h.version = VERSION;
	header_sum(&w->h, w->h.sum);
	barrier();
	memcpy(w->regions[0] + sizeof(w->h), &w->h, sizeof(w->h));
	barrier();
	memcpy(w->regions[0], &w->h, sizeof(w->h));
	barrier();
}

/* Builds the wal-index anew from the WAL, as SQLite does: every valid commit frame counts. Caller holds WRITE. */
static int recover(struct replica_wal *w, uint64_t deadline_ns, struct fz_err *err)
{
	uint8_t head[LTX_WAL_HEADER_SIZE], *private = NULL, *shared, *frame = NULL;
	const uint32_t frame_bytes = LTX_WAL_FRAME_SIZE + w->page_size;
	volatile struct index_info *info;
	struct ltx_wal_header wh;
	struct ltx_wal_frame f;
	uint32_t good[2] = {0, 0}, sum[2];
	struct fz_err ignored;
	int rc;

	rc = replica_lock(w->shmfd, F_WRLCK, L_CKPT, 2, deadline_ns);
	if (rc < 0)
		return shm_error(err, rc, "recovering the wal-index");
	memset(&w->h, 0, sizeof(w->h));
	/* any failure to read a whole, valid header means an empty WAL */
	if (fz_pread(w->walfd, head, sizeof(head), 0) == sizeof(head) && ltx_wal_header_get(&wh, head, &ignored) == 0) {
		bool more = true;

		if (wh.page_size != w->page_size) {
			rc = fz_fail(err, FZ_ECORRUPT, "the WAL has pages of %u bytes, the database of %u",
			             wh.page_size, w->page_size);
			goto out;
		}
		w->h.big_endian = wh.big_endian;
		memcpy(w->h.salt, head + 16, 8);
		memcpy(sum, wh.sum, sizeof(sum));
		private = malloc(REGION_BYTES);
		frame = malloc(frame_bytes);
		if (!private || !frame) {
			rc = fz_fail_errno(err, ENOMEM, "recovering the wal-index");
			goto out;
		}
		/* each region is built aside: what readers rely on is overwritten with the same bytes only */
		for (uint32_t r = 0, n = 1; more; r++) {
			shared = region(w, r, err);
			if (!shared) {
				rc = err->code;
				goto out;
			}
			memset(private, 0, REGION_BYTES);
			w->regions[r] = private;
			for (; rc == 0 && n <= FIRST_PAGES + r * REGION_PAGES; n++) {
				more = fz_pread(w->walfd, frame, frame_bytes,
				                (off_t)ltx_wal_frame_off(w->page_size, n)) == (ssize_t)frame_bytes &&
				       ltx_wal_frame_ok(&wh, frame, sum);
				if (!more)
					break;
				ltx_wal_frame_get(&f, frame);
				w->indexed = n - 1;
				rc = index_append(w, n, f.pgno, err);
				if (f.commit) {
					w->h.mx_frame = n;
					w->h.pages = f.commit;
					w->h.page_size = encode_size(w->page_size);
					memcpy(good, sum, sizeof(good));
				}
			}
			w->regions[r] = shared;
			if (rc < 0)
				goto out;
			memcpy(shared + (r ? 0 : FIRST_OFF), private + (r ? 0 : FIRST_OFF),
			       REGION_BYTES - (r ? 0 : FIRST_OFF));
		}
	}
	memcpy(w->h.frame_sum, good, sizeof(good));
	if (w->h.mx_frame)
		rc = cleanup(w, w->h.mx_frame, err);
	if (rc < 0)
		goto out;
	publish(w);
	info = info_of(w);
	info->backfill = 0;
	info->backfill_attempted = w->h.mx_frame;
	info->mark[0] = 0;
	for (int i = 1; i < 5; i++) {
		if (replica_lock(w->shmfd, F_WRLCK, L_READ(i), 1, 0) < 0)
			continue; /* a reader relies on it */
		info->mark[i] = i == 1 && w->h.mx_frame ? w->h.mx_frame : UNUSED_MARK;
		(void)replica_lock(w->shmfd, F_UNLCK, L_READ(i), 1, 0);
	}
out:
	(void)replica_lock(w->shmfd, F_UNLCK, L_CKPT, 2, 0);
	free(private);
	free(frame);
	return rc;
}

/* ---- attach ---- */
static int open_beside(const char *path, const char *suffix, const struct stat *db, struct fz_err *err)
{
	char *p;
	int fd;

	if (asprintf(&p, "%s%s", path, suffix) < 0)
		return fz_fail_errno(err, ENOMEM, "opening %s%s", path, suffix);
	fd = open(p, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, db->st_mode & 0777);
	if (fd >= 0) {
		/* whoever uses the database must be able to use this file: its mode and owner, as SQLite does it */
		(void)fchmod(fd, db->st_mode & 0777);
		if (geteuid() == 0 && fchown(fd, db->st_uid, db->st_gid) < 0 && errno != EPERM) {
			int rc = fz_fail_errno(err, errno, "setting the owner of %s", p);

			fz_close(&fd);
			free(p);
			return rc;
		}
	} else if (errno == EEXIST) {
		fd = open(p, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	}
	if (fd < 0)
		fd = fz_fail_errno(err, errno, "cannot open %s", p);
	free(p);
	return fd;
}

/* The dead man's switch: whoever comes first discards what a crash left in the wal-index. */
static int take_dms(struct replica_wal *w, uint64_t deadline_ns, struct fz_err *err)
{
	int rc;

	for (;;) {
		int who = replica_lock_test(w->shmfd, L_DMS, 1);

		if (who < 0)
			return fz_fail_errno(err, -who, "locking the wal-index");
		if (who == F_UNLCK && replica_lock(w->shmfd, F_WRLCK, L_DMS, 1, 0) == 0 && ftruncate(w->shmfd, 3) < 0)
			return fz_fail_errno(err, errno, "truncating the wal-index");
		/* a write lock of another process lasts for its truncation only */
		rc = replica_lock(w->shmfd, F_RDLCK, L_DMS, 1, who == F_WRLCK ? deadline_ns : 0);
		if (rc == 0)
			return 0;
		if (rc != -EAGAIN || who == F_WRLCK)
			return shm_error(err, rc, "locking the wal-index");
	}
}

int replica_wal_attach(struct replica_wal **out, int dbfd, const char *path, uint32_t page_size, uint64_t deadline_ns,
                       struct fz_err *err)
{
	struct replica_wal *w = calloc(1, sizeof(*w));
	struct stat st;
	int rc = 0;

	if (!w)
		return fz_fail_errno(err, ENOMEM, "attaching to %s", path);
	w->dbfd = dbfd;
	w->walfd = w->shmfd = -1;
	w->page_size = page_size;
	w->batch_max = BATCH_BYTES / page_size;
	w->batch = malloc((size_t)w->batch_max * (LTX_WAL_FRAME_SIZE + page_size));
	w->batch_pgno = calloc(w->batch_max, sizeof(*w->batch_pgno));
	w->last = malloc(page_size);
	if (!w->batch || !w->batch_pgno || !w->last)
		rc = fz_fail_errno(err, ENOMEM, "attaching to %s", path);
	else if (fstat(dbfd, &st) < 0)
		rc = fz_fail_errno(err, errno, "attaching to %s", path);
	if (rc == 0)
		rc = w->walfd = open_beside(path, "-wal", &st, err);
	if (rc >= 0)
		rc = w->shmfd = open_beside(path, "-shm", &st, err);
	if (rc >= 0)
		rc = take_dms(w, deadline_ns, err);
	if (rc == 0 && !region(w, 0, err))
		rc = err->code;
	if (rc < 0) {
		replica_wal_detach(w);
		return rc;
	}
	*out = w;
	return 0;
}

static void end(struct replica_wal *w)
{
	if (w->writing)
		(void)replica_lock(w->shmfd, F_UNLCK, L_WRITE, 1, 0);
	w->writing = false;
	w->batch_n = 0;
	w->last_pgno = 0;
}

void replica_wal_detach(struct replica_wal *w)
{
	struct fz_err ignored;

	if (!w)
		return;
	if (w->writing && w->indexed > w->h.mx_frame)
		(void)cleanup(w, w->h.mx_frame, &ignored);
	if (w->shmfd >= 0)
		end(w);
	for (uint32_t i = 0; i < w->n_regions; i++)
		munmap(w->regions[i], REGION_BYTES);
	free(w->regions);
	fz_close(&w->shmfd);
	fz_close(&w->walfd);
	free(w->batch);
	free(w->batch_pgno);
	free(w->last);
	free(w);
}

/* ---- transaction ---- */
int replica_wal_begin(struct replica_wal *w, uint64_t deadline_ns, struct fz_err *err)
{
	volatile struct index_info *info;
	struct stat st;
	int rc;

	rc = replica_lock(w->shmfd, F_WRLCK, L_WRITE, 1, deadline_ns);
	if (rc < 0)
		return shm_error(err, rc, "waiting for the writer of the database");
	w->writing = true;
	if (!read_header(w)) {
		rc = recover(w, deadline_ns, err);
		if (rc < 0)
			goto fail;
	}
	if (w->h.mx_frame && decode_size(w->h.page_size) != w->page_size) {
		rc = fz_fail(err, FZ_ECORRUPT, "the wal-index has pages of %u bytes, the database of %u",
		             decode_size(w->h.page_size), w->page_size);
		goto fail;
	}
	if (!w->h.mx_frame) {
		if (fstat(w->dbfd, &st) < 0) {
			rc = fz_fail_errno(err, errno, "reading the size of the database");
			goto fail;
		}
		w->h.pages = (uint32_t)((st.st_size + w->page_size - 1) / w->page_size);
	}
	info = info_of(w);
	if (info->backfill > w->h.mx_frame)
		info->backfill = 0; /* a crash inside a restart of the WAL */
	w->frame = w->indexed = w->h.mx_frame;
	memcpy(w->sum, w->h.frame_sum, sizeof(w->sum));
	return 0;
fail:
	end(w);
	return rc;
}

uint32_t replica_wal_pages(const struct replica_wal *w)
{
	return w->h.pages;
}

int replica_wal_read(struct replica_wal *w, uint32_t pgno, uint8_t *page, struct fz_err *err)
{
	uint32_t frame;
	ssize_t n;
	int rc = find_frame(w, pgno, w->h.mx_frame, &frame, err);

	if (rc < 0)
		return rc;
	if (frame)
		n = fz_pread(w->walfd, page, w->page_size,
		             (off_t)ltx_wal_frame_off(w->page_size, frame) + LTX_WAL_FRAME_SIZE);
	else
		n = fz_pread(w->dbfd, page, w->page_size, (off_t)(pgno - 1) * w->page_size);
	if (n < 0)
		return fz_fail_errno(err, (int)-n, "reading page %u", pgno);
	if (frame && (uint32_t)n < w->page_size)
		return fz_fail(err, FZ_ETRUNCATED, "the WAL ends inside frame %u", frame);
	memset(page + n, 0, w->page_size - (size_t)n);
	return 0;
}

/* A WAL without frames gets a header of a new generation, so that nothing that lies behind it can ever be valid. */
static int new_generation(struct replica_wal *w, struct fz_err *err)
{
	uint8_t head[LTX_WAL_HEADER_SIZE], old[LTX_WAL_HEADER_SIZE];
	struct ltx_wal_header wh;
	struct fz_err ignored;
	uint32_t seq = 0;
	int rc;

	if (fz_pread(w->walfd, old, sizeof(old), 0) == sizeof(old) && ltx_wal_header_get(&wh, old, &ignored) == 0)
		seq = wh.sequence + 1;
	fz_put32(w->h.salt, fz_be32(w->h.salt) + 1);
	if (getrandom(w->h.salt + 4, 4, 0) != 4)
		return fz_fail_errno(err, errno, "getrandom");
	fz_put32(head, 0x377f0682); /* little-endian checksums */
	fz_put32(head + 4, VERSION);
	fz_put32(head + 8, w->page_size);
	fz_put32(head + 12, seq);
	memcpy(head + 16, w->h.salt, 8);
	w->h.big_endian = 0;
	w->sum[0] = w->sum[1] = 0;
	ltx_wal_sum(false, head, 24, w->sum);
	fz_put32(head + 24, w->sum[0]);
	fz_put32(head + 28, w->sum[1]);
	rc = fz_pwrite(w->walfd, head, sizeof(head), 0);
	if (rc == 0 && fdatasync(w->walfd) < 0)
		rc = -errno;
	return rc < 0 ? fz_fail_errno(err, -rc, "writing the header of the WAL") : 0;
}

static int flush(struct replica_wal *w, struct fz_err *err)
{
	uint32_t first = w->frame - w->batch_n + 1;
	int rc;

	if (!w->batch_n)
		return 0;
	rc = fz_pwrite(w->walfd, w->batch, (size_t)w->batch_n * (LTX_WAL_FRAME_SIZE + w->page_size),
	               (off_t)ltx_wal_frame_off(w->page_size, first));
	if (rc < 0)
		return fz_fail_errno(err, -rc, "writing %u frames into the WAL", w->batch_n);
	for (uint32_t i = 0; rc == 0 && i < w->batch_n; i++) {
		rc = index_append(w, first + i, w->batch_pgno[i], err);
		if (rc == 0)
			w->indexed = first + i;
	}
	w->batch_n = 0;
	return rc;
}

/* Moves the page that waits into the batch, as commit frame when pages > 0. */
static int push_last(struct replica_wal *w, uint32_t pages, struct fz_err *err)
{
	uint8_t *f;
	int rc = 0;

	if (w->batch_n == w->batch_max)
		rc = flush(w, err);
	if (rc == 0 && w->frame == 0 && !w->h.mx_frame)
		rc = new_generation(w, err);
	if (rc < 0)
		return rc;
	f = w->batch + (size_t)w->batch_n * (LTX_WAL_FRAME_SIZE + w->page_size);
	fz_put32(f, w->last_pgno);
	fz_put32(f + 4, pages);
	memcpy(f + 8, w->h.salt, 8);
	memcpy(f + LTX_WAL_FRAME_SIZE, w->last, w->page_size);
	ltx_wal_sum(w->h.big_endian, f, 8, w->sum);
	ltx_wal_sum(w->h.big_endian, f + LTX_WAL_FRAME_SIZE, w->page_size, w->sum);
	fz_put32(f + 16, w->sum[0]);
	fz_put32(f + 20, w->sum[1]);
	w->batch_pgno[w->batch_n++] = w->last_pgno;
	w->frame++;
	w->last_pgno = 0;
	return 0;
}

int replica_wal_write(struct replica_wal *w, uint32_t pgno, const uint8_t *page, struct fz_err *err)
{
	int rc = w->last_pgno ? push_last(w, 0, err) : 0;

	if (rc == 0) {
		memcpy(w->last, page, w->page_size);
		w->last_pgno = pgno;
	}
	return rc;
}

int replica_wal_commit(struct replica_wal *w, uint32_t pages, struct fz_err *err)
{
	int rc;

	if (!w->last_pgno)
		return fz_fail(err, FZ_EINTERNAL, "a transaction without a page");
	rc = push_last(w, pages, err);
	if (rc == 0)
		rc = flush(w, err);
	if (rc == 0 && fdatasync(w->walfd) < 0)
		rc = fz_fail_errno(err, errno, "syncing the WAL");
	if (rc < 0)
		return rc;
	w->h.page_size = encode_size(w->page_size);
	w->h.mx_frame = w->frame;
	w->h.pages = pages;
	memcpy(w->h.frame_sum, w->sum, sizeof(w->sum));
	w->h.change++;
	publish(w);
	end(w);
	return 0;
}
