/* test_primary_ship.c - shipping as a whole, against a directory: what arrives, what survives kills and failing calls,
 * what is told. The judge (primary_fix.h) decides whether a target is restorable. */
#include "tests/unit/primary_fix.h"

#include "base/log.h"
#include "primary/claim.h"

#include <dirent.h>
#include <sys/wait.h>

static struct primary_target_conf encrypted(struct fix *f)
{
	struct primary_target_conf c = fix_quick;

	c.recipients = &f->to;
	c.n_recipients = 1;
	return c;
}

static void test_every_commit_arrives(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	struct ltx_log_info info;
	struct judge j;

	fix_start(f, &c);
	for (int i = 0; i < 100; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, 100);
	ltx_log_info(f->log, &info);
	assert_int_equal(primary_ship_position(f->ship, info.lineage), 100);
	assert_true(info.synced_txid == 100); /* never ahead of what a power cut leaves */
	for (int i = 0; i < 20; i++) {
		fix_commit(f);
		OK(primary_ship_sync(f->ship, 30000, &f->err));
	}
	judge_all(f, 1, 120);
	judge_read(f, &j, NULL);
	assert_in_range(j.per_level[0], 21, 120);
	judge_fini(&j);
}

static void test_without_sync_within_the_interval(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	bool done = false;

	fix_start(f, &c);
	fix_commit(f);
	while (!done) { /* nobody asks for it */
		struct judge j;

		judge_read(f, &j, NULL);
		done = j.last == 1;
		judge_fini(&j);
	}
	assert_true(fix_status_number(f, "lag_seconds") >= 0);
}

static double requests(struct fix *f)
{
	return fix_status_number(f, "requests");
}

/* Levels catch up after the last commit, then nothing is asked any more: not even by a restart. */
static bool levels_done(struct fix *f)
{
	struct judge j;
	bool done;

	judge_read(f, &j, NULL);
	done = false;
	for (size_t i = 0; i < j.n; i++)
		done |= j.v[i].level == LTX_L_DAY && j.v[i].h.max_txid == f->db.txid;
	judge_fini(&j);
	return done;
}

static struct primary_target_conf levelled(struct fix *f)
{
	struct primary_target_conf c = encrypted(f);

	c.minute_ms = 60;
	c.hour_ms = 240;
	c.day_ms = 960;
	c.snapshot_interval_ms = 100000000;
	return c;
}

/* How often the lanes were woken so far. */
static unsigned long wake_ups(void)
{
	unsigned long sum = 0, threads = 0;
	struct dirent *e;
	DIR *d = opendir("/proc/self/task");

	assert_non_null(d);
	while ((e = readdir(d))) {
		char path[400], line[200];
		bool ours = false;
		FILE *in;

		snprintf(path, sizeof(path), "/proc/self/task/%s/status", e->d_name);
		in = e->d_name[0] == '.' ? NULL : fopen(path, "r");
		while (in && fgets(line, sizeof(line), in)) {
			unsigned long n;

			if (strncmp(line, "Name:", 5) == 0)
				ours = strstr(line, "ship-") || strstr(line, "level-");
			if (ours && sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1) {
				sum += n;
				threads++;
			}
		}
		if (in)
			fclose(in);
	}
	closedir(d);
	assert_int_equal(threads, 2);
	return sum;
}

static void test_levels(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = levelled(f);
	uint64_t end = fz_mono_ns() + UINT64_C(1500) * 1000000;
	struct judge j;
	unsigned long woken;
	double n;

	c.append_only = true;
	fix_start(f, &c);
	while (fz_mono_ns() < end) {
		fix_commit(f);
		usleep(3000);
	}
	fix_until(f, levels_done, "a day file that ends with the last commit");
	judge_all(f, 1, f->db.txid);
	judge_read(f, &j, NULL);
	assert_true(j.per_level[LTX_L_PACK_MINUTE] > 4);
	assert_true(j.per_level[LTX_L_PACK_HOUR] > 2);
	assert_true(j.per_level[LTX_L_MINUTE] >= j.per_level[LTX_L_HOUR]);
	assert_true(j.per_level[LTX_L_HOUR] >= j.per_level[LTX_L_DAY]);
	assert_true(j.per_level[LTX_L_PACK] > j.per_level[LTX_L_PACK_MINUTE]);
	assert_true(j.per_level[LTX_L_PACK_MINUTE] > j.per_level[LTX_L_PACK_HOUR]);
	/* the merged levels alone lead to the newest commit */
	for (size_t i = 0; i < j.n; i++)
		if (j.v[i].level < LTX_L_MINUTE)
			j.v[i].h.min_txid = UINT64_MAX;
	judge_pages(f, &j);
	judge_fini(&j);

	/* the last listing may still be on its way; after that: silence */
	do {
		n = requests(f);
		usleep(600000);
	} while (requests(f) != n);
	woken = wake_ups();
	usleep(300000);
	assert_int_equal(wake_ups(), woken);
	fix_stop(f, 0);
	fix_start(f, &c);
	usleep(300000);
	assert_int_equal(requests(f), 0);
	fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	assert_true(requests(f) > 0);
}

