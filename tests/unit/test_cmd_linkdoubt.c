/* test_cmd_linkdoubt.c - transactions in doubt on both ends of the link: held before they are committed, shown by nobody, the same bytes
 * afterwards; another one in their place; an end of the connection or of the replica in between; taken when the replica takes over. */
#include "ltx/offer.h"
#include "replica/held.h"
#include "tests/unit/link_make.h"

/* The next transaction of a source, made and not decided about. */
struct doubt {
	struct source *s;
	struct ltx_header h;
	struct ltx_trailer t;
	uint64_t bytes;
	uint32_t pages;
	struct make_db before;
	uint8_t *before_pages;
};

static void make_doubt(struct doubt *d, struct source *s, uint32_t pages)
{
	struct make_db *db = &s->db;
	struct fz_buf_sink mem;

	*d = (struct doubt){.s = s, .before = *db};
	d->before_pages = malloc((size_t)db->cap * db->page_size);
	memcpy(d->before_pages, db->pages, (size_t)db->cap * db->page_size);
	if (pages)
		make_resize(db, pages);
	else if (db->commit == 0)
		make_resize(db, 4);
	make_change(db, 1 + make_rnd(db, db->commit));
	d->h = (struct ltx_header){.page_size = db->page_size,
	                           .time_ms = fz_now_ms(),
	                           .commit = db->commit,
	                           .min_txid = db->txid + 1,
	                           .max_txid = db->txid + 1,
	                           .pre_checksum = db->txid ? db->sum : 0};
	db->txid++;
	db->sum = make_sum(db);
	fz_buf_reset(&s->buf);
	fz_buf_sink_init(&mem, &s->buf);
	OK(ltx_enc_begin(s->enc, &mem.sink, &d->h, e));
	for (uint32_t pgno = 1; pgno <= db->commit; pgno++)
		if ((db->txid == 1 || db->dirty[pgno]) && pgno != ltx_lock_page(db->page_size))
			OK(ltx_enc_page(s->enc, pgno, make_page(db, pgno), e));
	OK(ltx_enc_end(s->enc, db->sum, &d->t, &d->bytes, e));
	d->pages = ltx_enc_pages(s->enc);
	memset(db->dirty, 0, db->cap + 1);
}

static void offer(struct doubt *d)
{
	struct fz_sink *sink;

	OK(ltx_log_offer_begin(d->s->log, &d->h, &sink, e));
	OK(fz_sink_write(sink, d->s->buf.data, d->bytes, e));
	OK(ltx_log_offer_end(d->s->log, d->bytes, &d->t, e));
}

static void commit(struct doubt *d)
{
	struct source *s = d->s;
	struct fz_sink *sink;

	pthread_mutex_lock(&s->mu);
	s->txns[s->db.txid].bytes = malloc(d->bytes);
	memcpy(s->txns[s->db.txid].bytes, s->buf.data, d->bytes);
	s->txns[s->db.txid].size = d->bytes;
	s->txns[s->db.txid].post = s->db.sum;
	s->last = s->db.txid;
	pthread_mutex_unlock(&s->mu);
	OK(ltx_log_begin(s->log, &d->h, &sink, e));
	OK(fz_sink_write(sink, s->buf.data, d->bytes, e));
	OK(ltx_log_commit(s->log, d->bytes, d->pages, &d->t, false, e));
	free(d->before_pages);
}

/* As if it had never been. */
static void undo(struct doubt *d)
{
	struct make_db *db = &d->s->db;

	memcpy(db->pages, d->before_pages, (size_t)db->cap * db->page_size);
	db->commit = d->before.commit;
	db->txid = d->before.txid;
	db->sum = d->before.sum;
	free(d->before_pages);
}

static unsigned holders(struct link *l, const struct doubt *d, uint64_t wait_ms)
{
	return primary_server_holders(l->server, d->s->lineage, d->h.max_txid, d->t.post_checksum, 1,
	                              fz_mono_ns() + wait_ms * 1000000);
}

static uint64_t sent(struct link *l)
{
	cJSON *a = server_status(l);
	uint64_t n = (uint64_t)number_of(cJSON_GetArrayItem(a, 0), "bytes_out");

	cJSON_Delete(a);
	return n;
}

