#include "fs/lapse.h"

#include "base/clock.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/capture_priv.h"
#include "fs/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define GRACE_MS 5000 /* a host that starts gets its lease within some requests to the store, or not at all */
#define STEP_MS  2

bool fs_lapse_idle(const struct fs_lapse *l)
{
	return atomic_load(&l->soft_ns) == 0;
}

void fs_capture_lapse(struct fs_capture *c, uint64_t soft_ns, uint64_t hard_ns)
{
	if (soft_ns && fs_lapse_idle(&c->lapse))
		atomic_store(&c->lapse.grace_ns, fz_boot_ns() + GRACE_MS * UINT64_C(1000000));
	else if (soft_ns > fz_boot_ns())
		atomic_store(&c->lapse.grace_ns, 0); /* it had its time */
	atomic_store(&c->lapse.hard_ns, hard_ns);
	atomic_store(&c->lapse.soft_ns, soft_ns);
}

static bool passed(const _Atomic uint64_t *at)
{
	uint64_t ns = atomic_load(at);

	return ns && fz_boot_ns() >= ns;
}

static bool is_database(struct fs_capture *c, const char *path)
{
	struct fs_db *db = fs_registry_get(c, path, false);

	fs_registry_put(db);
	return db || fs_registry_named_database(c, path);
}

static bool concerns(struct fs_capture *c, const char *path)
{
	size_t len;
	enum fs_role role = fs_registry_split(path, &len);

	if (fs_registry_excluded(c, path) || role == FS_ROLE_SHM) /* readers need that one */
		return false;
	return role == FS_ROLE_WAL || role == FS_ROLE_JOURNAL || is_database(c, path);
}

/* At a start it is known soon whether the lease is ours: an application that were refused would be read-only until it opens again. */
static int refuse(struct fs_capture *c, int pid, bool waits)
{
	while (passed(&c->lapse.soft_ns)) {
		if (fs_guard_trusts(c->guard, pid))
			return 0;
		if (!waits || fz_boot_ns() >= atomic_load(&c->lapse.grace_ns) || atomic_load(&c->stop))
			return -EROFS;
		(void)!poll(NULL, 0, STEP_MS);
	}
	return 0;
}

int fs_lapse_open(struct fs_capture *c, const char *path, int flags, int pid)
{
	if (!passed(&c->lapse.soft_ns) || ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC)))
		return 0;
	return concerns(c, path) ? refuse(c, pid, !(flags & O_NONBLOCK)) : 0;
}

int fs_lapse_event(struct fs_capture *c, const struct fs_event *ev, enum fs_role role, struct fs_db *db)
{
	struct fz_err err = {0};

	if (fs_lapse_idle(&c->lapse))
		return 0;
	if (ev->op == FS_EV_CREATE)
		return !ev->dir && passed(&c->lapse.soft_ns) && concerns(c, ev->path) ? refuse(c, ev->pid, true) : 0;
	if (role == FS_ROLE_SHM && db && ev->op == FS_EV_TRUNCATE && ev->size_bytes <= 3 && c->conf.agent &&
	    !fs_guard_trusts(c->guard, ev->pid)) { /* before anybody can commit through it */
		if (fs_agent_pin(c->conf.agent, db->name, &err) == 0)
			return 0;
		fz_log_err("a WAL is not opened, since the agent could not end it in time", &err);
		return -EBUSY;
	}
	if (!db || role == FS_ROLE_SHM || role == FS_ROLE_OTHER || ev->op == FS_EV_UNLOCK || !passed(&c->lapse.hard_ns))
		return 0;
	return fs_guard_trusts(c->guard, ev->pid) ? 0 : -EROFS;
}
