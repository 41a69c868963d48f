/* tune_rules.c - which settings should be others, and why. */
#include "cmd/tune.h"

#include "base/file.h"
#include "cmd/quote.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define WATCHES_EACH 4 /* inotify watches of one database: itself, -wal, -shm, -journal (fs/poll.c) */
#define FILES_EACH   8 /* descriptors of one that is open: its files, log, sums */
#define WATCH_ROOM   8192
#define FILES_ROOM   4096
#define BACKGROUND   (UINT64_C(64) << 20)
#define DIRTY        (UINT64_C(256) << 20)

static void say(cJSON *list, const char *kind, const char *key, const char *now, const char *want, const char *command,
                const char *why, ...) FZ_PRINTF(7, 8);
static void say(cJSON *list, const char *kind, const char *key, const char *now, const char *want, const char *command,
                const char *why, ...)
{
	cJSON *o = cJSON_CreateObject();
	char text[800];
	va_list ap;

	va_start(ap, why);
	vsnprintf(text, sizeof(text), why, ap);
	va_end(ap);
	cJSON_AddStringToObject(o, "kind", kind);
	cJSON_AddStringToObject(o, "key", key);
	cJSON_AddStringToObject(o, "now", now);
	cJSON_AddStringToObject(o, "want", want);
	cJSON_AddStringToObject(o, "why", text);
	cJSON_AddStringToObject(o, "command", command);
	cJSON_AddItemToArray(list, o);
}

int cmd_tune_read(const char *key, char *out, size_t cap)
{
	struct fz_buf b = {0};
	char path[200];
	int rc;

	snprintf(path, sizeof(path), "/proc/sys/%.180s", key);
	for (char *p = path + 10; *p; p++)
		*p = (char)(*p == '.' ? '/' : *p);
	rc = fz_read_file(AT_FDCWD, path, 4096, &b, NULL);
	if (rc == 0)
		snprintf(out, cap, "%.*s", (int)strcspn(fz_buf_str(&b), "\n"), fz_buf_str(&b));
	fz_buf_fini(&b);
	return rc;
}

/* A number, or -1. */
static double number(const char *key)
{
	char text[64];

	return cmd_tune_read(key, text, sizeof(text)) == 0 && *text ? strtod(text, NULL) : -1;
}

static void at_least(cJSON *list, const char *key, double want, const char *why, const char *unit)
{
	double now = number(key);
	char have[32], need[32], command[200];

	if (now < 0 || now >= want)
		return;
	snprintf(have, sizeof(have), "%.0f", now);
	snprintf(need, sizeof(need), "%.0f", want);
	snprintf(command, sizeof(command), "sysctl -w %s=%s", key, need);
	say(list, "kernel", key, have, need, command, "%s (%s)", why, unit);
}

/* Memory that may be dirty is a share of what is free or cached. */
static double available_bytes(void)
{
	struct fz_buf b = {0};
	double kb = -1;
	const char *p;

	if (fz_read_file(AT_FDCWD, "/proc/meminfo", 65536, &b, NULL) == 0) {
		p = strstr(fz_buf_str(&b), "MemAvailable:");
		kb = p ? strtod(p + 13, NULL) : -1;
	}
	fz_buf_fini(&b);
	return kb < 0 ? -1 : kb * 1024;
}

static void dirty(cJSON *list, const char *bytes_key, const char *ratio_key, uint64_t want, const char *why)
{
	double bytes = number(bytes_key), ratio = number(ratio_key), all = available_bytes(), limit;
	char now[64], need[32], command[200];

	if (bytes < 0 || ratio < 0 || all < 0)
		return;
	limit = bytes > 0 ? bytes : all * ratio / 100;
	if (limit <= 4 * (double)want) /* a small machine is within that by itself */
		return;
	if (bytes > 0)
		snprintf(now, sizeof(now), "%.0f", bytes);
	else
		snprintf(now, sizeof(now), "0 (%.0f %% of what is available: %.0f MB)", ratio, limit / 1e6);
	snprintf(need, sizeof(need), "%llu", (unsigned long long)want);
	snprintf(command, sizeof(command), "sysctl -w %s=%s", bytes_key, need);
	say(list, "kernel", bytes_key, now, need, command, "%s", why);
}

void cmd_tune_kernel(const struct cmd_tune_facts *f, cJSON *list)
{
	char unit[100], now[32];

	snprintf(unit, sizeof(unit), "%zu databases, %d watches each, and room for others", f->n_databases,
	         WATCHES_EACH);
	at_least(list, "fs.inotify.max_user_watches", (double)f->n_databases * WATCHES_EACH + WATCH_ROOM,
	         "without a watch commits reach the log at the next event instead of at once", unit);
	at_least(list, "fs.inotify.max_user_instances", 64, "each mount's worker needs one",
	         "root's programs share them");
	dirty(list, "vm.dirty_background_bytes", "vm.dirty_background_ratio", BACKGROUND,
	      "an fsync (a commit at synchronous=FULL) of a journalling filesystem may have to wait for what other "
	      "files have dirty; "
	      "writing earlier, in the background, keeps that short");
	dirty(list, "vm.dirty_bytes", "vm.dirty_ratio", DIRTY,
	      "at this limit whoever writes is stopped until the disk has caught up: a long stop on a machine with "
	      "much memory");
	if (f->conf && (f->conf->listen || f->conf->primary) &&
	    cmd_tune_read("net.ipv4.tcp_slow_start_after_idle", now, sizeof(now)) == 0 && !strcmp(now, "1"))
		say(list, "kernel", "net.ipv4.tcp_slow_start_after_idle", now, "0",
		    "sysctl -w net.ipv4.tcp_slow_start_after_idle=0",
		    "a link says a word each second, which is idle enough for the kernel to begin with a small window "
		    "again: a commit "
		    "larger than that needs several round trips more to reach a replica");
}

