/* worker.h - the process that serves the mount: what it is made of, and how it answers the commands. */
#ifndef FZ_CMD_WORKER_H
#define FZ_CMD_WORKER_H

#include "cmd/alert.h"
#include "cmd/config.h"
#include "cmd/control.h"
#include "cmd/drill.h"
#include "cmd/lease.h"
#include "cmd/link.h"
#include "cmd/logkeep.h"
#include "cmd/wire.h"
#include "fs/session.h"

#include <stdatomic.h>

struct cmd_http;
struct fs_agent;
struct ltx_logset;

struct cmd_serving {
	struct cmd_control_handler handler; /* first */
	const char *dir;
	char state_path[PATH_MAX]; /* as an application would name it */
	int statefd;               /* FS_FD_STATE, borrowed */
	int64_t started_ms;
	struct cmd_conf conf;
	bool reloads; /* conf is what a reload offers: nobody has served with it yet (cmd/reload.h) */
	struct cmd_targets targets;
	struct ltx_logset *logs;
	struct fs_session *session;
	struct fs_session_info info;
	struct cmd_link link;
	struct fs_agent *agent; /* a primary's; a replica's agent is the link's */
	struct fs_capture *capture;
	struct primary_ship *ship; /* NULL without targets */
	struct cmd_lease lease;
	struct cmd_logkeep keep;
	struct fz_worker pulse; /* cmd/pulse.c */
	struct cmd_control *control;
	struct cmd_alerts alerts;
	struct cmd_drills drills;
	struct cmd_http *http;  /* NULL unless [http] listen */
	struct fz_err http_err; /* why this worker does not serve it */
	atomic_bool forced;     /* `fazt umount --force`: the end counts as clean even when the logs are not complete */
};
/* cmd/entries.c: {"after": {lineage: TXID}} -> databases: [{name, lineage, epoch, created_ms, ended_ms, tail_txid, entries}]. */
void cmd_entries_answer(struct cmd_serving *w, const struct cJSON *request, struct cJSON *answer);
/* cmd/pulse.c: reports to the supervisor, when it wants that. */
int cmd_pulse_start(struct cmd_serving *w, struct fz_err *err) FZ_MUST_CHECK;
/* cmd/answer.c: one more line of `problems` or `notes`. */
void cmd_say(struct cJSON *list, const char *fmt, ...) FZ_PRINTF(2, 3);
/* cmd/answer.c: the handler's function. */
int cmd_answer(struct cmd_control_handler *h, const struct cJSON *request, struct cJSON *answer, int *pass_fd,
               struct fz_err *err);

#endif
