/* session_priv.h - what fs/session.c (start and end), fs/handshake.c (INIT, replies) and fs/serve.c (threads) share. */
#ifndef FZ_FS_SESSION_PRIV_H
#define FZ_FS_SESSION_PRIV_H

#include "fs/ops.h"

#include <sys/types.h>

struct iovec;

/* INIT or its replay, and a probe of passthrough: sets s->passthrough and s->resend. */
int fs_handshake(struct fs_session *s, struct fz_err *err) FZ_MUST_CHECK;
/* The kernel sends what is unanswered once more: 0 or -errno. */
int fs_ask_resend(int fusefd);
/* libfuse's writev: completes replies, and notes them for the next worker. */
ssize_t fs_reply_writev(int fd, struct iovec *v, int n, void *session);

/* Once, before the first fs_serve_spawn(). */
void fs_serve_init(void);
/* Starts a thread, counted as idle from now on. */
bool fs_serve_spawn(struct fs_session *s);
/* Ends all of them: each finishes its request first. */
void fs_serve_stop(struct fs_session *s);
/* Carries out the request of n bytes in me->buf and answers it. resent: a former worker may have had it. */
void fs_process(struct fs_session *s, struct fs_thread *me, size_t n, bool resent);
/* fs_session_run() looks at stop and gone. Async-signal-safe. */
void fs_session_wake(struct fs_session *s);

#endif
