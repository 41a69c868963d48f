/* spool.h - an object on its way: built once (plain or encrypted), put until the store has acknowledged it, then dropped.
 *
 * age makes different bytes each time, so what is put again after a failure or a kill must be the same file: it lies as
 * "spool+<name, '/' as '+'>" in the database's ship directory, complete and synced before the first PUT. Plain copies
 * that a higher level still needs lie beside it as "plain+<name>". Anything else there but the cursor is litter. When the
 * disk takes no more, a small object may live in memory instead (memfd). */
#ifndef FZ_PRIMARY_SPOOL_H
#define FZ_PRIMARY_SPOOL_H

#include "base/io.h"
#include "ltx/age.h"
#include "ltx/name.h"

struct primary_spool {
	int dirfd; /* borrowed */
	int fd;
	bool in_memory, plain;
	char tmp[32];
	struct fz_fd_sink out;
	struct ltx_age_writer *age;
	struct fz_sink *sink; /* write here */
};
enum primary_spool_kind { PRIMARY_SPOOL_OBJECT, PRIMARY_SPOOL_PLAIN, PRIMARY_SPOOL_MEMORY };
/* recipients: none = plain bytes (and always for a plain copy). */
int primary_spool_begin(struct primary_spool *s, int dirfd, enum primary_spool_kind kind,
                        const struct ltx_age_recipient *r, size_t n, struct fz_err *err) FZ_MUST_CHECK;
/* Complete, synced, renamed. The descriptor stays open for primary_spool_src(). */
int primary_spool_commit(struct primary_spool *s, const struct ltx_name *name, struct fz_err *err) FZ_MUST_CHECK;
/* Source over the committed bytes; duplicates the descriptor. */
int primary_spool_src(const struct primary_spool *s, struct fz_src **out, struct fz_err *err) FZ_MUST_CHECK;
void primary_spool_fini(struct primary_spool *s); /* an uncommitted file is removed */

/* A committed file of an earlier time. */
int primary_spool_open(int dirfd, const struct ltx_name *name, bool plain, struct fz_src **out,
                       struct fz_err *err) FZ_MUST_CHECK;
void primary_spool_drop(int dirfd, const struct ltx_name *name, bool plain);
/* Names of all committed files of a kind, ascending by (level, min, max); litter is removed when clean. Heap array. */
int primary_spool_list(int dirfd, bool plain, bool clean, struct ltx_name **out, size_t *n,
                       struct fz_err *err) FZ_MUST_CHECK;

#endif
