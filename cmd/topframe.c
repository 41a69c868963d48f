#include "cmd/topframe.h"

#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/toppaper.h"

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NARROW    60 /* columns: below that a table has its most important columns alone */
#define NUMBER    9  /* columns of a number */
#define SPARK_MIN 8
#define LAG_MS    5000 /* more is shown in another colour */

static enum cmd_topstyle style_of(enum cmd_toplevel level)
{
	return level == CMD_TOP_BAD ? CMD_TOP_ALARM : level == CMD_TOP_NOTE ? CMD_TOP_WARN : CMD_TOP_GOOD;
}

/* ---- what stands above the lists -------------------------------------------------------------------------------- */

static void draw_head(const struct cmd_topmodel *m, const struct cmd_topview *v, struct cmd_toppaper *p)
{
	const cJSON *s = m->status, *lease = cJSON_GetObjectItem(s, "lease");
	int problems = cJSON_GetArraySize(cJSON_GetObjectItem(s, "problems"));
	char when[FZ_TIME_SIZE] = "", n[CMD_TOP_NUMBER], b[CMD_TOP_NUMBER];
	int columns;

	if (v->now_ms) {
		fz_format_time(when, v->now_ms);
		memmove(when, when + 11, 8); /* the time of day, UTC */
		memcpy(when + 8, "Z", 2);
	}
	columns = cmd_toppaper_width(p, cmd_text(s, "dir"));
	if (columns > p->width - 48)
		columns = p->width > 60 ? p->width - 48 : p->width / 3;
	cmd_toppaper_cell(p, CMD_TOP_BOLD, 0, "fazt");
	cmd_toppaper_cell(p, CMD_TOP_BOLD, columns, cmd_text(s, "dir"));
	cmd_toppaper_cellf(p, CMD_TOP_PLAIN, 0, "%s, epoch %.0f", cmd_text(s, "role"), cmd_number(s, "epoch"));
	if (problems)
		cmd_toppaper_cellf(p, CMD_TOP_ALARM, 0, "%d problem%s", problems, problems == 1 ? "" : "s");
	else
		cmd_toppaper_cell(p, CMD_TOP_GOOD, 0, "all well");
	if (v->paused)
		cmd_toppaper_cell(p, CMD_TOP_WARN, 0, "paused");
	if (p->width - p->used >= 9)
		cmd_toppaper_cell(p, CMD_TOP_DIM, -(p->width - p->used), when);
	cmd_toppaper_end(p, false);

	cmd_toppaper_cellf(p, CMD_TOP_PLAIN, 0, "%zu database%s, %s commits/s", m->n_dbs, m->n_dbs == 1 ? "" : "s",
	                   cmd_top_count(n, m->commits));
	if (p->width >= NARROW)
		cmd_toppaper_spark(p, CMD_TOP_GOOD, p->width >= 100 ? 30 : 12, &m->history);
	cmd_toppaper_cellf(p, CMD_TOP_PLAIN, 0, "%sB/s", cmd_top_bytes(b, m->bytes));
	cmd_toppaper_cellf(p, cmd_number(s, "restarts") > 0 ? CMD_TOP_WARN : CMD_TOP_DIM, 0, "restarts %.0f",
	                   cmd_number(s, "restarts"));
	if (!cJSON_IsTrue(cJSON_GetObjectItem(s, "passthrough")))
		cmd_toppaper_cell(p, CMD_TOP_WARN, 0, "no passthrough");
	if (lease)
		cmd_toppaper_cellf(p, CMD_TOP_PLAIN, 0, "lease %s, %s left", cmd_text(lease, "state"),
		                   cmd_top_time(n, cmd_number(lease, "remaining_ms")));
	cmd_toppaper_end(p, false);
}

static void draw_trouble(const struct cmd_topview *v, struct cmd_toppaper *p)
{
	if (!v->trouble)
		return;
	cmd_toppaper_cell(p, CMD_TOP_ALARM, p->width, v->trouble);
	cmd_toppaper_end(p, false);
}

