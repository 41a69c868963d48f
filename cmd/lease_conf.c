#include "cmd/lease_priv.h"

#include "cmd/wire.h"
#include "store/store.h"

#define LEASE_MS      10000
#define LEASE_MIN_MS  1000
#define LEASE_MAX_MS  3600000
#define ANSWER_MIN_MS 300

#include <stdlib.h>
#include <string.h>

static const char *witness_url(const struct cmd_conf *c, const struct cmd_target **target)
{
	const char *url = c->witness ? c->witness : c->n_targets ? c->targets[0].url : c->follow;

	*target = NULL;
	for (size_t i = 0; url && i < c->n_targets; i++)
		if (!strcmp(c->targets[i].url, url) || (c->targets[i].name && !strcmp(c->targets[i].name, url))) {
			*target = &c->targets[i];
			return c->targets[i].url;
		}
	return url;
}

int64_t cmd_lease_duration_ms(const struct cmd_conf *c)
{
	return c->lease_ms ? c->lease_ms : LEASE_MS;
}

int cmd_lease_witness(const struct cmd_conf *c, struct fz_store **out, struct fz_err *err)
{
	struct fz_store_conf conf = {0};
	const struct cmd_target *t;
	const char *url = witness_url(c, &t);

	if (t)
		cmd_target_access(&conf, t);
	conf.timeout_ms = cmd_lease_duration_ms(c) / 3;
	if (conf.timeout_ms < ANSWER_MIN_MS)
		conf.timeout_ms = ANSWER_MIN_MS;
	return fz_store_open(out, url, &conf, err);
}

int cmd_lease_check(const struct cmd_conf *c, struct fz_err *err)
{
	struct fz_store *store = NULL;
	const struct cmd_target *t;
	int rc;

	if (!cmd_conf_failover(c))
		return 0;
	if (!witness_url(c, &t))
		return fz_fail(err, FZ_ECONFIG,
		               "failover = auto needs a store that all hosts reach: witness in [link], or a target");
	if (cmd_lease_duration_ms(c) < LEASE_MIN_MS || cmd_lease_duration_ms(c) > LEASE_MAX_MS)
		return fz_fail(err, FZ_ECONFIG, "lease: between %d s and 1 h", LEASE_MIN_MS / 1000);
	if (!c->host_key)
		return fz_fail(err, FZ_ECONFIG,
		               "failover = auto needs this host's own key: fazt keygen -o /etc/fazt/host.key, then "
		               "--identity or host_key in [link]");
	rc = cmd_lease_witness(c, &store, err);
	fz_store_close(store);
	if (rc < 0)
		fz_err_prefix(err, "witness");
	return rc == -FZ_EUSAGE ? -FZ_ECONFIG : rc;
}