/* A log whose first transaction was folded away: the target begins with a snapshot. */
static void test_starts_with_snapshot(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	struct judge j;

	for (int i = 0; i < 30; i++)
		fix_commit(f);
	OK(ltx_log_sync(f->log, &f->err));
	OK(ltx_log_fold(f->log, 20, NULL, &f->err));
	fix_start(f, &c);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 30, 30);
	fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 30, 31);
	judge_read(f, &j, NULL);
	assert_int_equal(j.per_level[LTX_L_SNAPSHOT], 1);
	judge_fini(&j);
}

/* The log was pruned beyond the cursor while nobody shipped. */
static void test_gap_heals(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);

	fix_start(f, &c);
	for (int i = 0; i < 10; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_stop(f, 0);
	for (int i = 0; i < 200; i++)
		fix_commit(f);
	OK(ltx_log_sync(f->log, &f->err));
	OK(ltx_log_fold(f->log, 150, NULL, &f->err));
	fix_start(f, &c);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 210, 210);
	judge_all(f, 1, 10);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 210, 215);
}

/* Everything vanishes from the store: the claim is missed at the next look, and a snapshot follows. */
static void test_vanished_store_heals(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);

	fix_start(f, &c);
	for (int i = 0; i < 10; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_stop(f, 0);
	OK(fz_remove_tree(f->dirfd, "store", &f->err));
	fix_commit(f);
	fix_start(f, &c);
	do {
		OK(primary_ship_sync(f->ship, 30000, &f->err));
	} while (fix_status_number(f, "lag_txns") > 0);
	judge_all(f, 11, 11);
}

/* The child ships and is killed at some point; whatever is there then, the next one completes. */
static void test_sigkill(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = levelled(f);

	c.append_only = true;
	for (int round = 0; round < 15; round++) {
		int status;
		pid_t pid;

		for (int i = 0; i < 40; i++)
			fix_commit(f);
		OK(ltx_log_sync(f->log, &f->err));
		fix_close_logs(f);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			f->statefd = openat(f->dirfd, "state", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			if (ltx_logset_open(&f->set, f->statefd, NULL, &f->err) < 0)
				_exit(1);
			fix_start(f, &c);
			pause();
			_exit(0);
		}
		usleep((useconds_t)(round * 3000));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		fix_open_logs(f, "app.db");
	}
	fix_start(f, &c);
	fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, f->db.txid);
	fix_until(f, levels_done, "the levels after the kills");
	judge_all(f, 1, f->db.txid);
}

/* Call n fails, before or after it was carried out, for n = 1, 2, ... until no call is left to fail. */
static void walk_faults(struct fix *f, int code, bool after)
{
	struct primary_target_conf c = encrypted(f);
	bool fired = true;
	unsigned walked = 0;

	for (uint64_t n = 1; fired; n++) {
		struct fz_store *faulty = NULL;

		OK(fz_store_fault(&faulty, fix_store(f), n, code, after, &fired, &f->err));
		c.store = faulty;
		fix_start(f, &c);
		for (int i = 0; i < 3; i++) {
			fix_commit(f);
			while (primary_ship_sync(f->ship, 30000, &f->err) < 0)
				assert_int_equal(f->err.code, code);
			/* durably there, whatever failed */
			judge_all(f, 1, f->db.txid);
		}
		walked += __atomic_load_n(&fired, __ATOMIC_SEQ_CST);
		fix_stop(f, 0);
	}
	assert_in_range(walked, 4, 20); /* list, three puts, and what a failure adds */
}

static void test_faults(void **state)
{
	walk_faults(*state, -FZ_ENET, false);
}

static void test_faults_after(void **state)
{
	walk_faults(*state, -FZ_ETIMEOUT, true);
}

static void test_faults_denied(void **state)
{
	walk_faults(*state, -FZ_EAUTH, false);
}

static void test_faults_refused(void **state)
{
	walk_faults(*state, -FZ_ESTORE, false);
}

/* The same for snapshots and levels, where the slow lane meets the failure. */
static void test_faults_of_levels(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = levelled(f);
	unsigned walked = 0;

	for (uint64_t n = 1; n <= 24; n++) {
		struct fz_store *faulty = NULL;
		bool fired = false;

		OK(fz_store_fault(&faulty, fix_store(f), n, n % 2 ? -FZ_ENET : -FZ_ESTORE, n % 3 == 0, &fired,
		                  &f->err));
		c.store = faulty;
		c.snapshot_interval_ms = 50;
		c.append_only = true;
		fix_start(f, &c);
		for (int i = 0; i < 12; i++) {
			fix_commit(f);
			usleep(5000);
		}
		while (primary_ship_sync(f->ship, 30000, &f->err) < 0)
			;
		fix_until(f, levels_done, "the levels after a failure");
		judge_all(f, 1, f->db.txid);
		walked += __atomic_load_n(&fired, __ATOMIC_SEQ_CST);
		fix_stop(f, 0);
	}
	assert_in_range(walked, 10, 24);
}

static bool state_ok(struct fix *f)
{
	char text[400];

	fix_status_text(f, "state", text, sizeof(text));
	return strcmp(text, "ok") == 0;
}

