#include "fs/pages.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HEAP_MAX 65536u /* entries: 1 MiB */

void fs_pages_init(struct fs_pages *p, int dirfd)
{
	*p = (struct fs_pages){.dirfd = dirfd, .fd = -1};
}

static int grow(struct fs_pages *p, struct fz_err *err)
{
	size_t cap = p->cap ? p->cap * 2 : 64;
	void *e;
	int fd, rc;

	if (cap <= HEAP_MAX) {
		e = realloc(p->e, cap * sizeof(*p->e));
		if (!e)
			return fz_fail(err, -ENOMEM, "no memory for a list of pages");
		p->e = e;
		p->cap = cap;
		return 0;
	}
	fd = p->fd >= 0 ? p->fd : openat(p->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot make a temporary file for a large transaction");
	/* really there, so that a full disk is an error here and no SIGBUS later */
	rc = posix_fallocate(fd, 0, (off_t)(cap * sizeof(*p->e)));
	if (rc) {
		if (p->fd < 0)
			fz_close(&fd);
		return fz_fail_errno(err, rc, "cannot grow the temporary file of a large transaction");
	}
	e = mmap(NULL, cap * sizeof(*p->e), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (e == MAP_FAILED) {
		rc = errno;
		if (p->fd < 0)
			fz_close(&fd);
		return fz_fail_errno(err, rc, "cannot map the temporary file of a large transaction");
	}
	if (p->fd < 0) {
		memcpy(e, p->e, p->n * sizeof(*p->e));
		free(p->e);
	} else {
		munmap(p->e, p->cap * sizeof(*p->e));
	}
	p->fd = fd;
	p->e = e;
	p->cap = cap;
	return 0;
}

int fs_pages_add(struct fs_pages *p, uint32_t pgno, uint32_t frame, struct fz_err *err)
{
	if (p->n == p->cap) {
		int rc = grow(p, err);

		if (rc < 0)
			return rc;
	}
	p->e[p->n++] = (struct fs_page){pgno, frame, 0};
	return 0;
}

static bool less(const struct fs_page *a, const struct fs_page *b)
{
	return a->pgno != b->pgno ? a->pgno < b->pgno : a->frame < b->frame;
}

static void swap(struct fs_page *a, struct fs_page *b)
{
	struct fs_page t = *a;

	*a = *b;
	*b = t;
}

static void sift(struct fs_page *e, size_t root, size_t n)
{
	for (size_t child; (child = 2 * root + 1) < n; root = child) {
		if (child + 1 < n && less(&e[child], &e[child + 1]))
			child++;
		if (!less(&e[root], &e[child]))
			return;
		swap(&e[root], &e[child]);
	}
}

/* In place (qsort of glibc may allocate as much again): quicksort, heapsort when it goes too deep. */
static void sort(struct fs_page *e, size_t n, int depth)
{
	while (n > 16) {
		size_t i = 0, j = n - 1;
		struct fs_page mid;

		if (!depth--) {
			for (size_t k = n / 2; k-- > 0;)
				sift(e, k, n);
			for (size_t k = n; k-- > 1;) {
				swap(&e[0], &e[k]);
				sift(e, 0, k);
			}
			return;
		}
		mid = e[n / 2];
		for (;;) {
			while (less(&e[i], &mid))
				i++;
			while (less(&mid, &e[j]))
				j--;
			if (i >= j)
				break;
			swap(&e[i++], &e[j--]);
		}
		/* e[0..j] <= mid <= e[j+1..]; recurse into the smaller half */
		if (j + 1 < n - j - 1) {
			sort(e, j + 1, depth);
			e += j + 1;
			n -= j + 1;
		} else {
			sort(e + j + 1, n - j - 1, depth);
			n = j + 1;
		}
	}
	for (size_t i = 1; i < n; i++)
		for (size_t j = i; j > 0 && less(&e[j], &e[j - 1]); j--)
			swap(&e[j], &e[j - 1]);
}

void fs_pages_order(struct fs_pages *p)
{
	bool sorted = true;

	for (size_t i = 1; i < p->n && sorted; i++)
		sorted = !less(&p->e[i], &p->e[i - 1]);
	if (!sorted)
		sort(p->e, p->n, 64);
}

void fs_pages_sort(struct fs_pages *p, uint32_t max_pgno, uint32_t skip)
{
	size_t n = 0;

	fs_pages_order(p);
	for (size_t i = 0; i < p->n; i++) {
		if (p->e[i].pgno > max_pgno || p->e[i].pgno == skip)
			continue;
		if (n && p->e[n - 1].pgno == p->e[i].pgno)
			n--;
		p->e[n++] = p->e[i];
	}
	p->n = n;
}

const struct fs_page *fs_pages_find(const struct fs_pages *p, uint32_t pgno)
{
	size_t lo = 0, hi = p->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->e[mid].pgno < pgno)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < p->n && p->e[lo].pgno == pgno ? &p->e[lo] : NULL;
}

void fs_pages_reset(struct fs_pages *p)
{
	if (p->fd >= 0) {
		munmap(p->e, p->cap * sizeof(*p->e));
		fz_close(&p->fd);
		p->e = NULL;
		p->cap = 0;
	}
	p->n = 0;
}

void fs_pages_fini(struct fs_pages *p)
{
	fs_pages_reset(p);
	free(p->e);
	p->e = NULL;
	p->cap = 0;
}
