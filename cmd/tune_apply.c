/* tune_apply.c - sysctls, kept over reboots and taken back: "# was: KEY = VALUE" above each line of the file says what to set back. */
#include "cmd/tune.h"

#include "base/file.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX 65536
#define WAS      "# was: "

static const char head[] = "# Written by `fazt tune --apply`; `fazt tune --undo` sets back what was and removes it.\n";

static int set(const char *key, const char *value, struct fz_err *err)
{
	char path[200];
	int fd, rc = 0;

	snprintf(path, sizeof(path), "/proc/sys/%.180s", key);
	for (char *p = path + 10; *p; p++)
		*p = (char)(*p == '.' ? '/' : *p);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0 || fz_write(fd, value, strlen(value)) < 0)
		rc = fz_fail_errno(err, errno, "setting %s to %s", key, value);
	fz_close(&fd);
	return rc;
}

/* What to set to have it back as it is: of the two forms of vm.dirty_... the one that is in force. */
static int before(const char *key, char *out, size_t cap, struct fz_err *err)
{
	char value[64], other[64];
	size_t n = strlen(key);

	if (cmd_tune_read(key, value, sizeof(value)) < 0)
		return fz_fail(err, FZ_ENOTFOUND, "there is no sysctl %s", key);
	if (n > 6 && !strcmp(key + n - 6, "_bytes") && !strcmp(value, "0")) {
		snprintf(other, sizeof(other), "%.*s_ratio", (int)(n - 6), key);
		if (cmd_tune_read(other, value, sizeof(value)) == 0) {
			snprintf(out, cap, "%s = %s", other, value);
			return 0;
		}
	}
	snprintf(out, cap, "%s = %s", key, value);
	return 0;
}

/* Gives the key's line another value: false when the file has no such line. What was before it came from fazt stays as it is noted. */
static int replace(struct fz_buf *text, const char *key, const char *want, bool *found)
{
	struct fz_buf out = {0};
	size_t n = strlen(key);
	int rc = 0;

	*found = false;
	for (const char *p = fz_buf_str(text); *p && rc == 0;) {
		size_t len = strcspn(p, "\n");

		if (!strncmp(p, key, n) && p[n] == ' ') {
			*found = true;
			rc = fz_buf_addf(&out, "%s = %s\n", key, want);
		} else {
			rc = fz_buf_addf(&out, "%.*s\n", (int)len, p);
		}
		p += len + (p[len] == '\n');
	}
	if (rc == 0) {
		fz_buf_fini(text);
		*text = out;
	} else {
		fz_buf_fini(&out);
	}
	return rc;
}

int cmd_tune_apply(const cJSON *list, int *n, struct fz_err *err)
{
	struct fz_buf text = {0};
	const cJSON *o;
	int rc = fz_read_file(AT_FDCWD, CMD_TUNE_FILE, FILE_MAX, &text, err);

	*n = 0;
	if (rc == -ENOENT)
		rc = fz_buf_add(&text, head, sizeof(head) - 1);
	cJSON_ArrayForEach (o, list) {
		const char *key = cJSON_GetStringValue(cJSON_GetObjectItem(o, "key"));
		const char *want = cJSON_GetStringValue(cJSON_GetObjectItem(o, "want"));
		const char *why = cJSON_GetStringValue(cJSON_GetObjectItem(o, "why"));
		char was[200];
		bool found;

		if (rc < 0 || strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "kind")), "kernel") != 0)
			continue;
		rc = replace(&text, key, want, &found);
		if (rc == 0 && !found)
			rc = before(key, was, sizeof(was), err);
		if (rc == 0 && !found)
			rc = fz_buf_addf(&text, "\n# %s\n" WAS "%s\n%s = %s\n", why, was, key, want);
		(*n)++;
	}
	if (rc == 0 && *n) /* first the way back, then the change */
		rc = fz_write_file(AT_FDCWD, CMD_TUNE_FILE, text.data, text.size, 0644, err);
	cJSON_ArrayForEach (o, list)
		if (rc == 0 && !strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(o, "kind")), "kernel"))
			rc = set(cJSON_GetStringValue(cJSON_GetObjectItem(o, "key")),
			         cJSON_GetStringValue(cJSON_GetObjectItem(o, "want")), err);
	fz_buf_fini(&text);
	return rc;
}

int cmd_tune_undo(int *n, struct fz_err *err)
{
	struct fz_buf text = {0};
	char *save = NULL;
	int rc = fz_read_file(AT_FDCWD, CMD_TUNE_FILE, FILE_MAX, &text, err);

	*n = 0;
	if (rc == -ENOENT)
		return 0;
	if (rc == 0 && strncmp(fz_buf_str(&text), head, sizeof(head) - 1) != 0)
		rc = fz_fail(err, FZ_EEXISTS, CMD_TUNE_FILE " was not written by fazt");
	for (char *l = rc == 0 ? strtok_r((char *)text.data, "\n", &save) : NULL; l && rc == 0;
	     l = strtok_r(NULL, "\n", &save)) {
		char key[128], value[64];

		if (!strncmp(l, WAS, sizeof(WAS) - 1) &&
		    sscanf(l + sizeof(WAS) - 1, "%127s = %63[^\n]", key, value) == 2) {
			rc = set(key, value, err);
			*n += rc == 0;
		}
	}
	if (rc == 0 && unlink(CMD_TUNE_FILE) < 0)
		rc = fz_fail_errno(err, errno, CMD_TUNE_FILE);
	fz_buf_fini(&text);
	return rc;
}
