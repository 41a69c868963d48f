/* err.h - how a function tells what went wrong.
 *
 * A function that can fail returns 0 (or a count) or a negative code, and writes one sentence into a struct fz_err
 * where the fact is known. Codes are either -errno (small) or -FZ_E* (1000 and above). The number is stable: users see
 * it as "FZ-1203", and docs/errors.md lists each with its cause and remedy. */
#ifndef FZ_BASE_ERR_H
#define FZ_BASE_ERR_H

#include <stdarg.h>
#include <stddef.h>

#define FZ_MUST_CHECK   __attribute__((warn_unused_result))
#define FZ_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* X(name, number, sentence) */
#define FZ_ERRORS(X)                                                                                                   \
	X(FZ_EUSAGE, 1001, "wrong usage")                                                                              \
	X(FZ_ECONFIG, 1002, "bad configuration")                                                                       \
	X(FZ_EKEYFILE, 1003, "key file missing or unusable")                                                           \
	X(FZ_ECORRUPT, 1101, "data is damaged")                                                                        \
	X(FZ_ECHECKSUM, 1102, "checksum differs")                                                                      \
	X(FZ_EORDER, 1103, "transaction is not the next one")                                                          \
	X(FZ_EVERSION, 1104, "written by a newer version")                                                             \
	X(FZ_ETRUNCATED, 1105, "ends too early")                                                                       \
	X(FZ_ENOKEY, 1201, "no identity can decrypt this")                                                             \
	X(FZ_ECRYPT, 1202, "decryption failed")                                                                        \
	X(FZ_ENOTFOUND, 1203, "not found")                                                                             \
	X(FZ_ENOCOMMIT, 1204, "no commit that old")                                                                    \
	X(FZ_EEXISTS, 1205, "exists already")                                                                          \
	X(FZ_EGAP, 1206, "a part of the history is missing")                                                           \
	X(FZ_ECHANGED, 1207, "it has changed since")                                                                   \
	X(FZ_ESQL, 1208, "an SQL statement failed")                                                                    \
	X(FZ_EFENCED, 1301, "another writer owns this prefix")                                                         \
	X(FZ_EAUTH, 1302, "access denied by the store")                                                                \
	X(FZ_ENET, 1303, "store cannot be reached")                                                                    \
	X(FZ_ESTORE, 1304, "store answered with an error")                                                             \
	X(FZ_ECONFLICT, 1305, "object exists already")                                                                 \
	X(FZ_ETIMEOUT, 1306, "took too long")                                                                          \
	X(FZ_EPEER, 1307, "peer cannot be reached")                                                                    \
	X(FZ_EDENIED, 1308, "peer is not allowed")                                                                     \
	X(FZ_EBUSY, 1401, "in use")                                                                                    \
	X(FZ_ENOTMOUNTED, 1402, "not mounted")                                                                         \
	X(FZ_EMOUNTED, 1403, "mounted already")                                                                        \
	X(FZ_ENOFUSE, 1404, "FUSE is not available")                                                                   \
	X(FZ_ELOGFULL, 1405, "the local log has reached its limit")                                                    \
	X(FZ_EVERIFY, 1501, "verification failed")                                                                     \
	X(FZ_EINTERNAL, 1901, "internal error")

enum fz_errcode {
#define X(name, num, text) name = num,
	FZ_ERRORS(X)
#undef X
};

struct fz_err {
	int code;       /* negative code of the failure, 0 = none */
	char text[400]; /* one sentence without trailing period or newline */
};

/* Set *err (err may be NULL) to code and the formatted sentence; returns -code when code > 0, code otherwise. */
int fz_fail(struct fz_err *err, int code, const char *fmt, ...) FZ_PRINTF(3, 4);
/* The same for errno: appends ": strerror". Returns -errno_value (or -EIO when that is 0). */
int fz_fail_errno(struct fz_err *err, int errno_value, const char *fmt, ...) FZ_PRINTF(3, 4);
/* Put a context sentence in front: "while restoring app.db: page 7: checksum differs". Returns err->code. */
int fz_err_prefix(struct fz_err *err, const char *fmt, ...) FZ_PRINTF(2, 3);
/* Short text for a negative code, -errno or -FZ_E*. Never NULL. */
const char *fz_strerror(int code);
/* errno for a FUSE reply: -FZ_E* map to EIO, EBUSY, ENOENT, ...; -errno to itself (positive). */
int fz_err_errno(int code);
/* Exit code for a negative code: 1 failed, 2 usage or configuration, 3 not found, 4 verification failed. */
int fz_err_exit(int code);

#endif
