#include "cmd/keys.h"

#include "base/file.h"
#include "cmd/alertsend.h"
#include "cmd/http.h"
#include "cmd/link.h"
#include "cmd/quote.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 65536

static int first_line(int dirfd, const char *dir, char *out, size_t cap, struct fz_err *err)
{
	struct fz_buf b = {0};
	int rc = fz_read_file(dirfd, CMD_RECIPIENT, FILE_MAX, &b, err);

	if (rc == 0) {
		size_t n = strcspn(fz_buf_str(&b), "\r\n");

		if (n >= cap)
			rc = fz_fail(err, FZ_EKEYFILE, "%s/" CMD_RECIPIENT " holds no recipient", dir);
		else
			snprintf(out, cap, "%.*s", (int)n, fz_buf_str(&b));
	}
	fz_buf_fini(&b);
	return rc;
}

static int write_recipient(int dirfd, const struct ltx_age_recipient *r, struct fz_err *err)
{
	char text[LTX_AGE_RECIPIENT_SIZE + 1];

	ltx_age_recipient_format(text, r);
	strcat(text, "\n");
	return fz_write_file(dirfd, CMD_RECIPIENT, text, strlen(text), 0644, err);
}

int cmd_key_make(int dirfd, const char *dir, struct ltx_age_recipient *r, struct fz_err *err)
{
	char path[64];
	struct stat st;
	int rc;

	if (fstatat(dirfd, CMD_IDENTITY, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return fz_fail(err, FZ_EEXISTS, "key file %s/" CMD_IDENTITY " exists already and is left as it is",
		               dir);
	snprintf(path, sizeof(path), "/proc/self/fd/%d/" CMD_IDENTITY, dirfd);
	rc = ltx_age_keygen(path, r, err);
	if (rc < 0)
		return fz_err_prefix(err, "%s", dir);
	rc = write_recipient(dirfd, r, err);
	return rc < 0 ? fz_err_prefix(err, "%s", dir) : 0;
}

/* name: in dirfd, which is dir; "" = that itself. Tells of what another user may have put there. */
static int trust(int dirfd, const char *dir, const char *name, struct fz_err *err)
{
	const char *what = NULL;
	char owner[40];
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0)
		return errno == ENOENT ? -FZ_ENOTFOUND : fz_fail_errno(err, errno, "%s/%s", dir, name);
	if (S_ISLNK(st.st_mode))
		what = "is a symbolic link";
	else if (*name && !S_ISREG(st.st_mode))
		what = "is no regular file";
	else if (st.st_uid != 0 && st.st_uid != geteuid()) {
		snprintf(owner, sizeof(owner), "belongs to user %u", (unsigned)st.st_uid);
		what = owner;
	} else if (st.st_mode & 022)
		what = "can be written by others";
	return what ? fz_fail(err, FZ_EKEYFILE,
	                      "%s%s%s %s: no key is taken that somebody else may have put there. Move it away, or make "
	                      "it "
	                      "root's alone (chown, chmod go-w) if it is yours",
	                      dir, *name ? "/" : "", name, what)
	            : 0;
}

static int find_in(int dirfd, const char *dir, bool trusted, struct ltx_age_recipient *r, struct fz_err *err)
{
	struct ltx_age_identities ids = {0};
	char path[64], line[256];
	int rc = trusted ? 0 : trust(dirfd, dir, "", err);

	if (rc == 0 && faccessat(dirfd, CMD_RECIPIENT, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		rc = trusted ? 0 : trust(dirfd, dir, CMD_RECIPIENT, err);
		if (rc == 0)
			rc = first_line(dirfd, dir, line, sizeof(line), err);
		if (rc == 0 && ltx_age_recipient_parse(r, line, err) < 0)
			rc = fz_fail(err, FZ_EKEYFILE, "%s/" CMD_RECIPIENT " holds no age recipient", dir);
		return rc;
	}
	if (rc == 0 && faccessat(dirfd, CMD_IDENTITY, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return -FZ_ENOTFOUND;
	if (rc == 0 && !trusted)
		rc = trust(dirfd, dir, CMD_IDENTITY, err);
	if (rc < 0)
		return rc;
	snprintf(path, sizeof(path), "/proc/self/fd/%d/" CMD_IDENTITY, dirfd);
	rc = ltx_age_identities_read(&ids, path, err);
	if (rc < 0)
		fz_err_prefix(err, "%s", dir);
	if (rc == 0)
		ltx_age_identity_recipient(&ids.v[0], r);
	ltx_age_identities_free(&ids);
	return rc;
}

int cmd_key_keep(int dirfd, const char *dir, struct ltx_age_recipient *r, struct fz_err *err)
{
	int rc = find_in(dirfd, dir, false, r, err);

	if (rc < 0 || faccessat(dirfd, CMD_RECIPIENT, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return rc;
	rc = write_recipient(dirfd, r, err);
	return rc < 0 ? fz_err_prefix(err, "%s", dir) : 0;
}

int cmd_key_find(int statefd, const char *state_dir, struct ltx_age_recipient *r, struct fz_err *err)
{
	int rc = statefd < 0 ? -FZ_ENOTFOUND : find_in(statefd, state_dir, false, r, err), fd;

	if (rc != -FZ_ENOTFOUND)
		return rc;
	fd = open(CMD_ETC, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		rc = find_in(fd, CMD_ETC, true, r, err); /* the administrator's */
	fz_close(&fd);
	return rc == -FZ_ENOTFOUND ? fz_fail(err, FZ_ENOTFOUND, "there is no key in %s and in " CMD_ETC, state_dir)
	                           : rc;
}

static bool key_needed(const struct cmd_conf *c)
{
	for (size_t i = 0; i < c->n_targets; i++)
		if (cmd_target_encrypted(c, &c->targets[i]) && !cmd_target_recipients(c, &c->targets[i])->n)
			return true;
	return false;
}

int cmd_key_default(struct cmd_conf *c, int statefd, const char *state_dir, bool look, bool *made, struct fz_err *err)
{
	struct cmd_origin o = {.level = CMD_LEVEL_FLAG, .where = "the key in use"};
	struct ltx_age_identities ids = {0};
	struct ltx_age_recipient r;
	char text[LTX_AGE_RECIPIENT_SIZE] = CMD_KEY_TO_MAKE;
	int rc = 0;

	*made = false;
	if (!key_needed(c))
		return 0;
	if (c->identity) {
		rc = ltx_age_identities_read(&ids, c->identity, err);
		if (rc == 0 && ids.n == 0)
			rc = fz_fail(err, FZ_EKEYFILE, "%s holds no identity", c->identity);
		if (rc == 0)
			ltx_age_identity_recipient(&ids.v[0], &r);
		ltx_age_identities_free(&ids);
	} else {
		rc = look || statefd < 0 ? -FZ_ENOTFOUND : cmd_key_keep(statefd, state_dir, &r, err);
		if (rc == -FZ_ENOTFOUND)
			rc = cmd_key_find(statefd, state_dir, &r, err);
		if (rc == -FZ_ENOTFOUND) {
			rc = look ? 0 : cmd_key_make(statefd, state_dir, &r, err);
			*made = rc == 0;
		}
	}
	if (rc < 0)
		return rc;
	if (!look || !*made)
		ltx_age_recipient_format(text, &r);
	return cmd_list_add(&c->recipients, text, strlen(text), &o, err);
}

void cmd_key_tell(FILE *to, const struct cmd_conf *c, const char *state_dir, const char *dir)
{
	fprintf(to,
	        "A key was made, since backups are encrypted and there was none:\n"
	        "  identity (secret): %s/" CMD_IDENTITY "\n"
	        "  recipient:         %s\n"
	        "Without the identity nobody can read the backups: take it to a safe place that is not this machine, "
	        "with\n"
	        "  fazt init --export KEY --remove ",
	        state_dir, c->recipients.n ? c->recipients.v[0] : "");
	cmd_quote_print(to, dir);
	fprintf(to, "\n");
}

int cmd_key_identities(struct ltx_age_identities *ids, const char *file, const struct cmd_conf *c,
                       const char *state_dir, struct fz_err *err)
{
	char path[PATH_MAX];

	memset(ids, 0, sizeof(*ids));
	if (!file && c)
		file = c->identity;
	if (file) {
		int rc = ltx_age_identities_read(ids, file, err);

		if (rc < 0 && rc != -FZ_EKEYFILE)
			rc = fz_fail(err, FZ_EKEYFILE, "the identity file %s cannot be used: %s", file,
			             fz_strerror(rc));
		return rc;
	}
	for (int i = 0; i < 2; i++) {
		if (i == 0 && !state_dir)
			continue;
		snprintf(path, sizeof(path), "%s/" CMD_IDENTITY, i ? CMD_ETC : state_dir);
		if (access(path, R_OK) == 0)
			return ltx_age_identities_read(ids, path, err);
	}
	return 0;
}

int cmd_key_recipients(const struct cmd_list *l, struct ltx_age_recipient **out, size_t *n, struct fz_err *err)
{
	struct ltx_age_recipient *v = calloc(l->n ? l->n : 1, sizeof(*v));
	int rc = v ? 0 : fz_fail_errno(err, ENOMEM, "reading recipients");

	for (size_t i = 0; rc == 0 && i < l->n; i++)
		rc = ltx_age_recipient_parse(&v[i], l->v[i], err);
	if (rc < 0) {
		free(v);
		return rc;
	}
	*out = v;
	*n = l->n;
	return 0;
}

/* ---- checks of a configuration ---------------------------------------------------------------------------------- */

static int where_fail(struct fz_err *err, int code, const char *where, int line, const char *text)
{
	if (line)
		return fz_fail(err, code, "%s:%d: %s", where, line, text);
	return fz_fail(err, code, "%s: %s", where, text);
}

/* Adds the recipients of a file of recipients, one a line. */
static int add_file(struct cmd_list *to, const char *path, const struct cmd_origin *o, struct fz_err *err)
{
	struct ltx_age_recipient r;
	struct fz_buf text = {0};
	struct fz_err why = {0};
	size_t before = to->n;
	char msg[600];
	int rc = fz_read_file(AT_FDCWD, path, FILE_MAX, &text, &why);

	if (rc < 0) {
		snprintf(msg, sizeof(msg), "recipients: cannot read the key file %s: %s", path, strerror(-rc));
		rc = where_fail(err, FZ_EKEYFILE, o->where, o->line, msg);
	}
	for (const char *p = fz_buf_str(&text); rc == 0 && *p;) {
		size_t n = strcspn(p, "\r\n");
		char line[256];

		snprintf(line, sizeof(line), "%.*s", n < sizeof(line) ? (int)n : 0, p);
		if (line[0] && line[0] != '#') {
			rc = ltx_age_recipient_parse(&r, line, &why);
			if (rc == 0)
				rc = cmd_list_add(to, line, strlen(line), o, err);
			else {
				snprintf(msg, sizeof(msg), "%s holds a line that is no age recipient", path);
				rc = where_fail(err, FZ_EKEYFILE, o->where, o->line, msg);
			}
		}
		p += n + strspn(p + n, "\r\n");
	}
	if (rc == 0 && to->n == before) {
		snprintf(msg, sizeof(msg), "%s holds no recipient", path);
		rc = where_fail(err, FZ_EKEYFILE, o->where, o->line, msg);
	}
	fz_buf_fini(&text);
	return rc;
}

static int expand(struct cmd_list *l, struct fz_err *err)
{
	struct cmd_list out = {0};
	struct cmd_origin o = {.level = l->level, .where = l->where, .line = l->line};
	struct ltx_age_recipient r;
	struct fz_err why = {0};
	char msg[600];
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < l->n; i++) {
		const char *v = l->v[i];

		if (*v == '/') {
			rc = add_file(&out, v, &o, err);
			continue;
		}
		if (!strncmp(v, "AGE-SECRET-KEY-", 15)) /* never repeat it in a message */
			rc = where_fail(err, FZ_ECONFIG, o.where, o.line,
			                "recipients: this is a secret key; give its recipient (age1...)");
		else if (ltx_age_recipient_parse(&r, v, &why) < 0) {
			snprintf(msg, sizeof(msg), "recipients: '%.100s' is no age recipient (age1...): %s", v,
			         why.text);
			rc = where_fail(err, FZ_ECONFIG, o.where, o.line, msg);
		} else
			rc = cmd_list_add(&out, v, strlen(v), &o, err);
	}
	if (rc == 0 && l->n) {
		struct cmd_list old = *l;

		*l = out;
		out = old;
	}
	cmd_list_clear(&out);
	return rc;
}

static int check_target(struct cmd_target *t, struct fz_err *err)
{
	struct fz_store_conf sc = {.region = t->region, .endpoint = t->endpoint};
	struct fz_store *store = NULL;
	struct fz_err why = {0};
	char msg[600];
	int rc;

	if (t->credentials_file && access(t->credentials_file, R_OK) < 0) {
		snprintf(msg, sizeof(msg), "credentials_file: cannot read %s: %s", t->credentials_file,
		         strerror(errno));
		return where_fail(err, FZ_EKEYFILE, t->where, t->line, msg);
	}
	if (!t->access_key != !t->secret_key)
		return where_fail(err, FZ_ECONFIG, t->where, t->line, "access_key and secret_key belong together");
	sc.credentials_file = t->credentials_file;
	sc.access_key = t->access_key;
	sc.secret_key = t->secret_key;
	rc = fz_store_open(&store, t->url, &sc, &why);
	fz_store_close(store);
	if (rc == -FZ_EUSAGE || rc == -FZ_ECONFIG || rc == -FZ_EKEYFILE) {
		snprintf(msg, sizeof(msg), "url: %.300s", why.text);
		return where_fail(err, rc == -FZ_EKEYFILE ? FZ_EKEYFILE : FZ_ECONFIG, t->where, t->line, msg);
	}
	if (rc < 0 && err)
		*err = why;
	return rc < 0 ? rc : expand(&t->recipients, err);
}

static int check_identity(const struct cmd_conf *c, struct fz_err *err)
{
	char msg[600];

	if (!c->identity || access(c->identity, R_OK) == 0)
		return 0;
	snprintf(msg, sizeof(msg), "identity: cannot read the key file %s: %s", c->identity, strerror(errno));
	return where_fail(err, FZ_EKEYFILE, c->identity_where, c->identity_line, msg);
}

static int check_nth_target(struct cmd_conf *c, size_t n, struct fz_err *err)
{
	struct cmd_target *t = &c->targets[n];

	for (size_t i = 0; i < n; i++)
		if (!strcmp(t->url, c->targets[i].url))
			return where_fail(err, FZ_ECONFIG, t->where, t->line, "two targets have the same url");
	return check_target(t, err);
}

int cmd_conf_check_nth(struct cmd_conf *c, size_t n, struct fz_err *err)
{
	switch (n) {
	case 0:
		return expand(&c->recipients, err);
	case 1:
		return check_identity(c, err);
	case 2:
		return cmd_link_check(c, err);
	case 3:
		return cmd_alertsend_check(c, err);
	case 4:
		return cmd_http_check(c, err);
	default:
		return n - 5 < c->n_targets ? check_nth_target(c, n - 5, err) : 1;
	}
}

int cmd_conf_check(struct cmd_conf *c, struct fz_err *err)
{
	int rc = 0;

	for (size_t n = 0; rc == 0; n++)
		rc = cmd_conf_check_nth(c, n, err);
	return rc < 0 ? rc : 0;
}
