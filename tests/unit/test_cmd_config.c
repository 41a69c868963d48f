/* The configuration: every key, every refusal with file and line, the rising order, and the way back into a file. */
#include "cmd/config.h"

#include "base/file.h"
#include "cmd/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define R1 "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
#define R2 "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"

static int parse(struct cmd_conf *c, const char *text, struct fz_err *err)
{
	cmd_conf_init(c);
	return cmd_conf_parse(c, text, strlen(text), "f.conf", err);
}

static const struct refusal {
	const char *name, *text, *says;
} refusals[] = {
        {"unknown key",             "[mount]\n\nlog_maxx = 1G\n",                                                  "f.conf:3: unknown key 'log_maxx' in [mount]"       },
        {"unknown key of a target", "[target a]\nurl = dir:/x\nship = 1s\n",
         "f.conf:3: unknown key 'ship' in [target a]"                                                                                                                  },
        {"unknown section",         "[mont]\nstate = /x\n",                                                        "f.conf:2: unknown section [mont]"                  },
        {"no section",              "state = /x\n",                                                                "f.conf:1: 'state' stands before the first section" },
        {"target without a name",   "[target]\nurl = dir:/x\n",                                                    "f.conf:2: a target needs a name"                   },
        {"target without a url",    "\n[target a]\nregion = x\n",                                                  "f.conf:3: target a has no url"                     },
        {"bad duration",            "[target a]\nurl = dir:/x\nship_interval = soon\n",                            "f.conf:3: ship_interval: 'soon'"                   },
        {"zero duration",           "[target a]\nurl = dir:/x\nship_interval = 0\n",                               "f.conf:3: ship_interval: must not be 0"            },
        {"bad size",                "[mount]\nlog_max = much\n",                                                   "f.conf:2: log_max: 'much'"                         },
        {"negative size",           "[mount]\nlog_max = -5\n",                                                     "f.conf:2: log_max: '-5'"                           },
        {"bad bool",                "[mount]\ntake_over = maybe\n",                                                "f.conf:2: take_over: 'maybe' is neither yes nor no"},
        {"bad count",               "[target a]\nurl = dir:/x\nrequests_per_month = 1e6\n",                        "f.conf:3: requests_per_month: '1e6'"               },
        {"relative path",           "[mount]\nstate = var/x\n",                                                    "f.conf:2: state: 'var/x' is no absolute path"      },
        {"bad encrypt",             "[encrypt]\nencrypt = aes\n",                                                  "f.conf:2: encrypt: 'aes' is neither age nor none"  },
        {"bad level",               "[mount]\nlog_level = loud\n",                                                 "f.conf:2: log_level: 'loud'"                       },
        {"no value",                "[mount]\nstate =\n",                                                          "f.conf:2: state has no value"                      },
        {"twice",                   "[mount]\nlog_max = 1G\nlog_max = 2G\n",                                       "f.conf:3: log_max is given twice"                  },
        {"number over two lines",   "[mount]\nlog_max = 1\n  0G\n",                                                "f.conf:3: log_max takes one line only"             },
        {"neither key nor section", "[mount]\njust words\n",                                                       "f.conf:2: neither [section] nor key = value"       },
        {"long section",            "[target aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeee]\nurl = dir:/x\n",
         "f.conf:2: the section's name is longer"                                                                                                                      },
        {"unclosed section",        "[mount\nstate = /x\n",                                                        "f.conf:1: neither [section]"                       },
};

static void refused(void **state)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		struct fz_err err = {0};
		struct cmd_conf c;
		int rc = parse(&c, refusals[i].text, &err);

		if (rc != -FZ_ECONFIG || strncmp(err.text, refusals[i].says, strlen(refusals[i].says)))
			fail_msg("%s: %d %s", refusals[i].name, rc, err.text);
		cmd_conf_fini(&c);
	}
}

static void long_line(void **state)
{
	char text[400] = "[mount]\nstate = /";
	struct fz_err err = {0};
	struct cmd_conf c;

	memset(text + strlen(text), 'a', 250);
	assert_int_equal(parse(&c, text, &err), -FZ_ECONFIG);
	assert_non_null(strstr(err.text, "f.conf:2: the line is longer"));
	cmd_conf_fini(&c);
	cmd_conf_init(&c);
	assert_int_equal(cmd_conf_parse(&c, "[mount]\nsta\0te = /x\n", 19, "f.conf", &err), -FZ_ECONFIG);
	assert_non_null(strstr(err.text, "f.conf:2: the file holds a NUL byte"));
	cmd_conf_fini(&c);
}

