/* finding.h - what `fazt doctor` can find: one table with code, gravity, reason and remedy. The number is stable: users see it as "FZD-24",
 * and docs/errors.md lists each (tests/unit/test_cmd_finding.c compares). */
#ifndef FZ_CMD_FINDING_H
#define FZ_CMD_FINDING_H

#include "base/err.h"

struct cJSON;

enum cmd_gravity {
	CMD_NOTE,    /* good to know */
	CMD_WARNING, /* it works, and will hurt one day */
	CMD_PROBLEM  /* something does not work, or is lost when the next thing fails */
};
/* X(name, number, gravity, reason, command). In a command $DIR stands for the mount and $ARG for what the finding names, each as one word;
 * $COMMAND is what it names as it is. */
#define CMD_FINDINGS(X)                                                                                                \
	X(FZD_NOT_ROOT, 1, CMD_NOTE, "what belongs to root cannot be looked at by others", "sudo fazt doctor $DIR")    \
	X(FZD_NO_FUSE, 2, CMD_PROBLEM, "fazt serves through /dev/fuse",                                                \
	  "modprobe fuse    # in a container: --device /dev/fuse --cap-add SYS_ADMIN")                                 \
	X(FZD_NO_MOUNT, 3, CMD_PROBLEM, "mounting needs CAP_SYS_ADMIN",                                                \
	  "sudo fazt doctor $DIR    # in a container: --cap-add SYS_ADMIN")                                            \
	X(FZD_NO_PASSTHROUGH, 4, CMD_NOTE,                                                                             \
	  "Linux 6.9 has FUSE passthrough; without it all works, but writes take several times as long",               \
	  "apt install linux-image-amd64    # Debian 12: from backports")                                              \
	X(FZD_PASSTHROUGH_UNUSED, 5, CMD_WARNING,                                                                      \
	  "the kernel has passthrough but this mount cannot use it, so writes take several times as long",             \
	  "findmnt -T $DIR; fazt config check    # an overlay, no CAP_SYS_ADMIN, or no_passthrough")                   \
	X(FZD_NO_RESEND, 6, CMD_NOTE,                                                                                  \
	  "Linux 6.9 has it; without it answers are kept in memory until they have arrived, which costs a little",     \
	  "apt install linux-image-amd64    # Debian 12: from backports")                                              \
	X(FZD_FILESYSTEM, 7, CMD_PROBLEM,                                                                              \
	  "a log that is gone after a reboot, or a filesystem without real locks and fsync, keeps no promise",         \
	  "fazt mount --state /var/lib/fazt/NAME $DIR")                                                                \
	X(FZD_NOT_MOUNTED, 10, CMD_PROBLEM, "nothing is captured", "$COMMAND")                                         \
	X(FZD_DEAD, 11, CMD_PROBLEM,                                                                                   \
	  "supervisor and worker are gone, so every access fails; nothing committed is lost",                          \
	  "fazt umount $DIR && fazt doctor $DIR    # which tells how it was mounted")                                  \
	X(FZD_NO_ANSWER, 12, CMD_PROBLEM, "the worker serves no requests, or is being replaced again and again",       \
	  "tail -n 50 $ARG/fazt.log")                                                                                  \
	X(FZD_NO_SUPERVISOR, 13, CMD_PROBLEM, "nobody replaces the worker should it die",                              \
	  "fazt mount $DIR    # the next one goes on with what serves, and applications notice nothing")               \
	X(FZD_RESTARTS, 14, CMD_NOTE,                                                                                  \
	  "a worker that dies is replaced within milliseconds, but it should not die (an upgrade or a reload counts "  \
	  "too)",                                                                                                      \
	  "grep -E 'worker ended|upgrade|restart' $ARG/fazt.log")                                                      \
	X(FZD_AROUND, 15, CMD_PROBLEM,                                                                                 \
	  "what is written around the mount is captured late, as one difference, and its locks are not seen",          \
	  "kill $ARG    # and start it again, on $DIR")                                                                \
	X(FZD_NOT_ENABLED, 16, CMD_WARNING, "after a reboot the application would run without its mount",              \
	  "systemctl enable $ARG")                                                                                     \
	X(FZD_STATUS, 17, CMD_PROBLEM, "the worker reports it", "fazt status $DIR")                                    \
	X(FZD_NO_USER, 18, CMD_NOTE, "workers are root to all that is no file, where they could be nobody",            \
	  "useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin fazt    # for "       \
	  "workers that "                                                                                              \
	  "start from now on: fazt upgrade DIR")                                                                       \
	X(FZD_CONFIG, 20, CMD_PROBLEM, "the next mount or reload would refuse it", "fazt config check $ARG")           \
	X(FZD_CONFIG_SENSE, 21, CMD_NOTE, "it is allowed, and hardly meant", "fazt config check $ARG")                 \
	X(FZD_CONFIG_STALE, 22, CMD_WARNING, "the mount runs with what it was given before", "fazt reload $DIR")       \
	X(FZD_KEY_MODE, 23, CMD_PROBLEM, "whoever reads it can read the backups, or be this host", "chmod 600 $ARG")   \
	X(FZD_IDENTITY_HERE, 24, CMD_WARNING,                                                                          \
	  "with this machine the key is lost too, and whoever breaks in can read every backup",                        \
	  "fazt init --export /media/usb/fazt.key --remove $ARG")                                                      \
	X(FZD_STATE_MODE, 30, CMD_PROBLEM, "log and keys are root's alone", "chmod 700 $ARG")                          \
	X(FZD_SPACE, 31, CMD_PROBLEM,                                                                                  \
	  "when the disk is full, commits fail as they would without fazt, and umount waits for room",                 \
	  "du -xsh $ARG; df -h $ARG")                                                                                  \
	X(FZD_LOG_FULL, 32, CMD_WARNING, "at log_max older commits are merged: ranges remain, single commits do not",  \
	  "fazt status $DIR    # bring the target back, or raise log_max and fazt reload $DIR")                        \
	X(FZD_MERGED, 33, CMD_NOTE, "they can be restored as a range only", "fazt log $DIR/$ARG")                      \
	X(FZD_WAL, 34, CMD_WARNING, "it is not checkpointed: a reader that never ends, or wal_autocheckpoint=0",       \
	  "sqlite3 $DIR/$ARG 'PRAGMA wal_checkpoint(TRUNCATE)'")                                                       \
	X(FZD_JOURNAL, 35, CMD_NOTE,                                                                                   \
	  "in rollback mode each commit costs several fsyncs, and some of its settings give up detail",                \
	  "sqlite3 $DIR/$ARG 'PRAGMA journal_mode=WAL'    # it stays so")                                              \
	X(FZD_EXCLUSIVE, 36, CMD_WARNING,                                                                              \
	  "locking_mode=EXCLUSIVE keeps the wal-index in the application, so commits in quick succession may merge",   \
	  "lsof $DIR/$ARG    # remove PRAGMA locking_mode=EXCLUSIVE there")                                            \
	X(FZD_CAPTURE, 37, CMD_PROBLEM, "its commits do not reach the log", "fazt verify --live $DIR")                 \
	X(FZD_SCRUB, 38, CMD_WARNING, "somebody wrote around the mount, or a defect: the difference was captured",     \
	  "fazt verify --live $DIR")                                                                                   \
	X(FZD_TARGET, 40, CMD_PROBLEM, "what a target needs was tried there",                                          \
	  "fazt doctor $DIR    # once it is mended")                                                                   \
	X(FZD_CONDITIONAL, 41, CMD_NOTE, "claims are made good by reading back, which is slower and needs a clock",    \
	  "fazt status --json $DIR | jq '.targets[].conditional_put'")                                                 \
	X(FZD_LAG, 42, CMD_PROBLEM, "what is not shipped is lost with this machine", "fazt status $DIR")               \
	X(FZD_FENCED, 43, CMD_PROBLEM, "another writer has claimed the databases: this one ships no more",             \
	  "fazt umount $DIR && $COMMAND    # and with --take-over, if this host is right")                             \
	X(FZD_SHARED, 44, CMD_PROBLEM, "databases of the same name would meet in one place and fence each other",      \
	  "fazt status --json $ARG | jq '.targets[].url'    # give one of them a prefix of its own, and fazt reload")  \
	X(FZD_SAME_DISK, 45, CMD_WARNING, "the backup is lost together with what it backs up", "findmnt -T $ARG")      \
	X(FZD_NO_TARGET, 46, CMD_WARNING, "commits stay in the local log, on the same disk",                           \
	  "fazt reload $DIR    # with a [target NAME] in the configuration: man 5 fazt.conf")                          \
	X(FZD_NO_LEASE, 47, CMD_PROBLEM, "failover = auto needs conditional replacement", "fazt config check")         \
	X(FZD_PLAIN, 48, CMD_WARNING, "whoever reads the store reads the databases",                                   \
	  "fazt keygen -o app.key    # on another machine; then recipients")                                           \
	X(FZD_CLOCK, 50, CMD_WARNING,                                                                                  \
	  "--at is as good as this clock, and S3 refuses requests that are 15 minutes off",                            \
	  "timedatectl set-ntp true")                                                                                  \
	X(FZD_NTP, 51, CMD_NOTE, "--at is as good as this clock", "timedatectl set-ntp true")                          \
	X(FZD_TUNE, 60, CMD_NOTE, "settings of the kernel that matter for this host", "fazt tune $DIR")

enum cmd_fzd {
#define X(name, number, gravity, reason, command) name = number,
	CMD_FINDINGS(X)
#undef X
};

/* Appends {code, gravity, where, what, why, command} to list. where: the mount, or "" for the host; arg: for $ARG, may be NULL. */
void cmd_find(struct cJSON *list, enum cmd_fzd code, const char *where, const char *arg, const char *fmt, ...)
        FZ_PRINTF(5, 6);
/* How many of that gravity. */
int cmd_findings(const struct cJSON *list, enum cmd_gravity g);
/* Every entry, for tests. */
void cmd_finding_each(void (*fn)(int number, const char *name, const char *reason, const char *command));

#endif
