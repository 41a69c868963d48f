#include "fs/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Chains of cell numbers; FS_NIL ends one. A free cell is chained by id_next. */
struct fs_link {
	uint32_t id_next, ino_next, name_next;
	uint32_t alias;    /* node: its first further name; further name: the next one */
	uint32_t children; /* directory: names in it that the table knows */
};

static struct fs_cell *cell(const struct fs_table *t, uint32_t i)
{
	return (struct fs_cell *)(void *)((uint8_t *)t->sh + FS_CELL_OFF) + i;
}
static uint32_t index_of(const struct fs_table *t, const struct fs_cell *c)
{
	return (uint32_t)(c - cell(t, 0));
}
static uint32_t hash_id(const struct fs_table *t, uint64_t id)
{
	return (uint32_t)(id * 0x9e3779b97f4a7c15ull >> 32) & (t->buckets - 1);
}
static uint32_t hash_ino(const struct fs_table *t, uint64_t dev, uint64_t ino)
{
	return hash_id(t, ino ^ dev << 40);
}
static uint32_t hash_name(const struct fs_table *t, uint64_t parent, const char *name)
{
	uint64_t h = 0xcbf29ce484222325ull ^ parent;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3ull;
	return hash_id(t, h);
}

static bool is_node(const struct fs_cell *c)
{
	return c->node == c->id;
}
static bool in_ino(const struct fs_cell *c)
{
	return is_node(c) && !(c->flags & FS_CELL_DEAD);
}

static void chain_add(uint32_t *head, uint32_t *next, uint32_t i)
{
	*next = *head;
	*head = i;
}
#define CHAIN_DEL(t, head, field, i)                                                                                   \
	do {                                                                                                           \
		uint32_t *p_ = (head);                                                                                 \
		while (*p_ != FS_NIL && *p_ != (i))                                                                    \
			p_ = &(t)->links[*p_].field;                                                                   \
		if (*p_ != FS_NIL)                                                                                     \
			*p_ = (t)->links[i].field;                                                                     \
	} while (0)

static void ino_add(struct fs_table *t, uint32_t i)
{
	struct fs_cell *c = cell(t, i);

	chain_add(&t->by_ino[hash_ino(t, c->dev, c->ino)], &t->links[i].ino_next, i);
}
static void ino_del(struct fs_table *t, uint32_t i)
{
	struct fs_cell *c = cell(t, i);

	CHAIN_DEL(t, &t->by_ino[hash_ino(t, c->dev, c->ino)], ino_next, i);
}
static void name_add(struct fs_table *t, uint32_t i)
{
	struct fs_cell *c = cell(t, i);

	chain_add(&t->by_name[hash_name(t, c->parent, c->name)], &t->links[i].name_next, i);
}
static void name_del(struct fs_table *t, uint32_t i)
{
	struct fs_cell *c = cell(t, i);

	CHAIN_DEL(t, &t->by_name[hash_name(t, c->parent, c->name)], name_next, i);
}

static void gain_child(struct fs_table *t, uint64_t parent)
{
	struct fs_cell *p = fs_node_get_locked(t, parent);

	if (p)
		t->links[index_of(t, p)].children++;
}

static void drop_unused(struct fs_table *t, struct fs_cell *n);

static void lose_child(struct fs_table *t, uint64_t parent)
{
	struct fs_cell *p = fs_node_get_locked(t, parent);

	if (p && t->links[index_of(t, p)].children && --t->links[index_of(t, p)].children == 0)
		drop_unused(t, p);
}

static void index_all(struct fs_table *t)
{
	memset(t->by_id, 0xff, t->buckets * sizeof(uint32_t));
	memset(t->by_ino, 0xff, t->buckets * sizeof(uint32_t));
	memset(t->by_name, 0xff, t->buckets * sizeof(uint32_t));
	for (uint32_t i = 0; i < t->sh->cells; i++) {
		struct fs_cell *c = cell(t, i);

		if (!c->id)
			continue;
		chain_add(&t->by_id[hash_id(t, c->id)], &t->links[i].id_next, i);
		if (in_ino(c))
			ino_add(t, i);
		if (c->parent)
			name_add(t, i);
	}
}

static int set_buckets(struct fs_table *t, uint32_t n)
{
	uint32_t *a = malloc(3 * (size_t)n * sizeof(uint32_t));

	if (!a)
		return -ENOMEM;
	free(t->by_id);
	t->buckets = n;
	t->by_id = a;
	t->by_ino = a + n;
	t->by_name = a + 2 * (size_t)n;
	index_all(t);
	return 0;
}

