/* reload.c - `fazt reload DIR`: reads the configuration as the mount was given it, checks it, and has the worker replaced by one that runs
 * with it, as an upgrade does: applications keep their handles and see a pause of milliseconds. */
#include "cmd/reload.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "cmd/apart.h"
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/change.h"
#include "cmd/cmd.h"
#include "cmd/control.h"
#include "cmd/given.h"
#include "cmd/keys.h"
#include "cmd/role.h"
#include "cmd/state.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define REPLACE_MS 30000
#define LOOK_MS    20

struct reload {
	struct cmd_where where;
	struct cmd_conf now, next;
	cJSON *changes;
	int statefd, lockfd;
	bool dry_run, json, key_made;
};

static int find_key(struct reload *r, bool look, struct fz_err *err)
{
	char state[PATH_MAX + 8];

	snprintf(state, sizeof(state), "%s/.fazt", r->where.dir);
	return cmd_key_default(&r->next, r->statefd, r->next.state ? r->next.state : state, look, &r->key_made, err);
}

static int read_next(struct reload *r, struct fz_err *err)
{
	int rc;

	cmd_conf_fini(&r->next);
	rc = cmd_given_load(&r->next, r->statefd, err);
	if (rc == 0)
		rc = cmd_conf_check(&r->next, err);
	if (rc == 0)
		rc = cmd_apart_check(&r->next, r->where.dir, err);
	return rc < 0 ? rc : find_key(r, true, err);
}

/* Whom a replica follows may change; on a host that was promoted since, the same lines would make it a replica again. */
static int check_role(struct reload *r, struct fz_err *err)
{
	struct cmd_role role;
	const cJSON *c;
	int rc = cmd_role_read(&role, r->statefd, err);

	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	cJSON_ArrayForEach (c, r->changes) {
		const char *key = cmd_text(c, "key");

		if (!role.replica && (!strcmp(key, "primary") || !strcmp(key, "primary_key") || !strcmp(key, "follow")))
			return fz_fail(
			        err, FZ_ECONFIG,
			        "%s: this host was promoted since it was mounted; to follow again, umount it and "
			        "mount it",
			        key);
	}
	return 0;
}

static int check_changes(struct reload *r, struct fz_err *err)
{
	const cJSON *c;
	int rc = cmd_change_list(&r->now, &r->next, r->changes, err);

	if (rc < 0)
		return rc;
	cJSON_ArrayForEach (c, r->changes)
		if (*cmd_text(c, "fixed"))
			return fz_fail(
			        err, FZ_ECONFIG,
			        "%s cannot change from '%s' to '%s' while it is mounted (%s): fazt umount %s, then "
			        "fazt mount; nothing was changed",
			        cmd_text(c, "key"), cmd_text(c, "from"), cmd_text(c, "to"), cmd_text(c, "fixed"),
			        r->where.dir);
	return check_role(r, err);
}

/* Once nothing else stands against it. */
static int make_key(struct reload *r, struct fz_err *err)
{
	int rc;

	cmd_list_clear(&r->next.recipients);
	rc = find_key(r, false, err);
	while (cJSON_GetArraySize(r->changes))
		cJSON_DeleteItemFromArray(r->changes, 0);
	return rc < 0 ? rc : check_changes(r, err);
}

static int pids(struct reload *r, int *worker, int *supervisor, struct fz_err *err)
{
	cJSON *request = cmd_request("status"), *answer = NULL;
	int rc = cmd_control_call(&r->where, request, REPLACE_MS, &answer, NULL, err);

	if (rc == 0) {
		*worker = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "worker_pid"));
		*supervisor = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(answer, "supervisor_pid"));
	}
	cJSON_Delete(request);
	cJSON_Delete(answer);
	return rc;
}

/* The supervisor replaces the worker, and the next one serves. It does not where what is installed cannot go on with the mount, say
 * (cmd/upgrade.c). */
static int replace_worker(struct reload *r, const struct fz_buf *next, struct fz_err *err)
{
	uint64_t end = fz_mono_ns() + REPLACE_MS * UINT64_C(1000000);
	int was = 0, is = 0, supervisor = 0, offer = -1;
	int rc = pids(r, &was, &supervisor, err);

	if (rc == 0 && (supervisor <= 1 || kill(supervisor, 0) < 0))
		rc = fz_fail(err, FZ_ENOTMOUNTED, "the supervisor of %s is gone: umount and mount it", r->where.dir);
	if (rc == 0) {
		(void)unlinkat(r->statefd, CMD_CONF_REFUSED, 0);
		rc = cmd_reload_offer(r->statefd, next, &offer, err);
	}
	if (rc == 0 && kill(supervisor, SIGUSR2) < 0)
		rc = fz_fail_errno(err, errno, "telling the supervisor (process %d)", supervisor);
	for (is = was; rc == 0 && (is == was || !cmd_reload_settled(r->statefd));) {
		if (fz_mono_ns() > end) {
			rc = fz_fail(err, FZ_ETIMEOUT, "the worker was not replaced%s; the mount's log says why",
			             cmd_reload_take_back(r->statefd) ? ", so the former configuration stays in effect"
			                                              : "");
			break;
		}
		(void)!poll(NULL, 0, LOOK_MS);
		rc = pids(r, &is, &supervisor, err);
	}
	if (rc < 0)
		(void)cmd_reload_take_back(r->statefd);
	fz_close(&offer);
	return rc;
}

