/* The mount of a replica, for real: supervisor, worker and a stand-in for the agent are this program itself, started anew.
 *   test_fs_replica                                the tests
 *   test_fs_replica mount DIR STATE [no-passthrough] [no-resend]   serves for a scenario (tests/e2e/replica-mount.py), until SIGTERM
 *
 * STATE     "role" holds the role that worker and agent take at their start: replica or primary; "protected" the databases
 *           of a replica, one a line. "worker.sock" and "agent.sock" take one command a connection: lines in, an answer out.
 *             worker: protect NAME | unprotect NAME | attached NAME | detached NAME | restart | status | sync |
 *                     set NAME FILE TEXT | remove NAME | often NAME (a second long)
 *             agent:  sql NAME\n STATEMENTS | close NAME | cut NAME SIZE | fsync NAME | make NAME | spoil NAME | unlink NAME | rename FROM TO
 * The stand-in writes as an application does, by SQLite: that is more than the mount must allow to the agent, never less. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/capture.h"
#include "fs/session.h"
#include "fs/super_client.h"
#include "fs/supervisor.h"
#include "fs/virtual.h"
#include "ltx/log.h"
#include "tests/unit/tmp.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define STATE_DIR "/proc/self/fd/12" /* FS_FD_STATE; short enough for a socket's address */

static bool is_replica(void)
{
	struct fz_err err;
	struct fz_buf b = {0};
	bool yes = fz_read_file(FS_FD_STATE, "role", 64, &b, &err) == 0 && b.size >= 7 && !memcmp(b.data, "replica", 7);

	fz_buf_fini(&b);
	return yes;
}

static int listen_at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	(void)unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 8) < 0)
		fz_panic("cannot listen at %s", path);
	return fd;
}

/* The command on a connection: up to the end of what the peer sends. */
static size_t receive(int fd, char *buf, size_t cap)
{
	size_t n = 0;
	ssize_t r;

	while (n + 1 < cap && (r = read(fd, buf + n, cap - 1 - n)) > 0)
		n += (size_t)r;
	buf[n] = 0;
	return n;
}

static void answer(int fd, const char *text)
{
	if (fz_write(fd, text, strlen(text)) < 0)
		fz_warn("nobody hears the answer");
	close(fd);
}

/* ---- the worker ---- */

static struct worker {
	struct fs_session *session;
	struct fs_capture *capture;
	struct ltx_logset *logs;
	int listenfd;
	bool replica;
} w;

static void on_term(int sig)
{
	fs_session_stop(w.session);
}

/* "NAME FILE TEXT" */
static int set_text(char *args)
{
	char *file = strchr(args, ' '), *text = file ? strchr(file + 1, ' ') : NULL;

	if (!text)
		return -EINVAL;
	*file++ = 0;
	*text++ = 0;
	return fs_virtual_set(fs_session_virtual(w.session), args, (enum fs_virtual_file)atoi(file), text);
}

/* As many different texts as fit into ms; how many that were. */
static unsigned set_often(const char *name, int ms)
{
	uint64_t end = fz_mono_ns() + (uint64_t)ms * 1000000;
	unsigned n = 0;
	char text[64];

	while (n % 64 || fz_mono_ns() < end) {
		snprintf(text, sizeof(text), "1/%016x/%016x\n", n, n);
		if (fs_virtual_set(fs_session_virtual(w.session), name, FS_VIRTUAL_POSITION, text) < 0)
			return 0;
		n++;
	}
	return n;
}

static void run_worker_command(char *cmd, char *out, size_t cap)
{
	struct fz_err err = {0};
	char *name = strchr(cmd, ' ');
	int rc = 0;

	snprintf(out, cap, "ok");
	if (name)
		*name++ = 0;
	if (!strcmp(cmd, "protect") || !strcmp(cmd, "unprotect")) {
		rc = fs_capture_protect(w.capture, name, *cmd == 'p', &err);
	} else if (!strcmp(cmd, "attached") || !strcmp(cmd, "detached")) {
		fs_capture_attached(w.capture, name, *cmd == 'a');
	} else if (!strcmp(cmd, "restart")) {
		rc = fs_super_restart(false, &err);
	} else if (!strcmp(cmd, "status")) {
		cJSON *list = cJSON_CreateArray();
		char *text = fs_capture_status(w.capture, list) == 0 ? cJSON_PrintUnformatted(list) : NULL;

		snprintf(out, cap, "%s", text ? text : "?");
		free(text);
		cJSON_Delete(list);
	} else if (!strcmp(cmd, "set")) {
		rc = set_text(name);
		err.text[0] = 0;
	} else if (!strcmp(cmd, "often")) {
		snprintf(out, cap, "%u", set_often(name, 1000));
	} else if (!strcmp(cmd, "remove")) {
		fs_virtual_remove(fs_session_virtual(w.session), name);
	} else if (!strcmp(cmd, "sync")) {
		rc = fs_capture_sync(w.capture, NULL, &err);
	} else {
		snprintf(out, cap, "unknown");
	}
	if (rc < 0)
		snprintf(out, cap, "error %d %s", rc, err.text);
}

