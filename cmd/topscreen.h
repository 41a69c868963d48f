/* topscreen.h - the terminal of `fazt top`: shows frames (cmd/topframe.h), reads keys, and leaves the terminal as it was. ncurses
 * stays in topscreen.c. One at a time, main thread only. */
#ifndef FZ_CMD_TOPSCREEN_H
#define FZ_CMD_TOPSCREEN_H

#include "base/err.h"

#include <stdbool.h>

/* What cmd_topscreen_key() gives beside characters. */
enum cmd_topkey {
	CMD_TOP_KEY_NONE = -1,
	CMD_TOP_KEY_UP = 0x1000,
	CMD_TOP_KEY_DOWN,
	CMD_TOP_KEY_PAGE_UP,
	CMD_TOP_KEY_PAGE_DOWN,
	CMD_TOP_KEY_HOME,
	CMD_TOP_KEY_END,
	CMD_TOP_KEY_BACKSPACE,
	CMD_TOP_KEY_RESIZE,
	CMD_TOP_KEY_OTHER
};

/* Takes the terminal over. -FZ_EUSAGE: there is none, or it cannot place the cursor; the terminal is as it was then. Colours unless
 * NO_COLOR is set and not empty, or the terminal has none. */
int cmd_topscreen_open(struct fz_err *err) FZ_MUST_CHECK;
void cmd_topscreen_size(int *width, int *height);
void cmd_topscreen_show(const char *frame);
/* A key that was pressed, without waiting. */
int cmd_topscreen_key(void);
/* The terminal is as it was. Fine when it was not opened. */
void cmd_topscreen_close(void);

#endif
