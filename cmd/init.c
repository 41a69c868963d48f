#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/file.h"
#include "cmd/keys.h"
#include "cmd/prompt.h"
#include "cmd/quote.h"
#include "cmd/setup.h"
#include "cmd/state.h"
#include "cmd/where.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_MAX 65536

/* Copies the identity out of dirfd to a new file (0600), and removes it there when asked to; its recipient stays. */
static int export_key(int dirfd, const char *dir, const char *to, bool remove, struct fz_err *err)
{
	struct ltx_age_recipient r;
	struct fz_buf key = {0};
	int fd = -1, rc = fz_read_file(dirfd, CMD_IDENTITY, KEY_MAX, &key, err);

	if (rc == -ENOENT)
		rc = fz_fail(err, FZ_ENOTFOUND, "no identity lies there (it was moved away, or never made)");
	if (rc == 0 && remove)
		rc = cmd_key_keep(dirfd, dir, &r, err);
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

static int open_dir(const char *arg, struct cmd_conf *conf, const char *config, int *fd, struct fz_err *err)
{
	struct cmd_where w;
	int rc;

	if (!arg) {
		*fd = open(CMD_ETC, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		return *fd < 0 ? fz_fail_errno(err, errno, "%s", CMD_ETC) : 0;
	}
	rc = cmd_where_find(&w, arg, err);
	return rc < 0 ? rc : cmd_state_find(&w, conf, config, fd, err);
}

static int make_key(const char *arg, const struct cmd_conf *conf, struct fz_err *err)
{
	char dir[PATH_MAX] = CMD_ETC, text[LTX_AGE_RECIPIENT_SIZE];
	struct ltx_age_recipient r;
	struct cmd_where w;
	int fd = -1, rc;

	if (arg) {
		rc = cmd_where_find(&w, arg, err);
		if (rc < 0)
			return rc;
		if (w.fazt)
			return fz_fail(err, FZ_EMOUNTED, "%s is mounted, with the key it has", w.dir);
		rc = cmd_state_make(&w, conf->state, dir, &fd, err);
	} else {
		rc = fz_mkdirs(AT_FDCWD, dir, 0700, err);
		fd = rc < 0 ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (rc == 0 && fd < 0)
			rc = fz_fail_errno(err, errno, "%s", dir);
	}
	if (rc == 0)
		rc = cmd_key_make(fd, dir, &r, err);
	fz_close(&fd);
	if (rc < 0)
		return rc;
	cmd_quote_show(stdout, "identity (secret):  ", dir, "/" CMD_IDENTITY "\n");
	printf("recipient (public): %s\n"
	       "Whoever holds the identity can read the backups, and without it nobody can: keep it in a safe place "
	       "that is\n"
	       "not this machine. fazt needs only the recipient here. To take the identity away:\n"
	       "  fazt init --export KEY --remove%s",
	       ltx_age_recipient_format(text, &r), arg ? " " : "");
	cmd_quote_print(stdout, arg ? w.dir : "");
	printf("\n");
	return 0;
}

int cmd_init(int argc, char **argv)
{
	const char *config = NULL, *to = NULL;
	char path[2 * PATH_MAX];
	struct cmd_setup set = {0};
	bool remove = false, given;
	const struct cmd_opt opts[] = {
	        {"target",        't', "URL", "ship there: dir:/path or s3://bucket/prefix?... (repeatable)", NULL, NULL,
	         &set.targets},
	        {"no-target",          0, NULL, "no target yet: commits stay in the local log", &set.no_target, NULL, NULL},
	        {"recipient",           'r', "age1...", "encrypt for this key instead of making one (repeatable)", NULL, NULL,
	         &set.recipients},
	        {"encrypt",    0, "age|none", "none: write plain objects", NULL, &set.encrypt, NULL},
	        {"access-key",     0, "ID", "S3: the access key's ID", NULL, &set.access_key, NULL},
	        {"secret-file",           0, "FILE", "S3: its secret is the first line of FILE (- = standard input)", NULL,
	         &set.secret_file, NULL},
	        {"config", 'c', "FILE", "the configuration to write, instead of " CMD_CONF_DEFAULT, NULL, &config,
	         NULL},
	        {"force",           0, NULL, "replace a configuration, which is kept as FILE.old (.old.2 ...); keys stay",
	         &set.force, NULL, NULL},
	        {"no-probe",     0, NULL, "do not try kernel and store first", &set.no_probe, NULL, NULL},
	        {"export",      0, "KEY", "copy the identity to a new file (works while mounted)", NULL, &to, NULL},
	        {"remove",           0, NULL, "with --export: remove it here", &remove, NULL, NULL},
	        {0},
	};
	const struct cmd_spec spec = {
	        "init",
	        "[options] [DIR]",
	        "Sets up a mount: asks for what is not given (at a terminal only), tries the kernel and the store, "
	        "makes a "
	        "key, writes a\n"
	        "commented configuration, and prints the next command. Nothing is written before all was tried. "
	        "Without a "
	        "terminal and without\n"
	        "options it only makes the key: in the state directory of DIR, or in /etc/fazt for all mounts. An "
	        "existing "
	        "key is never replaced.",
	        "fazt init\nfazt init --target 's3://bucket/app?region=eu-central-1' /var/lib/app\n"
	        "fazt init --export /media/usb/app.key --remove /var/lib/app\n",
	        0,
	        1,
	        opts};
	struct cmd_conf conf;
	struct fz_err err = {0};
	bool setup;
	char **args;
	int n = 0, fd = -1, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	cmd_conf_init(&conf);
	if (rc == 0 && remove && !to)
		rc = fz_fail(&err, FZ_EUSAGE,
		             "--remove goes with --export KEY: nobody could read the backups any more");
	given = set.targets.n || set.no_target || set.recipients.n || set.encrypt || set.access_key ||
	        set.secret_file || set.force || set.no_probe;
	if (rc == 0 && to && given)
		rc = fz_fail(&err, FZ_EUSAGE, "--export sets nothing up: it goes with --remove and --config only");
	setup = !to && (given || cmd_prompt_possible());
	if (rc == 0 && setup) /* the file is to be written, so only the environment counts */
		rc = cmd_conf_env(&conf, environ, &err);
	else if (rc == 0)
		rc = cmd_conf_load(&conf, config, &err);
	if (rc == 0 && setup) {
		const char *file = getenv("FAZT_CONFIG");
		char cwd[PATH_MAX];

		set.dir = n ? args[0] : NULL;
		set.state = conf.state;
		set.config = config ? config : file && *file ? file : CMD_CONF_DEFAULT;
		if (*set.config != '/' && getcwd(cwd, sizeof(cwd))) {
			snprintf(path, sizeof(path), "%s/%s", cwd, set.config);
			set.config = path;
		}
		set.ask = cmd_prompt_possible();
		rc = cmd_setup(&set, &err);
	}
	if (rc == 0 && !to && !setup)
		rc = make_key(n ? args[0] : NULL, &conf, &err);
	if (rc == 0 && to) {
		rc = open_dir(n ? args[0] : NULL, &conf, config, &fd, &err);
		if (rc == 0)
			rc = export_key(fd, n ? args[0] : CMD_ETC, to, remove, &err);
		if (rc == 0)
			printf("the identity is in %s%s\n", to, remove ? " and no longer on its old place" : "");
	}
	fz_close(&fd);
	cmd_conf_fini(&conf);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
