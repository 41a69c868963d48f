/* test_ltx_age.c - age encryption, judged by the published test vectors (tests/golden/age) and by the age program in
 * both directions. Runs in the project's root. */
#include "base/file.h"
#include "ltx/age.h"
#include "ltx/bech32.h"
#include "tests/unit/ok.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define VECTORS "tests/golden/age/testkit"

extern char **environ;

static char dir[] = "/tmp/fz-age-XXXXXX";
static struct fz_err err;

#define OK(call) OK_OR(call, err)

static const char *path(const char *name)
{
	static char out[4][256];
	static int turn;

	turn = (turn + 1) % 4;
	snprintf(out[turn], sizeof(out[turn]), "%s/%s", dir, name);
	return out[turn];
}

static int group_setup(void **state)
{
	return sodium_init() < 0 || !mkdtemp(dir) ? -1 : 0;
}

static int group_teardown(void **state)
{
	return fz_remove_tree(AT_FDCWD, dir, &err);
}

/* Runs a program; out_path takes its standard output, in_path is its standard input (both may be NULL). */
static int run(const char *const *argv, const char *in_path, const char *out_path)
{
	posix_spawn_file_actions_t fa;
	int status, rc;
	pid_t pid;

	posix_spawn_file_actions_init(&fa);
	if (in_path)
		posix_spawn_file_actions_addopen(&fa, 0, in_path, O_RDONLY, 0);
	if (out_path)
		posix_spawn_file_actions_addopen(&fa, 1, out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	rc = posix_spawnp(&pid, argv[0], &fa, NULL, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	if (rc)
		fail_msg("cannot start %s: %s", argv[0], strerror(rc));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void write_file(const char *p, const void *data, size_t n)
{
	int fd = open(p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	OK(fz_pwrite(fd, data, n, 0));
	close(fd);
}

static void read_all(struct fz_src *src, struct fz_buf *out)
{
	uint8_t *p = fz_buf_room(out, src->size_bytes + 1);

	assert_non_null(p);
	OK(fz_src_read(src, 0, p, src->size_bytes, &err));
	out->size = src->size_bytes;
}

static void encrypt(struct fz_buf *out, const void *data, size_t n, size_t step, const struct ltx_age_recipient *r,
                    size_t n_r)
{
	struct ltx_age_writer *w;
	struct fz_buf_sink sink;

	fz_buf_sink_init(&sink, out);
	OK(ltx_age_writer_open(&w, &sink.sink, r, n_r, &err));
	for (size_t at = 0; at < n; at += step)
		OK(fz_sink_write(ltx_age_writer_sink(w), (const uint8_t *)data + at, n - at < step ? n - at : step,
		                 &err));
	OK(ltx_age_writer_finish(w, &err));
	ltx_age_writer_close(w);
}

/* ---- the published vectors --------------------------------------------------------------------------------------- */

struct vector {
	char expect[32], payload[65];
	bool zlib, passphrase, foreign; /* foreign: armor, only a passphrase, another kind of identity */
	struct ltx_age_identity id[4];
	struct ltx_age_identities ids;
	struct fz_buf raw;
	const uint8_t *file;
	size_t file_bytes;
};

static void read_vector(struct vector *v, const char *name)
{
	char p[512], *line;

	*v = (struct vector){.ids.v = v->id};
	snprintf(p, sizeof(p), VECTORS "/%s", name);
	OK(fz_read_file(AT_FDCWD, p, 1 << 20, &v->raw, &err));
	for (line = (char *)v->raw.data; *line != '\n';) {
		char *end = strchr(line, '\n');

		*end = 0;
		if (!strncmp(line, "expect: ", 8)) {
			snprintf(v->expect, sizeof(v->expect), "%s", line + 8);
		} else if (!strncmp(line, "payload: ", 9)) {
			snprintf(v->payload, sizeof(v->payload), "%s", line + 9);
		} else if (!strncmp(line, "compressed: ", 12)) {
			assert_string_equal(line + 12, "zlib");
			v->zlib = true;
		} else if (!strncmp(line, "identity: ", 10)) {
			if (!strncmp(line + 10, "AGE-SECRET-KEY-PQ-", 18))
				v->foreign = true;
			else
				OK(ltx_age_identity_parse(&v->id[v->ids.n++], line + 10, &err));
		} else if (!strncmp(line, "armored: ", 9)) {
			v->foreign = true;
		} else if (!strncmp(line, "passphrase: ", 12)) {
			v->passphrase = true;
		} else {
			assert_true(!strncmp(line, "file key: ", 10) || !strncmp(line, "comment: ", 9));
		}
		line = end + 1;
	}
	if (v->passphrase && v->ids.n == 0)
		v->foreign = true;
	v->file = (uint8_t *)line + 1;
	v->file_bytes = v->raw.size - (size_t)(v->file - v->raw.data);
	if (v->zlib) {
		static const char *const inflate[] = {
		        "python3", "-c",
		        "import sys,zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))", NULL};

		write_file(path("z"), v->file, v->file_bytes);
		fz_buf_reset(&v->raw);
		assert_int_equal(run(inflate, path("z"), path("inflated")), 0);
		OK(fz_read_file(AT_FDCWD, path("inflated"), 64 << 20, &v->raw, &err));
		v->file = v->raw.data;
		v->file_bytes = v->raw.size;
	}
}

/* What our error says in the words of the vectors. */
static const char *outcome(int rc)
{
	if (rc == 0)
		return "success";
	if (rc == -FZ_ENOKEY)
		return "no match";
	assert_true(rc == -FZ_ECRYPT || rc == -FZ_EVERSION);
	if (!strncmp(err.text, "age header MAC", 14))
		return "HMAC failure";
	if (!strncmp(err.text, "age header: ", 12))
		return "header failure";
	assert_int_equal(strncmp(err.text, "age payload: ", 13), 0);
	return "payload failure";
}

static void published_vectors(void **state)
{
	size_t ran = 0, foreign = 0;
	struct dirent *e;
	DIR *d = opendir(VECTORS);

	assert_non_null(d);
	while ((e = readdir(d))) {
		struct fz_src *cipher, *plain = NULL;
		struct fz_buf text = {0};
		struct vector v;
		const char *got;
		int rc;

		if (e->d_name[0] == '.')
			continue;
		read_vector(&v, e->d_name);
		if (v.foreign) {
			foreign++;
			fz_buf_fini(&v.raw);
			continue;
		}
		ran++;
		OK(fz_src_mem(&cipher, v.file, v.file_bytes, &err));
		rc = ltx_age_src(&plain, cipher, &v.ids, &err);
		/* a broken chunk in the middle is found when it is read */
		if (rc == 0) {
			uint8_t *p = fz_buf_room(&text, plain->size_bytes + 1);

			rc = fz_src_read(plain, 0, p, plain->size_bytes, &err);
			text.size = plain->size_bytes;
		}
		got = outcome(rc);
		if (strcmp(got, v.expect))
			fail_msg("%s: expected %s, got %s (%s)", e->d_name, v.expect, got, rc < 0 ? err.text : "");
		if (rc == 0) {
			uint8_t hash[32];
			char hex[65];

			crypto_hash_sha256(hash, text.data, text.size);
			sodium_bin2hex(hex, sizeof(hex), hash, sizeof(hash));
			assert_string_equal(hex, v.payload);
		}
		fz_src_close(plain);
		fz_src_close(cipher);
		fz_buf_fini(&text);
		fz_buf_fini(&v.raw);
	}
	closedir(d);
	print_message("             %zu vectors, %zu of kinds that fazt does not write or read\n", ran, foreign);
	assert_int_equal(ran, 68);
	assert_int_equal(foreign, 75);
}

/* ---- the age program --------------------------------------------------------------------------------------------- */

static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 131072, 1048576, 1048577};

static void key_files_fit(void **state)
{
	char recipient[LTX_AGE_RECIPIENT_SIZE], want[LTX_AGE_RECIPIENT_SIZE + 1];
	struct ltx_age_identities ids;
	struct ltx_age_recipient r, again;
	struct fz_buf out = {0};
	struct stat st;

	OK(ltx_age_keygen(path("ours"), &r, &err));
	OK(stat(path("ours"), &st));
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(ltx_age_keygen(path("ours"), &again, &err), -FZ_EEXISTS);
	snprintf(want, sizeof(want), "%s\n", ltx_age_recipient_format(recipient, &r));
	assert_int_equal(run((const char *[]){"age-keygen", "-y", path("ours"), NULL}, NULL, path("pub")), 0);
	OK(fz_read_file(AT_FDCWD, path("pub"), 1000, &out, &err));
	assert_string_equal(fz_buf_str(&out), want);
	OK(ltx_age_identities_read(&ids, path("ours"), &err));
	assert_int_equal(ids.n, 1);
	ltx_age_identity_recipient(&ids.v[0], &again);
	assert_memory_equal(&r, &again, sizeof(r));
	ltx_age_identities_free(&ids);

	assert_int_equal(run((const char *[]){"age-keygen", "-o", path("theirs"), NULL}, NULL, NULL), 0);
	OK(ltx_age_identities_read(&ids, path("theirs"), &err));
	assert_int_equal(ids.n, 1);
	ltx_age_identity_recipient(&ids.v[0], &again);
	fz_buf_reset(&out);
	assert_int_equal(run((const char *[]){"age-keygen", "-y", path("theirs"), NULL}, NULL, path("pub")), 0);
	OK(fz_read_file(AT_FDCWD, path("pub"), 1000, &out, &err));
	snprintf(want, sizeof(want), "%s\n", ltx_age_recipient_format(recipient, &again));
	assert_string_equal(fz_buf_str(&out), want);
	ltx_age_identities_free(&ids);
	fz_buf_fini(&out);
}

static void age_program_both_ways(void **state)
{
	char r1[LTX_AGE_RECIPIENT_SIZE], r2[LTX_AGE_RECIPIENT_SIZE];
	struct ltx_age_recipient r[2];
	struct ltx_age_identities ids[2];
	uint8_t *data = malloc(2 << 20);

	OK(ltx_age_keygen(path("k1"), &r[0], &err));
	OK(ltx_age_keygen(path("k2"), &r[1], &err));
	OK(ltx_age_identities_read(&ids[0], path("k1"), &err));
	OK(ltx_age_identities_read(&ids[1], path("k2"), &err));
	ltx_age_recipient_format(r1, &r[0]);
	ltx_age_recipient_format(r2, &r[1]);
	randombytes_buf_deterministic(data, 2 << 20, (const uint8_t[randombytes_SEEDBYTES]){1});
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct fz_buf cipher = {0}, back = {0};
		struct fz_src *c, *p;

		/* ours, opened by age with either key */
		encrypt(&cipher, data, sizes[i], 10007, r, 2);
		assert_int_equal(cipher.size, ltx_age_size(sizes[i], 2));
		write_file(path("c"), cipher.data, cipher.size);
		for (int k = 0; k < 2; k++) {
			fz_buf_reset(&back);
			assert_int_equal(
			        run((const char *[]){"age", "-d", "-i", path(k ? "k2" : "k1"), path("c"), NULL}, NULL,
			            path("p")),
			        0);
			OK(fz_read_file(AT_FDCWD, path("p"), 2 << 20, &back, &err));
			assert_int_equal(back.size, sizes[i]);
			assert_true(sizes[i] == 0 || !memcmp(back.data, data, sizes[i]));
		}
		/* age's, opened by us with either key */
		write_file(path("p"), data, sizes[i]);
		assert_int_equal(
		        run((const char *[]){"age", "-r", r1, "-r", r2, "-o", path("c"), path("p"), NULL}, NULL, NULL),
		        0);
		fz_buf_reset(&cipher);
		OK(fz_read_file(AT_FDCWD, path("c"), 4 << 20, &cipher, &err));
		assert_int_equal(cipher.size, ltx_age_size(sizes[i], 2));
		for (int k = 0; k < 2; k++) {
			OK(fz_src_mem(&c, cipher.data, cipher.size, &err));
			OK(ltx_age_src(&p, c, &ids[k], &err));
			fz_buf_reset(&back);
			read_all(p, &back);
			assert_int_equal(back.size, sizes[i]);
			assert_true(sizes[i] == 0 || !memcmp(back.data, data, sizes[i]));
			fz_src_close(p);
			fz_src_close(c);
		}
		fz_buf_fini(&cipher);
		fz_buf_fini(&back);
	}
	ltx_age_identities_free(&ids[0]);
	ltx_age_identities_free(&ids[1]);
	free(data);
}

/* Another header, the same payload: `age` opens it with the new key and not with the old one. */
static void other_recipients(void **state)
{
	struct ltx_age_recipient r[3];
	struct ltx_age_identities ids[3];
	static const char *const keys[] = {"r0", "r1", "r2"};
	uint8_t *data = malloc(2 << 20);

	for (int k = 0; k < 3; k++) {
		OK(ltx_age_keygen(path(keys[k]), &r[k], &err));
		OK(ltx_age_identities_read(&ids[k], path(keys[k]), &err));
	}
	randombytes_buf_deterministic(data, 2 << 20, (const uint8_t[randombytes_SEEDBYTES]){2});
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct fz_buf cipher = {0}, now = {0}, back = {0};
		struct fz_src *c = NULL;
		uint64_t off = 0;

		encrypt(&cipher, data, sizes[i], 10007, r, 1);
		OK(fz_src_mem(&c, cipher.data, cipher.size, &err));
		assert_int_equal(ltx_age_rekey(c, &ids[1], &r[1], 2, &now, &off, &err), -FZ_ENOKEY);
		assert_int_equal(ltx_age_rekey(c, &ids[0], NULL, 0, &now, &off, &err), -FZ_ECONFIG);
		fz_buf_reset(&now);
		OK(ltx_age_rekey(c, &ids[0], &r[1], 2, &now, &off, &err));
		OK(fz_buf_add(&now, cipher.data + off, cipher.size - off));
		assert_int_equal(now.size, ltx_age_size(sizes[i], 2));
		write_file(path("c"), now.data, now.size);
		for (int k = 0; k < 3; k++) {
			int rc = run((const char *[]){"age", "-d", "-i", path(keys[k]), path("c"), NULL}, "/dev/null",
			             path("p"));

			assert_int_equal(rc != 0, k == 0);
			if (rc)
				continue;
			fz_buf_reset(&back);
			OK(fz_read_file(AT_FDCWD, path("p"), 2 << 20, &back, &err));
			assert_int_equal(back.size, sizes[i]);
			assert_true(sizes[i] == 0 || !memcmp(back.data, data, sizes[i]));
		}
		/* a header that was changed is no ground for a new one */
		cipher.data[30] ^= 1;
		fz_buf_reset(&now);
		assert_true(ltx_age_rekey(c, &ids[0], &r[1], 2, &now, &off, &err) < 0);
		fz_src_close(c);
		fz_buf_fini(&cipher);
		fz_buf_fini(&now);
		fz_buf_fini(&back);
	}
	for (int k = 0; k < 3; k++)
		ltx_age_identities_free(&ids[k]);
	free(data);
}

/* ---- our own ----------------------------------------------------------------------------------------------------- */

struct range_reader {
	struct fz_src *p;
	const uint8_t *data;
	pthread_t thread;
	_Atomic int failed;
};

static void *read_ranges(void *arg)
{
	struct range_reader *r = arg;
	uint64_t seed = (uintptr_t)r;
	uint8_t *buf = malloc(300000);

	for (int i = 0; i < 300 && !r->failed; i++) {
		uint64_t off, n;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		off = (seed >> 20) % r->p->size_bytes;
		n = (seed >> 5) % (i % 10 ? 3000 : 300000);
		if (n > r->p->size_bytes - off)
			n = r->p->size_bytes - off;
		if (fz_src_read(r->p, off, buf, n, NULL) < 0 || memcmp(buf, r->data + off, n))
			r->failed = 1;
	}
	free(buf);
	return NULL;
}

static void any_range_from_any_thread(void **state)
{
	size_t n = 5 * 65536 + 1234;
	struct ltx_age_identity id;
	struct ltx_age_identities ids = {&id, 1};
	struct ltx_age_recipient r;
	struct range_reader readers[3];
	struct fz_buf cipher = {0};
	uint8_t *data = malloc(n);
	struct fz_src *c, *p;

	ltx_age_identity_make(&id);
	ltx_age_identity_recipient(&id, &r);
	randombytes_buf(data, n);
	encrypt(&cipher, data, n, 200000, &r, 1);
	OK(fz_src_mem(&c, cipher.data, cipher.size, &err));
	OK(ltx_age_src(&p, c, &ids, &err));
	for (int i = 0; i < 3; i++) {
		readers[i] = (struct range_reader){.p = p, .data = data};
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_ranges, &readers[i]), 0);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(readers[i].thread, NULL);
		assert_int_equal(readers[i].failed, 0);
	}
	assert_int_equal(fz_src_read(p, n, data, 1, &err), -FZ_ETRUNCATED);
	fz_src_close(p);
	fz_src_close(c);
	fz_buf_fini(&cipher);
	free(data);
}

