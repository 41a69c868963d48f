/* shared.h - what survives a worker: the layout of the memfd that the supervisor holds (FS_FD_SHARED), and the messages
 * between worker and supervisor (FS_FD_SUPER).
 *
 * LAYOUT   struct fs_shared | FS_SLOTS request buffers | cells of the node table, growing by segments
 * RULES    (1) SIGKILL stops all threads of a worker between two instructions; stores of a dead thread are visible in
 *              program order. So a record is made valid by one store that comes last, and made invalid by one that comes
 *              first. Anything larger is covered by an intent (fs/redo.h).
 *          (2) Indexes, free lists and locks are private to a worker and rebuilt from the cells by the next one.
 *          (3) Any change of the layout raises FS_SHARED_VERSION: an upgraded worker refuses another version's state. New
 *          messages come last; a supervisor that does not know one says nothing. */
#ifndef FZ_FS_SHARED_H
#define FZ_FS_SHARED_H

#include "base/err.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FS_SHARED_MAGIC   0x31544c5546545a41ull
#define FS_SHARED_VERSION 2
#define FS_SLOTS          256           /* serving threads at most */
#define FS_MAX_WRITE      (256u * 1024) /* largest WRITE and READ */
#define FS_BUF_BYTES      (FS_MAX_WRITE + 4096)
#define FS_RING           1024
#define FS_NAME_SIZE      256
#define FS_REPLY_BYTES    512 /* largest reply that may not be computed again (CREATE) is 176 bytes */
#define FS_SEG_CELLS      1024
#define FS_WAITERS        96
#define FS_RESENT         (1ull << 63) /* FUSE_UNIQUE_RESEND */
#define FS_SYNTHETIC      (1ull << 62) /* unique of a replayed INIT: never the kernel's */
#define FS_FH_FIXED       (1ull << 63) /* of a file handle, beside the node's id: one of the node's nfixed */

/* One name or node. A node holds its first name itself; each further hard link is a cell with id != node. */
enum {
	FS_CELL_HIDDEN =
	        1, /* lost its last known name while open: lives as <hidden dir>/<id>; may get others again, by LOOKUP or LINK */
	FS_CELL_DEAD = 2, /* its inode is gone: never found by inode number */
};
struct fs_cell {
	_Atomic uint64_t id;     /* 0 = free; stored last, cleared first */
	uint64_t node;           /* == id: a node; else the node that this further name belongs to */
	_Atomic uint64_t parent; /* node id of the directory; 0 = no name; stored last, cleared first */
	uint64_t dev, ino;       /* backing inode */
	uint64_t nlookup;        /* what the kernel may still FORGET; too high after a death, never too low */
	uint32_t nopen;          /* OPEN and CREATE less RELEASE */
	int32_t backing_id;      /* passthrough; 0 = none */
	uint32_t mode; /* st_mode; with uid and gid of a removed directory that somebody still holds, its last */
	uint32_t uid, gid;
	uint32_t nfixed; /* of nopen: read-only for good, since this host was a replica when they were opened */
	uint8_t fs_mode; /* enum fs_mode while open */
	uint8_t flags;
	uint16_t name_len;
	char name[FS_NAME_SIZE]; /* NUL-terminated */
};

enum fs_redo_op {
	FS_REDO_NONE,
	FS_REDO_CREATE, /* a new name parent/name: CREATE, MKNOD, MKDIR, SYMLINK; node = id for it, nopen to set */
	FS_REDO_LINK,
	FS_REDO_UNLINK, /* and RMDIR */
	FS_REDO_RENAME, /* parent/name -> parent2/name2; node2 = the node that is replaced */
	FS_REDO_OPEN,   /* nopen and nfixed are the values to set */
	FS_REDO_RELEASE,
};
/* Written before an operation that cannot be repeated, cleared after its result is in the ring. */
struct fs_intent {
	_Atomic uint32_t op; /* enum fs_redo_op; stored last, cleared first */
	uint32_t nopen, nfixed;
	uint32_t rename_flags;
	uint32_t loss;   /* enum fs_loss of the inode that loses its name (UNLINK; RENAME: node2) */
	uint64_t unique; /* without FS_RESENT */
	uint64_t parent, parent2, node, node2;
	uint64_t dev, ino; /* of parent/name before (UNLINK, RENAME), of the linked inode (LINK) */
	char name[FS_NAME_SIZE], name2[FS_NAME_SIZE];
};
/* Results of what must not be done twice; looked up when the kernel sends a request again. */
struct fs_result {
	_Atomic uint64_t unique; /* stored last, cleared first */
	uint64_t node;
	uint32_t op;
	int32_t rc;
};
struct fs_slot {
	_Atomic uint64_t current; /* the request this thread works at; 0 = none */
	/* Kernels without RESEND (below 6.9): the request lies in the slot's buffer until `answered` is its unique. */
	_Atomic uint64_t answered, replying;
	uint32_t reply_bytes;
	uint8_t reply[FS_REPLY_BYTES];
	struct fs_intent intent;
};
struct fs_suspect {
	uint64_t unique;
	uint32_t deaths;
};

