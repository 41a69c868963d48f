/* keys.h - which keys a command works with. The primary needs recipients (public) only; looking back needs an identity.
 * A state directory may hold both: `identity` (0600; `fazt status` warns while it lies there) and `recipient`. */
#ifndef FZ_CMD_KEYS_H
#define FZ_CMD_KEYS_H

#include "base/err.h"
#include "cmd/config.h"
#include "ltx/age.h"

#include <stdio.h>

#define CMD_IDENTITY  "identity"
#define CMD_RECIPIENT "recipient"
#define CMD_ETC       "/etc/fazt"

/* Makes identity (0600, never overwritten) and recipient in dirfd, which is dir: nobody else may write there. */
int cmd_key_make(int dirfd, const char *dir, struct ltx_age_recipient *r, struct fz_err *err) FZ_MUST_CHECK;
/* The recipient kept in the state directory (statefd, which is state_dir; -1 = none), else in /etc/fazt: of `recipient`, else of `identity`.
 * -FZ_ENOTFOUND when neither is there. -FZ_EKEYFILE too: the state directory or what lies there is neither root's nor our own, a link, or others
 * can write it; an application's user may have put it into DIR/.fazt, to read the backups. */
int cmd_key_find(int statefd, const char *state_dir, struct ltx_age_recipient *r, struct fz_err *err) FZ_MUST_CHECK;
/* That of dirfd alone, which is dir, and writes `recipient` when only `identity` is there, which may be taken away after that: without either
 * the next mount would make a key, silently another one. -FZ_ENOTFOUND may leave err as it was. */
int cmd_key_keep(int dirfd, const char *dir, struct ltx_age_recipient *r, struct fz_err *err) FZ_MUST_CHECK;
/* For a mount: when some target is encrypted and names no recipient, takes the configured identity's, the state
 * directory's, /etc/fazt's, or makes a key in the state directory (*made = true). look: makes none; the recipient is CMD_KEY_TO_MAKE. */
#define CMD_KEY_TO_MAKE "a key made then"
int cmd_key_default(struct cmd_conf *c, int statefd, const char *state_dir, bool look, bool *made,
                    struct fz_err *err) FZ_MUST_CHECK;
/* That one was made, where, and how to take it to a safe place. */
void cmd_key_tell(FILE *to, const struct cmd_conf *c, const char *state_dir, const char *dir);
/* Identities to look back with: file (-i; must work), else the configuration's, else <state>/identity, else
 * /etc/fazt/identity. None found: ids->n == 0 and success. state_dir may be NULL. */
int cmd_key_identities(struct ltx_age_identities *ids, const char *file, const struct cmd_conf *c,
                       const char *state_dir, struct fz_err *err) FZ_MUST_CHECK;
/* Parsed recipients of a checked list, heap. */
int cmd_key_recipients(const struct cmd_list *l, struct ltx_age_recipient **out, size_t *n,
                       struct fz_err *err) FZ_MUST_CHECK;

#endif
