/* alert_command.c - `fazt alert`: what the URLs of alert_url have been told, and a test of them. */
#include "cmd/alert.h"
#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include <cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_MS 600000 /* each URL has its own limit */

static void print_urls(const cJSON *urls, bool test)
{
	const cJSON *o;

	cJSON_ArrayForEach (o, urls) {
		const char *error = cmd_text(o, "error"), *said = cmd_text(o, "said");
		uint64_t given_up = cmd_number(o, "given_up");
		int code = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(o, "code"));

		if (*error)
			printf("  %s: NOT sent: %s (FZ-%04d)\n", cmd_text(o, "url"), error, code);
		else if (test)
			printf("  %s: arrived, status %.0f after %.0f ms\n", cmd_text(o, "url"),
			       cJSON_GetNumberValue(cJSON_GetObjectItem(o, "status")),
			       cJSON_GetNumberValue(cJSON_GetObjectItem(o, "took_ms")));
		else
			printf("  %s\n", cmd_text(o, "url"));
		if (*said)
			printf("    the server says: %s\n", said);
		if (given_up)
			printf("    given up, while others arrived: %" PRIu64 " since the worker started\n", given_up);
	}
}

static void print_alerts(const cJSON *alerts)
{
	const cJSON *o, *t;

	cJSON_ArrayForEach (o, alerts) {
		int told = 0, n = 0;

		cJSON_ArrayForEach (t, cJSON_GetObjectItem(o, "told")) {
			told += cJSON_IsTrue(t);
			n++;
		}
		printf("  %s%s%s %s: %s (told %d of %d)\n", cmd_text(o, "since"), *cmd_text(o, "until") ? " to " : "",
		       cmd_text(o, "until"), cmd_text(o, "kind"), cmd_text(o, "text"), told, n);
	}
}

/* Not mounted: from here, with the configuration as it is. */
static int test_here(const char *dir, const char *config, cJSON *answer, struct fz_err *err)
{
	struct cmd_alertsend s = {0};
	struct cmd_conf conf;
	int rc;

	cmd_conf_init(&conf);
	rc = cmd_conf_load(&conf, config, err);
	if (rc == 0)
		rc = cmd_alertsend_open(&s, &conf, NULL, err);
	if (rc == 0 && !s.n_urls)
		rc = fz_fail(err, FZ_ECONFIG, "the configuration has no alert_url");
	if (rc == 0)
		cmd_alerts_test(&s, dir, "", cJSON_AddArrayToObject(answer, "urls"));
	cmd_alertsend_close(&s);
	cmd_conf_fini(&conf);
	return rc;
}

static int ask(const char *dir, bool test, const char *config, cJSON **answer, struct fz_err *err)
{
	cJSON *request = cmd_request("alerts");
	struct cmd_where w;
	int rc = cmd_where_find(&w, dir, err);

	if (rc == 0 && test && !w.fazt) {
		cJSON_Delete(request);
		*answer = cJSON_CreateObject();
		return test_here(w.dir, config, *answer, err);
	}
	if (rc < 0) {
		cJSON_Delete(request);
		return rc;
	}
	cJSON_AddBoolToObject(request, "test", test);
	return cmd_ask(dir, request, ANSWER_MS, &w, answer, err);
}

int cmd_alert(int argc, char **argv)
{
	const char *config = NULL;
	bool json = false, test = false;
	const struct cmd_opt opts[] = {
	        {"test", 't', NULL, "send a test to every URL, and tell what came back", &test, NULL, NULL},
	        {"json",  'j', NULL, "print JSON", &json, NULL, NULL},
	        {"config", 'c', "FILE", "with --test, not mounted: configuration instead of " CMD_CONF_DEFAULT, NULL,
	         &config, NULL},
	        {0 },
	};
	const struct cmd_spec spec = {.name = "alert",
	                              .synopsis = "[options] DIR",
	                              .about = "Shows what the URLs of alert_url were told of, and whether they can be "
	                                       "reached. With --test the process "
	                                       "that sends alerts sends one\n"
	                                       "of event \"test\" to each; exit code 1 when one of them did not take "
	                                       "it. Of a URL only scheme and host "
	                                       "are shown.",
	                              .examples = "fazt alert /var/lib/app\nfazt alert --test /var/lib/app\n",
	                              .min_args = 1,
	                              .max_args = 1,
	                              .opts = opts};
	cJSON *answer = NULL;
	const cJSON *o;
	struct fz_err err = {0};
	char **args;
	int n, bad = 0, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == CMD_ARGS_HELP)
		return CMD_EXIT_OK;
	if (rc == 0)
		rc = ask(args[0], test, config, &answer, &err);
	if (rc < 0) {
		cJSON_Delete(answer);
		return cmd_report(spec.name, &err);
	}
	cJSON_DeleteItemFromObject(answer, "ok");
	cJSON_ArrayForEach (o, cJSON_GetObjectItem(answer, "urls")) {
		bad += *cmd_text(o, "error") != 0;
	}
	if (json) {
		cmd_print_json(answer);
	} else {
		print_urls(cJSON_GetObjectItem(answer, "urls"), test);
		if (!test && !cJSON_GetArraySize(cJSON_GetObjectItem(answer, "urls")))
			printf("  no alert_url is configured: nobody is told\n");
		print_alerts(cJSON_GetObjectItem(answer, "alerts"));
	}
	cJSON_Delete(answer);
	return test && bad ? CMD_EXIT_FAILED : CMD_EXIT_OK;
}
