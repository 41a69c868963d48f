#define NCURSES_NOMACROS
#include "cmd/topscreen.h"

#include "cmd/topframe.h"

#include <curses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <term.h>
#include <unistd.h>

static SCREEN *screen;
static bool colours;

static const short palette[] = {
        [CMD_TOP_GOOD] = COLOR_GREEN,
        [CMD_TOP_WARN] = COLOR_YELLOW,
        [CMD_TOP_ALARM] = COLOR_RED,
};

/* What newterm() would say on its own and then exit. */
static int check_terminal(struct fz_err *err)
{
	const char *name = getenv("TERM");
	const char *cup;
	bool places;
	int status = 0;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return fz_fail(err, FZ_EUSAGE, "this is no terminal: `fazt top --once` prints one frame");
	if (!name || !*name || setupterm(name, STDOUT_FILENO, &status) != OK || status != 1)
		return fz_fail(err, FZ_EUSAGE,
		               "the terminal type '%.40s' (TERM) is unknown: set TERM, or take `fazt top --once`",
		               name ? name : "");
	cup = tigetstr("cup");
	places = cup && cup != (const char *)-1;
	del_curterm(cur_term); /* newterm() makes one of its own, and frees no other */
	if (!places)
		return fz_fail(err, FZ_EUSAGE,
		               "a terminal of type '%.40s' (TERM) cannot place the cursor: take `fazt top --once`",
		               name);
	return 0;
}

int cmd_topscreen_open(struct fz_err *err)
{
	const char *plain = getenv("NO_COLOR");
	int rc = check_terminal(err);

	if (rc < 0)
		return rc;
	screen = newterm(NULL, stdout, stdin);
	if (!screen)
		return fz_fail(err, FZ_EUSAGE, "the terminal cannot be used: take `fazt top --once`");
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, true);
	nodelay(stdscr, true);
	leaveok(stdscr, true);
	set_escdelay(25);
	curs_set(0);
	colours = !(plain && *plain) && has_colors() && start_color() == OK && use_default_colors() == OK;
	for (short i = CMD_TOP_GOOD; colours && i <= CMD_TOP_ALARM; i++)
		init_pair(i, palette[i], -1);
	return 0;
}

void cmd_topscreen_size(int *width, int *height)
{
	*width = getmaxx(stdscr);
	*height = getmaxy(stdscr);
}

static attr_t look(char style)
{
	attr_t colour = colours ? (attr_t)COLOR_PAIR(style) : 0;

	switch (style) {
	case CMD_TOP_BOLD:
		return A_BOLD;
	case CMD_TOP_DIM:
		return A_DIM;
	case CMD_TOP_GOOD:
		return colour;
	case CMD_TOP_WARN:
		return colour ? colour : A_BOLD;
	case CMD_TOP_ALARM:
		return colour | A_BOLD;
	case CMD_TOP_BAR:
		return A_REVERSE;
	default:
		return A_NORMAL;
	}
}

void cmd_topscreen_show(const char *frame)
{
	erase();
	for (int row = 0; *frame; row++) {
		const char *end = strchr(frame, '\n');

		end = end ? end : frame + strlen(frame);
		move(row, 0);
		while (frame < end) {
			const char *next = frame;

			while (next < end && ((unsigned char)*next >= ' '))
				next++;
			addnstr(frame, (int)(next - frame));
			if (next < end)
				attrset((int)look(*next++));
			frame = next;
		}
		frame = *end ? end + 1 : end;
	}
	refresh();
}

int cmd_topscreen_key(void)
{
	int c = getch();

	switch (c) {
	case ERR:
		return CMD_TOP_KEY_NONE;
	case KEY_UP:
		return CMD_TOP_KEY_UP;
	case KEY_DOWN:
		return CMD_TOP_KEY_DOWN;
	case KEY_PPAGE:
		return CMD_TOP_KEY_PAGE_UP;
	case KEY_NPAGE:
		return CMD_TOP_KEY_PAGE_DOWN;
	case KEY_HOME:
		return CMD_TOP_KEY_HOME;
	case KEY_END:
		return CMD_TOP_KEY_END;
	case KEY_BACKSPACE:
	case 127:
	case 8:
		return CMD_TOP_KEY_BACKSPACE;
	case KEY_RESIZE:
		return CMD_TOP_KEY_RESIZE;
	default:
		return c < 0 || c > 255 ? CMD_TOP_KEY_OTHER : c;
	}
}

void cmd_topscreen_close(void)
{
	if (!screen)
		return;
	endwin();
	delscreen(screen);
	screen = NULL;
}
