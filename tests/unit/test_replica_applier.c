/* replica/applier.h: worker and agent as two processes over a socket pair, several databases at once. */
#include "replica/applier.h"

#include "replica/applierpriv.h"
#include "tests/unit/apply_world.h"

#include <dirent.h>
#include <sys/socket.h>

static struct { /* what the reading thread was told */
	pthread_mutex_t mu;
	unsigned hellos, states, removals;
	int pid;
} heard = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void on_applied(struct replica_applier_events *ev, const struct replica_applied *a)
{
	(void)ev;
	(void)a;
	pthread_mutex_lock(&heard.mu);
	heard.states++;
	pthread_mutex_unlock(&heard.mu);
}

static void on_hello(struct replica_applier_events *ev, int pid)
{
	(void)ev;
	pthread_mutex_lock(&heard.mu);
	heard.hellos++;
	heard.pid = pid;
	pthread_mutex_unlock(&heard.mu);
}

static void on_removed(struct replica_applier_events *ev, const char *name, const char *lineage)
{
	(void)ev;
	(void)name;
	(void)lineage;
	pthread_mutex_lock(&heard.mu);
	heard.removals++;
	pthread_mutex_unlock(&heard.mu);
}

static struct replica_applier_events events = {.applied = on_applied, .hello = on_hello, .removed = on_removed};

static unsigned removals(void)
{
	unsigned n;

	pthread_mutex_lock(&heard.mu);
	n = heard.removals;
	pthread_mutex_unlock(&heard.mu);
	return n;
}

/* Until the agent has done it. */
static void remove_it(struct replica_applier *a, struct world *w, const char *name, const char *lineage, bool hold)
{
	unsigned before = removals();

	WOK(replica_applier_remove(a, name, lineage, &w->err));
	if (hold) /* answered whatever the other one has come to */
		WOK(replica_applier_hold(a, name, lineage, 20000, &w->err));
	for (unsigned i = 0; i < 20000 && removals() == before; i++)
		usleep(1000);
	assert_int_equal(removals(), before + 1);
}

/* As the supervisor does it: another program image, with nothing of ours but three descriptors. */
static pid_t agent_start(struct world *w, int sock)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		int from[3] = {fcntl(sock, F_DUPFD, 100), fcntl(w->mountfd, F_DUPFD, 100),
		               fcntl(w->statefd, F_DUPFD, 100)};

		for (int i = 0; i < 3; i++)
			if (dup2(from[i], 3 + i) < 0)
				_exit(9);
		for (int fd = 6; fd < 256; fd++)
			close(fd);
		execl("/proc/self/exe", "agent", "agent", (char *)NULL);
		_exit(9);
	}
	return pid;
}

static void agent_end(pid_t pid, int sig)
{
	int st;

	if (sig)
		kill(pid, sig);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	if (!sig)
		assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 0);
}

static void lineage(struct world *w, char out[17])
{
	struct ltx_log_info info;

	ltx_log_info(w->log, &info);
	memcpy(out, info.lineage, 17);
}

static void post(struct replica_applier *a, struct world *w)
{
	char l[17];

	lineage(w, l);
	WOK(ltx_log_sync(w->log, &w->err));
	WOK(replica_applier_post(a, w->name, l, w->txid, &w->err));
}

/* Until the agent says that this TXID is applied. */
static void reached(struct replica_applier *a, struct world *w)
{
	struct replica_applied now;
	char l[17];

	lineage(w, l);
	for (unsigned i = 0; i < 20000; i++) {
		if (replica_applier_get(a, l, &now) && now.state.txid == w->txid && !now.err.code)
			return;
		usleep(1000);
	}
	fail_msg("%s: not applied: %s", w->name, now.err.text);
}

/* Until there were more greetings than that; returns how many there were. */
static unsigned wait_hello(unsigned than)
{
	unsigned n = 0;

	for (unsigned i = 0; i < 20000 && n <= than; i++) {
		pthread_mutex_lock(&heard.mu);
		n = heard.hellos;
		pthread_mutex_unlock(&heard.mu);
		if (n <= than)
			usleep(1000);
	}
	assert_true(n > than);
	return n;
}