/* A long sentence on as many lines as it needs, broken between words where that can be. */
static void draw_sentence(struct cmd_toppaper *p, enum cmd_topstyle style, const char *text)
{
	char line[1024];

	do {
		size_t n = 0, space = 0;

		for (; text[n] && n + 1 < sizeof(line); n++) {
			line[n] = text[n];
			line[n + 1] = 0;
			if (((unsigned char)text[n + 1] & 0xc0) != 0x80 && cmd_toppaper_width(p, line) > p->width)
				break;
			if (text[n] == ' ')
				space = n;
		}
		if (text[n] && space > 0)
			n = space;
		while (text[n] && n > 1 && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
		n = n ? n : 1;
		line[n < sizeof(line) ? n : sizeof(line) - 1] = 0;
		cmd_toppaper_cell(p, style, p->width, line);
		cmd_toppaper_end(p, false);
		text += n;
		while (*text == ' ')
			text++;
	} while (*text);
}

/* ---- targets, replicas, the primary ----------------------------------------------------------------------------- */

static void draw_peer_titles(struct cmd_toppaper *p, int name)
{
	cmd_toppaper_cell(p, CMD_TOP_BAR, name, "SHIPS TO, FOLLOWS");
	cmd_toppaper_cell(p, CMD_TOP_BAR, 7, "KIND");
	cmd_toppaper_cell(p, CMD_TOP_BAR, NUMBER, "STATE");
	cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "LAG");
	if (p->width >= NARROW)
		cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "COMMITS");
	if (p->width >= 80)
		cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "BYTES");
	cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "FLOW/s");
	if (p->width >= 100)
		cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "REQ/s");
	cmd_toppaper_end(p, true);
}

static void draw_peer(const struct cmd_toppeer *x, struct cmd_toppaper *p, int name)
{
	enum cmd_topstyle lag = x->lag_ms > LAG_MS ? CMD_TOP_WARN : CMD_TOP_PLAIN;
	char n[CMD_TOP_NUMBER];

	cmd_toppaper_cell(p, CMD_TOP_PLAIN, name, x->name);
	cmd_toppaper_cell(p, CMD_TOP_DIM, 7, x->kind);
	cmd_toppaper_cell(p, style_of(x->level), NUMBER, x->state);
	cmd_toppaper_cell(p, lag, -NUMBER, x->lag_ms < 0 ? "?" : cmd_top_time(n, x->lag_ms));
	if (p->width >= NARROW)
		cmd_toppaper_cellf(p, lag, -NUMBER, "%.0f", x->behind);
	if (p->width >= 80)
		cmd_toppaper_cell(p, lag, -NUMBER, cmd_top_bytes(n, x->lag_bytes));
	cmd_toppaper_cell(p, CMD_TOP_PLAIN, -NUMBER, cmd_top_bytes(n, x->bytes));
	if (p->width >= 100)
		cmd_toppaper_cell(p, CMD_TOP_PLAIN, -NUMBER, cmd_top_count(n, x->requests));
	cmd_toppaper_end(p, false);
	if (*x->error) {
		cmd_toppaper_cellf(p, x->level == CMD_TOP_BAD ? CMD_TOP_ALARM : CMD_TOP_WARN, p->width, "  %s",
		                   x->error);
		cmd_toppaper_end(p, false);
	}
}

static int peer_name_columns(const struct cmd_toppaper *p)
{
	int rest = 7 +
	           NUMBER * (p->width >= 100      ? 6
	                     : p->width >= 80     ? 5
	                     : p->width >= NARROW ? 4
	                                          : 3) +
	           (p->width >= 100      ? 7
	            : p->width >= 80     ? 6
	            : p->width >= NARROW ? 5
	                                 : 4);

	return p->width - rest > 8 ? p->width - rest : 8;
}

/* From the first one on, as many as fit into so many lines (0 = all); the last line says what is left. */
static void draw_peers(const struct cmd_topmodel *m, struct cmd_toppaper *p, size_t first, int lines)
{
	int name = peer_name_columns(p), end = p->lines + lines;

	if (m->n_peers == 0)
		return;
	draw_peer_titles(p, name);
	for (size_t i = first; i < m->n_peers; i++) {
		int need = (*m->peers[i].error ? 2 : 1) + (i + 1 < m->n_peers ? 1 : 0);

		if (lines && p->lines + need > end) {
			cmd_toppaper_cellf(p, CMD_TOP_DIM, p->width, "  and %zu more: t", m->n_peers - i);
			cmd_toppaper_end(p, false);
			return;
		}
		draw_peer(&m->peers[i], p, name);
	}
}

/* ---- databases -------------------------------------------------------------------------------------------------- */

