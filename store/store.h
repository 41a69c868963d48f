/* store.h - where backups lie: objects under keys, behind one table. A directory, S3, and a wrapper that fails the n-th
 * call. Keys are '/'-separated, without leading or trailing '/', and relative to the store's prefix. */
#ifndef FZ_STORE_STORE_H
#define FZ_STORE_STORE_H

#include "base/io.h"
#include "base/tally.h"

#include <stdbool.h>

struct fz_store;

struct fz_store_conf {
	const char *region, *endpoint, *profile, *credentials_file; /* NULL = from the URL, environment, ~/.aws */
	const char *access_key, *secret_key, *session_token;        /* from the config file; never logged */
	int64_t timeout_ms; /* deadline of one operation with retries; 0 = 60 s */
	bool create;        /* dir: make the directory */
	bool interactive; /* somebody waits: a store that does not answer is told of after 3 s (fz_warn, once an outage),
			     * and given up on after 15 s when it cannot be connected to and has never answered */
};
struct fz_store_object {
	char *key; /* heap of the list */
	uint64_t size_bytes;
	int64_t mtime_ms; /* store's clock */
};
struct fz_store_list {
	struct fz_store_object *v;
	size_t n, cap;
};
/* As stores charge for them: PUT (and POST), GET (and HEAD), LIST, DELETE. */
enum fz_store_kind { FZ_STORE_PUT, FZ_STORE_GET, FZ_STORE_LIST, FZ_STORE_DELETE, FZ_STORE_KINDS };
struct fz_store_stats {
	uint64_t requests, retries, bytes_in, bytes_out;
	uint64_t kind[FZ_STORE_KINDS]; /* of requests */
	char conditional_put[16];      /* "native", "emulated" (token and read-back), "unknown" until the first claim */
	bool clock_known;              /* the store has told its time with an answer */
	int64_t clock_ahead_ms;        /* by how much it is ahead of ours, to about a second */
	struct fz_err trouble;         /* why a request is being tried again at this moment; code 0 = none is */
};

/* URL: dir:/absolute/path | s3://bucket/prefix?endpoint=http://host:port&region=r&path-style=yes. Opens lazily: no request
 * is made. -FZ_EUSAGE names the part that is wrong. */
int fz_store_open(struct fz_store **out, const char *url, const struct fz_store_conf *conf,
                  struct fz_err *err) FZ_MUST_CHECK;
void fz_store_close(struct fz_store *s);
/* URL without anything secret, for messages and status. */
const char *fz_store_url(const struct fz_store *s);
/* All methods are thread-safe and retry what may pass (reference: docs/design.md "Stores") until the deadline. Codes:
 *   -FZ_ENOTFOUND, -FZ_EAUTH (access denied, bad key, no such bucket: retrying is useless), -FZ_ENET, -FZ_ETIMEOUT,
 *   -FZ_ESTORE (its answer in err), -FZ_ECONFLICT (put_new only), -ENOSPC, -ECANCELED. */

/* Stores size bytes from src under key, replacing. Large objects in parts. The object appears whole or not at all. */
int fz_store_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err) FZ_MUST_CHECK;
/* Creates key only if it does not exist (If-None-Match: *; emulated where the store does not honour it). Small objects.
 * After an ambiguous time-out the object is read back: our own bytes count as success. Else -FZ_ECONFLICT. */
int fz_store_put_new(struct fz_store *s, const char *key, const void *data, size_t n, struct fz_err *err) FZ_MUST_CHECK;
/* An object that changes hands: versions have tags, and a version takes the place of the one whose tag is known, of no other. Two versions
 * with the same bytes may have the same tag. */
#define FZ_STORE_TAG 96
/* As fz_store_get(), and the version's tag. */
int fz_store_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                     char tag[static FZ_STORE_TAG], struct fz_err *err) FZ_MUST_CHECK;
/* Replaces the version tag ("" = the object must not exist), and sets tag to the new one's. -FZ_ECONFLICT: another version is there.
 * -FZ_ECONFIG: this store has no such condition. Any other failure leaves open whether it was replaced: read it. */
int fz_store_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                    struct fz_err *err) FZ_MUST_CHECK;
/* Appends a whole small object (at most max_bytes) to *out. */
int fz_store_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                 struct fz_err *err) FZ_MUST_CHECK;
/* Ranged-read source over an object of known size (from a listing; UINT64_MAX = ask). Thread-safe; broken downloads are
 * resumed inside the range. -FZ_ECONFLICT: it was replaced since the first read. */
int fz_store_src(struct fz_store *s, const char *key, uint64_t size_bytes, struct fz_src **out,
                 struct fz_err *err) FZ_MUST_CHECK;
/* Objects whose key starts with prefix (a plain string prefix; "" = all) and sorts after start_after (NULL = from the
 * start), sorted by key. With delimiter: only one level; "directories" come as keys that end in '/'. */
int fz_store_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                  struct fz_store_list *out, struct fz_err *err) FZ_MUST_CHECK;
void fz_store_list_fini(struct fz_store_list *l);
/* Deletes n keys (batched); a missing key is success. *failed (may be NULL) counts those that could not be deleted. */
int fz_store_delete(struct fz_store *s, const char *const *keys, size_t n, size_t *failed,
                    struct fz_err *err) FZ_MUST_CHECK;
void fz_store_stats(struct fz_store *s, struct fz_store_stats *out);
/* What failed, each attempt by its code; that something is not there, or is there already, is no failure. Lives as long as the store. */
struct fz_tally *fz_store_errors(struct fz_store *s);
/* Makes running and later calls return -ECANCELED soon (stop of the worker). */
void fz_store_cancel(struct fz_store *s);
/* Wrapper for tests: the n-th call (1 = first) of any method fails with code before or (after = true) after it was
 * carried out. Owns inner. fired tells whether it happened. */
int fz_store_fault(struct fz_store **out, struct fz_store *inner, uint64_t nth, int code, bool after, bool *fired,
                   struct fz_err *err) FZ_MUST_CHECK;

#endif
