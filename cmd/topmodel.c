#include "cmd/topmodel.h"

#include "cmd/ask.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_true(const cJSON *o, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItem(o, key));
}

/* ---- rates ------------------------------------------------------------------------------------------------------ */

static void push(struct cmd_topseries *s, double v)
{
	if (s->n == CMD_TOP_HISTORY)
		memmove(s->at, s->at + 1, --s->n * sizeof(s->at[0]));
	s->at[s->n++] = (float)v;
}

static double mean(const struct cmd_topseries *s)
{
	unsigned n = s->n < CMD_TOP_MEAN ? s->n : CMD_TOP_MEAN;
	double sum = 0;

	for (unsigned i = 0; i < n; i++)
		sum += (double)s->at[s->n - 1 - i];
	return n ? sum / n : 0;
}

/* A counter that goes back has begun anew: that is no rate. */
static double per_second(double before, double now, double seconds)
{
	return seconds > 0 && now > before ? (now - before) / seconds : 0;
}

/* ---- databases -------------------------------------------------------------------------------------------------- */

/* Where a lineage is; hint: where it is when nothing has changed since the last look. */
static struct cmd_topdb *find(struct cmd_topdb *v, size_t n, const char *lineage, size_t hint)
{
	if (hint < n && !strcmp(v[hint].lineage, lineage))
		return &v[hint];
	for (size_t i = 0; i < n; i++)
		if (!strcmp(v[i].lineage, lineage))
			return &v[i];
	return NULL;
}

static void db_fini(struct cmd_topdb *d)
{
	free(d->name);
	free(d->state);
}

static bool set_state(struct cmd_topdb *d, enum cmd_toplevel level, const char *state)
{
	char *copy;

	if (d->state && level <= d->level)
		return true;
	copy = strdup(state);
	if (!copy)
		return false;
	free(d->state);
	d->state = copy;
	d->level = level;
	return true;
}

static bool read_db(struct cmd_topdb *d, const cJSON *o, const struct cmd_topdb *before, double seconds)
{
	bool ok;

	d->name = strdup(cmd_text(o, "name"));
	snprintf(d->lineage, sizeof(d->lineage), "%s", cmd_text(o, "lineage"));
	snprintf(d->mode, sizeof(d->mode), "%s", cmd_text(o, "journal_mode"));
	d->txid = cmd_number(o, "txid");
	d->size_bytes = cmd_number(o, "pages") * cmd_number(o, "page_size");
	d->log_bytes = cmd_number(o, "log_bytes");
	d->written_bytes = cJSON_HasObjectItem(o, "captured_bytes") ? cmd_number(o, "captured_bytes") : d->log_bytes;
	ok = d->name && set_state(d, CMD_TOP_OK, "ok");
	if (!strcmp(cmd_text(o, "capture"), "baseline"))
		ok = ok && set_state(d, CMD_TOP_NOTE, "reading");
	if (cmd_number(o, "merged_txns") > 0)
		ok = ok && set_state(d, CMD_TOP_NOTE, "merged");
	if (cmd_number(o, "scrub_found") > 0)
		ok = ok && set_state(d, CMD_TOP_BAD, "differed");
	if (*cmd_text(o, "last_error"))
		ok = ok && set_state(d, CMD_TOP_BAD, "error");
	if (before) {
		d->history = before->history;
		d->growth = before->growth;
		push(&d->history, per_second(before->txid, d->txid, seconds));
		push(&d->growth, per_second(before->written_bytes, d->written_bytes, seconds));
	}
	d->commits = mean(&d->history);
	d->bytes = mean(&d->growth);
	return ok;
}

static int read_dbs(struct cmd_topmodel *m, const cJSON *list, double seconds)
{
	size_t n = (size_t)cJSON_GetArraySize(list), i = 0;
	struct cmd_topdb *v = calloc(n ? n : 1, sizeof(*v));
	double commits = 0;
	bool ok = v != NULL;
	const cJSON *o;

	if (!v)
		return -ENOMEM;
	m->commits = m->bytes = 0;
	cJSON_ArrayForEach (o, list) {
		ok = ok && read_db(&v[i], o, find(m->dbs, m->n_dbs, cmd_text(o, "lineage"), i), seconds);
		m->commits += v[i].commits;
		m->bytes += v[i].bytes;
		commits += v[i].history.n ? (double)v[i].history.at[v[i].history.n - 1] : 0;
		i++;
	}
	if (seconds > 0)
		push(&m->history, commits);
	for (size_t k = 0; k < m->n_dbs; k++)
		db_fini(&m->dbs[k]);
	free(m->dbs);
	m->dbs = v;
	m->n_dbs = n;
	return ok ? 0 : -ENOMEM;
}

/* ---- targets, replicas, the primary ----------------------------------------------------------------------------- */

