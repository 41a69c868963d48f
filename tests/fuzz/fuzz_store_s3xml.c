/* The first byte chooses the document that is expected. */
#include "store/s3xml.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct store_s3_error e;
	struct fz_store_list list = {0};
	struct store_s3_page page = {0};
	struct store_s3_undeleted_list left = {0};
	struct store_s3_upload_list uploads = {0};
	struct fz_err err;
	char *id = NULL;

	if (size == 0)
		return 0;
	switch (data[0] % 5) {
	case 0:
		if (store_s3xml_error(data + 1, size - 1, &e) >= 0 &&
		    (strlen(e.code) >= sizeof(e.code) || strlen(e.region) >= sizeof(e.region)))
			abort();
		break;
	case 1:
		if (store_s3xml_list(data + 1, size - 1, "p/", &list, &page, &err) == 0)
			for (size_t i = 0; i < list.n; i++)
				if (!*list.v[i].key)
					abort();
		break;
	case 2:
		if (store_s3xml_delete(data + 1, size - 1, &left, &err) == 0)
			for (size_t i = 0; i < left.n; i++)
				if (!left.v[i].key)
					abort();
		break;
	case 3:
		if (store_s3xml_upload_id(data + 1, size - 1, &id, &err) == 0 && !*id)
			abort();
		break;
	default:
		if (store_s3xml_uploads(data + 1, size - 1, &uploads, &err) == 0)
			for (size_t i = 0; i < uploads.n; i++)
				if (!uploads.v[i].key || !uploads.v[i].id)
					abort();
	}
	free(id);
	free(page.next);
	fz_store_list_fini(&list);
	store_s3_undeleted_fini(&left);
	store_s3_uploads_fini(&uploads);
	return 0;
}
