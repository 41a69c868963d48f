#include "cmd/probe.h"

#include "base/clock.h"
#include "store/store.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define BYTES      65536
#define PIECE_AT   30011
#define PIECE      4097
#define KEY_PREFIX ".fazt-probe/"

struct probing {
	struct fz_store *s;
	struct cmd_probe_store *r;
	char prefix[64], big[80], claim[80], swap[80];
	uint8_t data[BYTES];
	uint64_t begun_ns;
	struct fz_err err;
};

const char *cmd_probe_name(enum cmd_probe_step step)
{
	static const char *const names[CMD_PROBE_STEPS] = {
	        "put", "list", "range", "conditional put", "conditional replacement", "delete"};

	return names[step];
}

const struct cmd_probe_result *cmd_probe_failed(const struct cmd_probe_store *r, bool append_only)
{
	for (int i = 0; i < CMD_PROBE_STEPS; i++)
		if (i != CMD_PROBE_SWAP && !(append_only && i == CMD_PROBE_DELETE) && r->step[i].done && !r->step[i].ok)
			return &r->step[i];
	return NULL;
}

static void begin(struct probing *p)
{
	p->begun_ns = fz_mono_ns();
	p->err = (struct fz_err){0};
}

static bool end(struct probing *p, enum cmd_probe_step step, int rc)
{
	struct cmd_probe_result *r = &p->r->step[step];

	r->done = true;
	r->ok = rc == 0;
	r->ms = (double)(fz_mono_ns() - p->begun_ns) / 1e6;
	if (rc < 0)
		r->err = p->err;
	return r->ok;
}

static int put(struct probing *p)
{
	struct fz_src *src = NULL;
	int rc = fz_src_mem(&src, p->data, sizeof(p->data), &p->err);

	if (rc == 0)
		rc = fz_store_put(p->s, p->big, src, &p->err);
	fz_src_close(src);
	return rc;
}

static int list(struct probing *p, size_t want)
{
	struct fz_store_list l = {0};
	int rc = fz_store_list(p->s, p->prefix, NULL, false, &l, &p->err);

	if (rc == 0 && l.n != want)
		rc = fz_fail(&p->err, FZ_ESTORE, "the listing shows %zu objects instead of %zu", l.n, want);
	if (rc == 0 && want && (strcmp(l.v[0].key, p->big) != 0 || l.v[0].size_bytes != BYTES))
		rc = fz_fail(&p->err, FZ_ESTORE, "the listing shows '%s' with %llu bytes instead of '%s' with %d",
		             l.v[0].key, (unsigned long long)l.v[0].size_bytes, p->big, BYTES);
	fz_store_list_fini(&l);
	return rc;
}

static int range(struct probing *p)
{
	uint8_t piece[PIECE];
	struct fz_src *src = NULL;
	int rc = fz_store_src(p->s, p->big, BYTES, &src, &p->err);

	if (rc == 0)
		rc = fz_src_read(src, PIECE_AT, piece, sizeof(piece), &p->err);
	if (rc == 0 && memcmp(piece, p->data + PIECE_AT, sizeof(piece)) != 0)
		rc = fz_fail(&p->err, FZ_ESTORE, "a ranged read gave other bytes than were put");
	fz_src_close(src);
	return rc;
}

/* The first put makes it, the second must not replace it. */
static int put_new(struct probing *p)
{
	struct fz_buf was = {0};
	int rc = fz_store_put_new(p->s, p->claim, "first", 5, &p->err);

	if (rc < 0)
		return rc;
	rc = fz_store_put_new(p->s, p->claim, "second", 6, &p->err);
	if (rc == 0)
		return fz_fail(&p->err, FZ_ESTORE, "an object was replaced that only a first put may make");
	if (rc != -FZ_ECONFLICT)
		return rc;
	rc = fz_store_get(p->s, p->claim, 64, &was, &p->err);
	if (rc == 0 && strcmp(fz_buf_str(&was), "first") != 0)
		rc = fz_fail(&p->err, FZ_ESTORE, "the store said no, but replaced the object");
	fz_buf_fini(&was);
	return rc;
}

static int swap(struct probing *p)
{
	char tag[FZ_STORE_TAG] = "", old[FZ_STORE_TAG];
	int rc = fz_store_put_if(p->s, p->swap, "one", 3, tag, &p->err);

	memcpy(old, tag, sizeof(old));
	if (rc == 0)
		rc = fz_store_put_if(p->s, p->swap, "two", 3, tag, &p->err);
	if (rc < 0)
		return rc;
	rc = fz_store_put_if(p->s, p->swap, "three", 5, old, &p->err);
	if (rc == 0)
		return fz_fail(&p->err, FZ_ESTORE, "a version was replaced that was not the newest one");
	return rc == -FZ_ECONFLICT ? 0 : rc;
}

static int delete_all(struct probing *p)
{
	const char *keys[] = {p->big, p->claim, p->swap};
	size_t failed = 0;
	int rc = fz_store_delete(p->s, keys, 3, &failed, &p->err);

	if (rc == 0 && failed)
		rc = fz_fail(&p->err, FZ_ESTORE, "%zu objects could not be deleted", failed);
	return rc < 0 ? rc : list(p, 0);
}

void cmd_probe_store(struct fz_store *s, struct cmd_probe_store *r)
{
	struct probing p = {.s = s, .r = r};
	struct fz_store_stats st = {0};
	uint8_t rnd[8];
	char hex[17];

	memset(r, 0, sizeof(*r));
	randombytes_buf(p.data, sizeof(p.data));
	randombytes_buf(rnd, sizeof(rnd));
	sodium_bin2hex(hex, sizeof(hex), rnd, sizeof(rnd));
	snprintf(p.prefix, sizeof(p.prefix), KEY_PREFIX "try-%s/", hex);
	snprintf(p.big, sizeof(p.big), "%sobject", p.prefix);
	snprintf(p.claim, sizeof(p.claim), "%snew", p.prefix);
	snprintf(p.swap, sizeof(p.swap), "%sswap", p.prefix);
	begin(&p);
	if (end(&p, CMD_PROBE_PUT, put(&p))) {
		begin(&p);
		(void)end(&p, CMD_PROBE_LIST, list(&p, 1));
		begin(&p);
		(void)end(&p, CMD_PROBE_RANGE, range(&p));
		begin(&p);
		(void)end(&p, CMD_PROBE_NEW, put_new(&p));
		begin(&p);
		(void)end(&p, CMD_PROBE_SWAP, swap(&p));
		begin(&p);
		(void)end(&p, CMD_PROBE_DELETE, delete_all(&p));
	}
	fz_store_stats(s, &st);
	memcpy(r->conditional_put, st.conditional_put, sizeof(r->conditional_put));
	r->clock_known = st.clock_known;
	r->clock_ahead_ms = st.clock_ahead_ms;
}
