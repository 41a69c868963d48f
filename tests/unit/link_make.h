/* link_make.h - for the tests of the link: two hosts in temporary directories, databases that are written on one of them, and a
 * judge that knows every transaction that was ever committed and compares what the other host's logs hold with that. */
#ifndef FZ_TESTS_LINK_MAKE_H
#define FZ_TESTS_LINK_MAKE_H

#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "base/net.h"
#include "ltx/age.h"
#include "ltx/log.h"
#include "primary/server.h"
#include "replica/applier.h"
#include "replica/follow.h"
#include "tests/unit/ltx_make.h"
#include "tests/unit/tmp.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINK_TXNS 20000 /* of one database */
#define LINK_DBS  40
#define LIMIT_S   100 /* what is waited for comes; this only ends a broken test */

#define OK(call)                                                                                                       \
	do {                                                                                                           \
		struct fz_err err_ = {0};                                                                              \
		struct fz_err *e = &err_;                                                                              \
		int rc_ = (call);                                                                                      \
		if (rc_ < 0)                                                                                           \
			fail_msg("%s: %s (%d)", #call, e->text, rc_);                                                  \
	} while (0)

/* Waits for a condition that must come. */
#define UNTIL(cond)                                                                                                    \
	do {                                                                                                           \
		uint64_t end_ = fz_mono_ns() + LIMIT_S * UINT64_C(1000000000);                                         \
		while (!(cond)) {                                                                                      \
			if (fz_mono_ns() > end_)                                                                       \
				fail_msg("%s:%d: never came: %s", __FILE__, __LINE__, #cond);                          \
			usleep(1000);                                                                                  \
		}                                                                                                      \
	} while (0)

/* ---- hosts ------------------------------------------------------------------------------------------------------- */

struct host {
	char dir[160];
	int fd;
	struct ltx_logset *set;
	struct ltx_age_identity id;
	struct ltx_age_recipient key;
};

static inline void host_open(struct host *h)
{
	struct ltx_logset_conf conf = {.segment_bytes = 64 * 1024};

	OK(ltx_logset_open(&h->set, h->fd, &conf, e));
}

static inline void host_make(struct host *h)
{
	assert_non_null(tmp_make(h->dir, sizeof(h->dir), "fz-link"));
	h->fd = open(h->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ltx_age_identity_make(&h->id);
	ltx_age_identity_recipient(&h->id, &h->key);
	host_open(h);
}

static inline void host_free(struct host *h)
{
	ltx_logset_close(h->set);
	close(h->fd);
	OK(fz_remove_tree(AT_FDCWD, h->dir, e));
}

/* ---- databases on the primary ------------------------------------------------------------------------------------ */

struct txn {
	uint8_t *bytes;
	size_t size;
	uint64_t post;
};
struct source {
	char name[64], lineage[17];
	struct ltx_log *log;
	struct ltx_enc *enc;
	struct make_db db;
	struct fz_buf buf;
	pthread_mutex_t mu;
	struct txn *txns; /* mu; by TXID */
	uint64_t last;    /* mu */
};

static struct source *sources[64]; /* that were not freed: what a failed test leaves */

static inline struct source *source_make(struct host *h, const char *name, uint32_t page_size, uint32_t cap)
{
	struct source *s = calloc(1, sizeof(*s));
	struct ltx_log_info info;

	snprintf(s->name, sizeof(s->name), "%s", name);
	OK(ltx_logset_get(h->set, name, true, &s->log, e));
	OK(ltx_enc_open(&s->enc, e));
	ltx_log_info(s->log, &info);
	memcpy(s->lineage, info.lineage, sizeof(s->lineage));
	make_init(&s->db, page_size, cap, (uint32_t)(uintptr_t)name[0] * 77 + cap);
	pthread_mutex_init(&s->mu, NULL);
	s->txns = calloc(LINK_TXNS, sizeof(*s->txns));
	for (size_t i = 0;; i++)
		if (!sources[i]) {
			sources[i] = s;
			return s;
		}
}

/* The host is opened anew: the source must let go of its log before, and takes it again. */
static inline void source_put(struct source *s)
{
	ltx_log_put(s->log);
	s->log = NULL;
}

static inline void source_get(struct source *s, struct host *h)
{
	OK(ltx_logset_get(h->set, s->name, false, &s->log, e));
}

static inline void source_free(struct source *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		if (sources[i] == s)
			sources[i] = NULL;
	for (uint64_t i = 0; i < LINK_TXNS; i++)
		free(s->txns[i].bytes);
	free(s->txns);
	ltx_log_put(s->log);
	ltx_enc_close(s->enc);
	make_fini(&s->db);
	fz_buf_fini(&s->buf);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

/* One more transaction, of a few pages or (pages > 0) of so many. */
static inline uint64_t source_commit(struct source *s, uint32_t pages)
{
	struct make_db *db = &s->db;
	struct ltx_header h = {.page_size = db->page_size, .time_ms = fz_now_ms()};
	struct ltx_trailer t;
	struct fz_buf_sink mem;
	struct fz_sink *sink;
	uint64_t bytes;

	if (pages)
		make_resize(db, pages);
	else if (db->commit == 0)
		make_resize(db, 4);
	make_change(db, 1 + make_rnd(db, db->commit));
	h.commit = db->commit;
	h.min_txid = h.max_txid = ++db->txid;
	h.pre_checksum = db->txid > 1 ? db->sum : 0;
	db->sum = make_sum(db);
	assert_true(db->txid < LINK_TXNS);
	fz_buf_reset(&s->buf);
	fz_buf_sink_init(&mem, &s->buf);
	OK(ltx_enc_begin(s->enc, &mem.sink, &h, e));
	for (uint32_t pgno = 1; pgno <= db->commit; pgno++)
		if ((db->txid == 1 || db->dirty[pgno]) && pgno != ltx_lock_page(db->page_size))
			OK(ltx_enc_page(s->enc, pgno, make_page(db, pgno), e));
	OK(ltx_enc_end(s->enc, db->sum, &t, &bytes, e));
	memset(db->dirty, 0, db->cap + 1);
	pthread_mutex_lock(&s->mu); /* before anybody can receive it */
	s->txns[db->txid].bytes = malloc(bytes);
	memcpy(s->txns[db->txid].bytes, s->buf.data, bytes);
	s->txns[db->txid].size = bytes;
	s->txns[db->txid].post = db->sum;
	s->last = db->txid;
	pthread_mutex_unlock(&s->mu);
	OK(ltx_log_begin(s->log, &h, &sink, e));
	OK(fz_sink_write(sink, s->buf.data, bytes, e));
	OK(ltx_log_commit(s->log, bytes, ltx_enc_pages(s->enc), &t, false, e));
	return db->txid;
}

/* ---- judge ------------------------------------------------------------------------------------------------------- */

static inline struct ltx_log *host_log(struct host *h, const char *lineage)
{
	struct ltx_log_info info;
	struct ltx_log *log;

	for (size_t i = 0; (log = ltx_logset_at(h->set, i)); i++) {
		ltx_log_info(log, &info);
		if (!strcmp(info.lineage, lineage))
			return log;
		ltx_log_put(log);
	}
	return NULL;
}

static inline uint64_t host_tail(struct host *h, const char *lineage)
{
	struct ltx_log *log = host_log(h, lineage);
	struct ltx_log_info info = {.tail_txid = 0};

	if (log)
		ltx_log_info(log, &info);
	ltx_log_put(log);
	return info.tail_txid;
}

static inline bool host_ended(struct host *h, const char *lineage)
{
	struct ltx_log *log = host_log(h, lineage);
	struct ltx_log_info info = {.ended_ms = 0};

	if (log)
		ltx_log_info(log, &info);
	ltx_log_put(log);
	return info.ended_ms != 0;
}

/* One entry of a log: what it must be, played into db. NULL = it is, else what is wrong. same: it is one transaction, byte
 * for byte. The last one of a merged range that a replica stood inside of is one transaction with more pages than it had. */
static inline const char *judge_entry(struct ltx_log *log, struct source *s, const struct ltx_log_entry *en,
                                      uint64_t next, struct make_db *db, bool *same)
{
	struct fz_src *src = NULL;
	struct ltx_header hd;
	struct ltx_trailer t;
	const char *wrong = NULL;
	uint8_t *data = NULL;
	uint64_t bytes;

	OK(ltx_log_src(log, en, &src, e));
	if (ltx_dec_verify(src, 0, &hd, &t, &bytes, NULL, NULL) < 0) {
		fz_src_close(src);
		return "it does not decode";
	}
	data = malloc(bytes);
	if (bytes != src->size_bytes || fz_src_read(src, 0, data, bytes, NULL) < 0)
		wrong = "another size";
	pthread_mutex_lock(&s->mu);
	if (wrong)
		;
	else if (hd.min_txid != next || en->e.min_txid != next || hd.max_txid != en->e.max_txid)
		wrong = "other TXIDs";
	else if (hd.max_txid > s->last)
		wrong = "it was never committed";
	else if (t.post_checksum != s->txns[hd.max_txid].post)
		wrong = "post-checksum";
	else if (hd.pre_checksum != (next > 1 ? s->txns[next - 1].post : 0))
		wrong = "pre-checksum";
	else
		*same = hd.min_txid == hd.max_txid && en->seg && bytes == s->txns[next].size &&
		        memcmp(data, s->txns[next].bytes, bytes) == 0;
	pthread_mutex_unlock(&s->mu);
	if (!wrong) {
		make_apply(db, data, bytes);
		if (!*same && make_sum(db) != t.post_checksum)
			wrong = "other pages";
	}
	free(data);
	fz_src_close(src);
	return wrong;
}

/* All that h holds of s: contiguous up to its tail, and what was committed. Returns the entries that are single
 * transactions, byte for byte. */
static inline uint64_t judge(struct host *h, struct source *s)
{
	struct ltx_log *log = host_log(h, s->lineage);
	const char *wrong = NULL;
	struct ltx_log_info info;
	uint64_t next = 1, singles = 0;
	struct make_db db;

	assert_non_null(log);
	make_init(&db, s->db.page_size, s->db.cap, 1);
	ltx_log_info(log, &info);
	assert_string_equal(info.name, s->name);
	while (!wrong && next <= info.tail_txid) {
		struct ltx_log_entry en;
		bool single = false;

		if (ltx_log_find(log, next, &en, NULL) < 0) {
			wrong = "not found";
			break;
		}
		wrong = judge_entry(log, s, &en, next, &db, &single);
		singles += single;
		if (!wrong)
			next = en.e.max_txid + 1;
	}
	ltx_log_put(log);
	make_fini(&db);
	if (wrong)
		fail_msg("%s: TXID %llu of %llu (base %llu): %s", s->name, (unsigned long long)next,
		         (unsigned long long)info.tail_txid, (unsigned long long)info.base_txid, wrong);
	return singles;
}

/* ---- the link ---------------------------------------------------------------------------------------------------- */

struct link {
	struct host p, r;
	struct primary_server *server;
	struct replica_follow *follow;
	struct primary_follower follower;
	char address[FZ_NET_ADDR]; /* where the server listens */
	struct primary_server_conf sconf;
	struct replica_follow_conf fconf;
};

static inline void serve(struct link *l)
{
	l->sconf.listen = l->address[0] ? l->address : "127.0.0.1:0";
	l->sconf.logs = l->p.set;
	memcpy(l->sconf.secret, l->p.id.secret, 32);
	if (!l->sconf.followers) {
		l->sconf.followers = &l->follower;
		l->sconf.n_followers = 1;
	}
	OK(primary_server_start(&l->server, &l->sconf, e));
	OK(primary_server_address(l->server, l->address, e)); /* and after a restart the same */
}

static inline void serve_not(struct link *l)
{
	primary_server_stop(l->server);
	l->server = NULL;
}

static inline void follow(struct link *l)
{
	if (!l->fconf.primary)
		l->fconf.primary = l->address;
	l->fconf.logs = l->r.set;
	memcpy(l->fconf.primary_key, l->p.key.public_key, 32);
	memcpy(l->fconf.secret, l->r.id.secret, 32);
	OK(replica_follow_start(&l->follow, &l->fconf, e));
}

static inline void follow_not(struct link *l)
{
	replica_follow_stop(l->follow);
	l->follow = NULL;
}

static inline struct link *link_new(void)
{
	struct link *l = calloc(1, sizeof(*l));

	host_make(&l->p);
	host_make(&l->r);
	memcpy(l->follower.key, l->r.key.public_key, 32);
	l->follower.name = "replica";
	l->sconf.hello.role = LTX_WIRE_PRIMARY;
	l->fconf.hello.role = LTX_WIRE_REPLICA;
	snprintf(l->sconf.hello.host, sizeof(l->sconf.hello.host), "here");
	snprintf(l->fconf.hello.host, sizeof(l->fconf.hello.host), "there");
	return l;
}

static inline void link_free(struct link *l)
{
	follow_not(l);
	serve_not(l);
	host_free(&l->p);
	host_free(&l->r);
	free(l);
}

/* For cmocka: *state is a link of two empty hosts. */
static inline int link_setup(void **state)
{
	*state = link_new();
	return 0;
}

static inline int link_teardown(void **state)
{
	struct link *l = *state;

	follow_not(l);
	serve_not(l);
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		source_free(sources[i]);
	link_free(l);
	return 0;
}

static inline cJSON *follow_status(struct link *l)
{
	cJSON *o = cJSON_CreateObject();

	assert_int_equal(replica_follow_status(l->follow, o), 0);
	return o;
}

static inline cJSON *server_status(struct link *l)
{
	cJSON *a = cJSON_CreateArray();

	assert_int_equal(primary_server_status(l->server, a), 0);
	return a;
}

static inline double number_of(cJSON *o, const char *field)
{
	return cJSON_GetNumberValue(cJSON_GetObjectItem(o, field));
}

/* What the primary's status says of the first follower's database. */
static inline double server_db(struct link *l, const char *lineage, const char *field)
{
	cJSON *a = server_status(l), *db;
	double v = -1;

	cJSON_ArrayForEach (db, cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "databases")) {
		if (!strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(db, "lineage")), lineage))
			v = number_of(db, field);
	}
	cJSON_Delete(a);
	return v;
}

static inline bool follows(struct link *l)
{
	cJSON *o = follow_status(l);
	bool is = cJSON_IsTrue(cJSON_GetObjectItem(o, "connected"));

	cJSON_Delete(o);
	return is;
}

/* "last_error" of the follower; the caller frees. */
static inline char *follow_error(struct link *l)
{
	cJSON *o = follow_status(l);
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(o, "last_error"));
	char *copy = strdup(text ? text : "");

	cJSON_Delete(o);
	return copy;
}

static inline bool follow_error_has(struct link *l, const char *what)
{
	char *text = follow_error(l);
	bool has = strstr(text, what) != NULL;

	free(text);
	return has;
}

#endif
