#include "cmd/fetch.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/temp.h"
#include "cmd/args.h"
#include "cmd/place.h"
#include "cmd/progress.h"
#include "replica/inplace.h"

#include <cJSON.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IN_PLACE_WAIT_MS 30000

int cmd_moment_read(const struct cmd_moment *m, struct replica_restore_conf *conf, struct fz_err *err)
{
	unsigned long long n;
	int rc = 0;

	if (!!m->at + !!m->txid + m->latest > 1)
		return fz_fail(err, FZ_EUSAGE, "--at, --txid and --latest exclude one another");
	conf->when = m->at ? REPLICA_AT : m->txid ? REPLICA_TXID : REPLICA_LATEST;
	if (m->at) {
		rc = fz_parse_time(m->at, fz_now_ms(), &conf->at_ms, err);
		if (rc < 0)
			return fz_err_prefix(err, "--at");
	}
	if (m->txid) {
		rc = cmd_args_number("txid", m->txid, INT64_MAX, &n, err);
		if (rc == 0)
			conf->txid = n;
	}
	return rc;
}

/* Below a directory that fazt serves, or served, an application is to work with a new file: it is for those who can use the live database,
 * or else for the directory's owner. Anywhere else it is ours alone: NULL. */
static const struct stat *like(const struct cmd_source *s, int dirfd, struct stat *st)
{
	int live = -1;
	bool found;

	if (dirfd < 0)
		return NULL;
	found = *s->live && cmd_place_of(s->live, &live, NULL) == 0 && live >= 0 &&
	        fstatat(live, basename(s->live), st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode);
	fz_close(&live);
	if (found)
		return st;
	if (fstat(dirfd, st) < 0)
		return NULL;
	st->st_mode = 0600;
	return st;
}

int cmd_fetch(struct cmd_source *s, struct replica_restore_conf *conf, struct cmd_progress *p,
              struct replica_restore_result *result, struct fz_err *err)
{
	struct stat st;
	int dirfd = -1, rc = conf->output ? cmd_place_of(conf->output, &dirfd, err) : 0;

	if (rc < 0)
		return rc;
	conf->like = like(s, dirfd, &st);
	conf->output_dir = dirfd < 0 ? NULL : &dirfd;
	conf->progress = p && p->on ? &p->bytes : NULL;
	do {
		rc = replica_restore(s->source, conf, result, err);
		/* the next place knows less of which life of the database is meant */
		if (rc < 0 && result->commit.lineage[0])
			memcpy(conf->lineage, result->commit.lineage, sizeof(conf->lineage));
	} while (rc < 0 && cmd_source_next(s, err));
	if (p && rc == 0) /* nothing is fetched from the log */
		p->bytes_done = p->of_bytes =
		        result->fetched_bytes ? result->fetched_bytes : (uint64_t)result->pages * result->page_size;
	if (p)
		cmd_progress_end(p);
	conf->like = NULL;
	conf->output_dir = NULL;
	fz_close(&dirfd);
	return rc;
}

const char *cmd_fetch_label(const struct cmd_source *s, const struct replica_restore_result *result)
{
	return s->is_log && !result->from_log ? s->store_label : s->label;
}

struct cJSON *cmd_fetch_json(const char *label, const struct replica_restore_result *result)
{
	cJSON *o = cJSON_CreateObject();
	char when[FZ_TIME_SIZE];

	cJSON_AddStringToObject(o, "source", label);
	cJSON_AddNumberToObject(o, "txid", (double)result->commit.txid);
	cJSON_AddStringToObject(o, "time", fz_format_time(when, result->commit.time_ms));
	cJSON_AddNumberToObject(o, "time_ms", (double)result->commit.time_ms);
	return o;
}

int cmd_in_place(const char *restored, const char *live, const int *dir, struct replica_inplace_guard *guard,
                 struct replica_inplace_result *placed, struct fz_err *err)
{
	char *resolved = NULL;
	int dirfd = -1, rc = dir ? 0 : cmd_place_of(live, &dirfd, err);

	if (rc == 0 && !dir && dirfd < 0 &&
	    (resolved = realpath(live, NULL))) { /* a link from outside to a place below */
		live = resolved;
		rc = cmd_place_of(live, &dirfd, err);
	}
	if (rc == 0)
		rc = replica_inplace_guarded(restored, live,
		                             dir         ? dir
		                             : dirfd < 0 ? NULL
		                                         : &dirfd,
		                             IN_PLACE_WAIT_MS, cmd_interruptible(), guard, placed, err);
	if (rc == -FZ_EBUSY)
		rc = cmd_place_busy(live, err);
	fz_close(&dirfd);
	free(resolved);
	return rc;
}

/* A place beside the live database would be captured by the mount, and a copy with a name would stay when the process is killed. */
int cmd_fetch_in_place(struct cmd_source *s, struct replica_restore_conf *conf, struct cmd_progress *p,
                       const char *live, const int *dir, struct replica_inplace_guard *guard,
                       struct replica_restore_result *result, struct replica_inplace_result *placed, struct fz_err *err)
{
	char file[32];
	int fd = fz_temp_file(fz_temp_dir(), err), rc;

	if (fd < 0)
		return fd;
	conf->into = &fd;
	rc = cmd_fetch(s, conf, p, result, err);
	snprintf(file, sizeof(file), "/proc/self/fd/%d", fd);
	if (rc == 0)
		rc = cmd_in_place(file, live, dir, guard, placed, err);
	conf->into = NULL;
	fz_close(&fd);
	return rc;
}
