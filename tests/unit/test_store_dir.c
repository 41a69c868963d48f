#include "store/store.h"

#include "base/file.h"
#include "tests/unit/store_race.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[PATH_MAX], url[PATH_MAX + 8];

static int make_root(void **state)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(root, sizeof(root), "%s/fz-dir-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(root))
		return -1;
	snprintf(url, sizeof(url), "dir:%s", root);
	return 0;
}

static int remove_root(void **state)
{
	return fz_remove_tree(AT_FDCWD, root, NULL);
}

static struct fz_store *open_store(bool create)
{
	struct fz_store *s = NULL;

	assert_int_equal(fz_store_open(&s, url, &(struct fz_store_conf){.create = create}, NULL), 0);
	return s;
}

static int put(struct fz_store *s, const char *key, const char *text, struct fz_err *err)
{
	struct fz_src *src = NULL;
	int rc;

	assert_int_equal(fz_src_mem(&src, text, strlen(text), NULL), 0);
	rc = fz_store_put(s, key, src, err);
	fz_src_close(src);
	return rc;
}

static void assert_object(struct fz_store *s, const char *key, const char *text)
{
	struct fz_buf b = {0};

	assert_int_equal(fz_store_get(s, key, 1 << 20, &b, NULL), 0);
	assert_string_equal(fz_buf_str(&b), text);
	fz_buf_fini(&b);
}

