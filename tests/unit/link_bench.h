/* link_bench.h - how fast the link is, without applying: from the append to the primary's log until the replica says that the
 * transaction is durable. Printed only: `test_cmd_link bench`. */
#ifndef FZ_TESTS_LINK_BENCH_H
#define FZ_TESTS_LINK_BENCH_H

#include "tests/unit/link_make.h"

#define BENCH_PAGES 64
#define BENCH_PAGE  4096

struct bench {
	struct link *l;
	struct ltx_log *log;
	char lineage[17];
	uint64_t n, *appended_ns;
	double *lag_ms;
};

static inline void bench_append(struct bench *b, struct ltx_enc *enc, uint8_t (*pages)[BENCH_PAGE], uint64_t *sum,
                                uint64_t txid)
{
	struct ltx_header h = {.page_size = BENCH_PAGE,
	                       .commit = BENCH_PAGES,
	                       .min_txid = txid,
	                       .max_txid = txid,
	                       .time_ms = fz_now_ms(),
	                       .pre_checksum = txid > 1 ? *sum : 0};
	uint32_t one = (uint32_t)(txid % BENCH_PAGES);
	struct ltx_trailer t;
	struct fz_sink *sink;
	uint64_t bytes, old = ltx_page_checksum(one + 1, pages[one], BENCH_PAGE);

	for (size_t i = 0; i < 100; i++) /* a row */
		pages[one][(txid / BENCH_PAGES * 100 + i) % BENCH_PAGE] = (uint8_t)(txid * 2654435761u >> (i % 24));
	if (txid == 1) {
		*sum = LTX_EMPTY_DB;
		for (uint32_t i = 0; i < BENCH_PAGES; i++)
			*sum = ltx_db_checksum_swap(*sum, 0, ltx_page_checksum(i + 1, pages[i], BENCH_PAGE));
	} else {
		*sum = ltx_db_checksum_swap(*sum, old, ltx_page_checksum(one + 1, pages[one], BENCH_PAGE));
	}
	OK(ltx_log_begin(b->log, &h, &sink, e));
	OK(ltx_enc_begin(enc, sink, &h, e));
	for (uint32_t i = 0; i < BENCH_PAGES; i++)
		if (txid == 1 || i == one)
			OK(ltx_enc_page(enc, i + 1, pages[i], e));
	OK(ltx_enc_end(enc, *sum, &t, &bytes, e));
	b->appended_ns[txid] = fz_mono_ns();
	OK(ltx_log_commit(b->log, bytes, ltx_enc_pages(enc), &t, false, e));
}

static inline void *bench_watch(void *arg)
{
	struct bench *b = arg;

	for (uint64_t txid = 1; txid <= b->n; txid++) {
		OK(primary_server_wait(b->l->server, b->lineage, txid, 1, LIMIT_S * 1000, e));
		b->lag_ms[txid] = (double)(fz_mono_ns() - b->appended_ns[txid]) / 1e6;
	}
	return NULL;
}

static inline int bench_order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static inline void bench_rate(double rate, double seconds)
{
	static uint8_t pages[BENCH_PAGES][BENCH_PAGE];
	struct link *l = link_new();
	struct bench b = {.l = l, .n = (uint64_t)(rate * seconds)};
	struct ltx_log_info info;
	struct ltx_enc *enc = NULL;
	uint64_t sum = 0, start_ns, written_ns, end_ns;
	pthread_t watcher;

	ltx_logset_close(l->p.set); /* segments as in real life */
	ltx_logset_close(l->r.set);
	OK(ltx_logset_open(&l->p.set, l->p.fd, NULL, e));
	OK(ltx_logset_open(&l->r.set, l->r.fd, NULL, e));
	b.appended_ns = calloc(b.n + 1, sizeof(*b.appended_ns));
	b.lag_ms = calloc(b.n + 1, sizeof(*b.lag_ms));
	OK(ltx_logset_get(l->p.set, "bench.db", true, &b.log, e));
	ltx_log_info(b.log, &info);
	memcpy(b.lineage, info.lineage, sizeof(b.lineage));
	OK(ltx_enc_open(&enc, e));
	serve(l);
	follow(l);
	UNTIL(follows(l));
	assert_int_equal(pthread_create(&watcher, NULL, bench_watch, &b), 0);
	start_ns = fz_mono_ns();
	for (uint64_t txid = 1; txid <= b.n; txid++) {
		uint64_t at_ns = start_ns + (uint64_t)((double)txid / rate * 1e9), now;

		while ((now = fz_mono_ns()) < at_ns)
			if (at_ns - now > 60000)
				usleep((useconds_t)((at_ns - now - 50000) / 1000));
		bench_append(&b, enc, pages, &sum, txid);
	}
	written_ns = fz_mono_ns();
	pthread_join(watcher, NULL);
	end_ns = fz_mono_ns();
	qsort(b.lag_ms + 1, b.n, sizeof(*b.lag_ms), bench_order);
	ltx_log_info(b.log, &info);
	printf("link  %6.0f txn/s wanted  %6.0f written  %6.0f arrived  append to durable ack, ms: p50 %.2f  p99 %.2f  "
	       "max %.1f  "
	       "(%.0f bytes each)\n",
	       rate, (double)b.n / ((double)(written_ns - start_ns) / 1e9),
	       (double)b.n / ((double)(end_ns - start_ns) / 1e9), b.lag_ms[1 + b.n / 2], b.lag_ms[1 + b.n * 99 / 100],
	       b.lag_ms[b.n], (double)info.log_bytes / (double)b.n);
	fflush(stdout);
	ltx_log_put(b.log);
	ltx_enc_close(enc);
	link_free(l);
	free(b.appended_ns);
	free(b.lag_ms);
}

#endif
