#include "store/s3xml.h"

#include "store/backend.h"

#include "base/array.h"
#include "base/clock.h"

#include <errno.h>
#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 12, TEXT_MAX_BYTES = 16 * 1024, COUNT_MAX = 10000 };

/* Walks a document and calls end() for each element that closes: path is like "ListBucketResult/Contents/Key", text what
 * stood between its tags. One walker serves all documents. */
struct walk {
	XML_Parser parser;
	char path[512];
	size_t path_n, depth;
	size_t names[DEPTH_MAX]; /* path_n before each open element */
	struct fz_buf text;
	int (*end)(void *arg, const char *path, const struct fz_buf *text, struct fz_err *err);
	void *arg;
	struct fz_err *err;
	int rc;
};

static void stop(struct walk *w, int rc)
{
	w->rc = rc;
	XML_StopParser(w->parser, XML_FALSE);
}

static void on_start(void *arg, const char *name, const char **attrs)
{
	struct walk *w = arg;
	const char *colon = strrchr(name, ':');
	size_t n;

	if (colon)
		name = colon + 1;
	n = strlen(name);
	if (w->depth == DEPTH_MAX || n + 2 > sizeof(w->path) - w->path_n) {
		stop(w, fz_fail(w->err, FZ_ESTORE, "the store's XML is nested too deep"));
		return;
	}
	w->names[w->depth++] = w->path_n;
	if (w->path_n)
		w->path[w->path_n++] = '/';
	memcpy(w->path + w->path_n, name, n + 1);
	w->path_n += n;
	fz_buf_reset(&w->text);
}

static void on_end(void *arg, const char *name)
{
	struct walk *w = arg;
	int rc;

	if (w->rc < 0)
		return;
	rc = w->end(w->arg, w->path, &w->text, w->err);
	if (rc < 0) {
		stop(w, rc);
		return;
	}
	w->path_n = w->names[--w->depth];
	w->path[w->path_n] = 0;
	fz_buf_reset(&w->text);
}

static void on_text(void *arg, const char *text, int n)
{
	struct walk *w = arg;

	if (w->rc < 0)
		return;
	if (w->text.size + (size_t)n > TEXT_MAX_BYTES)
		stop(w, fz_fail(w->err, FZ_ESTORE, "the store's XML has an element that is too long"));
	else if (fz_buf_add(&w->text, text, (size_t)n) < 0)
		stop(w, fz_fail_errno(w->err, ENOMEM, "reading XML"));
}

static void on_doctype(void *arg, const char *name, const char *sysid, const char *pubid, int internal)
{
	struct walk *w = arg;

	stop(w, fz_fail(w->err, FZ_ESTORE, "the store's XML has a DOCTYPE"));
}

static int walk(const void *data, size_t n, int (*end)(void *, const char *, const struct fz_buf *, struct fz_err *),
                void *arg, struct fz_err *err)
{
	struct walk w = {.parser = XML_ParserCreate(NULL), .end = end, .arg = arg, .err = err};
	int rc;

	if (!w.parser)
		return fz_fail_errno(err, ENOMEM, "reading XML");
	XML_SetUserData(w.parser, &w);
	XML_SetElementHandler(w.parser, on_start, on_end);
	XML_SetCharacterDataHandler(w.parser, on_text);
	XML_SetStartDoctypeDeclHandler(w.parser, on_doctype);
	if (n > INT32_MAX)
		w.rc = fz_fail(err, FZ_ESTORE, "the store's XML is too long");
	else if (XML_Parse(w.parser, data ? data : "", (int)n, 1) != XML_STATUS_OK && w.rc == 0)
		w.rc = fz_fail(err, FZ_ESTORE, "the store's answer is not the XML expected: line %lu: %s",
		               (unsigned long)XML_GetCurrentLineNumber(w.parser),
		               XML_ErrorString(XML_GetErrorCode(w.parser)));
	rc = w.rc;
	XML_ParserFree(w.parser);
	fz_buf_fini(&w.text);
	return rc;
}

