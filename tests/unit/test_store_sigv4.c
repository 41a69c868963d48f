/* Outside truth: AWS's signature version 4 test suite (service "service", 30 Aug 2015) and the worked examples of the S3
 * API reference, "Signature Calculations for the Authorization Header" (24 May 2013). MD5: RFC 1321, appendix A.5. */
#include "store/md5.h"
#include "store/sigv4.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sodium.h>
#include <string.h>

#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define SUITE                                                                                                          \
	{"host", "example.amazonaws.com"},                                                                             \
	{                                                                                                              \
		"x-amz-date", "20150830T123600Z"                                                                       \
	}
#define S3(hash)                                                                                                       \
	{"Host", "examplebucket.s3.amazonaws.com"}, {"x-amz-date", "20130524T000000Z"},                                \
	{                                                                                                              \
		"x-amz-content-sha256", hash                                                                           \
	}
#define WELCOME "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
#define TOKEN   "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"

static const struct sign_case {
	const char *name, *method, *path;
	struct store_pair query[3], headers[6]; /* up to the first NULL name */
	const char *payload;                    /* hash; NULL = of nothing */
	const char *names, *signature;
} cases[] = {
        {"get-vanilla",
         "GET",  "/",
         {{0}},
         {SUITE},
         NULL,                                                               "host;x-amz-date",
         "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
        {"get-unreserved",
         "GET",  "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
         {{0}},
         {SUITE},
         NULL,                                                               "host;x-amz-date",
         "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
        {"get-vanilla-query-order-key-case",
         "GET",  "/",
         {{"Param2", "value2"}, {"Param1", "value1"}},
         {SUITE},
         NULL,                                                               "host;x-amz-date",
         "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
        {"get-vanilla-query-order-value",
         "GET",  "/",
         {{"Param1", "value2"}, {"Param1", "value1"}},
         {SUITE},
         NULL,                                                               "host;x-amz-date",
         "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694"},
        {"get-vanilla-utf8-query",
         "GET",  "/",
         {{"\xe1\x88\xb4", "bar"}},
         {SUITE},
         NULL,                                                               "host;x-amz-date",
         "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
        {"get-header-value-order",
         "GET",  "/",
         {{0}},
         {SUITE,
          {"My-Header1", "value4"},
          {"My-Header1", "value1"},
          {"My-Header1", "value3"},
          {"My-Header1", "value2"}},
         NULL,                                                               "host;my-header1;x-amz-date",
         "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
        {"get-header-key-duplicate",
         "GET",  "/",
         {{0}},
         {SUITE, {"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}},
         NULL,                                                               "host;my-header1;x-amz-date",
         "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
        {"get-header-value-trim",
         "GET",  "/",
         {{0}},
         {SUITE, {"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\" "}},
         NULL,                                                               "host;my-header1;my-header2;x-amz-date",
         "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
        {"post-x-www-form-urlencoded",
         "POST", "/",
         {{0}},
         {SUITE, {"Content-Type", "application/x-www-form-urlencoded"}},
         "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e", "content-type;host;x-amz-date",
         "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
        {"get-vanilla-with-session-token",
         "GET",  "/",
         {{0}},
         {SUITE, {"X-Amz-Security-Token", TOKEN}},
         NULL,                                                               "host;x-amz-date;x-amz-security-token",
         "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"},
        {"S3: GET Object",
         "GET",  "/test.txt",
         {{0}},
         {S3(EMPTY), {"Range", "bytes=0-9"}},
         NULL,                                                               "host;range;x-amz-content-sha256;x-amz-date",
         "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
        {"S3: PUT Object",
         "PUT",  "/test$file.text",
         {{0}},
         {S3(WELCOME), {"Date", "Fri, 24 May 2013 00:00:00 GMT"}, {"x-amz-storage-class", "REDUCED_REDUNDANCY"}},
         WELCOME,                                                            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
         "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
        {"S3: GET Bucket Lifecycle",
         "GET",  "/",
         {{"lifecycle", NULL}},
         {S3(EMPTY)},
         NULL,                                                               "host;x-amz-content-sha256;x-amz-date",
         "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
        {"S3: List Objects",
         "GET",  "/",
         {{"prefix", "J"}, {"max-keys", "2"}},
         {S3(EMPTY)},
         NULL,                                                               "host;x-amz-content-sha256;x-amz-date",
         "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
};

static void signs_as_aws_published(void **state)
{
	static const struct store_sigv4_key suite = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
	                                             "us-east-1", "service"};
	static const struct store_sigv4_key s3 = {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
	                                          "us-east-1", "s3"};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct sign_case *c = &cases[i];
		bool is_s3 = strncmp(c->name, "S3", 2) == 0;
		struct store_sigv4_req req = {.method = c->method,
		                              .path = c->path,
		                              .query = c->query,
		                              .headers = c->headers,
		                              .payload_hash = c->payload ? c->payload : EMPTY,
		                              .amz_date = c->headers[1].value};
		struct fz_buf got = {0}, want = {0};

		while (req.n_query < 3 && c->query[req.n_query].name)
			req.n_query++;
		while (req.n_headers < 6 && c->headers[req.n_headers].name)
			req.n_headers++;
		print_message("  %s\n", c->name);
		assert_int_equal(store_sigv4_sign(&got, is_s3 ? &s3 : &suite, &req), 0);
		assert_int_equal(fz_buf_addf(&want,
		                             "AWS4-HMAC-SHA256 Credential=%s/%.8s/us-east-1/%s/aws4_request, "
		                             "SignedHeaders=%s, Signature=%s",
		                             is_s3 ? s3.access_key : suite.access_key, req.amz_date,
		                             is_s3 ? "s3" : "service", c->names, c->signature),
		                 0);
		assert_string_equal(fz_buf_str(&got), fz_buf_str(&want));
		fz_buf_fini(&got);
		fz_buf_fini(&want);
	}
}

static void encodes_once_and_not_more(void **state)
{
	static const struct {
		const char *raw, *path, *query;
	} t[] = {
	        {"/a b+c%25/\xc3\xa9", "/a%20b%2Bc%2525/%C3%A9", "%2Fa%20b%2Bc%2525%2F%C3%A9"},
	        {"/a//b/../c",         "/a//b/../c",             "%2Fa%2F%2Fb%2F..%2Fc"      },
	        {"/test$file.text",    "/test%24file.text",      "%2Ftest%24file.text"       },
	        {"",                   "",                       ""                          },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_buf b = {0};

		assert_int_equal(store_uri_encode(&b, t[i].raw, true), 0);
		assert_string_equal(fz_buf_str(&b), t[i].path);
		fz_buf_reset(&b);
		assert_int_equal(store_uri_encode(&b, t[i].raw, false), 0);
		assert_string_equal(fz_buf_str(&b), t[i].query);
		fz_buf_fini(&b);
	}
}

static void a_query_sorts_by_name_then_value(void **state)
{
	/* as text "a-b=" sorts before "a=", by name after it */
	static const struct store_pair q[] = {
	        {"a-b",       "1" },
                {"a",         "z" },
                {"list-type", "2" },
                {"a",         "b" },
                {"uploads",   NULL}
        };
	struct fz_buf b = {0};

	assert_int_equal(store_uri_query(&b, q, 5), 0);
	assert_string_equal(fz_buf_str(&b), "a=b&a=z&a-b=1&list-type=2&uploads=");
	fz_buf_fini(&b);
}

static void md5_of_the_rfc(void **state)
{
	static const struct {
		const char *text, *hex;
	} t[] = {
	        {"",	                                                                         "d41d8cd98f00b204e9800998ecf8427e"},
	        {"a",	                                                                        "0cc175b9c0f1b6a831c399e269772661"},
	        {"abc",	                                                                      "900150983cd24fb0d6963f7d28e17f72"},
	        {"message digest",	                                                           "f96b697d7cb7938d525a2f31aaf161d0"},
	        {"abcdefghijklmnopqrstuvwxyz",	                                               "c3fcd3d76192e4007dfb496cca67e13b"},
	        {"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",                   "d174ab98d277d9f5a5611c2c9f419d9f"},
	        {"12345678901234567890123456789012345678901234567890123456789012345678901234567890",
	         "57edf4a22be3c955ac49da2e2107b67a"	                                                                            },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		for (size_t step = 1; step <= 81; step += 7) { /* however it is cut */
			struct store_md5 m;
			uint8_t out[16];
			char hex[33];
			size_t n = strlen(t[i].text);

			store_md5_init(&m);
			for (size_t at = 0; at < n; at += step)
				store_md5_add(&m, t[i].text + at, n - at < step ? n - at : step);
			store_md5_final(&m, out);
			assert_string_equal(sodium_bin2hex(hex, sizeof(hex), out, 16), t[i].hex);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(signs_as_aws_published),
	        cmocka_unit_test(encodes_once_and_not_more),
	        cmocka_unit_test(a_query_sorts_by_name_then_value),
	        cmocka_unit_test(md5_of_the_rfc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
