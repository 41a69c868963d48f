/* cmd/http.h without a mount: a worker that answers from a text. What a whole mount shows is held by tests/e2e/metrics.py; this runs under the
 * sanitizers in a second: listeners that come, go, do not read, and are there when the server stops, or come then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/net.h"
#include "cmd/http_priv.h"
#include "cmd/worker.h"

#include <cJSON.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct world {
	struct cmd_serving w; /* first */
	char address[FZ_NET_ADDR];
	atomic_uint txid; /* of its one database */
	atomic_bool held; /* an answer waits until the server is to stop */
};

static int answer(struct cmd_control_handler *h, const struct cJSON *request, struct cJSON *o, int *fd,
                  struct fz_err *err)
{
	struct world *w = (struct world *)h;
	const char *cmd = cJSON_GetStringValue(cJSON_GetObjectItem(request, "cmd"));
	unsigned txid = atomic_load(&w->txid);
	struct pollfd stop = {.fd = w->w.http ? w->w.http->stopfd : -1, .events = POLLIN};
	cJSON *d = cJSON_CreateObject(), *list, *e;

	if (atomic_load(&w->held)) {
		atomic_store(&w->held, false);
		assert_int_equal(poll(&stop, 1, -1), 1);
	}
	cJSON_AddItemToArray(cJSON_AddArrayToObject(o, "databases"), d);
	cJSON_AddStringToObject(d, "name", "a.db");
	cJSON_AddNumberToObject(d, "txid", txid);
	cJSON_AddNumberToObject(d, "tail_txid", txid);
	cJSON_AddStringToObject(d, "lineage", "0123456789abcdef");
	if (!strcmp(cmd, "status")) {
		cJSON_AddStringToObject(o, "role", "primary");
		cJSON_AddBoolToObject(o, "healthy", txid < 1000);
		cJSON_AddArrayToObject(o, "problems");
		return 0;
	}
	assert_string_equal(cmd, "entries");
	e = cJSON_GetObjectItem(cJSON_GetObjectItem(request, "after"), "0123456789abcdef");
	list = cJSON_AddArrayToObject(d, "entries");
	for (unsigned i = e ? (unsigned)e->valuedouble + 1 : txid + 1; i <= txid; i++) {
		e = cJSON_CreateObject();
		cJSON_AddNumberToObject(e, "min_txid", i);
		cJSON_AddNumberToObject(e, "txid", i);
		cJSON_AddNumberToObject(e, "pages", 1);
		cJSON_AddNumberToObject(e, "bytes", 10);
		cJSON_AddItemToArray(list, e);
	}
	(void)fd;
	(void)err;
	return 0;
}

static void start(struct world *w)
{
	struct fz_err err = {0};
	int fd = fz_net_listen("127.0.0.1:0", &err); /* a port that is free */

	memset(w, 0, sizeof(*w));
	assert_true(fd >= 0);
	assert_int_equal(fz_net_local(fd, w->address, &err), 0);
	fz_close(&fd);
	w->w.handler.answer = answer;
	w->w.conf.http_listen = w->address;
	if (cmd_http_start(&w->w.http, &w->w, &err) < 0)
		fail_msg("%s", err.text);
}

static int ask(const struct world *w, const char *request)
{
	struct fz_err err = {0};
	int fd = fz_net_connect(w->address, 10000, -1, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fz_net_write(fd, request, strlen(request), UINT64_MAX, -1, &err), 0);
	return fd;
}

/* Reads until the text is there. */
static void wants(int fd, const char *text)
{
	struct fz_buf b = {0};

	while (!strstr(fz_buf_str(&b), text)) {
		char c;

		if (fz_net_read(fd, &c, 1, UINT64_MAX, -1, NULL) < 0)
			fail_msg("no %s in %s", text, fz_buf_str(&b));
		assert_int_equal(fz_buf_add(&b, &c, 1), 0);
	}
	fz_buf_fini(&b);
}

