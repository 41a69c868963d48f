/* main.c - `fazt COMMAND ...`: one table, one loop. */
#include "cmd/cmd.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help; /* NULL = not for people */
} commands[] = {
        {"mount",    cmd_mount,    "serve a directory and capture every commit of its SQLite databases"},
        {"umount",   cmd_umount,   "stop serving, after everything captured is in the log"             },
        {"status",   cmd_status,   "positions, lag and errors of databases and targets"                },
        {"sync",     cmd_sync,     "ship now, and wait until every target holds every commit"          },
        {"log",      cmd_log,      "list the commits that can be restored"                             },
        {"restore",  cmd_restore,  "bring a database back as it was after any commit"                  },
        {"verify",   cmd_verify,   "check a backup, or a live mount against its checksums"             },
        {"inspect",  cmd_inspect,  "show and check one LTX file or pack"                               },
        {"init",     cmd_init,     "make the key that backups are encrypted for"                       },
        {"keygen",   cmd_keygen,   "write a new identity to a file and print its recipient"            },
        {"promote",  cmd_promote,  "make a replica the primary"                                        },
        {"events",   cmd_events,   "one JSON line for each transaction, role change and problem"       },
        {"handoff",  cmd_handoff,  "let a replica take this primary's place, without losing a commit"  },
        {"branches", cmd_branches, "what a former primary had committed alone"                         },
        {"wait",     cmd_wait,     "wait until a replica shows a transaction, or all that is known"    },
        {"version",  cmd_version,  "print the version"                                                 },
        {"worker",   cmd_worker,   NULL                                                                },
        {"agent",    cmd_agent,    NULL                                                                },
};

static void usage(FILE *to)
{
	fprintf(to, "usage: fazt COMMAND [options] ...\n\ncommands:\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (commands[i].help)
			fprintf(to, "  %-9s %s\n", commands[i].name, commands[i].help);
	fprintf(to, "\n`fazt COMMAND --help` shows the options and an example.\n"
	            "start with:  fazt mount /var/lib/app\n");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;

	fz_log_init("fazt", FZ_LOG_WARN);
	if (!name) {
		usage(stderr);
		return CMD_EXIT_USAGE;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		usage(stdout);
		return CMD_EXIT_OK;
	}
	if (!strcmp(name, "--version"))
		name = "version";
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "fazt: there is no command '%s' (FZ-%d)\n  what to do: fazt --help lists them\n", name,
	        FZ_EUSAGE);
	return CMD_EXIT_USAGE;
}
