#include "cmd/config_priv.h"

#include "base/file.h"
#include "cmd/nearest.h"

#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTION_MAX 49 /* inih cuts longer ones off */
#define CONF_MAX    (1u << 20)

#define BAD(code, ...) cmd_conf_bad(err, o, code, __VA_ARGS__)

struct reading {
	struct cmd_conf *c;
	const char *p, *end;
	struct cmd_origin o;
	bool indented;           /* the line at hand begins with a blank: it goes on from the one before */
	bool seen[CMD_KEYS_MAX]; /* of the section at hand */
	char section[256];
	struct fz_err *err;
	int rc;
};

static char *next_line(char *buf, int cap, void *arg)
{
	struct reading *r = arg;
	const char *nl = memchr(r->p, '\n', (size_t)(r->end - r->p));
	size_t n = (size_t)((nl ? nl + 1 : r->end) - r->p);

	if (n == 0 || r->rc < 0)
		return NULL;
	r->o.line++;
	if (n >= (size_t)cap || memchr(r->p, 0, n)) {
		r->rc = cmd_conf_bad(r->err, &r->o, FZ_ECONFIG,
		                     n >= (size_t)cap
		                             ? "the line is longer than %d bytes; go on in the next one, indented"
		                             : "the file holds a NUL byte (limit of a line: %d bytes)",
		                     cap - 2);
		return NULL;
	}
	r->indented = *r->p == ' ' || *r->p == '\t';
	memcpy(buf, r->p, n);
	buf[n] = 0;
	r->p += n;
	return buf;
}

static bool known_section(const char *kind, struct cmd_nearest *near)
{
	for (size_t i = 0; i < cmd_n_keys; i++) {
		if (!strcmp(cmd_keys[i].section, kind))
			return true;
		cmd_nearest_see(near, cmd_keys[i].section);
	}
	return false;
}

static int on_pair(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;
	char kind[256];
	const char *target = NULL;
	struct cmd_nearest near = {.word = kind};
	const struct cmd_key *k;
	struct fz_err *err = r->err;
	const struct cmd_origin *o = &r->o;
	char *space;

	if (r->rc < 0)
		return 0;
	if (strcmp(r->section, section)) {
		snprintf(r->section, sizeof(r->section), "%s", section);
		memset(r->seen, 0, sizeof(r->seen));
	}
	snprintf(kind, sizeof(kind), "%s", section);
	space = strchr(kind, ' ');
	if (space && !strncmp(kind, "target ", 7)) {
		*space = 0;
		target = space + 1;
		target += strspn(target, " ");
	}
	if (strlen(section) >= SECTION_MAX) {
		r->rc = BAD(FZ_ECONFIG, "the section's name is longer than %d bytes", SECTION_MAX - 1);
		return 0;
	}
	if (!strcmp(kind, "target") && (!target || !*target)) {
		r->rc = BAD(FZ_ECONFIG, "a target needs a name: [target NAME]");
		return 0;
	}
	k = cmd_key_of(kind, name);
	if (!k && !known_section(kind, &near))
		r->rc = *section ? BAD(FZ_ECONFIG,
		                       "unknown section [%s]%s%s%s; there are [mount], [encrypt], [link], [http], "
		                       "[target NAME]",
		                       section, near.best ? " (did you mean [" : "", near.best ? near.best : "",
		                       near.best ? "]?)" : "")
		                 : BAD(FZ_ECONFIG, "'%s' stands before the first section", name);
	else if (k && r->seen[k - cmd_keys] && !r->indented && k->type != T_LINES && k->type != T_WORDS)
		r->rc = BAD(FZ_ECONFIG, "%s is given twice", name);
	else
		r->rc = cmd_conf_set(r->c, kind, target, name, value, k && r->seen[k - cmd_keys] && r->indented, o,
		                     err);
	if (k)
		r->seen[k - cmd_keys] = true;
	return r->rc == 0;
}

int cmd_conf_parse(struct cmd_conf *c, const char *text, size_t size, const char *where, struct fz_err *err)
{
	struct reading r = {
	        .c = c, .p = text, .end = text + size, .o = {.level = CMD_LEVEL_FILE, .where = where},
                             .err = err
        };
	int line = ini_parse_stream(next_line, &r, on_pair, &r);

	if (r.rc < 0 && (line <= 0 || line >= r.o.line))
		return r.rc;
	if (line > 0) /* the first line that inih could not read */
		return fz_fail(err, FZ_ECONFIG, "%s:%d: neither [section] nor key = value", where, line);
	if (line < 0)
		return fz_fail_errno(err, ENOMEM, "reading %s", where);
	for (size_t i = 0; i < c->n_targets; i++)
		if (!c->targets[i].url)
			return fz_fail(err, FZ_ECONFIG, "%s:%d: target %s has no url", c->targets[i].where,
			               c->targets[i].line, c->targets[i].name ? c->targets[i].name : "");
	return 0;
}

int cmd_conf_read(struct cmd_conf *c, const char *path, struct fz_err *err)
{
	const char *file = path ? path : CMD_CONF_DEFAULT;
	struct fz_buf text = {0};
	struct stat st;
	int rc = fz_read_file(AT_FDCWD, file, CONF_MAX, &text, err);

	if (rc == -ENOENT && !path)
		rc = 0;
	else if (rc < 0)
		rc = fz_fail(err, FZ_ECONFIG, "cannot read the configuration %s: %s", file, strerror(-rc));
	else
		rc = cmd_conf_parse(c, fz_buf_str(&text), text.size, file, err);
	for (size_t i = 0; rc == 0 && i < c->n_targets; i++)
		if (c->targets[i].secret_key && stat(file, &st) == 0 && (st.st_mode & 077))
			rc = fz_fail(err, FZ_ECONFIG, "%s holds a secret_key but others can read it: chmod 600 %s",
			             file, file);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}