struct columns {
	int name, spark;
	bool txid, size, log, mode, behind, state;
};

static struct columns lay_out(int width)
{
	struct columns c = {.txid = width >= NARROW,
	                    .state = width >= 50,
	                    .size = width >= 80,
	                    .behind = width >= 100,
	                    .mode = width >= 110,
	                    .log = width >= 120};
	int rest = 2 * (NUMBER + 1) + c.state * (NUMBER + 1);

	rest += (NUMBER + 1) * (c.txid + c.size + c.behind + c.mode + c.log);
	c.spark = width - rest - 24 - 1;
	c.spark = c.spark < SPARK_MIN ? 0 : c.spark > CMD_TOP_HISTORY ? CMD_TOP_HISTORY : c.spark;
	if (c.spark > 20) /* names may have more than their 24, too */
		c.spark = 20 + (c.spark - 20) / 2;
	c.name = width - rest - (c.spark ? c.spark + 1 : 0) - 1;
	c.name = c.name < 8 ? 8 : c.name;
	return c;
}

static void draw_db_titles(const struct columns *c, const struct cmd_topview *v, struct cmd_toppaper *p)
{
	const char *arrow = v->utf8 ? (v->reverse ? "▲" : "▼") : (v->reverse ? "^" : "v");
	enum cmd_topsort by = v->sort;

	cmd_toppaper_cellf(p, CMD_TOP_BAR, c->name, "DATABASE%s", by == CMD_TOP_BY_NAME ? arrow : "");
	cmd_toppaper_cellf(p, CMD_TOP_BAR, -NUMBER, "COMMIT/s%s", by == CMD_TOP_BY_RATE ? arrow : "");
	if (c->spark)
		cmd_toppaper_cell(p, CMD_TOP_BAR, c->spark, "");
	if (c->txid)
		cmd_toppaper_cellf(p, CMD_TOP_BAR, -NUMBER, "TXID%s", by == CMD_TOP_BY_TXID ? arrow : "");
	if (c->size)
		cmd_toppaper_cellf(p, CMD_TOP_BAR, -NUMBER, "SIZE%s", by == CMD_TOP_BY_SIZE ? arrow : "");
	if (c->log)
		cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "LOG");
	cmd_toppaper_cellf(p, CMD_TOP_BAR, -NUMBER, "LAG%s", by == CMD_TOP_BY_LAG ? arrow : "");
	if (c->behind)
		cmd_toppaper_cell(p, CMD_TOP_BAR, -NUMBER, "BEHIND");
	if (c->mode)
		cmd_toppaper_cell(p, CMD_TOP_BAR, NUMBER, "JOURNAL");
	if (c->state)
		cmd_toppaper_cell(p, CMD_TOP_BAR, NUMBER, "STATE");
	cmd_toppaper_end(p, true);
}

static void draw_db(const struct cmd_topdb *d, const struct columns *c, struct cmd_toppaper *p)
{
	enum cmd_topstyle lag = d->lag_ms > LAG_MS ? CMD_TOP_WARN : CMD_TOP_PLAIN;
	char n[CMD_TOP_NUMBER];

	cmd_toppaper_cell(p, !c->state && d->level != CMD_TOP_OK ? style_of(d->level) : CMD_TOP_PLAIN, c->name,
	                  d->name);
	cmd_toppaper_cell(p, d->commits > 0 ? CMD_TOP_BOLD : CMD_TOP_DIM, -NUMBER, cmd_top_count(n, d->commits));
	if (c->spark)
		cmd_toppaper_spark(p, d->commits > 0 ? CMD_TOP_GOOD : CMD_TOP_DIM, c->spark, &d->history);
	if (c->txid)
		cmd_toppaper_cellf(p, CMD_TOP_PLAIN, -NUMBER, "%.0f", d->txid);
	if (c->size)
		cmd_toppaper_cell(p, CMD_TOP_PLAIN, -NUMBER, cmd_top_bytes(n, d->size_bytes));
	if (c->log)
		cmd_toppaper_cell(p, CMD_TOP_PLAIN, -NUMBER, cmd_top_bytes(n, d->log_bytes));
	cmd_toppaper_cell(p, lag, -NUMBER, cmd_top_time(n, d->lag_ms));
	if (c->behind)
		cmd_toppaper_cellf(p, lag, -NUMBER, "%.0f", d->behind);
	if (c->mode)
		cmd_toppaper_cell(p, CMD_TOP_DIM, NUMBER, d->mode);
	if (c->state)
		cmd_toppaper_cell(p, style_of(d->level), NUMBER, d->state);
	cmd_toppaper_end(p, false);
}

