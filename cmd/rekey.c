/* rekey.c - `fazt rekey`: objects that lie in a store get other recipients. What wraps the file key of an age file is its header, so the
 * header is made anew and the payload stays, byte for byte.
 *
 * (1) An object is replaced whole, by one request, and only the version that was read: a primary that puts or deletes it meanwhile wins, and
 *     the object is looked at again. Large ones, and stores without conditional requests, are looked at once more right before.
 * (2) Every chunk was authenticated on its way here: what is put is what was written, or nothing is put.
 * (3) It is over when a whole pass over the listing finds nothing that the old keys open. So it can be repeated, and ended anywhere.
 * The spool of a primary is never touched: what lies there is put as it is, and found by the next pass or repetition.
 *                                                                              held by: tests/e2e/rekey.py */
#include "cmd/args.h"
#include "cmd/cmd.h"

#include "base/file.h"
#include "base/log.h"
#include "base/temp.h"
#include "cmd/ask.h"
#include "cmd/keys.h"
#include "cmd/progress.h"
#include "cmd/quote.h"
#include "cmd/stores.h"
#include "ltx/name.h"
#include "store/store.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMALL_BYTES (UINT64_C(1) << 20) /* read and replaced in memory, by condition */
#define PIECE_BYTES (1u << 20)
#define PASSES      6
#define TRIES       5

struct rekeying {
	struct ltx_age_identities all, old, new; /* new, old: parts of all, which of them is a recipient tells */
	struct ltx_age_recipient *to;
	size_t n_to;
	bool no_conditions; /* of this store: told once */
	struct cmd_progress p;
	uint64_t bytes, of_bytes;
	/* of this pass */
	uint64_t found;
	/* of this store */
	uint64_t rekeyed, rekeyed_bytes, opened_by_new, foreign, plain;
};

/* ---- an object --------------------------------------------------------------------------------------------------- */

/* Head, then the rest of body. Thread-safe as body is. */
struct joined {
	struct fz_src src;
	const struct fz_buf *head;
	struct fz_src *body;
	uint64_t off_bytes; /* in body */
};

static int joined_read(struct fz_src *s, uint64_t off, void *data, size_t n, struct fz_err *err)
{
	struct joined *j = (struct joined *)s;
	uint8_t *out = data;

	if (off < j->head->size) {
		size_t take = j->head->size - off < n ? (size_t)(j->head->size - off) : n;

		memcpy(out, j->head->data + off, take);
		out += take;
		off += take;
		n -= take;
	}
	return n ? fz_src_read(j->body, off - j->head->size + j->off_bytes, out, n, err) : 0;
}

/* Reads all of it as plain text: every chunk is what was written. */
static int authenticate(struct fz_src *cipher, const struct ltx_age_identities *ids, struct fz_err *err)
{
	uint8_t *room = malloc(PIECE_BYTES);
	struct fz_src *plain = NULL;
	int rc = room ? ltx_age_src(&plain, cipher, ids, err) : fz_fail_errno(err, ENOMEM, "reading an object");

	for (uint64_t at = 0; rc == 0 && at < plain->size_bytes; at += PIECE_BYTES) {
		uint64_t left = plain->size_bytes - at;

		rc = fz_src_read(plain, at, room, left < PIECE_BYTES ? (size_t)left : PIECE_BYTES, err);
		if (rc == 0)
			rc = cmd_interrupted(err);
	}
	fz_src_close(plain);
	free(room);
	return rc;
}

/* The whole object for the new recipients, read from body. */
static int join(struct rekeying *r, struct fz_src *body, struct fz_buf *head, struct joined *j, struct fz_err *err)
{
	int rc = ltx_age_rekey(body, &r->all, r->to, r->n_to, head, &j->off_bytes, err);

	if (rc == 0)
		rc = authenticate(body, &r->all, err);
	if (rc < 0)
		return rc;
	j->src = (struct fz_src){joined_read, NULL, head->size + body->size_bytes - j->off_bytes};
	j->head = head;
	j->body = body;
	return 0;
}