static bool is(const char *path, const char *want)
{
	return strcmp(path, want) == 0;
}

static void copy_clean(char *out, size_t size, const struct fz_buf *text)
{
	const char *s = fz_buf_str(text);

	snprintf(out, size, "%s", s);
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

/* %XX and '+' in place; returns the length, or -1 when it is no such encoding or has a NUL. */
static ssize_t url_decode(char *s)
{
	char *w = s;

	for (const char *p = s; *p; p++) {
		unsigned v = 0;

		if (*p != '%') {
			*w++ = *p == '+' ? ' ' : *p; /* S3 writes a plus sign as %2B */
			continue;
		}
		for (int i = 1; i <= 2; i++) {
			char c = p[i] | 0x20;

			if (p[i] >= '0' && p[i] <= '9')
				v = v << 4 | (unsigned)(p[i] - '0');
			else if (p[i] && c >= 'a' && c <= 'f')
				v = v << 4 | (unsigned)(c - 'a' + 10);
			else
				return -1;
		}
		if (v == 0)
			return -1;
		*w++ = (char)v;
		p += 2;
	}
	*w = 0;
	return w - s;
}

/* <Error> ------------------------------------------------------------------------------------------------------ */

struct error_walk {
	struct store_s3_error *e;
	bool is_error;
};

static int error_end(void *arg, const char *path, const struct fz_buf *text, struct fz_err *err)
{
	struct error_walk *w = arg;

	if (is(path, "Error/Code"))
		copy_clean(w->e->code, sizeof(w->e->code), text);
	else if (is(path, "Error/Message"))
		copy_clean(w->e->message, sizeof(w->e->message), text);
	else if (is(path, "Error/Region"))
		copy_clean(w->e->region, sizeof(w->e->region), text);
	else if (is(path, "Error"))
		w->is_error = true;
	return 0;
}

int store_s3xml_error(const void *data, size_t n, struct store_s3_error *e)
{
	struct error_walk w = {.e = e};
	int rc;

	memset(e, 0, sizeof(*e));
	rc = walk(data, n, error_end, &w, NULL);
	return rc < 0 ? rc : w.is_error;
}

/* ListObjectsV2 ------------------------------------------------------------------------------------------------ */

struct list_item {
	struct fz_buf key;
	uint64_t size_bytes;
	int64_t mtime_ms;
	bool directory;
};

struct list_walk {
	struct list_item item;
	struct list_item *v;
	size_t n, cap;
	char *next;
	bool truncated, encoded, is_list;
};

static int list_push(struct list_walk *w, bool directory, struct fz_err *err)
{
	if (w->n == COUNT_MAX)
		return fz_fail(err, FZ_ESTORE, "the store lists more than %d keys at once", COUNT_MAX);
	if (!fz_array_room(w->v, w->n, w->cap))
		return fz_fail_errno(err, ENOMEM, "listing");
	w->item.directory = directory;
	w->v[w->n++] = w->item;
	memset(&w->item, 0, sizeof(w->item));
	return 0;
}

static int list_end(void *arg, const char *path, const struct fz_buf *text, struct fz_err *err)
{
	struct list_walk *w = arg;
	const char *s = fz_buf_str(text);
	char *end;

	if (is(path, "ListBucketResult/Contents/Key") || is(path, "ListBucketResult/CommonPrefixes/Prefix")) {
		fz_buf_reset(&w->item.key);
		if (fz_buf_add(&w->item.key, s, strlen(s)) < 0)
			return fz_fail_errno(err, ENOMEM, "listing");
	} else if (is(path, "ListBucketResult/Contents/Size")) {
		errno = 0;
		w->item.size_bytes = strtoull(s, &end, 10);
		if (errno || *end || *s < '0' || *s > '9')
			return fz_fail(err, FZ_ESTORE, "the store lists an object with a bad size");
	} else if (is(path, "ListBucketResult/Contents/LastModified")) {
		if (fz_parse_time(s, 0, &w->item.mtime_ms, NULL) < 0)
			w->item.mtime_ms = 0; /* nothing depends on it that cannot do without */
	} else if (is(path, "ListBucketResult/Contents") || is(path, "ListBucketResult/CommonPrefixes")) {
		if (w->item.key.size == 0)
			return fz_fail(err, FZ_ESTORE, "the store lists an object without a key");
		return list_push(w, path[sizeof("ListBucketResult/Co") - 1] == 'm', err);
	} else if (is(path, "ListBucketResult/IsTruncated")) {
		w->truncated = strcmp(s, "true") == 0;
	} else if (is(path, "ListBucketResult/EncodingType")) {
		w->encoded = strcmp(s, "url") == 0;
	} else if (is(path, "ListBucketResult/NextContinuationToken")) {
		free(w->next);
		w->next = strdup(s);
		if (!w->next)
			return fz_fail_errno(err, ENOMEM, "listing");
	} else if (is(path, "ListBucketResult")) {
		w->is_list = true;
	}
	return 0;
}

int store_s3xml_list(const void *data, size_t n, const char *strip, struct fz_store_list *out,
                     struct store_s3_page *page, struct fz_err *err)
{
	struct list_walk w = {0};
	size_t skip = strlen(strip);
	int rc = walk(data, n, list_end, &w, err);

	if (rc == 0 && !w.is_list)
		rc = fz_fail(err, FZ_ESTORE, "the store answered a listing with another document");
	if (rc == 0 && w.truncated && (!w.next || !*w.next))
		rc = fz_fail(err, FZ_ESTORE, "the store cut a listing short without saying how to go on");
	for (size_t i = 0; i < w.n; i++) {
		struct fz_buf *key = &w.v[i].key;

		if (rc == 0 && w.encoded) { /* known only at the end: EncodingType may follow the keys */
			ssize_t len = url_decode((char *)key->data);

			if (len < 0)
				rc = fz_fail(err, FZ_ESTORE, "the store lists a key whose encoding is broken");
			else
				key->size = (size_t)len;
		}
		if (rc == 0 && key->size > skip && memcmp(key->data, strip, skip) == 0)
			rc = store_list_add(out, (char *)key->data + skip, key->size - skip,
			                    w.v[i].directory ? 0 : w.v[i].size_bytes, w.v[i].mtime_ms, err);
		fz_buf_fini(key);
	}
	free(w.v);
	fz_buf_fini(&w.item.key);
	page->next = NULL;
	if (rc == 0 && w.truncated) {
		page->next = w.next;
		w.next = NULL;
	}
	free(w.next);
	return rc;
}

/* DeleteObjects ------------------------------------------------------------------------------------------------ */

struct delete_walk {
	struct store_s3_undeleted_list *out;
	struct store_s3_undeleted item;
	bool is_result;
};

static int delete_end(void *arg, const char *path, const struct fz_buf *text, struct fz_err *err)
{
	struct delete_walk *w = arg;

	if (is(path, "DeleteResult/Error/Key")) {
		free(w->item.key);
		w->item.key = strdup(fz_buf_str(text));
		if (!w->item.key)
			return fz_fail_errno(err, ENOMEM, "deleting");
	} else if (is(path, "DeleteResult/Error/Code")) {
		copy_clean(w->item.error.code, sizeof(w->item.error.code), text);
	} else if (is(path, "DeleteResult/Error/Message")) {
		copy_clean(w->item.error.message, sizeof(w->item.error.message), text);
	} else if (is(path, "DeleteResult/Error")) {
		struct store_s3_undeleted_list *l = w->out;

		if (!w->item.key || l->n == COUNT_MAX)
			return fz_fail(err, FZ_ESTORE, "the store complains about a deletion without naming the key");
		if (!fz_array_room(l->v, l->n, l->cap))
			return fz_fail_errno(err, ENOMEM, "deleting");
		l->v[l->n++] = w->item;
		memset(&w->item, 0, sizeof(w->item));
	} else if (is(path, "DeleteResult")) {
		w->is_result = true;
	}
	return 0;
}

int store_s3xml_delete(const void *data, size_t n, struct store_s3_undeleted_list *out, struct fz_err *err)
{
	struct delete_walk w = {.out = out};
	int rc = walk(data, n, delete_end, &w, err);

	free(w.item.key);
	if (rc == 0 && !w.is_result)
		rc = fz_fail(err, FZ_ESTORE, "the store answered a deletion with another document");
	return rc;
}

void store_s3_undeleted_fini(struct store_s3_undeleted_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i].key);
	free(l->v);
	memset(l, 0, sizeof(*l));
}