static void test_databases(void **state)
{
	struct world worlds[3];
	static const char *const names[] = {"app.db", "tenants/one.db", "tenants/two words.db"};
	struct replica_applier *a;
	char l[17];
	int sv[2];
	pid_t pid;
	struct world *w = &worlds[0];

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		world_init_more(&worlds[i], i ? &worlds[0] : NULL, names[i], 4096, i == 1 ? "DELETE" : "WAL", i + 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	pid = agent_start(w, sv[1]);
	WOK(replica_applier_open(&a, dup(sv[0]), &events, &w->err));
	for (unsigned i = 0; i < 3; i++)
		post(a, &worlds[i]);
	for (unsigned i = 0; i < 3; i++) {
		reached(a, &worlds[i]);
		assert_int_equal(world_visible(&worlds[i]), 1);
	}
	assert_int_equal(replica_applier_pid(a), pid);
	assert_int_equal(heard.pid, pid);
	world_reader_start(&worlds[1], 0, WORLD_SHORT);
	for (unsigned n = 0; n < 20; n++) {
		for (unsigned i = 0; i < 3; i++) {
			world_commits(&worlds[i], 3, false);
			post(a, &worlds[i]);
		}
	}
	for (unsigned i = 0; i < 3; i++) {
		reached(a, &worlds[i]);
		assert_int_equal(world_visible(&worlds[i]), worlds[i].txid);
	}
	world_reader_stop(&worlds[1], 0);
	assert_true(heard.states > 3);

	/* one is deleted */
	lineage(&worlds[2], l);
	remove_it(a, w, names[2], l, false);
	assert_int_equal(access(worlds[2].db, F_OK), -1);
	/* and asking again does no harm */
	remove_it(a, w, names[2], l, false);

	/* the host becomes a primary: files are complete, applications can write */
	WOK(replica_applier_detach(a, 5000, &w->err));
	world_same(&worlds[0]);
	world_same(&worlds[1]);
	{
		char res[256];

		world_ask(w, w->db, SQLITE_OPEN_READWRITE, "BEGIN IMMEDIATE; ROLLBACK", res, sizeof(res));
		assert_string_equal(res, "ok");
	}
	/* and a replica again */
	world_commits(w, 2, false);
	post(a, w);
	reached(a, w);
	assert_int_equal(world_visible(w), w->txid);
	replica_applier_close(a);
	close(sv[0]);
	close(sv[1]);
	agent_end(pid, 0);
	for (unsigned i = 3; i-- > 0;)
		world_fini(&worlds[i]);
}

/* The supervisor keeps both ends: neither side sees the other's death, only the next one's greeting. */
static void test_deaths(void **state)
{
	struct world world, *w = &world;
	struct replica_applier *a;
	unsigned hellos;
	int sv[2];
	pid_t pid;

	(void)state;
	world_init_in(w, 4096, "DELETE", 9);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	WOK(replica_applier_open(&a, dup(sv[0]), &events, &w->err));
	assert_int_equal(replica_applier_pid(a), 0);
	post(a, w); /* nobody is there yet */
	pid = agent_start(w, sv[1]);
	reached(a, w);
	world_reader_start(w, 0, WORLD_SHORT | WORLD_PATIENT);
	world_reader_start(w, 1, WORLD_LONG | WORLD_PATIENT);
	for (unsigned n = 0; n < 12; n++) {
		for (unsigned i = 0; i < 10; i++) {
			world_commits(w, 2, true);
			post(a, w);
		}
		agent_end(pid, SIGKILL);
		hellos = wait_hello(0);
		if (n % 3 == 2) { /* the worker dies as well */
			replica_applier_close(a);
			WOK(replica_applier_open(&a, dup(sv[0]), &events, &w->err));
			post(a, w);
		}
		pid = agent_start(w, sv[1]);
		wait_hello(hellos);
		reached(a, w);
		assert_int_equal(replica_applier_pid(a), pid);
	}
	/* a new worker with the old agent: it hears what was applied, though there is nothing to do */
	replica_applier_close(a);
	WOK(replica_applier_open(&a, dup(sv[0]), &events, &w->err));
	post(a, w);
	reached(a, w);
	assert_int_equal(replica_applier_pid(a), pid);
	world_reader_stop(w, 0);
	world_reader_stop(w, 1);
	WOK(replica_applier_detach(a, 5000, &w->err));
	world_same(w);
	replica_applier_close(a);
	close(sv[0]);
	close(sv[1]);
	agent_end(pid, 0);
	world_fini(w);
}

/* What cannot be applied is told, with the reason, and goes on by itself once it can. */
static void test_trouble(void **state)
{
	struct world world, *w = &world;
	struct replica_applied now = {0};
	struct replica_applier *a;
	char l[17], dir[320];
	int sv[2], i;
	pid_t pid;

	(void)state;
	world_init_in(w, 4096, "DELETE", 10);
	world_path(dir, sizeof(dir), "%s-wal", w->db);
	assert_int_equal(mkdir(dir, 0755), 0); /* in the way */
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	pid = agent_start(w, sv[1]);
	WOK(replica_applier_open(&a, sv[0], &events, &w->err));
	post(a, w);
	lineage(w, l);
	for (i = 0; i < 20000 && !(replica_applier_get(a, l, &now) && now.err.code); i++)
		usleep(1000);
	assert_int_equal(now.err.code, -EISDIR);
	assert_int_equal(rmdir(dir), 0);
	reached(a, w);
	assert_int_equal(world_visible(w), w->txid);
	replica_applier_close(a); /* closes the last descriptor of that end: the agent ends */
	agent_end(pid, 0);
	close(sv[1]);
	world_fini(w);
}

/* The end of the log is cut off. From the moment that is announced nobody says of anything that it is applied until the database is
 * what the log is now; and it is never let go before it is that. */
static void cut(bool posted)
{
	const struct replica_applier_msg hi = {.version = REPLICA_APPLIER_VERSION, .type = REPLICA_APPLIER_HI};
	struct world world, *w = &world;
	struct replica_applied now;
	struct replica_applier *a;
	unsigned before, states = 0;
	char l[17];
	int sv[2];
	pid_t pid;

	world_init_in(w, 4096, "WAL", 12);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	pid = agent_start(w, sv[1]);
	WOK(replica_applier_open(&a, dup(sv[0]), &events, &w->err));
	lineage(w, l);
	world_commits(w, 20, false);
	post(a, w);
	reached(a, w);
	pthread_mutex_lock(&heard.mu);
	before = heard.states;
	pthread_mutex_unlock(&heard.mu);
	WOK(replica_applier_hold(a, w->name, l, 5000, &w->err));
	assert_false(replica_applier_get(a, l, &now));
	/* a new worker asks for every state; others come by themselves, as when the WAL was copied */
	assert_int_equal(send(sv[0], &hi, sizeof(hi), MSG_NOSIGNAL), sizeof(hi));
	for (unsigned i = 0; i < 20000 && states <= before; i++) {
		usleep(1000);
		pthread_mutex_lock(&heard.mu);
		states = heard.states;
		pthread_mutex_unlock(&heard.mu);
	}
	assert_true(states > before);
	assert_false(replica_applier_get(a, l, &now));
	WOK(ltx_log_truncate(w->log, w->txid - 7, &w->err));
	w->txid -= 7;
	if (posted) {
		post(a, w);
		reached(a, w);
	} else {
		WOK(replica_applier_detach(a, 5000, &w->err));
	}
	assert_int_equal(world_visible(w), w->txid);
	replica_applier_close(a);
	close(sv[0]);
	close(sv[1]);
	agent_end(pid, 0);
	world_fini(w);
}

static void test_cut(void **state)
{
	(void)state;
	cut(true);
	cut(false);
}

static struct world lives[2]; /* two lives of one name */

static unsigned count_named(const char *dir, const char *prefix)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	unsigned n = 0;

	assert_non_null(d);
	while ((e = readdir(d)))
		n += !strncmp(e->d_name, prefix, strlen(prefix));
	closedir(d);
	return n;
}

