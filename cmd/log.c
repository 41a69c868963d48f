#include "cmd/args.h"
#include "cmd/ask.h"
#include "cmd/cmd.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/temp.h"
#include "base/utf8.h"
#include "cmd/quote.h"
#include "cmd/source_arg.h"
#include "cmd/stores.h"
#include "replica/catalog.h"
#include "replica/source.h"
#include "replica/touched.h"

#include <cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What --tables adds to a commit. */
struct tables {
	bool asked, known;
	const char *const *names;
	size_t n;
};

/* A table may have any name: what is no character becomes '?', and for the terminal control characters do too. Plain
 * names stand as they are (quoted: within "", as SQL has it). */
static int add_name(struct fz_buf *out, const char *name, bool terminal)
{
	const unsigned char *p = (const unsigned char *)name;
	bool quoted = terminal &&
	              (!*p || p[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$")]);
	int rc = quoted ? fz_buf_add(out, "\"", 1) : 0;

	while (rc == 0 && *p) {
		size_t n = fz_utf8_char((const char *)p);

		if (!n || (terminal && (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))))
			rc = fz_buf_add(out, "?", 1);
		else
			rc = fz_buf_add(out, p, n);
		if (rc == 0 && quoted && *p == '"')
			rc = fz_buf_add(out, "\"", 1);
		p += n ? n : 1;
	}
	return rc == 0 && quoted ? fz_buf_add(out, "\"", 1) : rc;
}

static int print_tables(const struct tables *t, struct fz_err *err)
{
	struct fz_buf line = {0};
	int rc = fz_buf_addf(&line, "  tables: %s", !t->known ? "-" : t->n ? "" : "(none)");

	for (size_t i = 0; rc == 0 && t->known && i < t->n; i++) {
		rc = i ? fz_buf_add(&line, ", ", 2) : 0;
		if (rc == 0)
			rc = add_name(&line, t->names[i], true);
	}
	if (rc == 0)
		fputs(fz_buf_str(&line), stdout);
	fz_buf_fini(&line);
	return rc < 0 ? fz_fail_errno(err, ENOMEM, "listing") : 0;
}

static int json_tables(const struct tables *t, cJSON *o, struct fz_err *err)
{
	cJSON *list = t->known ? cJSON_AddArrayToObject(o, "tables") : NULL;
	struct fz_buf name = {0};
	int rc = 0;

	for (size_t i = 0; rc == 0 && list && i < t->n; i++) {
		fz_buf_reset(&name);
		rc = add_name(&name, t->names[i], false);
		if (rc == 0)
			cJSON_AddItemToArray(list, cJSON_CreateString(name.size ? fz_buf_str(&name) : ""));
	}
	fz_buf_fini(&name);
	return rc < 0 ? fz_fail_errno(err, ENOMEM, "listing") : 0;
}

/* JSON: one array, one commit a line, so that both a parser and line tools can read it. */
static int print_commit(const struct replica_commit *c, const struct tables *t, int64_t ended_ms, bool json, bool first,
                        struct fz_err *err)
{
	char when[FZ_TIME_SIZE], checksum[17];
	cJSON *o;
	char *text;
	int rc = 0;

	fz_format_time(when, c->time_ms);
	if (!json) {
		if (c->min_txid < c->txid) /* only the last of a merged range can be restored */
			cmd_print("%-10llu %s %8u pages %10llu bytes  (%llu..%llu merged)", (unsigned long long)c->txid,
			          when, c->pages, (unsigned long long)c->size_bytes, (unsigned long long)c->min_txid,
			          (unsigned long long)c->txid);
		else
			cmd_print("%-10llu %s %8u pages %10llu bytes", (unsigned long long)c->txid, when, c->pages,
			          (unsigned long long)c->size_bytes);
		rc = t->asked ? print_tables(t, err) : 0;
		cmd_print("\n");
		return rc;
	}
	o = cJSON_CreateObject();
	snprintf(checksum, sizeof(checksum), "%016llx", (unsigned long long)c->checksum);
	cJSON_AddNumberToObject(o, "txid", (double)c->txid);
	cJSON_AddNumberToObject(o, "min_txid", (double)c->min_txid);
	cJSON_AddStringToObject(o, "time", when);
	cJSON_AddNumberToObject(o, "time_ms", (double)c->time_ms);
	cJSON_AddNumberToObject(o, "pages", c->pages);
	cJSON_AddNumberToObject(o, "bytes", (double)c->size_bytes);
	cJSON_AddNumberToObject(o, "database_pages", c->commit);
	if (c->checksum) /* known without reading the transaction: of the last one of an object or of the log */
		cJSON_AddStringToObject(o, "checksum", checksum);
	cJSON_AddStringToObject(o, "lineage", c->lineage);
	cJSON_AddNumberToObject(o, "epoch", c->epoch);
	if (ended_ms) /* the database was deleted or renamed later */
		cJSON_AddStringToObject(o, "deleted", fz_format_time(when, ended_ms));
	rc = t->asked ? json_tables(t, o, err) : 0;
	text = cmd_json(o, false);
	cJSON_Delete(o);
	if (!text)
		return fz_fail(err, FZ_EINTERNAL, "out of memory");
	printf("%s%s", first ? "[\n" : ",\n", text);
	free(text);
	return rc;
}

/* Behind the last commit of a life that has ended. */
static void print_end(const struct replica_commits *commits, const char *lineage)
{
	int64_t ms = *lineage ? replica_commits_ended(commits, lineage) : 0;
	char when[FZ_TIME_SIZE];

	if (ms)
		cmd_print("%-10s %s\n", "deleted", fz_format_time(when, ms));
}

/* Prints the commits of the source at hand; *printed counts. */
static int list(struct cmd_source *s, bool json, bool tables, unsigned long long *printed, struct fz_err *err)
{
	struct replica_commits *commits = NULL;
	struct replica_touched *touched = NULL;
	struct tables t = {.asked = tables};
	struct replica_commit c;
	struct fz_err why = {0};
	unsigned long long untold = 0;
	char lineage[17] = "";
	int rc = 0;

	if (tables)
		rc = replica_touched_open(&touched, fz_temp_dir(), err);
	if (rc == 0)
		rc = replica_commits_open(&commits, s->source, err);
	while (rc >= 0 && (rc = replica_commits_next(commits, &c, err)) == 1) {
		if (tables) {
			struct fz_err e = {0};

			rc = replica_touched_next(touched, commits, &c, &t.names, &t.n, &e);
			if (rc < 0) {
				*err = e;
				break;
			}
			t.known = rc == 1;
			if (!t.known && e.code != -FZ_ENOCOMMIT && !untold++)
				why = e;
		}
		if (!json && strcmp(lineage, c.lineage) != 0)
			print_end(commits, lineage);
		memcpy(lineage, c.lineage, sizeof(lineage));
		rc = print_commit(&c, &t, replica_commits_ended(commits, lineage), json, *printed == 0, err);
		(*printed)++;
	}
	if (rc == 0 && !json)
		print_end(commits, lineage);
	replica_commits_close(commits);
	replica_touched_close(touched);
	if (json && *printed)
		printf("\n]\n");
	if (untold)
		fz_warn("of %llu commits the tables cannot be told: %s", untold, fz_log_why(&why));
	if (rc == 0 && *printed == 0)
		rc = fz_fail(err, FZ_ENOCOMMIT, "%s holds no commit", s->label);
	return rc;
}

/* ---- SOURCE names no database: which ones are there? ---- */

/* 1 = printed, 0 = it was claimed, and nothing lies there. */
static int print_database(const struct cmd_stores_at *at, const char *name, bool json, bool first, struct fz_err *err)
{
	const struct replica_lineage *last;
	struct replica_catalog c = {0};
	struct fz_buf below = {0};
	char when[FZ_TIME_SIZE];
	uint64_t txid = 0;
	cJSON *o;
	char *text;
	int rc = fz_buf_addf(&below, "%s/", name) < 0 ? fz_fail_errno(err, ENOMEM, "listing") : 0;

	if (rc == 0)
		rc = replica_catalog_load_at(&c, at->store, fz_buf_str(&below), err);
	fz_buf_fini(&below);
	if (rc < 0 || !c.n_lineages)
		goto out;
	rc = 1;
	last = &c.lineages[c.n_lineages - 1];
	for (size_t i = last->first; i < last->first + last->n; i++)
		if (txid < c.objects[i].usable_max)
			txid = c.objects[i].usable_max;
	fz_format_time(when, last->last_ms);
	if (!json) {
		cmd_print("%-10llu %s  %s", (unsigned long long)txid, when, name);
		if (last->ended_ms)
			cmd_print("  (deleted %s)", fz_format_time(when, last->ended_ms));
		cmd_print("\n");
		goto out;
	}
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "database", name);
	cJSON_AddStringToObject(o, "store", at->label);
	cJSON_AddNumberToObject(o, "txid", (double)txid);
	cJSON_AddStringToObject(o, "time", when);
	cJSON_AddNumberToObject(o, "time_ms", (double)last->last_ms);
	cJSON_AddStringToObject(o, "lineage", last->id);
	if (last->ended_ms)
		cJSON_AddStringToObject(o, "deleted", fz_format_time(when, last->ended_ms));
	text = cmd_json(o, false);
	cJSON_Delete(o);
	if (!text)
		rc = fz_fail(err, FZ_EINTERNAL, "out of memory");
	else
		printf("%s%s", first ? "[\n" : ",\n", text);
	free(text);
out:
	replica_catalog_fini(&c);
	return rc;
}

