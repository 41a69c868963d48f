/* complete_shell.c - the completion scripts. Each is a small driver in the shell's own language and the table of commands.
 * Held by tests/e2e/completion.py, with the shells themselves. */
#include "cmd/complete.h"

#include "cmd/cmd.h"

#include <stdio.h>
#include <string.h>

static const char *words_of(const struct cmd_complete_arg *a, const char *p, size_t *n)
{
	p = p ? p + strspn(p, " ") : a->words;
	*n = strcspn(p, " ");
	return *n ? p : NULL;
}

/* ---- bash ---- */

static const char bash_driver[] =
        "# bash completion for fazt, printed by `fazt completion bash`\n"
        "_fazt_reply() { # KIND: @ and f(ile) d(irectory) u(rl), or word|word\n"
        "	local strip=\n"
        "	case $1 in\n"
        "	@*u*)\n"
        "		if [[ $cur == dir:* ]]; then\n"
        "			COMPREPLY=($(compgen -d -P dir: -S / -- \"${cur#dir:}\"))\n"
        "		else\n"
        "			COMPREPLY=($(compgen -W 'dir: s3://' -- \"$cur\"))\n"
        "		fi\n"
        "		[[ ${#COMPREPLY[@]} -gt 0 ]] && compopt -o nospace\n"
        "		;;&\n"
        "	@*f*)\n"
        "		local IFS=$'\\n'\n"
        "		COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
        "		compopt -o filenames\n"
        "		;;\n"
        "	@*d*)\n"
        "		local IFS=$'\\n'\n"
        "		COMPREPLY+=($(compgen -d -- \"$cur\"))\n"
        "		compopt -o filenames\n"
        "		;;\n"
        "	@*) ;;\n"
        "	*) COMPREPLY=($(compgen -W \"${1//|/ }\" -- \"$cur\")) ;;\n"
        "	esac\n"
        "	# what is inserted replaces the last piece only, and bash also cuts at : and =\n"
        "	if [[ $cur == *[:=]* && $COMP_WORDBREAKS == *:* ]]; then\n"
        "		strip=${cur%\"${cur##*[:=]}\"}\n"
        "		COMPREPLY=(\"${COMPREPLY[@]#\"$strip\"}\")\n"
        "	fi\n"
        "}\n"
        "_fazt() {\n"
        "	local line=${COMP_LINE:0:COMP_POINT} cur word kind options= i at=0\n"
        "	local -a w args\n"
        "	read -ra w <<<\"$line\"\n"
        "	[[ $line == *[[:space:]] ]] && w+=(\"\")\n"
        "	cur=${w[-1]}\n"
        "	COMPREPLY=()\n";

static void bash_begin(void)
{
	printf("%s	if ((${#w[@]} == 2)); then\n		_fazt_reply '", bash_driver);
	for (const struct cmd_command *c = cmd_commands; c->name; c++)
		if (c->help)
			printf("%s|", c->name);
	printf("help'\n		return\n	fi\n	case ${w[1]} in\n");
}

static void bash_kind(const struct cmd_complete_arg *a)
{
	size_t n;

	if (*a->words) {
		for (const char *p = words_of(a, NULL, &n); p; p = words_of(a, p + n, &n))
			printf("%s%.*s", p == a->words ? "" : "|", (int)n, p);
		return;
	}
	printf("@%s%s%s", a->kinds & CMD_KIND_FILE ? "f" : "", a->kinds & CMD_KIND_DIR ? "d" : "",
	       a->kinds & CMD_KIND_URL ? "u" : "");
}

static void bash_command(const struct cmd_spec *spec, const char *help)
{
	struct cmd_complete_arg args[CMD_COMPLETE_ARGS];
	int n = cmd_complete_args(args, spec);

	(void)help;
	printf("	%s)\n		options='", spec->name);
	for (const struct cmd_opt *o = spec->opts; o && o->name; o++) {
		struct cmd_complete_arg value = {0};

		if (o->arg)
			cmd_complete_add(&value, o->arg);
		for (int form = o->letter ? 0 : 1; form < 2; form++) {
			if (form)
				printf("--%s", o->name);
			else
				printf("-%c", o->letter);
			if (o->arg) {
				putchar('=');
				bash_kind(&value);
			}
			putchar(' ');
		}
	}
	printf("--help'\n		args=(");
	for (int i = 0; i < n; i++) {
		printf("%s'", i ? " " : "");
		bash_kind(&args[i]);
		putchar('\'');
	}
	printf(")\n		;;\n");
}

