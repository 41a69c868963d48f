#include "cmd/lint.h"

#include "base/file.h"
#include "cmd/config_priv.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONF_MAX   (1u << 20)
#define MAX_ERRORS 100

static void add(cJSON *list, int line, const char *text)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "line", line);
	cJSON_AddStringToObject(o, "text", text);
	cJSON_AddItemToArray(list, o);
}

/* The line in "FILE:LINE: ...", 0 when it does not begin so. */
static int line_in(const char *text, const char *file)
{
	size_t n = strlen(file);

	return !strncmp(text, file, n) && text[n] == ':' ? (int)strtol(text + n + 1, NULL, 10) : 0;
}

static size_t start_of(const struct fz_buf *b, int line)
{
	size_t at = 0;

	for (int i = 1; i < line && at < b->size; i++) {
		const uint8_t *nl = memchr(b->data + at, '\n', b->size - at);

		at = nl ? (size_t)(nl - b->data) + 1 : b->size;
	}
	return at;
}

/* Takes a line's content out, its end stays: the others keep their numbers. */
static void blank(struct fz_buf *b, int line)
{
	size_t at = start_of(b, line), n = 0;

	while (at + n < b->size && b->data[at + n] != '\n')
		n++;
	memmove(b->data + at, b->data + at + n, b->size - at - n);
	b->size -= n;
	b->data[b->size] = 0;
}

static char first(const struct fz_buf *b, int line)
{
	size_t at = start_of(b, line);

	return at < b->size ? (char)b->data[at] : 0;
}

static int last_line(const struct fz_buf *b)
{
	int n = 1;

	for (size_t i = 0; i < b->size; i++)
		n += b->data[i] == '\n';
	return n;
}

/* What is wrong is out of the way afterwards: the line and those that go on from it, or the section. */
static void take_out(struct fz_buf *b, int line, bool section)
{
	int end = last_line(b), from = line;

	if (section) {
		while (from > 1 && first(b, from) != '[')
			from--;
		do
			blank(b, from++);
		while (from <= end && first(b, from) != '[');
		return;
	}
	do
		blank(b, from++);
	while (from <= end && (first(b, from) == ' ' || first(b, from) == '\t'));
}

/* These are about a section, and are reported at one of its lines. */
static bool of_section(const char *text)
{
	static const char *const says[] = {": unknown section [", " has no url", "a target needs a name",
	                                   "section's name is longer"};

	for (size_t i = 0; i < sizeof(says) / sizeof(says[0]); i++)
		if (strstr(text, says[i]))
			return true;
	return false;
}

static void parse_all(struct cmd_conf *c, const char *file, const struct fz_buf *text, cJSON *errors)
{
	struct fz_buf rest = {0};
	int before = -1;

	if (fz_buf_add(&rest, text->data, text->size) < 0)
		return;
	for (int i = 0; i < MAX_ERRORS; i++) {
		struct fz_err why = {0};
		int line;

		cmd_conf_fini(c);
		cmd_conf_init(c);
		if (cmd_conf_parse(c, fz_buf_str(&rest), rest.size, file, &why) == 0)
			break;
		line = line_in(why.text, file);
		if (line <= 0 || line == before) { /* cannot go on */
			if (line <= 0)
				add(errors, 0, why.text);
			break;
		}
		add(errors, line, why.text);
		before = line;
		take_out(&rest, line, of_section(why.text));
	}
	if (rest.data)
		explicit_bzero(rest.data, rest.size);
	fz_buf_fini(&rest);
}

int cmd_lint_line(const char *text, const char *section, const char *key)
{
	char here[256] = "";
	int line = 0;

	for (const char *p = text; *p;) {
		size_t n = strcspn(p, "\n"), k = strlen(key), skip = strspn(p, " \t");

		line++;
		if (*p == '[' && memchr(p, ']', n))
			snprintf(here, sizeof(here), "%.*s", (int)((const char *)memchr(p, ']', n) - p - 1), p + 1);
		else if ((!section || !strcmp(section, here)) && !strncmp(p + skip, key, k) &&
		         (p[skip + k + strspn(p + skip + k, " \t")] == '=' ||
		          p[skip + k + strspn(p + skip + k, " \t")] == ':'))
			return line;
		p += n + (p[n] == '\n');
	}
	return 0;
}

