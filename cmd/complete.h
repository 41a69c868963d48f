/* complete.h - what is written from the table of commands: shell completion, and the sections of the man pages.
 *
 * An argument's kind follows from its name, so that --help, completion and man page have one source: DIR a directory; FILE,
 * KEY, PATH, DIR/NAME, DB a file; URL a store; SOURCE a store or a file; COMMAND a program; a|b|c these words; else nothing. */
#ifndef FZ_CMD_COMPLETE_H
#define FZ_CMD_COMPLETE_H

#include "cmd/args.h"

#define CMD_COMPLETE_ARGS 4

enum cmd_complete_kind { CMD_KIND_FILE = 1, CMD_KIND_DIR = 2, CMD_KIND_URL = 4 };

struct cmd_complete_arg {
	unsigned kinds;  /* of enum cmd_complete_kind */
	char words[160]; /* separated by blanks */
};
/* Adds what an argument of that name can be. */
void cmd_complete_add(struct cmd_complete_arg *a, const char *name);
/* The positional arguments as the synopsis names them; where it gives alternatives, all of them. A COMMAND is not among them.
 * Returns how many. */
int cmd_complete_args(struct cmd_complete_arg args[static CMD_COMPLETE_ARGS], const struct cmd_spec *spec);
/* A COMMAND stands at the end, behind `--`. */
bool cmd_complete_runs(const struct cmd_spec *spec);

/* One output format: begin, then each command, then end; to stdout. */
struct cmd_complete_format {
	const char *name;
	void (*begin)(void);
	void (*command)(const struct cmd_spec *spec, const char *help);
	void (*end)(void);
};
extern const struct cmd_complete_format cmd_complete_bash, cmd_complete_zsh, cmd_complete_fish, cmd_complete_man;
#endif
