/* sendfd.h - a descriptor that goes along with a message on a Unix socket. */
#ifndef FZ_BASE_SENDFD_H
#define FZ_BASE_SENDFD_H

#include <string.h>
#include <sys/socket.h>

union fz_sendfd {
	struct cmsghdr head;
	char room[CMSG_SPACE(sizeof(int))];
};
/* m takes fd along, or nothing when it is -1. s, which m refers to then, must be there until it is sent. */
static inline void fz_sendfd(struct msghdr *m, union fz_sendfd *s, int fd)
{
	if (fd < 0)
		return;
	memset(s, 0, sizeof(*s));
	s->head.cmsg_level = SOL_SOCKET;
	s->head.cmsg_type = SCM_RIGHTS;
	s->head.cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(&s->head), &fd, sizeof(fd));
	m->msg_control = s->room;
	m->msg_controllen = sizeof(s->room);
}

#endif
