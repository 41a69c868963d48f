/* alertbook.h - which problems there are, what each URL has been told of them, and what it is to be told next. Knows neither network nor
 * clock. Kept as "alerts" in the state directory, so that the next worker neither repeats nor forgets.
 *
 * Each problem is told to each URL once as "problem", again as "repeat" while it lasts, at least an interval later, and once as
 * "resolved". One that comes back within an interval is told when that is over, if it still lasts then: so a flapping one costs two
 * messages an interval. A URL that cannot be reached is told what is still so when it can, and what has ended that it might have
 * heard of. What could not be sent to a URL stands behind all others of that URL. What a URL refuses needs no end, and when it is over
 * it is given up an interval later. What has failed GIVE_UP times, each after another had arrived, is no matter of the URL's moment:
 * it is given up for an interval while it lasts, else for good. Texts are whole characters, whatever the names in them are: a receiver
 * refuses what is no UTF-8.
 *                                                                                     held by: tests/unit/test_cmd_alertbook.c */
#ifndef FZ_CMD_ALERTBOOK_H
#define FZ_CMD_ALERTBOOK_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cJSON;

#define CMD_ALERT_URLS 8
#define CMD_ALERT_MAX  64 /* problems at once; what is beyond is one problem more, "more" */

struct cmd_alert {
	char kind[16], about[200], text[600];
	int64_t since_ms, until_ms; /* until 0: it lasts */
	bool notice;                /* something that has happened: told once as "notice", never resolved */
	struct cmd_alert_told {
		int64_t at_ms; /* of the last "problem" or "repeat" that arrived; 0 = never */
		bool told;     /* and "resolved" has not */
		bool tried;    /* it may have arrived */
		/* not kept in the file: */
		bool refused;        /* the last time */
		unsigned failed;     /* times, since one arrived or it was given up */
		unsigned passed;     /* times that another had arrived since it failed the time before */
		unsigned arrived;    /* cmd_alertbook.arrived when it failed last */
		int64_t given_up_ms; /* 0 = it is not */
	} url[CMD_ALERT_URLS];
};
struct cmd_alertbook {
	struct cmd_alert *v;
	size_t n;
	size_t n_urls;
	char url_id[CMD_ALERT_URLS][17];  /* which URL is which, over changes of the configuration */
	unsigned arrived[CMD_ALERT_URLS]; /* how many */
	int64_t interval_ms;
	char role[16];
	uint32_t epoch;
	bool changed; /* since it was last written */
};

enum cmd_alert_outcome {
	CMD_ALERT_ARRIVED,
	CMD_ALERT_LOST,   /* perhaps: no answer, or one that is about the URL's moment */
	CMD_ALERT_FAILED, /* perhaps: the server failed, maybe over this one */
	CMD_ALERT_REFUSED /* this one, not the URL's moment: others may be taken */
};

/* What the status says now: its alerts, role and epoch. -ENOMEM. */
int cmd_alertbook_see(struct cmd_alertbook *b, const struct cJSON *status, int64_t now_ms,
                      struct fz_err *err) FZ_MUST_CHECK;
/* The next thing to tell that URL: its event, or NULL. What failed most often comes last; again: what failed comes at all. *a is good
 * until the next see(). */
const char *cmd_alertbook_next(struct cmd_alertbook *b, size_t url, int64_t now_ms, bool again, struct cmd_alert **a);
/* It was sent, with that outcome. True: it is given up. */
bool cmd_alertbook_sent(struct cmd_alertbook *b, size_t url, struct cmd_alert *a, const char *event,
                        enum cmd_alert_outcome outcome, int64_t now_ms);
/* Reads what a former worker left; url_id and n_urls are set before. Nothing there, or rubbish: an empty book. */
int cmd_alertbook_load(struct cmd_alertbook *b, int statefd, struct fz_err *err) FZ_MUST_CHECK;
int cmd_alertbook_save(struct cmd_alertbook *b, int statefd, struct fz_err *err) FZ_MUST_CHECK;
/* [{kind, about, text, since, until (null = lasts), told: [bool of each URL]}] */
void cmd_alertbook_show(const struct cmd_alertbook *b, struct cJSON *array);
void cmd_alertbook_fini(struct cmd_alertbook *b);

#endif