static void values(void **state)
{
	struct fz_err err = {0};
	struct cmd_conf c;
	int rc = parse(&c,
	               "; comment\n[mount]\nstate = /var/a\n  bc\nlog_max = 2G\nscrub_rate = off\nno_resend = yes\n"
	               "databases = *.sqlite\n  my data/x.db\ndatabases = y ; comment\nstop_grace = 3s\n"
	               "[encrypt]\nrecipients = " R1 "\n  " R2 "\n"
	               "[target off site]\nurl = s3://b/p?region=r\nkeep_days = forever\nship_interval = "
	               "500ms\nappend_only = on\n"
	               "[target two]\nurl = dir:/b\nencrypt = none\n[target off site]\nrequests_per_month = 1000000\n",
	               &err);

	if (rc < 0)
		fail_msg("%s", err.text);
	assert_string_equal(c.state, "/var/abc");
	assert_int_equal(c.log_max, 2ull << 30);
	assert_true(c.scrub_rate == UINT64_MAX);
	assert_true(c.no_resend && !c.no_passthrough);
	assert_int_equal(c.databases.n, 3);
	assert_string_equal(c.databases.v[1], "my data/x.db");
	assert_string_equal(c.databases.v[2], "y");
	assert_int_equal(c.stop_grace_ms, 3000);
	assert_int_equal(c.recipients.n, 2);
	assert_string_equal(c.recipients.v[1], R2);
	assert_int_equal(c.n_targets, 2);
	assert_string_equal(c.targets[0].name, "off site");
	assert_int_equal(c.targets[0].keep_days_ms, -1);
	assert_int_equal(c.targets[0].ship_interval_ms, 500);
	assert_int_equal(c.targets[0].requests_per_month, 1000000);
	assert_true(c.targets[0].append_only);
	assert_true(cmd_target_encrypted(&c, &c.targets[0]));
	assert_false(cmd_target_encrypted(&c, &c.targets[1]));
	assert_ptr_equal(cmd_target_recipients(&c, &c.targets[0]), &c.recipients);
	cmd_conf_fini(&c);
}

