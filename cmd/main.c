/* main.c - `fazt COMMAND ...`: one table, one loop. */
#include "cmd/cmd.h"

#include "base/log.h"
#include "cmd/nearest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define COMPLETION "completion" /* keeps the table narrow */

const struct cmd_command cmd_commands[] = {
        {"mount",    cmd_mount,    "serve a directory and capture every commit of its SQLite databases"},
        {"run",      cmd_run,      "mount, run a command, unmount: for containers"                     },
        {"umount",   cmd_umount,   "stop serving, after everything captured is in the log"             },
        {"status",   cmd_status,   "positions, lag and errors of databases and targets"                },
        {"top",      cmd_top,      "a live view of databases, targets and replicas in the terminal"    },
        {"sync",     cmd_sync,     "ship now, and wait until every target holds every commit"          },
        {"log",      cmd_log,      "list the commits that can be restored"                             },
        {"restore",  cmd_restore,  "bring a database back as it was after any commit"                  },
        {"import",   cmd_import,   "copy a database file into a mount, while it is in use"             },
        {"export",   cmd_export,   "write a consistent copy of a database, as it is or was"            },
        {"clone",    cmd_clone,    "a writable copy in a mount, of a database as it is or was"         },
        {"verify",   cmd_verify,   "check a backup, or a live mount against its checksums"             },
        {"prune",    cmd_prune,    "delete now what retention does not ask for"                        },
        {"migrate",  cmd_migrate,  "apply numbered SQL files to a database, and take them back"        },
        {"rekey",    cmd_rekey,    "give what lies in stores other recipients"                         },
        {"drop",     cmd_drop,     "delete the history of a database that was deleted"                 },
        {"inspect",  cmd_inspect,  "show and check one LTX file or pack"                               },
        {"init",     cmd_init,     "set up a mount: key, configuration, trial of kernel and store"     },
        {"keygen",   cmd_keygen,   "write a new identity to a file and print its recipient"            },
        {"doctor",   cmd_doctor,   "find what is wrong with this host and its mounts"                  },
        {"tune",     cmd_tune,     "settings of kernel and databases that should be others"            },
        {"bench",    cmd_bench,    "speed of SQLite on a disk, natively and on a mount"                },
        {"config",   cmd_config,   "check a configuration file"                                        },
        {"reload",   cmd_reload,   "let a mount take on its changed configuration, without unmounting" },
        {"alert",    cmd_alert,    "what alert_url was told, and a test of it"                         },
        {"upgrade",  cmd_upgrade,  "let a mount go on with the installed fazt, without unmounting"     },
        {"promote",  cmd_promote,  "make a replica the primary"                                        },
        {"events",   cmd_events,   "one JSON line for each transaction, role change and problem"       },
        {"handoff",  cmd_handoff,  "let a replica take this primary's place, without losing a commit"  },
        {"branches", cmd_branches, "what a former primary had committed alone"                         },
        {"wait",     cmd_wait,     "wait until a replica shows a transaction, or all that is known"    },
        {COMPLETION, cmd_complete, "print the script with which a shell completes fazt's commands"     },
        {"version",  cmd_version,  "print the version"                                                 },
        {"resume",   cmd_resume,   NULL                                                                },
        {"worker",   cmd_worker,   NULL                                                                },
        {"agent",    cmd_agent,    NULL                                                                },
        {NULL,       NULL,         NULL                                                                }
};

static void usage(FILE *to)
{
	fprintf(to, "usage: fazt COMMAND [options] ...\n\ncommands:\n");
	for (const struct cmd_command *c = cmd_commands; c->name; c++)
		if (c->help)
			fprintf(to, "  %-10s %s\n", c->name, c->help);
	fprintf(to, "\n`fazt COMMAND --help` shows the options and an example.\n"
	            "start with:  fazt mount /var/lib/app\n");
}

/* What serves said all long before, and its exit code is about the mount or the application. */
static bool serves(const struct cmd_command *c)
{
	return !c->help || c->run == cmd_mount || c->run == cmd_run;
}

/* Who sent the output to a full disk must not take it for complete. */
static int finish(const char *name, int code)
{
	struct fz_err err = {0};

	errno = 0;
	if (code != CMD_EXIT_OK || (fflush(stdout) == 0 && !ferror(stdout)))
		return code;
	if (errno == EPIPE) /* where SIGPIPE is ignored: the reader has had enough */
		return CMD_EXIT_FAILED;
	err.code = fz_fail_errno(&err, errno, "writing the output");
	return cmd_report(name, &err);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	struct cmd_nearest near = {0};

	fz_log_init("fazt", FZ_LOG_WARN);
	if (!name) {
		usage(stderr);
		return CMD_EXIT_USAGE;
	}
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
		usage(stdout);
		return finish("help", CMD_EXIT_OK);
	}
	if (!strcmp(name, "--version"))
		name = "version";
	for (const struct cmd_command *c = cmd_commands; c->name; c++)
		if (!strcmp(c->name, name))
			return serves(c) ? c->run(argc - 1, argv + 1) : finish(name, c->run(argc - 1, argv + 1));
	near.word = name;
	for (const struct cmd_command *c = cmd_commands; c->name; c++)
		if (c->help)
			cmd_nearest_see(&near, c->name);
	fprintf(stderr, "fazt: there is no command '%s'%s%s%s (FZ-%d)\n  what to do: fazt --help lists them\n", name,
	        near.best ? "; did you mean '" : "", near.best ? near.best : "", near.best ? "'?" : "", FZ_EUSAGE);
	return CMD_EXIT_USAGE;
}
