#include "store/url.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

struct url_case {
	const char *url;
	const char *part1, *part2; /* dir: path; s3: bucket, prefix. NULL = refused */
	const char *says;          /* in the sentence of a refusal */
};

static const struct url_case urls[] = {
        {"dir:/backup",                               "/backup",    NULL,    NULL                   },
        {"dir:/backup/",                              "/backup",    NULL,    NULL                   },
        {"dir:///backup",                             "/backup",    NULL,    NULL                   },
        {"dir:/",                                     "/",          NULL,    NULL                   },
        {"dir:/a%20b?c=d",                            "/a%20b?c=d", NULL,    NULL                   },
        {"dir:backup",                                NULL,         NULL,    "absolute"             },
        {"dir:",                                      NULL,         NULL,    "absolute"             },
        {"s3://bucket",                               "bucket",     "",      NULL                   },
        {"s3://bucket/",                              "bucket",     "",      NULL                   },
        {"s3://bucket/a/b/",                          "bucket",     "a/b",   NULL                   },
        {"s3://bucket/a%20b%2Fc",                     "bucket",     "a b/c", NULL                   },
        {"s3://bucket?region=eu-central-1",           "bucket",     "",      NULL                   },
        {"s3://bucket/p?path-style=yes&region=x",     "bucket",     "p",     NULL                   },
        {"s3://bucket/p?path-style=perhaps",          NULL,         NULL,    "path-style"           },
        {"s3://bucket/p?regoin=x",                    NULL,         NULL,    "regoin"               },
        {"s3://bucket/p?region=a&region=b",           NULL,         NULL,    "region is given twice"},
        {"s3://bucket/p?region=",                     NULL,         NULL,    "region is empty"      },
        {"s3://bucket/p?region",                      NULL,         NULL,    "name=value"           },
        {"s3://bucket/p?region=a%0d%0ab",             NULL,         NULL,    "region"               },
        {"s3://bucket/p?secret=hunter2",              NULL,         NULL,    "unknown parameter"    },
        {"s3://bucket/p?endpoint=host:9000",          NULL,         NULL,    "http://"              },
        {"s3://bucket/p?endpoint=http://a:b@h",       NULL,         NULL,    "user name"            },
        {"s3://bucket/p?endpoint=http://h:99999",     NULL,         NULL,    "port"                 },
        {"s3://bucket/p?endpoint=http://h/x",         NULL,         NULL,    "only http"            },
        {"s3://bucket/p?endpoint=http%3A%2F%2Fh%3A1", "bucket",     "p",     NULL                   },
        {"s3://AKIA:hunter2@bucket/p",                NULL,         NULL,    "do not belong"        },
        {"s3://b/p",                                  NULL,         NULL,    "bucket"               },
        {"s3://buc%ket/p",                            NULL,         NULL,    "bucket"               },
        {"s3://..bucket/p",                           NULL,         NULL,    "dot"                  },
        {"s3:///p",                                   NULL,         NULL,    "bucket"               },
        {"s3://bucket/a//b",                          NULL,         NULL,    "empty part"           },
        {"s3://bucket/a/../b",                        NULL,         NULL,    "\"..\""               },
        {"s3://bucket/a%2",                           NULL,         NULL,    "hex digits"           },
        {"s3://bucket/a%zz",                          NULL,         NULL,    "hex digits"           },
        {"s3://bucket/a%00b",                         NULL,         NULL,    "hex digits"           },
        {"s3://bucket/a%0Ab",                         NULL,         NULL,    "control"              },
        {"file:/x",                                   NULL,         NULL,    "dir:/ or s3://"       },
        {"",                                          NULL,         NULL,    "dir:/ or s3://"       },
};

