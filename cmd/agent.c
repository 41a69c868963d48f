/* agent.c - the process that acts on the mount as an application does. Started by the supervisor. */
#include "cmd/cmd.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/harden.h"
#include "cmd/logto.h"
#include "cmd/role.h"
#include "fs/agent.h"
#include "fs/alive.h"
#include "fs/supervisor.h"
#include "replica/applier.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

static int apply_behind(struct fs_fence *fences, struct fz_err *err)
{
	struct replica_fence *all = NULL, *next;
	int rc;

	for (struct fs_fence *f = fences; f; f = f->next) {
		struct replica_fence *r = malloc(sizeof(*r));

		if (!r)
			return fz_fail_errno(err, ENOMEM, "becoming a replica");
		*r = (struct replica_fence){all, f->path, f->db_fd, f->shm_fd};
		f->db_fd = f->shm_fd = -1;
		all = r;
	}
	rc = replica_applier_serve(FS_FD_AGENT, FS_FD_MOUNT, FS_FD_STATE, all, err);
	for (; all; all = next) {
		next = all->next;
		fz_close(&all->db_fd);
		fz_close(&all->shm_fd);
		free(all);
	}
	fs_fence_free(fences);
	return rc;
}

int cmd_agent(int argc, char **argv)
{
	struct fz_err err = {0};
	struct fs_fence *fences = NULL;
	struct rlimit files;
	struct cmd_role role;
	int rc;

	cmd_logto_child("agent", FS_FD_STATE, FS_FD_LOGDIR, NULL);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) { /* one for each database, and more when they are fenced */
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	rc = cmd_harden_early(CMD_HARDEN_AGENT, &err);
	if (rc == 0)
		rc = cmd_harden_late(&err);
	if (rc == 0)
		rc = fs_alive_claim(FS_FD_STATE, FS_ALIVE_AGENT, CMD_ALIVE_MS, &err);
	if (rc == 0)
		rc = cmd_role_read(&role, FS_FD_STATE, &err);
	if (rc == 0 && role.replica)
		rc = replica_applier_serve(FS_FD_AGENT, FS_FD_MOUNT, FS_FD_STATE, NULL, &err);
	else if (rc == 0)
		rc = fs_agent_serve(FS_FD_AGENT, FS_FD_MOUNT, &fences, &err);
	if (rc == 1) /* this host has become a replica; the fences hold until the applier has them */
		rc = apply_behind(fences, &err);
	if (rc < 0) {
		fz_log_err("agent", &err);
		return CMD_EXIT_FAILED;
	}
	return CMD_EXIT_OK;
}