struct fs_shared {
	uint64_t magic;
	uint32_t version, cell_bytes;
	/* the supervisor's orders */
	uint32_t no_passthrough, no_resend;
	_Atomic int32_t supervisor_pid, worker_pid;
	_Atomic uint32_t starts;  /* workers started so far */
	_Atomic uint32_t crashed; /* the last worker died by its own fault (SIGSEGV, SIGABRT, ...) */
	/* handshake: 0 = nothing, 1 = request saved, 2 = reply saved, 3 = answered */
	_Atomic uint32_t init_state;
	uint32_t init_bytes, init_reply_bytes;
	uint64_t init_unique;
	uint8_t init[512], init_reply[256];
	/* node table */
	_Atomic uint64_t next_id;
	_Atomic uint32_t cells; /* high-water mark */
	_Atomic int32_t last_backing_id;
	_Atomic uint64_t ring_next;
	struct fs_suspect suspects[16];
	struct fs_result ring[FS_RING];
	struct fs_slot slots[FS_SLOTS];
	/* fs/virtual.h: who waits for a change of a text, by the kernel's number of the open file. 0 = free. When there is no room,
	 * the range in which the others lie (spill_to 0 = none). */
	_Atomic uint64_t waiters[FS_WAITERS];
	_Atomic uint64_t spill_from, spill_to;
};

#define FS_BUF_OFF (((sizeof(struct fs_shared) + 4095) / 4096) * 4096)
_Static_assert(FS_BUF_OFF == 78 * 4096, "another layout: raise FS_SHARED_VERSION");
#define FS_CELL_OFF  (FS_BUF_OFF + (uint64_t)FS_SLOTS * FS_BUF_BYTES)
#define FS_MAP_BYTES (FS_CELL_OFF + (16ull << 30)) /* address space reserved: 50 million cells */

static inline uint8_t *fs_shared_buf(struct fs_shared *sh, unsigned slot)
{
	return (uint8_t *)sh + FS_BUF_OFF + (uint64_t)slot * FS_BUF_BYTES;
}

/* Makes the sealed memfd of a new mount, with the root's cell. */
int fs_shared_create(int *out_fd, const char *dir, int rootfd, struct fz_err *err) FZ_MUST_CHECK;
/* Maps fd; -FZ_EVERSION when it was made by another version. */
int fs_shared_map(struct fs_shared **out, int fd, struct fz_err *err) FZ_MUST_CHECK;
void fs_shared_unmap(struct fs_shared *sh);

/* ---- messages on FS_FD_SUPER, SEQPACKET; worker -> supervisor, answered by FS_MSG_REPLY where noted ---- */
#define FS_REPORT_ENV "FAZT_REPORT_MS" /* in a worker's environment: how often a report is wanted; 0 = never */
enum fs_msg_type {
	FS_MSG_READY = 1,     /* requests are being answered */
	FS_MSG_FAILED,        /* code and text: why this worker cannot start */
	FS_MSG_LOCK,          /* text: path of a database below the root; answered */
	FS_MSG_SWEEP,         /* drop locks of databases that were deleted */
	FS_MSG_UMOUNT,        /* answered: 0 = accepted, -FZ_EBUSY + who */
	FS_MSG_BACKING_OPEN,  /* with a descriptor: register it for passthrough; answered: code = id */
	FS_MSG_BACKING_CLOSE, /* text: the id */
	FS_MSG_REPLY,
	FS_MSG_RESTART, /* the worker anew, as in an upgrade, and the agent unless the text is "keep"; answered: 0 = accepted, then
			 * SIGUSR2 comes */
	FS_MSG_KEEP_AGENT, /* from now on the agent outlives the worker, with the locks it holds; text "late": in an upgrade until the
			    * next worker is ready; "no": it does not */
	FS_MSG_REPORT, /* text: one line of status; only sent after a look at everything that could hang */
};
struct fs_msg {
	uint32_t type, id;
	int32_t code;
	uint32_t len;
	char text[PATH_MAX];
};
#define FS_MSG_HEAD offsetof(struct fs_msg, text)

#endif