/* ---- what a sysctl cannot say ---- */

static void open_files(const struct cmd_tune_facts *f, cJSON *list)
{
	int pid = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(f->status, "worker_pid"));
	double want = (double)f->n_databases * FILES_EACH + FILES_ROOM, now;
	char path[64], have[32], need[32];
	struct fz_buf b = {0};
	const char *p;

	snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	if (pid > 1 && fz_read_file(AT_FDCWD, path, 65536, &b, NULL) == 0 &&
	    (p = strstr(fz_buf_str(&b), "Max open files"))) {
		now = strtod(p + 14, NULL);
		snprintf(have, sizeof(have), "%.0f", now);
		snprintf(need, sizeof(need), "%.0f", want);
		if (now > 0 && now < want)
			say(list, "host", "LimitNOFILE", have, need,
			    "ulimit -n 524288    # before fazt mount; the unit has LimitNOFILE",
			    "the worker has each file open that an application has open, and the logs");
	}
	fz_buf_fini(&b);
}

/* A command with one word in it. */
static void add_command(struct fz_buf *b, const char *before, const char *word, const char *after)
{
	int rc = fz_buf_addf(b, "%s", before);

	cmd_quote_word(b, word);
	if (rc == 0)
		rc = fz_buf_addf(b, "%s", after);
	(void)rc; /* a command that lacks its end is no reason to fail */
}

/* Options of the mount that dir's files lie on: the last but one that covers it (the last is fazt itself). */
static void mount_options(const struct cmd_tune_facts *f, cJSON *list)
{
	char options[520] = "", type[32] = "";
	struct fz_buf command = {0};
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	const struct mntent *m;
	size_t longest = 0;

	while (mounts && (m = getmntent(mounts))) {
		size_t n = strcmp(m->mnt_dir, "/") != 0 ? strlen(m->mnt_dir) : 0;

		if (strncmp(m->mnt_type, "fuse", 4) != 0 && n >= longest && !strncmp(f->dir, m->mnt_dir, n) &&
		    (f->dir[n] == '/' || !f->dir[n])) {
			longest = n;
			snprintf(type, sizeof(type), "%s", m->mnt_type);
			snprintf(options, sizeof(options), ",%s,", m->mnt_opts);
		}
	}
	if (mounts)
		endmntent(mounts);
	add_command(&command, "findmnt -T ", f->dir, "    # its line in /etc/fstab");
	if (strstr(options, ",nobarrier,") || strstr(options, ",barrier=0,"))
		say(list, "host", "barrier", "off", "on", fz_buf_str(&command),
		    "without barriers fsync does not reach the disk: after a power cut commits are gone");
	if (*options && !strstr(options, ",relatime,") && !strstr(options, ",noatime,") && strcmp(type, "tmpfs") != 0)
		say(list, "host", "noatime", "strictatime", "noatime", fz_buf_str(&command),
		    "each read of a database would write its inode");
	fz_buf_fini(&command);
}

void cmd_tune_host(const struct cmd_tune_facts *f, cJSON *list)
{
	if (f->status)
		open_files(f, list);
	if (f->dir)
		mount_options(f, list);
}

/* ---- databases ---- */

static void look_at_file(const struct cmd_tune_facts *f, const char *name, cJSON *list)
{
	char path[PATH_MAX + 600], key[700], size[16];
	struct fz_buf command = {0};
	uint8_t head[100];
	int fd, page;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", f->dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : fz_pread(fd, head, sizeof(head), 0);
	fz_close(&fd);
	if (n != (ssize_t)sizeof(head) || memcmp(head, "SQLite format 3", 16) != 0)
		return;
	if (head[18] != 2) {
		snprintf(key, sizeof(key), "%.600s: journal_mode", name);
		add_command(&command, "fazt tune --apply --database ", path, "");
		add_command(&command, " ", f->dir, "");
		say(list, "sqlite", key, "rollback", "WAL", fz_buf_str(&command),
		    "one fsync a commit instead of several, readers do not wait, and a commit makes no FUSE request at "
		    "synchronous=NORMAL; "
		    "measured on a mount: 58,666 transactions/s against 558 (README)");
	}
	page = head[16] << 8 | head[17];
	page = page == 1 ? 65536 : page;
	if (page < 4096) {
		snprintf(key, sizeof(key), "%.600s: page_size", name);
		snprintf(size, sizeof(size), "%d", page);
		fz_buf_reset(&command);
		add_command(&command, "sqlite3 ", path,
		            " 'PRAGMA page_size=4096; VACUUM'    # in rollback mode, at a quiet hour");
		say(list, "sqlite", key, size, "4096", fz_buf_str(&command),
		    "SQLite's own default since 3.12 and the size of a page in memory: each page costs a checksum and "
		    "a header");
	}
	fz_buf_fini(&command);
}

void cmd_tune_sqlite(const struct cmd_tune_facts *f, cJSON *list)
{
	const cJSON *db;

	cJSON_ArrayForEach (db, cJSON_GetObjectItem(f->status, "databases")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(db, "name"));

		if (name)
			look_at_file(f, name, list);
	}
}

int cmd_tune_count(const cJSON *list)
{
	const cJSON *o;
	int n = 0;

	cJSON_ArrayForEach (o, list) {
		const char *kind = cJSON_GetStringValue(cJSON_GetObjectItem(o, "kind"));

		n += kind && !strcmp(kind, "kernel");
	}
	return n;
}
