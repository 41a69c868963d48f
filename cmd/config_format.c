#include "cmd/config_priv.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* inih as Debian builds it reads lines of at most 199 bytes; longer values go on in the next line, indented. */
#define LINE_PART 120

int cmd_conf_format_line(struct fz_buf *out, const char *key, const char *v, struct fz_err *err)
{
	size_t left = strlen(v);
	int rc = 0;

	/* What inih would read as something else cannot be written: a comment, a line end, blanks at an end. */
	if (strpbrk(v, "\n\r") || strstr(v, " ;") || strstr(v, "\t;") || *v == ';' || *v == '#' ||
	    isspace((unsigned char)*v) || (left && isspace((unsigned char)v[left - 1])))
		return fz_fail(err, FZ_ECONFIG, "%s: '%s' cannot be written into a configuration file", key, v);
	for (bool first = true; rc == 0 && (first || left); first = false) {
		size_t n = left;

		if (n > LINE_PART) /* break where neither side begins or ends with anything but a letter or digit */
			for (n = LINE_PART;
			     n > 1 && !(isalnum((unsigned char)v[n - 1]) && isalnum((unsigned char)v[n]));)
				n--;
		if (n == 1 && left > LINE_PART)
			return fz_fail(err, FZ_ECONFIG, "%s: the value cannot be broken into lines", key);
		rc = first ? fz_buf_addf(out, "%s = %.*s\n", key, (int)n, v) : fz_buf_addf(out, "  %.*s\n", (int)n, v);
		v += n;
		left -= n;
	}
	return rc;
}

int cmd_conf_format_value(const void *base, const struct cmd_key *k, struct fz_buf *out, struct fz_err *err)
{
	const void *field = (const char *)base + k->at;
	const struct cmd_list *l = field;
	int rc = 0;

	switch (k->type) {
	case T_TEXT:
	case T_PATH:
	case T_LEVEL:
	case T_FORMAT:
	case T_ROLE:
	case T_ACK:
	case T_POLICY:
	case T_FAILOVER:
	case T_ENCRYPT:
	case T_PRICES:
		return *(char *const *)field ? cmd_conf_format_line(out, k->name, *(char *const *)field, err) : 0;
	case T_LINES:
	case T_WORDS:
		for (size_t i = 0; rc == 0 && i < l->n; i++) {
			if (strlen(l->v[i]) > LINE_PART)
				return fz_fail(err, FZ_ECONFIG, "%s: '%s' is longer than %d bytes", k->name, l->v[i],
				               LINE_PART);
			rc = cmd_conf_format_line(out, k->name, l->v[i], err);
		}
		return rc;
	case T_BOOL:
		return *(const bool *)field ? fz_buf_addf(out, "%s = yes\n", k->name) : 0;
	case T_KEEP:
		if (*(const int64_t *)field == -1)
			return fz_buf_addf(out, "%s = forever\n", k->name);
		/* fallthrough */
	case T_DURATION:
		return *(const int64_t *)field
		               ? fz_buf_addf(out, "%s = %lldms\n", k->name, (long long)*(const int64_t *)field)
		               : 0;
	case T_SCRUB:
		if (*(const uint64_t *)field == UINT64_MAX)
			return fz_buf_addf(out, "%s = off\n", k->name);
		/* fallthrough */
	case T_SIZE:
	case T_COUNT:
		return *(const uint64_t *)field
		               ? fz_buf_addf(out, "%s = %llu\n", k->name, (unsigned long long)*(const uint64_t *)field)
		               : 0;
	}
	return 0;
}

int cmd_conf_format(const struct cmd_conf *c, struct fz_buf *out, struct fz_err *err)
{
	const char *section = "";
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < cmd_n_keys && strcmp(cmd_keys[i].section, "target"); i++) {
		if (strcmp(section, cmd_keys[i].section))
			rc = fz_buf_addf(out, "[%s]\n", cmd_keys[i].section);
		section = cmd_keys[i].section;
		if (rc == 0)
			rc = cmd_conf_format_value(c, &cmd_keys[i], out, err);
	}
	/* Targets from flags have no name; "#1" stands for none. */
	for (size_t t = 0; rc == 0 && t < c->n_targets; t++) {
		const char *name = c->targets[t].name;

		rc = name ? fz_buf_addf(out, "[target %s]\n", name) : fz_buf_addf(out, "[target #%zu]\n", t + 1);
		for (size_t i = 0; rc == 0 && i < cmd_n_keys; i++)
			if (!strcmp(cmd_keys[i].section, "target"))
				rc = cmd_conf_format_value(&c->targets[t], &cmd_keys[i], out, err);
	}
	return rc;
}