static int replace_small(struct rekeying *r, struct fz_store *store, const char *key, struct fz_err *err)
{
	struct fz_buf there = {0}, head = {0}, now = {0};
	char tag[FZ_STORE_TAG] = "";
	struct fz_src *src = NULL;
	struct joined j;
	uint8_t *room;
	int rc = fz_store_get_tag(store, key, 2 * SMALL_BYTES, &there, tag, err);

	if (rc == 0)
		rc = fz_src_mem(&src, there.data, there.size, err);
	if (rc == 0)
		rc = join(r, src, &head, &j, err);
	if (rc < 0)
		goto out;
	room = fz_buf_room(&now, (size_t)j.src.size_bytes);
	rc = room ? fz_src_read(&j.src, 0, room, (size_t)j.src.size_bytes, err)
	          : fz_fail_errno(err, ENOMEM, "reading an object");
	if (rc == 0 && !r->no_conditions) {
		rc = fz_store_put_if(store, key, room, (size_t)j.src.size_bytes, tag, err);
		if (rc == -FZ_ECONFIG) {
			fz_warn("%s: the store has no conditional requests: let no primary delete there meanwhile",
			        fz_store_url(store));
			r->no_conditions = true;
			rc = fz_store_put(store, key, &j.src, err);
		}
	} else if (rc == 0) {
		rc = fz_store_put(store, key, &j.src, err);
	}
out:
	fz_src_close(src);
	fz_buf_fini(&there);
	fz_buf_fini(&head);
	fz_buf_fini(&now);
	return rc;
}

static int fetch(struct fz_src *from, int fd, struct fz_err *err)
{
	uint8_t *room = malloc(PIECE_BYTES);
	int rc = room ? 0 : fz_fail_errno(err, ENOMEM, "reading an object");

	for (uint64_t at = 0; rc == 0 && at < from->size_bytes; at += PIECE_BYTES) {
		size_t n = from->size_bytes - at < PIECE_BYTES ? (size_t)(from->size_bytes - at) : PIECE_BYTES;

		rc = fz_src_read(from, at, room, n, err);
		if (rc == 0 && (rc = fz_pwrite(fd, room, n, (off_t)at)) < 0)
			rc = fz_fail_errno(err, -rc, "keeping an object in a temporary file (TMPDIR says where)");
		if (rc == 0)
			rc = cmd_interrupted(err);
	}
	free(room);
	return rc;
}

static int still_there(struct fz_store *store, const char *key, uint64_t size_bytes, struct fz_err *err)
{
	struct fz_store_list l = {0};
	int rc = fz_store_list(store, key, NULL, false, &l, err);

	if (rc == 0 && (l.n == 0 || strcmp(l.v[0].key, key) != 0))
		rc = fz_fail(err, FZ_ENOTFOUND, "%s is gone", key);
	else if (rc == 0 && l.v[0].size_bytes != size_bytes)
		rc = fz_fail(err, FZ_ECONFLICT, "%s has changed", key);
	fz_store_list_fini(&l);
	return rc;
}

static int replace_large(struct rekeying *r, struct fz_store *store, const char *key, struct fz_src *src,
                         struct fz_err *err)
{
	struct fz_src *kept = NULL;
	struct fz_buf head = {0};
	struct joined j;
	int fd = fz_temp_file(fz_temp_dir(), err), rc = fd < 0 ? fd : fetch(src, fd, err);

	if (rc == 0)
		rc = fz_src_fd(&kept, fd, 0, src->size_bytes, false, err);
	if (rc == 0)
		rc = join(r, kept, &head, &j, err);
	if (rc == 0)
		rc = still_there(store, key, src->size_bytes, err);
	if (rc == 0)
		rc = fz_store_put(store, key, &j.src, err);
	fz_src_close(kept);
	fz_buf_fini(&head);
	fz_close(&fd);
	return rc;
}

/* Does one of these open it? 1, 0, or an error. Reads the header only. */
static int opens(struct fz_src *src, const struct ltx_age_identities *ids, const struct ltx_age_recipient *any,
                 struct fz_err *err)
{
	struct fz_buf head = {0};
	uint64_t off;
	int rc = ids->n ? ltx_age_rekey(src, ids, any, 1, &head, &off, err) : -FZ_ENOKEY;

