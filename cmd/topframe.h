/* topframe.h - one picture of `fazt top` as text: the same for a terminal (cmd/topscreen.h), a pipe and a test.
 *
 * A frame is lines of text, each ended by '\n'. A byte 1..7 (enum cmd_topstyle) says how what follows it looks. Whatever comes from outside
 * (names, errors) is shown without its control characters, so no other byte below ' ' occurs. */
#ifndef FZ_CMD_TOPFRAME_H
#define FZ_CMD_TOPFRAME_H

#include "base/buf.h"
#include "cmd/topmodel.h"

enum cmd_topstyle {
	CMD_TOP_PLAIN = 1,
	CMD_TOP_BOLD,
	CMD_TOP_DIM,
	CMD_TOP_GOOD,
	CMD_TOP_WARN,
	CMD_TOP_ALARM,
	CMD_TOP_BAR, /* the line at the foot, titles of columns */
};
enum cmd_toppage { CMD_TOP_MAIN, CMD_TOP_PEERS, CMD_TOP_PROBLEMS, CMD_TOP_HELP };

/* What the user has chosen. */
struct cmd_topview {
	enum cmd_toppage page;
	enum cmd_topsort sort;
	bool reverse, paused;
	bool typing; /* the filter */
	char filter[128];
	size_t first;        /* the first line of the list that is shown; corrected when it is too far */
	size_t page_size;    /* set: how many lines of it there are, */
	size_t total;        /* and how many there could be */
	int width, height;   /* of the terminal; height 0 = as many lines as it takes, no line at the foot */
	bool utf8;           /* the locale's characters are UTF-8 */
	int64_t now_ms;      /* the time that is shown; 0 = none */
	const char *trouble; /* why the last answer is old; NULL or borrowed */
};

/* Appends a frame. m->status may be NULL: then it says that it waits. */
int cmd_topframe_draw(const struct cmd_topmodel *m, struct cmd_topview *v, struct fz_buf *out,
                      struct fz_err *err) FZ_MUST_CHECK;

#endif
