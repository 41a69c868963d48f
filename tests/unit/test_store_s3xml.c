#include "store/s3xml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#define NS "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\""

static void errors_are_read(void **state)
{
	static const struct {
		const char *xml;
		int rc; /* -1 = any failure */
		const char *code, *message, *region;
	} t[] = {
	        {"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code><Message>a &amp; b</Message>"
	         "<Resource>/x</Resource></Error>",	                                    1,  "NoSuchKey", "a & b",          ""         },
	        {"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",          1,
	         "AuthorizationHeaderMalformed",	                                                                         "",               "eu-west-1"},
	        {"<e:Error xmlns:e='urn:x'><e:Code>X</e:Code></e:Error>",                                       1,  "X",         "",               ""         },
	        {"<Error><Message>line\nbreak\ttab</Message></Error>",                                          1,  "",          "line break tab", ""         },
	        {"\n\n<CompleteMultipartUploadResult><Code>no</Code></CompleteMultipartUploadResult>",          0,  "",          "",               ""         },
	        {"<a><Error><Code>nested</Code></Error></a>",                                                   0,  "",          "",               ""         },
	        {"<html><body>Bad Gateway<br></body></html>",                                                   -1, "",          "",               ""         },
	        {"",	                                                                                    -1, "",          "",               ""         },
	        {"<Error><Code>cut",	                                                                    -1, "",          "",               ""         },
	        {"<!DOCTYPE x [<!ENTITY a \"b\">]><Error><Code>&a;</Code></Error>",                             -1, "",          "",               ""         },
	        {"<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><Error><Code>y</Code></Error>",                     -1, "",          "",               ""         },
	        {"<a><a><a><a><a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a></a></a></a></a>", -1, "",
	         "",	                                                                                                                       ""         },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct store_s3_error e;
		int rc = store_s3xml_error(t[i].xml, strlen(t[i].xml), &e);

		print_message("  %s\n", t[i].xml);
		assert_int_equal(rc < 0 ? -1 : rc, t[i].rc);
		if (rc < 0)
			continue;
		assert_string_equal(e.code, t[i].code);
		assert_string_equal(e.message, t[i].message);
		assert_string_equal(e.region, t[i].region);
	}
}

static void a_page_is_read(void **state)
{
	static const char xml[] =
	        "<?xml version=\"1.0\"?><ListBucketResult " NS "><Name>b</Name><Prefix>p/</Prefix>"
	        "<IsTruncated>true</IsTruncated><NextContinuationToken>1/a+b= &amp;</NextContinuationToken>"
	        "<Contents><Key>p/a&amp;b</Key><LastModified>2009-10-12T17:50:30.123Z</LastModified>"
	        "<ETag>&quot;x&quot;</ETag><Size>434234</Size><Owner><ID>7</ID><Key>no</Key></Owner></Contents>"
	        "<Contents><Size>0</Size><Key>p/c</Key></Contents>"
	        "<Contents><Key>other/d</Key><Size>1</Size></Contents>"
	        "<Contents><Key>p/</Key><Size>0</Size></Contents>"
	        "<CommonPrefixes><Prefix>p/dir/</Prefix></CommonPrefixes></ListBucketResult>";
	struct fz_store_list l = {0};
	struct store_s3_page page = {0};

	assert_int_equal(store_s3xml_list(xml, sizeof(xml) - 1, "p/", &l, &page, NULL), 0);
	assert_int_equal(l.n, 3); /* what is not below the prefix, and the prefix itself, are left out */
	assert_string_equal(l.v[0].key, "a&b");
	assert_int_equal(l.v[0].size_bytes, 434234);
	assert_int_equal(l.v[0].mtime_ms, 1255369830123);
	assert_string_equal(l.v[1].key, "c");
	assert_int_equal(l.v[1].mtime_ms, 0);
	assert_string_equal(l.v[2].key, "dir/");
	assert_string_equal(page.next, "1/a+b= &");
	fz_store_list_fini(&l);
	free(page.next);
}

static void keys_are_decoded_only_when_the_answer_says_so(void **state)
{
	static const struct {
		const char *raw, *encoding, *want; /* NULL = refused */
	} t[] = {
	        {"a+b%20c%2Bd", "<EncodingType>url</EncodingType>", "a b c+d"    },
	        {"a+b%20c%2Bd", "",                                 "a+b%20c%2Bd"},
	        {"%c3%A9",      "<EncodingType>url</EncodingType>", "\xc3\xa9"   },
	        {"a%2",         "<EncodingType>url</EncodingType>", NULL         },
	        {"a%zz",        "<EncodingType>url</EncodingType>", NULL         },
	        {"a%00b",       "<EncodingType>url</EncodingType>", NULL         },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_buf xml = {0};
		struct fz_store_list l = {0};
		struct store_s3_page page = {0};
		int rc;

		assert_int_equal(
		        fz_buf_addf(&xml, "<ListBucketResult><Contents><Key>%s</Key></Contents>%s</ListBucketResult>",
		                    t[i].raw, t[i].encoding),
		        0);
		rc = store_s3xml_list(xml.data, xml.size, "", &l, &page, NULL);
		assert_int_equal(rc, t[i].want ? 0 : -FZ_ESTORE);
		assert_int_equal(l.n, t[i].want ? 1 : 0);
		if (t[i].want)
			assert_string_equal(l.v[0].key, t[i].want);
		fz_store_list_fini(&l);
		fz_buf_fini(&xml);
	}
}

