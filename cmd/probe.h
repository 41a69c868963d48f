/* probe.h - trying out what a mount will need: a store's operations by their effect, the kernel's FUSE by a connection of its own. */
#ifndef FZ_CMD_PROBE_H
#define FZ_CMD_PROBE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct fz_store;

enum cmd_probe_step {
	CMD_PROBE_PUT,    /* 64 KiB */
	CMD_PROBE_LIST,   /* finds it, with its size */
	CMD_PROBE_RANGE,  /* a piece out of its middle */
	CMD_PROBE_NEW,    /* conditional put: an object that is there is not replaced */
	CMD_PROBE_SWAP,   /* conditional replacement: what a lease (failover = auto) needs */
	CMD_PROBE_DELETE, /* and it is gone from the list */
	CMD_PROBE_STEPS
};
struct cmd_probe_result {
	bool done, ok;
	double ms;
	struct fz_err err; /* when not ok */
};
struct cmd_probe_store {
	struct cmd_probe_result step[CMD_PROBE_STEPS];
	char conditional_put[16]; /* "native", "emulated", "unknown" */
	bool clock_known;
	int64_t clock_ahead_ms; /* the store's, to about a second */
};
/* Below a name of its own (".fazt-probe/<random>/") which it removes. What failed is in r; a step whose ground is missing is not done.
 * Blocks for the store's deadline at worst. */
void cmd_probe_store(struct fz_store *s, struct cmd_probe_store *r);
const char *cmd_probe_name(enum cmd_probe_step step);
/* Of the steps that every target needs (SWAP is not one of them; DELETE is not with append_only) the first that failed; NULL = all is well. */
const struct cmd_probe_result *cmd_probe_failed(const struct cmd_probe_store *r, bool append_only);

struct cmd_probe_kernel {
	char release[66];
	bool device;                          /* /dev/fuse can be opened */
	bool mounts;                          /* mount(2) lets us */
	unsigned major, minor;                /* of the FUSE protocol */
	bool passthrough, resend;             /* the kernel has it ... */
	bool passthrough_works, resend_works; /* ... and it was done */
	struct fz_err err;                    /* what went wrong first; code 0 = nothing */
};
/* In a child with a mount namespace of its own, so nobody sees the mount. dir (NULL = none): passthrough is tried with a file of that
 * filesystem. Needs root; *k tells how far it came. */
void cmd_probe_kernel(const char *dir, struct cmd_probe_kernel *k);

#endif
