/* A URL; and the same text as an ini file of credentials. */
#include "store/credentials.h"
#include "store/url.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct store_credentials c = {0};
	struct store_url u;
	struct fz_err err;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = 0;
	if (store_url_parse(&u, text, &err) == 0) {
		/* what comes through leads nowhere else */
		if (u.kind == STORE_DIR ? u.path[0] != '/' : *u.prefix && store_key_check(u.prefix, &err) < 0)
			abort();
		if (u.kind == STORE_S3 && strpbrk(u.bucket, "/@?%"))
			abort();
		store_url_fini(&u);
	}
	(void)!store_credentials_parse(&c, text, "default", size % 2);
	store_credentials_fini(&c);
	free(text);
	return 0;
}
