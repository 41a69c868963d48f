/* doctor_mount.c - what the worker's status tells, database by database. */
#include "cmd/doctor.h"

#include "base/file.h"
#include "cmd/tune.h"

#include <cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LOG_MAX_BYTES 1e9
#define WAL_BYTES     (64 << 20)

static void look_at_database(struct cmd_doctor *d, const cJSON *db)
{
	double max = d->conf.log_max ? (double)d->conf.log_max : LOG_MAX_BYTES;
	const char *name = cmd_doctor_text(db, "name"), *dir = d->w.dir;
	bool wal = !strcmp(cmd_doctor_text(db, "journal_mode"), "wal");
	char path[PATH_MAX + 600];
	struct stat st, shm;

	if (*cmd_doctor_text(db, "last_error"))
		cmd_find(d->findings, FZD_CAPTURE, dir, name, "%s: %s", name, cmd_doctor_text(db, "last_error"));
	if (cmd_doctor_number(db, "scrub_found") > 0)
		cmd_find(d->findings, FZD_SCRUB, dir, name, "%s: %.0f pages differed from what was captured", name,
		         cmd_doctor_number(db, "scrub_found"));
	if (cmd_doctor_number(db, "merged_txns") > 0)
		cmd_find(d->findings, FZD_MERGED, dir, name, "%s: %.0f commits were merged", name,
		         cmd_doctor_number(db, "merged_txns"));
	if (cmd_doctor_number(db, "log_bytes") > 0.8 * max)
		cmd_find(d->findings, FZD_LOG_FULL, dir, name, "%s: its log has %.0f of %.0f MB", name,
		         cmd_doctor_number(db, "log_bytes") / 1e6, max / 1e6);
	if (!wal && !strcmp(cmd_doctor_text(db, "capture"), "compare"))
		cmd_find(d->findings, FZD_JOURNAL, dir, name,
		         "%s is in rollback mode and captured by comparing its pages", name);
	else if (!wal && cmd_doctor_number(db, "txid") > 0)
		cmd_find(d->findings, FZD_JOURNAL, dir, name, "%s is in rollback mode", name);
	snprintf(path, sizeof(path), "%s/%s-wal", dir, name);
	if (stat(path, &st) < 0)
		return;
	if (st.st_size > WAL_BYTES)
		cmd_find(d->findings, FZD_WAL, dir, name, "%s-wal has %.0f MB", name, (double)st.st_size / 1e6);
	snprintf(path, sizeof(path), "%s/%s-shm", dir, name);
	if (wal && st.st_size > 0 && stat(path, &shm) < 0)
		cmd_find(d->findings, FZD_EXCLUSIVE, dir, name, "%s has a WAL but no wal-index", name);
}

/* Problems that have a code of their own here. */
static bool told_elsewhere(const char *text)
{
	return !strncmp(text, "target ", 7) || !strncmp(text, "capture of ", 11) || strstr(text, "the scrub found") ||
	       !strncmp(text, "the supervisor is gone", 22);
}

static void look_at_settings(struct cmd_doctor *d)
{
	const cJSON *databases = cJSON_GetObjectItem(d->status, "databases");
	struct cmd_tune_facts f = {.status = d->status,
	                           .conf = &d->conf,
	                           .dir = d->w.dir,
	                           .n_databases = (size_t)cJSON_GetArraySize(databases)};
	cJSON *list = cJSON_CreateArray();

	cmd_tune_kernel(&f, list);
	cmd_tune_host(&f, list);
	if (cJSON_GetArraySize(list))
		cmd_find(d->findings, FZD_TUNE, d->w.dir, NULL,
		         "%d settings should be others, among them %s (%s -> %s)", cJSON_GetArraySize(list),
		         cmd_doctor_text(list->child, "key"), cmd_doctor_text(list->child, "now"),
		         cmd_doctor_text(list->child, "want"));
	cJSON_Delete(list);
}

void cmd_doctor_mount(struct cmd_doctor *d)
{
	const cJSON *s = d->status, *o;
	const char *dir = d->w.dir;

	if (cmd_doctor_number(s, "supervisor_pid") <= 0)
		cmd_find(d->findings, FZD_NO_SUPERVISOR, dir, NULL, "the supervisor is gone");
	if (cmd_doctor_number(s, "restarts") > 0)
		cmd_find(d->findings, FZD_RESTARTS, dir, d->state, "the worker was replaced %.0f times since the mount",
		         cmd_doctor_number(s, "restarts"));
	if (!cJSON_IsTrue(cJSON_GetObjectItem(s, "passthrough")) && d->kernel.passthrough)
		cmd_find(d->findings, FZD_PASSTHROUGH_UNUSED, dir, NULL, "passthrough is not used%s%s",
		         d->conf.no_passthrough ? ": no_passthrough says so" : "",
		         d->kernel.passthrough_works ? "" : ": a file cannot be registered with the kernel");
	if (!cJSON_IsTrue(cJSON_GetObjectItem(s, "resend")) && d->kernel.resend && !d->conf.no_resend)
		cmd_find(d->findings, FZD_NO_RESEND, dir, NULL, "resend is not used");
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "databases"))
		look_at_database(d, o);
	look_at_settings(d);
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(s, "problems"))
		if (!told_elsewhere(cJSON_GetStringValue(o)))
			cmd_find(d->findings, FZD_STATUS, dir, NULL, "%s", cJSON_GetStringValue(o));
}

