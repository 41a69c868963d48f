#include "store/credentials.h"

#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { FILE_MAX_BYTES = 1 << 20 };

static const char *real_env(const char *name)
{
	return getenv(name);
}

static void wipe(char **s)
{
	if (*s)
		sodium_memzero(*s, strlen(*s));
	free(*s);
	*s = NULL;
}

void store_credentials_fini(struct store_credentials *c)
{
	wipe(&c->access_key);
	wipe(&c->secret_key);
	wipe(&c->session_token);
	wipe(&c->region);
}

static bool complete(const struct store_credentials *c)
{
	return c->access_key && c->secret_key;
}

static int set(char **field, const char *value, size_t n)
{
	if (*field || n == 0)
		return 0;
	*field = strndup(value, n);
	return *field ? 0 : -ENOMEM;
}

static void trim(const char **p, size_t *n)
{
	while (*n > 0 && (**p == ' ' || **p == '\t')) {
		++*p;
		--*n;
	}
	while (*n > 0 && ((*p)[*n - 1] == ' ' || (*p)[*n - 1] == '\t' || (*p)[*n - 1] == '\r'))
		--*n;
}

/* Is "[...]" (brackets cut off) the section asked for? ~/.aws/config writes "profile x". */
static bool is_section(const char *p, size_t n, const char *want)
{
	if (n > 8 && memcmp(p, "profile", 7) == 0 && (p[7] == ' ' || p[7] == '\t')) {
		p += 8;
		n -= 8;
		trim(&p, &n);
	}
	return strlen(want) == n && memcmp(p, want, n) == 0;
}

int store_credentials_parse(struct store_credentials *c, const char *text, const char *section, bool bare)
{
	const struct {
		const char *name;
		char **field;
	} known[] = {
	        {"aws_access_key_id",     &c->access_key   },
	        {"aws_secret_access_key", &c->secret_key   },
	        {"aws_session_token",     &c->session_token},
	        {"region",                &c->region       },
	        {"aws_region",            &c->region       },
	};
	bool wanted = bare;

	while (*text) {
		size_t n = strcspn(text, "\n"), name_n, value_n;
		const char *p = text, *eq, *value;

		text += n + (text[n] == '\n');
		if (n > 0 && (p[0] == ' ' || p[0] == '\t'))
			continue; /* a nested setting (s3 =\n  region = ...) is none of ours */
		trim(&p, &n);
		if (n == 0 || *p == '#' || *p == ';')
			continue;
		if (*p == '[') {
			const char *end = memchr(p, ']', n);
			const char *name = p + 1;

			name_n = end ? (size_t)(end - name) : 0;
			trim(&name, &name_n);
			wanted = is_section(name, name_n, section);
			continue;
		}
		eq = memchr(p, '=', n);
		if (!wanted || !eq)
			continue;
		if (bare && n > 7 && strncmp(p, "export ", 7) == 0) {
			p += 7;
			n -= 7;
		}
		name_n = (size_t)(eq - p);
		value = eq + 1;
		value_n = n - name_n - 1;
		trim(&p, &name_n);
		trim(&value, &value_n);
		if (value_n >= 2 && (*value == '"' || *value == '\'') && value[value_n - 1] == *value) {
			value++;
			value_n -= 2;
		}
		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			if (strlen(known[i].name) == name_n && strncasecmp(known[i].name, p, name_n) == 0 &&
			    set(known[i].field, value, value_n) < 0)
				return -ENOMEM;
	}
	return 0;
}

/* Merges what a file has. Returns -ENOENT when there is none. */
static int load_file(struct store_credentials *c, const char *path, const char *section, bool bare, struct fz_err *err)
{
	struct fz_buf text = {0};
	struct stat st;
	int rc = fz_read_file(AT_FDCWD, path, FILE_MAX_BYTES, &text, err);

	if (rc == 0) {
		if (bare && stat(path, &st) == 0 && (st.st_mode & 077) != 0)
			fz_warn("%s can be read by other users: chmod 600 it", path);
		rc = store_credentials_parse(c, fz_buf_str(&text), section, bare);
		if (rc < 0)
			rc = fz_fail_errno(err, ENOMEM, "reading %s", path);
	}
	if (text.data)
		sodium_memzero(text.data, text.cap);
	fz_buf_fini(&text);
	return rc;
}

/* A key without its secret is no key: the next place is asked. A region found stays. */
static void drop_incomplete(struct store_credentials *c)
{
	if (complete(c))
		return;
	wipe(&c->access_key);
	wipe(&c->secret_key);
	wipe(&c->session_token);
}

