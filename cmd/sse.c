/* sse.c - server-sent events: every listener has a queue of what was sent to all, kept once. A connection without anything to send is
 * suspended, and costs nothing until something comes.
 *
 * Nothing is looked at while nobody listens. Per second of a listener: four questions to the logs and one for the status, for all
 * listeners together. */
#include "cmd/http_priv.h"

#include "base/buf.h"
#include "base/clock.h"
#include "cmd/ask.h"
#include "cmd/worker.h"

#include <cJSON.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define EVENTS_MS    250
#define STATUS_MS    1000
#define HEARTBEAT_MS 10000
#define QUEUE        16
#define SINGLE       100 /* events in a round; transactions beyond come joined */
#define ROUNDS       10  /* of questions, each round */
#define BLOCK        4096
#define MS_NS        UINT64_C(1000000)

struct frame {
	unsigned refs;
	size_t size;
	char data[];
};
struct cmd_sse_client {
	struct cmd_http *h;
	struct MHD_Connection *conn;
	struct frame *queue[QUEUE];
	unsigned n;
	size_t at; /* sent of queue[0] */
	bool suspended, end;
};

static void drop(struct frame *f)
{
	if (--f->refs == 0)
		free(f);
}

static struct frame *frame_of(const struct fz_buf *b)
{
	struct frame *f = malloc(sizeof(*f) + b->size);

	if (f) {
		f->refs = 1;
		f->size = b->size;
		memcpy(f->data, b->data, b->size);
	}
	return f;
}

static void wake(struct cmd_sse_client *c)
{
	if (c->suspended)
		MHD_resume_connection(c->conn);
	c->suspended = false;
}

/* spare: a state that the next one replaces; who has not read the last one does without. */
static void push(struct cmd_sse_client *c, struct frame *f, bool spare)
{
	if (!f || c->end || (spare && c->n > 1))
		return;
	if (c->n == QUEUE) { /* it does not read */
		c->end = true;
	} else {
		f->refs++;
		c->queue[c->n++] = f;
	}
	wake(c);
}

static void push_all(struct cmd_http *h, const struct fz_buf *b, bool spare)
{
	struct frame *f = b->size ? frame_of(b) : NULL;

	for (unsigned i = 0; f && i < h->sse.n; i++)
		push(h->sse.clients[i], f, spare);
	if (f)
		drop(f);
}

static int add_event(struct fz_buf *b, const char *name, const char *data)
{
	return fz_buf_addf(b, "event: %s\ndata: %s\n\n", name, data); /* JSON as cJSON prints it has no line ends */
}

/* ---- listeners -------------------------------------------------------------------------------------------------- */

static ssize_t read_some(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct cmd_sse_client *c = cls;
	struct frame *f = c->n ? c->queue[0] : NULL;
	size_t n;

	(void)pos;
	if (c->end)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (!f) {
		c->suspended = true;
		MHD_suspend_connection(c->conn);
		return 0;
	}
	n = f->size - c->at < max ? f->size - c->at : max;
	memcpy(buf, f->data + c->at, n);
	c->at += n;
	if (c->at == f->size) {
		memmove(c->queue, c->queue + 1, --c->n * sizeof(c->queue[0]));
		c->at = 0;
		drop(f);
	}
	return (ssize_t)n;
}

static void free_client(void *cls)
{
	struct cmd_sse_client *c = cls;
	struct cmd_sse *s = &c->h->sse;

	for (unsigned i = 0; i < s->n; i++)
		if (s->clients[i] == c) {
			s->clients[i] = s->clients[--s->n];
			break;
		}
	for (unsigned i = 0; i < c->n; i++)
		drop(c->queue[i]);
	free(c);
}

static int add_heartbeat(struct fz_buf *b)
{
	return fz_buf_addf(b, "event: heartbeat\ndata: {\"now_ms\":%lld}\n\n", (long long)fz_now_ms());
}

/* What a new listener gets at once. */
static struct frame *greeting(struct cmd_http *h)
{
	const cJSON *state = cmd_http_state(h, false);
	char *text = state ? cmd_json(state, false) : NULL;
	struct frame *f = NULL;
	struct fz_buf b = {0};

	if (text && fz_buf_addf(&b, "retry: 2000\n\n") == 0 && add_heartbeat(&b) == 0 &&
	    add_event(&b, "status", text) == 0)
		f = frame_of(&b);
	fz_buf_fini(&b);
	free(text);
	return f;
}

enum MHD_Result cmd_sse_answer(struct cmd_http *h, struct MHD_Connection *conn, bool *full)
{
	struct cmd_sse_client *c;
	struct MHD_Response *r;
	enum MHD_Result rc;

	if (h->sse.over || h->sse.n == CMD_SSE_CLIENTS) {
		*full = true;
		return MHD_NO;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return MHD_NO;
	c->h = h;
	c->conn = conn;
	c->queue[0] = greeting(h);
	c->n = c->queue[0] != NULL;
	r = c->n ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_some, c, free_client) : NULL;
	if (!r) {
		free_client(c);
		return MHD_NO;
	}
	if (h->sse.n == 0) { /* a silent time lies behind: it is not news */
		cmd_watch_fini(&h->sse.watch);
		h->sse.events_ns = h->sse.status_ns = 0;
		h->sse.heartbeat_ns = fz_mono_ns() + HEARTBEAT_MS * MS_NS;
	}
	h->sse.clients[h->sse.n++] = c;
	cmd_http_headers(h, r, "text/event-stream");
	rc = MHD_queue_response(conn, MHD_HTTP_OK, r);
	MHD_destroy_response(r);
	return rc;
}

