/* Trying a store: every step by its effect, each failure named, nothing left behind; the kernel; and the configuration that init writes. */
#include "cmd/probe.h"

#include "base/file.h"
#include "cmd/config.h"
#include "cmd/setup.h"
#include "store/store.h"
#include "tests/unit/tmp.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[512];

static struct fz_store *open_store(void)
{
	struct fz_store_conf conf = {.create = true};
	struct fz_err err = {0};
	struct fz_store *s;
	char url[600];

	snprintf(url, sizeof(url), "dir:%s/store", dir);
	assert_int_equal(fz_store_open(&s, url, &conf, &err), 0);
	return s;
}

static size_t objects(void)
{
	struct fz_store *s = open_store();
	struct fz_store_list l = {0};
	struct fz_err err = {0};
	size_t n;

	assert_int_equal(fz_store_list(s, "", NULL, false, &l, &err), 0);
	n = l.n;
	fz_store_list_fini(&l);
	fz_store_close(s);
	return n;
}

static void well(void **state)
{
	struct fz_store *s = open_store();
	struct cmd_probe_store r;

	cmd_probe_store(s, &r);
	for (int i = 0; i < CMD_PROBE_STEPS; i++)
		if (!r.step[i].done || !r.step[i].ok)
			fail_msg("%s: %s", cmd_probe_name((enum cmd_probe_step)i), r.step[i].err.text);
	assert_null(cmd_probe_failed(&r, false));
	assert_string_equal(r.conditional_put, "native");
	fz_store_close(s);
	assert_int_equal(objects(), 0);
}

/* Each call of the store fails in turn: some step says so, with the store's code. */
static void each_call_fails(void **state)
{
	bool fired = true, seen[CMD_PROBE_STEPS] = {0};

	for (uint64_t n = 1; fired; n++) {
		struct fz_store *s = NULL;
		struct cmd_probe_store r;
		struct fz_err err = {0};
		int failed = -1;

		fired = false;
		assert_int_equal(fz_store_fault(&s, open_store(), n, -FZ_EAUTH, false, &fired, &err), 0);
		cmd_probe_store(s, &r);
		fz_store_close(s);
		for (int i = 0; i < CMD_PROBE_STEPS && failed < 0; i++)
			if (r.step[i].done && !r.step[i].ok)
				failed = i;
		if (fired != (failed >= 0))
			fail_msg("call %d: fired %d, failed step %d", (int)n, fired, failed);
		if (fired) {
			assert_int_equal(r.step[failed].err.code, -FZ_EAUTH);
			seen[failed] = true;
			assert_true((cmd_probe_failed(&r, false) != NULL) == (failed != CMD_PROBE_SWAP));
			assert_true((cmd_probe_failed(&r, true) != NULL) ==
			            (failed != CMD_PROBE_SWAP && failed != CMD_PROBE_DELETE));
		}
		assert_true(n < 100);
	}
	for (int i = 0; i < CMD_PROBE_STEPS; i++)
		assert_true(seen[i]);
}

static void kernel(void **state)
{
	struct cmd_probe_kernel k;
	struct stat a, b;

	assert_int_equal(stat("/tmp", &a), 0);
	cmd_probe_kernel(dir, &k);
	assert_true(k.release[0]);
	if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		return; /* the scenarios need both */
	assert_true(k.device && k.mounts);
	assert_int_equal(k.major, 7);
	assert_true(k.minor >= 31);
	assert_true(k.passthrough || !k.passthrough_works);
	assert_true(k.resend || !k.resend_works);
	assert_int_equal(stat("/tmp", &b), 0); /* the child's mount was its own */
	assert_true(a.st_dev == b.st_dev);
}

/* The file that init writes can be read; and with all its comments taken away too. */
static void text(void **state)
{
	static const char long_url[] =
	        "s3://bucket/a/rather/long/prefix/that/needs/more/than/one/line/of/the/file?endpoint="
	        "http://some.host.example.com:9000&region=eu-central-1&path-style=yes";
	struct cmd_setup s = {.config = "/etc/fazt/x.conf"};

	snprintf(s.where.dir, sizeof(s.where.dir), "/var/lib/app");
	snprintf(s.credentials, sizeof(s.credentials), "/etc/fazt/x.credentials");
	for (int i = 0; i < 8; i++) {
		struct fz_buf b = {0}, bare = {0};
		struct fz_err err = {0};
		struct cmd_conf c;

		s.targets.n = s.recipients.n = 0;
		s.encrypt = i & 4 ? "none" : NULL;
		if (i & 1)
			s.targets.v[s.targets.n++] = long_url;
		if (i & 2)
			s.targets.v[s.targets.n++] = "dir:/backup";
		if (!(i & 4))
			s.recipients.v[s.recipients.n++] =
			        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
		assert_int_equal(cmd_setup_text(&s, &b, &err), 0);
		cmd_conf_init(&c);
		if (cmd_conf_parse(&c, fz_buf_str(&b), b.size, "x", &err) < 0)
			fail_msg("%s in\n%s", err.text, fz_buf_str(&b));
		assert_int_equal(c.n_targets, (size_t)(i & 1) + (i & 2 ? 1 : 0));
		if (i & 1) {
			assert_string_equal(c.targets[0].url, long_url);
			assert_string_equal(c.targets[0].credentials_file, "/etc/fazt/x.credentials");
		}
		assert_int_equal(c.recipients.n, s.recipients.n);
		cmd_conf_fini(&c);
		for (const char *p = fz_buf_str(&b); *p;) {
			size_t n = strcspn(p, "\n");

			if (*p == '#' && p[1] != ' ')
				p++, n--;
			assert_int_equal(fz_buf_addf(&bare, "%.*s\n", (int)n, p), 0);
			p += n + (p[n] == '\n');
		}
		cmd_conf_init(&c);
		if (cmd_conf_parse(&c, fz_buf_str(&bare), bare.size, "x", &err) < 0)
			fail_msg("%s in\n%s", err.text, fz_buf_str(&bare));
		cmd_conf_fini(&c);
		fz_buf_fini(&b);
		fz_buf_fini(&bare);
	}
}

static int make(void **state)
{
	return tmp_make(dir, sizeof(dir), "probe") ? 0 : -1;
}

static int drop(void **state)
{
	struct fz_err err = {0};

	return fz_remove_tree(AT_FDCWD, dir, &err);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(well), cmocka_unit_test(each_call_fails),
	                                   cmocka_unit_test(kernel), cmocka_unit_test(text)};

	return cmocka_run_group_tests(tests, make, drop);
}
