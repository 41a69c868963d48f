/* s3xml.h - S3's XML answers. Pure; input is untrusted: no DOCTYPE (so no entities), bounded depth, text and counts;
 * namespaces and unknown elements are ignored. Every parser returns -FZ_ESTORE for what is not the expected document.
 *                                          held by: tests/unit/test_store_s3xml.c, tests/fuzz/fuzz_store_s3xml.c */
#ifndef FZ_STORE_S3XML_H
#define FZ_STORE_S3XML_H

#include "store/store.h"

/* <Error>. Fields are empty where the answer has none; control characters are replaced, so that they can be logged. */
struct store_s3_error {
	char code[64], message[200], region[40];
};
/* 1 = an <Error> document (e filled), 0 = well-formed but something else, negative = no XML. */
int store_s3xml_error(const void *data, size_t n, struct store_s3_error *e) FZ_MUST_CHECK;

/* One page of ListObjectsV2. Keys are given without strip (the store's prefix; NULL-free, may be ""): a key that does not
 * begin with it is dropped. Appends to *out. */
struct store_s3_page {
	char *next; /* continuation token, heap; NULL = last page */
};
int store_s3xml_list(const void *data, size_t n, const char *strip, struct fz_store_list *out,
                     struct store_s3_page *page, struct fz_err *err) FZ_MUST_CHECK;

/* What a DeleteObjects answer complains about. */
struct store_s3_undeleted {
	char *key; /* as sent */
	struct store_s3_error error;
};
struct store_s3_undeleted_list {
	struct store_s3_undeleted *v;
	size_t n, cap;
};
int store_s3xml_delete(const void *data, size_t n, struct store_s3_undeleted_list *out,
                       struct fz_err *err) FZ_MUST_CHECK;
void store_s3_undeleted_fini(struct store_s3_undeleted_list *l);

/* InitiateMultipartUpload: *id is heap. */
int store_s3xml_upload_id(const void *data, size_t n, char **id, struct fz_err *err) FZ_MUST_CHECK;

/* One page of ListMultipartUploads. */
struct store_s3_upload {
	char *key, *id;
	int64_t started_ms;
};
struct store_s3_upload_list {
	struct store_s3_upload *v;
	size_t n, cap;
	bool more;
};
int store_s3xml_uploads(const void *data, size_t n, struct store_s3_upload_list *out, struct fz_err *err) FZ_MUST_CHECK;
void store_s3_uploads_fini(struct store_s3_upload_list *l);

#endif