/* A source that counts its reads, as a store counts requests. */
struct counted_src {
	struct fz_src src, *of;
	unsigned reads;
	uint64_t bytes;
};

static int counted_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *e)
{
	struct counted_src *c = (struct counted_src *)s;

	c->reads++;
	c->bytes += n;
	return fz_src_read(c->of, off, data, n, e);
}

static void a_range_is_one_read(void **state)
{
	const uint64_t chunk = 65536, sealed = chunk + 16, last = 40 * chunk;
	const struct {
		uint64_t off, n;
		unsigned reads;
		uint64_t bytes;
	} cases[] = {
	        {last + 10,      100,            0, 0                 }, /* came with the open */
	        {last - 100,     200,            1, sealed            }, /* so did the second half of this */
	        {0,              chunk,          1, sealed            },
	        {5 * chunk,      8 * chunk,      1, 8 * sealed        },
	        {5 * chunk + 7,  8 * chunk,      1, 9 * sealed        },
	        {13 * chunk + 7, 8 * chunk,      1, 8 * sealed        }, /* reads on where the one before ended */
	        {21 * chunk + 7, 1,              0, 0                 },
	        {1,              1 << 20,        1, 17 * sealed       },
	        {17 * chunk,     23 * chunk + 9, 2, 23 * sealed + 5016}, /* more than is fetched at once */
	        {16 * chunk + 3, 1,              1, sealed            },
	        {0,              40 * chunk,     3, 39 * sealed       }, /* the one that is known cuts the first read short */
	};
	size_t n = 40 * 65536 + 5000;
	struct ltx_age_identity id;
	struct ltx_age_identities ids = {&id, 1};
	struct ltx_age_recipient r;
	struct fz_buf cipher = {0};
	uint8_t *data = malloc(n), *got = malloc(n);
	struct counted_src c = {0};
	struct fz_src *p;

	ltx_age_identity_make(&id);
	ltx_age_identity_recipient(&id, &r);
	randombytes_buf(data, n);
	encrypt(&cipher, data, n, 200000, &r, 1);
	OK(fz_src_mem(&c.of, cipher.data, cipher.size, &err));
	c.src = (struct fz_src){counted_read, NULL, cipher.size};
	OK(ltx_age_src(&p, &c.src, &ids, &err));
	assert_int_equal(c.reads, 2); /* header with nonce, last chunk */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		c.reads = 0;
		c.bytes = 0;
		OK(fz_src_read(p, cases[i].off, got, cases[i].n, &err));
		assert_memory_equal(got, data + cases[i].off, cases[i].n);
		if (c.reads != cases[i].reads || c.bytes != cases[i].bytes)
			fail_msg("case %zu: %u reads of %llu bytes", i, c.reads, (unsigned long long)c.bytes);
	}
	/* one damaged chunk fails the ranges that touch it, and no others */
	cipher.data[cipher.size - 5016 - 30 * sealed] ^= 1;
	assert_int_equal(fz_src_read(p, 8 * chunk, got, 5 * chunk, &err), -FZ_ECRYPT);
	OK(fz_src_read(p, 11 * chunk, got, 5 * chunk, &err));
	assert_memory_equal(got, data + 11 * chunk, 5 * chunk);
	fz_src_close(p);
	fz_src_close(c.of);
	fz_buf_fini(&cipher);
	free(data);
	free(got);
}

