#include "primary/claim.h"

#include "base/clock.h"
#include "base/file.h"
#include "store/store.h"
#include "primary/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CLAIM_MAX 4096
#define TRIES     5

int primary_claim_format(struct fz_buf *out, const struct primary_claim *c)
{
	cJSON *o = cJSON_CreateObject();
	char num[17];

	/* checksums and TXIDs as text: a JSON number holds 53 bits */
	cJSON_AddStringToObject(o, "lineage", c->lineage);
	cJSON_AddNumberToObject(o, "epoch", c->epoch);
	snprintf(num, sizeof(num), "%016" PRIx64, c->base_txid);
	cJSON_AddStringToObject(o, "base_txid", num);
	snprintf(num, sizeof(num), "%016" PRIx64, c->base_checksum);
	cJSON_AddStringToObject(o, "base_checksum", num);
	cJSON_AddStringToObject(o, "writer", c->writer);
	cJSON_AddStringToObject(o, "writer_id", c->writer_id);
	cJSON_AddNumberToObject(o, "time_ms", (double)c->time_ms);
	return primary_json_print(out, o);
}

static bool take_hex(const cJSON *o, const char *name, uint64_t *out)
{
	char text[17], *end;

	if (!primary_json_text(o, name, text, sizeof(text)) || strlen(text) != 16)
		return false;
	*out = strtoull(text, &end, 16);
	return *end == 0;
}

int primary_claim_parse(struct primary_claim *c, const char *text, struct fz_err *err)
{
	cJSON *o = cJSON_Parse(text);
	double epoch, time_ms;
	int rc = 0;

	if (!primary_json_text(o, "lineage", c->lineage, sizeof(c->lineage)) ||
	    !primary_json_number(o, "epoch", UINT32_MAX, &epoch) || !take_hex(o, "base_txid", &c->base_txid) ||
	    !take_hex(o, "base_checksum", &c->base_checksum) ||
	    !primary_json_text(o, "writer", c->writer, sizeof(c->writer)) ||
	    !primary_json_text(o, "writer_id", c->writer_id, sizeof(c->writer_id)) ||
	    !primary_json_number(o, "time_ms", 1e15, &time_ms)) {
		rc = fz_fail(err, FZ_ECORRUPT, "claim is not what fazt writes");
	} else {
		c->epoch = (uint32_t)epoch;
		c->time_ms = (int64_t)time_ms;
	}
	cJSON_Delete(o);
	return rc;
}

static int claim_key(struct fz_buf *key, const char *database, uint32_t n, struct fz_err *err)
{
	fz_buf_reset(key);
	return fz_buf_addf(key, "%s/claim/%08x", database, n) < 0 ? fz_fail_errno(err, ENOMEM, "claiming %s", database)
	                                                          : 0;
}

/* Number of the highest claim; 0 = none. */
static int highest(struct fz_store *store, const char *database, uint32_t *out, struct fz_err *err)
{
	struct fz_store_list l = {0};
	struct fz_buf prefix = {0};
	int rc = fz_buf_addf(&prefix, "%s/claim/", database) < 0 ? fz_fail_errno(err, ENOMEM, "listing claims") : 0;

	*out = 0;
	if (rc == 0)
		rc = fz_store_list(store, fz_buf_str(&prefix), NULL, false, &l, err);
	for (size_t i = 0; rc == 0 && i < l.n; i++) {
		const char *p = l.v[i].key + prefix.size;
		char *end;
		unsigned long n;

		if (strlen(p) != 8 || strspn(p, "0123456789abcdef") != 8)
			continue;
		n = strtoul(p, &end, 16);
		if (n > *out)
			*out = (uint32_t)n;
	}
	fz_store_list_fini(&l);
	fz_buf_fini(&prefix);
	return rc;
}

static int read_claim(struct fz_store *store, const char *database, uint32_t n, struct primary_claim *out,
                      struct fz_err *err)
{
	struct fz_buf key = {0}, text = {0};
	int rc = claim_key(&key, database, n, err);

	memset(out, 0, sizeof(*out));
	out->n = n;
	if (rc == 0)
		rc = fz_store_get(store, fz_buf_str(&key), CLAIM_MAX, &text, err);
	if (rc == 0) {
		rc = primary_claim_parse(out, fz_buf_str(&text), err);
		if (rc <
		    0) /* whoever wrote it, it is not ours: fencing is the safe answer, so it reads as a foreign one */
			*out = (struct primary_claim){.n = n, .writer = "an unknown writer"};
		rc = 0;
	}
	fz_buf_fini(&key);
	fz_buf_fini(&text);
	return rc;
}

static int put_claim(struct fz_store *store, const char *database, const struct primary_claim *c, struct fz_err *err)
{
	struct fz_buf key = {0}, text = {0};
	int rc = claim_key(&key, database, c->n, err);

	if (rc == 0 && primary_claim_format(&text, c) < 0)
		rc = fz_fail_errno(err, ENOMEM, "claiming %s", database);
	if (rc == 0)
		rc = fz_store_put_new(store, fz_buf_str(&key), text.data, text.size, err);
	fz_buf_fini(&key);
	fz_buf_fini(&text);
	return rc;
}

static bool may_follow(const struct primary_claim *top, const struct primary_claim *want, bool take_over)
{
	bool superseded = strcmp(top->lineage, want->lineage) == 0 && top->epoch >= want->promoted;

	return strcmp(top->writer_id, want->writer_id) == 0 || take_over || (want->promoted && !superseded) ||
	       (want->first && strcmp(top->writer_id, PRIMARY_NOBODY) == 0);
}