static void bash_end(void)
{
	printf("	*) return ;;\n"
	       "	esac\n"
	       "	for ((i = 2; i < ${#w[@]} - 1; i++)); do # what stands before: its options, and how many "
	       "arguments\n"
	       "		if [[ ${w[i]} == -- ]]; then\n"
	       "			COMPREPLY=($(compgen -c -- \"$cur\") $(compgen -f -- \"$cur\"))\n"
	       "			return\n"
	       "		elif [[ ${w[i]} == -* ]]; then\n"
	       "			for word in $options; do\n"
	       "				[[ $word == \"${w[i]}\"=* ]] || continue\n"
	       "				((++i == ${#w[@]} - 1)) && _fazt_reply \"${word#*=}\" && return\n"
	       "			done\n"
	       "		else\n"
	       "			at=$((at + 1))\n"
	       "		fi\n"
	       "	done\n"
	       "	((i >= ${#w[@]})) && return\n"
	       "	if [[ $cur == --*=* ]]; then\n"
	       "		for word in $options; do\n"
	       "			[[ $word == \"${cur%%%%=*}\"=* ]] && kind=${word#*=}\n"
	       "		done\n"
	       "		if [[ -n $kind ]]; then\n"
	       "			cur=${cur#*=}\n"
	       "			_fazt_reply \"$kind\"\n"
	       "		fi\n"
	       "	elif [[ $cur == -* ]]; then\n"
	       "		for word in $options; do\n"
	       "			[[ $word == --* && $word == \"$cur\"* ]] && COMPREPLY+=(\"${word%%%%=*}\")\n"
	       "		done\n"
	       "	elif ((at < ${#args[@]})); then\n"
	       "		_fazt_reply \"${args[at]}\"\n"
	       "	fi\n"
	       "}\n"
	       "complete -F _fazt fazt\n");
}

const struct cmd_complete_format cmd_complete_bash = {"bash", bash_begin, bash_command, bash_end};

/* ---- zsh ---- */

/* Within single quotes; brackets and colons mean something to _arguments. */
static void zsh_text(const char *s)
{
	for (; *s; s++)
		if (*s == '\'')
			fputs("'\\''", stdout);
		else if (*s == '\n')
			putchar(' ');
		else
			printf("%s%c", strchr("[]:\\", *s) ? "\\" : "", *s);
}

static void zsh_begin(void)
{
	printf("#compdef fazt\n"
	       "# zsh completion for fazt, printed by `fazt completion zsh`\n"
	       "_fazt_url() {\n"
	       "	if compset -P 'dir:'; then\n"
	       "		_directories\n"
	       "	else\n"
	       "		compadd -S '' -- dir: s3://\n"
	       "	fi\n"
	       "}\n"
	       "_fazt_source() {\n"
	       "	_files\n"
	       "	_fazt_url\n"
	       "}\n"
	       "_fazt() {\n"
	       "	local curcontext=$curcontext state line\n"
	       "	local -A opt_args\n"
	       "	if ((CURRENT == 2)); then\n"
	       "		local -a commands=(\n");
	for (const struct cmd_command *c = cmd_commands; c->name; c++)
		if (c->help) {
			printf("			'%s:", c->name);
			zsh_text(c->help);
			printf("'\n");
		}
	printf("		)\n"
	       "		_describe command commands\n"
	       "		return\n"
	       "	fi\n"
	       "	shift words\n"
	       "	((CURRENT--))\n"
	       "	case $words[1] in\n");
}

static void zsh_action(const char *name, const struct cmd_complete_arg *a)
{
	putchar(':');
	zsh_text(name);
	putchar(':');
	if (*a->words)
		printf("(%s)", a->words);
	else if ((a->kinds & CMD_KIND_URL) && (a->kinds & CMD_KIND_FILE))
		printf("_fazt_source");
	else if (a->kinds & CMD_KIND_URL)
		printf("_fazt_url");
	else if (a->kinds & CMD_KIND_FILE)
		printf("_files");
	else if (a->kinds & CMD_KIND_DIR)
		printf("_directories");
}

static void zsh_command(const struct cmd_spec *spec, const char *help)
{
	struct cmd_complete_arg args[CMD_COMPLETE_ARGS];
	int n = cmd_complete_args(args, spec);

	(void)help;
	printf("	%s)\n", spec->name);
	if (cmd_complete_runs(spec))
		printf("		local at=${words[(i)--]}\n"
		       "		if ((at < CURRENT)); then\n"
		       "			shift $at words\n"
		       "			((CURRENT -= at))\n"
		       "			_normal\n"
		       "			return\n"
		       "		fi\n");
	printf("		_arguments -s -S");
	for (const struct cmd_opt *o = spec->opts; o && o->name; o++) {
		struct cmd_complete_arg value = {0};

		if (o->arg)
			cmd_complete_add(&value, o->arg);
		const char *eq = o->arg ? "=" : "";

		if (o->letter && o->words)
			printf(" \\\n			'*'{-%c,--%s%s}'[", o->letter, o->name, eq);
		else if (o->letter)
			printf(" \\\n			'(-%c --%s)'{-%c,--%s%s}'[", o->letter, o->name, o->letter,
			       o->name, eq);
		else
			printf(" \\\n			'%s--%s%s[", o->words ? "*" : "", o->name, eq);
		zsh_text(o->help);
		putchar(']');
		if (o->arg)
			zsh_action(o->arg, &value);
		putchar('\'');
	}
	printf(" \\\n			'--help[show the help]'");
	for (int i = 0; i < n; i++) {
		printf(" \\\n			'%d", i + 1);
		zsh_action("argument", &args[i]);
		putchar('\'');
	}
	printf("\n		;;\n");
}