/* A file where the store's directory should be: every call fails, until it is gone. */
static void test_target_down(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	char text[400];
	int fd;

	OK(fz_remove_tree(f->dirfd, "store", &f->err));
	fd = openat(f->dirfd, "store", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	fix_start(f, &c);
	fix_commit_at(f, fz_now_ms() - 5000);
	fix_commit(f);
	assert_true(primary_ship_sync(f->ship, 200, &f->err) < 0);
	fix_status_text(f, "state", text, sizeof(text));
	assert_string_not_equal(text, "ok");
	fix_status_text(f, "last_error", text, sizeof(text));
	assert_true(strlen(text) > 0);
	assert_int_equal(fix_status_number(f, "lag_txns"), 2);
	assert_true(fix_status_number(f, "lag_seconds") >= 5);
	assert_true(fix_status_number(f, "lag_bytes") > 200);
	OK(fz_remove_tree(f->dirfd, "store", &f->err));
	while (primary_ship_sync(f->ship, 30000, &f->err) < 0)
		;
	judge_all(f, 1, 2);
	fix_until(f, state_ok, "the state ok");
	assert_int_equal(fix_status_number(f, "lag_txns"), 0);
	assert_true(fix_status_number(f, "lag_seconds") == 0);
}

/* Another writer takes the database over: the first one stops, and the second one's history is whole. */
static void test_fenced(void **state)
{
	struct fix *f = *state, *g = fix_new();
	struct primary_target_conf c = encrypted(f);
	struct ltx_log_info info, other;
	char text[400], saved[180];
	struct judge j;

	fix_start(f, &c);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	ltx_log_info(f->log, &info);
	ltx_log_info(g->log, &other);

	memcpy(saved, g->url, sizeof(saved));
	memcpy(g->url, f->url, sizeof(g->url));
	fix_start(g, &c); /* without take_over */
	fix_commit(g);
	assert_int_equal(primary_ship_sync(g->ship, 30000, &g->err), -FZ_EFENCED);
	fix_status_text(g, "state", text, sizeof(text));
	assert_string_equal(text, "fenced");
	judge_read(f, &j, other.lineage);
	assert_int_equal(j.n, 0);
	judge_fini(&j);
	fix_stop(g, 0);

	c.take_over = true;
	fix_start(g, &c);
	OK(primary_ship_sync(g->ship, 30000, &g->err));
	fix_stop(f, 0); /* so that it looks at once */
	c.take_over = false;
	fix_commit(f);
	fix_start(f, &c);
	assert_int_equal(primary_ship_sync(f->ship, 30000, &f->err), -FZ_EFENCED);
	assert_int_equal(primary_ship_position(f->ship, info.lineage), 5);
	judge_all(f, 1, 5); /* its history is still there, and nothing was added */
	judge_read(f, &j, NULL);
	assert_int_equal(j.last, 5);
	judge_fini(&j);
	memcpy(g->url, saved, sizeof(g->url));
	fix_free(g);
}

/* As another host would have claimed the log's lineage. */
static void claim_by_hand(struct fix *f, const char *writer_id, uint32_t n, uint32_t epoch, uint64_t base_txid)
{
	struct primary_claim c = {.epoch = epoch,
	                          .base_txid = base_txid,
	                          .base_checksum = f->sums[base_txid],
	                          .writer = "there",
	                          .time_ms = fz_now_ms()};
	struct fz_buf text = {0};
	struct ltx_log_info info;
	char key[64];

	ltx_log_info(f->log, &info);
	memcpy(c.lineage, info.lineage, sizeof(c.lineage));
	snprintf(c.writer_id, sizeof(c.writer_id), "%s", writer_id);
	snprintf(key, sizeof(key), "app.db/claim/%08x", n);
	assert_int_equal(primary_claim_format(&text, &c), 0);
	OK(fz_store_put_new(f->look, key, text.data, text.size, &f->err));
	fz_buf_fini(&text);
}

static size_t claims(struct fix *f)
{
	struct fz_store_list l = {0};
	size_t n;

	OK(fz_store_list(f->look, "app.db/claim/", NULL, false, &l, &f->err));
	n = l.n;
	fz_store_list_fini(&l);
	return n;
}

/* A worker's life, with one commit. Returns what its sync did. */
static int ship_one(struct fix *f, const struct primary_target_conf *c)
{
	uint64_t end = fz_mono_ns() + UINT64_C(60) * 1000000000;
	int rc;

	fix_start(f, c);
	fix_commit(f);
	do /* where the slow lane meets the fence first, a sync hears of it when its time is up */
		rc = primary_ship_sync(f->ship, 100, &f->err);
	while (rc == -FZ_ETIMEOUT && fz_mono_ns() < end);
	fix_stop(f, 0);
	return rc;
}

static void next_life(struct fix *f)
{
	OK(ltx_log_set_ended(f->log, fz_now_ms(), &f->err));
	ltx_log_put(f->log);
	OK(ltx_logset_get(f->set, "app.db", true, &f->log, &f->err));
	f->db.txid = 0;
	f->db.sum = LTX_EMPTY_DB;
	f->db.commit = 0;
}

/* Every worker of a promoted host knows of the promotion: what another host has claimed since stays all the same, whatever epoch the log
 * has begun by itself, and in the next life too. Another promotion counts anew. */
static void test_promotion_counts_once(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);

	fix_commit(f);
	claim_by_hand(f, "a", 1, 0, 0);
	OK(ltx_log_set_epoch(f->log, 1, &f->err));
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	c.promoted = 1; /* however many workers have ended since */
	assert_int_equal(ship_one(f, &c), 0);
	assert_int_equal(ship_one(f, &c), 0);
	assert_int_equal(claims(f), 2);
	claim_by_hand(f, "b", 3, 2, f->db.txid);
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	OK(ltx_log_set_epoch(f->log, 3, &f->err)); /* after a crash, say */
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	assert_int_equal(claims(f), 3);
	OK(ltx_log_set_epoch(f->log, 4, &f->err));
	c.promoted = 4;
	assert_int_equal(ship_one(f, &c), 0);
	assert_int_equal(claims(f), 4);
	claim_by_hand(f, "b", 5, 5, f->db.txid);
	next_life(f);
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	assert_int_equal(claims(f), 5);
	c.promoted = 6; /* of which the life that has ended began no epoch */
	assert_int_equal(ship_one(f, &c), 0);
}