/* Set before it serves: "virtual" holds lines "NAME FILE TEXT". */
static void set_known(void)
{
	struct fz_buf b = {0};
	struct fz_err err;
	char *save = NULL, text[512];

	if (fz_read_file(FS_FD_STATE, "virtual", 1 << 20, &b, &err) < 0 || !b.size)
		return;
	for (char *line = strtok_r((char *)b.data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		snprintf(text, sizeof(text), "%s\n", line);
		if (set_text(text) < 0)
			fz_warn("cannot set %s", line);
	}
	fz_buf_fini(&b);
}

/* Trusts the agent once it says hello, and takes commands. */
static void *listen_worker(void *arg)
{
	struct pollfd p[] = {
	        {w.listenfd,  POLLIN, 0},
                {FS_FD_AGENT, POLLIN, 0}
        };
	char cmd[4096], out[65536];

	for (;;) {
		int pid, fd;

		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		fd = poll(p, w.replica ? 2 : 1, -1);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		if (fd < 0)
			continue;
		if (p[1].revents) {
			if (recv(FS_FD_AGENT, &pid, sizeof(pid), 0) != sizeof(pid)) {
				p[1].fd = -1;
				continue;
			}
			fs_capture_trust(w.capture, pid);
			if (send(FS_FD_AGENT, "", 1, MSG_NOSIGNAL) < 0)
				fz_warn("the agent does not listen");
		}
		fd = p[0].revents ? accept4(w.listenfd, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		receive(fd, cmd, sizeof(cmd));
		run_worker_command(cmd, out, sizeof(out));
		answer(fd, out);
	}
	return NULL;
}

static void protect_known(void)
{
	struct fz_buf b = {0};
	struct fz_err err;
	char *save = NULL;

	if (fz_read_file(FS_FD_STATE, "protected", 1 << 20, &b, &err) < 0 || !b.size)
		return;
	for (char *name = strtok_r((char *)b.data, "\n", &save); name; name = strtok_r(NULL, "\n", &save))
		if (fs_capture_protect(w.capture, name, true, &err) < 0)
			fz_log_err(name, &err);
	fz_buf_fini(&b);
}

static int worker(void)
{
	struct fs_capture_conf conf = {.rootfd = FS_FD_ROOT, .statefd = FS_FD_STATE, .scrub_bytes_per_s = UINT64_MAX};
	struct sigaction stop = {.sa_handler = on_term}, ignore = {.sa_handler = SIG_IGN};
	struct fs_session_info info;
	struct fz_err err = {0};
	sigset_t all, old;
	pthread_t t;
	int rc;

	fz_log_init("worker", FZ_LOG_INFO);
	w.replica = is_replica();
	rc = fs_session_open(&w.session, &err);
	if (rc < 0)
		goto out;
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGUSR2, &stop, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	fs_session_info(w.session, &info);
	rc = ltx_logset_open(&w.logs, FS_FD_STATE, &(struct ltx_logset_conf){0}, &err);
	if (rc < 0)
		goto out;
	conf.logs = w.logs;
	conf.replica = w.replica;
	conf.passthrough = info.passthrough;
	conf.resume = info.resumed;
	rc = fs_capture_open(&w.capture, &conf, &err);
	if (rc < 0)
		goto out;
	if (w.replica)
		protect_known();
	set_known();
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	w.listenfd = listen_at(STATE_DIR "/worker.sock");
	if (pthread_create(&t, NULL, listen_worker, NULL) != 0)
		fz_panic("no thread");
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	rc = fs_session_run(w.session, w.capture, NULL, NULL, &err);
	sigaction(SIGTERM, &ignore, NULL);
	sigaction(SIGUSR2, &ignore, NULL);
	pthread_cancel(t);
	pthread_join(t, NULL);
	if (fs_capture_close(w.capture, &err) < 0)
		rc = err.code;
	ltx_logset_close(w.logs);
	fs_session_close(w.session);
out:
	if (rc < 0) {
		fz_log_err("worker", &err);
		fs_super_init(FS_FD_SUPER);
		fs_super_failed(&err);
	}
	return rc < 0;
}

/* ---- the agent ---- */

static struct open_db {
	char name[256];
	sqlite3 *con;
} dbs[16];

static struct open_db *db_of(const char *name, bool make)
{
	struct open_db *free_one = NULL;

	for (size_t i = 0; i < sizeof(dbs) / sizeof(dbs[0]); i++) {
		if (dbs[i].con && !strcmp(dbs[i].name, name))
			return &dbs[i];
		if (!dbs[i].con)
			free_one = &dbs[i];
	}
	if (!make || !free_one || strlen(name) >= sizeof(free_one->name))
		return NULL;
	strcpy(free_one->name, name);
	return free_one;
}

static void run_sql(const char *dir, const char *name, const char *sql, char *out, size_t cap)
{
	struct open_db *db = db_of(name, true);
	char path[8192], *why = NULL;
	int keep = 1;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (!db) {
		snprintf(out, cap, "error: no room");
		return;
	}
	if (!db->con) {
		if (sqlite3_open(path, &db->con) != SQLITE_OK ||
		    sqlite3_exec(db->con, "PRAGMA journal_mode=WAL; SELECT count(*) FROM sqlite_master", NULL, NULL,
		                 NULL) != SQLITE_OK) {
			snprintf(out, cap, "error: %s", sqlite3_errmsg(db->con));
			sqlite3_close(db->con);
			db->con = NULL;
			return;
		}
		sqlite3_file_control(db->con, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep);
	}
	if (sqlite3_exec(db->con, sql, NULL, NULL, &why) != SQLITE_OK)
		snprintf(out, cap, "error: %s", why ? why : "?");
	sqlite3_free(why);
}

/* A wal-index of another time, that everybody may write to. */
static int spoil(int fd)
{
	uint8_t junk[32768];

	memset(junk, 1, sizeof(junk));
	if (ftruncate(fd, 0) < 0 || fchmod(fd, 0666) < 0)
		return -1;
	return pwrite(fd, junk, sizeof(junk), 0) == sizeof(junk) ? 0 : -1;
}

static void run_agent_command(const char *dir, int mountfd, char *cmd, char *out, size_t cap)
{
	char *name = strchr(cmd, ' '), *rest;
	int rc = 0, fd = -1;

	snprintf(out, cap, "ok");
	if (name)
		*name++ = 0;
	else
		name = cmd + strlen(cmd);
	rest = name + strcspn(name, " \n");
	if (*rest)
		*rest++ = 0;
	if (!strcmp(cmd, "sql")) {
		run_sql(dir, name, rest, out, cap);
	} else if (!strcmp(cmd, "close")) {
		struct open_db *db = db_of(name, false);

		if (db)
			sqlite3_close(db->con);
		if (db)
			db->con = NULL;
	} else if (!strcmp(cmd, "cut") || !strcmp(cmd, "fsync")) {
		fd = openat(mountfd, name, O_RDWR | O_CLOEXEC);
		rc = fd < 0 ? -1 : *cmd == 'c' ? ftruncate(fd, atoll(rest)) : fsync(fd);
	} else if (!strcmp(cmd, "make")) {
		fd = openat(mountfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		rc = fd;
	} else if (!strcmp(cmd, "spoil")) {
		fd = openat(mountfd, name, O_RDWR | O_CLOEXEC);
		rc = fd < 0 ? -1 : spoil(fd);
	} else if (!strcmp(cmd, "unlink")) {
		rc = unlinkat(mountfd, name, 0);
	} else if (!strcmp(cmd, "rename")) {
		rc = renameat(mountfd, name, mountfd, rest);
	} else if (strcmp(cmd, "hello") != 0) {
		snprintf(out, cap, "unknown");
	}
	if (rc < 0)
		snprintf(out, cap, "error: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static int agent(const char *dir)
{
	char cmd[65536], out[4096], go;
	struct fs_fence *fences;
	struct fz_err err = {0};
	int pid = getpid(), lfd;

	fz_log_init("agent", FZ_LOG_INFO);
	if (!is_replica())
		return fs_agent_serve(FS_FD_AGENT, FS_FD_MOUNT, &fences, &err) < 0;
	if (send(FS_FD_AGENT, &pid, sizeof(pid), MSG_NOSIGNAL) != sizeof(pid) || recv(FS_FD_AGENT, &go, 1, 0) != 1)
		return 1;
	lfd = listen_at(STATE_DIR "/agent.sock");
	for (;;) {
		struct pollfd p[] = {
		        {lfd,         POLLIN, 0},
                        {FS_FD_AGENT, POLLIN, 0}
                };
		int fd;

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents)
			return 0; /* the worker is gone */
		fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		receive(fd, cmd, sizeof(cmd));
		run_agent_command(dir, FS_FD_MOUNT, cmd, out, sizeof(out));
		answer(fd, out);
	}
}

/* ---- the supervisor ---- */

static int serve(const char *dir, const char *state, bool no_passthrough, bool no_resend)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *wargv[] = {self, "worker", dir, NULL}, *aargv[] = {self, "agent", dir, NULL};
	struct fs_supervisor_conf conf = {.dir = dir,
	                                  .state_dir = state,
	                                  .worker_argv = wargv,
	                                  .agent_argv = aargv,
	                                  .no_passthrough = no_passthrough,
	                                  .no_resend = no_resend,
	                                  .allow_other = true,
	                                  .ready_fd = -1};
	struct fz_err err = {0};

	self[n > 0 ? n : 0] = 0;
	fz_log_init("supervisor", FZ_LOG_INFO);
	if (fs_supervisor_run(&conf, &err) < 0) {
		fz_log_err("supervisor", &err);
		return 1;
	}
	return 0;
}

/* ---- the tests ---- */

struct fixture {
	char top[160], dir[200], state[200];
	pid_t mount;
};

/* Sends a command and returns the answer; empty while nobody listens. */
static const char *ask(struct fixture *f, const char *who, const char *cmd)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	static char out[65536];
	int dir = open(f->state, O_PATH | O_DIRECTORY | O_CLOEXEC), fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(dir >= 0 && fd >= 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s.sock", dir, who);
	out[0] = 0;
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && fz_write(fd, cmd, strlen(cmd)) >= 0) {
		shutdown(fd, SHUT_WR);
		receive(fd, out, sizeof(out));
	}
	close(fd);
	close(dir);
	return out;
}

static void ask_ok(struct fixture *f, const char *who, const char *cmd)
{
	const char *a = "";

	for (int i = 0; i < 3000 && !*a; i++) {
		a = ask(f, who, cmd);
		if (!*a)
			nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	if (strcmp(a, "ok") != 0)
		fail_msg("%s: %s: %s", who, cmd, *a ? a : "no answer");
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char self[4096];
	struct fz_err err;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(n > 0);
	self[n] = 0;
	assert_non_null(tmp_make(f->top, sizeof(f->top), "fz-replica"));
	snprintf(f->dir, sizeof(f->dir), "%s/app", f->top);
	snprintf(f->state, sizeof(f->state), "%s/state", f->top);
	assert_int_equal(mkdir(f->dir, 0755), 0);
	assert_int_equal(mkdir(f->state, 0700), 0);
	n = open(f->state, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fz_write_file((int)n, "role", "replica\n", 8, 0600, &err), 0);
	assert_int_equal(fz_write_file((int)n, "protected", "app.db\n", 7, 0600, &err), 0);
	close((int)n);
	f->mount = fork();
	if (f->mount == 0) {
		execl(self, self, "mount", f->dir, f->state, NULL);
		_exit(127);
	}
	ask_ok(f, "agent", "hello");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct fz_err err;
	int status = -1;

	kill(f->mount, SIGTERM);
	assert_int_equal(waitpid(f->mount, &status, 0), f->mount);
	assert_int_equal(status, 0);
	assert_int_equal(fz_remove_tree(AT_FDCWD, f->top, &err), 0);
	free(f);
	return 0;
}

/* The agent writes, an application reads and is told that it may not; a restart in between changes nothing for it. */
static void test_serves(void **state)
{
	struct fixture *f = *state;
	sqlite3_stmt *st;
	char path[300];
	sqlite3 *con;

	snprintf(path, sizeof(path), "%s/app.db", f->dir);
	ask_ok(f, "agent", "sql app.db\nCREATE TABLE t(x); INSERT INTO t VALUES (0)");
	assert_int_equal(sqlite3_open(path, &con), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(con, "SELECT count(*) FROM t", -1, &st, NULL), SQLITE_OK);
	for (int i = 1; i < 4; i++) {
		assert_int_equal(sqlite3_step(st), SQLITE_ROW);
		assert_int_equal(sqlite3_column_int(st, 0), i);
		sqlite3_reset(st);
		assert_int_equal(sqlite3_exec(con, "INSERT INTO t VALUES (7)", NULL, NULL, NULL), SQLITE_READONLY);
		assert_int_equal(sqlite3_extended_errcode(con), SQLITE_READONLY);
		ask_ok(f, "worker", "restart");
		ask_ok(f, "agent", "sql app.db\nINSERT INTO t VALUES (1)");
	}
	sqlite3_finalize(st);
	assert_int_equal(sqlite3_close(con), SQLITE_OK);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_serves, setup, teardown),
	};
	bool no_passthrough = false, no_resend = false;

	for (int i = 4; i < argc; i++) {
		no_passthrough |= !strcmp(argv[i], "no-passthrough");
		no_resend |= !strcmp(argv[i], "no-resend");
	}
	if (argc >= 4 && !strcmp(argv[1], "mount"))
		return serve(argv[2], argv[3], no_passthrough, no_resend);
	if (argc == 3 && !strcmp(argv[1], "worker"))
		return worker();
	if (argc == 3 && !strcmp(argv[1], "agent"))
		return agent(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
