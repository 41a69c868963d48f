#include "replica/position.h"

#include "base/file.h"
#include "ltx/log.h"
#include "ltx/sums.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES 4096

static const char magic[8] = {'F', 'Z', 'A', 'P', 'P', 'L', '0', '1'};

int replica_position_open(struct replica_position **out, int dirfd, bool make, struct fz_err *err)
{
	static const uint8_t zero[BYTES];
	struct replica_position *p = MAP_FAILED;
	struct stat st;
	int fd, rc = 0;

	fd = openat(dirfd, LTX_LOG_APPLIED, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (make ? O_CREAT : 0), 0600);
	if (fd < 0)
		return errno == ENOENT ? fz_fail(err, FZ_ENOTFOUND, "nothing was applied yet")
		                       : fz_fail_errno(err, errno, "cannot open the position");
	if (fstat(fd, &st) < 0)
		rc = fz_fail_errno(err, errno, "cannot read the position");
	else if (st.st_size < BYTES && !make)
		rc = fz_fail(err, FZ_ENOTFOUND, "the position is empty");
	else if (st.st_size < BYTES && (rc = fz_pwrite(fd, zero, sizeof(zero), 0)) < 0) /* no SIGBUS on a full disk */
		rc = fz_fail_errno(err, -rc, "cannot make the position");
	if (rc == 0) {
		p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			rc = fz_fail_errno(err, errno, "cannot map the position");
	}
	fz_close(&fd);
	if (rc < 0)
		return rc;
	if (memcmp(p->magic, magic, sizeof(magic)) != 0) {
		if (!make) {
			replica_position_close(p);
			return fz_fail(err, FZ_ENOTFOUND, "the position is damaged");
		}
		memset(p, 0, BYTES);
		memcpy(p->magic, magic, sizeof(magic));
		ltx_sums_boot_id(p->boot_id);
	}
	p->boot_id[sizeof(p->boot_id) - 1] = 0;
	*out = p;
	return 0;
}

void replica_position_close(struct replica_position *p)
{
	if (p)
		munmap(p, BYTES);
}

void replica_position_reach(struct replica_position *p, uint64_t txid)
{
	__atomic_store_n(&p->reach, txid, __ATOMIC_SEQ_CST);
}

void replica_position_set(struct replica_position *p, uint64_t txid, uint64_t checksum)
{
	if (p->reach < txid)
		replica_position_reach(p, txid);
	__atomic_store_n(&p->checksum, checksum, __ATOMIC_SEQ_CST);
	__atomic_store_n(&p->txid, txid, __ATOMIC_SEQ_CST);
}

int replica_position_void(struct replica_position *p, struct fz_err *err)
{
	replica_position_set(p, 0, 0);
	p->floor = 0;
	return replica_position_sync(p, err);
}

bool replica_position_fresh(const struct replica_position *p)
{
	char boot[40];

	ltx_sums_boot_id(boot);
	return boot[0] && !strcmp(boot, p->boot_id);
}

int replica_position_sync(struct replica_position *p, struct fz_err *err)
{
	return msync(p, BYTES, MS_SYNC) < 0 ? fz_fail_errno(err, errno, "syncing the position") : 0;
}

int replica_position_remove(int dirfd, struct fz_err *err)
{
	return unlinkat(dirfd, LTX_LOG_APPLIED, 0) < 0 && errno != ENOENT
	               ? fz_fail_errno(err, errno, "removing the position")
	               : 0;
}