	fz_buf_fini(&head);
	return rc == -FZ_ENOKEY ? 0 : rc < 0 ? rc : 1;
}

static int look_at(struct rekeying *r, struct fz_store *store, const struct fz_store_object *o, bool first,
                   struct fz_err *err)
{
	const struct ltx_age_identities *what = r->old.n ? &r->old : &r->all;
	struct fz_src *src = NULL;
	int rc = fz_store_src(store, o->key, o->size_bytes, &src, err);

	if (rc == 0)
		rc = opens(src, what, r->to, err);
	if (rc == 0 && first && r->old.n) {
		rc = opens(src, &r->new, r->to, err);
		r->opened_by_new += rc == 1;
		r->foreign += rc == 0;
		rc = rc < 0 ? rc : 0;
	} else if (rc == 0 && first) {
		r->foreign++;
	} else if (rc == 1) {
		rc = o->size_bytes <= SMALL_BYTES ? replace_small(r, store, o->key, err)
		                                  : replace_large(r, store, o->key, src, err);
		if (rc == 0) {
			r->found++;
			r->rekeyed++;
			r->rekeyed_bytes += o->size_bytes;
		}
	}
	fz_src_close(src);
	return rc;
}

/* ---- a store ----------------------------------------------------------------------------------------------------- */

/* Objects of databases, encrypted: the rest is left alone. */
static bool ours(struct rekeying *r, const char *key, bool first)
{
	const char *p = key + strlen(key);
	struct ltx_name name;

	for (int i = 0; i < 4; i++) {
		if (p == key)
			return false;
		do
			p--;
		while (p > key && *p != '/');
	}
	if (*p != '/' || ltx_name_get(&name, p + 1) < 0)
		return false;
	r->plain += first && !name.encrypted;
	return name.encrypted;
}

static int pass(struct rekeying *r, const struct cmd_stores *s, const struct cmd_stores_at *at, bool first,
                struct fz_err *err)
{
	struct fz_store_list l = {0};
	struct fz_buf prefix = {0};
	size_t n = 0;
	int rc = 0;

	if (*s->database && fz_buf_addf(&prefix, "%s/", s->database) < 0)
		return fz_fail_errno(err, ENOMEM, "listing a store");
	rc = fz_store_list(at->store, *s->database ? fz_buf_str(&prefix) : "", NULL, false, &l, err);
	r->found = r->bytes = r->of_bytes = 0;
	for (size_t i = 0; rc == 0 && i < l.n; i++)
		if (ours(r, l.v[i].key, first)) {
			struct fz_store_object o = l.v[i];

			l.v[i] = l.v[n];
			l.v[n++] = o;
			r->of_bytes += o.size_bytes;
		}
	r->p.of_objects = n;
	for (size_t i = 0; rc == 0 && i < n; i++) {
		int tries = 0;

		r->p.objects = i;
		cmd_progress_tick(&r->p, r->bytes, r->of_bytes);
		rc = cmd_interrupted(err);
		while (rc == 0 && (rc = look_at(r, at->store, &l.v[i], first, err)) == -FZ_ECONFLICT && ++tries < TRIES)
			rc = 0;          /* somebody else has put it meanwhile */
		if (rc == -FZ_ENOTFOUND) /* retention went on */
			rc = 0;
		if (rc < 0)
			fz_err_prefix(err, "%s", l.v[i].key);
		r->bytes += l.v[i].size_bytes;
	}
	fz_store_list_fini(&l);
	fz_buf_fini(&prefix);
	return rc;
}

static int rekey_store(struct rekeying *r, const struct cmd_stores *s, const struct cmd_stores_at *at,
                       struct fz_err *err)
{
	int rc = 0, passes = 0;