static void rising_order(void **state)
{
	const char *env[] = {"FAZT_LOG_MAX=3G",
	                     "HOME=/root",
	                     "FAZT_TARGETS=dir:/env1 dir:/env2",
	                     "FAZT_ENCRYPT=none",
	                     "FAZT_DATABASES=env.db",
	                     "FAZT_TEST_ANYTHING=1",
	                     "FAZT_STATE=",
	                     NULL};
	struct fz_err err = {0};
	struct cmd_conf c;

	assert_int_equal(
	        parse(&c,
	              "[mount]\nlog_max = 1G\nstate = /file\ndatabases = file.db\nexclude = e\n[target f]\nurl = "
	              "dir:/file\n",
	              &err),
	        0);
	if (cmd_conf_env(&c, (char **)env, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(c.log_max, 3ull << 30);
	assert_string_equal(c.state, "/file"); /* an empty variable is none */
	assert_string_equal(c.encrypt, "none");
	assert_int_equal(c.databases.n, 1);
	assert_string_equal(c.databases.v[0], "env.db");
	assert_string_equal(c.exclude.v[0], "e");
	assert_int_equal(c.n_targets, 2);
	assert_string_equal(c.targets[1].url, "dir:/env2");
	assert_int_equal(c.n_warnings, 0);
	assert_int_equal(cmd_conf_flag(&c, "--target", "target", "url", "dir:/flag1", &err), 0);
	assert_int_equal(cmd_conf_flag(&c, "--target", "target", "url", "dir:/flag2", &err), 0);
	assert_int_equal(cmd_conf_flag(&c, "--encrypt", "encrypt", "encrypt", "age", &err), 0);
	assert_int_equal(c.n_targets, 2);
	assert_string_equal(c.targets[0].url, "dir:/flag1");
	assert_string_equal(c.encrypt, "age");
	assert_int_equal(cmd_conf_flag(&c, "--encrypt", "encrypt", "encrypt", "rot13", &err), -FZ_ECONFIG);
	assert_non_null(strstr(err.text, "--encrypt: encrypt: 'rot13'"));
	cmd_conf_fini(&c);
}

static void environment_refused(void **state)
{
	const char *bad[] = {"FAZT_LOG_MAX=lots", NULL}, *unknown[] = {"FAZT_LOGMAX=1G", NULL};
	struct fz_err err = {0};
	struct cmd_conf c;

	cmd_conf_init(&c);
	assert_int_equal(cmd_conf_env(&c, (char **)bad, &err), -FZ_ECONFIG);
	assert_non_null(strstr(err.text, "FAZT_LOG_MAX: log_max: 'lots'"));
	assert_int_equal(cmd_conf_env(&c, (char **)unknown, &err), 0);
	assert_int_equal(c.n_warnings, 1);
	cmd_conf_fini(&c);
}

/* parse -> format -> parse -> format: nothing is lost, long values included. */
static void round_trip(void **state)
{
	static const char text[] =
	        "[mount]\nstate = /var/lib/x\ndatabases = *.db\ndatabases = a b.sqlite\nlog_max = "
	        "123456789\nscrub_rate = off\n"
	        "no_passthrough = yes\nlog_level = debug\nlog_file = /l\nlog_format = json\ndisk_min = 7M\nalert_url = "
	        "https://x/y\nalert_url = /a/b\nalert_secret = /s\n"
	        "alert_headers = /h\nalert_cacert = /ca\nalert_interval = 2h\nalert_timeout = 3s\nlog_file_max = "
	        "3M\nstop_grace = 2s\n"
	        "[encrypt]\nencrypt = age\nrecipients = " R1 " " R2 "\nidentity = /k\n"
	        "[link]\nrole = replica\nfollow = s3://b/p?region=r\nfollow_interval = 750ms\n"
	        "[target one]\nurl = s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=r&path-style=yes\n"
	        "recipients = " R2 "\nship_interval = 250ms\nship_bytes = 1M\nminute = 2s\nhour = 4s\nday = 8s\n"
	        "snapshot_interval = 1h\nkeep_commits = 1d\nkeep_minutes = forever\nkeep_hours = 2d\nkeep_days = 3d\n"
	        "keep_bytes = 9G\ndelete_grace = 5m\nrequests_per_month = 77\nappend_only = yes\nlag_max = 9s\ntimeout "
	        "= 8s\n"
	        "region = r\nendpoint = http://e\nprofile = p\ncredentials_file = /c\naccess_key = AK\nsecret_key = "
	        "SK\n"
	        "[target two]\nurl = dir:/two\nencrypt = none\n";
	char token[1200];
	struct fz_buf once = {0}, twice = {0};
	struct fz_err err = {0};
	struct cmd_conf c, d;

	assert_int_equal(parse(&c, text, &err), 0);
	for (size_t i = 0; i < sizeof(token) - 1; i++) /* a session token is long */
		token[i] = "abc/+=ABC"[i % 9];
	token[sizeof(token) - 1] = 0;
	c.targets[0].session_token = strdup(token);
	assert_int_equal(cmd_conf_format(&c, &once, &err), 0);
	if (parse(&d, fz_buf_str(&once), &err) < 0)
		fail_msg("%s\n%s", err.text, fz_buf_str(&once));
	assert_int_equal(cmd_conf_format(&d, &twice, &err), 0);
	assert_string_equal(fz_buf_str(&once), fz_buf_str(&twice));
	assert_string_equal(d.targets[0].session_token, token);
	assert_string_equal(d.targets[0].url, c.targets[0].url);
	assert_string_equal(d.follow, "s3://b/p?region=r");
	assert_int_equal(d.follow_interval_ms, 750);
	assert_int_equal(d.targets[0].keep_minutes_ms, -1);
	assert_int_equal(d.targets[0].keep_days_ms, 3 * 86400000ll);
	assert_string_equal(d.databases.v[1], "a b.sqlite");
	assert_int_equal(d.recipients.n, 2);
	cmd_conf_fini(&c);
	cmd_conf_fini(&d);
	fz_buf_fini(&once);
	fz_buf_fini(&twice);
}

static void not_writable(void **state)
{
	static const char *const values[] = {"/a\nb", "/a ;b", "/a "};
	struct fz_buf out = {0};
	struct fz_err err = {0};
	struct cmd_conf c;

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		cmd_conf_init(&c);
		assert_int_equal(cmd_conf_flag(&c, "--state", "mount", "state", values[i], &err), 0);
		assert_int_equal(cmd_conf_format(&c, &out, &err), -FZ_ECONFIG);
		cmd_conf_fini(&c);
	}
	fz_buf_fini(&out);
}

/* ---- what only looking outside can tell ---- */

struct dir {
	char path[64];
};

static int make_dir(void **state)
{
	struct dir *d = calloc(1, sizeof(*d));

	snprintf(d->path, sizeof(d->path), "/tmp/fazt-conf-XXXXXX");
	*state = d;
	return mkdtemp(d->path) ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct dir *d = *state;
	int rc = fz_remove_tree(AT_FDCWD, d->path, NULL);

	free(d);
	return rc;
}

static void put(const struct dir *d, const char *name, const char *text, mode_t mode)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", d->path, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
	assert_true(fd >= 0);
	assert_int_equal(fz_write(fd, text, strlen(text)), 0);
	close(fd);
}

