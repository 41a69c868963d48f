#include "cmd/setup.h"

#include "base/file.h"
#include "cmd/apart.h"
#include "cmd/config.h"
#include "cmd/keys.h"
#include "cmd/probe.h"
#include "cmd/prompt.h"
#include "cmd/quote.h"
#include "cmd/state.h"
#include "cmd/wire.h"
#include "fs/inuse.h"
#include "store/credentials.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_MAX 4096
#define CONFIG_MAX (1u << 20)

/* ---- what shall be ---- */

static bool is_s3(const char *url)
{
	return !strncmp(url, "s3:", 3);
}

static int need_dir(struct cmd_setup *s, struct fz_err *err)
{
	char cwd[PATH_MAX];
	int rc;

	if (!s->dir && !s->ask)
		return fz_fail(err, FZ_EUSAGE,
		               "DIR is missing, and there is no terminal to ask at: fazt init --target URL DIR");
	while (!s->dir) {
		rc = cmd_prompt("Directory of the databases", getcwd(cwd, sizeof(cwd)), s->dir_asked,
		                sizeof(s->dir_asked), err);
		if (rc < 0)
			return rc;
		rc = cmd_where_find(&s->where, s->dir_asked, err);
		if (rc == 0)
			s->dir = s->dir_asked;
		else
			cmd_quote_show(stdout, "  ", err->text, "\n");
	}
	rc = cmd_where_find(&s->where, s->dir, err);
	if (rc == 0 && s->where.fazt)
		rc = fz_fail(err, FZ_EMOUNTED,
		             "%s is mounted, with the configuration it has: edit that, and fazt reload %s",
		             s->where.dir, s->where.dir);
	return rc;
}

/* Only the URL's form; nothing is asked of the store. Credentials are looked at later. */
static int check_url(const char *url, struct fz_err *err)
{
	struct fz_store_conf conf = {.access_key = "x", .secret_key = "x", .region = "x"};
	struct fz_store *store = NULL;
	int rc = fz_store_open(&store, url, &conf, err);

	fz_store_close(store);
	return rc;
}

/* Before anything is tried there: what could not be written into the file, or not be mounted with. */
static int check_target(const struct cmd_setup *s, const char *url, struct fz_err *err)
{
	struct fz_buf line = {0};
	int rc = check_url(url, err);

	if (rc == 0)
		rc = cmd_conf_format_line(&line, "url", url, err);
	if (rc == 0)
		rc = cmd_apart_one("--target", url, s->where.dir, err);
	fz_buf_fini(&line);
	return rc;
}

