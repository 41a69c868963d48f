/* lease.h - who may accept commits at this moment, where a replica takes over by itself (failover = auto): one small object in a store
 * that all hosts reach, ".fazt/lease", which only ever changes hands by a conditional PUT.
 *
 * TERMS    version: one content of the object; no two are alike, so that its tag (ETag) stands for it. A renewal is a new version.
 * RULES    (1) A holder accepts commits until `duration` after the moment *before* it sent the last renewal that is known to have
 *              succeeded. A renewal without an answer is unknown: it counts for nothing, and the object is read again.
 *          (2) Whoever wants it takes it when it has seen one version, and seen it unchanged in an answer to a request that was sent
 *              duration + margin after that first sight, by its own clock. The PUT names that version: a renewal that came
 *              between makes it fail.
 *          (3) So the holder's time has run out before another one's begins, whatever was lost, delayed or stopped, as long as two
 *              clocks run alike to a quarter. No clock is compared with another.
 *          (4) After an outage of the store the holder has three quarters of a duration to renew before anybody else takes it: that nobody
 *              renewed meanwhile was not its fault.
 *          (5) Who takes it by force, while it may be in force, cannot be refused any more, but waits until the other one's must have run out.
 * Clocks are CLOCK_BOOTTIME: a machine that was suspended has lost its lease.      held by: tests/unit/test_primary_lease.c */
#ifndef FZ_PRIMARY_LEASE_H
#define FZ_PRIMARY_LEASE_H

#include "ltx/age.h"
#include "store/store.h"

#define PRIMARY_LEASE_KEY ".fazt/lease"

struct primary_lease_host { /* who */
	char node[33];      /* hex; the same for good */
	char boot[40];      /* the machine's boot id: the same host after a reboot is another holder */
	char session[33];   /* hex; of this process */
	char host[256];     /* for people */
	char key[LTX_AGE_RECIPIENT_SIZE], address[256]; /* where replicas follow it; "" = nowhere */
	unsigned followers;                             /* hosts that may follow it: others that may want the lease */
};
struct primary_lease_body {
	struct primary_lease_host who;
	uint32_t epoch;
	uint64_t term, renewals;
	int64_t duration_ms;
	int64_t wait_ms;                 /* rule (5); 0 once it is over */
	bool released;                   /* its holder accepts no commits any more */
	char to[LTX_AGE_RECIPIENT_SIZE]; /* released for this host; "" = for whoever comes */
	char lost[200]; /* what the holder knows that it did not get from the one before; "" = nothing */
	char nonce[33];
};
enum primary_lease_state {
	PRIMARY_LEASE_UNKNOWN, /* the store has not been read */
	PRIMARY_LEASE_NONE,    /* there never was one */
	PRIMARY_LEASE_MINE, /* this process's, or a former one's of this host since it was booted; not necessarily in force */
	PRIMARY_LEASE_OTHERS,   /* another's, and it may be in force */
	PRIMARY_LEASE_RELEASED, /* another's, given up for us or for anybody */
	PRIMARY_LEASE_EXPIRED   /* another's, and run out: rule (2) */
};
struct primary_lease {
	/* set by the caller */
	struct fz_store *store; /* borrowed */
	int64_t duration_ms;
	struct primary_lease_host self;
	uint64_t (*now_ns)(void); /* fz_boot_ns, or a test's */
	bool known; /* there was a lease before: that there is none is a failure (of the store, or of what is mounted there) */
	/* what is known */
	enum primary_lease_state state;
	struct primary_lease_body body; /* the version last read or written */
	char tag[FZ_STORE_TAG];
	bool sure;           /* nothing was sent since that may have replaced it */
	uint64_t seen_ns;    /* when this version was first seen */
	uint64_t checked_ns; /* when the last request was sent that showed it */
	uint64_t steady_ns;  /* since when every look was answered; 0 = the last was not */
	uint64_t free_ns;    /* taken by force: not in force before, see rule (5) */
	uint64_t held_ns;    /* rule (1): when the last renewal that succeeded was sent; 0 = not held */
};
/* Not thread-safe: one thread uses it. Text of the object. */
int primary_lease_format(struct fz_buf *out, const struct primary_lease_body *b) FZ_MUST_CHECK;
int primary_lease_parse(struct primary_lease_body *b, const char *text, struct fz_err *err) FZ_MUST_CHECK;

/* Fills node (hex of 16 bytes), boot and session. */
int primary_lease_init(struct primary_lease *l, const uint8_t node[static 16], struct fz_err *err) FZ_MUST_CHECK;
/* Reads the object and judges it. */
int primary_lease_look(struct primary_lease *l, struct fz_err *err) FZ_MUST_CHECK;
/* The lease is ours until primary_lease_until(): renews it, adopts it after a restart, or makes the first one. epoch: this host's.
 * -FZ_EFENCED: it is another's (state tells more). Other codes: unknown, nothing has changed for us. */
int primary_lease_renew(struct primary_lease *l, uint32_t epoch, struct fz_err *err) FZ_MUST_CHECK;
/* Takes it: when state is NONE, RELEASED, EXPIRED; by force: also OTHERS. lost: for the body. -FZ_ECONFLICT: another one was faster;
 * -FZ_EBUSY: it is in force. */
int primary_lease_take(struct primary_lease *l, uint32_t epoch, bool force, const char *lost,
                       struct fz_err *err) FZ_MUST_CHECK;
/* Gives it up for a host (its key, "" = anybody). The caller accepts no commits any more. */
int primary_lease_release(struct primary_lease *l, const char *to, struct fz_err *err) FZ_MUST_CHECK;
/* Until when commits may be accepted, in now_ns()'s time; 0 = not at all. */
uint64_t primary_lease_until(const struct primary_lease *l);
/* How long another's lease may still be in force, at most, for all that is known; 0 = it is not. */
int64_t primary_lease_left_ms(const struct primary_lease *l);

#endif
