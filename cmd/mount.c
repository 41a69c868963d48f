/* mount.c - `fazt mount DIR`: everything that can be wrong is checked before anything is mounted; then the supervisor
 * runs in a child that outlives this command, which returns when the mount serves. */
#include "cmd/apart.h"
#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/file.h"
#include "base/log.h"
#include "cmd/config.h"
#include "cmd/given.h"
#include "cmd/keys.h"
#include "cmd/logto.h"
#include "cmd/reload.h"
#include "cmd/role.h"
#include "cmd/run.h"
#include "cmd/resume.h"
#include "cmd/state.h"
#include "cmd/where.h"
#include "cmd/wire.h"
#include "fs/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct mounting {
	struct cmd_conf conf;
	struct cmd_where where;
	struct cmd_role role;
	struct cmd_logto log;
	char state[PATH_MAX], exe[PATH_MAX];
	bool foreground, key_made;
	int statefd;         /* until the supervisor opens its own */
	int lockfd;          /* held for the life of the supervisor: one mount a state directory */
	struct cmd_run *run; /* an application beside it; NULL = none */
};

/* Flags of paths may be relative; the configuration's may not. */
static int path_flag(struct cmd_conf *c, const char *flag, const char *section, const char *key, const char *value,
                     struct fz_err *err)
{
	char cwd[PATH_MAX], path[2 * PATH_MAX];

	if (!value)
		return 0;
	if (*value != '/') {
		if (!getcwd(cwd, sizeof(cwd)))
			return fz_fail_errno(err, errno, "current directory");
		snprintf(path, sizeof(path), "%s/%s", cwd, value);
		value = path;
	}
	return cmd_conf_flag(c, flag, section, key, value, err);
}

static int link_flag(struct cmd_conf *c, const char *flag, const char *key, const char *value, struct fz_err *err)
{
	return value ? cmd_conf_flag(c, flag, "link", key, value, err) : 0;
}