static void zsh_end(void)
{
	printf("	esac\n"
	       "}\n"
	       "if [[ $funcstack[1] == _fazt ]]; then\n"
	       "	_fazt \"$@\"\n"
	       "else\n"
	       "	compdef _fazt fazt\n"
	       "fi\n");
}

const struct cmd_complete_format cmd_complete_zsh = {"zsh", zsh_begin, zsh_command, zsh_end};

/* ---- fish ---- */

static void fish_text(const char *s)
{
	putchar('\'');
	for (; *s; s++)
		printf("%s%c", *s == '\'' || *s == '\\' ? "\\" : "", *s == '\n' ? ' ' : *s);
	putchar('\'');
}

static void fish_begin(void)
{
	printf("# fish completion for fazt, printed by `fazt completion fish`\n"
	       "function __fazt_url\n"
	       "	set -l cur (commandline -ct)\n"
	       "	if string match -q 'dir:*' -- $cur\n"
	       "		for d in (__fish_complete_directories (string sub -s 5 -- $cur) '')\n"
	       "			echo dir:$d\n"
	       "		end\n"
	       "	else\n"
	       "		printf '%%s\\n' dir: s3://\n"
	       "	end\n"
	       "end\n"
	       "# the number of arguments before the one at hand is N; options with a value are named\n"
	       "function __fazt_at -a command n\n"
	       "	set -l words (commandline -opc)\n"
	       "	test (count $words) -ge 2; and test $words[2] = $command; or return 1\n"
	       "	set -l seen 0\n"
	       "	set -l skip 0\n"
	       "	for w in $words[3..]\n"
	       "		if test $skip = 1\n"
	       "			set skip 0\n"
	       "		else if test \"$w\" = --\n"
	       "			test $n = run; return\n"
	       "		else if string match -q -- '-*' $w\n"
	       "			contains -- $w $argv[3..]; and set skip 1\n"
	       "		else\n"
	       "			set seen (math $seen + 1)\n"
	       "		end\n"
	       "	end\n"
	       "	test $skip = 0; and test \"$n\" = $seen\n"
	       "end\n"
	       "complete -c fazt -f\n");
	for (const struct cmd_command *c = cmd_commands; c->name; c++)
		if (c->help) {
			printf("complete -c fazt -n '__fish_is_first_token' -a %s -d ", c->name);
			fish_text(c->help);
			putchar('\n');
		}
}

static void fish_action(const struct cmd_complete_arg *a)
{
	if (*a->words)
		printf(" -a '%s'", a->words);
	if (a->kinds & CMD_KIND_FILE)
		printf(" -F");
	if (a->kinds & CMD_KIND_DIR)
		printf(" -a '(__fish_complete_directories (commandline -ct) \\'\\')'");
	if (a->kinds & CMD_KIND_URL)
		printf(" -a '(__fazt_url)'");
}

static void fish_command(const struct cmd_spec *spec, const char *help)
{
	struct cmd_complete_arg args[CMD_COMPLETE_ARGS];
	int n = cmd_complete_args(args, spec);

	(void)help;
	for (const struct cmd_opt *o = spec->opts; o && o->name; o++) {
		struct cmd_complete_arg value = {0};

		if (o->arg)
			cmd_complete_add(&value, o->arg);
		printf("complete -c fazt -n '__fish_seen_subcommand_from %s' -l %s", spec->name, o->name);
		if (o->letter)
			printf(" -s %c", o->letter);
		if (o->arg) {
			printf(value.kinds & CMD_KIND_FILE ? " -r" : " -x");
			fish_action(&value);
		}
		printf(" -d ");
		fish_text(o->help);
		putchar('\n');
	}
	printf("complete -c fazt -n '__fish_seen_subcommand_from %s' -l help -d 'show the help'\n", spec->name);
	for (int i = 0; i <= n; i++) {
		bool runs = i == n && cmd_complete_runs(spec);

		if (i == n && !runs)
			break;
		printf("complete -c fazt -n '__fazt_at %s ", spec->name);
		if (runs)
			printf("run");
		else
			printf("%d", i);
		for (const struct cmd_opt *o = spec->opts; o && o->name; o++)
			if (o->arg) {
				printf(" --%s", o->name);
				if (o->letter)
					printf(" -%c", o->letter);
			}
		putchar('\'');
		if (runs)
			printf(" -F -a '(__fish_complete_command)'");
		else
			fish_action(&args[i]);
		putchar('\n');
	}
}

static void fish_end(void)
{
}

const struct cmd_complete_format cmd_complete_fish = {"fish", fish_begin, fish_command, fish_end};
