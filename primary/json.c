#include "primary/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int primary_json_print(struct fz_buf *out, cJSON *o)
{
	char *text = cJSON_PrintUnformatted(o);
	int rc = text ? fz_buf_addf(out, "%s\n", text) : -ENOMEM;

	cJSON_free(text);
	cJSON_Delete(o);
	return rc;
}

bool primary_json_text(const cJSON *o, const char *name, char *out, size_t cap)
{
	const cJSON *i = cJSON_GetObjectItemCaseSensitive(o, name);

	if (!cJSON_IsString(i) || strlen(i->valuestring) >= cap)
		return false;
	snprintf(out, cap, "%s", i->valuestring);
	return true;
}

bool primary_json_number(const cJSON *o, const char *name, double max, double *out)
{
	const cJSON *i = cJSON_GetObjectItemCaseSensitive(o, name);

	if (!cJSON_IsNumber(i) || !(i->valuedouble >= 0 && i->valuedouble <= max))
		return false;
	*out = i->valuedouble;
	return true;
}
