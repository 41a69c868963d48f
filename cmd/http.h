/* http.h - what a mount shows to Prometheus, to health checks and to a browser, by libmicrohttpd: [http] listen = ADDR:PORT. Nothing
 * listens without it; ":PORT" is loopback, another address must be written out ("*:PORT": all of them). Only GET and HEAD.
 *
 *   /                the status page, cmd/page.html (one file, embedded; its <script> elements are named by hash in the
 *                    Content-Security-Policy, so: no inline handlers, no eval; <style> and style attributes are fine; nothing
 *                    is loaded from elsewhere, fetch and EventSource reach this server only)
 *   /metrics         Prometheus text format (cmd/metrics.h)
 *   /healthz         200 while `fazt status` finds nothing wrong, so every target is within its lag_max; else 503.
 *                    {"healthy":bool, "problems":[text], "targets":[{"name","state","lag_seconds","lag_max_seconds"}]}
 *   /api/status      what `fazt status --json` prints; at most 200 ms old
 *   /api/history?database=NAME   moments that can be restored, as far as this host knows without asking a store (cmd/history.h):
 *                    {"database":NAME, "sources":[{"name":"log" | target, "complete":bool, "tiers":[{"kind":"commits" |
 *                    "minutes" | "hours" | "days" | "snapshots", "from_ms":N, "to_ms":N, "count":N}]}]}. 404: no such database
 *   /events          server-sent events, for at most 16 clients (then 503):
 *                      event: status     data: as /api/status: at once, then when it has changed, at most once a second
 *                      event: event      data: what a line of `fazt events` is. Under load consecutive transactions of one
 *                                        database come as one, with min_txid, and pages and bytes summed up
 *                      event: heartbeat  data: {"now_ms":N}, this host's clock: at once, then each 10 s
 *                    A client that does not read misses states, or is cut off; EventSource comes back by itself.
 *
 * Errors are {"error":text}. A Host header that is no address, nor localhost, nor the host of `listen` or in `[http] hosts` is refused with
 * 403: a page elsewhere cannot read from here by giving its own name our address (DNS rebinding).
 *
 * One thread, "http", does it all, so nothing below is locked; it asks what the control threads ask. */
#ifndef FZ_CMD_HTTP_H
#define FZ_CMD_HTTP_H

#include "base/err.h"

struct cmd_conf;
struct cmd_http;
struct cmd_serving;

/* What can be wrong with [http], before anything is mounted. */
int cmd_http_check(const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;
/* Listens, when the configuration says so; else *out stays NULL. w is borrowed. */
int cmd_http_start(struct cmd_http **out, struct cmd_serving *w, struct fz_err *err) FZ_MUST_CHECK;
void cmd_http_stop(struct cmd_http *h); /* NULL is fine */

#endif