static void test_held_then_committed(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 64);
	uint64_t bytes = 0, before;
	struct doubt d;

	for (int i = 0; i < 20; i++)
		source_commit(s, 0);
	serve(l);
	follow(l);
	UNTIL(host_tail(&l->r, s->lineage) == 20);
	before = sent(l);
	for (int i = 0; i < 200; i++) {
		make_doubt(&d, s, 0);
		offer(&d);
		assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
		assert_true(host_tail(&l->r, s->lineage) < d.h.max_txid);
		bytes += d.bytes;
		commit(&d);
		if (i % 10 == 0)
			UNTIL(host_tail(&l->r, s->lineage) == d.h.max_txid);
	}
	UNTIL(host_tail(&l->r, s->lineage) == 220);
	assert_int_equal(judge(&l->r, s), 220);
	assert_true(sent(l) - before < bytes + 200 * 200); /* not twice */
}

/* What was held is not committed; what is, is never taken for it. */
static void test_another_in_its_place(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	struct doubt d;

	serve(l);
	follow(l);
	for (int i = 0; i < 60; i++) {
		make_doubt(&d, s, 0);
		offer(&d);
		assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
		undo(&d);
		if (i % 3 == 0)
			ltx_log_withdraw(s->log);
		make_doubt(&d, s, 0);
		assert_int_equal(holders(l, &d, 0), 0);
		if (i % 2) {
			offer(&d);
			assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
		}
		commit(&d);
		assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
	}
	UNTIL(host_tail(&l->r, s->lineage) == 60);
	assert_int_equal(judge(&l->r, s), 60);
}

static void reopen_replica(struct link *l)
{
	follow_not(l);
	ltx_logset_close(l->r.set);
	host_open(&l->r);
}

static void test_outlives_the_connection(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 64);
	struct doubt d;
	uint64_t before;

	serve(l);
	follow(l);
	for (int i = 0; i < 12; i++) {
		make_doubt(&d, s, 60);
		offer(&d);
		assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
		if (i % 2)
			reopen_replica(l);
		else
			follow_not(l);
		UNTIL(holders(l, &d, 0) == 0); /* who is not connected does not count */
		if (i % 3 == 0) {
			commit(&d);
			follow(l);
		} else {
			follow(l);
			assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
			commit(&d);
		}
		UNTIL(host_tail(&l->r, s->lineage) == d.h.max_txid);
	}
	assert_int_equal(judge(&l->r, s), 12);
	make_doubt(&d, s, 0); /* and what it holds is not sent again */
	offer(&d);
	assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
	follow_not(l);
	UNTIL(holders(l, &d, 0) == 0);
	follow(l);
	assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
	before = sent(l);
	assert_true(before < 2000);
	commit(&d);
	UNTIL(host_tail(&l->r, s->lineage) == 13);
	assert_int_equal(judge(&l->r, s), 13);
}

static void test_large(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 4096, 5000);
	struct doubt d;

	serve(l);
	follow(l);
	source_commit(s, 0);
	for (int i = 0; i < 3; i++) {
		make_doubt(&d, s, i == 1 ? 100 : 4000 + (uint32_t)i);
		offer(&d);
		assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
		commit(&d);
		UNTIL(host_tail(&l->r, s->lineage) == d.h.max_txid);
	}
	assert_int_equal(judge(&l->r, s), 4);
}

/* The primary is gone: what it had in doubt is the last transaction, once. */
static void test_taking_over(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	struct ltx_log *log;
	struct doubt d;
	int rc = 0;

	serve(l);
	follow(l);
	for (int i = 0; i < 10; i++)
		source_commit(s, 0);
	make_doubt(&d, s, 0);
	offer(&d);
	assert_int_equal(holders(l, &d, LIMIT_S * 1000), 1);
	serve_not(l);
	reopen_replica(l);
	assert_int_equal(host_tail(&l->r, s->lineage), 10);
	log = host_log(&l->r, s->lineage);
	for (int i = 0; i < 2; i++) {
		OK(rc = replica_held_settle(log, false, e));
		assert_int_equal(rc, i == 0);
	}
	ltx_log_put(log);
	commit(&d); /* for the judge */
	assert_int_equal(judge(&l->r, s), 11);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_held_then_committed, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_another_in_its_place, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_outlives_the_connection, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_large, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_taking_over, link_setup, link_teardown),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
