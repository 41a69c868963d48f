/* ops.h - inside of the session: what fs/session.c (requests in, answers out), fs/ops*.c (what they mean) and fs/open.c
 * (files that are open) share. Nobody else includes it.
 *
 * LOCKS    outermost first: an open file's mu (fs/open.h), then the node table's ns and mu (fs/node.h). None of them is held
 *          while fs_capture_before() may block. Requests on one directory's names are serialised by the kernel. */
#ifndef FZ_FS_OPS_H
#define FZ_FS_OPS_H

#if !defined(FUSE_USE_VERSION)
#define FUSE_USE_VERSION 312
#endif
#include <fuse3/fuse_lowlevel.h>

#include "fs/capture.h"
#include "fs/crashpoint.h"
#include "fs/node.h"
#include "fs/redo.h"
#include "fs/session.h"
#include "fs/virtual.h"

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
#define FS_NATIVE_PASSTHROUGH 1 /* libfuse writes backing ids into its replies itself */
#else
#define FS_NATIVE_PASSTHROUGH 0
#endif

#define FS_OPS         64 /* opcodes counted */
#define FS_OPEN_SHARDS 1024
#define FS_TIMEOUT_S   (86400.0 * 30) /* attributes and names: every change comes through the mount */

struct fs_open;

struct fs_session {
	struct fuse_session *se;
	struct fs_shared *sh;
	struct fs_table tab;
	int fusefd, rootfd;         /* borrowed: inherited numbers */
	struct fs_capture *capture; /* borrowed, while run() */
	struct fs_virtual *virtual;
	bool passthrough, resend, resumed;
	uint64_t hidden_dev; /* where the hidden directory lies */

	struct fs_open *open[FS_OPEN_SHARDS]; /* by node id; guarded by tab.mu */
	pthread_mutex_t backing_mu;           /* backing ids are made and noted one at a time */

	/* serving threads */
	atomic_uint idle;     /* in read(2), or about to be */
	pthread_mutex_t mu;   /* guards the six below */
	pthread_cond_t ended; /* a thread has ended */
	unsigned threads;
	bool slot_used[FS_SLOTS];
	bool slot_left[FS_SLOTS]; /* holds a request of a former worker that may take long */
	pthread_t slot_thread[FS_SLOTS];
	bool slots_exhausted;   /* said so */
	atomic_bool stop, gone; /* gone: the mount is no more */
	int stopfd;             /* eventfd */

	atomic_ullong n_op[FS_OPS], n_resent, n_repeated, n_fsync, n_threads, n_poison;
};

/* The request that this thread works at. */
struct fs_thread {
	struct fs_session *s;
	struct fs_slot *slot;
	uint8_t *buf; /* the request */
	uint8_t *out; /* FS_MAX_WRITE bytes for READ and READDIR; may be buf, since libfuse has taken the arguments */
	unsigned nslot;
	uint32_t opcode;
	int pid;         /* who asks: a thread's number */
	uint64_t unique; /* without FS_RESENT */
	bool resent;
	bool abandoned;     /* nothing is answered: the next worker is asked */
	int32_t backing_id; /* for the OPEN or CREATE reply; 0 = cached */
};
extern __thread struct fs_thread *fs_self;

extern const struct fuse_lowlevel_ops fs_ops;

static inline struct fs_session *fs_session_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}
/* True when a former worker did this request already. */
bool fs_repeated(struct fs_session *s, enum fs_redo_op op, uint64_t *node);
/* An intent for the current request. */
struct fs_intent fs_intent_for(enum fs_redo_op op, uint64_t parent, const char *name, uint64_t node);
/* fz_open_below() the root. Returns a descriptor or -errno. */
int fs_root_open(struct fs_session *s, const char *path, int flags, mode_t mode);
/* A name that is made, removed or changed: no link on the way to it is followed either. */
struct fs_spot {
	int dirfd; /* of its directory */
	const char *name;
};
/* path: below rootfd, borrowed. 0 or -errno; the spot is closed in either case. */
int fs_spot_open(struct fs_spot *at, int rootfd, const char *path);
void fs_spot_close(struct fs_spot *at);
/* Path of a node, or of a name; 0 or -errno. Holds no lock when it returns. */
int fs_path(struct fs_session *s, uint64_t node, char path[static PATH_MAX]);
int fs_child_path(struct fs_session *s, uint64_t parent, const char *name, char path[static PATH_MAX]);
/* True for .fazt: the state directory, which the mount does not show, and what stands in its place. */
bool fs_is_state(uint64_t parent, const char *name);
/* -EROFS for .fazt and names below it, which nobody can make, remove or rename. */
int fs_may_name(uint64_t parent, const char *name);
/* Attributes of a node, open or not. */
int fs_node_stat(struct fs_session *s, uint64_t node, struct stat *st);
/* The reply for a name that was found or made: counts the kernel's reference. st NULL: looked up here. */
int fs_entry(struct fs_session *s, uint64_t node, const struct stat *st, struct fuse_entry_param *e);
void fs_reply_entry_or_err(fuse_req_t req, int rc, const struct fuse_entry_param *e);
void fs_reply_rc(fuse_req_t req, int rc);
/* Becomes the caller for what is created, and root again: files belong to who makes them, quotas too. Capabilities stay
 * (SECBIT_NO_SETUID_FIXUP), since the kernel has already checked the permissions with the caller's groups. */
void fs_become_caller(fuse_req_t req);
void fs_become_root(fuse_req_t req);

/* ops_dir.c */
void fs_op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count);
void fs_op_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *f);
void fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void fs_op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void fs_op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void fs_op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t parent2, const char *name2,
                  unsigned flags);
int fs_lookup(struct fs_session *s, uint64_t parent, const char *name, uint64_t *node, struct stat *st);

/* ops_list.c */
void fs_op_readlink(fuse_req_t req, fuse_ino_t ino);
void fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

/* ops_virtual.c: for ids with FS_VIRTUAL_BIT, and .fazt in the root. Nothing of it is kept in the node table or needs an intent. */
void fs_vop_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_vop_getattr(fuse_req_t req, fuse_ino_t ino);
void fs_vop_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off);
void fs_vop_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_vop_release(fuse_req_t req, struct fuse_file_info *fi);
void fs_vop_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph);

/* ops_file.c */
void fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off, struct fuse_file_info *fi);
void fs_op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void fs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi);
void fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *fi);

#endif
