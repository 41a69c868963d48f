#include "cmd/finding.h"

#include "base/buf.h"
#include "cmd/quote.h"

#include <cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	int number;
	const char *name;
	enum cmd_gravity gravity;
	const char *reason, *command;
} table[] = {
#define X(name, number, gravity, reason, command) {number, #name, gravity, reason, command},
        CMD_FINDINGS(X)
#undef X
};
static const char *const gravities[] = {"note", "warning", "problem"};

/* The template with its words, which are quoted where a shell would take them apart. */
static void expand(struct fz_buf *b, const char *text, const char *dir, const char *arg)
{
	char joined[8192];

	while (*text) {
		if (!strncmp(text, "$DIR/$ARG", 9)) {
			snprintf(joined, sizeof(joined), "%s/%s", dir, arg);
			cmd_quote_word(b, joined);
			text += 9;
		} else if (!strncmp(text, "$ARG/fazt.log", 13)) {
			snprintf(joined, sizeof(joined), "%s/fazt.log", arg);
			cmd_quote_word(b, joined);
			text += 13;
		} else if (!strncmp(text, "$COMMAND", 8)) {
			if (fz_buf_add(b, arg, strlen(arg)) < 0)
				return;
			text += 8;
		} else if (!strncmp(text, "$DIR", 4) || !strncmp(text, "$ARG", 4)) {
			cmd_quote_word(b, text[1] == 'D' ? dir : arg);
			text += 4;
		} else {
			if (fz_buf_add(b, text++, 1) < 0)
				return;
		}
	}
	while (b->size && b->data[b->size - 1] == ' ')
		b->data[--b->size] = 0;
}

void cmd_find(cJSON *list, enum cmd_fzd code, const char *where, const char *arg, const char *fmt, ...)
{
	struct fz_buf command = {0};
	char text[800], name[16];
	size_t i = 0;
	va_list ap;
	cJSON *o;

	while (i + 1 < sizeof(table) / sizeof(table[0]) && table[i].number != (int)code)
		i++;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(name, sizeof(name), "FZD-%02d", (int)code);
	expand(&command, table[i].command, where, arg ? arg : "");
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "code", name);
	cJSON_AddStringToObject(o, "gravity", gravities[table[i].gravity]);
	cJSON_AddStringToObject(o, "where", where);
	cJSON_AddStringToObject(o, "what", text);
	cJSON_AddStringToObject(o, "why", table[i].reason);
	cJSON_AddStringToObject(o, "command", fz_buf_str(&command));
	cJSON_AddItemToArray(list, o);
	fz_buf_fini(&command);
}

int cmd_findings(const cJSON *list, enum cmd_gravity g)
{
	const cJSON *o;
	int n = 0;

	cJSON_ArrayForEach (o, list) {
		const char *is = cJSON_GetStringValue(cJSON_GetObjectItem(o, "gravity"));

		n += is && !strcmp(is, gravities[g]);
	}
	return n;
}

void cmd_finding_each(void (*fn)(int number, const char *name, const char *reason, const char *command))
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		fn(table[i].number, table[i].name, table[i].reason, table[i].command);
}
