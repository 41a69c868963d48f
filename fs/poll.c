/* poll.c - the capture thread: woken by inotify on the backing files, it looks at the wal-index of the databases that
 * are being written every few hundred microseconds until they fall silent, then sleeps for ever. It shortens the delay
 * from commit to log; nothing depends on it (capture_wal.c, invariant 2).
 *
 * WHY POLL  The commit point is a store into mapped memory: there is no event for it. The WAL's write just before is one. */
#include "base/clock.h"
#include "base/log.h"
#include "fs/agent.h"
#include "fs/baseline.h"
#include "fs/capture_journal.h"
#include "fs/capture_priv.h"
#include "fs/capture_wal.h"
#include "fs/recover.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <unistd.h>

#define TICK_NS       200000u /* between looks while commits keep coming */
#define BUSY_TICK_NS  500000u /* ... many at a look: fewer looks leave more CPU to the application */
#define BUSY_COMMITS  5
#define FIRST_TICK_NS 30000u /* after a wake-up: the header follows the frame within microseconds */
#define IDLE_TICKS    25u    /* without a commit: then it sleeps */
#define QUIET_NS      20000000u
#define LOCK_WAIT_MS  5
#define RESUME_NS     50000000u

static void wake(struct fs_db *db, unsigned idle)
{
	struct fs_capture *c = db->c;
	uint64_t one = 1;
	bool was;

	pthread_mutex_lock(&c->mu);
	was = db->active;
	db->active = db->woken = true;
	if (!was || db->idle > idle)
		db->idle = idle;
	pthread_mutex_unlock(&c->mu);
	if (!was && write(c->event_fd, &one, sizeof(one)) < 0)
		return; /* full: it is awake anyway */
}

void fs_poll_kick(struct fs_db *db)
{
	wake(db, 0);
}

void fs_poll_later(struct fs_db *db)
{
	wake(db, IDLE_TICKS + 6);
}

/* Needs c->mu. */
static int watch(struct fs_capture *c, struct fs_db *db, enum fs_role role, int fd)
{
	struct fs_watch *w = calloc(1, sizeof(*w));
	char path[40];

	if (!w)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	w->wd = inotify_add_watch(c->inotify_fd, path, IN_MODIFY);
	if (w->wd < 0) {
		free(w);
		fz_warn("%s: inotify: %s; commits reach the log later", db->name, fz_strerror(-errno));
		return -1;
	}
	w->db = db;
	w->role = role;
	w->next = c->watches;
	c->watches = w;
	db->refs++;
	return w->wd;
}

int fs_poll_watch(struct fs_capture *c, struct fs_db *db, enum fs_role role, int fd)
{
	int wd;

	pthread_mutex_lock(&c->mu);
	wd = watch(c, db, role, fd);
	pthread_mutex_unlock(&c->mu);
	return wd;
}

/* Its reference goes to the caller; NULL: there is no such watch. Needs c->mu. */
static struct fs_db *unwatch(struct fs_capture *c, int wd)
{
	struct fs_db *db = NULL;

	for (struct fs_watch **at = &c->watches; *at; at = &(*at)->next) {
		struct fs_watch *w = *at;

		if (w->wd != wd)
			continue;
		*at = w->next;
		db = w->db;
		free(w);
		break;
	}
	inotify_rm_watch(c->inotify_fd, wd);
	return db;
}

void fs_poll_unwatch(struct fs_capture *c, int wd)
{
	struct fs_db *db;

	pthread_mutex_lock(&c->mu);
	db = unwatch(c, wd);
	pthread_mutex_unlock(&c->mu);
	fs_registry_put(db);
}

int fs_poll_move(struct fs_capture *c, int wd, int fd, struct fs_db *to, enum fs_role role)
{
	struct fs_db *was = wd < 0 ? NULL : unwatch(c, wd);

	if (was)
		was->refs--;
	return to ? watch(c, to, role, fd) : -1;
}

