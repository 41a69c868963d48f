/* http_priv.h - what cmd/http.c (requests) and cmd/sse.c (server-sent events) share. All of it is the thread's own. */
#ifndef FZ_CMD_HTTP_PRIV_H
#define FZ_CMD_HTTP_PRIV_H

#include "base/worker.h"
#include "cmd/http.h"
#include "cmd/watch.h"

#include <microhttpd.h>

struct cJSON;

#define CMD_SSE_CLIENTS 16

struct cmd_sse_client;
struct cmd_sse {
	struct cmd_watch watch; /* first */
	struct cmd_sse_client *clients[CMD_SSE_CLIENTS];
	unsigned n;
	bool over; /* nobody may listen any more: the daemon cannot stop while a connection is suspended */
	uint64_t events_ns, status_ns, heartbeat_ns; /* when each is due */
	char *status;                                /* as it was sent last */
	struct cJSON *last;                          /* an event that the next may be joined to */
	unsigned told;                               /* events in this round */
	struct fz_buf *out;                          /* of this round */
};
struct cmd_http {
	struct cmd_serving *w; /* borrowed */
	struct MHD_Daemon *daemon;
	int stopfd;
	struct fz_worker thread;
	bool ended;          /* a connection, in this round */
	char host[256];      /* of `listen` */
	struct cJSON *state; /* the worker's status, a moment old */
	uint64_t state_ns;
	char policy[600]; /* Content-Security-Policy of the page */
	struct cmd_sse sse;
};

/* The worker's status, borrowed until the next call; NULL: no memory. fresh: not even a moment old. */
const struct cJSON *cmd_http_state(struct cmd_http *h, bool fresh);
/* One more listener: MHD_NO when the connection cannot be served. *full: there are too many, or it ends. */
enum MHD_Result cmd_sse_answer(struct cmd_http *h, struct MHD_Connection *c, bool *full);
/* What is due. Returns ms until something is again; -1 = never. */
int cmd_sse_run(struct cmd_http *h);
/* The thread has ended. Every stream ends, and none begins; the connections go with the daemon. */
void cmd_sse_end(struct cmd_http *h);
void cmd_sse_fini(struct cmd_http *h); /* after the daemon */
/* Headers that every answer has. */
void cmd_http_headers(const struct cmd_http *h, struct MHD_Response *r, const char *type);

#endif
