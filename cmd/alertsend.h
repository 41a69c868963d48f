/* alertsend.h - POST of one JSON object to a URL that may be a secret itself: no message, log line or answer holds more of it than scheme
 * and host. */
#ifndef FZ_CMD_ALERTSEND_H
#define FZ_CMD_ALERTSEND_H

#include "cmd/alertbook.h"
#include "cmd/config.h"
#include "store/sigv4.h"

#include <stdatomic.h>

struct store_http;

#define CMD_ALERT_HEADERS 16

struct cmd_alertsend {
	char *url[CMD_ALERT_URLS];
	char shown[CMD_ALERT_URLS][300]; /* "https://hooks.example.com/..." */
	size_t n_urls;
	struct fz_buf secret; /* the key of the signature; empty = none */
	char *lines[CMD_ALERT_HEADERS];
	struct store_pair headers[CMD_ALERT_HEADERS + 3];
	size_t n_headers;
	struct store_http *http;
	int64_t timeout_ms;
	atomic_bool cancelled;
};
struct cmd_alertsend_result {
	int status;            /* 0 = no answer came */
	int64_t retry_after_s; /* -1 = not given */
	int64_t took_ms;
	char said[200]; /* the beginning of what a server that refused said: for the one who tests, never for the log */
};

/* URLs, secret and headers of the configuration, read from their files (0600), which must not lie below dir (NULL: not known). -FZ_ECONFIG,
 * -FZ_EKEYFILE. close() is needed in any case. */
int cmd_alertsend_open(struct cmd_alertsend *s, const struct cmd_conf *c, const char *dir,
                       struct fz_err *err) FZ_MUST_CHECK;
/* 0: a 2xx answer came. Else -FZ_ENET, -FZ_ETIMEOUT, -FZ_ESTORE (another answer), -ECANCELED. Thread-safe. */
int cmd_alertsend_post(struct cmd_alertsend *s, size_t url, const char *body, struct cmd_alertsend_result *result,
                       struct fz_err *err) FZ_MUST_CHECK;
/* What is under way ends soon, and nothing is sent any more. */
void cmd_alertsend_cancel(struct cmd_alertsend *s);
void cmd_alertsend_close(struct cmd_alertsend *s);
/* cmd_alertsend_open() and close: for a check of the configuration. */
int cmd_alertsend_check(const struct cmd_conf *c, struct fz_err *err) FZ_MUST_CHECK;

#endif