/* Every byte of header and payload counts: flip any one of them, cut anywhere, and nothing is released. Several files,
 * since which digits the base64 parts hold is chance. */
static void every_flip_and_every_cut_is_seen(void **state)
{
	struct ltx_age_identity id;
	struct ltx_age_identities ids = {&id, 1};
	struct ltx_age_recipient r;
	struct fz_src *c, *p;

	ltx_age_identity_make(&id);
	ltx_age_identity_recipient(&id, &r);
	for (int round = 0; round < 20; round++) {
		struct fz_buf cipher = {0};

		encrypt(&cipher, "the quick brown fox", 19, 19, &r, 1);
		for (size_t i = 0; i < cipher.size; i++) {
			for (int bit = round ? 7 : 0; bit < 8; bit++) {
				cipher.data[i] ^= (uint8_t)(1 << bit);
				OK(fz_src_mem(&c, cipher.data, cipher.size, &err));
				if (ltx_age_src(&p, c, &ids, &err) == 0)
					fail_msg("byte %zu, bit %d: not seen", i, bit);
				fz_src_close(c);
				cipher.data[i] ^= (uint8_t)(1 << bit);
			}
			OK(fz_src_mem(&c, cipher.data, i, &err));
			assert_int_not_equal(ltx_age_src(&p, c, &ids, &err), 0);
			fz_src_close(c);
		}
		fz_buf_fini(&cipher);
	}
}

