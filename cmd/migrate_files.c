#include "cmd/migrate.h"

#include "base/file.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define FILE_MAX  (16u << 20)
#define FILES_MAX 10000

struct cmd_migration *cmd_migrations_add(struct cmd_migrations *m)
{
	struct cmd_migration *v = reallocarray(m->v, m->n + 1, sizeof(*v));

	if (!v)
		return NULL;
	m->v = v;
	v += m->n++;
	memset(v, 0, sizeof(*v));
	return v;
}

void cmd_migrations_fini(struct cmd_migrations *m)
{
	for (size_t i = 0; i < m->n; i++)
		fz_buf_fini(&m->v[i].sql);
	free(m->v);
	*m = (struct cmd_migrations){0};
}

/* ---- statements ------------------------------------------------------------------------------------------------- */

/* The comment at p; 0 = there is none. */
static size_t comment(const char *p, size_t n)
{
	size_t i = 2;

	if (n < 2 || !((p[0] == '-' && p[1] == '-') || (p[0] == '/' && p[1] == '*')))
		return 0;
	if (*p == '-') {
		while (i < n && p[i] != '\n')
			i++;
		return i;
	}
	while (i < n && !(p[i] == '*' && i + 1 < n && p[i + 1] == '/'))
		i++;
	return i + 2 < n ? i + 2 : n;
}

/* Blanks, comments and empty statements at p. */
static size_t blank(const char *p, size_t n)
{
	size_t i = 0, c;

	while (i < n) {
		c = isspace((unsigned char)p[i]) || p[i] == ';' ? 1 : comment(p + i, n - i);
		if (!c)
			break;
		i += c;
	}
	return i;
}

/* Behind the text or name that begins at p with its quote. */
static const char *quoted(const char *p)
{
	char end = *p == '[' ? ']' : *p;

	for (p++; *p; p++)
		if (*p == end && (end == ']' || p[1] != end))
			return p + 1;
		else if (*p == end)
			p++;
	return p;
}

/* sqlite3_complete() knows what a trigger is; it is asked at each ';' that stands outside of texts and comments. */
size_t cmd_migrate_statement(const char *sql)
{
	const char *p = sql;

	while (*p) {
		if (*p == '\'' || *p == '"' || *p == '`' || *p == '[') {
			p = quoted(p);
		} else if ((p[0] == '-' && p[1] == '-') || (p[0] == '/' && p[1] == '*')) {
			p += comment(p, strlen(p));
		} else if (*p == ';') {
			char *one = strndup(sql, (size_t)(p + 1 - sql));
			int whole = one ? sqlite3_complete(one) : 1;

			free(one);
			p++;
			if (whole)
				return (size_t)(p - sql);
		} else {
			p++;
		}
	}
	return (size_t)(p - sql);
}

static size_t word(const char *p, size_t n, char out[static 32])
{
	size_t i = 0;

	while (i < n && (isalnum((unsigned char)p[i]) || p[i] == '_'))
		i++;
	snprintf(out, 32, "%.*s", (int)(i < 31 ? i : 31), p);
	return i;
}

const char *cmd_migrate_refuses(const char *p, size_t n)
{
	static const struct {
		const char *first, *second, *why;
	} rows[] = {
	        {"BEGIN",    NULL,             "each file is one transaction already: leave BEGIN and COMMIT out"                 },
	        {"COMMIT",   NULL,             "each file is one transaction already: leave BEGIN and COMMIT out"                 },
	        {"END",      NULL,             "each file is one transaction already: leave BEGIN and COMMIT out"                 },
	        {"ROLLBACK", NULL,             "each file is one transaction: it is rolled back as a whole when a statement fails"},
	        {"VACUUM",   NULL,             "VACUUM cannot run in a transaction: run it by itself, after the migration"        },
	        {"ATTACH",   NULL,             "other databases would be changed without a way back"                              },
	        {"DETACH",   NULL,             "other databases would be changed without a way back"                              },
	        {"PRAGMA",   "journal_mode",   "the journal mode cannot change in a transaction: set it by itself"                },
	        {"PRAGMA",   "foreign_keys",
	         "it does nothing in a transaction; foreign keys are not enforced in a migration"                                 },
	        {"PRAGMA",   "page_size",      "it does nothing in a transaction: set it by itself, and VACUUM"                   },
	        {"PRAGMA",   "auto_vacuum",    "it does nothing in a transaction: set it by itself, and VACUUM"                   },
	        {"PRAGMA",   "synchronous",    "it belongs to a connection, and cannot change in a transaction"                   },
	        {"PRAGMA",   "wal_checkpoint", "a checkpoint cannot run in a transaction"                                         },
	        {"PRAGMA",   "locking_mode",   "it belongs to a connection: set it in the application"                            },
	};
	size_t at = blank(p, n);
	char first[32], second[32] = "";

	if (at < n && p[at] == '.')
		return "commands of the sqlite3 shell are not SQL";
	at += word(p + at, n - at, first);
	at += blank(p + at, n - at);
	at += word(p + at, n - at, second);
	at += blank(p + at, n - at);
	if (at < n && p[at] == '.' && !strcasecmp(first, "PRAGMA")) { /* main.journal_mode */
		at++;
		at += blank(p + at, n - at);
		word(p + at, n - at, second);
	}
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (!strcasecmp(first, rows[i].first) && (!rows[i].second || !strcasecmp(second, rows[i].second)))
			return rows[i].why;
	return NULL;
}

