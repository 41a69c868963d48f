/* notify.h - words to the service manager that started this process, in the protocol of sd_notify(3), and the descriptors that it
 * kept for us (sd_listen_fds(3)). systemd's interface promise covers both; no library is needed for them. Without a
 * manager (no NOTIFY_SOCKET) nothing is sent and all is well. Not thread-safe: they read the environment. */
#ifndef FZ_BASE_NOTIFY_H
#define FZ_BASE_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FZ_LISTEN_NAME 32 /* with its NUL; a longer name is cut */

struct fz_listen_fd {
	int fd;
	char name[FZ_LISTEN_NAME];
};

/* Somebody listens. */
bool fz_notify_wanted(void);
/* "READY=1", "STATUS=..." or several lines. 0 (also without a manager) or -errno; -EAGAIN: it does not read. What is said
 * again soon (STATUS, WATCHDOG, EXTEND_TIMEOUT_USEC first) is not waited for then, anything else for three seconds. */
int fz_notify(const char *text);
/* Puts a copy of fd into the manager's store under a name (letters, digits, '-'), not watched: what the descriptor says of itself
 * does not remove it. Comes back by fz_listen_take() in the next process of this service. */
int fz_notify_keep(const char *name, int fd);
/* Removes all of that name from the store. */
int fz_notify_forget(const char *name);
/* How often "WATCHDOG=1" is wanted of this process at least; 0 = never. */
uint64_t fz_notify_watchdog_us(void);

/* The descriptors meant for this process, closed in children that exec; at most max, what is more is closed. They are the
 * caller's, and not found again. */
size_t fz_listen_take(struct fz_listen_fd *out, size_t max);

#endif
