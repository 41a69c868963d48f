/* dirpriv.h - what the files of the directory store share: dir.c (objects), dirlist.c (listings), dirswap.c (compare and
 * swap). Errors and results are those of the functions of the same names in store/backend.h. */
#ifndef FZ_STORE_DIRPRIV_H
#define FZ_STORE_DIRPRIV_H

#include "store/backend.h"

#define STORE_DIR_TMP  ".fz-tmp."
#define STORE_DIR_LOCK STORE_DIR_TMP "lock" /* hidden from listings as what is being written, but never removed */

struct dir_store {
	struct fz_store store;
	char *path;
	bool create;
};

static inline struct dir_store *store_dir_of(struct fz_store *s)
{
	return (struct dir_store *)s;
}

/* One sentence for what the disk said; ENOENT and ENOTDIR are the caller's to judge. */
int store_dir_fail_io(struct dir_store *d, int e, const char *what, const char *key, struct fz_err *err);
/* The root's descriptor, or a code. writing: a missing root is not "not found" but a store that cannot take anything. */
int store_dir_open_root(struct dir_store *d, bool writing, struct fz_err *err);
int store_dir_get(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out, struct fz_err *err);
int store_dir_put(struct fz_store *s, const char *key, struct fz_src *src, struct fz_err *err);
int store_dir_list(struct fz_store *s, const char *prefix, const char *start_after, bool delimiter,
                   struct fz_store_list *out, struct fz_err *err);
int store_dir_get_tag(struct fz_store *s, const char *key, size_t max_bytes, struct fz_buf *out,
                      char tag[static FZ_STORE_TAG], struct fz_err *err);
int store_dir_put_if(struct fz_store *s, const char *key, const void *data, size_t n, char tag[static FZ_STORE_TAG],
                     struct fz_err *err);

#endif
