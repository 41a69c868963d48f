/* fuzz_ltx_name.c - keys of objects on any bytes: a key that is taken is the one its fields give. */
#include "ltx/name.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *key = malloc(size + 1), again[LTX_NAME_MAX];
	struct ltx_name n;

	if (!key)
		abort();
	if (size)
		memcpy(key, data, size);
	key[size] = 0;
	if (ltx_name_get(&n, key) == 0 && strcmp(ltx_name_put(again, &n), key) != 0)
		abort();
	free(key);
	return 0;
}