/* The first error is the command's, and told at its end; the others are told at once. */
static void tell(struct fz_err *first, const struct fz_err *why)
{
	if (!first->code)
		*first = *why;
	else
		(void)cmd_report("log", why);
}

/* What lies in a whole store, or below a directory in one, by its newest commit; what cannot be read does not hide the
 * rest. *printed counts. */
static int list_databases(const char *arg, const char *config, bool json, unsigned long long *printed,
                          struct fz_err *err)
{
	struct fz_err first = {0}, why;
	struct cmd_stores s;
	int rc = cmd_stores_open_some(&s, arg, config, err);

	if (rc == 0 && *s.database) { /* only a target's URL is known to be no database's */
		cmd_stores_close(&s);
		rc = cmd_is_url(arg) ? cmd_stores_open_below(&s, arg, config, err)
		                     : fz_fail(err, FZ_ENOTFOUND, "no such database");
	}
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < s.n; i++) {
		char **names = NULL;
		size_t n = 0;

		why = s.v[i].why;
		if (!s.v[i].store || cmd_stores_databases(&s, &s.v[i], &names, &n, &why) < 0) {
			fz_err_prefix(&why, "%s", s.v[i].label);
			tell(&first, &why);
		}
		if (!json && n && s.n > 1)
			cmd_print("%s:\n", s.v[i].label);
		for (size_t k = 0; k < n; k++) {
			rc = print_database(&s.v[i], names[k], json, !*printed, &why);
			*printed += rc == 1;
			if (rc < 0) {
				fz_err_prefix(&why, "%s in %s", names[k], s.v[i].label);
				tell(&first, &why);
			}
		}
		cmd_stores_free(names, n);
	}
	if (json && *printed)
		printf("\n]\n");
	cmd_stores_close(&s);
	if (first.code)
		*err = first;
	return first.code;
}

