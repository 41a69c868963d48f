/* doctor.h - the parts of `fazt doctor`: each looks at one side of a host or a mount and adds findings (cmd/finding.h). None fails: what
 * cannot be looked at is a finding too, or nothing. */
#ifndef FZ_CMD_DOCTOR_H
#define FZ_CMD_DOCTOR_H

#include "cmd/config.h"
#include "cmd/finding.h"
#include "cmd/probe.h"
#include "cmd/where.h"

struct cJSON;

struct cmd_doctor {
	struct cJSON *findings;
	bool no_probe; /* nothing is written into stores */
	struct cmd_probe_kernel kernel;
	/* of the mount at hand */
	struct cmd_where w;
	struct cmd_conf conf; /* in effect */
	struct cJSON *status; /* `fazt status --json`; NULL: no answer */
	int statefd;          /* -1 */
	char state[PATH_MAX]; /* as an application would name it */
};
/* Kernel and clock. dir: passthrough is tried with a file of its filesystem; NULL = none. */
void cmd_doctor_host(struct cmd_doctor *d, const char *dir);
/* What the worker says about itself and its databases. */
void cmd_doctor_mount(struct cmd_doctor *d);
/* State directory, keys, configuration file, unit, and who goes around the mount. */
void cmd_doctor_files(struct cmd_doctor *d);
void cmd_doctor_around(struct cmd_doctor *d);
/* Some target of systemd wants the unit. */
bool cmd_doctor_enabled(const char *unit);
/* Stores: tried, unless no_probe; and what other mounts (n) of this host ship there. */
void cmd_doctor_targets(struct cmd_doctor *d, const struct cmd_where *others, size_t n);

/* Fields of a status; "" and 0 when they are missing. */
const char *cmd_doctor_text(const struct cJSON *o, const char *key);
double cmd_doctor_number(const struct cJSON *o, const char *key);

#endif