static int load_home(struct store_credentials *c, const char *profile, const char *(*env)(const char *),
                     struct fz_err *err)
{
	static const struct {
		const char *variable, *name;
	} files[] = {
	        {"AWS_SHARED_CREDENTIALS_FILE", "credentials"},
	        {"AWS_CONFIG_FILE",             "config"     },
	};

	for (size_t i = 0; i < 2; i++) {
		const char *path = env(files[i].variable), *home = env("HOME");
		struct store_credentials found = {0};
		char *made = NULL;
		int rc;

		if ((!path || !*path) && home && *home && asprintf(&made, "%s/.aws/%s", home, files[i].name) < 0)
			return fz_fail_errno(err, ENOMEM, "looking for credentials");
		if (!path || !*path)
			path = made;
		if (!path)
			continue;
		rc = load_file(&found, path, profile, false, err);
		free(made);
		if (rc == -ENOMEM)
			return rc;
		if (rc < 0 && rc != -ENOENT && rc != -ENOTDIR)
			fz_warn("%s", err ? err->text : "credentials cannot be read");
		drop_incomplete(&found);
		if (!complete(c) && complete(&found)) {
			char *region = c->region ? c->region : found.region;

			if (c->region)
				wipe(&found.region);
			*c = found;
			c->region = region;
			continue;
		}
		if (!c->region) {
			c->region = found.region;
			found.region = NULL;
		}
		store_credentials_fini(&found);
	}
	return 0;
}

int store_credentials_load(struct store_credentials *out, const struct fz_store_conf *conf, const char *url_file,
                           const char *url_profile, const char *(*env)(const char *name), struct fz_err *err)
{
	const char *file = conf->credentials_file ? conf->credentials_file : url_file;
	const char *profile = conf->profile ? conf->profile : url_profile;
	struct store_credentials c = {0};
	struct fz_err why = {0};
	bool named = profile != NULL;
	int rc = 0;

	if (!env)
		env = real_env;
	if (!profile)
		profile = env("AWS_PROFILE");
	if (!profile || !*profile)
		profile = "default";
	if (conf->access_key && conf->secret_key) {
		rc = set(&c.access_key, conf->access_key, strlen(conf->access_key));
		if (rc == 0)
			rc = set(&c.secret_key, conf->secret_key, strlen(conf->secret_key));
		if (rc == 0 && conf->session_token)
			rc = set(&c.session_token, conf->session_token, strlen(conf->session_token));
	} else if (file) { /* named by the user: nothing else is a substitute */
		rc = load_file(&c, file, profile, true, &why);
		if (rc < 0) {
			store_credentials_fini(&c);
			return fz_fail(err, FZ_ECONFIG, "S3 credentials: %s", why.text);
		}
		if (!complete(&c)) {
			store_credentials_fini(&c);
			return fz_fail(err, FZ_ECONFIG,
			               "%s has no aws_access_key_id and aws_secret_access_key for profile \"%s\"", file,
			               profile);
		}
	} else if (!named && env("AWS_ACCESS_KEY_ID") && env("AWS_SECRET_ACCESS_KEY")) {
		const char *token = env("AWS_SESSION_TOKEN");

		rc = set(&c.access_key, env("AWS_ACCESS_KEY_ID"), strlen(env("AWS_ACCESS_KEY_ID")));
		if (rc == 0)
			rc = set(&c.secret_key, env("AWS_SECRET_ACCESS_KEY"), strlen(env("AWS_SECRET_ACCESS_KEY")));
		if (rc == 0 && token)
			rc = set(&c.session_token, token, strlen(token));
		drop_incomplete(&c);
	}
	if (rc == 0 && (!complete(&c) || !c.region))
		rc = load_home(&c, profile, env, &why);
	if (rc < 0) {
		store_credentials_fini(&c);
		return fz_fail_errno(err, ENOMEM, "looking for credentials");
	}
	if (!complete(&c)) {
		store_credentials_fini(&c);
		return fz_fail(
		        err, FZ_ECONFIG,
		        "no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put profile \"%s\" "
		        "into ~/.aws/credentials, or name a file with credentials=",
		        profile);
	}
	/* They go into a header line: a line break would smuggle in another one. */
	if (strpbrk(c.access_key, "\r\n/ ,") || (c.session_token && strpbrk(c.session_token, "\r\n"))) {
		store_credentials_fini(&c);
		return fz_fail(err, FZ_ECONFIG, "the S3 access key or session token has a character it cannot have");
	}
	*out = c;
	return 0;
}
