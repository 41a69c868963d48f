/* credentials.h - which key signs. Looked for, in this order, the first that is complete wins:
 *   1. the configuration (conf.access_key, secret_key)
 *   2. the file of conf.credentials_file or the URL's credentials= (ini as AWS's, or bare name=value lines)
 *   3. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (not when a profile was asked for by name)
 *   4. the profile (conf, URL, AWS_PROFILE, "default") in AWS_SHARED_CREDENTIALS_FILE, else ~/.aws/credentials,
 *      and in AWS_CONFIG_FILE, else ~/.aws/config; the region too comes from there.
 * Nothing of it is ever logged. Instance roles (IMDS) are not asked. */
#ifndef FZ_STORE_CREDENTIALS_H
#define FZ_STORE_CREDENTIALS_H

#include "store/store.h"

struct store_credentials {
	char *access_key, *secret_key, *session_token; /* heap; token may be NULL */
	char *region;                                  /* found beside them; NULL = none */
};

/* getenv-like, so that tests bring their own environment; NULL = getenv. -FZ_ECONFIG says where it looked. */
int store_credentials_load(struct store_credentials *out, const struct fz_store_conf *conf, const char *url_file,
                           const char *url_profile, const char *(*env)(const char *name),
                           struct fz_err *err) FZ_MUST_CHECK;
/* Wipes and frees. */
void store_credentials_fini(struct store_credentials *c);
/* Takes what [section] (or "[profile section]"; lines before any section when bare) of ini text has; known fields that are
 * set already stay. */
int store_credentials_parse(struct store_credentials *c, const char *text, const char *section,
                            bool bare) FZ_MUST_CHECK;

#endif
