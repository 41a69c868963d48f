/* test_ltx_ltx.c - header, checksums, lock page: against the format's published values. */
#include "ltx/ltx.h"

#include "base/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct ltx_header good = {.page_size = 4096,
                                       .commit = 7,
                                       .min_txid = 2,
                                       .max_txid = 5,
                                       .time_ms = 0x0102030405060708,
                                       .pre_checksum = LTX_FLAG | 0x1112131415161718,
                                       .wal_offset = 32,
                                       .wal_size = 4120,
                                       .wal_salt1 = 0x21222324,
                                       .wal_salt2 = 0x31323334,
                                       .node_id = 0x4142434445464748};

/* Bit by bit, from the polynomial in the format's description. */
static uint64_t slow_crc(const uint8_t *p, size_t n)
{
	uint64_t crc = ~UINT64_C(0);

	while (n--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc & 1 ? crc >> 1 ^ UINT64_C(0xd800000000000000) : crc >> 1;
	}
	return ~crc;
}

static void crc_known_values(void **state)
{
	static const struct {
		const char *text;
		uint64_t want;
	} rows[] = {
	        {"",	                                          0	                   },
	        {"a",	                                         UINT64_C(0x3420000000000000)}, /* Go, hash/crc64 */
	        {"abc",	                                       UINT64_C(0x3776c42000000000)},
	        {"123456789",	                                 UINT64_C(0xb90956c775a41001)},
	        {"The major problem is with sendmail.  -Mark Horton", UINT64_C(0)                 }, /* by slow_crc() only */
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		size_t n = strlen(rows[i].text);

		assert_int_equal(ltx_crc64(0, rows[i].text, n), slow_crc((const uint8_t *)rows[i].text, n));
		if (rows[i].want)
			assert_int_equal(ltx_crc64(0, rows[i].text, n), rows[i].want);
	}
	(void)state;
}

static void crc_chains_at_every_point(void **state)
{
	uint8_t data[777];
	uint64_t whole;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * i);
	whole = slow_crc(data, sizeof(data));
	for (size_t i = 0; i <= sizeof(data); i++)
		assert_int_equal(ltx_crc64(ltx_crc64(0, data, i), data + i, sizeof(data) - i), whole);
	(void)state;
}

static void page_checksum(void **state)
{
	uint8_t b[4 + 512];

	for (size_t i = 0; i < sizeof(b); i++)
		b[i] = (uint8_t)(i * 7);
	fz_put32(b, 0x01020304);
	assert_int_equal(ltx_page_checksum(0x01020304, b + 4, 512), LTX_FLAG | slow_crc(b, sizeof(b)));
	/* replacing a page twice gives back the first sum, and the flag stays set */
	assert_int_equal(ltx_db_checksum_swap(LTX_EMPTY_DB, 0, LTX_FLAG | 5), LTX_FLAG | 5);
	assert_int_equal(ltx_db_checksum_swap(LTX_FLAG | 5, LTX_FLAG | 5, 0), LTX_EMPTY_DB);
	(void)state;
}

static void page_sizes_and_lock_pages(void **state)
{
	for (uint32_t size = 0; size < 200000; size++) {
		bool want = size == 512 || size == 1024 || size == 2048 || size == 4096 || size == 8192 ||
		            size == 16384 || size == 32768 || size == 65536;

		assert_int_equal(ltx_page_size_ok(size), want);
	}
	assert_int_equal(ltx_lock_page(4096), 262145); /* SQLite: PENDING_BYTE_PAGE */
	assert_int_equal(ltx_lock_page(512), 2097153);
	assert_int_equal(ltx_lock_page(65536), 16385);
	(void)state;
}

