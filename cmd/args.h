/* args.h - options and --help of one subcommand from one table, so that the two cannot disagree. */
#ifndef FZ_CMD_ARGS_H
#define FZ_CMD_ARGS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct cmd_opt {
	const char *name;        /* long name, without dashes */
	char letter;             /* short form; 0 = none */
	const char *arg;         /* what its argument is called; NULL = a flag */
	const char *help;        /* one line */
	bool *flag;              /* set to true by a flag */
	const char **text;       /* set to the argument: the last one wins */
	struct cmd_words *words; /* or: every argument in turn */
};
/* Rows of options that mean the same wherever they are; flag and text as above. */
#define CMD_OPT_JSON(f) ((struct cmd_opt){"json", 'j', NULL, "print JSON", .flag = (f)})
#define CMD_OPT_PROGRESS(f)                                                                                            \
	((struct cmd_opt){"progress", 0, NULL, "show how far it is, also where stderr is no terminal", .flag = (f)})
#define CMD_OPT_CONFIG(t)                                                                                              \
	((struct cmd_opt){"config", 'c', "FILE", "configuration instead of " CMD_CONF_DEFAULT, .text = (t)})
#define CMD_OPT_IDENTITY(t) ((struct cmd_opt){"identity", 'i', "KEY", "identity that decrypts the backup", .text = (t)})

struct cmd_words {
	const char *v[64]; /* borrowed from argv */
	size_t n;
};
struct cmd_spec {
	const char *name;
	const char *synopsis; /* "[options] DIR" */
	const char *about;    /* a sentence or two */
	const char *examples; /* lines */
	int min_args, max_args;
	const struct cmd_opt *opts; /* ends with name == NULL */
};

#define CMD_ARGS_HELP 1
/* Parses; *args then points at the positional arguments (n_args of them) inside argv, which is permuted. Returns 0,
 * CMD_ARGS_HELP after printing the help to stdout, or -FZ_EUSAGE. No step that is taken `if (rc == 0)` follows on either. */
int cmd_args(const struct cmd_spec *spec, int argc, char **argv, char ***args, int *n_args,
             struct fz_err *err) FZ_MUST_CHECK;
/* Who wants to know what a command takes (cmd/complete.h): see() gets the spec where cmd_args() would parse. */
struct cmd_viewer {
	void (*see)(struct cmd_viewer *v, const struct cmd_spec *spec);
};
/* Calls run as for --help, and so nothing comes of it but its cmd_args(). One thread only. */
void cmd_args_view(struct cmd_viewer *v, int (*run)(int argc, char **argv), const char *name);
/* A whole number of the option's argument, 1..max. -FZ_EUSAGE names the option. */
int cmd_args_number(const char *option, const char *text, unsigned long long max, unsigned long long *out,
                    struct fz_err *err) FZ_MUST_CHECK;

#endif