static void peer_fini(struct cmd_toppeer *p)
{
	free(p->name);
	free(p->id);
	free(p->where);
	free(p->state);
	free(p->error);
}

/* How far a peer's databases are behind, told to the databases too. Returns false when there is no memory. */
static bool read_lags(struct cmd_topmodel *m, struct cmd_toppeer *p, const cJSON *list)
{
	bool here = strcmp(p->kind, "target") != 0 && strcmp(p->kind, "replica") != 0; /* this host is the one behind */
	enum cmd_toplevel level = here || p->level == CMD_TOP_BAD ? CMD_TOP_BAD : CMD_TOP_NOTE;
	size_t i = 0;
	const cJSON *o;
	bool ok = true;

	cJSON_ArrayForEach (o, list) {
		struct cmd_topdb *d = find(m->dbs, m->n_dbs, cmd_text(o, "lineage"), i++);
		double ms = cmd_number(o, "lag_ms") + cmd_number(o, "lag_seconds") * 1000;

		if (strcmp(p->kind, "target") != 0) { /* a target sums up by itself */
			p->lag_bytes += cmd_number(o, "lag_bytes");
			p->behind += cmd_number(o, "lag_txns");
			p->lag_ms = ms > p->lag_ms ? ms : p->lag_ms;
		}
		if (!d)
			continue;
		d->lag_ms = ms > d->lag_ms ? ms : d->lag_ms;
		if (cmd_number(o, "lag_txns") > d->behind)
			d->behind = cmd_number(o, "lag_txns");
		if (is_true(o, "diverged"))
			ok = ok && set_state(d, CMD_TOP_BAD, "diverged");
		else if (*cmd_text(o, "last_error"))
			ok = ok && set_state(d, level, here ? "apply" : p->kind);
	}
	return ok;
}

static bool read_peer(struct cmd_topmodel *m, struct cmd_toppeer *p, const cJSON *o, const struct cmd_toppeer *before,
                      size_t n_before, double seconds)
{
	bool target = !strcmp(p->kind, "target"), connected = is_true(o, "connected");
	const char *state = target ? cmd_text(o, "state") : connected ? "connected" : "away";
	const char *name = cmd_text(o, "name"), *where = cmd_text(o, target ? "url" : "address");

	if (!strcmp(p->kind, "replica") && *cmd_text(o, "host"))
		name = cmd_text(o, "host");
	else if (!*name)
		name = cmd_text(o, p->kind); /* "primary", "store" */
	p->name = strdup(name);
	p->id = strdup(cmd_text(o, target ? "url" : "key"));
	p->where = strdup(where);
	p->state = strdup(state);
	p->error = strdup(cmd_text(o, "last_error"));
	if (!p->name || !p->id || !p->where || !p->state || !p->error)
		return false;
	if (!strcmp(state, "retrying") || (!connected && !strcmp(p->kind, "replica")))
		p->level = CMD_TOP_NOTE;
	else if (target ? strcmp(state, "ok") != 0 : !connected)
		p->level = CMD_TOP_BAD;
	p->total_bytes = cmd_number(o, "bytes_out") + cmd_number(o, "bytes_in");
	p->total_requests = cmd_number(o, "requests") + cmd_number(o, "looks");
	p->lag_ms = target ? cmd_number(o, "lag_seconds") * 1000 : cmd_number(o, "lag_ms");
	if (!target && !connected && !cJSON_GetArraySize(cJSON_GetObjectItem(o, "databases")))
		p->lag_ms = -1; /* it has not been here since this worker started */
	p->lag_bytes = target ? cmd_number(o, "lag_bytes") : 0;
	p->behind = target ? cmd_number(o, "lag_txns") : 0;
	for (size_t i = 0; i < n_before; i++) {
		if (strcmp(before[i].kind, p->kind) != 0 || strcmp(before[i].id, p->id) != 0)
			continue;
		p->flow = before[i].flow;
		push(&p->flow, per_second(before[i].total_bytes, p->total_bytes, seconds));
		p->requests = per_second(before[i].total_requests, p->total_requests, seconds);
		break;
	}
	p->bytes = mean(&p->flow);
	return read_lags(m, p, cJSON_GetObjectItem(o, "databases"));
}

/* Those that are not well come first; else they stay in their order. */
static void sort_peers(struct cmd_toppeer *v, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		for (size_t k = i; k > 0 && v[k].level > v[k - 1].level; k--) {
			struct cmd_toppeer x = v[k];

			v[k] = v[k - 1];
			v[k - 1] = x;
		}
	}
}

