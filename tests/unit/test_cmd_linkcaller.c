/* test_cmd_linkcaller.c - who calls a primary and how: strangers, replays, versions, replicas that do not read, seen through real sockets. */
#include "tests/unit/link_proxy.h"
#include "tests/unit/link_raw.h"

#include <sodium.h>
#include <sys/resource.h>

/* ---- strangers ---- */

static bool raw_call(struct raw *r, struct link *l, const uint8_t *secret)
{
	uint8_t out[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG1], in[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG2], none[1];
	struct ltx_noise n;
	bool ok;

	memset(r, 0, sizeof(*r));
	OK(r->fd = fz_net_connect(l->address, LIMIT_S * 1000, -1, e));
	ltx_wire_hello_put(out, LTX_WIRE_VERSION, LTX_NOISE_MSG1);
	OK(ltx_noise_init(&n, true, secret, l->p.key.public_key, out, LTX_WIRE_PROLOGUE, e));
	OK(ltx_noise_write(&n, NULL, 0, out + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG1, e));
	OK(fz_net_write(r->fd, out, sizeof(out), soon(), -1, e));
	ok = fz_net_read(r->fd, in, sizeof(in), soon(), -1, NULL) == 0;
	if (ok) {
		OK(ltx_noise_read(&n, in + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG2, none, sizeof(none), e));
		OK(ltx_noise_split(&n, &r->send, &r->receive, e));
	}
	ltx_noise_fini(&n);
	return ok;
}

static bool raw_hung_up(struct raw *r)
{
	uint8_t byte;
	int rc;

	while ((rc = fz_net_read(r->fd, &byte, 1, soon(), -1, NULL)) == 0)
		;
	return rc == -ECONNRESET;
}

static bool server_has(struct link *l)
{
	cJSON *a = server_status(l);
	bool is = cJSON_IsTrue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "connected"));

	assert_int_equal(cJSON_GetArraySize(a), 1);
	cJSON_Delete(a);
	return is;
}

static double server_since(struct link *l)
{
	cJSON *a = server_status(l);
	double ms = number_of(cJSON_GetArrayItem(a, 0), "since_ms");

	cJSON_Delete(a);
	return ms;
}

static bool server_error_has(struct link *l, const char *what)
{
	cJSON *a = server_status(l);
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, 0), "last_error"));
	bool has = text && strstr(text, what);

	cJSON_Delete(a);
	return has;
}

static void test_wrong_keys(void **state)
{
	struct link *l = *state;
	struct ltx_age_identity other;
	struct ltx_age_recipient key;
	char text[LTX_AGE_RECIPIENT_SIZE];
	struct raw r;

	serve(l);
	ltx_age_identity_make(&other);
	ltx_age_identity_recipient(&other, &key);
	assert_false(raw_call(&r, l, other.secret)); /* not a word */
	raw_close(&r);

	l->follower.key[0] ^= 1; /* the primary expects another one */
	follow(l);
	ltx_age_recipient_format(text, &l->r.key);
	UNTIL(follow_error_has(l, text)); /* it says which key is to be listed */
	follow_not(l);
	assert_false(server_has(l));
	l->follower.key[0] ^= 1;

	l->p.key = key; /* the replica expects another one */
	follow(l);
	UNTIL(follow_error_has(l, "--primary-key"));
	follow_not(l);
	ltx_age_identity_recipient(&l->p.id, &l->p.key);
	assert_false(server_has(l));
	follow(l);
	UNTIL(follows(l) && server_has(l));
}

/* Message 1 of a follower, recorded and played back: it opens nothing. */
static void test_replayed_handshake(void **state)
{
	struct link *l = *state;
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->fconf.hello};
	uint8_t junk[600];
	struct raw r;

	serve(l);
	assert_true(raw_call(&r, l, l->r.id.secret)); /* whoever has no key cannot go on from here: */
	randombytes_buf(junk, sizeof(junk));
	junk[0] = 0;
	junk[1] = 200;
	OK(fz_net_write(r.fd, junk, sizeof(junk), soon(), -1, e));
	assert_true(raw_hung_up(&r));
	assert_true(server_since(l) == 0); /* it was never taken for the follower */
	raw_close(&r);
	assert_true(raw_call(&r, l, l->r.id.secret)); /* the same with the key */
	raw_say(&r, &hello);
	UNTIL(server_has(l));
	raw_close(&r);
	UNTIL(!server_has(l));
}

/* A replica that makes nothing durable gets a window's worth; and more with each ACK. */
static void test_window(void **state)
{
	struct link *l = *state;
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->fconf.hello}, m,
	                    want = {.type = LTX_WIRE_WANT, .want.id = 1}, ack = {.type = LTX_WIRE_ACK, .ack.id = 1};
	struct source *s = source_make(&l->p, "app.db", 512, 64);
	uint64_t bytes = 0, before = 0, window = 32 * 1024;
	size_t used = 0;
	struct raw r;

	for (int i = 0; i < 1000; i++)
		source_commit(s, 0);
	l->sconf.window_bytes = window;
	serve(l);
	assert_true(raw_call(&r, l, l->r.id.secret));
	raw_say(&r, &hello);
	for (int acks = 0; acks < 3;) {
		raw_hear(&r, &m, &used);
		if (m.type == LTX_WIRE_DB)
			raw_say(&r, &want);
		if (m.type == LTX_WIRE_FILE)
			ack.ack.durable = m.file.max_txid;
		if (m.type == LTX_WIRE_DATA)
			bytes += m.data.n;
		if (m.type == LTX_WIRE_PING) { /* it has nothing else to say */
			assert_in_range(bytes - before, window, window + LTX_WIRE_CHUNK);
			before = bytes;
			raw_say(&r, &ack);
			acks++;
		}
	}
	assert_true(ack.ack.durable < s->last);
	raw_close(&r);
	source_free(s);
}

