#include "primary/lease.h"

#include "base/clock.h"
#include "base/file.h"
#include "primary/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#define BODY_MAX 8192
#define MS_NS    UINT64_C(1000000)

/* ---- text ---- */

int primary_lease_format(struct fz_buf *out, const struct primary_lease_body *b)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "version", 1);
	cJSON_AddStringToObject(o, "node", b->who.node);
	cJSON_AddStringToObject(o, "boot", b->who.boot);
	cJSON_AddStringToObject(o, "session", b->who.session);
	cJSON_AddStringToObject(o, "host", b->who.host);
	cJSON_AddStringToObject(o, "key", b->who.key);
	cJSON_AddStringToObject(o, "address", b->who.address);
	cJSON_AddNumberToObject(o, "followers", b->who.followers);
	cJSON_AddNumberToObject(o, "epoch", b->epoch);
	cJSON_AddNumberToObject(o, "term", (double)b->term);
	cJSON_AddNumberToObject(o, "renewals", (double)b->renewals);
	cJSON_AddNumberToObject(o, "duration_ms", (double)b->duration_ms);
	cJSON_AddNumberToObject(o, "wait_ms", (double)b->wait_ms);
	cJSON_AddBoolToObject(o, "released", b->released);
	cJSON_AddStringToObject(o, "to", b->to);
	cJSON_AddStringToObject(o, "lost", b->lost);
	cJSON_AddStringToObject(o, "nonce", b->nonce);
	return primary_json_print(out, o);
}

#define TEXT(name, field) primary_json_text(o, name, b->field, sizeof(b->field))
int primary_lease_parse(struct primary_lease_body *b, const char *text, struct fz_err *err)
{
	double epoch, term, renewals, duration, followers, wait;
	cJSON *o = cJSON_Parse(text);
	int rc = 0;

	memset(b, 0, sizeof(*b));
	if (!TEXT("node", who.node) || !TEXT("boot", who.boot) || !TEXT("session", who.session) ||
	    !TEXT("host", who.host) || !TEXT("key", who.key) || !TEXT("address", who.address) || !TEXT("to", to) ||
	    !TEXT("lost", lost) || !TEXT("nonce", nonce) || !primary_json_number(o, "followers", 1e6, &followers) ||
	    !primary_json_number(o, "wait_ms", 1e10, &wait) || !primary_json_number(o, "epoch", UINT32_MAX, &epoch) ||
	    !primary_json_number(o, "term", 9e15, &term) || !primary_json_number(o, "renewals", 9e15, &renewals) ||
	    !primary_json_number(o, "duration_ms", 1e9, &duration)) {
		rc = fz_fail(err, FZ_ECORRUPT, "the lease in the store is not what fazt writes");
	} else {
		b->who.followers = (unsigned)followers;
		b->epoch = (uint32_t)epoch;
		b->term = (uint64_t)term;
		b->renewals = (uint64_t)renewals;
		b->duration_ms = (int64_t)duration;
		b->wait_ms = (int64_t)wait;
		b->released = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "released"));
	}
	cJSON_Delete(o);
	return rc;
}
#undef TEXT

/* ---- what is known ---- */

static void random_hex(char out[static 33])
{
	uint8_t raw[16];

	randombytes_buf(raw, sizeof(raw));
	sodium_bin2hex(out, 33, raw, sizeof(raw));
}

int primary_lease_init(struct primary_lease *l, const uint8_t node[static 16], struct fz_err *err)
{
	struct fz_buf boot = {0};
	int rc = fz_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &boot, err);

	sodium_bin2hex(l->self.node, sizeof(l->self.node), node, 16);
	random_hex(l->self.session);
	if (rc == 0)
		snprintf(l->self.boot, sizeof(l->self.boot), "%.*s", (int)strcspn(fz_buf_str(&boot), "\n"),
		         fz_buf_str(&boot));
	fz_buf_fini(&boot);
	return rc;
}

