/* toppaper.h - lines of a frame (cmd/topframe.h): cells of a width, cut and filled, with nothing in them that a terminal would obey. */
#ifndef FZ_CMD_TOPPAPER_H
#define FZ_CMD_TOPPAPER_H

#include "cmd/topframe.h"

struct cmd_toppaper {
	struct fz_buf *out;
	int width;     /* columns of a line */
	int used;      /* of this line */
	int lines;     /* ended so far */
	int max_lines; /* further ones are dropped; 0 = no limit */
	bool utf8;
	int rc; /* -ENOMEM once */
};

/* Text in so many columns (at most what the line has left), then one column of space when there is one. Negative: to the right
 * end of its columns. 0: as wide as it is. */
void cmd_toppaper_cell(struct cmd_toppaper *p, enum cmd_topstyle style, int columns, const char *text);
void cmd_toppaper_cellf(struct cmd_toppaper *p, enum cmd_topstyle style, int columns, const char *fmt, ...)
        FZ_PRINTF(4, 5);
/* The newest samples, the highest of them as high as a line. */
void cmd_toppaper_spark(struct cmd_toppaper *p, enum cmd_topstyle style, int columns, const struct cmd_topseries *s);
/* Ends the line; fill: with this style to its end. */
void cmd_toppaper_end(struct cmd_toppaper *p, bool fill);
/* Columns that text takes. */
int cmd_toppaper_width(const struct cmd_toppaper *p, const char *text);

#define CMD_TOP_NUMBER 24
const char *cmd_top_bytes(char out[static CMD_TOP_NUMBER], double bytes); /* "1.5M" */
const char *cmd_top_time(char out[static CMD_TOP_NUMBER], double ms);     /* "0", "850ms", "12s", "4m10s" */
const char *cmd_top_count(char out[static CMD_TOP_NUMBER], double n);     /* "0", "0.4", "12", "3456", "1.2M" */

#endif
