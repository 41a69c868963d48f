/* doctor_files.c - state directory, keys, configuration file and unit of a mount. */
#include "cmd/doctor.h"

#include "base/file.h"
#include "cmd/given.h"
#include "cmd/keys.h"
#include "cmd/lint.h"
#include "cmd/reload.h"
#include "cmd/state.h"

#include <cJSON.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SMB2  0xfe534d42
#define CIFS  0xff534d42
#define LOW   (256u << 20)
#define UNITS "/etc/systemd/system"

static void mode(struct cmd_doctor *d, int dirfd, const char *path, const char *shown)
{
	struct stat st;

	if (path && fstatat(dirfd, path, &st, 0) == 0 && (st.st_mode & 077))
		cmd_find(d->findings, FZD_KEY_MODE, d->w.dir, shown, "others than its owner can read %s (mode %04o)",
		         shown, (unsigned)st.st_mode & 07777);
}

static void look_at_state(struct cmd_doctor *d)
{
	char shown[PATH_MAX + 16];
	struct statvfs vfs;
	struct statfs fs;
	struct stat st;

	if (fstat(d->statefd, &st) == 0 && (st.st_mode & 077))
		cmd_find(d->findings, FZD_STATE_MODE, d->w.dir, d->state, "others can enter %s (mode %04o)", d->state,
		         (unsigned)st.st_mode & 07777);
	snprintf(shown, sizeof(shown), "%s/" CMD_IDENTITY, d->state);
	mode(d, d->statefd, CMD_IDENTITY, shown);
	if (d->conf.n_targets && fstatat(d->statefd, CMD_IDENTITY, &st, 0) == 0)
		cmd_find(d->findings, FZD_IDENTITY_HERE, d->w.dir, d->w.dir,
		         "the secret key of the backups lies on this machine: %s", shown);
	else if (d->conf.n_targets && access(CMD_ETC "/" CMD_IDENTITY, F_OK) == 0)
		cmd_find(d->findings, FZD_IDENTITY_HERE, d->w.dir, NULL,
		         "the secret key of the backups lies on this machine: " CMD_ETC "/" CMD_IDENTITY);
	if (fstatvfs(d->statefd, &vfs) == 0) {
		double room = (double)vfs.f_bavail * (double)vfs.f_frsize,
		       all = (double)vfs.f_blocks * (double)vfs.f_frsize;

		if (room < LOW || room < all / 50)
			cmd_find(d->findings, FZD_SPACE, d->w.dir, d->state,
			         "%.0f MB are free where the state directory lies", room / 1e6);
		else if (vfs.f_files && vfs.f_favail < vfs.f_files / 100)
			cmd_find(d->findings, FZD_SPACE, d->w.dir, d->state,
			         "%llu inodes are free where the state directory lies",
			         (unsigned long long)vfs.f_favail);
	}
	if (fstatfs(d->statefd, &fs) < 0)
		return;
	if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)
		cmd_find(d->findings, FZD_FILESYSTEM, d->w.dir, NULL,
		         "the state directory lies in memory: it is gone after a reboot");
	else if (fs.f_type == NFS_SUPER_MAGIC || (unsigned long)fs.f_type == CIFS || (unsigned long)fs.f_type == SMB2 ||
	         fs.f_type == FUSE_SUPER_MAGIC || fs.f_type == V9FS_MAGIC)
		cmd_find(d->findings, FZD_FILESYSTEM, d->w.dir, NULL,
		         "the state directory lies on a network or user-space filesystem");
}

static void look_at_config(struct cmd_doctor *d)
{
	cJSON *changes = cJSON_CreateArray(), *errors = cJSON_CreateArray(), *warnings = cJSON_CreateArray();
	struct cmd_conf given;
	struct fz_err err = {0};
	const cJSON *o;
	int rc;

	mode(d, AT_FDCWD, d->conf.host_key, d->conf.host_key);
	mode(d, AT_FDCWD, d->conf.identity, d->conf.identity);
	mode(d, AT_FDCWD, d->conf.alert_secret, d->conf.alert_secret);
	mode(d, AT_FDCWD, d->conf.alert_headers, d->conf.alert_headers);
	for (size_t i = 0; i < d->conf.n_targets; i++)
		mode(d, AT_FDCWD, d->conf.targets[i].credentials_file, d->conf.targets[i].credentials_file);
	rc = cmd_given_load(&given, d->statefd, &err);
	if (rc == -FZ_ENOTFOUND) { /* an older mount: nothing to compare with */
		cmd_conf_fini(&given);
		goto out;
	}
	if (rc == 0)
		rc = cmd_reload_changes(&d->w, changes, &err);
	if (rc < 0)
		cmd_find(d->findings, FZD_CONFIG, d->w.dir, given.file, "%s", err.text);
	else if (cJSON_GetArraySize(changes)) {
		o = cJSON_GetArrayItem(changes, 0);
		cmd_find(d->findings, FZD_CONFIG_STALE, d->w.dir, NULL,
		         "the configuration has changed since: %d settings, among them %s (%s -> %s)",
		         cJSON_GetArraySize(changes), cmd_doctor_text(o, "key"), cmd_doctor_text(o, "from"),
		         cmd_doctor_text(o, "to"));
	}
	if (given.file) { /* the default one is looked at for the host */
		struct cmd_conf c;

		if (cmd_lint(&c, given.file, NULL, errors, warnings, &err) == 0)
			cJSON_ArrayForEach (o, warnings)
				cmd_find(d->findings, FZD_CONFIG_SENSE, d->w.dir, given.file, "%s",
				         cmd_doctor_text(o, "text"));
		cmd_conf_fini(&c);
	}
	cmd_conf_fini(&given);
out:
	cJSON_Delete(changes);
	cJSON_Delete(errors);
	cJSON_Delete(warnings);
}

bool cmd_doctor_enabled(const char *unit)
{
	char path[PATH_MAX + CMD_UNIT_SIZE];
	struct dirent *e;
	struct stat st;
	bool found = false;
	DIR *dir = opendir(UNITS);

	while (dir && !found && (e = readdir(dir))) {
		size_t n = strlen(e->d_name);

		if ((n > 6 && !strcmp(e->d_name + n - 6, ".wants")) ||
		    (n > 9 && !strcmp(e->d_name + n - 9, ".requires"))) {
			snprintf(path, sizeof(path), UNITS "/%s/%s", e->d_name, unit);
			found = lstat(path, &st) == 0;
		}
	}
	if (dir)
		closedir(dir);
	return found;
}

static void look_at_unit(struct cmd_doctor *d)
{
	char unit[CMD_UNIT_SIZE], path[64];
	struct fz_buf b = {0};
	bool service;

	if (access("/run/systemd/system", F_OK) < 0)
		return;
	cmd_where_unit(d->w.dir, "fazt@", ".service", unit);
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)cmd_doctor_number(d->status, "supervisor_pid"));
	(void)!fz_read_file(AT_FDCWD, path, 65536, &b, NULL);
	/* Another unit than ours may run it: `fazt run`, or the administrator's own. */
	service = strstr(fz_buf_str(&b), "/system.slice/") && strstr(fz_buf_str(&b), ".service") &&
	          !strstr(fz_buf_str(&b), "fazt@") && !strstr(fz_buf_str(&b), "ssh");
	fz_buf_fini(&b);
	if (!service && !cmd_doctor_enabled(unit))
		cmd_find(d->findings, FZD_NOT_ENABLED, d->w.dir, unit, "no unit mounts it after a reboot");
}

void cmd_doctor_files(struct cmd_doctor *d)
{
	look_at_state(d);
	look_at_config(d);
	look_at_unit(d);
}
