#include "store/backend.h"

int store_s3_open(struct fz_store **out, const char *url, const struct store_url *parts,
                  const struct fz_store_conf *conf, struct fz_err *err)
{
	(void)out, (void)parts, (void)conf;
	return fz_fail(err, FZ_EINTERNAL, "%s: S3 is not there yet", url);
}