	r->rekeyed = r->rekeyed_bytes = r->opened_by_new = r->foreign = r->plain = 0;
	r->no_conditions = false;
	do
		rc = pass(r, s, at, passes == 0, err);
	while (rc == 0 && r->old.n && r->found && ++passes < PASSES);
	r->p.objects = rc == 0 ? r->p.of_objects : r->p.objects;
	r->p.bytes_done = r->bytes;
	cmd_progress_end(&r->p);
	if (rc == 0 && r->old.n && r->found)
		rc = fz_fail(err, FZ_EBUSY,
		             "%s: somebody goes on encrypting for the old key: mount with the new recipients, and "
		             "repeat this",
		             at->label);
	if (rc == 0 && !r->rekeyed && !r->opened_by_new && r->foreign)
		rc = fz_fail(err, FZ_ENOKEY,
		             "%s: no identity of -i opens any of %llu objects (if they were rekeyed before, all is "
		             "done: the "
		             "new identity as one more -i tells)",
		             at->label, (unsigned long long)r->foreign);
	return rc;
}

static void print_result(const struct rekeying *r, const struct cmd_stores_at *at, bool json)
{
	cJSON *o;

	if (json) {
		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "target", at->label);
		cJSON_AddNumberToObject(o, "rekeyed", (double)r->rekeyed);
		cJSON_AddNumberToObject(o, "bytes", (double)r->rekeyed_bytes);
		cJSON_AddNumberToObject(o, "opened_by_new", (double)r->opened_by_new);
		cJSON_AddNumberToObject(o, "foreign", (double)r->foreign);
		cJSON_AddNumberToObject(o, "plain", (double)r->plain);
		cmd_print_json(o);
		cJSON_Delete(o);
		return;
	}
	cmd_print("%s: %llu objects, %llu bytes are for the new recipients now\n", at->label,
	          (unsigned long long)r->rekeyed, (unsigned long long)r->rekeyed_bytes);
	if (r->opened_by_new)
		cmd_print("  %llu were already\n", (unsigned long long)r->opened_by_new);
	if (r->foreign)
		cmd_print("  %llu are for keys that were not given (-i), and stay as they are\n",
		          (unsigned long long)r->foreign);
	if (r->plain)
		cmd_print("  %llu are not encrypted, and stay as they are\n", (unsigned long long)r->plain);
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static bool among(const struct rekeying *r, const struct ltx_age_recipient *k)
{
	for (size_t i = 0; i < r->n_to; i++)
		if (!memcmp(r->to[i].public_key, k->public_key, sizeof(k->public_key)))
			return true;
	return false;
}

/* all = what the files hold; old and new point into it, sorted: old ones first. */
static int read_keys(struct rekeying *r, const struct cmd_words *files, struct fz_err *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < files->n; i++) {
		struct ltx_age_identities one = {0};
		struct ltx_age_identity *v;

		rc = ltx_age_identities_read(&one, files->v[i], err);
		v = rc == 0 ? calloc(r->all.n + one.n, sizeof(*v)) : NULL;
		if (rc == 0 && !v)
			rc = fz_fail_errno(err, ENOMEM, "reading keys");
		if (rc == 0) {
			struct ltx_age_identities was = r->all;

			if (was.n)
				memcpy(v, was.v, was.n * sizeof(*v));
			memcpy(v + was.n, one.v, one.n * sizeof(*v));
			r->all = (struct ltx_age_identities){v, was.n + one.n};
			ltx_age_identities_free(&was);
		}
		ltx_age_identities_free(&one);
	}
	for (size_t i = 0; rc == 0 && i < r->all.n; i++) {
		struct ltx_age_recipient k;
		struct ltx_age_identity id = r->all.v[i];

		ltx_age_identity_recipient(&id, &k);
		if (!among(r, &k)) {
			r->all.v[i] = r->all.v[r->old.n];
			r->all.v[r->old.n++] = id;
		}
	}
	r->old.v = r->all.v;
	r->new = (struct ltx_age_identities){r->all.v + r->old.n, r->all.n - r->old.n};
	return rc;
}

