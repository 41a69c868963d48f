#include "store/credentials.h"

#include "base/file.h"
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char root[PATH_MAX];
static const char *const *environment; /* name, value, ..., NULL */

static const char *test_env(const char *name)
{
	for (const char *const *e = environment; *e; e += 2)
		if (strcmp(*e, name) == 0)
			return e[1];
	return strcmp(name, "HOME") == 0 ? root : NULL;
}

static int write_at(const char *name, const char *text)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	return fz_write_file(AT_FDCWD, path, text, strlen(text), 0600, NULL);
}

static int make_home(void **state)
{
	const char *tmp = getenv("TMPDIR");
	char path[PATH_MAX + 32];

	fz_log_init("test", FZ_LOG_ERROR);
	snprintf(root, sizeof(root), "%s/fz-cred-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root))
		return -1;
	snprintf(path, sizeof(path), "%s/.aws", root);
	if (fz_mkdirs(AT_FDCWD, path, 0700, NULL) < 0)
		return -1;
	if (write_at(".aws/credentials",
	             "# comment\n[default]\r\naws_access_key_id = HOME1\r\n"
	             "aws_secret_access_key = s3cr/et+=\r\n\n[work]\naws_access_key_id=WORK\n"
	             "aws_secret_access_key=ws\naws_session_token=wt==\n[half]\naws_access_key_id=HALF\n") < 0)
		return -1;
	if (write_at(".aws/config",
	             "[default]\nregion = eu-north-1\ns3 =\n  region = nested\n[profile work]\n"
	             "region=us-west-2\n[profile conf]\naws_access_key_id = CONF\naws_secret_access_key = cs\n") < 0)
		return -1;
	return write_at("bare", "export AWS_ACCESS_KEY_ID=BARE\nAWS_SECRET_ACCESS_KEY=\"bs\"\n[work]\n"
	                        "aws_access_key_id=FILEWORK\n");
}

static int remove_home(void **state)
{
	return fz_remove_tree(AT_FDCWD, root, NULL);
}

static void the_first_complete_place_wins(void **state)
{
	static const char *const none[] = {NULL};
	static const char *const keys[] = {"AWS_ACCESS_KEY_ID", "ENV", "AWS_SECRET_ACCESS_KEY", "es", NULL};
	static const char *const token[] = {
	        "AWS_ACCESS_KEY_ID", "ENV", "AWS_SECRET_ACCESS_KEY", "es", "AWS_SESSION_TOKEN", "et", NULL};
	static const char *const half[] = {"AWS_ACCESS_KEY_ID", "ENV", NULL};
	static const char *const profile[] = {"AWS_PROFILE", "work", NULL};
	static const char *const moved[] = {"AWS_SHARED_CREDENTIALS_FILE", "/nonexistent", "AWS_CONFIG_FILE",
	                                    "/nonexistent", NULL};
	char bare[PATH_MAX + 32], missing[PATH_MAX + 32];
	const struct {
		const char *const *env;
		struct fz_store_conf conf;
		const char *url_file, *url_profile;
		const char *access, *secret, *session, *region; /* access NULL = refused */
	} t[] = {
	        {none,    {0},	                                         NULL,    NULL,     "HOME1", "s3cr/et+=", NULL,   "eu-north-1"},
	        {keys,    {0},	                                         NULL,    NULL,     "ENV",   "es",        NULL,   "eu-north-1"},
	        {token,   {0},	                                         NULL,    NULL,     "ENV",   "es",        "et",   "eu-north-1"},
	        {half,    {0},	                                         NULL,    NULL,     "HOME1", "s3cr/et+=", NULL,   "eu-north-1"},
	        {profile, {0},	                                         NULL,    NULL,     "WORK",  "ws",        "wt==", "us-west-2" },
	        {none,    {0},	                                         NULL,    "work",   "WORK",  "ws",        "wt==", "us-west-2" },
	        {keys,    {0},	                                         NULL,    "work",   "WORK",  "ws",        "wt==", "us-west-2" }, /* asked for by name */
	        {none,    {.profile = "conf"},                                 NULL,    "work",   "CONF",  "cs",        NULL,   NULL        },
	        {none,    {0},	                                         NULL,    "half",   NULL,    NULL,        NULL,   NULL        },
	        {none,    {0},	                                         NULL,    "nobody", NULL,    NULL,        NULL,   NULL        },
	        {keys,    {.access_key = "CFG", .secret_key = "cfgs"},         NULL,    NULL,     "CFG",   "cfgs",      NULL,   "eu-north-1"},
	        {keys,    {0},	                                         bare,    NULL,     "BARE",  "bs",        NULL,   "eu-north-1"},
	        {keys,    {.credentials_file = bare},                          missing, NULL,     "BARE",  "bs",        NULL,   "eu-north-1"},
	        {keys,    {0},	                                         missing, NULL,     NULL,    NULL,        NULL,   NULL        }, /* no substitute for what was named */
	        {moved,   {0},	                                         NULL,    NULL,     NULL,    NULL,        NULL,   NULL        },
	        {none,    {.access_key = "A\r\nX-Evil: 1", .secret_key = "s"}, NULL,    NULL,     NULL,    NULL,        NULL,   NULL        },
	};

	snprintf(bare, sizeof(bare), "%s/bare", root);
	snprintf(missing, sizeof(missing), "%s/missing", root);
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct store_credentials c = {0};
		struct fz_err err = {0};
		int rc;

		print_message("  row %zu\n", i);
		environment = t[i].env;
		rc = store_credentials_load(&c, &t[i].conf, t[i].url_file, t[i].url_profile, test_env, &err);
		if (!t[i].access) {
			assert_int_equal(rc, -FZ_ECONFIG);
			assert_null(c.secret_key);
			continue;
		}
		assert_int_equal(rc, 0);
		assert_string_equal(c.access_key, t[i].access);
		assert_string_equal(c.secret_key, t[i].secret);
		assert_int_equal(c.session_token != NULL, t[i].session != NULL);
		if (t[i].session)
			assert_string_equal(c.session_token, t[i].session);
		assert_int_equal(c.region != NULL, t[i].region != NULL);
		if (t[i].region)
			assert_string_equal(c.region, t[i].region);
		store_credentials_fini(&c);
		assert_null(c.secret_key);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(the_first_complete_place_wins),
	};

	return cmocka_run_group_tests(tests, make_home, remove_home);
}