static int make_state(struct mounting *m, struct fz_err *err)
{
	int rc = cmd_state_make(&m->where, m->conf.state, m->state, &m->statefd, err);

	if (rc < 0)
		return rc;
	m->lockfd = openat(m->statefd, "conf.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (m->lockfd < 0)
		return fz_fail_errno(err, errno, "cannot create %s/conf.lock", m->state);
	if (flock(m->lockfd, LOCK_EX | LOCK_NB) < 0)
		return fz_fail(err, FZ_EBUSY, "another fazt uses the state directory %s", m->state);
	return 0;
}

/* For `fazt reload`. */
static int write_given(struct mounting *m, struct fz_err *err)
{
	int rc = cmd_given_save(&m->conf, environ, m->statefd, err);

	if (rc == 0)
		cmd_reload_forget(m->statefd);
	return rc;
}

/* What the worker and its successors will run with; recipients are resolved, so no key file is needed later. */
static int write_snapshot(struct mounting *m, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = cmd_conf_format(&m->conf, &text, err);

	if (rc == 0)
		rc = fz_write_file(m->statefd, CMD_CONF_SNAPSHOT, fz_buf_str(&text), text.size, 0600, err);
	if (rc == 0)
		rc = write_given(m, err);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}

static int supervise(struct mounting *m, int ready_fd, struct fz_err *err)
{
	const char *worker[] = {m->exe, "worker", m->where.dir, NULL};
	const char *agent[] = {m->exe, "agent", m->where.dir, NULL};
	const char *reload[] = {m->exe, "reload", m->where.dir, NULL};
	struct fs_supervisor_conf conf = {.dir = m->where.dir,
	                                  .state_dir = m->conf.state ? m->state : NULL, /* DIR/.fazt, no link */
	                                  .worker_argv = worker,
	                                  .agent_argv = agent,
	                                  .reload_argv = reload,
	                                  .no_passthrough = m->conf.no_passthrough,
	                                  .no_resend = m->conf.no_resend,
	                                  .allow_other = !m->conf.private_mount,
	                                  .logdir_fd = m->log.dirfd,
	                                  .ready_fd = ready_fd};
	int rc = cmd_logto_use(&m->log, "supervisor", &m->conf, err);

	if (rc == 0)
		rc = fs_supervisor_run(&conf, err);
	fz_log_flush(1);
	return rc;
}

/* The child: leaves the terminal, supervises, leaves its error in errfd. Without a log file it logs where this process does. */
static void run_child(struct mounting *m, int ready_fd, int errfd) __attribute__((noreturn));
static void run_child(struct mounting *m, int ready_fd, int errfd)
{
	struct fz_err err = {0};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	unsetenv("NOTIFY_SOCKET"); /* of whoever started this command: no service's main process */
	setsid();
	if (m->run)
		cmd_run_undo(m->run);
	if (null < 0 || chdir("/") < 0 || dup2(null, 0) < 0 || dup2(m->log.fd < 0 ? 2 : m->log.fd, 1) < 0 ||
	    (m->log.fd >= 0 && dup2(m->log.fd, 2) < 0))
		_exit(CMD_EXIT_FAILED);
	if (supervise(m, ready_fd, &err) < 0) {
		(void)!write(errfd, &err, sizeof(err));
		fz_log_err("supervisor", &err);
		_exit(fz_err_exit(err.code));
	}
	_exit(CMD_EXIT_OK);
}

static int start_in_background(struct mounting *m, struct fz_err *err)
{
	int ready[2] = {-1, -1}, why[2] = {-1, -1}, alone[2] = {-1, -1}, rc = 0;
	char text[400] = "";
	ssize_t n;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(why, O_CLOEXEC) < 0 || pipe2(alone, O_CLOEXEC) < 0) {
		rc = fz_fail_errno(err, errno, "pipe");
		goto out;
	}
	pid = fork();
	if (pid < 0) {
		rc = fz_fail_errno(err, errno, "fork");
		goto out;
	}
	if (pid == 0) {
		fz_close(&ready[0]);
		fz_close(&why[0]);
		fz_close(&alone[1]);
		(void)!read(alone[0], text, 1); /* its end: the parent has closed what it shared */
		fz_close(&alone[0]);
		run_child(m, ready[1], why[1]);
	}
	fz_close(&ready[1]);
	fz_close(&why[1]);
	/* From here on the child's alone: a process that has a file of DIR open keeps it from being mounted over. */
	fz_close(&m->lockfd);
	cmd_logto_close(&m->log);
	fz_close(&alone[1]);
	if (m->run) {
		m->run->supervisor = pid;
		cmd_run_wait(m->run, ready[0]);
	}
	do
		n = read(ready[0], text, sizeof(text) - 1);
	while (n < 0 && errno == EINTR);
	if (n > 0 && text[0] == 'k')
		goto out; /* it serves */
	/* 'e' and a sentence, or its end: the child's own error says more. */
	do
		n = read(why[0], err, sizeof(*err));
	while (n < 0 && errno == EINTR);
	(void)waitpid(pid, NULL, 0);
	if (n != (ssize_t)sizeof(*err)) {
		err->code = -FZ_EINTERNAL;
		snprintf(err->text, sizeof(err->text), "%s",
		         text[0] == 'e' && text[1] ? text + 1 : "the supervisor ended before the mount served");
	}
	err->text[sizeof(err->text) - 1] = 0;
	rc = err->code;
	cmd_logto_show_errors(&m->log);
out:
	fz_close(&ready[0]);
	fz_close(&why[0]);
	fz_close(&ready[1]);
	fz_close(&why[1]);
	fz_close(&alone[0]);
	fz_close(&alone[1]);
	return rc;
}

