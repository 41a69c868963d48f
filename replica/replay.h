/* replay.h - bring the table of page checksums to a TXID by reading the log: from where it stands, or from the log's base (or TXID
 * 1) on; and, in the same pass, write a new database file. Every LTX file's own checksum is checked on the way, the
 * database checksum at the end: that proves the table, and with it what is compared with it later. */
#ifndef FZ_REPLICA_REPLAY_H
#define FZ_REPLICA_REPLAY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct ltx_log;
struct ltx_sums;

struct replica_replay {
	struct ltx_log *log;   /* borrowed, as all of these */
	struct ltx_sums *sums; /* head->txid says where it stands; 0 = nowhere: from the start */
	uint64_t txid;         /* where to; inside a merged range: its end */
	int fd; /* the new database, empty, and sums cleared; -1 = no file. Page 1 says WAL (bytes 18, 19) */
	const volatile bool *cancel;
};
/* On success head tells what was reached. -FZ_ECHECKSUM when the pages do not give what the log says (the table is then
 * cleared), -FZ_EGAP, -ECANCELED. */
int replica_replay(const struct replica_replay *r, struct fz_err *err) FZ_MUST_CHECK;
/* The log's checksum after txid: -FZ_EGAP when the log no longer tells (older than the base, inside a merged range),
 * -FZ_ENOTFOUND past the tail. */
int replica_replay_checksum(struct ltx_log *log, uint64_t txid, uint64_t *out, struct fz_err *err) FZ_MUST_CHECK;

#endif