int cmd_log(int argc, char **argv)
{
	const char *config = NULL, *identity = NULL;
	bool json = false, tables = false;
	const struct cmd_opt opts[] = {
	        {"json", 'j', NULL, "print a JSON array, one commit a line", &json, NULL, NULL},
	        {"tables",  0, NULL, "also name the tables that each commit wrote (reads the whole history)", &tables,
	         NULL, NULL},
	        {"identity", 'i', "KEY", "identity of an encrypted store (without it: what names tell)", NULL,
	         &identity, NULL},
	        CMD_OPT_CONFIG(&config),
	        {0 },
	};
	const struct cmd_spec spec = {
	        "log",
	        "[options] SOURCE",
	        "Lists every commit that can be restored, oldest first: TXID, time, changed "
	        "pages, bytes; and when a database\n"
	        "that is gone was deleted. SOURCE is a store URL\n"
	        "with the database's path (dir:/backup/app.db), NAME/DATABASE with a target of "
	        "the configuration, or DIR/DATABASE\n"
	        "of a mount. Where it names no database, but a store, a directory in one, a target or a mount: the "
	        "databases that lie "
	        "there,\n"
	        "each with its newest commit.",
	        "fazt log /var/lib/app/app.db\nfazt log --tables dir:/backup/app.db -i "
	        "backup.key\nfazt log s3://bucket/app                  # which databases are there?\nfazt log "
	        "--json dir:/backup/app.db | jq '.[-1].txid'\n",
	        1,
	        1,
	        opts};
	unsigned long long printed = 0;
	struct fz_err err = {0}, why = {0};
	struct cmd_source s;
	char **args;
	int n, rc = cmd_args(&spec, argc, argv, &args, &n, &err);

	if (rc == 0) {
		rc = cmd_source_open(&s, args[0], identity, config, &err);
		if (rc == 0) {
			do
				rc = list(&s, json, tables, &printed, &err);
			while (rc < 0 && !printed && cmd_source_next(&s, &err));
			cmd_source_close(&s);
		}
		if (rc == -FZ_ENOTFOUND && !printed) { /* that of the listing, unless it has nothing to say either */
			int listed = list_databases(args[0], config, json, &printed, &why);

			if (printed || (listed < 0 && listed != -FZ_ENOTFOUND)) {
				rc = listed;
				err = why;
			}
		}
	}
	return rc < 0 ? cmd_report(spec.name, &err) : CMD_EXIT_OK;
}
