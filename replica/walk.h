/* walk.h - read history backwards, newest file first, and claim each page for the newest file that has it: what an older
 * file says about a claimed page is never fetched, and nothing older is read once every page is claimed.
 *
 * A unit is what is fetched at once: a whole small object, a group of neighbouring files of a pack or of a log segment,
 * or one large file (through its page index). Units come from steps of a plan (store) or from a log. */
#ifndef FZ_REPLICA_WALK_H
#define FZ_REPLICA_WALK_H

#include "replica/fetch.h"
#include "replica/plan.h"

struct replica_walk_result {
	struct ltx_header header; /* of the newest file */
	uint64_t checksum;        /* of the database, after it */
	uint64_t file_bytes;
	uint32_t file_pages;
	uint64_t objects; /* opened */
};
struct replica_walk_conf {
	struct replica_source *source;
	const struct replica_plan *plan; /* or: */
	struct ltx_log *log;
	uint64_t txid; /* for log */
	struct replica_image *image;
	struct replica_meter *meter;
	struct replica_progress *progress;
	unsigned threads;
	uint64_t memory_bytes;
};
/* Brings the image to the target and compares its checksum. On failure *blame may name the object that is at fault; a
 * pack that ends below its step has its reach set, rc is -FZ_EORDER and the plan must be made anew. */
int replica_walk(const struct replica_walk_conf *conf, struct replica_walk_result *result,
                 struct replica_object **blame, struct fz_err *err) FZ_MUST_CHECK;

#endif
