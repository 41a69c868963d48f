/* complete_man.c - a command's section of a man page, from the text of its --help (man(7), as mandoc and groff read it). */
#include "cmd/complete.h"

#include <stdio.h>
#include <string.h>

/* Text up to n bytes: a line that begins with a dot is no request, quotes and dashes are what they are in a shell. */
static void text(const char *s, size_t n)
{
	if (n && *s == '.')
		fputs("\\&", stdout);
	for (size_t i = 0; i < n; i++)
		switch (s[i]) {
		case '\\':
			fputs("\\e", stdout);
			break;
		case '-':
			fputs("\\-", stdout);
			break;
		case '\'':
			fputs("\\(aq", stdout);
			break;
		case '"':
			fputs("\\(dq", stdout);
			break;
		case '~':
			fputs("\\(ti", stdout);
			break;
		case '^':
			fputs("\\(ha", stdout);
			break;
		case '`':
			fputs("\\(ga", stdout);
			break;
		default:
			putchar(s[i]);
		}
}

/* `command` in running text is set in bold. */
static void prose(const char *s)
{
	bool start = true;

	while (*s) {
		const char *end = *s == '`' ? strchr(s + 1, '`') : NULL;
		size_t n = end ? (size_t)(end - s - 1) : strcspn(s + 1, "`\n") + 1;

		if (end) {
			fputs(start ? "\\&\\fB" : "\\fB", stdout);
			text(s + 1, n);
			fputs("\\fR", stdout);
			s = end + 1;
		} else {
			if (!start && *s == '.')
				fputs("\\&", stdout);
			text(s, n);
			s += n;
		}
		start = *s == '\n';
		if (start) {
			putchar('\n');
			s++;
		}
	}
	putchar('\n');
}

static void option(char letter, const char *name, const char *arg, const char *help)
{
	printf(".TP\n\\fB");
	if (letter)
		printf("\\-%c\\fR, \\fB", letter);
	text("--", 2);
	text(name, strlen(name));
	if (arg) {
		printf("\\fR \\fI");
		text(arg, strlen(arg));
	}
	printf("\\fR\n");
	prose(help);
}

static void command(const struct cmd_spec *spec, const char *help)
{
	(void)help;
	printf(".SS \"fazt %s ", spec->name);
	text(spec->synopsis, strlen(spec->synopsis));
	printf("\"\n");
	prose(spec->about);
	for (const struct cmd_opt *o = spec->opts; o && o->name; o++)
		option(o->letter, o->name, o->arg, o->help);
	printf(".PP\nExamples:\n.PP\n.RS\n.EX\n");
	for (const char *p = spec->examples; *p;) {
		size_t n = strcspn(p, "\n");

		text(p, n);
		putchar('\n');
		p += n + (p[n] == '\n');
	}
	printf(".EE\n.RE\n");
}

static void nothing(void)
{
}

const struct cmd_complete_format cmd_complete_man = {"man", nothing, command, nothing};
