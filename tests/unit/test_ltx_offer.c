/* test_ltx_offer.c - what is in doubt: seen by readers while it continues the log, and no longer; never part of the log. */
#include "ltx/offer.h"
#include "tests/unit/log_make.h"

static void offer(struct fix *f, uint64_t txid)
{
	struct ltx_header h = header(f, txid);
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes;
	uint32_t pages;

	OK(ltx_log_offer_begin(f->log, &h, &sink, &f->err));
	encode(f, sink, txid, &t, &bytes, &pages);
	OK(ltx_log_offer_end(f->log, bytes, &t, &f->err));
}

/* Whole, and what was said of it. */
static void assert_offered(struct fix *f, uint64_t txid)
{
	struct fz_src *src = NULL;
	struct ltx_trailer t;
	struct ltx_header h;
	struct ltx_offer o;
	uint64_t bytes;
	uint32_t pages;

	assert_true(ltx_log_offered(f->log, &o, &src));
	OK(ltx_dec_verify(src, 0, &h, &t, &bytes, &pages, &f->err));
	assert_int_equal(bytes, o.size_bytes);
	assert_int_equal(src->size_bytes, o.size_bytes);
	assert_int_equal(h.max_txid, txid);
	assert_int_equal(t.post_checksum, f->sum[txid]);
	assert_int_equal(t.file_checksum, o.trailer.file_checksum);
	fz_src_close(src);
}

static bool nothing(struct fix *f)
{
	return !ltx_log_offered(f->log, &(struct ltx_offer){.size_bytes = 0}, NULL);
}

static void stands_while_it_continues_the_log(void **state)
{
	struct fix *f = *state;
	struct fz_src *src = NULL;
	struct ltx_offer o;
	uint8_t byte;

	assert_true(nothing(f));
	offer(f, 1);
	assert_offered(f, 1);
	check(f, f->log, 0); /* no part of the log */
	append(f, 1, false);
	assert_true(nothing(f));
	offer(f, 2);
	offer(f, 2); /* another one in its place */
	assert_true(ltx_log_offered(f->log, &o, &src));
	ltx_log_withdraw(f->log);
	assert_true(nothing(f));
	OK(fz_src_read(src, o.size_bytes - 1, &byte, 1, &f->err)); /* who reads it still may */
	fz_src_close(src);
	append(f, 2, false);
	check(f, f->log, 2);
}

static void refused(void **state)
{
	struct fix *f = *state;
	struct ltx_header h;
	struct fz_sink *sink;

	append(f, 1, false);
	h = header(f, 3);
	h.pre_checksum = f->sum[1];
	assert_int_equal(ltx_log_offer_begin(f->log, &h, &sink, &f->err), -FZ_EORDER);
	h = header(f, 2);
	h.pre_checksum ^= 1;
	assert_int_equal(ltx_log_offer_begin(f->log, &h, &sink, &f->err), -FZ_EORDER);
	h = header(f, 2);
	OK(ltx_log_offer_begin(f->log, &h, &sink, &f->err));
	assert_int_equal(ltx_log_offer_begin(f->log, &h, &sink, &f->err), -FZ_EORDER);
	ltx_log_offer_abort(f->log);
	OK(ltx_log_offer_begin(f->log, &h, &sink, &f->err));
	OK(fz_sink_write(sink, "abc", 3, &f->err));
	assert_int_equal(ltx_log_offer_end(f->log, 4, &(struct ltx_trailer){0}, &f->err), -FZ_EINTERNAL);
	assert_true(nothing(f));
}

/* What the log holds as prepared is offered when it is asked for, until it is decided. */
static void prepared(void **state)
{
	struct fix *f = *state;

	append(f, 1, false);
	append(f, 2, true);
	assert_true(nothing(f));
	ltx_log_offer_prepared(f->log);
	assert_offered(f, 2);
	OK(ltx_log_drop_prepared(f->log, &f->err));
	assert_true(nothing(f));
	append(f, 2, true);
	assert_true(nothing(f));
	ltx_log_offer_prepared(f->log);
	assert_offered(f, 2);
	OK(ltx_log_confirm(f->log, &f->err));
	assert_true(nothing(f));
	check(f, f->log, 2);
}

/* Larger than what is kept in memory. */
static void large(void **state)
{
	struct fix *f = *state;
	struct ltx_header h = header(f, 1);
	uint8_t part[70000], back[sizeof(part)];
	struct fz_sink *sink;
	struct fz_src *src = NULL;
	struct ltx_offer o;

	OK(ltx_log_offer_begin(f->log, &h, &sink, &f->err));
	for (uint64_t i = 0; i < 50; i++) {
		fill(part, sizeof(part), i);
		OK(fz_sink_write(sink, part, sizeof(part), &f->err));
	}
	OK(ltx_log_offer_end(f->log, 50 * sizeof(part), &(struct ltx_trailer){1, 2}, &f->err));
	assert_true(ltx_log_offered(f->log, &o, &src));
	for (uint64_t i = 0; i < 50; i++) {
		fill(part, sizeof(part), i);
		OK(fz_src_read(src, i * sizeof(part), back, sizeof(back), &f->err));
		assert_memory_equal(part, back, sizeof(back));
	}
	fz_src_close(src);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(stands_while_it_continues_the_log, setup, teardown),
	        cmocka_unit_test_setup_teardown(refused, setup, teardown),
	        cmocka_unit_test_setup_teardown(prepared, setup, teardown),
	        cmocka_unit_test_setup_teardown(large, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
