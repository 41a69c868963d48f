#include "cmd/herald.h"

#include "base/log.h"

#include <sodium.h>
#include <stddef.h>
#include <string.h>

/* It need not be told again. While the role changes the file is not ours: then it is told once more, by the next worker. */
static void heard(struct replica_herald_events *ev, const uint8_t key[static LTX_NOISE_KEY])
{
	struct cmd_link *l = (struct cmd_link *)(void *)((char *)ev - offsetof(struct cmd_link, herald_events));
	char text[LTX_AGE_RECIPIENT_SIZE];
	struct ltx_age_recipient r;
	struct fz_err err = {0};

	memcpy(r.public_key, key, sizeof(r.public_key));
	ltx_age_recipient_format(text, &r);
	pthread_mutex_lock(&l->mu);
	if (!l->turning) {
		cmd_role_heard(&l->role, text);
		if (cmd_role_save(&l->role, l->statefd, &err) < 0)
			fz_log_err("role", &err);
	}
	pthread_mutex_unlock(&l->mu);
}

static int tell(const struct cmd_role_former *f, const struct replica_herald_conf *all, struct replica_herald **out,
                struct fz_err *err)
{
	struct replica_herald_conf conf = *all;
	struct ltx_age_recipient key;
	int rc = ltx_age_recipient_parse(&key, f->key, err);

	if (rc < 0)
		return fz_err_prefix(err, "the former primary %s", f->at);
	conf.to = f->at;
	memcpy(conf.key, key.public_key, sizeof(conf.key));
	rc = replica_herald_start(out, &conf, err);
	sodium_memzero(conf.secret, sizeof(conf.secret));
	return rc;
}

int cmd_herald_start(struct cmd_link *l, struct fz_err *err)
{
	struct replica_herald_conf conf = {.events = &l->herald_events};
	struct cmd_role role;
	int rc = 0;

	l->herald_events.heard = heard;
	pthread_mutex_lock(&l->mu);
	role = l->role;
	cmd_link_hello(l, &conf.hello);
	pthread_mutex_unlock(&l->mu);
	conf.hello.role = LTX_WIRE_PRIMARY;
	if (role.n_formers)
		rc = cmd_link_secret(l->conf, conf.secret, err);
	for (size_t i = 0; rc == 0 && i < role.n_formers; i++)
		rc = tell(&role.formers[i], &conf, &l->heralds[i], err);
	sodium_memzero(conf.secret, sizeof(conf.secret));
	return rc;
}

void cmd_herald_stop(struct cmd_link *l)
{
	for (size_t i = 0; i < CMD_ROLE_FORMERS; i++) {
		replica_herald_stop(l->heralds[i]);
		l->heralds[i] = NULL;
	}
}
