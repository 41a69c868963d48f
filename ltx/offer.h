/* offer.h - a transaction in doubt: SQLite has written it and not decided about it yet. With `ack = replica` it is shown to the
 * senders of the link before it is in the log, so that replicas can hold it (LTX_WIRE_PREPARED).
 *
 * An offer is the next transaction as the log would take it now: it is one only while the log's tail is the one it was made
 * for. So it needs no taking back when something is appended; and it does not outlive the process, since whoever asked for it asks
 * again. What the log itself holds as prepared (rollback modes) is offered without another copy.
 * LOCKS  as log.h: one writer at a time (begin..end), any number of readers. Appending a transaction and making an offer are
 * the same writer's. Held by tests/unit/test_ltx_offer.c. */
#ifndef FZ_LTX_OFFER_H
#define FZ_LTX_OFFER_H

#include "ltx/log.h"

struct ltx_offer {
	struct ltx_header header;
	struct ltx_trailer trailer;
	uint64_t size_bytes;
};

/* ---- writer ---- */
/* As ltx_log_begin() and ltx_log_commit(). An earlier offer stays until the new one is whole. Whoever waits in the log set is woken. */
int ltx_log_offer_begin(struct ltx_log *log, const struct ltx_header *h, struct fz_sink **sink,
                        struct fz_err *err) FZ_MUST_CHECK;
int ltx_log_offer_end(struct ltx_log *log, uint64_t file_bytes, const struct ltx_trailer *t,
                      struct fz_err *err) FZ_MUST_CHECK;
void ltx_log_offer_abort(struct ltx_log *log);
/* The log's prepared transaction is offered, until it is confirmed or dropped. */
void ltx_log_offer_prepared(struct ltx_log *log);
/* It will not be committed. */
void ltx_log_withdraw(struct ltx_log *log);

/* ---- readers ---- */
/* What is offered now; false: nothing. src (may be NULL): its bytes, the caller closes. Of a transaction that the log holds, the bytes
 * hold as long as the offer does: who has read them asks again whether it is still the same. */
bool ltx_log_offered(struct ltx_log *log, struct ltx_offer *out, struct fz_src **src);

#endif