static void checks(void **state)
{
	static const struct {
		const char *name, *text;
		int want;
		const char *says;
	} rows[] = {
	        {"all well",                     "[encrypt]\nrecipients = " R1 "\n[target a]\nurl = dir:/x\n",               0,            ""                               },
	        {"recipients from a file",       "[encrypt]\nrecipients = %s/good\n",                                        0,            ""                               },
	        {"recipients file missing",      "[encrypt]\nrecipients = %s/none\n",                                        -FZ_EKEYFILE,
	         "f.conf:2: recipients: cannot read the key file"	                                                                                                   },
	        {"recipients file without one",  "[encrypt]\n\nrecipients = %s/empty\n",                                     -FZ_EKEYFILE, "f.conf:3: "                     },
	        {"recipients file with rubbish", "[encrypt]\nrecipients = %s/bad\n",                                         -FZ_EKEYFILE, "f.conf:2: "                     },
	        {"no recipient",                 "[encrypt]\nrecipients = age1qqq\n",                                        -FZ_ECONFIG,  "f.conf:2: recipients: 'age1qqq'"},
	        {"an identity as recipient",     "[encrypt]\nrecipients = AGE-SECRET-KEY-1QQQ\n",                            -FZ_ECONFIG,
	         "f.conf:2: recipients: this is a secret key"	                                                                                                       },
	        {"identity missing",             "[encrypt]\nidentity = %s/none\n",                                          -FZ_EKEYFILE,
	         "f.conf:2: identity: cannot read"	                                                                                                                  },
	        {"credentials missing",          "[target a]\nurl = s3://b/p\ncredentials_file = %s/none\n",                 -FZ_EKEYFILE,
	         "f.conf:2: credentials_file: cannot read"	                                                                                                          },
	        {"half of the credentials",      "[target a]\nurl = s3://b/p\naccess_key = x\n",                             -FZ_ECONFIG,
	         "f.conf:2: access_key and secret_key"	                                                                                                              },
	        {"bad url",                      "[target a]\nurl = ftp://x\n",                                              -FZ_ECONFIG,  "f.conf:2: url: "                },
	        {"relative directory",           "[target a]\nurl = dir:x\n",                                                -FZ_ECONFIG,  "f.conf:2: url: "                },
	        {"a replica of a store",         "[link]\nrole = replica\nfollow = dir:/x\n",                                0,            ""                               },
	        {"a replica of nobody",          "[link]\nrole = replica\n",                                                 -FZ_ECONFIG,  "a replica needs the address"    },
	        {"half of a primary",            "[link]\nrole = replica\nfollow = dir:/x\nprimary = h:1\n",                 -FZ_ECONFIG,
	         "a replica needs the address"	                                                                                                                      },
	        {"a primary that follows",       "[link]\nfollow = dir:/x\n",                                                -FZ_ECONFIG,  "a primary follows nobody"       },
	        {"a store that is none",         "[link]\nrole = replica\nfollow = ftp://x\n",                               -FZ_ECONFIG,  "follow: "                       },
	        {"no key for the store",         "[encrypt]\nidentity = %s/open\n[link]\nrole = replica\nfollow = dir:/x\n",
	         -FZ_EKEYFILE,	                                                                                                     ""                               },
	        {"same url twice",               "[target a]\nurl = dir:/x\n[target b]\nurl = dir:/x\n",                     -FZ_ECONFIG,
	         "f.conf:4: two targets"	                                                                                                                            },
	};
	const struct dir *d = *state;

	put(d, "good", "# comment\n" R1 "\n\n" R2 "\n", 0644);
	put(d, "open", "# an identity that all can read\n", 0644);
	put(d, "empty", "# comment\n", 0644);
	put(d, "bad", R1 "\nrubbish\n", 0644);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct fz_err err = {0};
		struct cmd_conf c;
		char text[500];
		int rc;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(text, sizeof(text), rows[i].text, d->path);
#pragma GCC diagnostic pop
		assert_int_equal(parse(&c, text, &err), 0);
		rc = cmd_conf_check(&c, &err);
		if (rc != rows[i].want || strncmp(err.text, rows[i].says, strlen(rows[i].says)))
			fail_msg("%s: %d %s", rows[i].name, rc, err.text);
		if (strstr(rows[i].text, "good"))
			assert_int_equal(c.recipients.n, 2);
		cmd_conf_fini(&c);
	}
}

