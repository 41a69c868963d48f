/* prompt.h - questions at a terminal. Nothing is asked where there is none. */
#ifndef FZ_CMD_PROMPT_H
#define FZ_CMD_PROMPT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* Standard input and output are both a terminal. */
bool cmd_prompt_possible(void);
/* One line without its end; empty: otherwise ("" or NULL = stays empty). -ECANCELED at the end of the input, -FZ_EUSAGE when it is too long. */
int cmd_prompt(const char *question, const char *otherwise, char *out, size_t cap, struct fz_err *err) FZ_MUST_CHECK;
/* The same without echo; the terminal is set right again whatever happens, SIGINT included. Wipe out. */
int cmd_prompt_secret(const char *question, char *out, size_t cap, struct fz_err *err) FZ_MUST_CHECK;
/* yes or no; an empty line is otherwise. */
int cmd_prompt_yes(const char *question, bool otherwise, bool *yes, struct fz_err *err) FZ_MUST_CHECK;

#endif
