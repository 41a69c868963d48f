/* watch.h - does the worker work? Two proofs are asked for again and again: a process that this one starts asks the mount something that
 * no cache answers (statfs), so a request went through the kernel, a serving thread and back; and the worker reports, after it has
 * been through the locks of capture and shipping. Only when both came is the service manager's watchdog fed. Without
 * them for half of its time the worker is killed and replaced, so that the manager need not end everything.
 * A worker that starts or finishes answers nothing yet: there the processor time and the I/O that it uses are the proof. */
#ifndef FZ_FS_WATCH_H
#define FZ_FS_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct fs_super;

struct fs_watch {
	uint64_t limit_ns;  /* of the service manager's watchdog; 0 = none */
	uint64_t report_ms; /* 0 = nobody wants to know */
	uint64_t next_ns;   /* of the next look; 0 = never */
	uint64_t since_ns;  /* both proofs must be newer ... */
	uint64_t answered_ns, reported_ns;
	uint64_t used, moved_ns; /* by a worker that does not serve; when that was seen to grow */
	pid_t probe;
};

void fs_watch_init(struct fs_super *s);
/* How long the worker, while it does not serve, has used neither processor time nor I/O, as far as the calls of this tell. */
uint64_t fs_watch_idle_ns(struct fs_super *s);
/* At next_ns. */
void fs_watch_look(struct fs_super *s);
/* A worker begins to serve, or another one is started: its time counts from now. */
void fs_watch_begin(struct fs_super *s);
void fs_watch_reported(struct fs_super *s, const char *line);
/* True when pid was the process that asks the mount. */
bool fs_watch_reaped(struct fs_super *s, pid_t pid, int status);
/* Before an unmount: nobody of ours may be in there. True while there still is. */
bool fs_watch_leave(struct fs_super *s);

#endif
