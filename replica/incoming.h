/* incoming.h - a file on its way that is too large for memory: "follow-*.part" in the log's directory, verified while it
 * grows, so that nothing takes long once it is there.
 *
 * A part says by its own header what it is. What a lost connection left is gone on with; it is verified from its first byte all
 * the same, a little at a time, since a crash may have left anything in it. Not thread-safe. */
#ifndef FZ_REPLICA_INCOMING_H
#define FZ_REPLICA_INCOMING_H

#include "ltx/ltx.h"
#include "ltx/wire.h"

#define REPLICA_INCOMING_BASE "follow-base.part"
#define REPLICA_INCOMING_FILE "follow-file.part"

struct replica_incoming;

/* What an earlier connection got of a base: its max TXID and the bytes there are; 0, 0 = nothing. */
void replica_incoming_look(int dirfd, uint64_t *base_txid, uint64_t *bytes);
/* name is borrowed for ever. file->off_bytes > 0 goes on with the part, which must have that many bytes (-FZ_EORDER). */
int replica_incoming_open(struct replica_incoming **out, int dirfd, const char *name, const struct ltx_wire_file *file,
                          struct fz_err *err) FZ_MUST_CHECK;
/* keep: the part stays for the next connection. */
void replica_incoming_close(struct replica_incoming *in, bool keep);
/* More bytes; beyond the announced size: -FZ_ECORRUPT. */
int replica_incoming_write(struct replica_incoming *in, const void *data, size_t n, struct fz_err *err) FZ_MUST_CHECK;
/* Verifies what has come, until budget_ns are over. 1 = all of it is right, 2 = there is more to do at once, 0 = more bytes are
 * needed. The file must be the announced range; a snapshot is compared with its database checksum. */
int replica_incoming_step(struct replica_incoming *in, uint64_t budget_ns, struct fz_err *err) FZ_MUST_CHECK;
bool replica_incoming_idle(const struct replica_incoming *in); /* a step would do nothing before more bytes come */
/* Once it is verified. */
const struct ltx_header *replica_incoming_header(const struct replica_incoming *in);
const struct ltx_trailer *replica_incoming_trailer(const struct replica_incoming *in);
uint32_t replica_incoming_pages(const struct replica_incoming *in);
int replica_incoming_read(struct replica_incoming *in, uint64_t off, void *data, size_t n,
                          struct fz_err *err) FZ_MUST_CHECK;

#endif