static void files(void **state)
{
	const struct dir *d = *state;
	char path[128];
	struct fz_err err = {0};
	struct cmd_conf c;

	cmd_conf_init(&c);
	snprintf(path, sizeof(path), "%s/missing", d->path);
	assert_int_equal(cmd_conf_read(&c, path, &err), -FZ_ECONFIG);
	cmd_conf_fini(&c);
	put(d, "conf", "[target a]\nurl = s3://b/p\naccess_key = a\nsecret_key = geheim\n", 0644);
	snprintf(path, sizeof(path), "%s/conf", d->path);
	assert_int_equal(cmd_conf_read(&c, path, &err), -FZ_ECONFIG);
	assert_non_null(strstr(err.text, "others can read it"));
	assert_null(strstr(err.text, "geheim"));
	cmd_conf_fini(&c);
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(cmd_conf_read(&c, path, &err), 0);
	cmd_conf_fini(&c);
}

/* A target is encrypted unless that was written; the key comes from where one lies, or is made once. */
static void default_key(void **state)
{
	const struct dir *d = *state;
	struct ltx_age_recipient r;
	struct fz_err err = {0};
	struct cmd_conf c;
	char first[80], path[128], other[140];
	struct stat st;
	int dirfd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool made;

	assert_true(dirfd >= 0);
	assert_int_equal(parse(&c, "[target a]\nurl = dir:/x\nencrypt = none\n", &err), 0);
	assert_int_equal(cmd_key_default(&c, dirfd, d->path, false, &made, &err), 0);
	assert_false(made);
	assert_int_equal(c.recipients.n, 0);
	cmd_conf_fini(&c);
	if (access(CMD_ETC "/" CMD_IDENTITY, F_OK) == 0 || access(CMD_ETC "/" CMD_RECIPIENT, F_OK) == 0) {
		print_message("this machine has a key in " CMD_ETC ": it would be taken\n");
		return;
	}
	assert_int_equal(parse(&c, "[target a]\nurl = dir:/x\n", &err), 0);
	assert_int_equal(cmd_key_default(&c, dirfd, d->path, true, &made, &err), 0); /* a look */
	assert_true(made);
	assert_string_equal(c.recipients.v[0], CMD_KEY_TO_MAKE);
	assert_int_equal(cmd_key_find(dirfd, d->path, &r, &err), -FZ_ENOTFOUND);
	cmd_conf_fini(&c);
	assert_int_equal(parse(&c, "[target a]\nurl = dir:/x\n", &err), 0);
	if (cmd_key_default(&c, dirfd, d->path, false, &made, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(made);
	assert_int_equal(c.recipients.n, 1);
	snprintf(first, sizeof(first), "%s", c.recipients.v[0]);
	cmd_conf_fini(&c);
	snprintf(path, sizeof(path), "%s/" CMD_IDENTITY, d->path);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* again, and after the identity was taken away: the same recipient */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(parse(&c, "[target a]\nurl = dir:/x\n", &err), 0);
		assert_int_equal(cmd_key_default(&c, dirfd, d->path, false, &made, &err), 0);
		assert_false(made);
		assert_string_equal(c.recipients.v[0], first);
		cmd_conf_fini(&c);
		unlink(path);
	}
	assert_int_equal(cmd_key_find(dirfd, d->path, &r, &err), 0);
	/* what somebody else may have put there */
	snprintf(path, sizeof(path), "%s/" CMD_RECIPIENT, d->path);
	snprintf(other, sizeof(other), "%s.moved", path);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(chmod(i ? d->path : path, i ? 0777 : 0664), 0);
		if (i == 2) {
			assert_int_equal(chmod(d->path, 0700), 0);
			assert_int_equal(rename(path, other), 0);
			assert_int_equal(symlink(other, path), 0);
		}
		assert_int_equal(cmd_key_find(dirfd, d->path, &r, &err), -FZ_EKEYFILE);
		assert_non_null(strstr(err.text, i == 2 ? "symbolic link" : "by others"));
		assert_int_equal(chmod(i == 1 ? d->path : path, i == 1 ? 0700 : 0644), 0);
	}
	close(dirfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(refused),
	        cmocka_unit_test(long_line),
	        cmocka_unit_test(values),
	        cmocka_unit_test(rising_order),
	        cmocka_unit_test(environment_refused),
	        cmocka_unit_test(round_trip),
	        cmocka_unit_test(not_writable),
	        cmocka_unit_test_setup_teardown(checks, make_dir, remove_dir),
	        cmocka_unit_test_setup_teardown(files, make_dir, remove_dir),
	        cmocka_unit_test_setup_teardown(default_key, make_dir, remove_dir),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