static void detect(void **state)
{
	static const struct {
		const char *text;
		bool want;
	} cases[] = {
	        {"age-encryption.org/v1\n-> X25519", true },
	        {"",	                         false},
	        {"LTX1",	                     false},
	        {"age-encryption.com/v1\n",          false}
        };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fz_src *s;
		bool is;

		OK(fz_src_mem(&s, cases[i].text, strlen(cases[i].text), &err));
		OK(ltx_age_detect(s, &is, &err));
		assert_int_equal(is, cases[i].want);
		fz_src_close(s);
	}
}

/* Keys of age's own documentation and tests; and what is wrong with others. */
static void recipients(void **state)
{
	static const struct {
		const char *name, *text;
		int want;
	} cases[] = {
	        {"right",          "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj",    0          },
	        {"checksum",       "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwk",    -FZ_ECONFIG},
	        {"upper case",     "AGE1ZVKYG2LQZRAA2LNJVQEJ32NKUU0UES2S82HZRYE869XEEXVN73EQUNUJWJ",    -FZ_ECONFIG},
	        {"mixed case",     "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujWJ",    -FZ_ECONFIG},
	        {"one short",      "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujw",     -FZ_ECONFIG},
	        {"a space behind", "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj ",   -FZ_ECONFIG},
	        {"ssh key",        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM", -FZ_ECONFIG},
	        {"empty",          "",	                                                          -FZ_ECONFIG},
	};
	struct ltx_age_recipient r;
	char text[LTX_AGE_RECIPIENT_SIZE];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int rc = ltx_age_recipient_parse(&r, cases[i].text, &err);

		if (rc != cases[i].want)
			fail_msg("%s: %d", cases[i].name, rc);
		if (rc == 0)
			assert_string_equal(ltx_age_recipient_format(text, &r), cases[i].text);
	}
	/* a point of low order, well-formed as text */
	ltx_bech32_encode(text, "age", false, (const uint8_t[32]){1}, 32);
	assert_int_equal(ltx_age_recipient_parse(&r, text, &err), -FZ_ECONFIG);
}

