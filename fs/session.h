/* session.h - the worker's side of the mount: FUSE requests in, answers out, handed over from worker to worker. */
#ifndef FZ_FS_SESSION_H
#define FZ_FS_SESSION_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;
struct fs_session;
struct fs_capture;
struct fs_virtual;

struct fs_session_info {
	bool resumed;      /* not the first worker of this mount */
	bool passthrough;  /* in effect (known after the handshake) */
	bool resend;       /* the kernel re-sends what a dead worker had in flight */
	uint32_t restarts; /* workers before this one */
	int supervisor_pid;
};
/* Handshake over the descriptors of fs/supervisor.h: INIT (or its replay), nothing else is answered yet. Afterwards
 * fs_session_info() tells what capture needs to know. */
int fs_session_open(struct fs_session **out, struct fz_err *err) FZ_MUST_CHECK;
void fs_session_info(const struct fs_session *s, struct fs_session_info *out);
/* What the mount shows below .fazt/ (fs/virtual.h). Lives as long as the session. */
struct fs_virtual *fs_session_virtual(struct fs_session *s);
/* Serves until the mount is gone or fs_session_stop(). Re-opens the capture's files of resumed nodes, redoes the open
 * intent, asks for RESEND, then reads. ready is called once requests are being answered, before the supervisor is told. */
int fs_session_run(struct fs_session *s, struct fs_capture *capture, void (*ready)(void *arg), void *arg,
                   struct fz_err *err) FZ_MUST_CHECK;
/* Ends fs_session_run() soon; requests in flight are finished first. Async-signal-safe. */
void fs_session_stop(struct fs_session *s);
void fs_session_close(struct fs_session *s);
/* Nobody would replace this worker. */
bool fs_session_orphan(const struct fs_session *s);
/* Asks the supervisor to unmount once this worker has finished: 0, or -FZ_EBUSY with who holds a file open. */
int fs_session_request_umount(struct fs_session *s, struct fz_err *err) FZ_MUST_CHECK;
/* Handles of databases that stay read-only since this host was a replica when they were opened. */
unsigned fs_session_fixed(struct fs_session *s);
/* Adds counters (requests by opcode, fsyncs, forwarded, resent) to the JSON object. */
int fs_session_status(struct fs_session *s, struct cJSON *object);

#endif