/* So is it with a mount that was told to take over, which each of its workers is; unless nothing came of it yet. */
static void test_take_over_counts_once(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	int fd, rc;

	claim_by_hand(f, "a", 1, 0, 0);
	c.take_over = 7;
	assert_int_equal(renameat(f->dirfd, "store", f->dirfd, "away"), 0);
	fd = openat(f->dirfd, "store", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	rc = ship_one(f, &c);
	assert_true(rc < 0 && rc != -FZ_EFENCED);
	assert_int_equal(unlinkat(f->dirfd, "store", 0), 0);
	assert_int_equal(renameat(f->dirfd, "away", f->dirfd, "store"), 0);
	assert_int_equal(ship_one(f, &c), 0);
	assert_int_equal(ship_one(f, &c), 0);
	assert_int_equal(claims(f), 2);
	claim_by_hand(f, "a", 3, 0, 0);
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	c.take_over = 0;
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	c.take_over = 7;
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	assert_int_equal(claims(f), 3);
	c.take_over = 8; /* another mount */
	assert_int_equal(ship_one(f, &c), 0);
	assert_int_equal(claims(f), 4);
	claim_by_hand(f, "a", 5, 0, 0);
	next_life(f);
	assert_int_equal(ship_one(f, &c), -FZ_EFENCED);
	assert_int_equal(claims(f), 5);
}

/* The log's epoch was raised: a new claim that names the base, and the history goes on. */
static void test_new_epoch(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	struct fz_buf claim = {0};

	fix_start(f, &c);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	OK(ltx_log_set_epoch(f->log, 2, &f->err));
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, 10);
	OK(fz_store_get(f->look, "app.db/claim/00000002", 4096, &claim, &f->err));
	assert_non_null(strstr(fz_buf_str(&claim), "\"base_txid\":\"0000000000000005\""));
	assert_non_null(strstr(fz_buf_str(&claim), "\"epoch\":2"));
	fz_buf_fini(&claim);
}

static int lag_txns(struct fix *f, int target)
{
	cJSON *a = fix_status(f);
	int n = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(cJSON_GetArrayItem(a, target), "lag_txns"));

	cJSON_Delete(a);
	return n;
}

/* A host dies between its claim and its cursor, and the former writer, who has not looked yet, ships on in the old epoch: what the claim
 * says ends there, so the new epoch goes on from its base, and not from all that is there and agrees. */
static void test_claim_found_again(void **state)
{
	static const char me[] = "0123456789abcdef0123456789abcdef";
	struct fix *f = *state;
	struct primary_target_conf c = fix_quick;
	struct fz_store_list l = {0};
	uint64_t from = UINT64_MAX;

	fix_start(f, &c);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	claim_by_hand(f, me, 2, 1, 5);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_stop(f, 0);
	OK(fz_remove_tree(f->statefd, "ship", &f->err)); /* now it is the other host, which has got all that */
	OK(fz_mkdirs(f->statefd, "ship", 0700, &f->err));
	OK(fz_write_file(f->statefd, "ship/writer-id", me, strlen(me), 0600, &f->err));
	OK(ltx_log_set_epoch(f->log, 1, &f->err));
	c.promoted = 1;
	fix_start(f, &c);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	assert_int_equal(claims(f), 2);
	OK(fz_store_list(f->look, "app.db/", NULL, false, &l, &f->err));
	for (size_t i = 0; i < l.n; i++) {
		struct ltx_name n;

		if (ltx_name_get(&n, l.v[i].key + strlen("app.db/")) == 0 && n.level == LTX_L_PACK && n.epoch == 1 &&
		    n.min_txid < from)
			from = n.min_txid;
	}
	fz_store_list_fini(&l);
	assert_int_equal(from, 6);
	judge_all(f, 1, 10);
}

