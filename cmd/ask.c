#include "cmd/ask.h"

#include "base/clock.h"
#include "cmd/control.h"
#include "cmd/quote.h"

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>

struct cJSON *cmd_request(const char *cmd)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "cmd", cmd);
	return o;
}

int cmd_ask(const char *dir, struct cJSON *request, int64_t timeout_ms, struct cmd_where *w, struct cJSON **answer,
            struct fz_err *err)
{
	return cmd_ask_following(dir, request, timeout_ms, NULL, w, answer, err);
}

int cmd_ask_following(const char *dir, struct cJSON *request, int64_t timeout_ms, struct cmd_control_listener *l,
                      struct cmd_where *w, struct cJSON **answer, struct fz_err *err)
{
	int rc;

	*answer = NULL;
	rc = cmd_where_find(w, dir, err);
	if (rc == 0 && !w->fazt)
		rc = fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", w->dir);
	if (rc == 0 && l)
		cJSON_AddBoolToObject(request, "progress", true);
	if (rc == 0)
		rc = cmd_control_follow(w, request, timeout_ms, l, answer, NULL, err);
	cJSON_Delete(request);
	return rc;
}

int cmd_timeout(const char *text, int64_t otherwise_ms, int64_t *ms, struct fz_err *err)
{
	int rc;

	*ms = otherwise_ms;
	if (!text)
		return 0;
	rc = fz_parse_duration(text, ms, err);
	return rc < 0 ? fz_err_prefix(err, "--timeout") : 0;
}

const char *cmd_text(const struct cJSON *o, const char *key)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(o, key));

	return text ? text : "";
}

double cmd_number(const struct cJSON *o, const char *key)
{
	const cJSON *v = cJSON_GetObjectItem(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : 0;
}

char *cmd_json(const struct cJSON *o, bool indented)
{
	char *text = indented ? cJSON_Print(o) : cJSON_PrintUnformatted(o);
	struct fz_buf b = {0};

	if (text)
		cmd_quote_json(&b, text);
	cJSON_free(text);
	return (char *)b.data;
}

void cmd_print_json(const struct cJSON *o)
{
	char *text = cmd_json(o, true);

	if (text)
		printf("%s\n", text);
	free(text);
}