static void read_hints(struct fs_capture *c)
{
	char b[4096] __attribute__((aligned(8)));
	ssize_t n;

	while ((n = read(c->inotify_fd, b, sizeof(b))) > 0) {
		pthread_mutex_lock(&c->mu);
		for (char *p = b; p < b + n;) {
			struct inotify_event *e = (void *)p;

			for (struct fs_watch *w = c->watches; w; w = w->next)
				if (w->wd == e->wd || e->mask & IN_Q_OVERFLOW) {
					atomic_store(w->role == FS_ROLE_WAL ? &w->db->hint_wal : &w->db->hint_db, true);
					if (!w->db->active)
						w->db->idle = 0;
					else if (w->db->idle > 10)
						w->db->idle = 10;
					w->db->active = true;
				}
			p += sizeof(*e) + e->len;
		}
		pthread_mutex_unlock(&c->mu);
	}
}

/* Rollback modes without an event that ends the transaction: once it is quiet, a SHARED lock makes the instant. The agent
 * takes it without db->mu held, since its request to the mount may need that. Returns true when it shall be tried again. */
static bool capture_loose(struct fs_db *db)
{
	struct fs_agent *agent = db->c->conf.agent;
	struct fz_err err = {0};
	bool wait, alone;
	int rc = 0;

	pthread_mutex_lock(&db->mu);
	wait = db->rb.loose && !fs_db_in_wal(db) && db->state != FS_DB_ENDED;
	if (wait && (fz_mono_ns() - db->rb.loose_ns < QUIET_NS || fs_db_journal_hot(db))) {
		pthread_mutex_unlock(&db->mu);
		return true;
	}
	alone = !db->open_db;
	pthread_mutex_unlock(&db->mu);
	if (!wait || (!agent && !alone))
		return false; /* without an agent its last close tells */
	if (!alone)
		rc = fs_agent_lock(agent, db->name, true, LOCK_WAIT_MS, &err);
	pthread_mutex_lock(&db->mu);
	if (rc < 0)
		db->rb.loose_ns = fz_mono_ns();
	else if (!fs_db_journal_hot(db) && fs_rollback_capture(db, &err) < 0)
		fs_db_note_error(db, &err);
	wait = db->rb.loose;
	pthread_mutex_unlock(&db->mu);
	if (!alone && rc == 0 && fs_agent_lock(agent, db->name, false, 0, &err) < 0)
		fz_log_err(fz_log_db(db->name), &err);
	return wait;
}

/* The file was emptied under a WAL (a restore that holds all of SQLite's locks, a careless cp): once it is quiet, all pages
 * are compared, until a compare finds nothing new. Requires db->mu. Returns true while it is not over. */
static bool look_at_foreign(struct fs_db *db, struct fz_err *err)
{
	struct fs_db_head h;
	int n;

	if (!db->foreign || !db->sums || !fs_db_in_wal(db) || fs_db_read_head(db, &h, err) < 0)
		return false;
	if ((db->state != FS_DB_LIVE && db->foreign_ns) ||
	    fz_now_ms() - h.mtime_ns / 1000000 < (int64_t)(QUIET_NS / 1000000))
		return true;
	if (h.mtime_ns == db->foreign_ns)
		return false;
	db->foreign_ns = h.mtime_ns;
	fs_db_lose(db, "its file was written by something that is not SQLite");
	n = fs_baseline_now(db, err); /* not the WAL's way: that may have been emptied as well */
	if (n < 0 && n != -EAGAIN && n != -FZ_ENOTFOUND)
		fs_db_note_error(db, err);
	if (n < 0 || db->state != FS_DB_LIVE)
		fz_worker_kick(&db->c->keeper);
	if (n < 0)
		db->foreign_ns = 0;
	if (n == 0 && db->state == FS_DB_LIVE)
		db->foreign = false;
	if (db->foreign)
		ltx_sums_head(db->sums)->unsure = 2;
	return db->foreign;
}