/* A slow or dead target holds up neither the other one nor the position that the log may be pruned to. */
static void test_two_targets(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c[2] = {encrypted(f), fix_quick};
	struct primary_ship_conf s = {
	        .targets = c, .n_targets = 2, .statefd = f->statefd, .logs = f->set, .writer = "w"};
	struct fz_store_conf sc = {.create = true};
	struct ltx_log_info info;
	char url[200];
	int fd;

	c[0].store = fix_store(f);
	fd = openat(f->dirfd, "store2", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	snprintf(url, sizeof(url), "dir:%s/store2", f->dir);
	OK(fz_store_open(&c[1].store, url, &sc, &f->err));
	OK(primary_ship_start(&f->ship, &s, &f->err));
	for (int i = 0; i < 10; i++)
		fix_commit(f);
	assert_true(primary_ship_sync(f->ship, 300, &f->err) < 0);
	while (lag_txns(f, 0) > 0) /* the first one takes as long as it takes */
		nanosleep(&(struct timespec){0, 5000000}, NULL);
	judge_all(f, 1, 10);
	ltx_log_info(f->log, &info);
	assert_int_equal(primary_ship_position(f->ship, info.lineage), 0);
	assert_int_equal(lag_txns(f, 1), 10);
	OK(fz_remove_tree(f->dirfd, "store2", &f->err));
	while (primary_ship_sync(f->ship, 30000, &f->err) < 0)
		;
	assert_int_equal(primary_ship_position(f->ship, info.lineage), 10);
	fix_stop(f, 0);
	OK(fz_remove_tree(f->dirfd, "store2", &f->err));
}

/* Plain objects only when nobody is to be able to decrypt: names and bytes say so. */
static void test_plain(void **state)
{
	struct fix *f = *state;
	struct fz_store_list l = {0};

	fix_start(f, &fix_quick);
	fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, 1);
	OK(fz_store_list(f->look, "", NULL, false, &l, &f->err));
	for (size_t i = 0; i < l.n; i++)
		assert_null(strstr(l.v[i].key, ".age"));
	fz_store_list_fini(&l);
	fix_stop(f, 0);
}

/* Retention while commits come: everything that is left leads somewhere, and the newest is always there. */
static bool few_objects(struct fix *f)
{
	struct judge j;
	bool few;

	judge_read(f, &j, NULL);
	few = j.per_level[LTX_L_PACK] <= 3 && j.per_level[LTX_L_PACK_MINUTE] <= 3;
	assert_int_equal(j.last, f->db.txid);
	judge_fini(&j);
	return few;
}

static void test_retention(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = levelled(f);
	uint64_t end = fz_mono_ns() + UINT64_C(2500) * 1000000;

	c.keep_commits_ms = 300;
	c.keep_minutes_ms = 600;
	c.keep_hours_ms = 100000;
	c.keep_days_ms = -1;
	c.delete_grace_ms = 1;
	c.snapshot_interval_ms = 300;
	fix_start(f, &c);
	while (fz_mono_ns() < end) {
		fix_commit(f);
		usleep(5000);
	}
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_until(f, levels_done, "levels");
	while (!few_objects(f)) { /* each judgement is for a database with news */
		fix_commit(f);
		OK(primary_ship_sync(f->ship, 30000, &f->err));
		usleep(100000);
		assert_true(fz_mono_ns() < end + UINT64_C(60) * 1000000000);
	}
	judge_all(f, f->db.txid, f->db.txid);
}

/* Does an object of levels first..last hold txid, by itself or within a range? */
static bool in_levels(const struct judge *j, int first, int last, uint64_t txid)
{
	for (size_t i = 0; i < j->n; i++)
		if (j->v[i].level >= first && j->v[i].level <= last && j->v[i].h.min_txid <= txid &&
		    txid <= j->v[i].h.max_txid)
			return true;
	return false;
}

/* Commits until one of them, above after, has gone from level 0: levels have it, and retention has worked since. What was
 * superseded by then is gone once that has happened twice. */
static void until_superseded(struct fix *f, uint64_t after, int64_t at_ms)
{
	uint64_t end = fz_mono_ns() + UINT64_C(60) * 1000000000;
	bool gone = false;

	while (!gone) {
		int64_t now_ms = fz_now_ms();
		struct judge j;

		fix_commit_at(f, now_ms > at_ms ? now_ms : at_ms);
		OK(primary_ship_sync(f->ship, 30000, &f->err));
		judge_read(f, &j, NULL);
		for (uint64_t t = after + 1; t <= f->db.txid && !gone; t++)
			gone = !in_levels(&j, LTX_L_PACK, LTX_L_PACK, t);
		judge_fini(&j);
		assert_true(fz_mono_ns() < end);
		usleep(20000);
	}
}

static struct primary_target_conf superseding(struct fix *f)
{
	struct primary_target_conf c = levelled(f);

	c.keep_commits_ms = 100000000;
	c.delete_grace_ms = 1;
	return c;
}

/* The log merges, at its limit, what was shipped commit by commit, before levels 1 and 2 are made from it: each commit stays
 * restorable. The worker knows what it has shipped, or another one has shipped it. */