static void key_file_rules(void **state)
{
	static const char key[] = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
	static const struct {
		const char *name, *text;
		mode_t mode;
		size_t n; /* identities; 0: -FZ_EKEYFILE */
	} cases[] = {
	        {"one",                       "%s\n",              0600, 1},
	        {"no newline at the end",     "%s",                0600, 1},
	        {"comments, blank lines, CR", "# a\n\n%s\r\n#b\n", 0400, 1},
	        {"two",                       "%s\n%s\n",          0600, 2},
	        {"for others to read",        "%s\n",              0644, 0},
	        {"for the group to read",     "%s\n",              0640, 0},
	        {"nothing in it",             "# %s\n",            0600, 0},
	        {"something else in it",      "%s\nage1abc\n",     0600, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct ltx_age_identities ids = {0};
		struct fz_buf text = {0};
		const char *at;
		int rc;

		for (const char *p = cases[i].text; *p; p = *at ? at + 2 : at) {
			at = strstr(p, "%s");
			at = at ? at : p + strlen(p);
			OK(fz_buf_add(&text, p, (size_t)(at - p)));
			if (*at)
				OK(fz_buf_add(&text, key, sizeof(key) - 1));
		}
		write_file(path("key"), text.data, text.size);
		OK(chmod(path("key"), cases[i].mode));
		rc = ltx_age_identities_read(&ids, path("key"), &err);
		if (rc != (cases[i].n ? 0 : -FZ_EKEYFILE) || ids.n != cases[i].n)
			fail_msg("%s: %d (%s)", cases[i].name, rc, err.text);
		if (rc < 0)
			assert_null(strstr(err.text, "GFPYYSJZ")); /* no secret in a sentence */
		ltx_age_identities_free(&ids);
		fz_buf_fini(&text);
		OK(unlink(path("key")));
	}
	assert_int_equal(ltx_age_identities_read(&(struct ltx_age_identities){0}, path("missing"), &err), -FZ_EKEYFILE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(published_vectors),
	        cmocka_unit_test(key_files_fit),
	        cmocka_unit_test(age_program_both_ways),
	        cmocka_unit_test(other_recipients),
	        cmocka_unit_test(any_range_from_any_thread),
	        cmocka_unit_test(a_range_is_one_read),
	        cmocka_unit_test(every_flip_and_every_cut_is_seen),
	        cmocka_unit_test(detect),
	        cmocka_unit_test(recipients),
	        cmocka_unit_test(key_file_rules),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