static int set_room(struct fs_table *t, uint32_t n)
{
	struct fs_link *l = realloc(t->links, n * sizeof(*l));

	if (!l)
		return -ENOMEM;
	t->links = l;
	t->room = n;
	return 0;
}

int fs_table_init(struct fs_table *t, struct fs_shared *sh, int memfd, struct fz_err *err)
{
	struct stat st;
	uint32_t n = 1024;

	memset(t, 0, sizeof(*t));
	t->sh = sh;
	t->memfd = memfd;
	t->free_head = FS_NIL;
	pthread_mutex_init(&t->mu, NULL);
	pthread_rwlockattr_t ra;
	pthread_rwlockattr_init(&ra);
	pthread_rwlockattr_setkind_np(&ra, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&t->ns, &ra);
	pthread_rwlockattr_destroy(&ra);
	if (fstat(memfd, &st) < 0)
		return fz_fail_errno(err, errno, "cannot read the node table");
	t->file_cells = ((uint64_t)st.st_size - FS_CELL_OFF) / sizeof(struct fs_cell);
	while (n < sh->cells)
		n *= 2;
	if (set_room(t, n) < 0)
		return fz_fail(err, -ENOMEM, "no memory for the node table");
	for (uint32_t i = 0; i < sh->cells; i++) {
		struct fs_cell *c = cell(t, i);

		t->links[i].alias = FS_NIL;
		t->links[i].children = 0;
		if (c->id && (c->node == c->id || c->parent)) {
			t->used++;
			continue;
		}
		c->id = 0;
		chain_add(&t->free_head, &t->links[i].id_next, i);
	}
	if (set_buckets(t, n) < 0)
		return fz_fail(err, -ENOMEM, "no memory for the node table");
	for (uint32_t i = 0; i < sh->cells; i++) {
		struct fs_cell *c = cell(t, i);
		struct fs_cell *n2 = c->id && !is_node(c) ? fs_node_get_locked(t, c->node) : NULL;

		if (n2)
			chain_add(&t->links[index_of(t, n2)].alias, &t->links[i].alias, i);
		if (c->id && c->parent)
			gain_child(t, c->parent);
	}
	return 0;
}

void fs_table_fini(struct fs_table *t)
{
	if (!t->sh)
		return;
	free(t->links);
	free(t->by_id);
	pthread_mutex_destroy(&t->mu);
	pthread_rwlock_destroy(&t->ns);
	memset(t, 0, sizeof(*t));
}

void fs_table_lock(struct fs_table *t)
{
	pthread_mutex_lock(&t->mu);
}
void fs_table_unlock(struct fs_table *t)
{
	pthread_mutex_unlock(&t->mu);
}

struct fs_cell *fs_node_get_locked(struct fs_table *t, uint64_t id)
{
	for (uint32_t i = t->by_id[hash_id(t, id)]; i != FS_NIL; i = t->links[i].id_next)
		if (cell(t, i)->id == id)
			return is_node(cell(t, i)) ? cell(t, i) : NULL;
	return NULL;
}

struct fs_cell *fs_node_by_ino_locked(struct fs_table *t, uint64_t dev, uint64_t ino)
{
	for (uint32_t i = t->by_ino[hash_ino(t, dev, ino)]; i != FS_NIL; i = t->links[i].ino_next)
		if (cell(t, i)->ino == ino && cell(t, i)->dev == dev)
			return cell(t, i);
	return NULL;
}

static uint32_t find_name(struct fs_table *t, uint64_t parent, const char *name)
{
	uint32_t i = t->by_name[hash_name(t, parent, name)];

	while (i != FS_NIL && (cell(t, i)->parent != parent || strcmp(cell(t, i)->name, name) != 0))
		i = t->links[i].name_next;
	return i;
}

struct fs_cell *fs_node_child_locked(struct fs_table *t, uint64_t parent, const char *name)
{
	uint32_t i = find_name(t, parent, name);

	return i == FS_NIL ? NULL : fs_node_get_locked(t, cell(t, i)->node);
}

uint64_t fs_node_new_id(struct fs_table *t)
{
	return atomic_fetch_add(&t->sh->next_id, 1);
}