static void squashed_after_shipping(struct fix *f, bool restart)
{
	struct primary_target_conf first = encrypted(f), c = superseding(f);
	int64_t at_ms = fz_now_ms() + (restart ? 0 : 2000); /* no level is due before the log is merged */
	struct ltx_log_info info;

	fix_start(f, restart ? &first : &c);
	for (int i = 1; i <= 300; i++) {
		fix_commit_at(f, at_ms);
		if (i % 25 == 0)
			OK(primary_ship_sync(f->ship, 30000, &f->err));
	}
	if (restart)
		fix_stop(f, 0);
	OK(ltx_log_squash(f->log, 1, 300, &f->err));
	ltx_log_info(f->log, &info);
	assert_true(info.merged_txns > 50);
	if (restart)
		fix_start(f, &c);
	until_superseded(f, 300, at_ms);
	until_superseded(f, f->db.txid, at_ms);
	judge_all(f, 1, f->db.txid);
}

static void test_squashed_after_shipping(void **state)
{
	squashed_after_shipping(*state, false);
}

static void test_squashed_and_restarted(void **state)
{
	squashed_after_shipping(*state, true);
}

/* What was merged before it was shipped exists as ranges only: levels 1 and 2 hold those, and level 0 is rid of them. */
static void test_squashed_before_shipping(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = superseding(f);
	int64_t at_ms = fz_now_ms();
	struct ltx_log_info info;
	size_t ranges = 0;
	struct judge j;

	c.ship_bytes = 10000; /* several packs: a single one would stand for itself */
	for (int i = 1; i <= 300; i++)
		fix_commit_at(f, at_ms);
	OK(ltx_log_squash(f->log, 1, 300, &f->err));
	ltx_log_info(f->log, &info);
	assert_true(info.merged_txns > 50);
	fix_start(f, &c);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	until_superseded(f, 300, at_ms);
	until_superseded(f, f->db.txid, at_ms);
	judge_read(f, &j, NULL);
	for (uint64_t t = 1; t <= 300; t++) {
		assert_true(in_levels(&j, LTX_L_PACK_MINUTE, LTX_L_PACK_HOUR, t));
		assert_false(in_levels(&j, LTX_L_PACK, LTX_L_PACK, t));
	}
	for (size_t i = 0; i < j.n; i++)
		ranges += j.v[i].level <= LTX_L_PACK_HOUR && j.v[i].h.max_txid > j.v[i].h.min_txid;
	assert_true(ranges > 0);
	judge_fini(&j);
}

/* A size limit below what all tiers would hold: the oldest go first, the newest tier stays whole. */
static bool small_enough(struct fix *f)
{
	struct fz_store_list l = {0};
	uint64_t sum = 0;

	OK(fz_store_list(f->look, "app.db/", NULL, false, &l, &f->err));
	for (size_t i = 0; i < l.n; i++)
		sum += l.v[i].size_bytes;
	fz_store_list_fini(&l);
	fix_commit(f); /* slowly: what the first tier holds must fit */
	usleep(20000);
	return sum < 400000 && sum > 0 && f->db.txid > 900;
}

static void test_keep_bytes(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = levelled(f);

	c.keep_commits_ms = 2000; /* as long as shipping and judging below may take on a busy machine */
	c.keep_bytes = 300000;
	c.delete_grace_ms = 1;
	c.snapshot_interval_ms = 300;
	fix_start(f, &c);
	while (f->db.txid < 900) {
		fix_commit(f);
		usleep(3000);
	}
	fix_until(f, small_enough, "a store of the wanted size");
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, f->db.txid - 10, f->db.txid);
}

/* With the month's requests used up, packs wait; an explicit sync does not. */
static void test_requests_per_month(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);

	c.requests_per_month = 300; /* 10 at once */
	fix_start(f, &c);
	for (int i = 0; i < 12; i++) {
		fix_commit(f);
		OK(primary_ship_sync(f->ship, 30000, &f->err));
	}
	assert_true(fix_status_number(f, "requests") >= 13);
	fix_commit(f);
	fix_stop(f, 0);
	fix_start(f, &c); /* a restart refills nothing */
	do
		fix_commit(f);
	while (fix_status_number(f, "ship_interval_ms") < 1000000);
	assert_int_equal(fix_status_number(f, "requests"), 0);
	assert_true(fix_status_number(f, "lag_txns") >= 2);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, f->db.txid);
}

/* What the last worker shipped within its grace needs no next one. */
static void test_stop_ships(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);

	c.ship_interval_ms = 3600000;
	fix_start(f, &c);
	for (int i = 0; i < 10; i++)
		fix_commit(f);
	fix_stop(f, 30000);
	judge_all(f, 1, 10);
}

/* A pack goes before its interval once it is large. */
static bool arrived(struct fix *f)
{
	struct judge j;
	bool yes;

	judge_read(f, &j, NULL);
	yes = j.last > 0;
	judge_fini(&j);
	return yes;
}

static void test_ship_bytes(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);

	c.ship_interval_ms = 3600000;
	c.ship_bytes = 20000;
	fix_start(f, &c);
	for (int i = 0; i < 100; i++)
		fix_commit(f);
	fix_until(f, arrived, "a large pack");
}

