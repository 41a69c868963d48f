#include "cmd/complete.h"

#include "cmd/cmd.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const struct cmd_complete_format *const formats[] = {&cmd_complete_bash, &cmd_complete_zsh, &cmd_complete_fish,
                                                            &cmd_complete_man};

/* ---- what an argument is ---- */

static bool is_words(const char *name)
{
	for (const char *p = name; *p; p++)
		if (!islower((unsigned char)*p) && !isdigit((unsigned char)*p) && !strchr("|-", *p))
			return false;
	return strchr(name, '|') != NULL;
}

static void add_words(struct cmd_complete_arg *a, const char *name)
{
	size_t n = strlen(a->words);

	if (n && n + 1 < sizeof(a->words))
		a->words[n++] = ' ';
	for (; *name && n + 1 < sizeof(a->words); name++)
		a->words[n++] = *name;
	a->words[n] = 0;
	for (char *p = a->words; *p; p++)
		if (*p == '|')
			*p = ' ';
}

void cmd_complete_add(struct cmd_complete_arg *a, const char *name)
{
	if (is_words(name))
		add_words(a, name);
	else if (!strcmp(name, "DIR"))
		a->kinds |= CMD_KIND_DIR;
	else if (!strcmp(name, "URL"))
		a->kinds |= CMD_KIND_URL;
	else if (!strcmp(name, "SOURCE"))
		a->kinds |= CMD_KIND_URL | CMD_KIND_FILE;
	else if (strstr(name, "FILE") || !strcmp(name, "KEY") || !strcmp(name, "PATH") || !strcmp(name, "DB") ||
	         !strncmp(name, "DIR/", 4))
		a->kinds |= CMD_KIND_FILE;
}

/* The name of a synopsis's next positional argument: into word; "|" where an alternative begins. Returns the rest. */
static const char *next_word(const char *p, const struct cmd_spec *spec, char *word, size_t cap)
{
	bool value = false; /* of the option before */

	for (*word = 0; *p;) {
		size_t n = strcspn(p, " ");
		const char *next = p + n + strspn(p + n, " ");

		if (!strncmp(p, "-- ", 3))
			return "";
		if (!strncmp(p, "[-", 2) || !strncmp(p, "[options]", 9)) { /* an option, and its value, are not here */
			p += strcspn(p, "]");
			p += strspn(p, "] ");
			continue;
		}
		if (*p == '-') {
			value = false;
			for (const struct cmd_opt *o = spec->opts; o && o->name; o++)
				if (n > 1 && ((!strncmp(p, "--", 2) && strlen(o->name) == n - 2 &&
				               !strncmp(p + 2, o->name, n - 2)) ||
				              (n == 2 && p[1] == o->letter)))
					value = o->arg != NULL;
		} else if (value) {
			value = false;
		} else {
			if (*p == '[' && n > 1) {
				p++;
				n -= n > 1 && p[n - 2] == ']' ? 2 : 1;
			}
			snprintf(word, cap, "%.*s", (int)n, p);
			return next;
		}
		p = next;
	}
	return p;
}

int cmd_complete_args(struct cmd_complete_arg args[static CMD_COMPLETE_ARGS], const struct cmd_spec *spec)
{
	char word[64];
	int at = 0, n = 0;

	memset(args, 0, CMD_COMPLETE_ARGS * sizeof(*args));
	for (const char *p = next_word(spec->synopsis, spec, word, sizeof(word)); *word;
	     p = next_word(p, spec, word, sizeof(word))) {
		if (!strcmp(word, "|")) {
			at = 0;
			continue;
		}
		if (at == CMD_COMPLETE_ARGS)
			continue;
		if (islower((unsigned char)*word))
			add_words(&args[at], word);
		else
			cmd_complete_add(&args[at], word);
		if (++at > n)
			n = at;
	}
	return n;
}

bool cmd_complete_runs(const struct cmd_spec *spec)
{
	return strstr(spec->synopsis, "-- COMMAND") != NULL;
}

/* ---- the command ---- */

struct view {
	struct cmd_viewer viewer; /* first */
	const struct cmd_complete_format *format;
	const char *help;
};

static void see(struct cmd_viewer *viewer, const struct cmd_spec *spec)
{
	const struct view *v = (const struct view *)viewer;

	v->format->command(spec, v->help);
}

static void print(const struct cmd_complete_format *format, char *const *only, int n_only)
{
	struct view v = {{see}, format, NULL};

	if (!n_only)
		format->begin();
	for (const struct cmd_command *c = cmd_commands; c->name; c++) {
		bool wanted = c->help && !n_only;

		for (int i = 0; i < n_only; i++)
			wanted |= c->help && !strcmp(only[i], c->name);
		v.help = c->help;
		if (wanted)
			cmd_args_view(&v.viewer, c->run, c->name);
	}
	if (!n_only)
		format->end();
}

int cmd_complete(int argc, char **argv)
{
	static const struct cmd_opt opts[] = {{0}};
	const struct cmd_spec spec = {
	        "completion",
	        "bash|zsh|fish | man [NAME...]",
	        "Prints the script with which that shell completes fazt's commands, options and arguments. The "
	        "package has them\n"
	        "installed. With man: the sections of commands in a man page, in roff.",
	        "eval \"$(fazt completion bash)\"\n"
	        "fazt completion zsh >/usr/local/share/zsh/site-functions/_fazt\n"
	        "fazt completion fish >~/.config/fish/completions/fazt.fish\n",
	        1,
	        64,
	        opts};
	struct fz_err err = {0};
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	for (size_t i = 0; rc == 0 && i < sizeof(formats) / sizeof(formats[0]); i++)
		if (!strcmp(formats[i]->name, args[0])) {
			print(formats[i], args + 1, n - 1);
			return CMD_EXIT_OK;
		}
	if (rc == 0)
		rc = fz_fail(&err, FZ_EUSAGE, "'%s' is none of bash, zsh, fish, man", args[0]);
	return cmd_report(spec.name, &err);
}
