/* quote.h - names, which may have any byte but NUL and '/', as they go to people: as words of a command to copy, and as text for a terminal. */
#ifndef FZ_CMD_QUOTE_H
#define FZ_CMD_QUOTE_H

#include "base/buf.h"

#include <stdio.h>

/* Those with b append to it. Without memory the end is missing: a text that lacks its end is no reason to fail. */

/* One word for a shell, quoted where it would take it apart ("" adds nothing). With control characters it is $'...\011...', as bash, zsh
 * and POSIX 2024 have it: a terminal shows it, and what is copied there is the same name. */
void cmd_quote_word(struct fz_buf *b, const char *word);
/* Such a word, printed. */
void cmd_quote_print(FILE *to, const char *word);
/* As it is, control characters as \033. */
void cmd_quote_text(struct fz_buf *b, const char *text);

#endif
