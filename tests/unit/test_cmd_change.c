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

/* A worker serves with the new file, cannot start with it, or dies before it serves; and without a reload nothing happens. */
static void putting_back(void **state)
{
	struct fz_err why = {.code = -FZ_EINTERNAL, .text = "why"}, err = {0};
	char dir[512];
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "reload"));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	put(fd, CMD_CONF_SNAPSHOT, "old");
	cmd_reload_begin(fd);
	cmd_reload_failed(fd, &why);
	cmd_reload_done(fd);
	holds(fd, CMD_CONF_SNAPSHOT, "old");
	holds(fd, CMD_CONF_TRIED, "");
	holds(fd, CMD_CONF_REFUSED, "");
	for (int i = 0; i < 3; i++) {
		put(fd, CMD_CONF_BEFORE, "old");
		put(fd, CMD_CONF_SNAPSHOT, "new");
		cmd_reload_begin(fd);
		holds(fd, CMD_CONF_SNAPSHOT, "new");
		holds(fd, CMD_CONF_BEFORE, "old");
		if (i == 0)
			cmd_reload_done(fd);
		else if (i == 1)
			cmd_reload_failed(fd, &why);
		else
			cmd_reload_begin(fd); /* the first one died */
		holds(fd, CMD_CONF_SNAPSHOT, i == 0 ? "new" : "old");
		holds(fd, CMD_CONF_BEFORE, "");
		holds(fd, CMD_CONF_TRIED, "");
		holds(fd, CMD_CONF_REFUSED, i == 0 ? "" : i == 1 ? "why" : "the worker died before it served");
		(void)unlinkat(fd, CMD_CONF_REFUSED, 0);
	}
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, &err), 0);
}

/* What a reload that ended too early has left: what runs is the former one, unless a worker has begun with the new one. */
static void in_effect(void **state)
{
	struct fz_err err = {0};
	const char *name;
	char dir[512];
	int fd;

	assert_non_null(tmp_make(dir, sizeof(dir), "reload"));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	put(fd, CMD_CONF_SNAPSHOT, "new");
	for (int look = 1; look >= 0; look--) {
		assert_int_equal(cmd_reload_in_effect(fd, look, 0, &name, &err), 0);
		assert_string_equal(name, CMD_CONF_SNAPSHOT);
		holds(fd, CMD_CONF_SNAPSHOT, "new");
	}
	put(fd, CMD_CONF_BEFORE, "old");
	cmd_reload_begin(fd);
	for (int look = 1; look >= 0; look--) {
		assert_int_equal(cmd_reload_in_effect(fd, look, 50, &name, &err), -FZ_ETIMEOUT);
		holds(fd, CMD_CONF_SNAPSHOT, "new");
		holds(fd, CMD_CONF_BEFORE, "old");
	}
	cmd_reload_done(fd);
	put(fd, CMD_CONF_BEFORE, "old");
	assert_int_equal(cmd_reload_in_effect(fd, true, 0, &name, &err), 0);
	assert_string_equal(name, CMD_CONF_BEFORE);
	holds(fd, CMD_CONF_SNAPSHOT, "new");
	holds(fd, CMD_CONF_BEFORE, "old");
	assert_int_equal(cmd_reload_in_effect(fd, false, 0, &name, &err), 0);
	assert_string_equal(name, CMD_CONF_SNAPSHOT);
	holds(fd, CMD_CONF_SNAPSHOT, "old");
	holds(fd, CMD_CONF_BEFORE, "");
	assert_int_equal(cmd_reload_put_back(fd, &err), 0); /* again */
	holds(fd, CMD_CONF_SNAPSHOT, "old");
	close(fd);
	assert_int_equal(fz_remove_tree(AT_FDCWD, dir, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(changes), cmocka_unit_test(given),
	                                   cmocka_unit_test(in_effect), cmocka_unit_test(putting_back)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