static void tell(const struct mounting *m)
{
	FILE *to = m->run ? stderr : stdout; /* an application's output is its own */

	fprintf(to, "fazt %s %s\n", m->foreground ? "mounts" : "serves", m->where.dir);
	for (size_t i = 0; i < m->conf.n_targets; i++)
		fprintf(to, "  ships to %s (%s)\n", m->conf.targets[i].url,
		        cmd_target_encrypted(&m->conf, &m->conf.targets[i]) ? "encrypted" : "NOT encrypted");
	if (m->role.replica && m->role.primary[0])
		fprintf(to, "  follows %s\n", m->role.primary);
	if (m->role.replica && m->conf.follow)
		fprintf(to, "  follows the store %s%s\n", m->conf.follow,
		        m->role.primary[0] ? " where that cannot help" : "");
	if (m->conf.listen)
		fprintf(to, "  replicas may follow at %s\n", m->conf.listen);
	if (m->conf.http_listen)
		fprintf(to, "  metrics and status page at %s%s\n", *m->conf.http_listen == ':' ? "127.0.0.1" : "",
		        m->conf.http_listen);
	if (!m->conf.n_targets && !m->role.replica)
		fprintf(to, "  no target: commits stay in the local log (give --target URL to ship them)\n");
	if (m->key_made)
		cmd_key_tell(to, &m->conf, m->state, m->where.dir);
	fflush(to);
}

/* Supervisor and worker were killed: nobody can go on with that. */
static int remove_dead(struct mounting *m, struct fz_err *err)
{
	if (umount2(m->where.dir, UMOUNT_NOFOLLOW) < 0)
		return fz_fail(err, FZ_EBUSY,
		               "%s is a dead mount and cannot be unmounted (%s): end who has a file of it open",
		               m->where.dir, strerror(errno));
	fprintf(stderr, "fazt %s: the mount on %s was dead and has been removed; what was committed is in its files\n",
	        m->run ? "run" : "mount", m->where.dir);
	return cmd_where_refresh(&m->where, err);
}

static int mount_it(struct mounting *m, const char *dir, struct fz_err *err)
{
	ssize_t n;
	int rc;

	if (geteuid() != 0)
		return fz_fail_errno(
		        err, EPERM,
		        "fazt mount must run as root: it mounts, and serves files of every owner (try sudo)");
	rc = cmd_conf_check(&m->conf, err);
	if (rc == 0)
		rc = cmd_where_find(&m->where, dir, err);
	if (rc < 0)
		return rc;
	if (m->where.fazt && cmd_where_dead(m->where.dir))
		rc = remove_dead(m, err);
	if (rc < 0)
		return rc;
	if (m->where.fazt && !m->run && cmd_resume_orphan(&m->where, m->foreground, &rc, err))
		return rc;
	if (m->where.fazt)
		return fz_fail(err, FZ_EMOUNTED, "fazt serves %s already", m->where.dir);
	if (access("/dev/fuse", F_OK) < 0)
		return fz_fail(err, FZ_ENOFUSE, "there is no /dev/fuse");
	rc = cmd_apart_check(&m->conf, m->where.dir, err);
	if (rc < 0)
		return rc;
	n = readlink("/proc/self/exe", m->exe, sizeof(m->exe) - 1);
	if (n < 0)
		return fz_fail_errno(err, errno, "/proc/self/exe");
	rc = make_state(m, err);
	if (rc == 0)
		rc = cmd_key_default(&m->conf, m->statefd, m->state, false, &m->key_made, err);
	if (rc == 0)
		rc = cmd_logto_open(&m->log, &m->conf, m->statefd, m->state, m->foreground || m->run, err);
	if (rc == 0)
		rc = write_snapshot(m, err);
	if (rc == 0)
		rc = cmd_role_load(&m->role, m->statefd, &m->conf, err); /* the agent starts as what it says */
	fz_close(&m->statefd);
	if (rc < 0)
		return rc;
	if (m->foreground && !m->run) {
		tell(m);
		return supervise(m, -1, err);
	}
	if (m->run) {
		rc = cmd_run_init(m->run, err);
		if (rc < 0)
			return rc;
		m->run->exe = m->exe;
		m->run->dir = m->where.dir;
		m->run->stop_grace_ms = m->conf.stop_grace_ms;
	}
	rc = start_in_background(m, err);
	if (rc == 0)
		tell(m);
	return rc;
}