/* Multipart uploads -------------------------------------------------------------------------------------------- */

static int id_end(void *arg, const char *path, const struct fz_buf *text, struct fz_err *err)
{
	char **id = arg;

	if (!is(path, "InitiateMultipartUploadResult/UploadId") || text->size == 0)
		return 0;
	free(*id);
	*id = strdup(fz_buf_str(text));
	return *id ? 0 : fz_fail_errno(err, ENOMEM, "starting an upload");
}

int store_s3xml_upload_id(const void *data, size_t n, char **id, struct fz_err *err)
{
	char *found = NULL;
	int rc = walk(data, n, id_end, &found, err);

	if (rc == 0 && !found)
		rc = fz_fail(err, FZ_ESTORE, "the store began an upload without naming it");
	if (rc < 0) {
		free(found);
		return rc;
	}
	*id = found;
	return 0;
}

struct uploads_walk {
	struct store_s3_upload_list *out;
	struct store_s3_upload item;
	bool is_result;
};

static int uploads_end(void *arg, const char *path, const struct fz_buf *text, struct fz_err *err)
{
	static const char base[] = "ListMultipartUploadsResult";
	struct uploads_walk *w = arg;
	char **field = NULL;

	if (strncmp(path, base, sizeof(base) - 1) != 0)
		return 0;
	path += sizeof(base) - 1;
	if (is(path, "/Upload/Key"))
		field = &w->item.key;
	else if (is(path, "/Upload/UploadId"))
		field = &w->item.id;
	if (field) {
		free(*field);
		*field = strdup(fz_buf_str(text));
		return *field ? 0 : fz_fail_errno(err, ENOMEM, "listing uploads");
	}
	if (is(path, "/Upload/Initiated")) {
		if (fz_parse_time(fz_buf_str(text), 0, &w->item.started_ms, NULL) < 0)
			return fz_fail(err, FZ_ESTORE, "the store lists an upload with a bad date");
	} else if (is(path, "/Upload")) {
		struct store_s3_upload_list *l = w->out;

		if (!w->item.key || !w->item.id || l->n == COUNT_MAX)
			return fz_fail(err, FZ_ESTORE, "the store lists an upload without naming it");
		if (!fz_array_room(l->v, l->n, l->cap))
			return fz_fail_errno(err, ENOMEM, "listing uploads");
		l->v[l->n++] = w->item;
		memset(&w->item, 0, sizeof(w->item));
	} else if (is(path, "/IsTruncated")) {
		w->out->more = strcmp(fz_buf_str(text), "true") == 0;
	} else if (is(path, "")) {
		w->is_result = true;
	}
	return 0;
}

int store_s3xml_uploads(const void *data, size_t n, struct store_s3_upload_list *out, struct fz_err *err)
{
	struct uploads_walk w = {.out = out};
	int rc = walk(data, n, uploads_end, &w, err);

	free(w.item.key);
	free(w.item.id);
	if (rc == 0 && !w.is_result)
		rc = fz_fail(err, FZ_ESTORE, "the store answered a listing of uploads with another document");
	return rc;
}

void store_s3_uploads_fini(struct store_s3_upload_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].id);
	}
	free(l->v);
	memset(l, 0, sizeof(*l));
}