/* ---- who goes around the mount ---- */

struct around {
	struct cmd_doctor *d;
	dev_t dev; /* of the filesystem below */
	ino_t *inodes;
	const char **names;
	size_t n;
	int skip[2];
};

/* Of /proc/PID/fdinfo/N: mount and inode, without asking the filesystem that the file lies on. */
static bool fdinfo(int procfd, const char *pid, const char *fd, int *mnt_id, unsigned long long *ino)
{
	char path[600], *p;
	struct fz_buf b = {0};
	bool ok = false;

	snprintf(path, sizeof(path), "%.20s/fdinfo/%s", pid, fd);
	if (fz_read_file(procfd, path, 65536, &b, NULL) == 0) {
		p = strstr(fz_buf_str(&b), "mnt_id:");
		ok = p && sscanf(p, "mnt_id: %d", mnt_id) == 1;
		p = strstr(fz_buf_str(&b), "\nino:");
		ok = ok && p && sscanf(p, "\nino: %llu", ino) == 1;
	}
	fz_buf_fini(&b);
	return ok;
}

/* The filesystem of a mount as that process sees it. */
static bool on_device(int procfd, const char *pid, int mnt_id, dev_t dev)
{
	char path[64], *save = NULL;
	struct fz_buf b = {0};
	bool found = false;

	snprintf(path, sizeof(path), "%.20s/mountinfo", pid);
	if (fz_read_file(procfd, path, 64u << 20, &b, NULL) == 0)
		for (char *l = strtok_r((char *)b.data, "\n", &save); l && !found; l = strtok_r(NULL, "\n", &save)) {
			unsigned major, minor;
			int id;

			found = sscanf(l, "%d %*d %u:%u", &id, &major, &minor) == 3 && id == mnt_id &&
			        makedev(major, minor) == dev;
		}
	fz_buf_fini(&b);
	return found;
}

static void look_at_process(struct around *a, int procfd, const char *pid)
{
	char path[300], comm[64] = "", first;
	struct fz_buf b = {0};
	struct dirent *e;
	int mnt_id;
	unsigned long long ino;
	DIR *dir;

	snprintf(path, sizeof(path), "%.20s/fd", pid);
	dir = fz_opendir(procfd, path);
	while (dir && (e = readdir(dir))) {
		if (readlinkat(dirfd(dir), e->d_name, &first, 1) != 1 || first != '/' ||
		    !fdinfo(procfd, pid, e->d_name, &mnt_id, &ino)) /* most are sockets and pipes */
			continue;
		for (size_t i = 0; i < a->n; i++) {
			if (a->inodes[i] != ino || !on_device(procfd, pid, mnt_id, a->dev))
				continue;
			snprintf(path, sizeof(path), "%.20s/comm", pid);
			if (fz_read_file(procfd, path, 64, &b, NULL) == 0)
				snprintf(comm, sizeof(comm), "%.*s", (int)strcspn(fz_buf_str(&b), "\n"),
				         fz_buf_str(&b));
			cmd_find(a->d->findings, FZD_AROUND, a->d->w.dir, pid,
			         "%s[%s] has %s open, and not through the mount", comm, pid, a->names[i]);
			goto out; /* once a process */
		}
	}
out:
	fz_buf_fini(&b);
	if (dir)
		closedir(dir);
}

void cmd_doctor_around(struct cmd_doctor *d)
{
	const cJSON *list = cJSON_GetObjectItem(d->status, "databases"), *db;
	size_t cap = (size_t)cJSON_GetArraySize(list);
	struct around a = {.d = d, .inodes = calloc(cap + 1, sizeof(ino_t)), .names = calloc(cap + 1, sizeof(char *))};
	int procfd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC), worker, supervisor;
	struct stat state, st;
	struct dirent *e;
	DIR *proc = NULL;

	worker = (int)cmd_doctor_number(d->status, "worker_pid");
	supervisor = (int)cmd_doctor_number(d->status, "supervisor_pid");
	if (procfd < 0 || geteuid() != 0 || d->conf.state || fstat(d->statefd, &state) < 0 || !a.inodes || !a.names)
		goto out; /* with a state directory elsewhere nothing tells which filesystem lies below */
	a.dev = state.st_dev;
	cJSON_ArrayForEach (db, list) {
		char path[PATH_MAX + 600];

		snprintf(path, sizeof(path), "%s/%s", d->w.dir, cmd_doctor_text(db, "name"));
		if (stat(path, &st) == 0) { /* the mount shows the inode numbers of what lies below */
			a.inodes[a.n] = st.st_ino;
			a.names[a.n++] = cmd_doctor_text(db, "name");
		}
	}
	proc = opendir("/proc");
	while (a.n && proc && (e = readdir(proc))) {
		int pid = atoi(e->d_name);

		if (pid > 0 && pid != worker && pid != supervisor && pid != getpid())
			look_at_process(&a, procfd, e->d_name);
	}
	if (proc)
		closedir(proc);
out:
	free(a.inodes);
	free(a.names);
	fz_close(&procfd);
}
