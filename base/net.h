/* net.h - TCP with deadlines: addresses, listening, connecting. Descriptors are non-blocking and close-on-exec. */
#ifndef FZ_BASE_NET_H
#define FZ_BASE_NET_H

#include "base/err.h"

#include <stdint.h>
#include <sys/socket.h>

#define FZ_NET_ADDR    280   /* "HOST:PORT" or "[IPv6]:PORT" and NUL */
#define FZ_NET_DEAD_MS 20000 /* TCP_USER_TIMEOUT; half-open connections are found sooner by what is sent over them */

/* Splits "host:port", "[v6]:port", ":port" (host = ""). The port is 0..65535. -FZ_EUSAGE with what is expected. */
int fz_net_split(const char *text, char host[static 256], char port[static 8], struct fz_err *err) FZ_MUST_CHECK;
/* Listens on text (numeric or name; "" or "*" = all addresses; of a name its first address); returns the descriptor.
 * port 0: any free one, see fz_net_local(). IPv6 sockets take no IPv4 unless it is the any address. -FZ_EUSAGE,
 * -FZ_EPEER when the name has no address, -errno. */
int fz_net_listen(const char *text, struct fz_err *err) FZ_MUST_CHECK;
/* Connects within timeout_ms, trying each address the name has; TCP_NODELAY, keep-alive and TCP_USER_TIMEOUT are set.
 * cancel_fd (-1 = none): becomes readable when the caller wants out (-ECANCELED). Name resolution itself blocks.
 * -FZ_EUSAGE, -FZ_EPEER (no address, refused, no route), -FZ_ETIMEOUT when nobody answered. */
int fz_net_connect(const char *text, int timeout_ms, int cancel_fd, struct fz_err *err) FZ_MUST_CHECK;
/* Accepts one: descriptor with the same options, -EAGAIN when there is none; peer gets its address as text. */
int fz_net_accept(int fd, char peer[static FZ_NET_ADDR], struct fz_err *err) FZ_MUST_CHECK;
/* The address that fd is bound to. */
int fz_net_local(int fd, char out[static FZ_NET_ADDR], struct fz_err *err) FZ_MUST_CHECK;
/* Reads or writes exactly n bytes before the deadline (fz_mono_ns(); UINT64_MAX = none); -FZ_ETIMEOUT, -ECONNRESET when
 * the peer has gone, -ECANCELED when cancel_fd becomes readable. 0 = done. After a failure some bytes may be through.
 * No SIGPIPE. A peer that acknowledges nothing, or whose window stays shut, for FZ_NET_DEAD_MS has gone. */
int fz_net_read(int fd, void *data, size_t n, uint64_t deadline_ns, int cancel_fd, struct fz_err *err) FZ_MUST_CHECK;
int fz_net_write(int fd, const void *data, size_t n, uint64_t deadline_ns, int cancel_fd,
                 struct fz_err *err) FZ_MUST_CHECK;

#endif
