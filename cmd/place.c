#include "cmd/place.h"

#include "base/file.h"
#include "cmd/ask.h"
#include "cmd/source_arg.h"

#include <cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ASK_MS 30000

bool cmd_place_name(const char *s)
{
	static const char *const companions[] = {"-wal", "-shm", "-journal"};
	size_t n = strlen(s);

	for (size_t i = 0; i < 3; i++)
		if (n >= strlen(companions[i]) && !strcmp(s + n - strlen(companions[i]), companions[i]))
			return false;
	for (const char *p = s; *p; p += strcspn(p, "/"), p += *p == '/') {
		size_t part = strcspn(p, "/");

		if (part == 0 || (p[0] == '.' && (part == 1 || (part == 2 && p[1] == '.'))) ||
		    (p == s && part == 5 && !strncmp(p, ".fazt", 5)))
			return false;
	}
	return n > 0 && s[n - 1] != '/';
}

int cmd_place_find(struct cmd_place *p, const char *arg, struct fz_err *err)
{
	struct cmd_where w;
	cJSON *answer = NULL;
	const char *role;
	int rc;

	memset(p, 0, sizeof(*p));
	rc = cmd_source_split(arg, &p->w, p->database, sizeof(p->database), err);
	if (rc < 0)
		return rc == -FZ_ENOTFOUND
		               ? fz_fail(err, FZ_ENOTFOUND, "'%s' is no name below a directory that fazt serves", arg)
		               : rc;
	if (!p->w.fazt)
		return fz_fail(err, FZ_ENOTMOUNTED, "%s is not mounted by fazt", p->w.dir);
	if (!cmd_place_name(p->database))
		return fz_fail(err, FZ_EUSAGE, "'%s' cannot be the name of a database", p->database);
	if (snprintf(p->path, sizeof(p->path), "%s/%s", strcmp(p->w.dir, "/") ? p->w.dir : "", p->database) >=
	    (int)sizeof(p->path))
		return fz_fail(err, FZ_EUSAGE, "the path is too long");
	rc = cmd_ask(p->w.dir, cmd_request("status"), ASK_MS, &w, &answer, err);
	role = cJSON_GetStringValue(cJSON_GetObjectItem(answer, "role"));
	if (rc == 0 && role && !strcmp(role, "replica"))
		rc = fz_fail(err, FZ_EUSAGE, "%s is a replica: its databases come from its primary, do it there",
		             p->w.dir);
	cJSON_Delete(answer);
	return rc;
}

int cmd_place_capture(const char *dir, struct fz_err *err)
{
	cJSON *request = cmd_request("sync"), *answer = NULL;
	struct cmd_where w;
	int rc;

	cJSON_AddBoolToObject(request, "captured", true);
	rc = cmd_ask(dir, request, -1, &w, &answer, err);
	cJSON_Delete(answer);
	return rc;
}

int cmd_place_settle(struct cmd_place *p, struct fz_err *err)
{
	int fd = open(p->path, O_RDONLY | O_CLOEXEC), rc; /* the first handle of a file shows that it is a database */
	cJSON *answer = NULL;
	const cJSON *d;
	struct cmd_where w;

	if (fd < 0)
		return fz_fail_errno(err, errno, "cannot open %s", p->path);
	fz_close(&fd);
	rc = cmd_place_capture(p->w.dir, err);
	if (rc == 0)
		rc = cmd_ask(p->w.dir, cmd_request("status"), ASK_MS, &w, &answer, err);
	cJSON_ArrayForEach (d, cJSON_GetObjectItem(answer, "databases")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(d, "name"));
		const char *lineage = cJSON_GetStringValue(cJSON_GetObjectItem(d, "lineage"));
		const cJSON *txid = cJSON_GetObjectItem(d, "txid");

		if (!name || strcmp(name, p->database) != 0)
			continue;
		p->captured = cJSON_IsNumber(txid) && txid->valuedouble > 0;
		p->txid = cJSON_IsNumber(txid) ? (uint64_t)txid->valuedouble : 0;
		snprintf(p->lineage, sizeof(p->lineage), "%s", lineage ? lineage : "");
	}
	cJSON_Delete(answer);
	return rc < 0 ? fz_err_prefix(err, "%s is written, but", p->path) : 0;
}