static void parses_or_names_what_is_wrong(void **state)
{
	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
		const struct url_case *c = &urls[i];
		struct fz_err err = {0};
		struct store_url u;
		int rc = store_url_parse(&u, c->url, &err);

		print_message("  %s\n", c->url);
		if (!c->part1) {
			assert_int_equal(rc, -FZ_EUSAGE);
			assert_non_null(strstr(err.text, c->says));
			assert_null(strstr(err.text, "hunter2"));
			continue;
		}
		assert_int_equal(rc, 0);
		assert_string_equal(u.kind == STORE_DIR ? u.path : u.bucket, c->part1);
		if (c->part2)
			assert_string_equal(u.prefix, c->part2);
		store_url_fini(&u);
	}
}

static void takes_every_parameter(void **state)
{
	struct store_url u;

	assert_int_equal(store_url_parse(&u,
	                                 "s3://bk.t/p?endpoint=https://h:1&region=r-1&path-style=no&profile=me&"
	                                 "credentials=/etc/a%26b&cacert=/ca.pem",
	                                 NULL),
	                 0);
	assert_string_equal(u.endpoint, "https://h:1");
	assert_string_equal(u.region, "r-1");
	assert_int_equal(u.path_style, 0);
	assert_string_equal(u.profile, "me");
	assert_string_equal(u.credentials, "/etc/a&b");
	assert_string_equal(u.cacert, "/ca.pem");
	store_url_fini(&u);
}

static void endpoint_gives_the_host_header(void **state)
{
	static const struct {
		const char *endpoint, *host;
		bool https;
	} t[] = {
	        {"http://127.0.0.1:7070", "127.0.0.1:7070", false},
	        {"http://Host:80/",       "host",           false},
	        {"https://host:443",      "host",           true },
	        {"https://host:80",       "host:80",        true },
	        {"HTTPS://h.example",     "h.example",      true },
	        {"http://[::1]:9000",     "[::1]:9000",     false},
	        {"http://[::1]",          "[::1]",          false},
	        {"http://",               NULL,             false},
	        {"http://:80",            NULL,             false},
	        {"http://h:",             NULL,             false},
	        {"http://h:0",            NULL,             false},
	        {"http://h:8x",           NULL,             false},
	        {"http://h\r\nX-A: b",    NULL,             false},
	        {"ftp://h",               NULL,             false},
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		char *host = NULL;
		bool https = false;
		int rc = store_url_endpoint(t[i].endpoint, &https, &host, NULL);

		print_message("  %s\n", t[i].endpoint);
		assert_int_equal(rc, t[i].host ? 0 : -FZ_EUSAGE);
		if (rc < 0)
			continue;
		assert_string_equal(host, t[i].host);
		assert_int_equal(https, t[i].https);
		free(host);
	}
}

static void keys_stay_inside(void **state)
{
	static const struct {
		const char *key;
		bool key_ok, prefix_ok;
	} t[] = {
	        {"a",         true,  true },
                {"a/b",       true,  true },
                {".a/..b/c.", true,  true },
                {"a b+c%",    true,  true },
	        {"",          false, true },
                {"a/",        false, true },
                {"/a",        false, false},
                {"a//b",      false, false},
	        {"..",        false, true }, /* a string prefix of "..x" */
	        {"../a",      false, false},
                {"a/..",      false, true },
                {"a/../b",    false, false},
                {"./a",       false, false},
	        {"a/./b",     false, false},
                {"a\nb",      false, false},
                {"a\x7f",     false, false},
	};
	char longer[1100];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		print_message("  \"%s\"\n", t[i].key);
		assert_int_equal(store_key_check(t[i].key, NULL), t[i].key_ok ? 0 : -FZ_EUSAGE);
		assert_int_equal(store_prefix_check(t[i].key, NULL), t[i].prefix_ok ? 0 : -FZ_EUSAGE);
	}
	memset(longer, 'a', sizeof(longer));
	longer[1024] = 0;
	assert_int_equal(store_key_check(longer, NULL), 0);
	longer[1024] = 'a';
	longer[1025] = 0;
	assert_int_equal(store_key_check(longer, NULL), -FZ_EUSAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(parses_or_names_what_is_wrong),
	        cmocka_unit_test(takes_every_parameter),
	        cmocka_unit_test(endpoint_gives_the_host_header),
	        cmocka_unit_test(keys_stay_inside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
