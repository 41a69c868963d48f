/* stores.h - the argument of commands that change what lies in stores (prune, rekey, drop), and of log, where it names no database:
 *   DIR, DIR/DB    all databases, or one, below a mount or a directory that was mounted: every target it was mounted with, or of --config
 *   NAME, NAME/DB  a [target NAME] of the configuration
 *   URL            of a target of the configuration, or of one database: the last path element is its name then */
#ifndef FZ_CMD_STORES_H
#define FZ_CMD_STORES_H

#include "cmd/config.h"
#include "cmd/where.h"

struct fz_store;

struct cmd_stores_at {
	struct fz_store *store;          /* keys begin with the database */
	const struct cmd_target *target; /* NULL: a URL that the configuration does not know */
	const char *label;               /* name or URL; borrowed */
	struct fz_err why;               /* store is NULL: cmd_stores_open_some() could not open it */
};
struct cmd_stores {
	struct cmd_conf conf;
	struct cmd_where w; /* DIR, DIR/DB; dir is "" otherwise */
	int statefd;        /* the same; -1 otherwise */
	char database[512]; /* "" = all */
	bool some;
	struct cmd_stores_at *v;
	size_t n;
};
int cmd_stores_open(struct cmd_stores *s, const char *arg, const char *config, struct fz_err *err) FZ_MUST_CHECK;
/* The same; a target that cannot be opened does not keep the others away. */
int cmd_stores_open_some(struct cmd_stores *s, const char *arg, const char *config, struct fz_err *err) FZ_MUST_CHECK;
/* All that lies below a store URL, also where that is no database and no target of the configuration. */
int cmd_stores_open_below(struct cmd_stores *s, const char *url, const char *config, struct fz_err *err) FZ_MUST_CHECK;
void cmd_stores_close(struct cmd_stores *s);

/* The names of the databases of which something lies there: of s->database when that is set. Heap; free each and the array. */
int cmd_stores_databases(const struct cmd_stores *s, const struct cmd_stores_at *at, char ***out, size_t *n,
                         struct fz_err *err) FZ_MUST_CHECK;
void cmd_stores_free(char **names, size_t n);

#endif