/* Returns true when another look makes sense. */
static bool look(struct fs_db *db, int64_t *commits)
{
	struct fz_err err = {0};
	bool again = false;
	int64_t n;

	pthread_mutex_lock(&db->mu);
	fs_recover_settle(db);
	if (atomic_exchange(&db->hint_db, false) && !fs_db_in_wal(db) && db->passthrough && fs_rollback_moved(db))
		fs_rollback_note_loose(db);
	atomic_store(&db->hint_wal, false);
	n = fs_wal_pass(db, FS_WAL_LOOK, &err);
	if (n < 0)
		fs_db_note_error(db, &err);
	else
		*commits = n;
	again = n != 0 || fs_wal_in_doubt(db);
	again = look_at_foreign(db, &err) || again;
	pthread_mutex_unlock(&db->mu);
	return capture_loose(db) || again;
}

/* Looks at every active database. Returns how long to sleep: ns, or -1 for ever. */
static int64_t round_of_looks(struct fs_capture *c)
{
	int64_t sleep_ns = -1;

	for (struct fs_db *db = NULL; (db = fs_registry_next(c, db));) {
		int64_t want = -1, commits = 0;
		bool active, again;

		pthread_mutex_lock(&c->mu);
		active = db->active;
		db->woken = false;
		pthread_mutex_unlock(&c->mu);
		if (active) {
			again = look(db, &commits);
			pthread_mutex_lock(&c->mu);
			db->idle = commits ? 0 : db->idle + 1;
			if (db->idle < 4)
				want = commits >= BUSY_COMMITS ? BUSY_TICK_NS
				       : commits               ? TICK_NS
				                               : FIRST_TICK_NS << db->idle;
			else if (db->idle < IDLE_TICKS)
				want = TICK_NS;
			else if (db->woken) /* what woke it may have come after the look */
				want = TICK_NS;
			else if (again &&
			         db->idle < IDLE_TICKS + 80) /* in doubt: ever more rarely, for a minute or so */
				want = (int64_t)TICK_NS << (db->idle - IDLE_TICKS < 12 ? db->idle - IDLE_TICKS : 12);
			else
				db->active = false;
			pthread_mutex_unlock(&c->mu);
		}
		if (want >= 0 && (sleep_ns < 0 || want < sleep_ns))
			sleep_ns = want;
	}
	return sleep_ns;
}

static void look_at_all(struct fs_capture *c)
{
	for (struct fs_db *db = NULL; (db = fs_registry_next(c, db));)
		fs_poll_kick(db);
}

void fs_poll_run(void *arg)
{
	struct fs_capture *c = arg;
	bool resumed = c->conf.resume;

	prctl(PR_SET_TIMERSLACK, 20000UL);
	while (!atomic_load(&c->stop)) {
		struct pollfd p[2] = {
		        {c->event_fd,   POLLIN, 0},
                        {c->inotify_fd, POLLIN, 0}
                };
		struct timespec t;
		int64_t ns;
		uint64_t v;

		if (c->conf.resume && !atomic_load(&c->settled)) {
			if (atomic_load(&c->held) || fz_mono_ns() - c->last_open_ns < RESUME_NS) {
				poll(p, 1, 10);
				continue;
			}
			atomic_store(&c->settled, true);
		}
		if (resumed)
			look_at_all(c);
		resumed = false;
		read_hints(c);
		ns = round_of_looks(c);
		t = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
		/* while it looks anyway, inotify need not wake it as well: its queue holds one event for many writes */
		ppoll(p, ns >= 0 ? 1 : 2, ns >= 0 ? &t : NULL, NULL);
		if (p[0].revents && read(c->event_fd, &v, sizeof(v)) < 0 && errno != EAGAIN)
			fz_error("capture: eventfd: %s", fz_strerror(-errno));
	}
}