static unsigned files_of(pid_t pid)
{
	char path[64];
	unsigned n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/* Databases come and go: the agent keeps nothing of those that went, whatever lies in the state directory. One that cannot go now goes
 * later; nothing waits for it but what is made under its name. */
static void test_come_and_go(void **state)
{
	struct world world, *w = &world;
	struct replica_applied now;
	struct replica_applier *a;
	unsigned files = 0, before;
	char l[17], dir[320];
	uint64_t start_ns;
	int sv[2];
	pid_t pid;

	(void)state;
	world_init_in(w, 4096, "WAL", 11);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
	pid = agent_start(w, sv[1]);
	WOK(replica_applier_open(&a, sv[0], &events, &w->err));
	post(a, w);
	reached(a, w);
	for (unsigned i = 0; i < 40; i++) {
		struct world gone;

		world_init_more(&gone, w, "gone.db", 1024, "WAL", 100 + i);
		post(a, &gone);
		reached(a, &gone);
		assert_int_equal(access(gone.db, F_OK), 0);
		lineage(&gone, l);
		WOK(ltx_log_set_ended(gone.log, 1, &gone.err));
		remove_it(a, &gone, gone.name, l, i % 2);
		assert_int_equal(access(gone.db, F_OK), -1);
		world_fini(&gone);
		if (i == 4)
			files = files_of(pid);
	}
	assert_int_equal(files_of(pid), files);

	/* nobody is there to remove it */
	world_init_more(&lives[0], w, "gone.db", 1024, "WAL", 200);
	post(a, &lives[0]);
	reached(a, &lives[0]);
	agent_end(pid, SIGKILL);
	lineage(&lives[0], l);
	WOK(ltx_log_set_ended(lives[0].log, 1, &w->err));
	before = removals();
	start_ns = fz_mono_ns();
	WOK(replica_applier_remove(a, "gone.db", l, &w->err));
	assert_true(fz_mono_ns() - start_ns < UINT64_C(1000000000));
	world_init_more(&lives[1], w, "gone.db", 1024, "WAL", 201); /* it lives again */
	world_commits(&lives[1], 3, false);
	post(a, &lives[1]);
	assert_int_equal(access(lives[0].db, F_OK), 0);
	world_path(dir, sizeof(dir), "%s-journal", lives[0].db);
	assert_int_equal(mkdir(dir, 0755), 0); /* in the way of the removal */
	pid = agent_start(w, sv[1]);
	for (unsigned i = 0; i < 20000 && access(lives[0].db, F_OK) == 0; i++)
		usleep(1000);
	lineage(&lives[1], l);
	for (unsigned i = 0; i < 300; i++, usleep(1000)) /* the name is not free */
		assert_false(replica_applier_get(a, l, &now));
	assert_int_equal(removals(), before);
	assert_int_equal(rmdir(dir), 0);
	reached(a, &lives[1]);
	assert_int_equal(removals(), before + 1);
	assert_int_equal(world_visible(&lives[1]), lives[1].txid);
	world_path(dir, sizeof(dir), "%s", w->mount);
	assert_int_equal(count_named(dir, "gone.db.local-"), 0); /* the old one was not taken for a stranger's */
	WOK(replica_applier_detach(a, 5000, &w->err));
	replica_applier_close(a);
	agent_end(pid, 0);
	close(sv[1]);
	world_fini(&lives[1]);
	world_fini(&lives[0]);
	world_fini(w);
}

int main(int argc, char **argv)
{
	struct fz_err err;

	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_databases), cmocka_unit_test(test_deaths),      cmocka_unit_test(test_trouble),
	        cmocka_unit_test(test_cut),       cmocka_unit_test(test_come_and_go),
	};

	if (argc > 1 && !strcmp(argv[1], "agent"))
		return replica_applier_serve(3, 4, 5, NULL, &err) < 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