static int line_of(const char *sql, const char *at)
{
	int line = 1;

	for (const char *p = sql; p < at; p++)
		line += *p == '\n';
	return line;
}

static int check(const struct cmd_migration *m, struct fz_err *err)
{
	const char *sql = fz_buf_str(&m->sql);
	size_t n, any = 0;

	if (strlen(sql) != m->sql.size)
		return fz_fail(err, FZ_EUSAGE, "%s: holds a NUL byte", m->name);
	for (const char *p = sql; (n = cmd_migrate_statement(p)); p += n) {
		const char *why = cmd_migrate_refuses(p, n);

		if (why)
			return fz_fail(err, FZ_EUSAGE, "%s:%d: %s", m->name, line_of(sql, p + blank(p, n)), why);
		any += blank(p, n) < n;
	}
	return any ? 0 : fz_fail(err, FZ_EUSAGE, "%s: holds no statement", m->name);
}

/* ---- the directory ---------------------------------------------------------------------------------------------- */

/* 1: a migration; 0: nothing to do with them. */
static int number_of(const char *name, uint32_t *number, struct fz_err *err)
{
	size_t n = strlen(name), digits = strspn(name, "0123456789");

	if (*name == '.' || n < 4 || strcasecmp(name + n - 4, ".sql") != 0)
		return 0;
	if (n >= CMD_MIGRATION_NAME)
		return fz_fail(err, FZ_EUSAGE, "%s: the name is longer than %d bytes", name, CMD_MIGRATION_NAME - 1);
	if (digits > 9)
		return fz_fail(err, FZ_EUSAGE, "%s: its number has more than 9 digits", name);
	if (!digits || !strchr("-_.", name[digits]))
		return fz_fail(err, FZ_EUSAGE, "%s: the name does not begin with a number: 0001-name.sql", name);
	*number = (uint32_t)strtoul(name, NULL, 10);
	return *number ? 1 : fz_fail(err, FZ_EUSAGE, "%s: numbers begin at 1", name);
}

static int add_file(struct cmd_migrations *m, int dirfd, const char *name, struct fz_err *err)
{
	unsigned char hash[crypto_hash_sha256_BYTES];
	struct cmd_migration *v;
	uint32_t number;
	int rc = number_of(name, &number, err);

	if (rc <= 0)
		return rc;
	v = m->n < FILES_MAX ? cmd_migrations_add(m) : NULL;
	if (!v)
		return fz_fail_errno(err, ENOMEM, "reading migrations");
	v->number = number;
	snprintf(v->name, sizeof(v->name), "%s", name);
	rc = fz_read_file(dirfd, name, FILE_MAX, &v->sql, err);
	if (rc < 0)
		return rc;
	crypto_hash_sha256(hash, v->sql.data ? v->sql.data : (const unsigned char *)"", v->sql.size);
	sodium_bin2hex(v->sha256, sizeof(v->sha256), hash, sizeof(hash));
	if (v->sql.size >= 3 && !memcmp(v->sql.data, "\xef\xbb\xbf", 3)) /* as some editors begin a file */
		memcpy(v->sql.data, "   ", 3);
	return check(v, err);
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = ((const struct cmd_migration *)a)->number, y = ((const struct cmd_migration *)b)->number;

	return x < y ? -1 : x > y;
}

int cmd_migrations_read(struct cmd_migrations *m, const char *dir, struct fz_err *err)
{
	DIR *d = fz_opendir(AT_FDCWD, dir);
	struct dirent *e;
	int rc = 0;

	if (!d)
		return fz_fail_errno(err, errno, "cannot read the directory %s", dir);
	while (rc == 0 && (errno = 0, e = readdir(d)))
		rc = add_file(m, dirfd(d), e->d_name, err);
	closedir(d);
	if (rc < 0)
		return fz_err_prefix(err, "%s", dir);
	if (!m->n)
		return fz_fail(err, FZ_ENOTFOUND, "%s holds no migration: 0001-name.sql", dir);
	qsort(m->v, m->n, sizeof(*m->v), by_number);
	for (size_t i = 0; i < m->n; i++) {
		if (i && m->v[i].number == m->v[i - 1].number)
			return fz_fail(err, FZ_EUSAGE, "%s: %s and %s have the same number", dir, m->v[i - 1].name,
			               m->v[i].name);
		if (i && m->v[i].number != m->v[i - 1].number + 1)
			return fz_fail(err, FZ_EUSAGE, "%s: number %u is missing between %s and %s", dir,
			               m->v[i - 1].number + 1, m->v[i - 1].name, m->v[i].name);
	}
	return 0;
}