static size_t count_files(const char *path)
{
	struct dirent *e;
	DIR *d = opendir(path);
	size_t n = 0;

	assert_non_null(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.' || (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0);
	closedir(d);
	return n;
}

static void stores_and_replaces(void **state)
{
	struct fz_store *s = open_store(false);
	struct fz_store_stats st;
	struct fz_buf b = {0};
	char path[PATH_MAX + 16];
	struct stat stat_buf;

	assert_int_equal(put(s, "a/b/c", "one", NULL), 0);
	assert_object(s, "a/b/c", "one");
	assert_int_equal(put(s, "a/b/c", "two!", NULL), 0);
	assert_object(s, "a/b/c", "two!");
	assert_int_equal(put(s, "a/empty", "", NULL), 0);
	assert_object(s, "a/empty", "");
	snprintf(path, sizeof(path), "%s/a/b", root);
	assert_int_equal(count_files(path), 1); /* no temporary file stays */
	snprintf(path, sizeof(path), "%s/a/b/c", root);
	assert_int_equal(stat(path, &stat_buf), 0);
	assert_int_equal(stat_buf.st_mode & 0777, 0600);

	assert_int_equal(fz_buf_add(&b, "kept", 4), 0);
	assert_int_equal(fz_store_get(s, "a/b/c", 3, &b, NULL), -FZ_ESTORE); /* larger than allowed */
	assert_string_equal(fz_buf_str(&b), "kept");
	assert_int_equal(fz_store_get(s, "a/b/c", 4, &b, NULL), 0);
	assert_string_equal(fz_buf_str(&b), "kepttwo!");
	assert_int_equal(fz_store_get(s, "a/b", 9, &b, NULL), -FZ_ENOTFOUND);
	assert_int_equal(fz_store_get(s, "a/b/c/d", 9, &b, NULL), -FZ_ENOTFOUND);
	assert_int_equal(fz_store_get(s, "nothing", 9, &b, NULL), -FZ_ENOTFOUND);
	fz_buf_fini(&b);

	fz_store_stats(s, &st);
	assert_string_equal(st.conditional_put, "native");
	assert_true(st.requests > 0 && st.bytes_out == 7 && st.bytes_in >= 11);
	fz_store_close(s);
}

static void never_leaves_the_root(void **state)
{
	struct fz_store *s = open_store(false);
	struct fz_store_list l = {0};
	struct fz_err err;
	struct fz_buf b = {0};
	char path[PATH_MAX + 16];

	assert_int_equal(put(s, "../out", "x", &err), -FZ_EUSAGE);
	assert_int_equal(put(s, "/etc/out", "x", &err), -FZ_EUSAGE);
	assert_int_equal(put(s, "a/../../out", "x", &err), -FZ_EUSAGE);
	assert_int_equal(put(s, "", "x", &err), -FZ_EUSAGE);
	assert_int_equal(put(s, "a/.fz-tmp.b", "x", &err), -FZ_EUSAGE); /* would never be listed */
	assert_int_equal(fz_store_get(s, "../x", 9, &b, &err), -FZ_EUSAGE);
	assert_int_equal(fz_store_delete(s, (const char *[]){"../x"}, 1, NULL, &err), -FZ_EUSAGE);
	assert_int_equal(fz_store_list(s, "../", NULL, false, &l, &err), -FZ_EUSAGE);

	/* links that lie in the store, to a directory and to a file */
	snprintf(path, sizeof(path), "%s/link", root);
	assert_int_equal(symlink("/etc", path), 0);
	snprintf(path, sizeof(path), "%s/file", root);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(put(s, "link/out", "x", &err), -FZ_ESTORE);
	assert_non_null(strstr(err.text, "symbolic"));
	assert_int_equal(fz_store_get(s, "link/passwd", 1 << 20, &b, &err), -FZ_ESTORE);
	assert_int_equal(fz_store_get(s, "file", 1 << 20, &b, &err), -FZ_ESTORE);
	assert_int_equal(b.size, 0);
	assert_int_equal(fz_store_list(s, "", NULL, false, &l, &err), 0);
	assert_int_equal(l.n, 0);
	assert_int_equal(put(s, "file", "mine", &err), 0); /* replaces the link, not what it points to */
	assert_object(s, "file", "mine");
	fz_store_list_fini(&l);
	fz_buf_fini(&b);
	fz_store_close(s);
}

static void claims_once(void **state)
{
	struct fz_store *s = open_store(false);
	struct fz_err err;

	assert_int_equal(fz_store_put_new(s, "x/epoch/1", "me", 2, &err), 0);
	assert_int_equal(fz_store_put_new(s, "x/epoch/1", "you", 3, &err), -FZ_ECONFLICT);
	assert_int_equal(fz_store_put_new(s, "x/epoch/1", "me", 2, &err),
	                 -FZ_ECONFLICT); /* equal bytes are a foe's too */
	assert_object(s, "x/epoch/1", "me");
	fz_store_close(s);
}

static void replaces_one_version_once(void **state)
{
	struct fz_store *s = open_store(false), *other = open_store(false);
	struct fz_err err;
	char tag[FZ_STORE_TAG] = "", late[FZ_STORE_TAG] = "";
	struct fz_buf b = {0};
	struct fz_store_list l = {0};

	assert_int_equal(fz_store_get_tag(s, ".fazt/lease", 9, &b, late, NULL), -FZ_ENOTFOUND);
	assert_int_equal(fz_store_put_if(s, ".fazt/lease", "one", 3, tag, &err), 0);
	assert_int_equal(fz_store_put_if(other, ".fazt/lease", "two", 3, late, &err), -FZ_ECONFLICT);
	assert_int_equal(fz_store_get_tag(other, ".fazt/lease", 9, &b, late, &err), 0);
	assert_string_equal(fz_buf_str(&b), "one");
	assert_string_equal(late, tag);
	assert_int_equal(fz_store_put_if(other, ".fazt/lease", "two", 3, late, &err), 0);
	assert_int_equal(fz_store_put_if(s, ".fazt/lease", "three", 5, tag, &err), -FZ_ECONFLICT);
	assert_int_equal(fz_store_put_if(other, ".fazt/lease", "three", 5, late, &err), 0);
	fz_buf_reset(&b);
	assert_int_equal(fz_store_get(s, ".fazt/lease", 9, &b, &err), 0);
	assert_string_equal(fz_buf_str(&b), "three");
	assert_int_equal(fz_store_list(s, "", NULL, false, &l, &err), 0);
	assert_int_equal(l.n, 1); /* the lock is not seen */
	fz_store_list_fini(&l);
	fz_buf_fini(&b);
	fz_store_close(s);
	fz_store_close(other);
}

static void one_of_many_wins_each_claim(void **state)
{
	struct racer r[4] = {{0}};
	int won = 0;

	for (int i = 0; i < 4; i++) {
		r[i].s = open_store(false);
		r[i].n = i;
		r[i].claims = 50;
		assert_int_equal(pthread_create(&r[i].thread, NULL, race, &r[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(r[i].thread, NULL);
		won += r[i].won;
		assert_int_equal(r[i].failed, 0);
		fz_store_close(r[i].s);
	}
	assert_int_equal(won, 50);
}

/* Puts and deletes in one directory that comes and goes. */
static void *churn(void *arg)
{
	struct racer *r = arg;
	char key[32];
	const char *keys[1] = {key};

	snprintf(key, sizeof(key), "churn/a/b/%d", r->n);
	for (int i = 0; i < 200; i++) {
		r->failed += put(r->s, key, "x", NULL) != 0;
		r->failed += fz_store_delete(r->s, keys, 1, NULL, NULL) != 0;
	}
	return NULL;
}

static void put_survives_a_delete_of_its_directory(void **state)
{
	struct racer r[3] = {{0}};
	char path[PATH_MAX + 16];

	for (int i = 0; i < 3; i++) {
		r[i].s = open_store(false);
		r[i].n = i;
		assert_int_equal(pthread_create(&r[i].thread, NULL, churn, &r[i]), 0);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(r[i].thread, NULL);
		assert_int_equal(r[i].failed, 0);
		fz_store_close(r[i].s);
	}
	snprintf(path, sizeof(path), "%s/churn", root);
	assert_int_equal(access(path, F_OK), -1); /* the last delete took the directories along */
}

static void lists_like_s3(void **state)
{
	static const char *const keys[] = {"a",      "a-b/x",   "a.db/1",     "a/0", "a/b/1", "a/b/2",
	                                   "a/b0/1", "b/c/d/e", "\xc3\xa9/1", "z",   "A"};
	static const struct {
		const char *prefix, *after;
		bool delimiter;
		const char *want; /* separated by '|' */
	} t[] = {
	        {"",       NULL,    false, "A|a|a-b/x|a.db/1|a/0|a/b/1|a/b/2|a/b0/1|b/c/d/e|z|\xc3\xa9/1"},
	        {"a",      NULL,    false, "a|a-b/x|a.db/1|a/0|a/b/1|a/b/2|a/b0/1"                       },
	        {"a/",     NULL,    false, "a/0|a/b/1|a/b/2|a/b0/1"                                      },
	        {"a/b",    NULL,    false, "a/b/1|a/b/2|a/b0/1"                                          },
	        {"a/b/",   NULL,    false, "a/b/1|a/b/2"                                                 },
	        {"a/b/1",  NULL,    false, "a/b/1"	                                               },
	        {"a/b/1/", NULL,    false, ""	                                                    },
	        {"nope/",  NULL,    false, ""	                                                    },
	        {"",       "a/b/1", false, "a/b/2|a/b0/1|b/c/d/e|z|\xc3\xa9/1"                           },
	        {"",       "a/b",   false, "a/b/1|a/b/2|a/b0/1|b/c/d/e|z|\xc3\xa9/1"                     },
	        {"a/",     "a/b/9", false, "a/b0/1"	                                              },
	        {"",       "zz",    false, "\xc3\xa9/1"	                                          },
	        {"",       NULL,    true,  "A|a|a-b/|a.db/|a/|b/|z|\xc3\xa9/"                            },
	        {"a",      NULL,    true,  "a|a-b/|a.db/|a/"                                             },
	        {"a/",     NULL,    true,  "a/0|a/b/|a/b0/"                                              },
	        {"a/b",    NULL,    true,  "a/b/|a/b0/"	                                          },
	        {"b/",     NULL,    true,  "b/c/"	                                                },
	        {"a/",     "a/0",   true,  "a/b/|a/b0/"	                                          },
	};
	struct fz_store *s = open_store(false);
	char path[PATH_MAX + 16];

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (strcmp(keys[i], "a") == 0 || strncmp(keys[i], "a/", 2) != 0)
			(void)!put(s, keys[i], keys[i], NULL);
	/* "a" is an object and "a/0" lies below it: a directory cannot hold both, S3 can */
	assert_int_equal(put(s, "a/0", "x", NULL), -FZ_ESTORE);
	assert_int_equal(fz_store_delete(s, (const char *[]){"a"}, 1, NULL, NULL), 0);
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (strncmp(keys[i], "a/", 2) == 0)
			assert_int_equal(put(s, keys[i], keys[i], NULL), 0);
	snprintf(path, sizeof(path), "%s/a/none", root); /* S3 knows no empty directories */
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/a/.fz-tmp.0123", root); /* of a put that was killed, or runs */
	assert_int_equal(fz_write_file(AT_FDCWD, path, "x", 1, 0600, NULL), 0);

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_store_list l = {0};
		struct fz_buf got = {0}, want = {0};

		assert_int_equal(fz_store_list(s, t[i].prefix, t[i].after, t[i].delimiter, &l, NULL), 0);
		for (size_t k = 0; k < l.n; k++) {
			assert_int_equal(fz_buf_addf(&got, "%s%s", got.size ? "|" : "", l.v[k].key), 0);
			if (l.v[k].key[strlen(l.v[k].key) - 1] != '/')
				assert_true(l.v[k].size_bytes == strlen(l.v[k].key) && l.v[k].mtime_ms > 0);
		}
		/* the table is S3's view; take the object "a" out */
		for (const char *p = t[i].want; *p;) {
			size_t n = strcspn(p, "|");

			if (n != 1 || *p != 'a')
				assert_int_equal(fz_buf_addf(&want, "%s%.*s", want.size ? "|" : "", (int)n, p), 0);
			p += n + (p[n] == '|');
		}
		print_message("  prefix \"%s\" after \"%s\"\n", t[i].prefix, t[i].after ? t[i].after : "");
		assert_string_equal(fz_buf_str(&got), fz_buf_str(&want));
		fz_buf_fini(&got);
		fz_buf_fini(&want);
		fz_store_list_fini(&l);
	}
	assert_int_equal(access(path, F_OK), 0); /* fresh: it may be somebody's */
	assert_int_equal(utimensat(AT_FDCWD, path,
	                           (struct timespec[2]){
	                                   {1000000, 0},
                                           {1000000, 0}
        },
	                           0),
	                 0);
	{
		struct fz_store_list l = {0};

		assert_int_equal(fz_store_list(s, "", NULL, false, &l, NULL), 0);
		fz_store_list_fini(&l);
	}
	assert_int_equal(access(path, F_OK), -1);
	fz_store_close(s);
}

static void deletes_and_takes_empty_directories_along(void **state)
{
	struct fz_store *s = open_store(false);
	size_t failed = 9;
	char path[PATH_MAX + 16];

	assert_int_equal(put(s, "d/e/f", "x", NULL), 0);
	assert_int_equal(put(s, "d/g", "x", NULL), 0);
	assert_int_equal(fz_store_delete(s, (const char *[]){"d/e/f", "missing", "d/e/f", "no/such"}, 4, &failed, NULL),
	                 0);
	assert_int_equal(failed, 0);
	snprintf(path, sizeof(path), "%s/d/e", root);
	assert_int_equal(access(path, F_OK), -1);
	assert_object(s, "d/g", "x");
	assert_int_equal(fz_store_delete(s, (const char *[]){"d/g"}, 1, NULL, NULL), 0);
	assert_int_equal(count_files(root), 0);
	assert_int_equal(access(root, F_OK), 0); /* the root stays */
	fz_store_close(s);
}

static void a_source_reads_ranges_and_outlives_replacement(void **state)
{
	struct fz_store *s = open_store(false);
	struct fz_src *src = NULL;
	char got[8] = {0};

	assert_int_equal(put(s, "r", "0123456789", NULL), 0);
	assert_int_equal(fz_store_src(s, "r", 9, &src, NULL), -FZ_ESTORE); /* not the size of the listing */
	assert_int_equal(fz_store_src(s, "nope", UINT64_MAX, &src, NULL), -FZ_ENOTFOUND);
	assert_int_equal(fz_store_src(s, "r", UINT64_MAX, &src, NULL), 0);
	assert_int_equal(src->size_bytes, 10);
	assert_int_equal(fz_src_read(src, 3, got, 4, NULL), 0);
	assert_string_equal(got, "3456");
	assert_int_equal(fz_src_read(src, 8, got, 4, NULL), -FZ_ETRUNCATED);
	assert_int_equal(put(s, "r", "abcdefghij", NULL), 0);
	assert_int_equal(fz_src_read(src, 3, got, 4, NULL), 0);
	assert_string_equal(got, "3456"); /* never a mixture */
	fz_src_close(src);
	fz_store_close(s);
}

static void a_missing_root_is_told_clearly(void **state)
{
	char saved[sizeof(url)], path[PATH_MAX + 16];
	struct fz_store_list l = {0};
	struct fz_buf b = {0};
	struct fz_err err;
	struct fz_store *s;

	memcpy(saved, url, sizeof(url));
	snprintf(url, sizeof(url), "dir:%.3000s/deep/er", root);
	s = open_store(false);
	assert_int_equal(put(s, "a", "x", &err), -FZ_ESTORE);
	assert_non_null(strstr(err.text, "does not exist"));
	assert_int_equal(fz_store_get(s, "a", 9, &b, &err), -FZ_ENOTFOUND);
	assert_non_null(strstr(err.text, "does not exist"));
	assert_int_equal(fz_store_list(s, "", NULL, false, &l, &err), -FZ_ENOTFOUND);
	fz_store_close(s);

	s = open_store(true);
	assert_int_equal(fz_store_list(s, "", NULL, false, &l, &err), 0);
	assert_int_equal(l.n, 0);
	assert_int_equal(put(s, "a", "x", &err), 0);
	assert_object(s, "a", "x");
	fz_store_close(s);

	snprintf(path, sizeof(path), "%s/plain", root);
	assert_int_equal(fz_write_file(AT_FDCWD, path, "x", 1, 0600, NULL), 0);
	snprintf(url, sizeof(url), "dir:%.3000s", path);
	s = open_store(true);
	assert_int_equal(put(s, "a", "x", &err), -FZ_ESTORE);
	assert_non_null(strstr(err.text, "not a directory"));
	fz_store_close(s);
	memcpy(url, saved, sizeof(url));
}

static void cancel_ends_everything(void **state)
{
	struct fz_store *s = open_store(false);
	struct fz_src *src = NULL;
	struct fz_buf b = {0};
	char c;

	assert_int_equal(put(s, "c", "x", NULL), 0);
	assert_int_equal(fz_store_src(s, "c", 1, &src, NULL), 0);
	fz_store_cancel(s);
	assert_int_equal(put(s, "c", "y", NULL), -ECANCELED);
	assert_int_equal(fz_store_get(s, "c", 1, &b, NULL), -ECANCELED);
	assert_int_equal(fz_src_read(src, 0, &c, 1, NULL), -ECANCELED);
	assert_int_equal(fz_store_delete(s, (const char *[]){"c"}, 1, NULL, NULL), -ECANCELED);
	fz_src_close(src);
	fz_store_close(s);
}

/* In a child with mounts of its own (as root): a file system of 1 MiB, then read-only. */
static int full_and_readonly(void)
{
	struct fz_store *s = NULL;
	struct fz_err err = {0};
	struct fz_src *src = NULL;
	struct fz_store_list l = {0};
	char *big = calloc(1, 4 << 20);
	int rc = 1;

	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("fz-test", root, "tmpfs", 0, "size=1m") < 0) {
		perror("mount");
		goto out;
	}
	if (fz_store_open(&s, url, NULL, &err) < 0 || put(s, "small", "x", &err) < 0 ||
	    fz_src_mem(&src, big, 4 << 20, &err) < 0)
		goto out;
	rc = 2;
	if (fz_store_put(s, "dir/big", src, &err) != -ENOSPC || !strstr(err.text, "no space left"))
		goto out;
	rc = 3; /* nothing of it stays, and there is room again */
	if (fz_store_list(s, "", NULL, false, &l, &err) < 0 || l.n != 1 || put(s, "next", "y", &err) < 0)
		goto out;
	rc = 4;
	if (mount(NULL, root, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0 || put(s, "ro", "x", &err) != -FZ_ESTORE ||
	    !strstr(err.text, "read-only"))
		goto out;
	rc = 5;
	if (fz_store_delete(s, (const char *[]){"small"}, 1, NULL, &err) != -FZ_ESTORE)
		goto out;
	rc = 0;
out:
	if (rc)
		fprintf(stderr, "step %d: %s\n", rc, err.text);
	fz_store_list_fini(&l);
	fz_src_close(src);
	fz_store_close(s);
	free(big);
	return rc;
}

static void full_and_readonly_disks_are_told_apart(void **state)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0)
		_exit(unshare(CLONE_NEWNS) < 0 ? 9 : full_and_readonly());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, make_root, remove_root)
	const struct CMUnitTest tests[] = {
	        T(stores_and_replaces),
	        T(never_leaves_the_root),
	        T(claims_once),
	        T(replaces_one_version_once),
	        T(one_of_many_wins_each_claim),
	        T(put_survives_a_delete_of_its_directory),
	        T(lists_like_s3),
	        T(deletes_and_takes_empty_directories_along),
	        T(a_source_reads_ranges_and_outlives_replacement),
	        T(a_missing_root_is_told_clearly),
	        T(cancel_ends_everything),
	        T(full_and_readonly_disks_are_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
