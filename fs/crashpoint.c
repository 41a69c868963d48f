#include "fs/crashpoint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool fs_crashpoint_armed;
static char point[64];
static atomic_int left;

void fs_crashpoint_init(void)
{
	const char *v = getenv("FAZT_CRASHPOINT"), *colon = v ? strrchr(v, ':') : NULL;

	if (!colon || (size_t)(colon - v) >= sizeof(point))
		return;
	memcpy(point, v, (size_t)(colon - v));
	left = atoi(colon + 1);
	fs_crashpoint_armed = left > 0;
}

void fs_crashpoint_hit(const char *name)
{
	if (strcmp(name, point) != 0 || atomic_fetch_sub(&left, 1) != 1)
		return;
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}
