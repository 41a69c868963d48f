/* herald.h - whom this host followed before learns that there is a primary of a higher epoch.
 *
 * A host that is promoted, or that hears of a higher epoch from one of its followers and turns to that, remembers whom it followed (role.h,
 * `formers`) in the same write that changes its role, and tells each of them until it has heard: over restarts, for as long
 * as it takes. "There is a primary of epoch N, follow me" is what it says, be it the primary or a replica that leads to it. So the news goes
 * up a chain of hosts that hand on, from neighbour to neighbour, each of which knows and lists the next one; the chain is turned
 * round, link by link, and no host needs to know one that it did not know before.
 * WHY NO LOOP  a host turns to another one for an epoch above its own only, and one that says epoch N is the primary of N or has turned for N
 *              or later before it says so: the links that were made for N lead, in the order in which they were made, to that primary. */
#ifndef FZ_CMD_HERALD_H
#define FZ_CMD_HERALD_H

#include "cmd/link.h"

/* One thread (replica/herald.h) for each former primary that has not heard. */
int cmd_herald_start(struct cmd_link *l, struct fz_err *err) FZ_MUST_CHECK;
void cmd_herald_stop(struct cmd_link *l);

#endif
