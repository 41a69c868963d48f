/* inspect.c - show and check one file: LTX, pack, or either of them encrypted with age. */
#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/file.h"
#include "cmd/ask.h"
#include "cmd/keys.h"
#include "cmd/quote.h"
#include "ltx/dec.h"
#include "ltx/pack.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define AGE_HEADER_MAX 8192

static int open_file(const char *path, struct fz_src **out, struct fz_err *err)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return errno == ENOENT ? fz_fail(err, FZ_ENOTFOUND, "there is no file %s", path)
		                       : fz_fail_errno(err, errno, "%s", path);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		rc = fz_fail_errno(err, EINVAL, "%s is no regular file", path);
	else
		rc = fz_src_fd(out, fd, 0, (uint64_t)st.st_size, true, err);
	if (rc < 0)
		fz_close(&fd);
	return rc;
}

static void add_hex(cJSON *o, const char *key, uint64_t v)
{
	char hex[17];

	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)v);
	cJSON_AddStringToObject(o, key, hex);
}

/* One LTX file at off: everything in it is read and checked. */
static int show_ltx(struct fz_src *src, uint64_t off, bool pages, cJSON *o, uint64_t *file_bytes, struct fz_err *err)
{
	const struct ltx_header *h;
	const struct ltx_trailer *t;
	struct ltx_dec *d = NULL;
	cJSON *list = pages ? cJSON_AddArrayToObject(o, "page_numbers") : NULL;
	char when[FZ_TIME_SIZE];
	const uint8_t *data;
	uint32_t pgno, n = 0;
	int rc = ltx_dec_open(&d, src, off, err);

	if (rc < 0)
		return rc;
	h = ltx_dec_header(d);
	cJSON_AddStringToObject(o, "kind", ltx_is_snapshot(h) ? "snapshot" : "ltx");
	cJSON_AddNumberToObject(o, "min_txid", (double)h->min_txid);
	cJSON_AddNumberToObject(o, "max_txid", (double)h->max_txid);
	cJSON_AddStringToObject(o, "time", fz_format_time(when, h->time_ms));
	cJSON_AddNumberToObject(o, "page_size", h->page_size);
	cJSON_AddNumberToObject(o, "database_pages", h->commit);
	add_hex(o, "pre_checksum", h->pre_checksum);
	while ((rc = ltx_dec_page(d, &pgno, &data, err)) == 1) {
		n++;
		if (list)
			cJSON_AddItemToArray(list, cJSON_CreateNumber(pgno));
	}
	if (rc == 0) {
		t = ltx_dec_end(d, file_bytes);
		cJSON_AddNumberToObject(o, "pages", n);
		cJSON_AddNumberToObject(o, "bytes", (double)*file_bytes);
		add_hex(o, "post_checksum", t->post_checksum);
		add_hex(o, "file_checksum", t->file_checksum);
	}
	ltx_dec_close(d);
	return rc;
}

static int show_pack(struct fz_src *src, bool pages, cJSON *o, struct fz_err *err)
{
	struct ltx_pack_index ix = {0};
	cJSON *list = cJSON_AddArrayToObject(o, "transactions");
	int rc = ltx_pack_index_read(&ix, src, err);

	cJSON_AddStringToObject(o, "kind", "pack");
	for (uint64_t i = 0; rc == 0 && i < ix.n; i++) {
		const struct ltx_pack_entry *e = &ix.e[i];
		cJSON *one = cJSON_CreateObject();
		uint64_t bytes = 0;

		cJSON_AddItemToArray(list, one);
		cJSON_AddNumberToObject(one, "offset", (double)e->off_bytes);
		rc = show_ltx(src, e->off_bytes, pages, one, &bytes, err);
		if (rc == 0 && bytes != e->size_bytes)
			rc = fz_fail(err, FZ_ECORRUPT, "the index gives %llu bytes, the file has %llu",
			             (unsigned long long)e->size_bytes, (unsigned long long)bytes);
		if (rc < 0)
			fz_err_prefix(err, "transaction %llu", (unsigned long long)e->min_txid);
	}
	ltx_pack_index_fini(&ix);
	return rc;
}

/* Without an identity only the header of age can be told: how many recipients. */
static int show_age(struct fz_src *src, cJSON *o, struct fz_err *err)
{
	size_t n = src->size_bytes < AGE_HEADER_MAX ? (size_t)src->size_bytes : AGE_HEADER_MAX;
	char head[AGE_HEADER_MAX + 1];
	int recipients = 0, rc = fz_src_read(src, 0, head, n, err);

	if (rc < 0)
		return rc;
	head[n] = 0;
	for (const char *p = head; (p = strstr(p, "\n-> X25519 ")); p++)
		recipients++;
	cJSON_AddStringToObject(o, "kind", "age");
	cJSON_AddNumberToObject(o, "recipients", recipients);
	cJSON_AddNumberToObject(o, "bytes", (double)src->size_bytes);
	return 0;
}