/* An error of the whole, which names keys but no line: the first of them that the file has. */
static int guess_line(const char *text, const char *why)
{
	static const struct {
		const char *word, *key;
	} others[] = {
	        {"a replica", "role"    },
	        {"listening", "listen"  },
	        {"followers", "follower"},
	};
	int best = 0;
	size_t at = SIZE_MAX;

	for (size_t i = 0; i < cmd_n_keys; i++) {
		const char *name = cmd_keys[i].name, *p = strstr(why, name);
		size_t n = strlen(name);
		int line;

		if (!p || (size_t)(p - why) >= at || (p > why && strchr("abcdefghijklmnopqrstuvwxyz_-", p[-1])) ||
		    (p[n] >= 'a' && p[n] <= 'z') || p[n] == '_')
			continue;
		line = cmd_lint_line(text, NULL, name);
		if (line) {
			best = line;
			at = (size_t)(p - why);
		}
	}
	for (size_t i = 0; !best && i < sizeof(others) / sizeof(others[0]); i++)
		if (strstr(why, others[i].word))
			best = cmd_lint_line(text, NULL, others[i].key);
	return best;
}

static void add_whole(const char *file, const char *text, const char *why, cJSON *errors)
{
	char msg[1024];
	int line = line_in(why, file);

	if (line || !strncmp(why, "FAZT_", 5)) {
		add(errors, line, why);
		return;
	}
	line = guess_line(text, why);
	if (line)
		snprintf(msg, sizeof(msg), "%s:%d: %s", file, line, why);
	else
		snprintf(msg, sizeof(msg), "%s: %s", file, why);
	add(errors, line, msg);
}

static void check_whole(struct cmd_conf *c, const char *file, const char *text, cJSON *errors)
{
	int rc = 0;

	for (size_t n = 0; rc <= 0; n++) {
		struct fz_err why = {0};

		rc = cmd_conf_check_nth(c, n, &why);
		if (rc < 0)
			add_whole(file, text, why.text, errors);
	}
}

static void check_mode(const struct cmd_conf *c, const char *file, cJSON *errors)
{
	char msg[1024];
	struct stat st;

	for (size_t i = 0; i < c->n_targets; i++)
		if (c->targets[i].secret_key && stat(file, &st) == 0 && (st.st_mode & 077)) {
			snprintf(msg, sizeof(msg), "%s:%d: it holds a secret_key but others can read it: chmod 600 %s",
			         file, c->targets[i].line, file);
			add(errors, c->targets[i].line, msg);
			return;
		}
}

int cmd_lint(struct cmd_conf *c, const char *file, char *const *env, cJSON *errors, cJSON *warnings, struct fz_err *err)
{
	struct fz_buf text = {0};
	struct fz_err why = {0};
	int rc;

	cmd_conf_init(c);
	rc = fz_read_file(AT_FDCWD, file, CONF_MAX, &text, err);
	if (rc < 0)
		rc = fz_fail(err, FZ_ECONFIG, "cannot read the configuration %s: %s", file, strerror(-rc));
	if (rc == 0) {
		parse_all(c, file, &text, errors);
		check_mode(c, file, errors);
		if (env && cmd_conf_env(c, env, &why) < 0)
			add(errors, 0, why.text);
		cmd_lint_sense(c, file, fz_buf_str(&text), warnings);
		if (cJSON_GetArraySize(errors) ==
		    0) /* what is left of a file with errors says nothing about the whole */
			check_whole(c, file, fz_buf_str(&text), errors);
	}
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}
