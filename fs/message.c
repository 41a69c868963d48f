/* message.c - what the worker says and asks over FS_FD_SUPER (fs/super_client.h is its end). */
#include "fs/supervisor_priv.h"

#include "base/file.h"
#include "base/log.h"
#include "fs/backing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void fs_message_reply(struct fs_super *s, uint32_t id, int code, const char *text)
{
	struct fs_msg *m = &s->msg;

	m->type = FS_MSG_REPLY;
	m->id = id;
	m->code = code;
	m->len = (uint32_t)strlen(text);
	memcpy(m->text, text, m->len);
	if (send(s->sock, m, FS_MSG_HEAD + m->len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		fz_debug("cannot answer the worker: %s", strerror(errno));
}

/* One message into s->msg, and the descriptor that came with it. */
static ssize_t receive(struct fs_super *s, int *fd)
{
	struct iovec iov = {&s->msg, sizeof(s->msg)};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr h = {
	        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	ssize_t n = recvmsg(s->sock, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&h) : NULL;
	size_t fds = c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS
	                     ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
	                     : 0;

	for (size_t i = 0; i < fds; i++) { /* aligned, the room for one takes two */
		int got;

		memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
		if (n > 0 && i == 0)
			*fd = got;
		else
			fz_close(&got);
	}
	return n;
}

void fs_message_receive(struct fs_super *s)
{
	struct fs_msg *m = &s->msg;
	struct fz_err err = {0};
	int fd = -1, rc;
	ssize_t n = receive(s, &fd);
	uint32_t id = m->id;

	if (n <= 0) {
		if (n == 0) /* the worker's end is closed: SIGCHLD tells the rest */
			fz_close(&s->sock);
		return;
	}
	if (n < (ssize_t)FS_MSG_HEAD || n != (ssize_t)(FS_MSG_HEAD + m->len) || m->len >= sizeof(m->text)) {
		fz_close(&fd);
		return;
	}
	m->text[m->len] = 0;
	switch (m->type) {
	case FS_MSG_READY:
		fs_supervisor_ready(s);
		break;
	case FS_MSG_FAILED:
		fz_fail(&s->why, m->code >= 0 ? FZ_EINTERNAL : m->code <= -1000 ? -m->code : m->code, "%s", m->text);
		break;
	case FS_MSG_LOCK:
		rc = fs_held_lock(s, m->text, &err);
		fs_message_reply(s, id, rc, rc < 0 ? err.text : "");
		break;
	case FS_MSG_SWEEP:
		fs_held_sweep(s);
		break;
	case FS_MSG_UMOUNT:
		fs_leave_asked(s, id);
		break;
	case FS_MSG_RESTART:
		fs_handover_restart(s, id, strcmp(m->text, "keep") == 0);
		break;
	case FS_MSG_KEEP_AGENT:
		s->keep_agent = strcmp(m->text, "no") != 0;
		s->late_agent = strcmp(m->text, "late") == 0;
		fs_estate_keep_agent(s);
		break;
	case FS_MSG_REPORT:
		fs_watch_reported(s, m->text);
		break;
	case FS_MSG_BACKING_OPEN:
		fs_message_reply(s, id, fd < 0 ? -EBADF : fs_backing_own_open(s->fusefd, fd), "");
		break;
	case FS_MSG_BACKING_CLOSE:
		(void)fs_backing_own_close(s->fusefd, atoi(m->text)); /* closed already: fine */
		break;
	default:
		break;
	}
	fz_close(&fd);
}
