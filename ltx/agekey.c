/* agekey.c - age recipients and identities as text and as key files. */
#include "base/clock.h"
#include "base/file.h"
#include "ltx/age.h"
#include "ltx/bech32.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECIPIENT_HRP "age"
#define IDENTITY_HRP  "AGE-SECRET-KEY-"
#define MAX_KEY_FILE  (64u << 10)

int ltx_age_recipient_parse(struct ltx_age_recipient *r, const char *text, struct fz_err *err)
{
	static const uint8_t some_secret[32] = {1};
	uint8_t shared[32];

	if (ltx_bech32_decode(text, RECIPIENT_HRP, r->public_key, sizeof(r->public_key)) < 0)
		return fz_fail(err, FZ_ECONFIG, "not an age recipient (age1...): %.80s", text);
	/* a point of low order would give every secret the same shared key */
	if (crypto_scalarmult_curve25519(shared, some_secret, r->public_key) < 0)
		return fz_fail(err, FZ_ECONFIG, "not a usable age recipient: %.80s", text);
	return 0;
}

char *ltx_age_recipient_format(char out[static LTX_AGE_RECIPIENT_SIZE], const struct ltx_age_recipient *r)
{
	ltx_bech32_encode(out, RECIPIENT_HRP, false, r->public_key, sizeof(r->public_key));
	return out;
}

int ltx_age_identity_parse(struct ltx_age_identity *i, const char *text, struct fz_err *err)
{
	/* the text is a secret: it does not go into the sentence */
	if (ltx_bech32_decode(text, IDENTITY_HRP, i->secret, sizeof(i->secret)) < 0) {
		sodium_memzero(i, sizeof(*i));
		return fz_fail(err, FZ_EKEYFILE, "not an age identity (AGE-SECRET-KEY-1...)");
	}
	return 0;
}

char *ltx_age_identity_format(char out[static LTX_AGE_IDENTITY_SIZE], const struct ltx_age_identity *i)
{
	ltx_bech32_encode(out, IDENTITY_HRP, true, i->secret, sizeof(i->secret));
	return out;
}

void ltx_age_identity_make(struct ltx_age_identity *i)
{
	if (sodium_init() < 0)
		abort(); /* no source of randomness: there is nothing safe to go on with */
	randombytes_buf(i->secret, sizeof(i->secret));
}

void ltx_age_identity_recipient(const struct ltx_age_identity *i, struct ltx_age_recipient *r)
{
	crypto_scalarmult_curve25519_base(r->public_key, i->secret);
}

/* The whole of a small secret file, into memory that the caller wipes. */
static int read_secret(const char *path, char *text, size_t cap, size_t *n, struct fz_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	struct stat st;
	ssize_t r = 1;

	*n = 0;
	if (fd < 0)
		return fz_fail(err, FZ_EKEYFILE, "cannot open key file %s: %s", path, strerror(errno));
	if (fstat(fd, &st) < 0)
		rc = fz_fail(err, FZ_EKEYFILE, "cannot read key file %s: %s", path, strerror(errno));
	else if (st.st_mode & 077)
		rc = fz_fail(err, FZ_EKEYFILE, "key file %s can be read by others (mode %03o): run chmod 600 on it",
		             path, st.st_mode & 0777u);
	while (rc == 0 && r > 0 && *n < cap) {
		r = read(fd, text + *n, cap - *n);
		if (r < 0 && errno == EINTR)
			r = 1;
		else if (r < 0)
			rc = fz_fail(err, FZ_EKEYFILE, "cannot read key file %s: %s", path, strerror(errno));
		else
			*n += (size_t)r;
	}
	if (rc == 0 && *n == cap)
		rc = fz_fail(err, FZ_EKEYFILE, "key file %s is too large", path);
	fz_close(&fd);
	return rc;
}

static int add_identity(struct ltx_age_identities *ids, const char *line, struct fz_err *err)
{
	struct ltx_age_identity *v = calloc(ids->n + 1, sizeof(*v));
	int rc;

	if (!v)
		return fz_fail_errno(err, ENOMEM, "reading a key file");
	rc = ltx_age_identity_parse(&v[ids->n], line, err);
	if (rc < 0) {
		free(v);
		return rc;
	}
	if (ids->n) {
		memcpy(v, ids->v, ids->n * sizeof(*v));
		sodium_memzero(ids->v, ids->n * sizeof(*v));
		free(ids->v);
	}
	ids->v = v;
	ids->n++;
	return 0;
}

int ltx_age_identities_read(struct ltx_age_identities *out, const char *path, struct fz_err *err)
{
	struct ltx_age_identities ids = {0};
	char *text = malloc(MAX_KEY_FILE + 1);
	size_t n = 0, number = 0;
	int rc;

	if (!text)
		return fz_fail_errno(err, ENOMEM, "reading key file %s", path);
	rc = read_secret(path, text, MAX_KEY_FILE, &n, err);
	text[n] = 0;
	for (char *line = text, *next; rc == 0 && line < text + n; line = next) {
		size_t len = strcspn(line, "\n");

		next = line + len + 1;
		line[len] = 0;
		number++;
		while (len && (line[len - 1] == '\r' || line[len - 1] == ' '))
			line[--len] = 0;
		if (line[0] == 0 || line[0] == '#')
			continue;
		rc = add_identity(&ids, line, err);
		if (rc < 0)
			rc = fz_err_prefix(err, "key file %s, line %zu", path, number);
	}
	if (rc == 0 && ids.n == 0)
		rc = fz_fail(err, FZ_EKEYFILE, "key file %s holds no identity", path);
	sodium_memzero(text, MAX_KEY_FILE + 1);
	free(text);
	if (rc < 0)
		ltx_age_identities_free(&ids);
	else
		*out = ids;
	return rc;
}

void ltx_age_identities_free(struct ltx_age_identities *ids)
{
	if (ids->v)
		sodium_memzero(ids->v, ids->n * sizeof(*ids->v));
	free(ids->v);
	ids->v = NULL;
	ids->n = 0;
}

int ltx_age_keygen(const char *path, struct ltx_age_recipient *r, struct fz_err *err)
{
	char identity[LTX_AGE_IDENTITY_SIZE], recipient[LTX_AGE_RECIPIENT_SIZE], now[FZ_TIME_SIZE];
	struct ltx_age_identity id;
	char text[512];
	int fd, rc, n;

	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno == EEXIST)
		return fz_fail(err, FZ_EEXISTS, "key file %s exists already and is left as it is", path);
	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot create key file %s", path);
	ltx_age_identity_make(&id);
	ltx_age_identity_recipient(&id, r);
	n = snprintf(text, sizeof(text), "# created: %s\n# public key: %s\n%s\n", fz_format_time(now, fz_now_ms()),
	             ltx_age_recipient_format(recipient, r), ltx_age_identity_format(identity, &id));
	rc = fz_write(fd, text, (size_t)n);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	fz_close(&fd);
	sodium_memzero(&id, sizeof(id));
	sodium_memzero(identity, sizeof(identity));
	sodium_memzero(text, sizeof(text));
	if (rc == 0)
		return fz_sync_parent(AT_FDCWD, path, err);
	unlink(path);
	return fz_fail_errno(err, -rc, "cannot write key file %s", path);
}
