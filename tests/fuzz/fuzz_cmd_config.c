/* Whatever stands in a configuration file is read or refused; what is read can be written, and is then read the same. */
#include "base/buf.h"
#include "cmd/config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fz_buf once = {0}, twice = {0};
	struct cmd_conf a, b;

	cmd_conf_init(&a);
	cmd_conf_init(&b);
	if (cmd_conf_parse(&a, (const char *)data, size, "fuzz.conf", NULL) == 0 &&
	    cmd_conf_format(&a, &once, NULL) == 0) {
		if (cmd_conf_parse(&b, fz_buf_str(&once), once.size, "again.conf", NULL) < 0 ||
		    cmd_conf_format(&b, &twice, NULL) < 0 || once.size != twice.size ||
		    memcmp(fz_buf_str(&once), fz_buf_str(&twice), once.size))
			abort();
	}
	cmd_conf_fini(&a);
	cmd_conf_fini(&b);
	fz_buf_fini(&once);
	fz_buf_fini(&twice);
	return 0;
}