int primary_claim_hold(struct fz_store *store, const char *database, struct primary_claim *want, uint32_t known_n,
                       bool take_over, bool *vanished, struct fz_err *err)
{
	struct primary_claim top;
	uint32_t n;

	*vanished = false;
	for (int i = 0; i < TRIES; i++) {
		int rc = highest(store, database, &n, err);

		if (rc < 0)
			return rc;
		if (known_n && n == known_n) {
			want->n = n;
			return 0;
		}
		if (n == 0 && known_n) {
			*vanished = true;
			n = known_n; /* numbers are never used twice */
		} else if (n > 0) {
			rc = read_claim(store, database, n, &top, err);
			if (rc == -FZ_ENOTFOUND)
				continue;
			if (rc < 0)
				return rc;
			if (strcmp(top.writer_id, want->writer_id) == 0 && strcmp(top.lineage, want->lineage) == 0 &&
			    top.epoch == want->epoch) { /* put before the cursor was written */
				want->n = n;
				want->base_txid = top.base_txid; /* whatever has come to the store since */
				want->base_checksum = top.base_checksum;
				return 0;
			}
			if (want->ended && strcmp(top.writer_id, want->writer_id) == 0 &&
			    strcmp(top.lineage, want->lineage) != 0) { /* what is left of it goes out all the same */
				want->n = known_n;
				return 0;
			}
			if (!may_follow(&top, want, take_over)) {
				char when[FZ_TIME_SIZE];

				return fz_fail(err, FZ_EFENCED,
				               "%s belongs to %s since %s (claim %u); to take it over: fazt mount "
				               "--take-over (or take_over = yes)",
				               database, top.writer, fz_format_time(when, top.time_ms), n);
			}
		}
		want->n = n + 1;
		want->time_ms = fz_now_ms();
		rc = put_claim(store, database, want, err);
		if (rc != -FZ_ECONFLICT)
			return rc;
	}
	return fz_fail(err, FZ_EFENCED, "%s: claims are fought over, %d tries were lost", database, TRIES);
}

int primary_claim_top(struct fz_store *store, const char *database, struct primary_claim *out, bool *ended,
                      struct fz_err *err)
{
	struct fz_buf key = {0}, text = {0};
	uint32_t n;
	int rc = highest(store, database, &n, err);

	memset(out, 0, sizeof(*out));
	*ended = false;
	if (rc < 0 || n == 0)
		return rc;
	rc = read_claim(store, database, n, out, err);
	if (rc == 0 && fz_buf_addf(&key, "%s/claim/%08x-ended", database, n) < 0)
		rc = fz_fail_errno(err, ENOMEM, "reading claims");
	if (rc == 0) {
		rc = fz_store_get(store, fz_buf_str(&key), CLAIM_MAX, &text, err);
		*ended = rc == 0;
		rc = rc == -FZ_ENOTFOUND ? 0 : rc;
	}
	fz_buf_fini(&key);
	fz_buf_fini(&text);
	return rc;
}

int primary_claim_end(struct fz_store *store, const char *database, const struct primary_claim *c, uint64_t txid,
                      int64_t ended_ms, struct fz_err *err)
{
	struct fz_buf key = {0};
	char text[512];
	uint32_t n;
	int rc = highest(store, database, &n, err);

	if (rc < 0 || n != c->n)
		return rc;
	if (fz_buf_addf(&key, "%s/claim/%08x-ended", database, n) < 0)
		return fz_fail_errno(err, ENOMEM, "marking the end of %s", database);
	snprintf(text, sizeof(text),
	         "{\"lineage\":\"%s\",\"epoch\":%" PRIu32 ",\"txid\":\"%016" PRIx64
	         "\",\"writer_id\":\"%s\",\"time_ms\":%" PRId64 "}\n",
	         c->lineage, c->epoch, txid, c->writer_id, ended_ms);
	rc = fz_store_put_new(store, fz_buf_str(&key), text, strlen(text), err);
	fz_buf_fini(&key);
	return rc == -FZ_ECONFLICT ? 0 : rc; /* it was told before the cursor was written */
}

int primary_writer_id(int statefd, char out[static PRIMARY_WRITER_ID_SIZE], struct fz_err *err)
{
	struct fz_buf text = {0};
	uint8_t raw[16];
	int rc = fz_read_file(statefd, "ship/writer-id", 64, &text, NULL);

	if (rc == 0 && text.size >= 32 && strspn(fz_buf_str(&text), "0123456789abcdef") == 32) {
		memcpy(out, text.data, 32);
		out[32] = 0;
		goto out;
	}
	if (rc < 0 && rc != -ENOENT) {
		rc = fz_fail_errno(err, -rc, "reading ship/writer-id");
		goto out;
	}
	if (getrandom(raw, sizeof(raw), 0) != (ssize_t)sizeof(raw)) {
		rc = fz_fail_errno(err, errno, "making an identity for this writer");
		goto out;
	}
	for (size_t i = 0; i < sizeof(raw); i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	rc = fz_mkdirs(statefd, "ship", 0700, err);
	if (rc == 0)
		rc = fz_write_file(statefd, "ship/writer-id", out, 32, 0600, err);
out:
	fz_buf_fini(&text);
	return rc;
}