static void header_layout(void **state)
{
	static const uint8_t want[LTX_HEADER_SIZE] =
	        "LTX1\0\0\0\0\0\0\x10\0\0\0\0\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x05"
	        "\x01\x02\x03\x04\x05\x06\x07\x08\x91\x12\x13\x14\x15\x16\x17\x18"
	        "\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\x10\x18\x21\x22\x23\x24\x31\x32\x33\x34"
	        "\x41\x42\x43\x44\x45\x46\x47\x48";
	uint8_t b[LTX_HEADER_SIZE], again[LTX_HEADER_SIZE];
	struct ltx_header h;

	memset(b, 0xee, sizeof(b));
	ltx_header_put(b, &good);
	assert_memory_equal(b, want, sizeof(b));
	assert_int_equal(ltx_header_get(&h, b, NULL), 0);
	ltx_header_put(again, &h);
	assert_memory_equal(again, want, sizeof(b));
	(void)state;
}

struct header_case {
	const char *name;
	size_t at, bytes; /* the big-endian field */
	uint64_t value;
	int want;
};
static const struct header_case header_cases[] = {
        {"as it is",                          8,  4, 4096,         0           },
        {"magic: not LTX",                    0,  4, 0x53514c69,   -FZ_ECORRUPT},
        {"magic: version 2",                  0,  4, 0x4c545832,   -FZ_EVERSION},
        {"flags: no checksum, pre given",     4,  4, 2,            -FZ_ECORRUPT},
        {"flags: LiteFS 0.5",                 4,  4, 1,            -FZ_EVERSION},
        {"flags: unknown",                    4,  4, 0x80000000,   -FZ_EVERSION},
        {"page size 0",                       8,  4, 0,            -FZ_ECORRUPT},
        {"page size 256",                     8,  4, 256,          -FZ_ECORRUPT},
        {"page size 4097",                    8,  4, 4097,         -FZ_ECORRUPT},
        {"page size 65536",                   8,  4, 65536,        0           },
        {"page size 131072",                  8,  4, 131072,       -FZ_ECORRUPT},
        {"no pages",                          12, 4, 0,            -FZ_ECORRUPT},
        {"min TXID 0",                        16, 8, 0,            -FZ_ECORRUPT},
        {"min TXID 1: a snapshot has no pre", 16, 8, 1,            -FZ_ECORRUPT},
        {"min TXID = max",                    16, 8, 5,            0           },
        {"min TXID > max",                    16, 8, 6,            -FZ_ECORRUPT},
        {"time before 1970",                  32, 8, ~UINT64_C(0), 0           },
        {"pre: none",                         40, 8, 0,            -FZ_ECORRUPT},
        {"pre: without the flag",             40, 8, 5,            -FZ_ECORRUPT},
        {"pre: of an empty database",         40, 8, LTX_EMPTY_DB, 0           },
        {"WAL offset negative",               48, 8, ~UINT64_C(0), -FZ_ECORRUPT},
        {"WAL offset 0 with salts",           48, 8, 0,            -FZ_ECORRUPT},
        {"WAL size negative",                 56, 8, ~UINT64_C(0), -FZ_ECORRUPT},
        {"last bytes are not looked at",      92, 8, 77,           0           },
};

static void header_checks(void **state)
{
	for (size_t i = 0; i < sizeof(header_cases) / sizeof(header_cases[0]); i++) {
		const struct header_case *c = &header_cases[i];
		struct fz_err err = {0};
		uint8_t b[LTX_HEADER_SIZE];
		struct ltx_header h;
		int rc;

		ltx_header_put(b, &good);
		if (c->bytes == 4)
			fz_put32(b + c->at, (uint32_t)c->value);
		else
			fz_put64(b + c->at, c->value);
		rc = ltx_header_get(&h, b, &err);
		if (rc != c->want)
			print_error("%s: %d %s\n", c->name, rc, err.text);
		assert_int_equal(rc, c->want);
		assert_int_equal(err.code, c->want); /* a failure has its sentence */
	}
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(crc_known_values), cmocka_unit_test(crc_chains_at_every_point),
	        cmocka_unit_test(page_checksum),    cmocka_unit_test(page_sizes_and_lock_pages),
	        cmocka_unit_test(header_layout),    cmocka_unit_test(header_checks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