/* A cell to fill; it becomes one with publish(). */
static uint32_t take(struct fs_table *t)
{
	uint32_t i = t->free_head, n = t->sh->cells;
	off_t size;

	if (i != FS_NIL) {
		t->free_head = t->links[i].id_next;
		goto got;
	}
	if (n >= t->file_cells) {
		size = (off_t)(FS_CELL_OFF + (t->file_cells + FS_SEG_CELLS) * sizeof(struct fs_cell));
		if ((uint64_t)size > FS_MAP_BYTES || ftruncate(t->memfd, size) < 0)
			return FS_NIL;
		t->file_cells += FS_SEG_CELLS;
	}
	if (n >= t->room && set_room(t, t->room * 2) < 0)
		return FS_NIL;
	i = n;
	cell(t, i)->id = 0;
	t->sh->cells = n + 1;
got:
	t->links[i].alias = FS_NIL;
	t->links[i].children = 0;
	cell(t, i)->parent = 0;
	return i;
}

static void publish(struct fs_table *t, uint32_t i, uint64_t id)
{
	atomic_store_explicit(&cell(t, i)->id, id, memory_order_release);
	if (cell(t, i)->parent)
		gain_child(t, cell(t, i)->parent);
	if (++t->used > t->buckets && set_buckets(t, t->buckets * 2) == 0)
		return;
	chain_add(&t->by_id[hash_id(t, id)], &t->links[i].id_next, i);
	if (in_ino(cell(t, i)))
		ino_add(t, i);
	if (cell(t, i)->parent)
		name_add(t, i);
}

static void retire(struct fs_table *t, uint32_t i)
{
	struct fs_cell *c = cell(t, i);
	uint64_t parent = c->parent;

	CHAIN_DEL(t, &t->by_id[hash_id(t, c->id)], id_next, i);
	if (in_ino(c))
		ino_del(t, i);
	if (c->parent)
		name_del(t, i);
	atomic_store_explicit(&c->id, 0, memory_order_release);
	t->used--;
	chain_add(&t->free_head, &t->links[i].id_next, i);
	if (parent)
		lose_child(t, parent);
}

/* Frees a node that the kernel has forgotten and that is not open. A directory stays while the table knows a name in it: the path
 * of an open file may lead through a directory that the kernel holds no longer. */
static void drop_unused(struct fs_table *t, struct fs_cell *n)
{
	uint32_t i = index_of(t, n), alias;

	if (n->id == 1 || n->nlookup || n->nopen || (t->links[i].children && !(n->flags & FS_CELL_DEAD)))
		return;
	while ((alias = t->links[i].alias) != FS_NIL) {
		t->links[i].alias = t->links[alias].alias;
		retire(t, alias);
	}
	retire(t, i);
}

struct fs_cell *fs_node_add_locked(struct fs_table *t, uint64_t id, const struct stat *st, uint32_t nopen)
{
	struct fs_cell *old = fs_node_by_ino_locked(t, st->st_dev, st->st_ino), *c;
	uint32_t i = take(t);

	if (i == FS_NIL)
		return NULL;
	if (old) {
		fs_node_set_dead_locked(t, old, true);
		drop_unused(t, old);
	}
	c = cell(t, i);
	c->node = id;
	c->dev = st->st_dev;
	c->ino = st->st_ino;
	c->mode = st->st_mode;
	c->nlookup = 0;
	c->nopen = nopen;
	c->backing_id = 0;
	c->fs_mode = 0;
	c->flags = 0;
	c->name_len = 0;
	c->name[0] = 0;
	publish(t, i, id);
	return c;
}

static void put_name(struct fs_table *t, uint32_t i, uint64_t parent, const char *name, size_t n)
{
	struct fs_cell *c = cell(t, i);

	memcpy(c->name, name, n + 1);
	c->name_len = (uint16_t)n;
	atomic_store_explicit(&c->parent, parent, memory_order_release);
}

int fs_node_name_locked(struct fs_table *t, struct fs_cell *n, uint64_t parent, const char *name)
{
	uint32_t i = find_name(t, parent, name), self = index_of(t, n);
	size_t len = strlen(name);

	if (len >= FS_NAME_SIZE)
		return -ENAMETOOLONG;
	if (i != FS_NIL) {
		if (cell(t, i)->node == n->id)
			return 0;
		fs_node_unname_locked(t, parent, name);
	}
	if (!n->parent) {
		put_name(t, self, parent, name, len);
		name_add(t, self);
		gain_child(t, parent);
		return 0;
	}
	i = take(t);
	if (i == FS_NIL)
		return -ENOMEM;
	cell(t, i)->node = n->id;
	put_name(t, i, parent, name, len);
	chain_add(&t->links[self].alias, &t->links[i].alias, i);
	publish(t, i, fs_node_new_id(t));
	return 0;
}