static const struct request_case {
	const char *request, *want;
} requests[] = {
        {"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",                       "HTTP/1.1 200"                  },
        {"GET /healthz HTTP/1.0\r\n\r\n",                                          " 200 OK"                       },
        {"GET /healthz HTTP/1.1\r\n\r\n",                                          "HTTP/1.1 400"                  },
        {"GET /healthz HTTP/1.1\r\nHost: evil\r\n\r\n",                            "HTTP/1.1 403"                  },
        {"GET /healthz HTTP/1.1\r\nHost: [::1\r\n\r\n",                            "HTTP/1.1 403"                  },
        {"GET /healthz HTTP/1.1\r\nHost: [::1]x\r\n\r\n",                          "HTTP/1.1 403"                  },
        {"GET /healthz HTTP/1.1\r\nHost: [::1]:1\r\n\r\n",                         "HTTP/1.1 200"                  },
        {"POST /metrics HTTP/1.1\r\nHost: ::1\r\nContent-Length: 9\r\n\r\n",       "HTTP/1.1 403"                  },
        {"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 405"                  },
        {"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",                       "fazt_txid{database=\"a.db\"} 7"},
        {"HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n",                       "text/event-stream"             },
        {"GET /api/history HTTP/1.1\r\nHost: localhost\r\n\r\n",                   "HTTP/1.1 400"                  },
        {"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",                             "HTTP/1.1 405"                  },
};

static void answers(void **state)
{
	struct world w;

	start(&w);
	atomic_store(&w.txid, 7);
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		int fd = ask(&w, requests[i].request);

		wants(fd, requests[i].want);
		fz_close(&fd);
	}
	cmd_http_stop(w.w.http);
}

static void streams(void **state)
{
	static const char events[] = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
	struct world w;
	int fd[16], late;

	start(&w);
	for (int i = 0; i < 16; i++) {
		fd[i] = ask(&w, events);
		wants(fd[i], "event: status");
	}
	late = ask(&w, events);
	wants(late, "HTTP/1.1 503");
	fz_close(&late);
	for (int i = 8; i < 16; i++)
		fz_close(&fd[i]);
	wants(fd[0], "\"role\""); /* they have been looked at once: what comes now is news */
	for (unsigned i = 0; i < 4; i++) {
		char text[64];

		atomic_fetch_add(&w.txid, 400);
		snprintf(text, sizeof(text), "\"txid\":%u,", atomic_load(&w.txid));
		wants(fd[0], text); /* the others do not read */
	}
	cmd_http_stop(w.w.http);
	for (int i = 0; i < 8; i++)
		fz_close(&fd[i]);
}

/* A listener whose request is there when the server has begun to stop. */
static void late(void **state)
{
	static const char health[] = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
	static const char events[] = "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
	struct fz_err err = {0};
	struct world w;
	int fd[8], other;

	start(&w);
	for (int i = 0; i < 8; i++) {
		fd[i] = ask(&w, health);
		wants(fd[i], "\"targets\":[]}");
	}
	atomic_store(&w.held, true);
	other = ask(&w, health);
	while (atomic_load(&w.held)) /* until it is being answered */
		sched_yield();
	for (int i = 0; i < 8; i++)
		assert_int_equal(fz_net_write(fd[i], events, strlen(events), UINT64_MAX, -1, &err), 0);
	cmd_http_stop(w.w.http);
	fz_close(&other);
	for (int i = 0; i < 8; i++)
		fz_close(&fd[i]);
}

static void refuses_addresses(void **state)
{
	static const char *const bad[] = {"7301", "a b:1", "[::1:1", "127.0.0.1:x", ""};
	struct cmd_conf c = {0};
	struct fz_err err = {0};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		c.http_listen = (char *)bad[i];
		assert_int_equal(cmd_http_check(&c, &err), -FZ_ECONFIG);
	}
	c.http_listen = (char *)":7301";
	assert_int_equal(cmd_http_check(&c, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(answers),
	        cmocka_unit_test(streams),
	        cmocka_unit_test(late),
	        cmocka_unit_test(refuses_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