/* Many connections that say nothing, a little, or nonsense; among them one that may follow. */
static void test_strangers_in_numbers(void **state)
{
	struct link *l = *state;
	struct source *s = source_make(&l->p, "app.db", 512, 16);
	struct rlimit files;
	int *fds, n = 1000;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	if (n > (int)files.rlim_cur - 100)
		n = (int)files.rlim_cur - 100;
	fds = calloc((size_t)n, sizeof(*fds));
	serve(l);
	for (int i = 0; i < n; i++) {
		static const char *const words[] = {"", "F", "FZTL\x01", "GET / HTTP/1.0\r\n\r\n",
		                                    "FZTL\x01\0\0\x60........"};
		static const size_t sizes[] = {0, 1, 5, 18, 16};

		fds[i] = fz_net_connect(l->address, LIMIT_S * 1000, -1, NULL);
		assert_true(fds[i] >= 0);
		if (sizes[i % 5])
			(void)!send(fds[i], words[i % 5], sizes[i % 5], MSG_NOSIGNAL | MSG_DONTWAIT);
		if (i == n / 2) {
			follow(l);
			source_commit(s, 0);
		}
	}
	OK(primary_server_wait(l->server, s->lineage, 1, 1, LIMIT_S * 1000, e));
	for (int i = 0; i < n; i++)
		close(fds[i]);
	free(fds);
	source_free(s);
}

static void test_replica_that_stops_reading(void **state)
{
	struct link *l = *state, *m = link_new();
	struct primary_follower two[2] = {l->follower, m->follower};
	struct ltx_wire_msg hello = {.type = LTX_WIRE_HELLO, .hello = l->fconf.hello},
	                    want = {.type = LTX_WIRE_WANT, .want.id = 1};
	struct source *s = source_make(&l->p, "app.db", 4096, 4000);
	struct raw r;

	for (int i = 0; i < 8; i++)
		source_commit(s, i % 2 ? 2 : 3000);
	l->sconf.followers = two;
	l->sconf.n_followers = 2;
	l->sconf.window_bytes = UINT64_C(1) << 40; /* TCP alone holds it back */
	serve(l);
	memcpy(m->address, l->address, sizeof(m->address));
	m->p.key = l->p.key;
	assert_true(raw_call(&r, l, l->r.id.secret));
	raw_say(&r, &hello);
	UNTIL(server_db(l, s->lineage, "durable_txid") >= -1);
	do /* until it was announced */
		OK(fz_net_read(r.fd, &(char){0}, 1, soon(), -1, e));
	while (recv(r.fd, &(char){0}, 1, MSG_PEEK) < 0);
	raw_say(&r, &want);
	follow(m);
	UNTIL(host_tail(&m->r, s->lineage) == 8);
	UNTIL(server_error_has(l, "read nothing") || server_error_has(l, "nothing was heard"));
	raw_close(&r);
	assert_int_equal(judge(&m->r, s), 8);
	follow_not(m);
	link_free(m);
	source_free(s);
}

/* ---- versions ---- */

struct fake {
	int fd;
	const uint8_t *answer;
	size_t n;
	atomic_bool stop;
	pthread_t thread;
};

static void *fake_run(void *arg)
{
	struct fake *f = arg;

	while (!atomic_load(&f->stop)) {
		char peer[FZ_NET_ADDR];
		struct pollfd p = {.fd = f->fd, .events = POLLIN};
		int c = poll(&p, 1, 20) > 0 ? fz_net_accept(f->fd, peer, NULL) : -1;
		uint8_t in[8];

		if (c < 0)
			continue;
		if (fz_net_read(c, in, sizeof(in), soon(), -1, NULL) == 0)
			(void)!send(c, f->answer, f->n, MSG_NOSIGNAL);
		close(c);
	}
	return NULL;
}

static void test_versions(void **state)
{
	struct link *l = *state;
	static const struct {
		const char *answer;
		size_t n;
		const char *says;
	} cases[] = {
	        {"FZTL\x09\0\0\0",	                                            8,  "speaks version 9"},
	        {"FZTL\0\0\0\0",	                                              8,  "no fazt link"    },
	        {"HTTP/1.1 400 Bad Request\r\n\r\n",                                  28, "no fazt link"    },
	        {"FZTL\x01\0\x01\0................",                                  24, "no fazt link"    },
	        {"FZTL\x01\0\0\x30"
	         "................................................", 56, "--primary-key"   },
	};

	l->fconf.version = LTX_WIRE_VERSION + 1; /* a newer replica finds an older primary */
	serve(l);
	follow(l);
	UNTIL(follows(l));
	follow_not(l);
	serve_not(l);
	l->fconf.version = 0;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fake f = {.answer = (const uint8_t *)cases[i].answer, .n = cases[i].n};

		f.fd = fz_net_listen("127.0.0.1:0", NULL);
		OK(fz_net_local(f.fd, l->address, e));
		assert_int_equal(pthread_create(&f.thread, NULL, fake_run, &f), 0);
		follow(l);
		UNTIL(follow_error_has(l, cases[i].says));
		follow_not(l);
		atomic_store(&f.stop, true);
		pthread_join(f.thread, NULL);
		close(f.fd);
	}
}
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_wrong_keys, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_replayed_handshake, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_window, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_strangers_in_numbers, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_replica_that_stops_reading, link_setup, link_teardown),
	        cmocka_unit_test_setup_teardown(test_versions, link_setup, link_teardown),
	};

	if (argc > 1) /* a pattern: these only */
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
