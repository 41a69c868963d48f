/* What a reload says: each key that differs, targets that come and go, what is fixed, and no secret. */
#include "cmd/change.h"
#include "cmd/given.h"
#include "cmd/reload.h"

#include "base/file.h"
#include "tests/unit/tmp.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct change_case {
	const char *name, *from, *to, *want;
} cases[] = {
        {"the same",       "[mount]\nlog_max = 1G\n",                                          "[mount]\nlog_max = 1024M\n",                    ""                                                                         },
        {"a size",         "[mount]\nlog_max = 1G\n",                                          "[mount]\nlog_max = 1M\n",                       "mount/log_max 1073741824>1048576;"                                        },
        {"to the default", "[mount]\nlog_max = 1G\n",                                          "",                                              "mount/log_max 1073741824>;"                                               },
        {"fixed",          "",                                                                 "[mount]\nstate = /x\nprivate_mount = yes\n",    "mount/state >/x!;mount/private_mount >yes!;"                              },
        {"a list",         "[mount]\nexclude = a\n  b\n",                                      "[mount]\nexclude = a\n  c\n",                   "mount/exclude a, b>a, c;"                                                 },
        {"a role",         "",                                                                 "[link]\nrole = replica\nfailover = auto\n",     "link/role >replica!;link/failover >auto!;"                                },
        {"a target comes", "",                                                                 "[target b]\nurl = dir:/b\nappend_only = yes\n",
         "target/url[b] >dir:/b;target/append_only[b] >yes;"                                                                                                                                                               },
        {"a target goes",  "[target b]\nurl = dir:/b\n",                                       "",                                              "target/url[b] dir:/b>;"                                                   },
        {"another order",  "[target a]\nurl = dir:/a\n[target b]\nurl = dir:/b\n",
         "[target b]\nurl = dir:/b\n[target a]\nurl = dir:/a\n",                                                                                ""                                                                         },
        {"no secret",      "[target a]\nurl = s3://a/b\naccess_key = A\nsecret_key = hush1\n",
         "[target a]\nurl = s3://a/b\naccess_key = A\nsecret_key = hush2\nsession_token = hush3\n",                                             "target/secret_key[a] (secret)>(secret);target/session_token[a] >(secret);"},
};

static void changes(void **state)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct cmd_conf from, to;
		struct fz_err err = {0};
		struct fz_buf got = {0};
		cJSON *list = cJSON_CreateArray();
		const cJSON *c;

		cmd_conf_init(&from);
		cmd_conf_init(&to);
		assert_int_equal(cmd_conf_parse(&from, cases[i].from, strlen(cases[i].from), "from", &err), 0);
		assert_int_equal(cmd_conf_parse(&to, cases[i].to, strlen(cases[i].to), "to", &err), 0);
		assert_int_equal(cmd_change_list(&from, &to, list, &err), 0);
		cJSON_ArrayForEach (c, list) {
			const char *target = cJSON_GetStringValue(cJSON_GetObjectItem(c, "target"));

			assert_int_equal(fz_buf_addf(&got, "%s/%s%s%s%s %s>%s%s;",
			                             cJSON_GetStringValue(cJSON_GetObjectItem(c, "section")),
			                             cJSON_GetStringValue(cJSON_GetObjectItem(c, "key")),
			                             target ? "[" : "", target ? target : "", target ? "]" : "",
			                             cJSON_GetStringValue(cJSON_GetObjectItem(c, "from")),
			                             cJSON_GetStringValue(cJSON_GetObjectItem(c, "to")),
			                             cJSON_GetObjectItem(c, "fixed") ? "!" : ""),
			                 0);
		}
		if (strcmp(fz_buf_str(&got), cases[i].want) != 0)
			fail_msg("%s: %s", cases[i].name, fz_buf_str(&got));
		fz_buf_fini(&got);
		cJSON_Delete(list);
		cmd_conf_fini(&from);
		cmd_conf_fini(&to);
	}
}

/* File, environment and flags come back as they were given; the file is read anew. */
static void given(void **state)
{
	char dir[512], path[600];
	char keep[] = "FAZT_LOG_KEEP=3h", home[] = "HOME=/x", exclude[] = "FAZT_EXCLUDE=x.db";
	char *const env[] = {keep, home, exclude, NULL};
	struct cmd_conf c;
	struct fz_err err = {0};
	uint64_t given_at;
	FILE *f;
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "given"));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	snprintf(path, sizeof(path), "%s/f.conf", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs("[mount]\nlog_keep = 1h\nlog_max = 1G\nlog_level = debug\n", f);
	fclose(f);
	cmd_conf_init(&c);
	assert_int_equal(cmd_given_load(&c, fd, &err), -FZ_ENOTFOUND);
	assert_int_equal(cmd_given_mount(fd), 1);
	cmd_conf_fini(&c);

	cmd_conf_init(&c);
	assert_int_equal(cmd_conf_load(&c, path, &err), 0);
	assert_int_equal(cmd_conf_flag(&c, "--target", "target", "url", "dir:/1", &err), 0);
	assert_int_equal(cmd_conf_flag(&c, "--target", "target", "url", "dir:/2", &err), 0);
	assert_int_equal(cmd_conf_flag(&c, "--log-level", "mount", "log_level", "error", &err), 0);
	assert_int_equal(cmd_given_save(&c, env, fd, &err), 0);
	cmd_conf_fini(&c);

	f = fopen(path, "w");
	assert_non_null(f);
	fputs("[mount]\nlog_max = 2G\nlog_level = info\n[target x]\nurl = dir:/x\n", f);
	fclose(f);
	given_at = cmd_given_mount(fd);
	assert_true(given_at > 1);
	assert_int_equal(cmd_given_load(&c, fd, &err), 0);
	assert_true(cmd_given_mount(fd) == given_at); /* a reload is of the same mount */
	assert_int_equal(c.log_max, (uint64_t)2 << 30);
	assert_int_equal(c.log_keep_ms, 3 * 3600 * 1000);
	assert_string_equal(c.log_level, "error");
	assert_int_equal(c.n_targets, 2);
	assert_string_equal(c.targets[0].url, "dir:/1");
	assert_string_equal(c.targets[1].url, "dir:/2");
	assert_int_equal(c.exclude.n, 1);
	assert_string_equal(c.exclude.v[0], "x.db");
	cmd_conf_fini(&c);
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, &err), 0);
}

