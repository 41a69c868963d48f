/* lint.h - everything that is wrong with a configuration file, not only the first thing, each with its line; and what is allowed but hardly
 * meant. For `fazt config check` and `fazt doctor`. */
#ifndef FZ_CMD_LINT_H
#define FZ_CMD_LINT_H

#include "cmd/config.h"

struct cJSON;

/* Reads the file and adds FAZT_* of env (NULL = none), as far as it can be read. errors and warnings (arrays) get {line, text}: line 0 = of no
 * line; text begins with FILE:LINE. c is initialised here and is the caller's to finish in any case; it is the configuration in effect when no
 * error was found. Fails only where the file cannot be read at all (-FZ_ECONFIG). */
int cmd_lint(struct cmd_conf *c, const char *file, char *const *env, struct cJSON *errors, struct cJSON *warnings,
             struct fz_err *err) FZ_MUST_CHECK;
/* What cmd/lint_sense.c finds: settings that contradict each other, have no effect, or are dangerous. text: the file's. */
void cmd_lint_sense(const struct cmd_conf *c, const char *file, const char *text, struct cJSON *warnings);
/* The line of a key in the file's text, or 0; section as in the file: "mount", "target NAME" (NULL = any). */
int cmd_lint_line(const char *text, const char *section, const char *key);

#endif