/* How many lines there are for a list that begins here; the title's is not one of them. */
static size_t list_lines(struct cmd_topview *v, const struct cmd_toppaper *p, size_t n)
{
	int lines = v->height ? v->height - 1 - p->lines - 1 : (int)n;

	v->page_size = lines > 0 ? (size_t)lines : 0;
	v->total = n;
	if (v->first + v->page_size > n)
		v->first = n > v->page_size ? n - v->page_size : 0;
	return v->page_size;
}

static void draw_dbs(const struct cmd_topmodel *m, struct cmd_topview *v, struct cmd_toppaper *p)
{
	struct columns c = lay_out(p->width);
	size_t n, room, *order = cmd_topmodel_order(m, v->sort, v->reverse, v->filter, &n);

	room = list_lines(v, p, n);
	draw_db_titles(&c, v, p);
	for (size_t i = v->first; i < n && i < v->first + room; i++)
		draw_db(&m->dbs[order[i]], &c, p);
	if (n == 0 && m->n_dbs) {
		cmd_toppaper_cellf(p, CMD_TOP_DIM, p->width, "  no database's name contains '%s'", v->filter);
		cmd_toppaper_end(p, false);
	}
	free(order);
}

/* ---- problems and notes ----------------------------------------------------------------------------------------- */

static void draw_few_problems(const struct cmd_topmodel *m, struct cmd_toppaper *p, int lines)
{
	const cJSON *list = cJSON_GetObjectItem(m->status, "problems"), *o;
	int n = cJSON_GetArraySize(list), i = 0;

	cJSON_ArrayForEach (o, list) {
		if (lines && i + 1 == lines && n > lines) {
			cmd_toppaper_cellf(p, CMD_TOP_ALARM, p->width, "! and %d more: p", n - i);
			cmd_toppaper_end(p, false);
			break;
		}
		cmd_toppaper_cellf(p, CMD_TOP_ALARM, p->width, "! %s", cJSON_IsString(o) ? o->valuestring : "");
		cmd_toppaper_end(p, false);
		i++;
	}
}

static void draw_sentences(const cJSON *list, const char *none, enum cmd_topstyle style, struct cmd_toppaper *p,
                           size_t *skip)
{
	const cJSON *o;

	if (cJSON_GetArraySize(list) == 0) {
		cmd_toppaper_cell(p, CMD_TOP_DIM, 0, none);
		cmd_toppaper_end(p, false);
	}
	cJSON_ArrayForEach (o, list) {
		if (*skip)
			(*skip)--;
		else
			draw_sentence(p, style, cJSON_IsString(o) ? o->valuestring : "");
	}
}

static void draw_problems(const struct cmd_topmodel *m, struct cmd_topview *v, struct cmd_toppaper *p)
{
	const cJSON *problems = cJSON_GetObjectItem(m->status, "problems");
	const cJSON *notes = cJSON_GetObjectItem(m->status, "notes");
	size_t n = (size_t)cJSON_GetArraySize(problems) + (size_t)cJSON_GetArraySize(notes), skip;

	v->first = v->first < n ? v->first : n ? n - 1 : 0;
	v->page_size = 5;
	skip = v->first;
	cmd_toppaper_cell(p, CMD_TOP_BAR, 0, "PROBLEMS");
	cmd_toppaper_end(p, true);
	draw_sentences(problems, "none", CMD_TOP_ALARM, p, &skip);
	cmd_toppaper_end(p, false);
	cmd_toppaper_cell(p, CMD_TOP_BAR, 0, "NOTES");
	cmd_toppaper_end(p, true);
	draw_sentences(notes, "none", CMD_TOP_PLAIN, p, &skip);
}

/* ---- help, the foot, the whole ---------------------------------------------------------------------------------- */