/* A suspended connection is not looked at by anybody else. */
static void end_the_gone(struct cmd_http *h)
{
	for (unsigned i = 0; i < h->sse.n; i++) {
		struct cmd_sse_client *c = h->sse.clients[i];
		int fd = MHD_get_connection_info(c->conn, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
		char byte;

		if (c->suspended && recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
			c->end = true;
			wake(c);
		}
	}
}

/* ---- what is sent ----------------------------------------------------------------------------------------------- */

static void flush_last(struct cmd_sse *s)
{
	char *text = s->last ? cmd_json(s->last, false) : NULL;

	if (text)
		(void)!add_event(s->out, "event", text);
	free(text);
	cJSON_Delete(s->last);
	s->last = NULL;
}

static const char *database_of(const cJSON *o)
{
	const char *what = cJSON_GetStringValue(cJSON_GetObjectItem(o, "event"));

	return what && !strcmp(what, "transaction") ? cJSON_GetStringValue(cJSON_GetObjectItem(o, "database")) : NULL;
}

/* b follows a: a becomes both. */
static void join(cJSON *a, cJSON *b)
{
	static const char *const sums[] = {"pages", "bytes"};
	static const char *const of_b[] = {"txid", "time"};

	if (!cJSON_HasObjectItem(a, "min_txid"))
		cJSON_AddNumberToObject(a, "min_txid", cmd_number(a, "txid"));
	for (size_t i = 0; i < sizeof(sums) / sizeof(sums[0]); i++)
		cJSON_SetNumberValue(cJSON_GetObjectItem(a, sums[i]), cmd_number(a, sums[i]) + cmd_number(b, sums[i]));
	for (size_t i = 0; i < sizeof(of_b) / sizeof(of_b[0]); i++)
		cJSON_ReplaceItemInObject(a, of_b[i], cJSON_DetachItemFromObject(b, of_b[i]));
}

static bool put(struct cmd_watch *watch, cJSON *o)
{
	struct cmd_sse *s = (struct cmd_sse *)watch;
	const char *a = s->last ? database_of(s->last) : NULL, *b = database_of(o);

	if (++s->told > SINGLE && a && b && !strcmp(a, b)) {
		join(s->last, o);
		cJSON_Delete(o);
		return true;
	}
	flush_last(s);
	s->last = o;
	return true;
}

static void look_at_logs(struct cmd_http *h)
{
	bool more = true;

	for (int i = 0; more && i < ROUNDS; i++) {
		cJSON *ask = cmd_watch_question(&h->sse.watch), *o = cJSON_CreateObject();
		int fd = -1;

		more = ask && o && h->w->handler.answer(&h->w->handler, ask, o, &fd, NULL) == 0 &&
		       cmd_watch_entries(&h->sse.watch, o);
		cJSON_Delete(ask);
		cJSON_Delete(o);
	}
}

static void look_at_status(struct cmd_http *h, struct fz_buf *out)
{
	const cJSON *state = cmd_http_state(h, false);
	char *text = state ? cmd_json(state, false) : NULL;

	if (!text)
		return;
	cmd_watch_status(&h->sse.watch, state);
	if (!h->sse.status || strcmp(text, h->sse.status)) {
		(void)!add_event(out, "status", text);
		free(h->sse.status);
		h->sse.status = text;
		text = NULL;
	}
	free(text);
}

static bool due(uint64_t *at_ns, uint64_t now_ns, uint64_t each_ms)
{
	if (now_ns < *at_ns)
		return false;
	*at_ns = now_ns + each_ms * MS_NS;
	return true;
}

int cmd_sse_run(struct cmd_http *h)
{
	struct fz_buf out = {0}, state = {0};
	struct cmd_sse *s = &h->sse;
	uint64_t now = fz_mono_ns();

	if (!s->n)
		return -1;
	if (!due(&s->events_ns, now, EVENTS_MS))
		return (int)((s->events_ns - now) / MS_NS) + 1;
	s->watch.put = put;
	s->out = &out;
	s->told = 0;
	look_at_logs(h);
	if (due(&s->status_ns, now, STATUS_MS)) {
		look_at_status(h, &state);
		end_the_gone(h);
	}
	if (due(&s->heartbeat_ns, now, HEARTBEAT_MS))
		(void)!add_heartbeat(&out);
	flush_last(s);
	push_all(h, &out, false);
	push_all(h, &state, true);
	fz_buf_fini(&out);
	fz_buf_fini(&state);
	MHD_run(h->daemon); /* whoever was waked */
	return EVENTS_MS;
}

void cmd_sse_end(struct cmd_http *h)
{
	h->sse.over = true;
	for (unsigned i = 0; i < h->sse.n; i++) {
		h->sse.clients[i]->end = true;
		wake(h->sse.clients[i]);
	}
	if (h->daemon)
		MHD_run(h->daemon);
}

void cmd_sse_fini(struct cmd_http *h)
{
	cmd_watch_fini(&h->sse.watch);
	free(h->sse.status);
}
