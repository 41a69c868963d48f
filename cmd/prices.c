#include "cmd/prices.h"

#include "cmd/config.h"

#include <cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLANK " \t,="

static const char *const kinds[FZ_STORE_KINDS] = {"put", "get", "list", "delete"};

int cmd_prices_parse(const char *text, double per_1000[static FZ_STORE_KINDS], bool *any, struct fz_err *err)
{
	memset(per_1000, 0, FZ_STORE_KINDS * sizeof(*per_1000));
	*any = strcmp(text, "none") != 0;
	while (*any && *(text += strspn(text, BLANK))) {
		size_t n = strcspn(text, BLANK), k = 0;
		char *end;

		while (k < FZ_STORE_KINDS && (strlen(kinds[k]) != n || strncmp(kinds[k], text, n)))
			k++;
		if (k == FZ_STORE_KINDS)
			return fz_fail(err, FZ_ECONFIG, "'%.*s' is none of put, get, list, delete",
			               (int)(n < 40 ? n : 40), text);
		text += n + strspn(text + n, BLANK);
		per_1000[k] = strtod(text, &end);
		if (end == text || (*end && !strchr(BLANK, *end)) || !isfinite(per_1000[k]) || per_1000[k] < 0)
			return fz_fail(err, FZ_ECONFIG, "%s: '%.40s' is no price for 1000 requests", kinds[k], text);
		text = end;
	}
	return 0;
}

bool cmd_prices_of(const struct cmd_target *t, double per_1000[static FZ_STORE_KINDS])
{
	static const double list[FZ_STORE_KINDS] = {0.005, 0.0004, 0.005, 0};
	bool any = false;

	if (t->prices)
		return cmd_prices_parse(t->prices, per_1000, &any, NULL) == 0 && any;
	memcpy(per_1000, list, sizeof(list));
	return strncmp(t->url, "s3:", 3) == 0;
}

void cmd_prices_status(const struct cmd_target *t, cJSON *target)
{
	const cJSON *counts = cJSON_GetObjectItem(target, "requests_by_kind");
	double per_1000[FZ_STORE_KINDS];
	cJSON *o;

	if (!cmd_prices_of(t, per_1000))
		return;
	o = cJSON_AddObjectToObject(target, "cost");
	for (size_t k = 0; k < FZ_STORE_KINDS; k++) {
		const cJSON *n = cJSON_GetObjectItem(counts, kinds[k]);

		cJSON_AddNumberToObject(o, kinds[k], (cJSON_IsNumber(n) ? n->valuedouble : 0) * per_1000[k] / 1000);
	}
}
