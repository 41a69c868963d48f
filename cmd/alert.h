/* alert.h - tells the URLs of `alert_url` what is wrong with a mount: one JSON object for each problem of its status, when it begins,
 * again each `alert_interval` while it lasts, and when it is over. One thread, "alert", only when there is a URL. It waits for
 * nobody but the URLs, and nobody waits for it. docs/operations.md "Alerts" has the object's keys. */
#ifndef FZ_CMD_ALERT_H
#define FZ_CMD_ALERT_H

#include "base/worker.h"
#include "cmd/alertsend.h"

#include <pthread.h>

struct cJSON;
struct cmd_serving;

struct cmd_alerts {
	struct cmd_serving *w;
	struct cmd_alertsend send;
	struct fz_worker worker;
	bool on;
	int64_t look_ms;
	pthread_mutex_t mu;
	struct cmd_alertbook book; /* under mu */
	struct cmd_alert_way {     /* the thread's own; trouble and given_up also under mu */
		uint64_t next_ns;  /* not before */
		uint64_t again_ns; /* what failed not before */
		unsigned failures, refusals;
		struct fz_err trouble;
		uint64_t given_up; /* alerts, since this worker started */
	} way[CMD_ALERT_URLS];
	bool disk_told;
};
/* Reads URLs and secrets; starts the thread when there is one. w is borrowed, as is its handler. -FZ_ECONFIG, -FZ_EKEYFILE. */
int cmd_alerts_start(struct cmd_alerts *a, struct cmd_serving *w, struct fz_err *err) FZ_MUST_CHECK;
void cmd_alerts_stop(struct cmd_alerts *a);
/* {"cmd": "alerts", "test": bool} -> {urls: [{url, error, ...}], alerts: [...]}. test: sends an object of event "test" to each
 * URL, now, from this process, and says what came back. */
int cmd_alerts_answer(struct cmd_alerts *a, const struct cJSON *request, struct cJSON *answer,
                      struct fz_err *err) FZ_MUST_CHECK;
/* Sends the test with what a configuration says, and fills urls. For a directory that is not mounted. */
void cmd_alerts_test(struct cmd_alertsend *s, const char *dir, const char *role, struct cJSON *urls);

#endif
