#include "cmd/args.h"

#include "cmd/nearest.h"

#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTS 48

static struct cmd_viewer *viewer; /* during cmd_args_view() */

static void print_help(const struct cmd_spec *spec)
{
	printf("usage: fazt %s%s%s\n\n%s\n\noptions:\n", spec->name, spec->synopsis[0] ? " " : "", spec->synopsis,
	       spec->about);
	for (const struct cmd_opt *o = spec->opts; o && o->name; o++) {
		char left[64];

		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
		         o->letter ? "," : " ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		if (strlen(left) > 26)
			printf("  %s\n  %-26s %s\n", left, "", o->help);
		else
			printf("  %-26s %s\n", left, o->help);
	}
	printf("  %-26s %s\n\nexamples:\n", "    --help", "show this text");
	for (const char *p = spec->examples; *p;) {
		size_t n = strcspn(p, "\n");

		printf("  %.*s\n", (int)n, p);
		p += n + (p[n] == '\n');
	}
}

static int take(const struct cmd_opt *o, struct fz_err *err)
{
	if (o->flag)
		*o->flag = true;
	if (o->text)
		*o->text = optarg;
	if (o->words) {
		if (o->words->n == sizeof(o->words->v) / sizeof(o->words->v[0]))
			return fz_fail(err, FZ_EUSAGE, "--%s was given too often", o->name);
		o->words->v[o->words->n++] = optarg;
	}
	return 0;
}

static int unknown(const struct cmd_spec *spec, const char *option, struct fz_err *err)
{
	char name[64];
	struct cmd_nearest near = {.word = name};

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(option, "="), option);
	memmove(name, name + strspn(name, "-"), strlen(name + strspn(name, "-")) + 1);
	for (const struct cmd_opt *o = spec->opts; o && o->name; o++)
		cmd_nearest_see(&near, o->name);
	return fz_fail(err, FZ_EUSAGE, "unknown or ambiguous option '%s'%s%s%s", option,
	               near.best ? ": did you mean --" : "", near.best ? near.best : "", near.best ? "?" : "");
}

int cmd_args(const struct cmd_spec *spec, int argc, char **argv, char ***args, int *n_args, struct fz_err *err)
{
	struct option longs[MAX_OPTS + 2] = {0};
	char shorts[2 * MAX_OPTS + 4] = ":h";
	size_t n = 0, s = 2;
	int c, rc;

	if (viewer) {
		viewer->see(viewer, spec);
		return CMD_ARGS_HELP;
	}
	for (const struct cmd_opt *o = spec->opts; o && o->name && n < MAX_OPTS; o++, n++) {
		longs[n] = (struct option){o->name, o->arg ? required_argument : no_argument, NULL, 256 + (int)n};
		if (o->letter) {
			shorts[s++] = o->letter;
			if (o->arg)
				shorts[s++] = ':';
		}
	}
	longs[n] = (struct option){"help", no_argument, NULL, 'h'};
	optind = 0; /* a fresh start, with glibc's permutation */
	opterr = 0;
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		const struct cmd_opt *o = NULL;

		if (c == 'h') {
			print_help(spec);
			return CMD_ARGS_HELP;
		}
		if (c == '?')
			return unknown(spec, optind > 0 && optind <= argc ? argv[optind - 1] : "", err);
		if (c == ':')
			return fz_fail(err, FZ_EUSAGE, "option '%s' needs an argument", argv[optind - 1]);
		if (c >= 256)
			o = &spec->opts[c - 256];
		for (size_t i = 0; !o && i < n; i++)
			if (spec->opts[i].letter == c)
				o = &spec->opts[i];
		if (!o)
			return fz_fail(err, FZ_EINTERNAL, "option %d is in no table", c);
		rc = take(o, err);
		if (rc < 0)
			return rc;
	}
	*args = argv + optind;
	*n_args = argc - optind;
	if (*n_args < spec->min_args)
		return fz_fail(err, FZ_EUSAGE, "an argument is missing: fazt %s %s", spec->name, spec->synopsis);
	if (*n_args > spec->max_args)
		return fz_fail(err, FZ_EUSAGE, "'%s' is one argument too many: fazt %s %s", (*args)[spec->max_args],
		               spec->name, spec->synopsis);
	return 0;
}

int cmd_args_number(const char *option, const char *text, unsigned long long max, unsigned long long *out,
                    struct fz_err *err)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || *out < 1 || *out > max)
		return fz_fail(err, FZ_EUSAGE, "--%s: '%s' is no number from 1 to %llu", option, text, max);
	return 0;
}

void cmd_args_view(struct cmd_viewer *v, int (*run)(int argc, char **argv), const char *name)
{
	char *argv[] = {(char *)(uintptr_t)name, NULL};

	viewer = v;
	(void)run(1, argv);
	viewer = NULL;
}