/* The new worker serves; with which of the two? */
static int judge(struct reload *r, struct fz_err *err)
{
	struct fz_buf why = {0};
	int rc = fz_read_file(r->statefd, CMD_CONF_REFUSED, 4096, &why, NULL);

	if (rc == 0) {
		(void)unlinkat(r->statefd, CMD_CONF_REFUSED, 0);
		rc = fz_fail(err, FZ_ECONFIG,
		             "no worker can start with it, so the former configuration is in effect: %.250s",
		             fz_buf_str(&why));
	}
	fz_buf_fini(&why);
	return rc == -ENOENT ? 0 : rc;
}

static void tell(const struct reload *r)
{
	char state[PATH_MAX + 8];
	cJSON *o;
	const cJSON *c;

	if (r->json) {
		o = cJSON_CreateObject();
		cJSON_AddItemToObject(o, "changes", cJSON_Duplicate(r->changes, true));
		cJSON_AddBoolToObject(o, "dry_run", r->dry_run);
		cJSON_AddBoolToObject(o, "key_made", r->key_made && !r->dry_run);
		cmd_print_json(o);
		cJSON_Delete(o);
		return;
	}
	snprintf(state, sizeof(state), "%s/.fazt", r->where.dir);
	cJSON_ArrayForEach (c, r->changes)
		printf("[%s%s%s] %s: %s -> %s\n", cmd_text(c, "section"), *cmd_text(c, "target") ? " " : "",
		       cmd_text(c, "target"), cmd_text(c, "key"),
		       *cmd_text(c, "from") ? cmd_text(c, "from") : "(default)",
		       *cmd_text(c, "to") ? cmd_text(c, "to") : "(default)");
	if (!cJSON_GetArraySize(r->changes))
		printf("nothing differs from the configuration that %s runs with\n", r->where.dir);
	else
		printf("%s %s\n", r->dry_run ? "a reload would change this for" : "in effect for", r->where.dir);
	if (r->key_made && r->dry_run)
		printf("No recipient is named and there is no key: a reload would make one, and encrypt for it "
		       "alone.\n");
	else if (r->key_made)
		cmd_key_tell(stdout, &r->next, r->next.state ? r->next.state : state, r->where.dir);
}

/* r->where is set. */
static int reload(struct reload *r, struct fz_err *err)
{
	struct fz_buf next = {0};
	int rc = 0;

	if (!r->where.fazt)
		rc = fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", r->where.dir);
	if (rc == 0)
		rc = cmd_state_open(&r->where, NULL, &r->statefd, err);
	if (rc < 0)
		return rc;
	r->lockfd = openat(r->statefd, "reload.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (r->lockfd < 0 || flock(r->lockfd, LOCK_EX) < 0) /* one at a time */
		return fz_fail_errno(err, errno, "reload.lock in the state directory");
	if (!r->dry_run)
		(void)cmd_reload_take_back(r->statefd); /* of a reload that was killed */
	rc = cmd_reload_wait(r->statefd, REPLACE_MS, err);
	if (rc == 0)
		rc = cmd_state_snapshot(&r->now, r->statefd, err);
	if (rc == 0)
		rc = read_next(r, err);
	if (rc == 0)
		rc = check_changes(r, err);
	if (rc == 0 && !r->dry_run && r->key_made)
		rc = make_key(r, err);
	if (rc == 0 && !r->dry_run && cJSON_GetArraySize(r->changes)) {
		rc = cmd_conf_format(&r->next, &next, err);
		if (rc == 0)
			rc = replace_worker(r, &next, err);
		if (rc == 0)
			rc = judge(r, err);
	}
	if (next.data)
		explicit_bzero(next.data, next.size);
	fz_buf_fini(&next);
	return rc;
}

static void fini(struct reload *r)
{
	cmd_conf_fini(&r->now);
	cmd_conf_fini(&r->next);
	fz_close(&r->lockfd);
	fz_close(&r->statefd);
}

int cmd_reload_changes(const struct cmd_where *w, cJSON *changes, struct fz_err *err)
{
	struct reload r = {.where = *w, .changes = changes, .statefd = -1, .lockfd = -1, .dry_run = true};
	int rc;

	cmd_conf_init(&r.now);
	cmd_conf_init(&r.next);
	rc = reload(&r, err);
	fini(&r);
	return rc;
}

int cmd_reload(int argc, char **argv)
{
	struct reload r = {.statefd = -1, .lockfd = -1};
	const struct cmd_opt opts[] = {
	        {"dry-run",   'n', NULL, "check, and show what would change", &r.dry_run, NULL, NULL},
	        {"json",       'j', NULL, "print JSON", &r.json, NULL, NULL},
	        {0},
	};
	const struct cmd_spec spec = {
	        "reload",
	        "[--dry-run] [--json] DIR",
	        "Reads the configuration file of the mount again, checks it, and has it take effect without "
	        "unmounting: "
	        "applications keep\n"
	        "their open files. Flags and FAZT_* variables of the mount go on to win. A file that is wrong changes "
	        "nothing, nor does one that\n"
	        "changes what is fixed while mounted (state, private_mount, log_file, role, failover ...). SIGHUP to "
	        "the "
	        "supervisor does the same.",
	        "fazt reload /var/lib/app\nfazt reload --dry-run /var/lib/app\n",
	        1,
	        1,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	cmd_conf_init(&r.now);
	cmd_conf_init(&r.next);
	r.changes = cJSON_CreateArray();
	if (rc == 0)
		rc = cmd_where_find(&r.where, args[0], &err);
	if (rc == 0)
		rc = reload(&r, &err);
	if (rc == 0)
		tell(&r);
	fini(&r);
	cJSON_Delete(r.changes);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
