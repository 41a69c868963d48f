#include "cmd/role.h"

#include "base/file.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROLE_FILE "role"

static void wanted(char *out, size_t cap, const struct cmd_conf *conf)
{
	if (cmd_conf_replica(conf))
		snprintf(out, cap, "replica %s %s%s%s", conf->primary ? conf->primary : "",
		         conf->primary_key ? conf->primary_key : "", conf->follow ? " " : "",
		         conf->follow ? conf->follow : "");
	else
		snprintf(out, cap, "primary");
}

static int parse_line(struct cmd_role *r, const char *key, const char *value)
{
	char *end;
	size_t n;

	if (!strcmp(key, "role")) {
		r->replica = !strcmp(value, "replica");
		return r->replica || !strcmp(value, "primary") ? 0 : -EINVAL;
	}
	if (!strcmp(key, "promoted"))
		r->promoted = !strcmp(value, "yes");
	else if (!strcmp(key, "raising"))
		r->raising = !strcmp(value, "yes");
	else if (!strcmp(key, "epoch")) {
		errno = 0;
		r->epoch = (uint32_t)strtoul(value, &end, 10);
		return errno || *end || end == value ? -EINVAL : 0;
	}
	if (!strcmp(key, "node"))
		return sodium_hex2bin(r->node, sizeof(r->node), value, strlen(value), NULL, &n, NULL) == 0 &&
		                       n == sizeof(r->node)
		               ? 0
		               : -EINVAL;
	if (!strcmp(key, "primary"))
		snprintf(r->primary, sizeof(r->primary), "%s", value);
	else if (!strcmp(key, "primary_key"))
		snprintf(r->primary_key, sizeof(r->primary_key), "%s", value);
	else if (!strcmp(key, "configured"))
		snprintf(r->configured, sizeof(r->configured), "%s", value);
	else if (!strcmp(key, "former") && r->n_formers < CMD_ROLE_FORMERS) {
		struct cmd_role_former *f = &r->formers[r->n_formers++];
		const char *space = strchr(value, ' ');

		if (!space || (size_t)(space - value) >= sizeof(f->at) || strlen(space + 1) >= sizeof(f->key))
			return -EINVAL;
		memcpy(f->at, value, (size_t)(space - value));
		snprintf(f->key, sizeof(f->key), "%s", space + 1);
	}
	return 0; /* a later version's key */
}

int cmd_role_read(struct cmd_role *r, int statefd, struct fz_err *err)
{
	struct fz_buf text = {0};
	char *line, *save = NULL;
	int rc = fz_read_file(statefd, ROLE_FILE, 65536, &text, err);

	*r = (struct cmd_role){0};
	for (line = text.size ? strtok_r((char *)text.data, "\n", &save) : NULL; rc == 0 && line;
	     line = strtok_r(NULL, "\n", &save)) {
		char *eq = strchr(line, '=');

		if (!eq)
			continue;
		*eq = 0;
		if (parse_line(r, line, eq + 1) < 0)
			rc = fz_fail(err, FZ_ECORRUPT, "the state directory's file `role`: bad value of %s", line);
	}
	fz_buf_fini(&text);
	return rc;
}

int cmd_role_save(const struct cmd_role *r, int statefd, struct fz_err *err)
{
	struct fz_buf text = {0};
	char node[33];
	int rc;

	sodium_bin2hex(node, sizeof(node), r->node, sizeof(r->node));
	rc = fz_buf_addf(&text, "role=%s\npromoted=%s\nepoch=%u\nnode=%s\nprimary=%s\nprimary_key=%s\nconfigured=%s\n",
	                 r->replica ? "replica" : "primary", r->promoted ? "yes" : "no", r->epoch, node, r->primary,
	                 r->primary_key, r->configured);
	if (rc == 0 && r->raising)
		rc = fz_buf_addf(&text, "raising=yes\n");
	for (size_t i = 0; rc == 0 && i < r->n_formers; i++)
		rc = fz_buf_addf(&text, "former=%s %s\n", r->formers[i].at, r->formers[i].key);
	if (rc < 0)
		rc = fz_fail_errno(err, ENOMEM, "writing the role");
	else
		rc = fz_write_file(statefd, ROLE_FILE, text.data, text.size, 0600, err);
	fz_buf_fini(&text);
	return rc;
}

int cmd_role_load(struct cmd_role *r, int statefd, const struct cmd_conf *conf, struct fz_err *err)
{
	char want[sizeof(r->configured)];
	int rc;

	rc = cmd_role_read(r, statefd, err);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	wanted(want, sizeof(want), conf);
	if (rc == 0 && !strcmp(want, r->configured))
		return 0;
	if (rc == -ENOENT)
		randombytes_buf(r->node, sizeof(r->node));
	r->replica = cmd_conf_replica(conf);
	r->promoted = false;
	r->raising = r->raising && !r->replica;
	r->n_formers = 0;
	snprintf(r->primary, sizeof(r->primary), "%s", r->replica && conf->primary ? conf->primary : "");
	snprintf(r->primary_key, sizeof(r->primary_key), "%s",
	         r->replica && conf->primary_key ? conf->primary_key : "");
	memcpy(r->configured, want, sizeof(want));
	return cmd_role_save(r, statefd, err);
}

void cmd_role_heard(struct cmd_role *r, const char *key)
{
	size_t n = 0;

	for (size_t i = 0; i < r->n_formers; i++)
		if (strcmp(r->formers[i].key, key) != 0)
			r->formers[n++] = r->formers[i];
	r->n_formers = n;
}

void cmd_role_leave(struct cmd_role *r)
{
	struct cmd_role_former *f;

	if (!r->primary[0] || !r->primary_key[0])
		return;
	cmd_role_heard(r, r->primary_key); /* at another address before */
	if (r->n_formers == CMD_ROLE_FORMERS)
		memmove(r->formers, r->formers + 1, sizeof(r->formers) - sizeof(r->formers[0]));
	else
		r->n_formers++;
	f = &r->formers[r->n_formers - 1];
	memcpy(f->at, r->primary, sizeof(f->at));
	memcpy(f->key, r->primary_key, sizeof(f->key));
}
