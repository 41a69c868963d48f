/* page.h - the status page, cmd/page.html, as it lies in the binary. */
#ifndef FZ_CMD_PAGE_H
#define FZ_CMD_PAGE_H

#include <stddef.h>

extern const char cmd_page[];
extern const char cmd_page_end[];

static inline size_t cmd_page_size(void)
{
	return (size_t)(cmd_page_end - cmd_page);
}

#endif
