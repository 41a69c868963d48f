/* ask.h - a command's question to the worker of a mount, from the argument DIR to the answer. */
#ifndef FZ_CMD_ASK_H
#define FZ_CMD_ASK_H

#include "cmd/where.h"

struct cJSON;
struct cmd_control_listener;

/* Finds the mount and asks. request is consumed. *w is filled as far as it came. The caller deletes *answer. */
int cmd_ask(const char *dir, struct cJSON *request, int64_t timeout_ms, struct cmd_where *w, struct cJSON **answer,
            struct fz_err *err) FZ_MUST_CHECK;
/* The same; l, NULL = none: is told how far it is. */
int cmd_ask_following(const char *dir, struct cJSON *request, int64_t timeout_ms, struct cmd_control_listener *l,
                      struct cmd_where *w, struct cJSON **answer, struct fz_err *err) FZ_MUST_CHECK;
/* As cmd_ask() (cmd/promote.c), and then waits until the worker says that role: after a change of roles another worker answers. */
int cmd_change_role(const char *dir, struct cJSON *request, int64_t timeout_ms, const char *role, struct cmd_where *w,
                    struct cJSON **answer, struct fz_err *err) FZ_MUST_CHECK;
/* {"cmd": cmd} */
struct cJSON *cmd_request(const char *cmd);
/* --timeout: seconds or a duration; NULL gives otherwise_ms. */
int cmd_timeout(const char *text, int64_t otherwise_ms, int64_t *ms, struct fz_err *err) FZ_MUST_CHECK;
/* What an answer says there: "" and 0 where it says nothing of that type. */
const char *cmd_text(const struct cJSON *o, const char *key);
double cmd_number(const struct cJSON *o, const char *key);
/* An object as JSON, whatever bytes the names in it have (cmd_quote_json): heap, or NULL without memory. */
char *cmd_json(const struct cJSON *o, bool indented);
/* Prints it, indented, with a line end. */
void cmd_print_json(const struct cJSON *o);

#endif