static bool same(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

static bool mine(const struct primary_lease *l)
{
	const struct primary_lease_host *w = &l->body.who;

	return same(w->session, l->self.session) || (same(w->node, l->self.node) && same(w->boot, l->self.boot));
}

/* Rule (2): what a version must have been seen for. The longer duration counts, should two hosts be configured differently. */
static uint64_t patience_ns(const struct primary_lease *l)
{
	int64_t ms = l->body.duration_ms > l->duration_ms ? l->body.duration_ms : l->duration_ms;

	return (uint64_t)(ms + ms / 4) * MS_NS;
}

/* Rule (4). */
static uint64_t courtesy_ns(const struct primary_lease *l)
{
	return (uint64_t)l->duration_ms * MS_NS / 4 * 3;
}

static void judge(struct primary_lease *l)
{
	if (!*l->tag)
		l->state = PRIMARY_LEASE_NONE;
	else if (mine(l))
		l->state = PRIMARY_LEASE_MINE;
	else if (l->body.released && (!*l->body.to || same(l->body.to, l->self.key)))
		l->state = PRIMARY_LEASE_RELEASED;
	else if (l->checked_ns >= l->seen_ns + patience_ns(l) && l->checked_ns >= l->steady_ns + courtesy_ns(l))
		l->state = PRIMARY_LEASE_EXPIRED;
	else
		l->state = PRIMARY_LEASE_OTHERS;
	if (l->state != PRIMARY_LEASE_MINE)
		l->held_ns = 0;
}

int primary_lease_look(struct primary_lease *l, struct fz_err *err)
{
	uint64_t sent = l->now_ns();
	struct primary_lease_body b;
	char tag[FZ_STORE_TAG];
	struct fz_buf text = {0};
	int rc = fz_store_get_tag(l->store, PRIMARY_LEASE_KEY, BODY_MAX, &text, tag, err);

	if (rc == -FZ_ENOTFOUND &&
	    (*l->tag || l->known)) { /* another disk is mounted there, or nothing; nobody ever deletes it */
		rc = fz_fail(
		        err, FZ_ESTORE,
		        "the lease has vanished: is that the same store, and all of it? `fazt mount --take-over` makes "
		        "a new one");
	} else if (rc == -FZ_ENOTFOUND) {
		tag[0] = 0;
		memset(&b, 0, sizeof(b));
		rc = 0;
	} else if (rc == 0) {
		rc = primary_lease_parse(&b, fz_buf_str(&text), err);
	}
	fz_buf_fini(&text);
	if (rc < 0) {
		l->steady_ns = 0;
		return rc;
	}
	if (!l->steady_ns)
		l->steady_ns = sent;
	if (l->state == PRIMARY_LEASE_UNKNOWN || !same(tag, l->tag)) {
		memcpy(l->tag, tag, sizeof(tag));
		l->body = b;
		l->seen_ns = l->now_ns();
		l->checked_ns = 0;
		if (mine(l) && !same(b.who.session, l->self.session)) /* of a process that took it and then died */
			l->free_ns = l->seen_ns + (uint64_t)b.wait_ms * MS_NS;
	} else {
		l->checked_ns = sent;
	}
	l->sure = true;
	judge(l);
	return 0;
}

/* The next version takes the place of the one that is known. 0: it did, sent at *sent. */
static int put(struct primary_lease *l, struct primary_lease_body *b, uint64_t *sent, struct fz_err *err)
{
	char tag[FZ_STORE_TAG];
	struct fz_buf text = {0};
	int rc;

	random_hex(b->nonce);
	rc = primary_lease_format(&text, b) < 0 ? fz_fail_errno(err, ENOMEM, "writing the lease") : 0;
	memcpy(tag, l->tag, sizeof(tag));
	l->sure = false;
	*sent = l->now_ns();
	if (rc == 0)
		rc = fz_store_put_if(l->store, PRIMARY_LEASE_KEY, text.data, text.size, tag, err);
	fz_buf_fini(&text);
	if (rc < 0)
		return rc;
	memcpy(l->tag, tag, sizeof(tag));
	l->body = *b;
	l->seen_ns = l->now_ns();
	l->checked_ns = 0;
	l->sure = true;
	judge(l);
	return 0;
}

static int fenced(const struct primary_lease *l, struct fz_err *err)
{
	return fz_fail(err, FZ_EFENCED, "the lease is %s's (term %" PRIu64 ", epoch %u)", l->body.who.host,
	               l->body.term, l->body.epoch);
}

int primary_lease_renew(struct primary_lease *l, uint32_t epoch, struct fz_err *err)
{
	for (int i = 0; i < 3; i++) {
		struct primary_lease_body b;
		uint64_t sent;
		int rc = l->sure ? 0 : primary_lease_look(l, err);

		if (rc < 0)
			return rc;
		if (l->state == PRIMARY_LEASE_NONE)
			return primary_lease_take(l, epoch, false, "", err);
		if (l->state != PRIMARY_LEASE_MINE)
			return fenced(l, err);
		b = l->body;
		b.who = l->self;
		b.duration_ms = l->duration_ms;
		b.renewals++;
		b.released = false;
		b.to[0] = 0;
		if (l->now_ns() >= l->free_ns)
			b.wait_ms = 0;
		if (epoch > b.epoch)
			b.epoch = epoch;
		rc = put(l, &b, &sent, err);
		if (rc == 0)
			l->held_ns = sent;
		if (rc !=
		    -FZ_ECONFLICT) /* a version that this process sent before may have arrived since: look again */
			return rc;
	}
	return fz_fail(err, FZ_ECONFLICT, "the lease is fought over");
}

int primary_lease_take(struct primary_lease *l, uint32_t epoch, bool force, const char *lost, struct fz_err *err)
{
	struct primary_lease_body b = {.who = l->self, .duration_ms = l->duration_ms, .epoch = epoch};
	uint64_t sent, free_ns;
	int rc = l->sure ? 0 : primary_lease_look(l, err);

	if (rc < 0)
		return rc;
	if (l->state == PRIMARY_LEASE_OTHERS && !force)
		return fz_fail(err, FZ_EBUSY, "the lease of %s may be in force for %" PRId64 " ms more",
		               l->body.who.host, primary_lease_left_ms(l));
	b.term = l->body.term + 1;
	b.wait_ms = primary_lease_left_ms(l);
	free_ns = b.wait_ms ? l->seen_ns + patience_ns(l) : l->now_ns();
	if (epoch <= l->body.epoch && l->state != PRIMARY_LEASE_NONE && l->state != PRIMARY_LEASE_MINE)
		b.epoch = l->body.epoch + 1;
	snprintf(b.lost, sizeof(b.lost), "%s", lost);
	l->free_ns = free_ns; /* whether the answer is lost or not */
	rc = put(l, &b, &sent, err);
	if (rc < 0)
		return rc;
	/* A store whose condition is not atomic tells two that they won: the one that is still there did. */
	rc = primary_lease_look(l, err);
	if (rc == 0 && !same(l->body.nonce, b.nonce))
		rc = fz_fail(err, FZ_ECONFLICT, "the lease was taken by %s at the same moment", l->body.who.host);
	if (rc == 0)
		l->held_ns = sent;
	return rc;
}

int primary_lease_release(struct primary_lease *l, const char *to, struct fz_err *err)
{
	struct primary_lease_body b;
	uint64_t sent;
	int rc = l->sure ? 0 : primary_lease_look(l, err);

	if (rc < 0)
		return rc;
	if (l->state != PRIMARY_LEASE_MINE)
		return fenced(l, err);
	l->held_ns = 0;
	b = l->body;
	b.who = l->self;
	b.released = true;
	snprintf(b.to, sizeof(b.to), "%s", to);
	return put(l, &b, &sent, err);
}

uint64_t primary_lease_until(const struct primary_lease *l)
{
	return l->held_ns && l->now_ns() >= l->free_ns ? l->held_ns + (uint64_t)l->duration_ms * MS_NS : 0;
}

int64_t primary_lease_left_ms(const struct primary_lease *l)
{
	uint64_t end = l->seen_ns + patience_ns(l), now = l->now_ns();

	if (l->state != PRIMARY_LEASE_OTHERS)
		return 0;
	return end > now ? (int64_t)((end - now) / MS_NS) + 1 : 1;
}
