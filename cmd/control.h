/* control.h - how `fazt status`, `sync`, `umount` ... talk to the worker of a mount: a Unix socket (0600), one line of JSON
 * there, one line of JSON back, and a descriptor beside it where the answer needs one (the state directory is hidden by
 * the mount). Only root and the user who runs the worker are answered (SO_PEERCRED).
 *   request  {"cmd": "status" | "sync" | "verify" | "umount" | "state", ...}, at most 64 KiB
 *   answer   {"ok": true, ...} or {"ok": false, "code": 1203, "error": "..."}; before it, where the request has "progress": true, any number of
 *            lines {"progress": {...}}
 * The socket is /run/fazt/<hash of the mount's directory>.sock, for others than root $XDG_RUNTIME_DIR/fazt/... or
 * /tmp/fazt-<uid>/... */
#ifndef FZ_CMD_CONTROL_H
#define FZ_CMD_CONTROL_H

#include "base/err.h"
#include "cmd/where.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct cmd_control;

/* ---- the worker's side ---- */
/* Embed as first member. answer() is called from any of the server's threads: fills answer, or returns a negative code;
 * *pass_fd (borrowed) goes along when set. */
struct cmd_control_handler {
	int (*answer)(struct cmd_control_handler *h, const struct cJSON *request, struct cJSON *answer, int *pass_fd,
	              struct fz_err *err);
};
/* Binds (replacing a former worker's socket atomically) and starts the threads. handler is borrowed. */
int cmd_control_start(struct cmd_control **out, const char *path, struct cmd_control_handler *handler,
                      struct fz_err *err) FZ_MUST_CHECK;
/* True once cmd_control_stop() was called: long answers then give up. */
bool cmd_control_stopping(const struct cmd_control *c);
/* In a thread that answers: the same, or whoever asked has gone. For answers that can end at any moment. */
bool cmd_control_gone(const struct cmd_control *c);
/* -ECANCELED, and which of the two it was. */
int cmd_control_unfinished(const struct cmd_control *c, struct fz_err *err) FZ_MUST_CHECK;
/* In a thread that answers: how far it is, for a client that asked for it. Takes the object. */
void cmd_control_tell(struct cJSON *progress);
/* Answers what was asked, then ends the threads and removes the socket. NULL is fine. */
void cmd_control_stop(struct cmd_control *c);

/* ---- the commands' side ---- */
/* Where the socket of a mount on dir made by uid lies; which = 0, 1, ...: the places to look, in order; false past the
 * last. create: makes the directory (0700, owned by us). */
bool cmd_control_path(char *out, size_t cap, const char *dir, unsigned uid, unsigned which);
int cmd_control_mkdir(const char *path, struct fz_err *err) FZ_MUST_CHECK;
/* What is told before the answer; embed as first member. */
struct cmd_control_listener {
	void (*told)(struct cmd_control_listener *l, const struct cJSON *progress);
};
/* Asks the worker of a mount: 0 and *answer (caller deletes), or a negative code, the worker's own included. While a
 * worker is being replaced the call waits and asks again. timeout_ms: for the answer, -1 = for ever. *fd (may be NULL)
 * gets what came along, or -1. */
int cmd_control_call(const struct cmd_where *w, const struct cJSON *request, int64_t timeout_ms, struct cJSON **answer,
                     int *fd, struct fz_err *err) FZ_MUST_CHECK;
int cmd_control_follow(const struct cmd_where *w, const struct cJSON *request, int64_t timeout_ms,
                       struct cmd_control_listener *l, struct cJSON **answer, int *fd,
                       struct fz_err *err) FZ_MUST_CHECK;
/* The same on a given socket, once; l: may be NULL. -ECONNREFUSED, -ENOENT: nobody listens; -EPIPE: it hung up without an answer. */
int cmd_control_call_at(const char *path, const struct cJSON *request, int64_t timeout_ms,
                        struct cmd_control_listener *l, struct cJSON **answer, int *fd,
                        struct fz_err *err) FZ_MUST_CHECK;

#endif