/* What is shipped from now on is for these: a word where that are still others. */
static void warn_of_mount(const struct rekeying *r, const struct cmd_stores *s, const struct cmd_stores_at *at)
{
	const struct cmd_list *who = at->target && cmd_target_encrypted(&s->conf, at->target)
	                                     ? cmd_target_recipients(&s->conf, at->target)
	                                     : NULL;

	for (size_t i = 0; who && i < who->n; i++) {
		struct ltx_age_recipient k;

		if (ltx_age_recipient_parse(&k, who->v[i], NULL) == 0 && !among(r, &k)) {
			fprintf(stderr,
			        "fazt rekey: %s%sis configured to encrypt for %s: what is shipped to %s from now on is "
			        "for "
			        "that key\n",
			        s->w.dir, *s->w.dir ? " " : "this target ", who->v[i], at->label);
			return;
		}
	}
}

static int rekey_it(struct rekeying *r, const char *arg, const char *config, const struct cmd_words *files,
                    const struct cmd_words *recipients, bool progress, bool json, struct fz_err *err)
{
	struct cmd_stores s;
	struct cmd_conf to;
	struct fz_err why = {0};
	int rc = 0, failed = 0;

	cmd_conf_init(&to);
	for (size_t i = 0; rc == 0 && i < recipients->n; i++)
		rc = cmd_conf_flag(&to, "--recipient", "encrypt", "recipients", recipients->v[i], err);
	if (rc == 0)
		rc = cmd_conf_check(&to, err);
	if (rc == 0)
		rc = cmd_key_recipients(&to.recipients, &r->to, &r->n_to, err);
	cmd_conf_fini(&to);
	if (rc == 0)
		rc = read_keys(r, files, err);
	if (rc == 0)
		rc = cmd_stores_open(&s, arg, config, err);
	if (rc < 0)
		return rc;
	if (!s.n)
		rc = fz_fail(err, FZ_ENOTFOUND, "%s has no target", arg);
	(void)cmd_interruptible();
	for (size_t i = 0; rc == 0 && i < s.n; i++) {
		int one;

		cmd_progress_begin(&r->p, "rekeying", progress, json);
		one = rekey_store(r, &s, &s.v[i], &why);
		print_result(r, &s.v[i], json);
		warn_of_mount(r, &s, &s.v[i]);
		if (one < 0 && !failed) { /* the other targets have their turn all the same */
			*err = why;
			failed = one;
		}
		if (one == -ECANCELED)
			break;
	}
	cmd_stores_close(&s);
	return rc < 0 ? rc : failed;
}

int cmd_rekey(int argc, char **argv)
{
	struct cmd_words files = {0}, recipients = {0};
	struct rekeying r = {0};
	const char *config = NULL;
	bool progress = false, json = false;
	const struct cmd_opt opts[] = {
	        {"identity", 'i', "KEY", "identity that opens what is there (repeatable)", NULL, NULL, &files},
	        {"recipient",     'r', "age1...", "whom it shall be for from now on, or a file of them (repeatable)", NULL,
	         NULL, &recipients},
	        CMD_OPT_PROGRESS(&progress),
	        {"json",      'j', NULL, "print JSON, an object for each target", &json, NULL, NULL},
	        CMD_OPT_CONFIG(&config),
	        {0   },
	};
	const struct cmd_spec spec = {"rekey",
	                              "-i OLD --recipient NEW [options] DIR | DIR/DATABASE | NAME[/DATABASE] | URL",
	                              "Gives what lies in the targets other recipients: the header of each age file is "
	                              "made anew, its payload "
	                              "stays. Until\n"
	                              "it is over an object opens with the old keys or the new ones; then the old ones "
	                              "open none of them. It can "
	                              "be ended\n"
	                              "anywhere and repeated, beside a primary that ships. The new recipients replace "
	                              "all that were there: name "
	                              "also those\n"
	                              "that shall stay. Change the mount's own recipients first.",
	                              "fazt rekey -i old.key --recipient age1... /var/lib/app\n"
	                              "fazt rekey -i old.key -i new.key --recipient age1... dir:/backup/app.db\n",
	                              1,
	                              1,
	                              opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0 && (!files.n || !recipients.n))
		rc = fz_fail(&err, FZ_EUSAGE, "%s is missing", files.n ? "--recipient NEW" : "-i OLD");
	if (rc == 0)
		rc = rekey_it(&r, args[0], config, &files, &recipients, progress, json, &err);
	ltx_age_identities_free(&r.all);
	free(r.to);
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
