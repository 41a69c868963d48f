/* watch.h - what happens on a mount, as one object for each transaction, new or ended database, change of role and problem: from two
 * answers of the worker, "entries" (asked often) and "status" (asked about once a second). `fazt events` and /events show these. */
#ifndef FZ_CMD_WATCH_H
#define FZ_CMD_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;
struct cmd_seen;

/* Embed as first member, zeroed but for put. What is there at the first answer is not news. */
struct cmd_watch {
	bool (*put)(struct cmd_watch *w, struct cJSON *event); /* takes the event; false: nobody reads any more */
	bool deaf;                                             /* it said so, and is not called again */
	struct cmd_seen *seen;
	size_t n_seen;
	bool started;
	char role[16];
	uint32_t epoch;
	struct cJSON *problems; /* the status' `alerts`, as they were told */
};
/* The next request: what do the logs hold beyond what was seen? */
struct cJSON *cmd_watch_question(const struct cmd_watch *w);
/* Its answer. Returns true when there may be more at once. */
bool cmd_watch_entries(struct cmd_watch *w, const struct cJSON *answer);
void cmd_watch_status(struct cmd_watch *w, const struct cJSON *status);
void cmd_watch_fini(struct cmd_watch *w); /* put stays: it can begin anew */

#endif