static int read_peers(struct cmd_topmodel *m, const cJSON *status, double seconds)
{
	const cJSON *targets = cJSON_GetObjectItem(status, "targets"), *o;
	const cJSON *replicas = cJSON_GetObjectItem(status, "replicas");
	const cJSON *following = cJSON_GetObjectItem(status, "following");
	size_t room = (size_t)cJSON_GetArraySize(targets) + (size_t)cJSON_GetArraySize(replicas) + 1, n = 0;
	struct cmd_toppeer *v = calloc(room, sizeof(*v));
	bool ok = v != NULL;

	if (!v)
		return -ENOMEM;
	if (cJSON_IsObject(following)) {
		v[n].kind = !strcmp(cmd_text(following, "source"), "store") ? "store" : "primary";
		ok = ok && read_peer(m, &v[n++], following, m->peers, m->n_peers, seconds);
	}
	cJSON_ArrayForEach (o, targets) {
		v[n].kind = "target";
		ok = ok && read_peer(m, &v[n], o, m->peers, m->n_peers, seconds);
		n++;
	}
	cJSON_ArrayForEach (o, replicas) {
		v[n].kind = "replica";
		ok = ok && read_peer(m, &v[n], o, m->peers, m->n_peers, seconds);
		n++;
	}
	for (size_t i = 0; i < m->n_peers; i++)
		peer_fini(&m->peers[i]);
	free(m->peers);
	sort_peers(v, n);
	m->peers = v;
	m->n_peers = n;
	return ok ? 0 : -ENOMEM;
}

int cmd_topmodel_take(struct cmd_topmodel *m, struct cJSON *status, uint64_t mono_ns, struct fz_err *err)
{
	const cJSON *databases = cJSON_GetObjectItem(status, "databases");
	double seconds = m->status ? (double)(mono_ns - m->at_ns) / 1e9 : 0;
	int rc;

	if (!cJSON_IsArray(databases)) {
		cJSON_Delete(status);
		return fz_fail(err, FZ_EINTERNAL, "the worker's answer is no status");
	}
	cJSON_Delete(m->status);
	m->status = status;
	m->at_ns = mono_ns;
	rc = read_dbs(m, databases, seconds);
	if (rc == 0)
		rc = read_peers(m, status, seconds);
	return rc < 0 ? fz_fail_errno(err, -rc, "status") : 0;
}

void cmd_topmodel_fini(struct cmd_topmodel *m)
{
	for (size_t i = 0; i < m->n_dbs; i++)
		db_fini(&m->dbs[i]);
	for (size_t i = 0; i < m->n_peers; i++)
		peer_fini(&m->peers[i]);
	free(m->dbs);
	free(m->peers);
	cJSON_Delete(m->status);
	*m = (struct cmd_topmodel){.status = NULL};
}

/* ---- order ------------------------------------------------------------------------------------------------------ */

static const char *const sort_names[CMD_TOP_SORTS] = {
        [CMD_TOP_BY_RATE] = "commits", [CMD_TOP_BY_NAME] = "name", [CMD_TOP_BY_LAG] = "lag",
        [CMD_TOP_BY_SIZE] = "size",    [CMD_TOP_BY_TXID] = "txid",
};

struct sorting {
	const struct cmd_topdb *dbs;
	enum cmd_topsort by;
	bool reverse;
};

static double key(const struct cmd_topdb *d, enum cmd_topsort by)
{
	switch (by) {
	case CMD_TOP_BY_RATE:
		return d->commits;
	case CMD_TOP_BY_LAG:
		return d->lag_ms;
	case CMD_TOP_BY_SIZE:
		return d->size_bytes;
	case CMD_TOP_BY_TXID:
		return d->txid;
	default:
		return 0;
	}
}

/* Numbers largest first, names from a to z; reverse turns that round. */
static int compare(const void *a, const void *b, void *arg)
{
	const struct sorting *s = arg;
	const struct cmd_topdb *x = &s->dbs[*(const size_t *)a], *y = &s->dbs[*(const size_t *)b];
	double p = key(x, s->by), q = key(y, s->by);
	int order = p > q ? -1 : p < q ? 1 : 0;

	if (order == 0)
		order = strcmp(x->name, y->name);
	return s->reverse ? -order : order;
}

size_t *cmd_topmodel_order(const struct cmd_topmodel *m, enum cmd_topsort by, bool reverse, const char *filter,
                           size_t *n)
{
	struct sorting s = {m->dbs, by, reverse};
	size_t *v = m->n_dbs ? calloc(m->n_dbs, sizeof(*v)) : NULL;

	*n = 0;
	if (!v)
		return NULL;
	for (size_t i = 0; i < m->n_dbs; i++)
		if (!*filter || strcasestr(m->dbs[i].name, filter))
			v[(*n)++] = i;
	qsort_r(v, *n, sizeof(*v), compare, &s);
	return v;
}

const char *cmd_topmodel_sort_name(enum cmd_topsort by)
{
	return by < CMD_TOP_SORTS ? sort_names[by] : "";
}