static void put(int fd, const char *name, const char *text)
{
	struct fz_err err = {0};

	assert_int_equal(fz_write_file(fd, name, text, strlen(text), 0600, &err), 0);
}

/* "" = there is none. */
static void holds(int fd, const char *name, const char *text)
{
	struct fz_buf b = {0};
	int rc = fz_read_file(fd, name, 4096, &b, NULL);

	if (rc != (*text ? 0 : -ENOENT) || strcmp(fz_buf_str(&b), text) != 0)
		fail_msg("%s holds '%s' instead of '%s'", name, fz_buf_str(&b), text);
	fz_buf_fini(&b);
}

static int offer(int fd, const char *text)
{
	struct fz_buf b = {0};
	struct fz_err err = {0};
	int held = -1;

	assert_int_equal(fz_buf_addf(&b, "%s", text), 0);
	assert_int_equal(cmd_reload_offer(fd, &b, &held, &err), 0);
	assert_true(held >= 0);
	fz_buf_fini(&b);
	return held;
}

/* A worker serves with what is offered, cannot start with it, or dies before it serves; nothing is offered, or not any more. */
static void offering(void **state)
{
	static const struct {
		const char *name;
		bool offered, killed, taken_back, begins;
		enum { NOTHING, SERVES, FAILS, DIES } then;
		const char *runs, *refused;
	} rows[] = {
	        {"no reload",                      false, false, false, false, NOTHING, "old", ""                                },
	        {"it serves",                      true,  false, false, true,  SERVES,  "new", ""                                },
	        {"it cannot start",                true,  false, false, true,  FAILS,   "old", "why"                             },
	        {"it dies",                        true,  false, false, true,  DIES,    "old", "the worker died before it served"},
	        {"the reload was killed before",   true,  true,  false, false, NOTHING, "old", ""                                },
	        {"the reload took it back before", true,  false, true,  false, NOTHING, "old", ""                                },
	};
	struct fz_err why = {.code = -FZ_EINTERNAL, .text = "why"}, err = {0};
	char dir[512];
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "reload"));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int held = -1;

		print_message("%s\n", rows[i].name);
		put(fd, CMD_CONF_SNAPSHOT, "old");
		cmd_reload_forget(fd);
		if (rows[i].offered)
			held = offer(fd, "new");
		assert_int_equal(cmd_reload_settled(fd), !rows[i].offered);
		holds(fd, CMD_CONF_SNAPSHOT, "old");
		if (rows[i].killed) {
			close(held);
			held = -1;
		}
		if (rows[i].taken_back)
			assert_true(cmd_reload_take_back(fd));
		assert_int_equal(cmd_reload_begin(fd), rows[i].begins);
		assert_false(cmd_reload_take_back(fd)); /* too late, or nothing there */
		holds(fd, CMD_CONF_TRIED, rows[i].begins ? "new" : "");
		holds(fd, CMD_CONF_SNAPSHOT, "old");
		assert_int_equal(cmd_reload_settled(fd), !rows[i].begins);
		assert_int_equal(cmd_reload_wait(fd, 50, &err), rows[i].begins ? -FZ_ETIMEOUT : 0);
		if (rows[i].then == SERVES)
			cmd_reload_done(fd);
		else if (rows[i].then == FAILS)
			cmd_reload_failed(fd, &why);
		else if (rows[i].then == DIES)
			assert_false(cmd_reload_begin(fd)); /* of the next one */
		holds(fd, CMD_CONF_SNAPSHOT, rows[i].runs);
		holds(fd, CMD_CONF_REFUSED, rows[i].refused);
		assert_true(cmd_reload_settled(fd));
		assert_int_equal(cmd_reload_wait(fd, 0, &err), 0);
		if (held >= 0)
			close(held);
	}
	/* what one that was killed in the middle of writing has left does not stand in the way */
	put(fd, CMD_CONF_NEXT ".new", "half of");
	close(offer(fd, "new"));
	holds(fd, CMD_CONF_NEXT, "new");
	/* an offer that is void, and one that a worker died with */
	put(fd, CMD_CONF_TRIED, "died");
	assert_false(cmd_reload_begin(fd));
	holds(fd, CMD_CONF_REFUSED, "the worker died before it served");
	assert_true(cmd_reload_settled(fd));
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(changes), cmocka_unit_test(given),
	                                   cmocka_unit_test(offering)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
