/* quote.h - names, which may have any byte but NUL and '/', as they go to people: as words of a command to copy, and as text for a terminal. */
#ifndef FZ_CMD_QUOTE_H
#define FZ_CMD_QUOTE_H

#include "base/buf.h"

#include <stdio.h>

struct cJSON;

/* Those with b append to it. Without memory the end is missing: a text that lacks its end is no reason to fail. */

/* One word for a shell, quoted where it would take it apart ("" adds nothing). With control characters, or bytes that are no character, it is $'...\011...', as bash, zsh
 * and POSIX 2024 have it: a terminal shows it, and what is copied there is the same name. */
void cmd_quote_word(struct fz_buf *b, const char *word);
/* Such a word, printed. */
void cmd_quote_print(FILE *to, const char *word);
/* As it is; control characters, and bytes that are no character of UTF-8, as \033. */
void cmd_quote_text(struct fz_buf *b, const char *text);
/* Such a text, printed between two that are ours. */
void cmd_quote_show(FILE *to, const char *before, const char *text, const char *after);
/* printf() for people: what comes out is such a text, but for line feeds and tabs, which are the format's. */
void cmd_print(const char *format, ...) FZ_PRINTF(1, 2);
/* Every string of o, before it is printed for people. */
void cmd_quote_all(struct cJSON *o);
/* JSON as cJSON prints it, made UTF-8: a byte that is no character as \\xNN, DEL and U+0080 to U+009F as \u00NN. */
void cmd_quote_json(struct fz_buf *b, const char *json);
/* The name that cmd_quote_json() tells so: with each \\xNN the byte that it is. To be freed; NULL: no memory. */
char *cmd_quote_told(const char *told);

#endif
