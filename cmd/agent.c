/* agent.c - the process that acts on the mount as an application does. Started by the supervisor. */
#include "cmd/cmd.h"

#include "base/log.h"
#include "fs/agent.h"
#include "fs/supervisor.h"

#include <sys/prctl.h>
#include <sys/resource.h>

int cmd_agent(int argc, char **argv)
{
	struct fz_err err = {0};

	fz_log_init("agent", FZ_LOG_INFO);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (fs_agent_serve(FS_FD_AGENT, FS_FD_MOUNT, &err) < 0) {
		fz_log_err("agent", &err);
		return CMD_EXIT_FAILED;
	}
	return CMD_EXIT_OK;
}
