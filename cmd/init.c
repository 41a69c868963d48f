#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/file.h"
#include "cmd/keys.h"
#include "cmd/state.h"
#include "cmd/where.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define KEY_MAX 65536

/* Copies the identity out of dirfd to a new file (0600), and removes it there when asked to. */
static int export_key(int dirfd, const char *to, bool remove, struct fz_err *err)
{
	struct fz_buf key = {0};
	int fd = -1, rc = fz_read_file(dirfd, CMD_IDENTITY, KEY_MAX, &key, err);

	if (rc == -ENOENT)
		rc = fz_fail(err, FZ_ENOTFOUND, "no identity lies there (it was moved away, or never made)");
	if (rc < 0)
		goto out;
	fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		rc = errno == EEXIST ? fz_fail(err, FZ_EEXISTS, "%s exists already", to)
		                     : fz_fail_errno(err, errno, "cannot create %s", to);
		goto out;
	}
	rc = fz_write(fd, key.data, key.size);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	if (rc < 0) {
		rc = fz_fail_errno(err, rc, "writing %s", to);
		unlink(to);
		goto out;
	}
	rc = fz_sync_parent(AT_FDCWD, to, err);
	if (rc == 0 && remove && unlinkat(dirfd, CMD_IDENTITY, 0) < 0)
		rc = fz_fail_errno(err, errno, "removing the identity");
out:
	if (key.data)
		explicit_bzero(key.data, key.size);
	fz_buf_fini(&key);
	fz_close(&fd);
	return rc;
}

static int open_dir(const char *arg, const struct cmd_conf *conf, int *fd, struct fz_err *err)
{
	struct cmd_where w;
	int rc;

	if (!arg) {
		*fd = open(CMD_ETC, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		return *fd < 0 ? fz_fail_errno(err, errno, "%s", CMD_ETC) : 0;
	}
	rc = cmd_where_find(&w, arg, err);
	return rc < 0 ? rc : cmd_state_open(&w, conf->state, fd, err);
}

static int make_key(const char *arg, const struct cmd_conf *conf, struct fz_err *err)
{
	char path[PATH_MAX + 16], text[LTX_AGE_RECIPIENT_SIZE];
	const char *dir = CMD_ETC;
	struct ltx_age_recipient r;
	struct cmd_where w;
	int rc;

	if (arg) {
		rc = cmd_where_find(&w, arg, err);
		if (rc < 0)
			return rc;
		if (w.fazt)
			return fz_fail(err, FZ_EMOUNTED, "%s is mounted, with the key it has", w.dir);
		snprintf(path, sizeof(path), "%s/.fazt", w.dir);
		dir = conf->state ? conf->state : path;
	}
	rc = cmd_key_make(dir, &r, err);
	if (rc < 0)
		return rc;
	printf("identity (secret):  %s/" CMD_IDENTITY "\nrecipient (public): %s\n"
	       "Whoever holds the identity can read the backups, and without it nobody can: keep it in a safe place "
	       "that is\n"
	       "not this machine. fazt needs only the recipient here. To take the identity away:\n"
	       "  fazt init --export KEY --remove%s%s\n",
	       dir, ltx_age_recipient_format(text, &r), arg ? " " : "", arg ? w.dir : "");
	return 0;
}

int cmd_init(int argc, char **argv)
{
	const char *config = NULL, *to = NULL;
	bool remove = false;
	const struct cmd_opt opts[] = {
	        {"export", 0, "KEY", "copy the identity to a new file (works while mounted)", NULL, &to, NULL},
	        {"remove",   0, NULL, "with --export: remove it here", &remove, NULL, NULL},
	        {"config",    'c', "FILE", "configuration instead of " CMD_CONF_DEFAULT, NULL, &config, NULL},
	        {0   },
	};
	const struct cmd_spec spec = {
	        "init",
	        "[options] [DIR]",
	        "Makes the key that backups are encrypted for: in the state directory of DIR, or in /etc/fazt for all "
	        "mounts\n"
	        "of this machine. An existing key is never touched. `fazt mount` does the same when it needs a key and "
	        "has none.",
	        "fazt init\nfazt init /var/lib/app\nfazt init --export /media/usb/app.key --remove /var/lib/app\n",
	        0,
	        1,
	        opts};
	struct cmd_conf conf;
	struct fz_err err = {0};
	char **args;
	int n, fd = -1, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	cmd_conf_init(&conf);
	if (rc == 0 && remove && !to)
		rc = fz_fail(&err, FZ_EUSAGE,
		             "--remove goes with --export KEY: nobody could read the backups any more");
	if (rc == 0)
		rc = cmd_conf_load(&conf, config, &err);
	if (rc == 0 && !to)
		rc = make_key(n ? args[0] : NULL, &conf, &err);
	if (rc == 0 && to) {
		rc = open_dir(n ? args[0] : NULL, &conf, &fd, &err);
		if (rc == 0)
			rc = export_key(fd, to, remove, &err);
		if (rc == 0)
			printf("the identity is in %s%s\n", to, remove ? " and no longer on its old place" : "");
	}
	fz_close(&fd);
	cmd_conf_fini(&conf);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
