#include "cmd/cmd.h"
#include "cmd/quote.h"

#include <errno.h>
#include <stdio.h>

static const struct {
	int code; /* an enum fz_errcode, or an errno */
	const char *what_to_do;
} remedies[] = {
        {FZ_EUSAGE,      "see the command's --help"                                                                     },
        {FZ_ECONFIG,     "correct the named line; man 5 fazt.conf has every key"                                        },
        {FZ_EKEYFILE,    "check that the file exists and that only its owner can read it (chmod 600)"                   },
        {FZ_ECORRUPT,    "run `fazt verify` on the source; another target or an older commit may be intact"             },
        {FZ_ECHECKSUM,   "run `fazt verify` on the source; another target or an older commit may be intact"             },
        {FZ_EORDER,      "please report it: the local log refused a transaction out of order"                           },
        {FZ_EVERSION,    "use the newer fazt that wrote it"                                                             },
        {FZ_ETRUNCATED,  "the file is incomplete: fetch it again, or use another target"                                },
        {FZ_ENOKEY,      "give the identity that belongs to a recipient of the backup: -i KEY"                          },
        {FZ_ECRYPT,      "the object is damaged or was not written by fazt: use another target, and run `fazt verify`"  },
        {FZ_ENOTFOUND,   "check the name; the last path element of SOURCE is the database's path below the mount"       },
        {FZ_ENOCOMMIT,   "`fazt log SOURCE` lists every commit that can be restored"                                    },
        {FZ_EEXISTS,     "choose another name, or --force where the command offers it"                                  },
        {FZ_EGAP,        "restore a commit outside the gap (`fazt log SOURCE`), or use another target"                  },
        {FZ_ECHANGED,    "the message says what changed; --force goes on where the command offers it"                   },
        {FZ_ESQL,        "correct the statement in the named file; what was applied before it stays"                    },
        {FZ_EFENCED,     "stop the other writer, or give the database to this one: fazt mount --take-over"              },
        {FZ_EAUTH,       "check the credentials, the bucket's name and its policy"                                      },
        {FZ_ENET,        "check network, endpoint and name resolution; fazt goes on trying while it is mounted"         },
        {FZ_ESTORE,      "see the store's own message above; fazt goes on trying while it is mounted"                   },
        {FZ_ECONFLICT,   "another writer made this object first: see `fazt status`"                                     },
        {FZ_ETIMEOUT,    "try again, or allow more time (--timeout)"                                                    },
        {FZ_EPEER,       "check HOST:PORT, that fazt is mounted there with --listen, and the firewalls between"         },
        {FZ_EDENIED,     "list this host's public key there (--follower), and check --primary-key here"                 },
        {FZ_EBUSY,       "close the program that is named, then try again"                                              },
        {FZ_ENOTMOUNTED, "mount it first: fazt mount DIR"                                                               },
        {FZ_EMOUNTED,    "unmount it first: fazt umount DIR"                                                            },
        {FZ_ENOFUSE,     "load the module (modprobe fuse); in a container: --device /dev/fuse --cap-add SYS_ADMIN"      },
        {FZ_ELOGFULL,    "raise log_max, free space in the state directory, or bring the targets back"                  },
        {FZ_EVERIFY,     "the message names what differs; take a fresh backup and keep the old one for a look"          },
        {ENOENT,         "check the path: something on the way to it does not exist"                                    },
        {EACCES,         "run it as root, or as the user whom what is named belongs to"                                 },
        {ENOSPC,         "make room on that disk, then try again"                                                       },
        {EDQUOT,         "make room or raise the quota, then try again"                                                 },
        {EROFS,          "that file system is mounted read-only: mount it for writing, or choose another place"         },
        {EIO,            "look at the kernel's log (dmesg): the disk may be failing; `fazt verify` tells what is intact"},
        {ENOMEM,         "end other programs, or add memory or swap"                                                    },
        {FZ_EINTERNAL,   "please report it with the log lines around it"                                                },
};

const char *cmd_remedy(int code)
{
	code = code < 0 ? -code : code;
	for (size_t i = 0; i < sizeof(remedies) / sizeof(remedies[0]); i++)
		if (remedies[i].code == code)
			return remedies[i].what_to_do;
	return NULL;
}

int cmd_report(const char *name, const struct fz_err *err)
{
	const char *remedy = cmd_remedy(err->code);

	fflush(stdout);
	fprintf(stderr, "fazt %s: ", name);
	cmd_quote_show(stderr, "", err->text, "");
	fprintf(stderr, " (FZ-%04d)\n", err->code < 0 ? -err->code : err->code);
	if (remedy)
		fprintf(stderr, "  what to do: %s\n", remedy);
	return fz_err_exit(err->code);
}