int cmd_mount(int argc, char **argv)
{
	const struct cmd_spec spec = {
	        .name = "mount",
	        .synopsis = "[options] DIR",
	        .about = "Mounts over DIR, serves the files that lie there, and captures every commit of its SQLite "
	                 "databases "
	                 "into a log\n"
	                 "in DIR/.fazt, from where it is shipped, encrypted, to the targets. Returns when the mount "
	                 "serves. "
	                 "Flags win\n"
	                 "over FAZT_* in the environment, and these over the configuration file.",
	        .examples = "fazt mount /var/lib/app\n"
	                    "fazt mount --target dir:/backup/app --recipient age1... /var/lib/app\n"
	                    "fazt mount --target 's3://bucket/app?region=eu-central-1' /var/lib/app\n",
	        .min_args = 1,
	        .max_args = 1};

	return cmd_mount_as(&spec, NULL, argc, argv);
}

int cmd_mount_as(const struct cmd_spec *as, struct cmd_run *run, int argc, char **argv)
{
	struct mounting m = {
	        .statefd = -1, .lockfd = -1, .log = {.dirfd = -1, .fd = -1},
                        .run = run
        };
	const char *config = NULL, *state = NULL, *encrypt = NULL, *level = NULL, *log_file = NULL;
	const char *role = NULL, *listen = NULL, *identity = NULL, *primary = NULL, *primary_key = NULL;
	const char *follow = NULL, *backup_key = NULL, *ack = NULL, *failover = NULL, *lease = NULL, *witness = NULL;
	const char *http = NULL;
	bool no_passthrough = false, no_resend = false, take_over = false;
	struct cmd_words targets = {0}, recipients = {0}, followers = {0};
	const struct cmd_opt opts[] = {
	        CMD_OPT_CONFIG(&config),
	        {"target",                    't', "URL", "ship there: dir:/path or s3://bucket/prefix?... (repeatable)", NULL, NULL,
	                   &targets},
	        {"recipient",                      'r', "age1...", "encrypt for this key, or for those in a file (repeatable)", NULL, NULL,
	                   &recipients},
	        {"encrypt",                       0, "age|none", "none: write plain objects", NULL, &encrypt, NULL},
	        {"foreground",                    'f', NULL, "stay, and log to stderr", &m.foreground, NULL, NULL},
	        {"state",                 0, "PATH", "keep log and state there instead of in DIR/.fazt", NULL, &state, NULL},
	        {"log-level",                  0, "error|warning|info|debug", "what is logged (info)", NULL, &level, NULL},
	        {"log-file",                       0, "FILE", "instead of fazt.log in the state directory", NULL, &log_file, NULL},
	        {"take-over",                 0, NULL, "claim databases in the targets that another writer claimed last", &take_over,
	                   NULL, NULL},
	        {"role",                   0, "primary|replica", "replica: follow another host", NULL, &role, NULL},
	        {"listen",                 0, "ADDR:PORT", "let replicas follow this host there", NULL, &listen, NULL},
	        {"identity",                       0, "KEY", "this host's own key for links (fazt keygen -o KEY)", NULL, &identity, NULL},
	        {"follower",                       0, "age1...",
	                   "a host that may follow: its public key, then patterns of databases (repeatable)", NULL, NULL,
	                   &followers},
	        {"ack",                0, "WHAT", "what a FULL commit waits for: local (default), replica, or 'N replicas'", NULL,
	                   &ack, NULL},
	        {"primary",                       0, "HOST:PORT", "a replica: whom to follow", NULL, &primary, NULL},
	        {"primary-key",              0, "age1...", "a replica: the public key of its primary", NULL, &primary_key, NULL},
	        {"follow",                       0, "URL", "a replica: the store to follow without a primary, or while it is away", NULL,
	                   &follow, NULL},
	        {"backup-identity",                     'i', "KEY", "a replica: the secret key of the backups in that store", NULL,
	                   &backup_key, NULL},
	        {"failover",                     0, "auto|manual",
	                   "auto: the primary needs a lease in a store, which a replica takes when it has run out", NULL,
	                   &failover, NULL},
	        {"lease",                       0, "TIME", "how long it is valid without being renewed (10s)", NULL, &lease, NULL},
	        {"witness",                       0, "URL", "the store that holds it, the same for all hosts (the first target)", NULL,
	                   &witness, NULL},
	        {"http",                 0, "ADDR:PORT", "metrics, health check and status page there; :PORT is loopback", NULL, &http,
	                   NULL},
	        {"no-passthrough", 0, NULL, "do not use kernel passthrough, as on kernels before 6.9", &no_passthrough,
	                   NULL, NULL},
	        {"no-resend",                       0, NULL, "do not use FUSE's resend, as on kernels before 6.9", &no_resend, NULL, NULL},
	        {0	              },
	};
	struct cmd_spec spec = *as;
	struct fz_err err = {0};
	char **args;
	const char *dir = NULL;
	int n, rc;

	spec.opts = opts;
	rc = cmd_args(&spec, argc, argv, &args, &n, &err);
	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0)
		dir = n ? args[0] : getenv("FAZT_DIR");
	if (rc == 0 && run && (!dir || !run->command))
		rc = fz_fail(&err, FZ_EUSAGE, "%s: fazt %s %s",
		             dir ? "there is no `-- COMMAND` to run" : "no directory is named, nor by FAZT_DIR",
		             spec.name, spec.synopsis);
	cmd_conf_init(&m.conf);
	/* Before the configuration: a mount goes on with the one that it has, though the file may be wrong by now. */
	if (rc == 0 && m.foreground && !run && cmd_resume_left(&rc, &err))
		goto out;
	if (rc == 0)
		rc = cmd_conf_load(&m.conf, config, &err);
	for (size_t i = 0; rc == 0 && i < targets.n; i++)
		rc = cmd_conf_flag(&m.conf, "--target", "target", "url", targets.v[i], &err);
	for (size_t i = 0; rc == 0 && i < recipients.n; i++)
		rc = cmd_conf_flag(&m.conf, "--recipient", "encrypt", "recipients", recipients.v[i], &err);
	if (rc == 0 && encrypt)
		rc = cmd_conf_flag(&m.conf, "--encrypt", "encrypt", "encrypt", encrypt, &err);
	if (rc == 0 && level)
		rc = cmd_conf_flag(&m.conf, "--log-level", "mount", "log_level", level, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--role", "role", role, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--listen", "listen", listen, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--ack", "ack", ack, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--primary", "primary", primary, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--primary-key", "primary_key", primary_key, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--follow", "follow", follow, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--failover", "failover", failover, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--lease", "lease", lease, &err);
	if (rc == 0)
		rc = link_flag(&m.conf, "--witness", "witness", witness, &err);
	if (rc == 0 && http)
		rc = cmd_conf_flag(&m.conf, "--http", "http", "listen", http, &err);
	if (rc == 0)
		rc = path_flag(&m.conf, "--backup-identity", "encrypt", "identity", backup_key, &err);
	for (size_t i = 0; rc == 0 && i < followers.n; i++)
		rc = link_flag(&m.conf, "--follower", "follower", followers.v[i], &err);
	if (rc == 0)
		rc = path_flag(&m.conf, "--identity", "link", "host_key", identity, &err);
	if (rc == 0)
		rc = path_flag(&m.conf, "--state", "mount", "state", state, &err);
	if (rc == 0)
		rc = path_flag(&m.conf, "--log-file", "mount", "log_file", log_file, &err);
	if (rc == 0 && no_passthrough)
		rc = cmd_conf_flag(&m.conf, "--no-passthrough", "mount", "no_passthrough", "yes", &err);
	if (rc == 0 && no_resend)
		rc = cmd_conf_flag(&m.conf, "--no-resend", "mount", "no_resend", "yes", &err);
	if (rc == 0 && take_over)
		rc = cmd_conf_flag(&m.conf, "--take-over", "mount", "take_over", "yes", &err);
	if (rc == 0)
		rc = mount_it(&m, dir, &err);
out:
	fz_close(&m.statefd);
	fz_close(&m.lockfd);
	cmd_logto_close(&m.log);
	cmd_conf_fini(&m.conf);
	if (rc < 0)
		return run && run->interrupted ? 128 + run->interrupted : cmd_report(spec.name, &err);
	return run ? cmd_run_application(run) : CMD_EXIT_OK;
}