struct fs_cell *fs_node_unname_locked(struct fs_table *t, uint64_t parent, const char *name)
{
	uint32_t i = find_name(t, parent, name);
	struct fs_cell *n;

	if (i == FS_NIL)
		return NULL;
	n = fs_node_get_locked(t, cell(t, i)->node);
	if (is_node(cell(t, i))) {
		name_del(t, i);
		atomic_store_explicit(&cell(t, i)->parent, 0, memory_order_release);
		lose_child(t, parent);
		return n;
	}
	if (n)
		CHAIN_DEL(t, &t->links[index_of(t, n)].alias, alias, i);
	retire(t, i);
	return n;
}

bool fs_node_has_name_locked(struct fs_table *t, const struct fs_cell *n)
{
	return n->parent != 0 || t->links[index_of(t, n)].alias != FS_NIL;
}

bool fs_node_has_other_name_locked(struct fs_table *t, const struct fs_cell *n, uint64_t parent, const char *name)
{
	uint32_t self = index_of(t, n), i = find_name(t, parent, name), names = n->parent != 0;

	for (uint32_t a = t->links[self].alias; a != FS_NIL; a = t->links[a].alias)
		names++;
	return names > (i != FS_NIL && cell(t, i)->node == n->id ? 1u : 0u);
}

void fs_node_set_dead_locked(struct fs_table *t, struct fs_cell *n, bool dead)
{
	if (dead == !!(n->flags & FS_CELL_DEAD))
		return;
	if (dead) {
		ino_del(t, index_of(t, n));
		n->flags |= FS_CELL_DEAD;
	} else {
		n->flags &= (uint8_t)~FS_CELL_DEAD;
		ino_add(t, index_of(t, n));
	}
}

void fs_node_forget_locked(struct fs_table *t, uint64_t id, uint64_t count)
{
	struct fs_cell *n = fs_node_get_locked(t, id);

	if (!n || id == 1)
		return;
	n->nlookup -= count < n->nlookup ? count : n->nlookup;
	drop_unused(t, n);
}

/* Prepends "/name" for name and each directory above it; end is one past the last byte. NULL when a parent is unknown. */
static char *walk_up(struct fs_table *t, uint64_t parent, const char *name, char *begin, char *end)
{
	size_t n = strlen(name);
	struct fs_cell *c;

	for (;;) {
		if ((size_t)(end - begin) < n + 1)
			return begin; /* too long: the caller sees begin */
		end -= n;
		memcpy(end, name, n);
		if (parent == 1)
			return end;
		*--end = '/';
		c = fs_node_get_locked(t, parent);
		if (!c || !c->parent)
			return NULL;
		parent = c->parent;
		name = c->name;
		n = c->name_len;
	}
}

int fs_node_child_path_locked(struct fs_table *t, uint64_t parent, const char *name, char path[static PATH_MAX])
{
	char *p;

	if (strlen(name) >= FS_NAME_SIZE)
		return -ENAMETOOLONG;
	path[PATH_MAX - 1] = 0;
	p = walk_up(t, parent, name, path, path + PATH_MAX - 1);
	if (!p)
		return -ESTALE;
	if (p == path)
		return -ENAMETOOLONG;
	memmove(path, p, (size_t)(path + PATH_MAX - p));
	return 0;
}

int fs_node_path_locked(struct fs_table *t, uint64_t id, char path[static PATH_MAX])
{
	struct fs_cell *n = fs_node_get_locked(t, id);
	int rc = -ESTALE;

	if (!n)
		return -ESTALE;
	if (id == 1) {
		memcpy(path, ".", 2);
		return 0;
	}
	if (n->parent)
		rc = fs_node_child_path_locked(t, n->parent, n->name, path);
	/* A name in a directory that was removed leads nowhere: try the inode's others. */
	for (uint32_t i = t->links[index_of(t, n)].alias; rc == -ESTALE && i != FS_NIL; i = t->links[i].alias)
		rc = fs_node_child_path_locked(t, cell(t, i)->parent, cell(t, i)->name, path);
	if (rc == -ESTALE && (n->flags & FS_CELL_HIDDEN)) {
		snprintf(path, PATH_MAX, FS_HIDDEN_DIR "/%llu", (unsigned long long)id);
		rc = 0;
	}
	return rc;
}
