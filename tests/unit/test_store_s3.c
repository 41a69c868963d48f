/* The S3 store against a real server (versitygw) and against one that misbehaves (fake_s3.py). Both listen on free ports
 * of 127.0.0.1, belong to this program, and end with it. */
#include "store/store.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "tests/unit/store_race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char root[PATH_MAX];

/* ---- servers ------------------------------------------------------------------------------------------------------ */

struct server {
	pid_t pid;
	int port;
	int stdin_fd; /* fake: closing it ends the server */
};

static struct server gw = {.stdin_fd = -1}, fake = {.stdin_fd = -1}, fake_tls = {.stdin_fd = -1};

static int connect_to(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	rc = connect(fd, (struct sockaddr *)&a, sizeof(a));
	close(fd);
	return rc;
}

static int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return -1;
	close(fd);
	return ntohs(a.sin_port);
}

static int start_gw(void)
{
	char dir[PATH_MAX + 8], addr[32];
	const char *argv[] = {"versitygw", "--access", "A",     "--secret", "S", "--quiet",
	                      "--port",    addr,       "posix", dir,        NULL};
	posix_spawn_file_actions_t fa;
	int rc;

	snprintf(dir, sizeof(dir), "%s/gw", root);
	snprintf(addr, sizeof(addr), "127.0.0.1:%d", gw.port);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	rc = posix_spawnp(&gw.pid, "versitygw", &fa, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (rc != 0) {
		fprintf(stderr, "versitygw cannot be started: %s\n", strerror(rc));
		return -1;
	}
	while (connect_to(gw.port) < 0) { /* until it listens or has died */
		if (waitpid(gw.pid, NULL, WNOHANG) != 0)
			return -1;
		nanosleep(&(struct timespec){0, 20 * 1000000}, NULL);
	}
	return 0;
}

static void stop(struct server *s)
{
	if (s->pid > 0) {
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	s->pid = 0;
	fz_close(&s->stdin_fd);
}

static int start_fake(struct server *s, bool tls)
{
	char script[PATH_MAX] = __FILE__, pem[PATH_MAX], line[32] = "";
	const char *python = getenv("PYTHON");
	const char *argv[] = {NULL, script, tls ? pem : NULL, NULL};
	posix_spawn_file_actions_t fa;
	int in[2], out[2], rc;
	size_t n = 0;

	if (!python)
		python = "/usr/bin/python3";
	argv[0] = python; /* the whole path: Python looks for its library beside it */
	strcpy(strrchr(script, '/'), "/fake_s3.py");
	memcpy(pem, script, sizeof(pem));
	strcpy(strrchr(pem, '.'), ".pem");
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return -1;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	rc = posix_spawn(&s->pid, python, &fa, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	close(in[0]);
	close(out[1]);
	s->stdin_fd = in[1];
	while (rc == 0 && n < sizeof(line) - 1 && read(out[0], line + n, 1) == 1 && line[n] != '\n')
		n++;
	close(out[0]);
	s->port = atoi(line);
	return s->port > 0 ? 0 : -1;
}

static int start_all(void **state)
{
	const char *tmp = getenv("TMPDIR");
	char path[PATH_MAX + 16];

	/* nothing of the surroundings may play a part */
	for (char **e = environ; *e;) {
		char name[64];

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(*e, "="), *e);
		if (strncmp(name, "AWS_", 4) == 0 || strcasecmp(name, "http_proxy") == 0 ||
		    strcmp(name, "SSL_CERT_FILE") == 0 || strcmp(name, "CURL_CA_BUNDLE") == 0) {
			unsetenv(name);
			e = environ;
		} else {
			e++;
		}
	}
	setenv("no_proxy", "*", 1);
	signal(SIGPIPE, SIG_IGN);
	fz_log_init("test", FZ_LOG_ERROR);
	snprintf(root, sizeof(root), "%s/fz-s3-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root))
		return -1;
	setenv("HOME", root, 1);
	snprintf(path, sizeof(path), "%s/gw/bucket", root);
	if (fz_mkdirs(AT_FDCWD, path, 0700, NULL) < 0)
		return -1;
	gw.port = free_port();
	return start_gw() < 0 || start_fake(&fake, false) < 0 || start_fake(&fake_tls, true) < 0 ? -1 : 0;
}

static int stop_all(void **state)
{
	stop(&gw);
	stop(&fake);
	stop(&fake_tls);
	return fz_remove_tree(AT_FDCWD, root, NULL);
}

/* ---- helpers ------------------------------------------------------------------------------------------------------ */

static struct fz_store *open_at(const struct server *at, const char *bucket, int64_t timeout_ms)
{
	const struct fz_store_conf conf = {.access_key = "A", .secret_key = "S", .timeout_ms = timeout_ms};
	struct fz_err err = {0};
	struct fz_store *s = NULL;
	char url[256];

	snprintf(url, sizeof(url), "s3://%s/p?endpoint=http://127.0.0.1:%d&region=us-east-1", bucket, at->port);
	if (fz_store_open(&s, url, &conf, &err) < 0)
		fail_msg("%s", err.text);
	return s;
}

#define OK(call)                                                                                                       \
	do {                                                                                                           \
		struct fz_err err = {0}; /* the call names it */                                                       \
		int rc_ = (call);                                                                                      \
		if (rc_ != 0)                                                                                          \
			fail_msg("%s:%d: %d: %s", __FILE__, __LINE__, rc_, err.text);                                  \
	} while (0)

static int put(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc;

	assert_int_equal(fz_src_mem(&src, data, n, NULL), 0);
	rc = fz_store_put(s, key, src, err);
	fz_src_close(src);
	return rc;
}

static int put_text(struct fz_store *s, const char *key, const char *text, struct fz_err *err)
{
	return put(s, key, text, strlen(text), err);
}

static void assert_object(struct fz_store *s, const char *key, const void *data, size_t n)
{
	struct fz_buf b = {0};

	OK(fz_store_get(s, key, n, &b, &err));
	assert_int_equal(b.size, n);
	if (n)
		assert_memory_equal(b.data, data, n);
	fz_buf_fini(&b);
}

static uint64_t retries(struct fz_store *s)
{
	struct fz_store_stats st;

	fz_store_stats(s, &st);
	return st.retries;
}

static void assert_conditional(struct fz_store *s, const char *want)
{
	struct fz_store_stats st;

	fz_store_stats(s, &st);
	assert_string_equal(st.conditional_put, want);
}

static uint8_t *pattern(size_t n)
{
	uint8_t *p = malloc(n);
	uint32_t x = 12345;

	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223;
		p[i] = (uint8_t)(x >> 24);
	}
	return p;
}

/* ---- against versitygw -------------------------------------------------------------------------------------------- */

static void stores_and_reads_back(void **state)
{
	static const char *const keys[] = {"a", "x/y/z", "sp ace/plus+per%cent&amp=eq", "\xc3\xa9/\xe2\x82\xac",
	                                   "~-._!*'()"};
	struct fz_store *s = open_at(&gw, "bucket", 20000);
	struct fz_store_list l = {0};
	struct fz_buf b = {0};
	struct fz_src *src = NULL;
	uint8_t *data = pattern(300000);
	char got[5] = "";

	for (size_t i = 0; i < 5; i++)
		OK(put(s, keys[i], data, 1000 * i, &err));
	for (size_t i = 0; i < 5; i++)
		assert_object(s, keys[i], data, 1000 * i);
	OK(fz_store_list(s, "", NULL, false, &l, &err));
	assert_int_equal(l.n, 5);
	for (size_t i = 0; i < l.n; i++) {
		size_t k = 0;

		while (k < 5 && strcmp(keys[k], l.v[i].key) != 0)
			k++;
		assert_in_range(k, 0, 4);
		assert_int_equal(l.v[i].size_bytes, 1000 * k);
		assert_true(l.v[i].mtime_ms > 1600000000000);
	}
	OK(put(s, "a", data, 300000, &err)); /* replaces */
	assert_object(s, "a", data, 300000);
	assert_int_equal(fz_store_get(s, "a", 1000, &b, NULL), -FZ_ESTORE);
	assert_int_equal(fz_store_get(s, "none", 1000, &b, NULL), -FZ_ENOTFOUND);
	assert_int_equal(fz_store_src(s, "none", UINT64_MAX, &src, NULL), -FZ_ENOTFOUND);
	OK(fz_store_src(s, "a", UINT64_MAX, &src, &err));
	assert_int_equal(src->size_bytes, 300000);
	OK(fz_src_read(src, 299996, got, 4, &err));
	assert_memory_equal(got, data + 299996, 4);
	assert_int_equal(fz_src_read(src, 299997, got, 4, NULL), -FZ_ETRUNCATED);
	OK(put(s, "a", data + 1, 299999, &err));
	assert_int_equal(fz_src_read(src, 0, got, 4, NULL), -FZ_ECONFLICT); /* it was replaced */
	fz_src_close(src);
	OK(fz_store_src(s, "a", 300000, &src, &err)); /* a listing that is old */
	assert_int_equal(fz_src_read(src, 0, got, 4, NULL), -FZ_ECONFLICT);
	fz_src_close(src);
	OK(fz_store_delete(s, keys, 5, NULL, &err));
	fz_store_list_fini(&l);
	OK(fz_store_list(s, "", NULL, false, &l, &err));
	assert_int_equal(l.n, 0);
	assert_int_equal(retries(s), 0);
	fz_store_list_fini(&l);
	free(data);
	fz_store_close(s);
}

struct reader {
	pthread_t thread;
	struct fz_src *src;
	const uint8_t *want;
	size_t from, to;
	bool ok;
};

static void *read_ranges(void *arg)
{
	struct reader *r = arg;
	uint8_t buf[7000];

	r->ok = true;
	for (size_t at = r->from; at < r->to && r->ok; at += sizeof(buf)) {
		size_t n = r->to - at < sizeof(buf) ? r->to - at : sizeof(buf);

		r->ok = fz_src_read(r->src, at, buf, n, NULL) == 0 && memcmp(buf, r->want + at, n) == 0;
	}
	return NULL;
}

static void threads_read_ranges_of_one_source(void **state)
{
	struct fz_store *s = open_at(&gw, "bucket", 20000);
	struct reader r[6];
	uint8_t *data = pattern(420000);
	struct fz_src *src = NULL;
	size_t per = 420000 / 6;

	OK(put(s, "big", data, 420000, &err));
	OK(fz_store_src(s, "big", 420000, &src, &err));
	for (size_t i = 0; i < 6; i++) {
		r[i] = (struct reader){.src = src, .want = data, .from = i * per, .to = (i + 1) * per};
		assert_int_equal(pthread_create(&r[i].thread, NULL, read_ranges, &r[i]), 0);
	}
	for (size_t i = 0; i < 6; i++) {
		pthread_join(r[i].thread, NULL);
		assert_true(r[i].ok);
	}
	fz_src_close(src);
	OK(fz_store_delete(s, (const char *[]){"big"}, 1, NULL, &err));
	free(data);
	fz_store_close(s);
}

enum { MANY = 1105 };

static void lists_and_deletes_more_than_a_page(void **state)
{
	struct fz_store *s = open_at(&gw, "bucket", 60000);
	struct fz_store_list l = {0};
	char names[MANY][24];
	const char *keys[MANY];
	size_t failed = 1;

	for (size_t i = 0; i < MANY; i++) {
		snprintf(names[i], sizeof(names[i]), "many/%03zu/%04zu", i / 100, i);
		keys[i] = names[i];
		OK(put_text(s, keys[i], "x", &err));
	}
	OK(fz_store_list(s, "many/", NULL, false, &l, &err));
	assert_int_equal(l.n, MANY);
	for (size_t i = 0; i < MANY; i++)
		assert_string_equal(l.v[i].key, keys[i]);
	fz_store_list_fini(&l);
	OK(fz_store_list(s, "many/", "many/010/1090", false, &l, &err));
	assert_int_equal(l.n, MANY - 1091);
	assert_string_equal(l.v[0].key, "many/010/1091");
	fz_store_list_fini(&l);
	OK(fz_store_list(s, "many/", NULL, true, &l, &err));
	assert_int_equal(l.n, MANY / 100 + 1);
	assert_string_equal(l.v[1].key, "many/001/");
	fz_store_list_fini(&l);
	OK(fz_store_list(s, "many/00", "many/005", true, &l, &err));
	assert_int_equal(l.n, 5);
	assert_string_equal(l.v[0].key, "many/005/");
	fz_store_list_fini(&l);
	OK(fz_store_delete(s, keys, MANY, &failed, &err));
	assert_int_equal(failed, 0);
	OK(fz_store_list(s, "", NULL, false, &l, &err));
	assert_int_equal(l.n, 0);
	OK(fz_store_delete(s, keys, 3, &failed, &err)); /* gone already */
	assert_int_equal(failed, 0);
	fz_store_list_fini(&l);
	fz_store_close(s);
}

enum { LARGE = 21 * 1024 * 1024 + 12345 };

static void large_objects_go_in_parts(void **state)
{
	struct fz_store *s = open_at(&gw, "bucket", 30000);
	uint8_t *data = pattern(LARGE);
	struct fz_store_stats st;

	OK(put(s, "large", data, LARGE, &err));
	assert_object(s, "large", data, LARGE);
	fz_store_stats(s, &st);
	assert_true(st.requests >= 6); /* list uploads, begin, 3 parts, complete, GET */
	OK(fz_store_delete(s, (const char *[]){"large"}, 1, NULL, &err));
	free(data);
	fz_store_close(s);
}

static void a_claim_is_won_once(void **state)
{
	struct fz_store *a = open_at(&gw, "bucket", 20000), *b = open_at(&gw, "bucket", 20000);
	struct fz_store_list l = {0};

	assert_conditional(a, "unknown");
	OK(fz_store_put_new(a, "epoch/1", "me", 2, &err));
	assert_conditional(a, "native");
	assert_int_equal(fz_store_put_new(a, "epoch/1", "me", 2, NULL), -FZ_ECONFLICT);
	assert_int_equal(fz_store_put_new(b, "epoch/1", "you", 3, NULL), -FZ_ECONFLICT);
	assert_object(b, "epoch/1", "me", 2);
	OK(fz_store_list(a, "", NULL, false, &l, &err)); /* the probe is not seen */
	assert_int_equal(l.n, 1);
	fz_store_list_fini(&l);
	OK(fz_store_list(a, "", NULL, true, &l, &err));
	assert_int_equal(l.n, 1);
	assert_string_equal(l.v[0].key, "epoch/");
	fz_store_list_fini(&l);
	OK(fz_store_delete(a, (const char *[]){"epoch/1"}, 1, NULL, &err));
	fz_store_close(a);
	fz_store_close(b);
}

static void a_version_is_replaced_once(void **state)
{
	struct fz_store *a = open_at(&gw, "bucket", 20000), *b = open_at(&gw, "bucket", 20000);
	char tag[FZ_STORE_TAG] = "", old[FZ_STORE_TAG], other[FZ_STORE_TAG] = "";
	struct fz_buf t = {0};
	struct fz_store_list l = {0};

	assert_int_equal(fz_store_get_tag(a, ".fazt/lease", 9, &t, other, NULL), -FZ_ENOTFOUND);
	assert_string_equal(other, "");
	OK(fz_store_put_if(a, ".fazt/lease", "one", 3, tag, &err));
	memcpy(old, tag, sizeof(tag));
	assert_int_equal(fz_store_put_if(b, ".fazt/lease", "two", 3, other, NULL), -FZ_ECONFLICT); /* it exists */
	OK(fz_store_get_tag(b, ".fazt/lease", 9, &t, other, &err));
	assert_string_equal(fz_buf_str(&t), "one");
	assert_string_equal(other, tag);
	OK(fz_store_put_if(b, ".fazt/lease", "two", 3, other, &err));
	assert_int_equal(fz_store_put_if(a, ".fazt/lease", "three", 5, tag, NULL), -FZ_ECONFLICT);
	assert_string_equal(tag, old);
	OK(fz_store_put_if(b, ".fazt/lease", "three", 5, other, &err)); /* its answer told the tag */
	assert_object(a, ".fazt/lease", "three", 5);
	OK(fz_store_list(a, "", NULL, false, &l, &err));
	for (size_t i = 0; i < l.n; i++)
		assert_null(strstr(l.v[i].key, ".fazt"));
	fz_store_list_fini(&l);
	OK(fz_store_delete(a, (const char *[]){".fazt/lease"}, 1, NULL, &err));
	assert_int_equal(fz_store_put_if(b, ".fazt/lease", "four", 4, other, NULL), -FZ_ECONFLICT); /* it is gone */
	fz_buf_fini(&t);
	fz_store_close(a);
	fz_store_close(b);
}

static void a_replacement_without_an_answer_is_read_back(void **state)
{
	struct fz_store *s = open_at(&fake, "bkt7", 10000);
	char tag[FZ_STORE_TAG] = "";
	struct fz_buf t = {0};

	OK(put_text(s, "later/1", "first", &err));
	OK(fz_store_get_tag(s, "later/1", 9, &t, tag, &err));
	OK(fz_store_put_if(s, "later/1", "second", 6, tag, &err));
	OK(put_text(s, "hangup/1", "x", &err)); /* refused once: not carried out, so simply sent again */
	fz_buf_reset(&t);
	OK(fz_store_get_tag(s, "hangup/1", 9, &t, tag, &err));
	OK(fz_store_put_if(s, "hangup/1", "y", 1, tag, &err));
	OK(fz_store_put_if(s, "hangup/1", "z", 1, tag, &err));
	/* carried out, and the answer lost: 412 to the second attempt is no conflict when our bytes are there */
	OK(put_text(s, "cut/1", "x", &err));
	fz_buf_reset(&t);
	OK(fz_store_get_tag(s, "cut/1", 9, &t, tag, &err));
	OK(fz_store_put_if(s, "cut/1", "mine", 4, tag, &err));
	assert_object(s, "cut/1", "mine", 4);
	OK(fz_store_put_if(s, "cut/1", "next", 4, tag, &err));
	fz_buf_fini(&t);
	fz_store_close(s);
}

static void a_store_without_if_match_is_refused(void **state)
{
	struct fz_store *s = open_at(&fake, "ignores", 10000);
	char tag[FZ_STORE_TAG] = "";
	struct fz_err why = {0};

	assert_int_equal(fz_store_put_if(s, "lease", "x", 1, tag, &why), -FZ_ECONFIG);
	assert_non_null(strstr(why.text, "If-Match"));
	fz_store_close(s);
}

static void refusals_are_not_retried(void **state)
{
	static const struct {
		const char *bucket, *access, *secret, *says;
	} t[] = {
	        {"bucket",         "A", "wrong", "SignatureDoesNotMatch"},
	        {"bucket",         "B", "S",     "XAdminUserNotFound"   },
	        {"no-such-bucket", "A", "S",     "NoSuchBucket"         },
	};

	for (size_t i = 0; i < 3; i++) {
		const struct fz_store_conf conf = {.access_key = t[i].access, .secret_key = t[i].secret};
		struct fz_store *s = NULL;
		struct fz_store_list l = {0};
		struct fz_buf b = {0};
		struct fz_err err;
		char url[256];

		snprintf(url, sizeof(url), "s3://%s?endpoint=http://127.0.0.1:%d", t[i].bucket, gw.port);
		assert_int_equal(fz_store_open(&s, url, &conf, &err), 0);
		if (put_text(s, "k", "x", &err) != -FZ_EAUTH)
			fail_msg("%s", err.text);
		assert_non_null(strstr(err.text, t[i].says));
		assert_null(strstr(err.text, "wrong"));
		assert_int_equal(fz_store_list(s, "", NULL, false, &l, &err), -FZ_EAUTH);
		assert_int_equal(fz_store_get(s, "k", 9, &b, &err), -FZ_EAUTH);
		assert_int_equal(fz_store_put_new(s, "k", "x", 1, &err), -FZ_EAUTH);
		assert_int_equal(fz_store_delete(s, (const char *[]){"k"}, 1, NULL, &err), -FZ_EAUTH);
		assert_int_equal(retries(s), 0);
		fz_store_close(s);
	}
}

struct putter {
	pthread_t thread;
	struct fz_store *s;
	int rc;
	struct fz_err err;
};

static void *put_one(void *arg)
{
	struct putter *p = arg;

	p->rc = put_text(p->s, "back", "again", &p->err);
	return NULL;
}

static void a_server_that_comes_back_is_found(void **state)
{
	struct putter p = {.s = open_at(&gw, "bucket", 60000)};

	OK(put_text(p.s, "warm", "x", &err)); /* there is a connection to lose */
	stop(&gw);
	assert_int_equal(pthread_create(&p.thread, NULL, put_one, &p), 0);
	while (retries(p.s) < 2)
		nanosleep(&(struct timespec){0, 5 * 1000000}, NULL);
	assert_int_equal(start_gw(), 0);
	pthread_join(p.thread, NULL);
	assert_int_equal(p.rc, 0);
	assert_object(p.s, "back", "again", 5);
	OK(fz_store_delete(p.s, (const char *[]){"back", "warm"}, 2, NULL, &err));
	fz_store_close(p.s);
}

/* A source that takes the server down and up again when it is read behind a point for the second time (sending). */
struct killer {
	struct fz_src src;
	const uint8_t *data;
	pthread_mutex_t mu;
	int reads;
};

#define KILL_AT (8 * 1024 * 1024 + 65536)

static int killer_read(struct fz_src *src, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct killer *k = (struct killer *)src;

	/* a byte of the second part: once for its hash, then each time it is sent, in whatever pieces libcurl asks for */
	if (off <= KILL_AT && KILL_AT < off + n && k->reads++ == 1) {
		stop(&gw);
		if (start_gw() < 0)
			return fz_fail(err, EIO, "versitygw does not come back");
	}
	memcpy(data, k->data + off, n);
	return 0;
}

static void an_upload_outlives_the_server(void **state)
{
	struct fz_store *s = open_at(&gw, "bucket", 30000);
	uint8_t *data = pattern(LARGE);
	struct killer k = {
	        .src = {killer_read, NULL, LARGE},
                  .data = data
        };

	OK(fz_store_put(s, "large", &k.src, &err));
	assert_true(k.reads > 2);
	assert_true(retries(s) > 0);
	assert_object(s, "large", data, LARGE);
	OK(fz_store_delete(s, (const char *[]){"large"}, 1, NULL, &err));
	free(data);
	fz_store_close(s);
}

/* ---- against fake_s3.py: what passes ------------------------------------------------------------------------------ */

static void what_passes_is_retried(void **state)
{
	static const struct {
		const char *bucket, *habit;
		uint64_t retries; /* of a PUT and a GET together */
	} t[] =
	        {
	                {"bkt",       "fine",        0},
                        {"bkt",       "slowdown",    4},
                        {"bkt",       "gateway",     2},
	                {"bkt",       "timeout400",  2},
                        {"bkt",       "toomany",     2},
                        {"bkt",       "conflict409", 2},
	                {"bkt",       "hangup",      1}, /* the GET was on a kept connection: libcurl asks again by itself */
	                {"bkt",       "stallonce",   2},
                        {"bkt",       "short",       1},
                        {"bkt",       "reset",       1},
	                {"skewed",    "fine",        1},
                        {"elsewhere", "fine",        1},
                        {"moved",     "fine",        1},
        };

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_store *s = open_at(&fake, t[i].bucket, 10000);
		char key[64];

		if (strncmp(t[i].habit, "stall", 5) == 0) { /* half of it is what nothing may move */
			fz_store_close(s);
			s = open_at(&fake, t[i].bucket, 2000);
		}
		print_message("  %s/%s\n", t[i].bucket, t[i].habit);
		snprintf(key, sizeof(key), "%s/k", t[i].habit);
		OK(put_text(s, key, "some data", &err));
		assert_object(s, key, "some data", 9);
		assert_int_equal(retries(s), t[i].retries);
		fz_store_close(s);
	}
}

static void what_does_not_pass_is_told_at_once(void **state)
{
	static const struct {
		const char *bucket;
		int code;
		const char *says;
	} t[] = {
	        {"denied",  -FZ_EAUTH, "AccessDenied"     },
	        {"missing", -FZ_EAUTH, "NoSuchBucket"     },
	        {"full",    -ENOSPC,   "XMinioStorageFull"},
	        {"token",   -FZ_EAUTH, "ExpiredToken"     },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_store *s = open_at(&fake, t[i].bucket, 10000);
		struct fz_err err;

		print_message("  %s\n", t[i].bucket);
		assert_int_equal(put_text(s, "k", "x", &err), t[i].code);
		assert_non_null(strstr(err.text, t[i].says));
		assert_int_equal(retries(s), 0);
		fz_store_close(s);
	}
}

static void a_range_that_breaks_goes_on_where_it_was(void **state)
{
	static const char *const habits[] = {"resume", "short", "reset"};
	uint8_t *data = pattern(200000), *got = malloc(200000);

	for (size_t i = 0; i < 3; i++) {
		struct fz_store *s = open_at(&fake, "bkt2", 10000);
		struct fz_src *src = NULL;
		char key[32];

		snprintf(key, sizeof(key), "%s/r", habits[i]);
		OK(put(s, key, data, 200000, &err));
		OK(fz_store_src(s, key, 200000, &src, &err));
		memset(got, 0, 200000);
		OK(fz_src_read(src, 0, got, 200000, &err));
		assert_memory_equal(got, data, 200000);
		assert_int_equal(retries(s), 1);
		OK(fz_src_read(src, 77777, got, 5, &err));
		assert_memory_equal(got, data + 77777, 5);
		fz_src_close(src);
		fz_store_close(s);
	}
	free(data);
	free(got);
}

static void a_wrong_range_is_never_taken(void **state)
{
	static const struct {
		const char *habit, *says;
	} t[] = {
	        {"wrongrange",      "the store sent"},
                {"grown",           "was replaced"  },
                {"ignoresrange",    "ranged reads"  },
	        {"replaced",        "was replaced"  },
                {"replacedquietly", "was replaced"  },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_store *s = open_at(&fake, "bkt3", 10000);
		struct fz_src *src = NULL;
		struct fz_err why = {0};
		char key[32], got[4];
		int rc;

		print_message("  %s\n", t[i].habit);
		snprintf(key, sizeof(key), "%s/r", t[i].habit);
		OK(put_text(s, key, "0123456789", &err));
		OK(fz_store_src(s, key, 10, &src, &err));
		rc = fz_src_read(src, 2, got, 4, &why);
		if (rc == 0) /* the first answer was believable */
			rc = fz_src_read(src, 4, got, 4, &why);
		assert_int_equal(rc, strstr(t[i].says, "replaced") ? -FZ_ECONFLICT : -FZ_ESTORE);
		assert_non_null(strstr(why.text, t[i].says));
		fz_src_close(src);
		fz_store_close(s);
	}
}

static void completing_an_upload_can_fail_in_a_200(void **state)
{
	uint8_t *data = pattern(LARGE);
	struct fz_store *s = open_at(&fake, "bkt4", 10000);

	OK(put(s, "complete200/k", data, LARGE, &err));
	assert_int_equal(retries(s), 2);
	assert_object(s, "complete200/k", data, LARGE);
	assert_int_equal(put(s, "completefatal/k", data, LARGE, NULL), -FZ_EAUTH);
	OK(put(s, "completelost/k", data, LARGE, &err)); /* done, and nobody told: the object says so */
	assert_object(s, "completelost/k", data, LARGE);
	free(data);
	fz_store_close(s);
}

static void stale_uploads_of_ours_are_aborted(void **state)
{
	struct fz_store *s = open_at(&fake, "stale", 10000);
	struct fz_store_list l = {0};
	uint8_t *data = pattern(LARGE);

	OK(put(s, "x/k", data, LARGE, &err));
	OK(fz_store_list(s, "", NULL, false, &l, &err)); /* bucket "stale" lists what is unfinished */
	assert_int_equal(l.n, 1);
	assert_string_equal(l.v[0].key, "new/b");
	fz_store_list_fini(&l);
	free(data);
	fz_store_close(s);
}

static void an_etag_that_is_no_md5_does_not_stop_us(void **state)
{
	struct fz_store *s = open_at(&fake, "bkt5", 10000);
	struct fz_store_stats st;

	OK(put_text(s, "badetag/1", "x", &err));
	fz_store_stats(s, &st);
	assert_int_equal(st.requests, 2); /* sent again once */
	OK(put_text(s, "badetag/2", "x", &err));
	fz_store_stats(s, &st);
	assert_int_equal(st.requests, 3);
	fz_store_close(s);
}

/* ---- claims ------------------------------------------------------------------------------------------------------- */

static void an_ambiguous_claim_is_read_back(void **state)
{
	struct fz_store *s = open_at(&fake, "bkt6", 10000);

	OK(fz_store_put_new(s, "ambiguous/1", "mine", 4, &err));
	assert_conditional(s, "native");
	assert_int_equal(fz_store_put_new(s, "foe/1", "mine", 4, NULL), -FZ_ECONFLICT);
	OK(fz_store_put_new(s, "conflict409/1", "mine", 4, &err));
	assert_int_equal(fz_store_put_new(s, "conflict409/1", "mine", 4, NULL), -FZ_ECONFLICT);
	fz_store_close(s);
}

static void where_the_store_ignores_conditions_claims_are_emulated(void **state)
{
	static const char *const buckets[] = {"ignores", "refuses", "honours"};

	for (size_t b = 0; b < 3; b++) {
		struct fz_store_list l = {0};
		struct racer r[4] = {{0}};
		int won = 0;

		for (int i = 0; i < 4; i++) {
			r[i].s = open_at(&fake, buckets[b], 30000);
			r[i].n = i;
			r[i].claims = 5;
			assert_int_equal(pthread_create(&r[i].thread, NULL, race, &r[i]), 0);
		}
		for (int i = 0; i < 4; i++) {
			pthread_join(r[i].thread, NULL);
			assert_int_equal(r[i].failed, 0);
			won += r[i].won;
			assert_conditional(r[i].s, b < 2 ? "emulated" : "native");
		}
		assert_int_equal(won, 5);
		OK(fz_store_list(r[0].s, "", NULL, false, &l, &err)); /* no token is seen */
		assert_int_equal(l.n, 5);
		fz_store_list_fini(&l);
		for (int i = 0; i < 4; i++)
			fz_store_close(r[i].s);
	}
}

/* ---- lists and deletions ------------------------------------------------------------------------------------------ */

static void pages_tokens_and_encodings_are_followed(void **state)
{
	static const char *const buckets[] = {"lists", "unsorted"};
	static const char *const keys[] = {"a b", "a%20b", "a+b", "b/1", "b/2", "c&<>'\"", "d", "\xc3\xa9"};
	enum { N = sizeof(keys) / sizeof(keys[0]) };

	for (size_t b = 0; b < 2; b++) {
		struct fz_store *s = open_at(&fake, buckets[b], 10000);
		struct fz_store_list l = {0};

		for (size_t i = 0; i < N; i++)
			OK(put_text(s, keys[i], keys[i], &err));
		OK(fz_store_list(s, "", NULL, false, &l, &err)); /* three a page */
		assert_int_equal(l.n, N);
		for (size_t i = 0; i < N; i++)
			assert_string_equal(l.v[i].key, keys[i]);
		fz_store_list_fini(&l);
		OK(fz_store_list(s, "a", "a%20b", false, &l, &err));
		assert_int_equal(l.n, 1);
		assert_string_equal(l.v[0].key, "a+b");
		fz_store_list_fini(&l);
		OK(fz_store_delete(s, keys, N, NULL, &err));
		OK(fz_store_list(s, "", NULL, false, &l, &err));
		assert_int_equal(l.n, 0);
		fz_store_close(s);
	}
}

static void a_listing_in_circles_ends(void **state)
{
	struct fz_store *s = open_at(&fake, "circles", 10000);
	struct fz_store_list l = {0};

	assert_int_equal(fz_store_list(s, "", NULL, false, &l, NULL), -FZ_ESTORE);
	fz_store_close(s);
}

static void deletions_are_judged_key_by_key(void **state)
{
	static const char *const keys[] = {"d/1", "d/locked", "d/flaky", "d/gone", "d/2"};
	struct fz_store *s = open_at(&fake, "deletes", 10000);
	struct fz_store_list l = {0};
	struct fz_err why = {0};
	size_t failed = 0;

	for (size_t i = 0; i < 5; i++)
		OK(put_text(s, keys[i], "x", &err));
	assert_int_equal(fz_store_delete(s, keys, 5, &failed, &why), -FZ_EAUTH);
	assert_int_equal(failed, 1);
	assert_non_null(strstr(why.text, "d/locked"));
	OK(fz_store_list(s, "", NULL, false, &l, &err));
	assert_int_equal(l.n, 2); /* the fake keeps "gone" too: that was its answer, not its deed */
	fz_store_list_fini(&l);
	fz_store_close(s);

	s = open_at(&fake, "nobatch", 10000);
	for (size_t i = 0; i < 5; i++)
		OK(put_text(s, keys[i], "x", &err));
	OK(fz_store_delete(s, keys, 5, &failed, &err));
	assert_int_equal(failed, 0);
	OK(fz_store_list(s, "", NULL, false, &l, &err));
	assert_int_equal(l.n, 0);
	fz_store_close(s);
}

/* ---- time, cancel, trust ------------------------------------------------------------------------------------------ */

static void a_silent_server_meets_the_deadline(void **state)
{
	struct fz_store *s = open_at(&fake, "bkt7", 600);
	struct fz_err err = {0};

	assert_int_equal(put_text(s, "stall/1", "x", &err), -FZ_ETIMEOUT);
	fz_store_close(s);
}

static void nobody_there_is_told_so(void **state)
{
	struct server none = {.port = free_port()};
	struct fz_store *s = open_at(&none, "bkt7", 600);
	struct fz_err err = {0};

	assert_int_equal(put_text(s, "x", "x", &err), -FZ_ENET);
	assert_non_null(strstr(err.text, "gave up after"));
	assert_non_null(strstr(err.text, "Connection refused"));
	fz_store_close(s);
}

static void *put_stalled(void *arg)
{
	struct putter *p = arg;

	p->rc = put_text(p->s, "stall/2", "x", &p->err);
	return NULL;
}

static void *put_nowhere(void *arg)
{
	struct putter *p = arg;

	p->rc = put_text(p->s, "k", "x", &p->err);
	return NULL;
}

/* With an hour as deadline, only cancel can end these in the time a test has. */
static void cancel_ends_transfers_and_pauses(void **state)
{
	struct server none = {.port = free_port()};

	for (int i = 0; i < 2; i++) {
		struct putter p = {.s = open_at(i == 0 ? &fake : &none, "bkt8", 3600 * 1000)};
		struct fz_store_stats st;

		assert_int_equal(pthread_create(&p.thread, NULL, i == 0 ? put_stalled : put_nowhere, &p), 0);
		do {
			nanosleep(&(struct timespec){0, 5 * 1000000}, NULL);
			fz_store_stats(p.s, &st);
		} while (i == 0 ? st.requests < 1 : st.retries < 3);
		fz_store_cancel(p.s);
		pthread_join(p.thread, NULL);
		assert_int_equal(p.rc, -ECANCELED);
		assert_int_equal(put_text(p.s, "k", "x", NULL), -ECANCELED);
		fz_store_close(p.s);
	}
}

static void a_token_that_expires_is_read_again(void **state)
{
	char file[PATH_MAX + 16], url[PATH_MAX + 128];
	const char *old = "aws_access_key_id = A\naws_secret_access_key = S\naws_session_token = old\n";
	const char *fresh = "[default]\naws_access_key_id = A\naws_secret_access_key = S\naws_session_token = fresh\n";
	struct fz_store *s = NULL;

	snprintf(file, sizeof(file), "%s/keys", root);
	snprintf(url, sizeof(url), "s3://token/p?endpoint=http://127.0.0.1:%d&credentials=%s", fake.port, file);
	OK(fz_write_file(AT_FDCWD, file, old, strlen(old), 0600, &err));
	OK(fz_store_open(&s, url, NULL, &err));
	assert_int_equal(put_text(s, "k", "x", NULL), -FZ_EAUTH);
	OK(fz_write_file(AT_FDCWD, file, fresh, strlen(fresh), 0600, &err));
	OK(put_text(s, "k", "x", &err));
	fz_store_close(s);
}

static void certificates_are_verified(void **state)
{
	const struct fz_store_conf conf = {.access_key = "A", .secret_key = "S", .timeout_ms = 60000};
	char pem[PATH_MAX] = __FILE__, url[PATH_MAX + 128];
	struct fz_store *s = NULL;
	struct fz_err why = {0};

	strcpy(strrchr(pem, '/'), "/fake_s3.pem");
	snprintf(url, sizeof(url), "s3://bkt/p?endpoint=https://127.0.0.1:%d", fake_tls.port);
	OK(fz_store_open(&s, url, &conf, &err));
	assert_int_equal(put_text(s, "k", "x", &why), -FZ_ENET);
	assert_non_null(strstr(why.text, "not trusted"));
	assert_int_equal(retries(s), 0);
	fz_store_close(s);

	snprintf(url, sizeof(url), "s3://bkt/p?endpoint=https://127.0.0.1:%d&cacert=%.3000s", fake_tls.port, pem);
	OK(fz_store_open(&s, url, &conf, &err));
	OK(put_text(s, "k", "x", &err));
	assert_object(s, "k", "x", 1);
	fz_store_close(s);

	snprintf(url, sizeof(url), "s3://bkt/p?endpoint=https://localhost:%d&cacert=%.3000s", fake_tls.port, pem);
	OK(fz_store_open(&s, url, &conf, &err)); /* the right CA, another name */
	assert_int_equal(put_text(s, "k", "x", &why), -FZ_ENET);
	assert_non_null(strstr(why.text, "not trusted"));
	fz_store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(stores_and_reads_back),
	        cmocka_unit_test(threads_read_ranges_of_one_source),
	        cmocka_unit_test(lists_and_deletes_more_than_a_page),
	        cmocka_unit_test(large_objects_go_in_parts),
	        cmocka_unit_test(a_claim_is_won_once),
	        cmocka_unit_test(a_version_is_replaced_once),
	        cmocka_unit_test(a_replacement_without_an_answer_is_read_back),
	        cmocka_unit_test(a_store_without_if_match_is_refused),
	        cmocka_unit_test(refusals_are_not_retried),
	        cmocka_unit_test(a_server_that_comes_back_is_found),
	        cmocka_unit_test(an_upload_outlives_the_server),
	        cmocka_unit_test(what_passes_is_retried),
	        cmocka_unit_test(what_does_not_pass_is_told_at_once),
	        cmocka_unit_test(a_range_that_breaks_goes_on_where_it_was),
	        cmocka_unit_test(a_wrong_range_is_never_taken),
	        cmocka_unit_test(completing_an_upload_can_fail_in_a_200),
	        cmocka_unit_test(stale_uploads_of_ours_are_aborted),
	        cmocka_unit_test(an_etag_that_is_no_md5_does_not_stop_us),
	        cmocka_unit_test(an_ambiguous_claim_is_read_back),
	        cmocka_unit_test(where_the_store_ignores_conditions_claims_are_emulated),
	        cmocka_unit_test(pages_tokens_and_encodings_are_followed),
	        cmocka_unit_test(a_listing_in_circles_ends),
	        cmocka_unit_test(deletions_are_judged_key_by_key),
	        cmocka_unit_test(a_silent_server_meets_the_deadline),
	        cmocka_unit_test(nobody_there_is_told_so),
	        cmocka_unit_test(cancel_ends_transfers_and_pauses),
	        cmocka_unit_test(a_token_that_expires_is_read_again),
	        cmocka_unit_test(certificates_are_verified),
	};

	return cmocka_run_group_tests(tests, start_all, stop_all);
}