/* A removed log takes its cursor with it. */
static bool no_cursor(struct fix *f)
{
	struct dirent *e;
	bool none = true;
	char path[180];
	DIR *d;

	fix_commit(f); /* the lane looks when something happens */
	snprintf(path, sizeof(path), "%s/state/ship", f->dir);
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d))) {
		char sub[460];
		struct dirent *g;
		DIR *dd;

		snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
		dd = e->d_name[0] == '.' ? NULL : opendir(sub);
		while (dd && (g = readdir(dd)))
			none &= strncmp(g->d_name, "gone.db.", 8) != 0;
		if (dd)
			closedir(dd);
	}
	closedir(d);
	return none;
}

static void test_removed_log(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	struct ltx_log *keep = f->log;

	OK(ltx_logset_get(f->set, "gone.db", true, &f->log, &f->err));
	fix_commit(f);
	fix_start(f, &c);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	OK(ltx_log_set_ended(f->log, fz_now_ms(), &f->err));
	while (ltx_logset_remove(f->set, f->log, &f->err) < 0) /* a lane may hold it for a moment */
		usleep(1000);
	ltx_log_put(f->log);
	f->log = keep;
	f->db.txid = 0;
	f->db.sum = LTX_EMPTY_DB;
	f->db.commit = 0;
	fix_until(f, no_cursor, "the end of a cursor");
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, f->db.txid);
}

/* Deleted and made again: a new lineage beside the old one. */
static void test_new_lineage(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	struct ltx_log_info first;
	struct judge j;

	fix_start(f, &c);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	ltx_log_info(f->log, &first);
	OK(ltx_log_set_ended(f->log, fz_now_ms(), &f->err));
	ltx_log_put(f->log);
	judge_all(f, 0, 0);
	OK(ltx_logset_get(f->set, "app.db", true, &f->log, &f->err));
	f->db.txid = 0;
	f->db.sum = LTX_EMPTY_DB;
	f->db.commit = 0;
	judge_read(f, &j, first.lineage);
	assert_int_equal(j.last, 5);
	judge_fini(&j);
	for (int i = 0; i < 3; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 1, 3);
}

static bool told_end(struct fix *f)
{
	struct ltx_log_info info;

	ltx_log_info(f->log, &info);
	return primary_ship_told_end(f->ship, &info);
}

/* The marks that lie there: their claims' numbers, the text of the last one. */
static size_t marks(struct fix *f, unsigned n[static 8], struct fz_buf *text)
{
	struct fz_store_list l = {0};
	size_t found = 0;

	OK(fz_store_list(f->look, "app.db/claim/", NULL, false, &l, &f->err));
	for (size_t i = 0; i < l.n; i++)
		if (strstr(l.v[i].key, "-ended")) {
			fz_buf_reset(text);
			OK(fz_store_get(f->look, l.v[i].key, 4096, text, &f->err));
			n[found++] = (unsigned)strtoul(l.v[i].key + strlen("app.db/claim/"), NULL, 16);
		}
	fz_store_list_fini(&l);
	return found;
}

/* The end of a database is told once all of it is there: at once, or, when the target is away or no worker runs, later; not of one that
 * has a later life by then, nor by a writer that was fenced. */
static void test_end_is_told(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	struct fz_buf text = {0};
	struct ltx_log_info info;
	unsigned n[8];

	fix_start(f, &c);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	assert_int_equal(marks(f, n, &text), 0);
	fix_commit(f);
	OK(ltx_log_set_ended(f->log, INT64_C(1700000000123), &f->err));
	assert_false(told_end(f));
	fix_until(f, told_end, "the mark of the end");
	assert_int_equal(marks(f, n, &text), 1);
	assert_int_equal(n[0], 1);
	ltx_log_info(f->log, &info);
	assert_non_null(strstr(fz_buf_str(&text), info.lineage));
	assert_non_null(strstr(fz_buf_str(&text), "\"txid\":\"0000000000000006\""));
	assert_non_null(strstr(fz_buf_str(&text), "\"time_ms\":1700000000123"));
	judge_all(f, 1, 6);
	/* another life, which ends while no worker runs */
	ltx_log_put(f->log);
	OK(ltx_logset_get(f->set, "app.db", true, &f->log, &f->err));
	f->db.txid = 0;
	f->db.sum = LTX_EMPTY_DB;
	f->db.commit = 0;
	fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_stop(f, 0);
	fix_commit(f);
	OK(ltx_log_set_ended(f->log, INT64_C(1700000000456), &f->err));
	fix_start(f, &c);
	fix_until(f, told_end, "the mark after a restart");
	assert_int_equal(marks(f, n, &text), 2);
	assert_int_equal(n[1], 2);
	fix_stop(f, 0);
	fix_start(f, &c); /* known */
	fix_until(f, told_end, "the cursor");
	assert_int_equal(marks(f, n, &text), 2);
	fix_stop(f, 0);
	fz_buf_fini(&text);
}

/* How often the log file holds text. */
static unsigned told(int fd, const char *text)
{
	static char all[1 << 20];
	ssize_t n = pread(fd, all, sizeof(all) - 1, 0);
	unsigned found = 0;

	assert_in_range(n, 0, sizeof(all) - 2);
	all[n] = 0;
	for (const char *p = all; (p = strstr(p, text)); p++)
		found++;
	return found;
}