static void draw_help(struct cmd_toppaper *p)
{
	static const char *const keys[][2] = {
	        {"q, Esc",      "quit; back"	                                            },
	        {"? or h",      "this help; any key leaves it"                                  },
	        {"arrows, j k", "scroll by a line; PgUp, PgDn: a page; Home, End: to either end"},
	        {"s, r",        "sort by the next column (of five); the other way round"        },
	        {"/",           "show databases whose name contains a text; Esc: all again"     },
	        {"t",           "targets, replicas, primary: all of them"                       },
	        {"p",           "problems and notes in full"                                    },
	        {"space",       "pause, and go on"	                                      },
	};
	static const char *const words[] = {
	        /* 80 columns and 24 lines hold all of it */
	        "COMMIT/s   mean of five seconds; bars: the last minute, highest = own maximum",
	        "LAG        since when the oldest commit waits for the target or replica that is",
	        "           furthest behind; BEHIND: commits that it lacks",
	        "FLOW/s     bytes that go there; beside the bars at the top: bytes captured",
	        "STATE      reading: all pages are being read; merged: some commits can be",
	        "           restored as a range only; differed: the scrub found and captured",
	        "           pages that differed; error: of the capture; target, replica: it",
	        "           cannot take its commits; apply: they cannot be applied here;",
	        "           diverged: a replica has others",
	};

	cmd_toppaper_cell(p, CMD_TOP_BAR, 0, "KEYS");
	cmd_toppaper_end(p, true);
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		cmd_toppaper_cell(p, CMD_TOP_BOLD, 12, keys[i][0]);
		cmd_toppaper_cell(p, CMD_TOP_PLAIN, p->width - p->used, keys[i][1]);
		cmd_toppaper_end(p, false);
	}
	cmd_toppaper_end(p, false);
	cmd_toppaper_cell(p, CMD_TOP_BAR, 0, "WORDS");
	cmd_toppaper_end(p, true);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		cmd_toppaper_cell(p, CMD_TOP_PLAIN, p->width, words[i]);
		cmd_toppaper_end(p, false);
	}
}

static void draw_foot(const struct cmd_topview *v, struct cmd_toppaper *p)
{
	if (v->typing || *v->filter)
		cmd_toppaper_cellf(p, CMD_TOP_BAR, 0, "filter: %s%s", v->filter, v->typing ? "_" : "");
	if (!v->typing)
		cmd_toppaper_cellf(p, CMD_TOP_BAR, 0,
		                   "q quit  ? help  s sort: %s  r reverse  / filter  t targets  p problems",
		                   cmd_topmodel_sort_name(v->sort));
	if (v->page == CMD_TOP_MAIN && v->page_size < v->total)
		cmd_toppaper_cellf(p, CMD_TOP_BAR, -(p->width - p->used), "%zu-%zu of %zu", v->first + 1,
		                   v->first + v->page_size, v->total);
	cmd_toppaper_end(p, true);
}

static void draw_page(const struct cmd_topmodel *m, struct cmd_topview *v, struct cmd_toppaper *p)
{
	switch (v->page) {
	case CMD_TOP_HELP:
		draw_help(p);
		break;
	case CMD_TOP_PROBLEMS:
		draw_problems(m, v, p);
		break;
	case CMD_TOP_PEERS:
		(void)list_lines(v, p, m->n_peers);
		draw_peers(m, p, v->first, 0);
		break;
	case CMD_TOP_MAIN:
		draw_few_problems(m, p, v->height ? 1 + v->height / 8 : 0);
		draw_peers(m, p, 0, v->height ? 2 + (v->height - p->lines) / 4 : 0);
		draw_dbs(m, v, p);
		break;
	}
}

int cmd_topframe_draw(const struct cmd_topmodel *m, struct cmd_topview *v, struct fz_buf *out, struct fz_err *err)
{
	struct cmd_toppaper p = {.out = out, .width = v->width, .utf8 = v->utf8};

	p.max_lines = v->height > 1 ? v->height - 1 : v->height;
	if (m->status) {
		draw_head(m, v, &p);
		draw_trouble(v, &p);
		draw_page(m, v, &p);
	} else {
		cmd_toppaper_cell(&p, CMD_TOP_PLAIN, p.width, v->trouble ? v->trouble : "waiting for the worker");
		cmd_toppaper_end(&p, false);
	}
	if (v->height > 1) {
		while (p.lines < p.max_lines)
			cmd_toppaper_end(&p, false);
		p.lines = 0;
		p.max_lines = 1;
		draw_foot(v, &p);
	}
	return p.rc < 0 ? fz_fail_errno(err, -p.rc, "a frame") : 0;
}
