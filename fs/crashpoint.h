/* crashpoint.h - places where a test can make the worker die: FAZT_CRASHPOINT=<name>:<nth> kills the process with SIGKILL
 * when it passes FS_CRASHPOINT(name) for the nth time. Without the variable: one predicted branch. */
#ifndef FZ_FS_CRASHPOINT_H
#define FZ_FS_CRASHPOINT_H

#include <stdbool.h>

extern bool fs_crashpoint_armed;
void fs_crashpoint_init(void); /* reads the environment; once, before threads start */
void fs_crashpoint_hit(const char *name);

#define FS_CRASHPOINT(name)                                                                                            \
	do {                                                                                                           \
		if (__builtin_expect(fs_crashpoint_armed, 0))                                                          \
			fs_crashpoint_hit(#name);                                                                      \
	} while (0)

#endif