static bool slow_has_failed(struct fix *f)
{
	char state[32];

	fix_status_text(f, "state", state, sizeof(state));
	return strcmp(state, "retrying") == 0;
}

/* A file where the directory of a level would be: nothing of it can be stored until it is gone. */
static void block_level(struct fix *f, int level, bool on)
{
	struct ltx_log_info info;
	char path[400];
	int fd;

	ltx_log_info(f->log, &info);
	snprintf(path, sizeof(path), "%s/store/app.db/%s/%08x/%d", f->dir, info.lineage, info.epoch, level);
	if (!on) {
		assert_int_equal(unlink(path), 0);
		return;
	}
	OK(fz_remove_tree(AT_FDCWD, path, &f->err));
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
}

/* While the snapshot that heals a gap is on its way the log is pruned beyond it: another snapshot must follow. */
static void test_gap_while_healing(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = encrypted(f);
	char path[200];
	int log;

	c.ship_interval_ms = 60000; /* only when it is asked to */
	snprintf(path, sizeof(path), "%s/log", f->dir);
	log = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(log >= 0);
	fz_log_set_fd(log);
	fix_start(f, &c);
	for (int i = 0; i < 10; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	fix_stop(f, 0);
	block_level(f, LTX_L_SNAPSHOT, true);
	for (int round = 1; round <= 2; round++) {
		for (int i = 0; i < 100; i++)
			fix_commit(f);
		OK(ltx_log_sync(f->log, &f->err));
		OK(ltx_log_fold(f->log, f->db.txid, NULL, &f->err));
		if (round == 1)
			fix_start(f, &c);
		while (told(log, "; a snapshot heals it") < (unsigned)round || (round == 1 && !slow_has_failed(f)))
			assert_true(primary_ship_sync(f->ship, 20, &f->err) < 0);
	}
	block_level(f, LTX_L_SNAPSHOT, false);
	while (primary_ship_sync(f->ship, 30000, &f->err) < 0)
		assert_int_not_equal(f->err.code, -FZ_ETIMEOUT);
	judge_all(f, 210, 210);
	for (int i = 0; i < 5; i++)
		fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	judge_all(f, 210, 215);
	fz_log_set_fd(2);
	close(log);
	unlink(path);
}

static bool slow_is_back(struct fix *f)
{
	char state[32];

	fix_status_text(f, "state", state, sizeof(state));
	return strcmp(state, "ok") == 0 && levels_done(f);
}

/* The store takes packs, but nothing of the levels: told once, however many packs go out meanwhile, and that it is over
 * only when a level was stored. The log must not grow with the number of packs, nor the backoff start anew. */
static void test_one_lane_in_trouble(void **state)
{
	struct fix *f = *state;
	struct primary_target_conf c = levelled(f);
	char path[200];
	int log;

	snprintf(path, sizeof(path), "%s/log", f->dir);
	log = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_true(log >= 0);
	fz_log_set_fd(log);
	fix_start(f, &c);
	fix_commit(f);
	OK(primary_ship_sync(f->ship, 30000, &f->err));
	for (int l = LTX_L_PACK_MINUTE; l <= LTX_L_SNAPSHOT; l++)
		block_level(f, l, true);
	while (!slow_has_failed(f)) {
		fix_commit(f);
		OK(primary_ship_sync(f->ship, 30000, &f->err));
	}
	for (int i = 0; i < 60; i++) {
		fix_commit(f);
		OK(primary_ship_sync(f->ship, 30000, &f->err)); /* commits arrive all the same */
	}
	assert_int_equal(told(log, "shipping waits"), 1);
	assert_int_equal(told(log, "again"), 0);
	for (int l = LTX_L_PACK_MINUTE; l <= LTX_L_SNAPSHOT; l++)
		block_level(f, l, false);
	fix_until(f, slow_is_back, "the levels");
	assert_int_equal(told(log, "shipping waits"), 1);
	assert_int_equal(told(log, "again"), 1);
	judge_all(f, 1, f->db.txid);
	fz_log_set_fd(2);
	close(log);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_every_commit_arrives, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_without_sync_within_the_interval, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_plain, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_levels, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_starts_with_snapshot, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_gap_heals, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_gap_while_healing, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_vanished_store_heals, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_sigkill, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_faults, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_faults_after, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_faults_denied, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_faults_refused, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_faults_of_levels, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_target_down, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_fenced, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_promotion_counts_once, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_take_over_counts_once, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_new_epoch, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_claim_found_again, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_two_targets, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_retention, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_squashed_after_shipping, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_squashed_and_restarted, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_squashed_before_shipping, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_keep_bytes, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_requests_per_month, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_stop_ships, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_ship_bytes, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_removed_log, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_one_lane_in_trouble, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_new_lineage, fix_setup, fix_teardown),
	        cmocka_unit_test_setup_teardown(test_end_is_told, fix_setup, fix_teardown),
	};

	return cmocka_run_group_tests_name("primary_ship", tests, NULL, NULL);
}
