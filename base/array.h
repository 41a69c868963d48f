/* array.h - arrays that grow by one element at a time: pointer, number of elements and capacity are the caller's, zero at first, and free()
 * ends them. */
#ifndef FZ_BASE_ARRAY_H
#define FZ_BASE_ARRAY_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

/* Room for one element behind the n that v has; v and cap may change. False without memory: then all is as it was. */
#define fz_array_room(v, n, cap) fz_array_grow((void **)&(v), n, &(cap), sizeof(*(v)))

static inline FZ_MUST_CHECK bool fz_array_grow(void **v, size_t n, size_t *cap, size_t element_bytes)
{
	size_t more = *cap ? 2 * *cap : 8;
	void *p;

	if (n < *cap)
		return true;
	p = reallocarray(*v, more, element_bytes);
	if (!p)
		return false;
	*v = p;
	*cap = more;
	return true;
}

#endif