static int need_target(struct cmd_setup *s, struct fz_err *err)
{
	char host[65] = "", otherwise[200];
	int rc = 0;

	if (s->targets.n && s->no_target)
		return fz_fail(err, FZ_EUSAGE, "--target and --no-target exclude each other");
	if (!s->targets.n && !s->no_target && !s->ask)
		return fz_fail(err, FZ_EUSAGE,
		               "--target URL is missing, and there is no terminal to ask at (--no-target: the local "
		               "log only)");
	(void)gethostname(host, sizeof(host) - 1);
	snprintf(otherwise, sizeof(otherwise), "%.60s/%.100s", host, strrchr(s->where.dir, '/') + 1);
	while (!s->targets.n && !s->no_target) {
		printf("\nCommits are shipped to a target. Each mount needs a place of its own in it, for example\n"
		       "  s3://bucket/%s?region=eu-central-1\n"
		       "  dir:/mnt/backup/%s          (another disk)\n",
		       otherwise, otherwise);
		rc = cmd_prompt("Target (empty: none yet)", NULL, s->target_asked, sizeof(s->target_asked), err);
		if (rc < 0)
			return rc;
		s->no_target = !s->target_asked[0];
		if (s->no_target)
			break;
		rc = check_target(s, s->target_asked, err);
		if (rc == 0)
			s->targets.v[s->targets.n++] = s->target_asked;
		else
			cmd_quote_show(stdout, "  ", err->text, "\n");
	}
	for (size_t i = 0; i < s->targets.n; i++) {
		rc = check_target(s, s->targets.v[i], err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Whether the store's keys are found without us: environment, ~/.aws, the URL's own file. */
static bool has_credentials(const char *url)
{
	struct fz_store_conf conf = {.region = "x"};
	struct fz_store *store = NULL;
	bool ok = fz_store_open(&store, url, &conf, NULL) == 0;

	fz_store_close(store);
	return ok;
}

static int read_secret(struct cmd_setup *s, struct fz_err *err)
{
	struct fz_buf b = {0};
	int rc = 0;

	if (!strcmp(s->secret_file, "-")) {
		ssize_t n = read(0, fz_buf_room(&b, SECRET_MAX), SECRET_MAX);

		if (n < 0)
			rc = fz_fail_errno(err, errno, "reading the secret key from standard input");
		else
			b.size = (size_t)n;
	} else {
		rc = fz_read_file(AT_FDCWD, s->secret_file, SECRET_MAX, &b, err);
	}
	if (rc == 0) {
		size_t n = 0;

		while (n < b.size && b.data[n] != '\n' && b.data[n] != '\r')
			n++;
		if (n == 0 || n >= sizeof(s->secret))
			rc = fz_fail(err, FZ_EKEYFILE, "--secret-file: no secret access key on the first line");
		else
			memcpy(s->secret, b.data, n);
	}
	if (b.data)
		explicit_bzero(b.data, b.cap);
	fz_buf_fini(&b);
	return rc;
}

static int need_credentials(struct cmd_setup *s, struct fz_err *err)
{
	const char *url = NULL;
	int rc;

	for (size_t i = 0; i < s->targets.n && !url; i++)
		if (is_s3(s->targets.v[i]))
			url = s->targets.v[i];
	if ((s->access_key || s->secret_file) && !url)
		return fz_fail(err, FZ_EUSAGE, "--access-key and --secret-file have no use without a target s3://...");
	if (!s->access_key != !s->secret_file && !s->ask)
		return fz_fail(err, FZ_EUSAGE, "--access-key and --secret-file belong together");
	if (!s->secret_file && (!url || !s->ask))
		return 0;
	if (!s->access_key) {
		bool found = !s->secret_file && has_credentials(url);

		printf("\nThe store's access key. It is kept in a file of its own that only root can read.\n");
		rc = cmd_prompt(found ? "Access key ID (empty: as found in the environment or ~/.aws)"
		                      : "Access key ID",
		                NULL, s->key_asked, sizeof(s->key_asked), err);
		if (rc == 0 && !s->key_asked[0] && s->secret_file)
			rc = fz_fail(err, FZ_EUSAGE, "an access key and its secret belong together");
		if (rc < 0 || !s->key_asked[0])
			return rc;
		s->access_key = s->key_asked;
	}
	if (s->secret_file)
		return read_secret(s, err);
	rc = cmd_prompt_secret("Secret access key (not shown)", s->secret, sizeof(s->secret), err);
	if (rc == 0 && !s->secret[0])
		rc = fz_fail(err, FZ_EUSAGE, "an access key and its secret belong together");
	return rc;
}

static int need_key(struct cmd_setup *s, struct fz_err *err)
{
	struct ltx_age_recipient r;
	int fd = -1, rc;

	if (s->encrypt && !strcmp(s->encrypt, "none"))
		return s->recipients.n ? fz_fail(err, FZ_EUSAGE, "--recipient has no use with --encrypt none") : 0;
	if (s->encrypt && strcmp(s->encrypt, "age") != 0)
		return fz_fail(err, FZ_EUSAGE, "--encrypt: '%s' is neither age nor none", s->encrypt);
	for (size_t i = 0; i < s->recipients.n; i++) {
		rc = ltx_age_recipient_parse(&r, s->recipients.v[i], err);
		if (rc < 0)
			return fz_fail(err, FZ_EUSAGE, "--recipient: '%.80s' is no age recipient (age1...)",
			               s->recipients.v[i][0] == 'A' ? "..." : s->recipients.v[i]);
	}
	snprintf(s->key_dir, sizeof(s->key_dir), "%s/.fazt", s->where.dir);
	if (s->state)
		snprintf(s->key_dir, sizeof(s->key_dir), "%s", s->state);
	if (s->recipients.n)
		return 0;
	rc = cmd_state_open(&s->where, s->state, &fd, err);
	if (rc == 0 || rc == -FZ_ENOTFOUND)
		rc = cmd_key_find(fd, s->key_dir, &r, err);
	fz_close(&fd);
	if (rc < 0 && rc != -FZ_ENOTFOUND)
		return rc;
	if (rc == 0) {
		s->recipients.v[s->recipients.n++] = ltx_age_recipient_format(s->recipient, &r);
		printf("\nThe key that is there already is used: %s\n", s->recipient);
		return 0;
	}
	while (s->ask) {
		printf("\nBackups are encrypted. The best key is one that was made on another machine (fazt keygen -o "
		       "app.key): then\n"
		       "this machine never has what can read them.\n");
		rc = cmd_prompt("Public key, age1... (empty: make one here now)", NULL, s->recipient_asked,
		                sizeof(s->recipient_asked), err);
		if (rc < 0 || !s->recipient_asked[0])
			return rc < 0 ? rc : 0;
		rc = ltx_age_recipient_parse(&r, s->recipient_asked, err);
		if (rc == 0) {
			s->recipients.v[s->recipients.n++] = s->recipient_asked;
			return 0;
		}
		printf("  that is no age recipient (age1...)\n");
	}
	return 0; /* made when all was tried */
}

/* ---- trying ---- */

static void line(const char *what, bool ok, const char *more)
{
	printf("  %-26s %-7s", what, ok ? "ok" : "FAILED");
	cmd_quote_show(stdout, *more ? " " : "", more, "\n");
}

static int try_kernel(const struct cmd_setup *s, struct fz_err *err)
{
	struct cmd_probe_kernel k;
	char text[500];

	cmd_probe_kernel(s->where.dir, &k);
	printf("\nKernel %s\n", k.release);
	line("/dev/fuse", k.device,
	     k.device ? "" : "modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN");
	if (!k.device)
		return fz_fail(err, FZ_ENOFUSE, "%s", k.err.text);
	line("mount", k.mounts, k.mounts ? "" : k.err.text);
	if (!k.mounts)
		return fz_fail(err, FZ_ENOFUSE, "%s", k.err.text);
	snprintf(text, sizeof(text), "version %u.%u", k.major, k.minor);
	line("FUSE protocol", k.major == 7, text);
	if (k.major != 7)
		return fz_fail(err, FZ_ENOFUSE, "FUSE protocol %u.%u is not known", k.major, k.minor);
	printf("  %-26s %s\n", "passthrough",
	       k.passthrough_works ? "ok      nearly native speed"
	       : k.passthrough     ? k.err.text
	                           : "no      Linux 6.9 has it; without it all works, with slower writes");
	printf("  %-26s %s\n", "resend",
	       k.resend_works ? "ok      a worker's death goes unnoticed"
	       : k.resend     ? "refused; answers are kept instead"
	                      : "no      Linux 6.9 has it; answers are kept instead");
	return 0;
}

static int open_target(const struct cmd_setup *s, const char *url, struct fz_store **out, struct fz_err *err)
{
	struct fz_store_conf conf = {.access_key = s->secret[0] && is_s3(url) ? s->access_key : NULL,
	                             .secret_key = s->secret[0] && is_s3(url) ? s->secret : NULL,
	                             .timeout_ms = 20000,
	                             .create = true,
	                             .interactive = true};

	return fz_store_open(out, url, &conf, err);
}

static int try_target(const struct cmd_setup *s, const char *url, struct fz_err *err)
{
	struct fz_store *store = NULL;
	const struct cmd_probe_result *bad;
	struct cmd_probe_store r;
	int rc = open_target(s, url, &store, err);

	if (rc < 0)
		return rc;
	cmd_quote_show(stdout, "\nTarget ", fz_store_url(store), "\n");
	cmd_probe_store(store, &r);
	for (int i = 0; i < CMD_PROBE_STEPS; i++) {
		char text[500];

		if (!r.step[i].done)
			continue;
		snprintf(text, sizeof(text), "%.1f ms%s", r.step[i].ms,
		         i == CMD_PROBE_NEW && !strcmp(r.conditional_put, "emulated")
		                 ? "; the store ignores the condition, so it is made good by reading back"
		                 : "");
		if (i == CMD_PROBE_SWAP && !r.step[i].ok)
			printf("  %-26s no      failover = auto cannot use this store\n",
			       cmd_probe_name((enum cmd_probe_step)i));
		else
			line(cmd_probe_name((enum cmd_probe_step)i), r.step[i].ok,
			     r.step[i].ok ? text : r.step[i].err.text);
	}
	if (r.clock_known && (r.clock_ahead_ms > 5000 || r.clock_ahead_ms < -5000))
		printf("  this machine's clock differs from the store's by %.0f s: set it (timedatectl set-ntp true)\n",
		       (double)r.clock_ahead_ms / 1000);
	bad = cmd_probe_failed(&r, false);
	if (bad) {
		*err = bad->err;
		fz_err_prefix(err, "%s: %s", fz_store_url(store), cmd_probe_name((enum cmd_probe_step)(bad - r.step)));
		if (err->code == -FZ_ENOTFOUND) /* of a place that does not exist */
			err->code = -FZ_ESTORE;
		rc = err->code;
	}
	fz_store_close(store);
	return rc;
}

/* A directory on the disk of the databases is lost with it. */
static void warn_same_disk(const struct cmd_setup *s, const char *url)
{
	struct stat a, b;

	if (!is_s3(url) && stat(url + 4, &a) == 0 && stat(s->where.dir, &b) == 0 && a.st_dev == b.st_dev) {
		cmd_quote_show(stdout, "  note: ", url + 4, " lies on the same filesystem as ");
		cmd_quote_show(stdout, "", s->where.dir, ", and is lost together with it\n");
	}
}

static int try_all(struct cmd_setup *s, struct fz_err *err)
{
	char who[512];
	int rc = 0;

	if (!s->no_probe) {
		rc = try_kernel(s, err);
		for (size_t i = 0; rc == 0 && i < s->targets.n; i++) {
			rc = try_target(s, s->targets.v[i], err);
			if (rc == 0)
				warn_same_disk(s, s->targets.v[i]);
		}
	}
	if (rc < 0 && s->ask) {
		bool yes = false;
		struct fz_err why = *err;

		cmd_quote_show(stdout, "\n", err->text, "\n");
		if (cmd_prompt_yes("Write the configuration all the same?", false, &yes, err) == 0 && yes)
			rc = 0;
		else
			*err = why;
	}
	if (rc == 0 && fs_inuse_find(s->where.dir, NULL, 0, who, sizeof(who)))
		cmd_quote_show(stdout, "\nBefore mounting, stop what uses the directory: ", who, "\n");
	return rc;
}

/* ---- writing ---- */

static int write_credentials(struct cmd_setup *s, const char *path, struct fz_err *err)
{
	struct fz_buf text = {0};
	int rc = fz_buf_addf(&text, "# Access to the store of %s, for fazt. Only root may read this.\n[default]\n",
	                     s->config);

	if (rc == 0)
		rc = fz_buf_addf(&text, "aws_access_key_id = %s\naws_secret_access_key = %s\n", s->access_key,
		                 s->secret);
	if (rc < 0)
		rc = fz_fail(err, rc, "writing the credentials");
	else
		rc = fz_write_file(AT_FDCWD, path, text.data, text.size, 0600, err);
	if (text.data)
		explicit_bzero(text.data, text.cap);
	fz_buf_fini(&text);
	return rc;
}

static int make_key(struct cmd_setup *s, struct fz_err *err)
{
	struct ltx_age_recipient r;
	char dir[PATH_MAX];
	int fd, rc;

	if (s->recipients.n || (s->encrypt && !strcmp(s->encrypt, "none")))
		return 0;
	rc = cmd_state_make(&s->where, s->state, dir, &fd, err);
	if (rc == 0)
		rc = cmd_key_make(fd, dir, &r, err);
	fz_close(&fd);
	if (rc < 0)
		return rc;
	s->recipients.v[s->recipients.n++] = ltx_age_recipient_format(s->recipient, &r);
	s->key_made = true;
	return 0;
}

/* What is written can be mounted with: as `fazt mount` would read it. credentials: where those lie until all is checked; "" = none. */
static int check_text(const struct cmd_setup *s, const struct fz_buf *text, const char *credentials, struct fz_err *err)
{
	struct cmd_conf c;
	int rc;

	cmd_conf_init(&c);
	rc = cmd_conf_parse(&c, fz_buf_str(text), text->size, s->config, err);
	for (size_t i = 0; *credentials && i < c.n_targets; i++)
		if (c.targets[i].credentials_file) {
			free(c.targets[i].credentials_file);
			c.targets[i].credentials_file = strdup(credentials);
		}
	if (rc == 0)
		rc = cmd_conf_check(&c, err);
	if (rc == 0)
		rc = cmd_apart_check(&c, s->where.dir, err);
	cmd_conf_fini(&c);
	return rc;
}

/* Under the next name that is free, with a link: there is never no file. */
static int keep(const char *path, const char *what, struct fz_err *err)
{
	char old[PATH_MAX + 64];
	int n = snprintf(old, sizeof(old), "%s.old", path);

	if (access(path, F_OK) < 0)
		return 0;
	for (unsigned k = 2; link(path, old) < 0; k++) {
		if (errno != EEXIST && rename(path, old) < 0) /* a file system without links */
			return fz_fail_errno(err, errno, "keeping the former %s as %s", what, old);
		if (errno != EEXIST)
			break;
		snprintf(old + n, sizeof(old) - (size_t)n, ".%u", k);
	}
	printf("\nThe former %s is kept as", what);
	cmd_quote_show(stdout, " ", old, ".\n");
	return 0;
}

static int write_all(struct cmd_setup *s, struct fz_err *err)
{
	char fresh[sizeof(s->credentials) + 8] = "", dir[PATH_MAX];
	struct fz_buf text = {0};
	const char *slash = strrchr(s->config, '/');
	int rc = 0;

	snprintf(dir, sizeof(dir), "%.*s", (int)(slash - s->config), s->config);
	if (*dir)
		rc = fz_mkdirs(AT_FDCWD, dir, 0755, err);
	if (s->secret[0])
		snprintf(fresh, sizeof(fresh), "%s.new", s->credentials);
	if (rc == 0 && *fresh)
		rc = write_credentials(s, fresh, err);
	if (rc == 0)
		rc = make_key(s, err);
	if (rc == 0)
		rc = cmd_setup_text(s, &text, err);
	if (rc == 0)
		rc = check_text(s, &text, fresh, err);
	if (rc == 0)
		rc = keep(s->config, "configuration", err);
	if (rc == 0 && *fresh)
		rc = keep(s->credentials, "access to S3", err);
	if (rc == 0 && *fresh && rename(fresh, s->credentials) < 0)
		rc = fz_fail_errno(err, errno, "writing %s", s->credentials);
	if (rc == 0)
		rc = fz_write_file(AT_FDCWD, s->config, text.data, text.size, 0644, err);
	if (rc < 0 && *fresh)
		(void)unlink(fresh);
	fz_buf_fini(&text);
	return rc;
}

/* Where systemd runs and has our unit: the same as a service. */
static void tell_unit(const struct cmd_setup *s, bool usual)
{
	static const char *const places[] = {"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
	                                     "/usr/local/lib/systemd/system"};
	char unit[CMD_UNIT_SIZE], env[CMD_UNIT_SIZE], path[64], setting[PATH_MAX * 2 + 16];
	bool there = false;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(path, sizeof(path), "%s/fazt@.service", places[i]);
		there |= access(path, F_OK) == 0;
	}
	cmd_where_unit(s->where.dir, "fazt@", ".service", unit);
	cmd_where_unit(s->where.dir, "", ".env", env);
	if (!there || !unit[0] || access("/run/systemd/system", F_OK) < 0)
		return;
	printf("or, as a service that is there after each boot:\n");
	if (!usual) {
		snprintf(setting, sizeof(setting), "FAZT_CONFIG=%s", s->config);
		printf("  echo ");
		cmd_quote_print(stdout, setting);
		printf(" > '/etc/fazt/%s'\n", env);
	}
	printf("  systemctl enable --now '%s'\n", unit);
	for (size_t i = 0; i < s->targets.n && !s->secret[0]; i++)
		if (is_s3(s->targets.v[i]) && getenv("AWS_ACCESS_KEY_ID")) {
			printf("The service does not have AWS_* of this shell: write them into '/etc/fazt/%s' (chmod "
			       "600), or give\n"
			       "--access-key and --secret-file.\n",
			       env);
			return;
		}
}

static void tell(const struct cmd_setup *s)
{
	bool usual = !strcmp(s->config, CMD_CONF_DEFAULT);

	cmd_quote_show(stdout, "\nWritten:\n  configuration      ", s->config, "\n");
	if (s->secret[0])
		cmd_quote_show(stdout, "  access to S3       ", s->credentials, " (0600)\n");
	if (s->key_made) {
		cmd_quote_show(stdout, "  identity (secret)  ", s->key_dir, "/" CMD_IDENTITY "\n");
		printf("  recipient          %s\n"
		       "\nWithout the identity nobody can read the backups, and with it anybody can: take it to a safe "
		       "place that is\n"
		       "not this machine, which needs the recipient only:\n"
		       "  fazt init --export KEY --remove ",
		       s->recipient);
		cmd_quote_print(stdout, s->where.dir);
		printf("\n");
	}
	printf("\nNext:\n  fazt mount ");
	if (!usual) {
		printf("--config ");
		cmd_quote_print(stdout, s->config);
		printf(" ");
	}
	cmd_quote_print(stdout, s->where.dir);
	printf("\n");
	tell_unit(s, usual);
	fflush(stdout);
}

/* As `make install` and the package bring it: sections and comments. */
static bool sets_nothing(const char *config)
{
	struct fz_buf text = {0};
	bool nothing = fz_read_file(AT_FDCWD, config, CONFIG_MAX, &text, NULL) == 0;

	for (const char *p = fz_buf_str(&text); nothing && *p; p += *p == '\n') {
		p += strspn(p, " \t\r");
		nothing = strchr("#;[\n", *p) != NULL; /* its end among them */
		p += strcspn(p, "\n");
	}
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return nothing;
}

/* Before the first question. */
static int check_config(const struct cmd_setup *s, struct fz_err *err)
{
	struct stat st;

	if (s->config[0] != '/')
		return fz_fail(err, FZ_EUSAGE, "--config: '%s' is no absolute path", s->config);
	if (geteuid() != 0 && !s->no_probe)
		return fz_fail(
		        err, EPERM,
		        "fazt init must run as root: it tries a mount (try sudo; --no-probe writes the files only)");
	if (stat(s->config, &st) < 0)
		return 0;
	if (!S_ISREG(st.st_mode))
		return fz_fail(err, FZ_EUSAGE, "--config: %s is no file", s->config);
	if (!s->force && !sets_nothing(s->config))
		return fz_fail(
		        err, FZ_EEXISTS,
		        "the configuration %s exists already (each further mount has a file of its own: --config FILE)",
		        s->config);
	return 0;
}

int cmd_setup(struct cmd_setup *s, struct fz_err *err)
{
	size_t n = strlen(s->config);
	int rc = check_config(s, err);

	if (n > 5 && !strcmp(s->config + n - 5, ".conf"))
		n -= 5;
	if (rc == 0)
		rc = need_dir(s, err);
	if (rc == 0)
		rc = need_target(s, err);
	if (rc == 0)
		rc = need_credentials(s, err);
	if (rc == 0 && s->secret[0])
		snprintf(s->credentials, sizeof(s->credentials), "%.*s.credentials", (int)n, s->config);
	if (rc == 0 && s->secret[0] && !s->force && access(s->credentials, F_OK) == 0)
		rc = fz_fail(err, FZ_EEXISTS, "%s exists already", s->credentials);
	if (rc == 0)
		rc = need_key(s, err);
	if (rc == 0)
		rc = try_all(s, err);
	if (rc == 0)
		rc = write_all(s, err);
	if (rc == 0)
		tell(s);
	explicit_bzero(s->secret, sizeof(s->secret));
	return rc;
}