static void bad_pages_are_refused(void **state)
{
	static const char *const t[] = {
	        "<Other/>",
	        "<ListBucketResult>",
	        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
	        "<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
	        "<ListBucketResult><Contents><Key>k</Key><Size>-1</Size></Contents></ListBucketResult>",
	        ("<ListBucketResult><Contents><Key>k</Key><Size>99999999999999999999</Size></Contents></"
	         "ListBucketResult>"),
	        "<ListBucketResult><Contents><Key>k</Key><Size>1x</Size></Contents></ListBucketResult>",
	};
	struct fz_buf big = {0};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct fz_store_list l = {0};
		struct store_s3_page page = {0};

		assert_int_equal(store_s3xml_list(t[i], strlen(t[i]), "", &l, &page, NULL), -FZ_ESTORE);
		assert_null(page.next);
		fz_store_list_fini(&l);
	}
	assert_int_equal(fz_buf_addf(&big, "<ListBucketResult><Contents><Key>"), 0);
	for (int i = 0; i < 20000; i++)
		assert_int_equal(fz_buf_add(&big, "k", 1), 0);
	assert_int_equal(fz_buf_addf(&big, "</Key></Contents></ListBucketResult>"), 0);
	{
		struct fz_store_list l = {0};
		struct store_s3_page page = {0};

		assert_int_equal(store_s3xml_list(big.data, big.size, "", &l, &page, NULL), -FZ_ESTORE);
		fz_store_list_fini(&l);
	}
	fz_buf_fini(&big);
}

static void deletions_tell_what_is_left(void **state)
{
	static const char xml[] = "<DeleteResult " NS "><Deleted><Key>a</Key></Deleted><Error><Key>b &lt;c</Key>"
	                          "<Code>AccessDenied</Code><Message>no</Message></Error><Error><Key>d</Key>"
	                          "<Code>InternalError</Code></Error></DeleteResult>";
	struct store_s3_undeleted_list l = {0};

	assert_int_equal(store_s3xml_delete(xml, sizeof(xml) - 1, &l, NULL), 0);
	assert_int_equal(l.n, 2);
	assert_string_equal(l.v[0].key, "b <c");
	assert_string_equal(l.v[0].error.code, "AccessDenied");
	assert_string_equal(l.v[0].error.message, "no");
	assert_string_equal(l.v[1].error.code, "InternalError");
	assert_string_equal(l.v[1].error.message, ""); /* not the one before */
	store_s3_undeleted_fini(&l);
	assert_int_equal(store_s3xml_delete("<DeleteResult/>", 15, &l, NULL), 0);
	assert_int_equal(l.n, 0);
	assert_int_equal(store_s3xml_delete("<Error/>", 8, &l, NULL), -FZ_ESTORE);
	assert_int_equal(store_s3xml_delete("<DeleteResult><Error/></DeleteResult>", 37, &l, NULL), -FZ_ESTORE);
	store_s3_undeleted_fini(&l);
}

static void uploads_are_read(void **state)
{
	static const char begin[] =
	        "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>VXB&amp;</UploadId>"
	        "</InitiateMultipartUploadResult>";
	static const char list[] =
	        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><Upload><Key>p/x</Key>"
	        "<UploadId>1</UploadId><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload><Upload>"
	        "<Key>p/y</Key><UploadId>2</UploadId></Upload></ListMultipartUploadsResult>";
	struct store_s3_upload_list l = {0};
	char *id = NULL;

	assert_int_equal(store_s3xml_upload_id(begin, sizeof(begin) - 1, &id, NULL), 0);
	assert_string_equal(id, "VXB&");
	free(id);
	assert_int_equal(store_s3xml_upload_id("<InitiateMultipartUploadResult/>", 32, &id, NULL), -FZ_ESTORE);
	assert_int_equal(store_s3xml_uploads(list, sizeof(list) - 1, &l, NULL), 0);
	assert_int_equal(l.n, 2);
	assert_true(l.more);
	assert_string_equal(l.v[0].key, "p/x");
	assert_string_equal(l.v[0].id, "1");
	assert_int_equal(l.v[0].started_ms, 1289422113000);
	store_s3_uploads_fini(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(errors_are_read),
	        cmocka_unit_test(a_page_is_read),
	        cmocka_unit_test(keys_are_decoded_only_when_the_answer_says_so),
	        cmocka_unit_test(bad_pages_are_refused),
	        cmocka_unit_test(deletions_tell_what_is_left),
	        cmocka_unit_test(uploads_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
