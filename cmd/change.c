#include "cmd/change.h"

#include "cmd/config_priv.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *section, *key, *why;
} fixed[] = {
        {"mount", "state",          "log and state of a running mount stay where they are"      },
        {"mount", "private_mount",  "the kernel is told when it is mounted"                     },
        {"mount", "no_passthrough", "it is agreed with the kernel when it is mounted"           },
        {"mount", "no_resend",      "it is agreed with the kernel when it is mounted"           },
        {"mount", "log_file",       "the supervisor holds it open"                              },
        {"link",  "role",           "roles change with `fazt promote` and `fazt handoff`"       },
        {"link",  "failover",       "open connections would commit without a lease for a moment"},
        {"link",  "witness",        "two stores would give out two leases"                      },
        {"link",  "lease",          "all hosts must count with the same time"                   },
};

bool cmd_change_secret(const char *key)
{
	return strstr(key, "secret") || strstr(key, "token") || !strcmp(key, "alert_url");
}

static const char *why_fixed(const struct cmd_key *k)
{
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		if (!strcmp(fixed[i].section, k->section) && !strcmp(fixed[i].key, k->name))
			return fixed[i].why;
	return NULL;
}

/* "a = 1\na = 2\n" -> "1, 2" */
static void bare(struct fz_buf *b, char *out, size_t cap)
{
	const char *p = fz_buf_str(b);
	size_t n = 0;

	out[0] = 0;
	while (*p && n < cap) {
		const char *eq = *p == ' ' ? p + 1 : strstr(p, " = ");
		const char *v = *p == ' ' ? p + 2 : eq ? eq + 3 : p;
		size_t len = strcspn(v, "\n");

		n += (size_t)snprintf(out + n, cap - n, "%s%.*s", n && *p != ' ' ? ", " : "", (int)len, v);
		p = v + len + (v[len] == '\n');
	}
}

static int compare(const struct cmd_key *k, const char *target, const void *from, const void *to, cJSON *list,
                   struct fz_err *err)
{
	struct fz_buf a = {0}, b = {0};
	char text[1024];
	cJSON *o;
	int rc = from ? cmd_conf_format_value(from, k, &a, err) : 0;

	if (rc == 0 && to)
		rc = cmd_conf_format_value(to, k, &b, err);
	if (rc == 0 && strcmp(fz_buf_str(&a), fz_buf_str(&b)) != 0) {
		bool secret = cmd_change_secret(k->name);

		o = cJSON_CreateObject();
		cJSON_AddStringToObject(o, "section", k->section);
		if (target)
			cJSON_AddStringToObject(o, "target", target);
		cJSON_AddStringToObject(o, "key", k->name);
		bare(&a, text, sizeof(text));
		cJSON_AddStringToObject(o, "from", secret && *text ? "(secret)" : text);
		bare(&b, text, sizeof(text));
		cJSON_AddStringToObject(o, "to", secret && *text ? "(secret)" : text);
		explicit_bzero(text, sizeof(text));
		if (why_fixed(k))
			cJSON_AddStringToObject(o, "fixed", why_fixed(k));
		cJSON_AddItemToArray(list, o);
	}
	if (a.data)
		explicit_bzero(a.data, a.size);
	if (b.data)
		explicit_bzero(b.data, b.size);
	fz_buf_fini(&a);
	fz_buf_fini(&b);
	return rc;
}

/* As cmd_conf_format() names those without a name. */
static const char *name_of(const struct cmd_conf *c, size_t i, char buf[static 32])
{
	if (c->targets[i].name)
		return c->targets[i].name;
	snprintf(buf, 32, "#%zu", i + 1);
	return buf;
}

static const struct cmd_target *find(const struct cmd_conf *c, const char *name)
{
	char buf[32];

	for (size_t i = 0; i < c->n_targets; i++)
		if (!strcmp(name_of(c, i, buf), name))
			return &c->targets[i];
	return NULL;
}

int cmd_change_list(const struct cmd_conf *from, const struct cmd_conf *to, cJSON *list, struct fz_err *err)
{
	char buf[32];
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < cmd_n_keys; i++)
		if (strcmp(cmd_keys[i].section, "target") != 0)
			rc = compare(&cmd_keys[i], NULL, from, to, list, err);
	for (int pass = 0; pass < 2; pass++) {
		const struct cmd_conf *here = pass ? to : from, *there = pass ? from : to;

		for (size_t t = 0; rc == 0 && t < here->n_targets; t++) {
			const char *name = name_of(here, t, buf);
			const struct cmd_target *other = find(there, name);

			if (pass && other) /* compared in the first pass */
				continue;
			for (size_t i = 0; rc == 0 && i < cmd_n_keys; i++)
				if (!strcmp(cmd_keys[i].section, "target"))
					rc = compare(&cmd_keys[i], name, pass ? (const void *)other : &here->targets[t],
					             pass ? &here->targets[t] : other, list, err);
		}
	}
	return rc;
}
