/* linkconf.c - what [link] says, read and checked: who may follow, the host's own key, addresses. */
#include "cmd/link.h"

#include "cmd/lease.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* "age1... [GLOB...]" */
static int parse_follower(struct primary_follower *f, char *text, struct fz_err *err)
{
	struct ltx_age_recipient key;
	const char **globs = NULL;
	char *save = NULL, *word = strtok_r(text, " \t", &save);
	int rc = ltx_age_recipient_parse(&key, word ? word : "", err);

	if (rc < 0)
		return fz_err_prefix(err, "follower");
	memcpy(f->key, key.public_key, sizeof(f->key));
	while ((word = strtok_r(NULL, " \t", &save))) {
		const char **v = reallocarray(globs, f->n_databases + 1, sizeof(*v));

		if (!v) {
			free(globs);
			return fz_fail_errno(err, ENOMEM, "reading the followers");
		}
		globs = v;
		globs[f->n_databases++] = word;
	}
	f->databases = globs;
	return 0;
}

void cmd_link_followers_free(struct primary_follower *v, size_t n)
{
	for (size_t i = 0; v && i < n; i++) {
		free((void *)(uintptr_t)v[i].databases);
		free((void *)(uintptr_t)v[i].name); /* the text that the globs point into */
	}
	free(v);
}

int cmd_link_followers(const struct cmd_conf *c, struct primary_follower **out, struct fz_err *err)
{
	struct primary_follower *v = calloc(c->followers.n + 1, sizeof(*v));
	int rc = v ? 0 : fz_fail_errno(err, ENOMEM, "reading the followers");

	for (size_t i = 0; rc == 0 && i < c->followers.n; i++) {
		char *text = strdup(c->followers.v[i]);

		v[i].name = text;
		rc = text ? parse_follower(&v[i], text, err) : fz_fail_errno(err, ENOMEM, "reading the followers");
	}
	if (rc < 0) {
		cmd_link_followers_free(v, c->followers.n);
		return rc;
	}
	*out = v;
	return 0;
}

int cmd_link_secret(const struct cmd_conf *c, uint8_t out[static 32], struct fz_err *err)
{
	struct ltx_age_identities ids = {0};
	int rc;

	if (!c->host_key)
		return fz_fail(err, FZ_ECONFIG,
		               "links between hosts need this host's own key: fazt keygen -o /etc/fazt/host.key, then "
		               "--identity or host_key in [link]");
	rc = ltx_age_identities_read(&ids, c->host_key, err);
	if (rc == 0 && ids.n != 1)
		rc = fz_fail(err, FZ_EKEYFILE, "%s holds %zu keys; a host has one", c->host_key, ids.n);
	if (rc == 0)
		memcpy(out, ids.v[0].secret, 32);
	ltx_age_identities_free(&ids);
	return rc < 0 ? fz_err_prefix(err, "host_key") : 0;
}

/* The host's key lies on the host: what it can decrypt is no backup against the loss of the host. */
static int check_not_backup(const struct cmd_conf *c, const char *host, struct fz_err *err)
{
	for (size_t t = 0; t <= c->n_targets; t++) {
		const struct cmd_list *l = t < c->n_targets ? cmd_target_recipients(c, &c->targets[t]) : &c->recipients;

		for (size_t i = 0; i < l->n; i++)
			if (!strcmp(l->v[i], host))
				return fz_fail(err, FZ_ECONFIG,
				               "host_key: backups are encrypted for this key too; links between hosts "
				               "need one of their own (fazt keygen -o FILE)");
	}
	return 0;
}

static int check_address(const char *key, const char *text, struct fz_err *err)
{
	char host[256], port[8];
	int rc = text ? fz_net_split(text, host, port, err) : 0;

	if (rc < 0)
		fz_err_prefix(err, "%s", key);
	return rc < 0 ? -FZ_ECONFIG : 0;
}

int cmd_link_check(const struct cmd_conf *c, struct fz_err *err)
{
	struct primary_follower *followers = NULL;
	struct ltx_age_identity id;
	struct ltx_age_recipient r;
	char text[LTX_AGE_RECIPIENT_SIZE];
	int rc = 0;

	if (cmd_conf_replica(c) && (!c->primary || !c->primary_key) && (!c->follow || c->primary))
		return fz_fail(err, FZ_ECONFIG,
		               "a replica needs the address of its primary and that host's public key: --primary "
		               "HOST:PORT --primary-key age1...; or a store: --follow URL");
	if (!cmd_conf_replica(c) && (c->primary || c->follow))
		return fz_fail(err, FZ_ECONFIG,
		               "a primary follows nobody: --role replica goes with --primary and --follow");
	if (c->listen && !c->followers.n)
		return fz_fail(err, FZ_ECONFIG, "listening, but nobody may follow: --follower age1...");
	if (!c->listen && c->followers.n)
		return fz_fail(err, FZ_ECONFIG, "followers, but nothing listens: --listen ADDR:PORT");
	rc = cmd_ack_check(c, err);
	if (rc == 0)
		rc = cmd_link_check_store(c, err);
	if (rc == 0)
		rc = cmd_lease_check(c, err);
	if (rc < 0 || (!c->listen && !c->primary && !c->host_key))
		return rc;
	rc = check_address("listen", c->listen, err);
	if (rc == 0)
		rc = check_address("advertise", c->advertise, err);
	if (rc == 0)
		rc = check_address("primary", c->primary, err);
	if (rc == 0 && c->primary_key && ltx_age_recipient_parse(&r, c->primary_key, err) < 0) {
		fz_err_prefix(err, "primary_key");
		rc = -FZ_ECONFIG;
	}
	if (rc == 0)
		rc = cmd_link_followers(c, &followers, err);
	cmd_link_followers_free(followers, c->followers.n);
	if (rc == 0)
		rc = cmd_link_secret(c, id.secret, err);
	if (rc < 0)
		return rc;
	ltx_age_identity_recipient(&id, &r);
	sodium_memzero(&id, sizeof(id));
	return check_not_backup(c, ltx_age_recipient_format(text, &r), err);
}