static int show(struct fz_src *file, const char *identity, const struct cmd_conf *conf, bool pages, cJSON *o,
                struct fz_err *err)
{
	struct ltx_age_identities ids = {0};
	struct fz_src *plain = NULL, *src = file;
	uint8_t tail[8];
	uint64_t bytes = 0;
	bool is_age = false;
	int rc = ltx_age_detect(file, &is_age, err);

	cJSON_AddBoolToObject(o, "encrypted", is_age);
	if (rc == 0 && is_age) {
		rc = cmd_key_identities(&ids, identity, conf, NULL, err);
		if (rc == 0 && ids.n == 0)
			return show_age(file, o, err);
		if (rc == 0)
			rc = ltx_age_src(&plain, file, &ids, err);
		src = plain;
	}
	if (rc == 0 && src->size_bytes >= LTX_PACK_TRAILER_SIZE)
		rc = fz_src_read(src, src->size_bytes - sizeof(tail), tail, sizeof(tail), err);
	else if (rc == 0)
		rc = fz_fail(err, FZ_ETRUNCATED, "%llu bytes are neither LTX nor pack",
		             (unsigned long long)src->size_bytes);
	if (rc == 0 && !memcmp(tail, "FZPACK01", 8))
		rc = show_pack(src, pages, o, err);
	else if (rc == 0) {
		rc = show_ltx(src, 0, pages, o, &bytes, err);
		if (rc == 0 && bytes != src->size_bytes)
			rc = fz_fail(err, FZ_ECORRUPT, "%llu bytes follow the end of the LTX file",
			             (unsigned long long)(src->size_bytes - bytes));
	}
	fz_src_close(plain);
	ltx_age_identities_free(&ids);
	return rc;
}

static void print_ltx(const cJSON *o, const char *indent)
{
	static const char *const keys[] = {"kind",       "min_txid",       "max_txid",      "time",
	                                   "page_size",  "database_pages", "pages",         "bytes",
	                                   "recipients", "pre_checksum",   "post_checksum", "file_checksum"};
	const cJSON *p;

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const cJSON *v = cJSON_GetObjectItem(o, keys[i]);

		if (cJSON_IsNumber(v))
			cmd_print("%s%-15s %.0f\n", indent, keys[i], v->valuedouble);
		else if (cJSON_IsString(v))
			cmd_print("%s%-15s %s\n", indent, keys[i], v->valuestring);
	}
	p = cJSON_GetObjectItem(o, "page_numbers");
	if (p) {
		const cJSON *n;

		cmd_print("%s%-15s", indent, "page_numbers");
		cJSON_ArrayForEach (n, p) {
			cmd_print(" %.0f", n->valuedouble);
		}
		cmd_print("\n");
	}
}

int cmd_inspect(int argc, char **argv)
{
	const char *config = NULL, *identity = NULL;
	bool json = false, pages = false;
	const struct cmd_opt opts[] = {
	        {"identity", 'i', "KEY", "identity that decrypts the file", NULL, &identity, NULL},
	        {"pages",     0, NULL, "also list the page numbers", &pages, NULL, NULL},
	        CMD_OPT_JSON(&json),
	        CMD_OPT_CONFIG(&config),
	        {0     },
	};
	const struct cmd_spec spec = {
	        "inspect",
	        "[options] FILE",
	        "Shows header and trailer of an LTX file or of every LTX file in a pack, after reading and checking "
	        "all of it.\n"
	        "An encrypted file needs its identity; without it only the number of recipients is shown.",
	        "fazt inspect -i backup.key 0000000000000001-0000000000000009-....pack.age\n",
	        1,
	        1,
	        opts};
	cJSON *o = cJSON_CreateObject(), *one;
	struct fz_src *file = NULL;
	struct fz_err err = {0};
	struct cmd_conf conf;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	cmd_conf_init(&conf);
	if (rc == CMD_ARGS_HELP)
		goto out;
	if (rc == 0)
		rc = cmd_conf_load(&conf, config, &err);
	if (rc == 0)
		rc = open_file(args[0], &file, &err);
	if (rc < 0)
		goto out;
	cJSON_AddStringToObject(o, "file", args[0]);
	rc = show(file, identity, &conf, pages, o, &err);
	cJSON_AddBoolToObject(o, "verified",
	                      rc == 0 && strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "kind")), "age"));
	if (json) {
		cmd_print_json(o);
	} else {
		print_ltx(o, "");
		cJSON_ArrayForEach (one, cJSON_GetObjectItem(o, "transactions")) {
			cmd_print("transaction\n");
			print_ltx(one, "  ");
		}
		cmd_print("%-15s %s\n", "verified", cJSON_IsTrue(cJSON_GetObjectItem(o, "verified")) ? "yes" : "no");
	}
out:
	fz_src_close(file);
	cJSON_Delete(o);
	cmd_conf_fini(&conf);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
