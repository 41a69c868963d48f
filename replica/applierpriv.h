/* applierpriv.h - the messages between worker and agent about applying. Both are the same program; after an upgrade they may
 * differ, so a message of another size or version is dropped and told. Private to applier.c and applier_serve.c. */
#ifndef FZ_REPLICA_APPLIERPRIV_H
#define FZ_REPLICA_APPLIERPRIV_H

#include "replica/applier.h"

#define REPLICA_APPLIER_VERSION 0x465a4131u /* "FZA1" */

enum replica_applier_type {
	/* worker to agent */
	REPLICA_APPLIER_HI = 1, /* say hello, and every state */
	REPLICA_APPLIER_POST,   /* name, lineage, txid */
	REPLICA_APPLIER_REMOVE, /* number, name, lineage */
	REPLICA_APPLIER_DETACH, /* number */
	REPLICA_APPLIER_HOLD, /* lineage, NAME, number: applies nothing more, and with the next POST begins with a rewind */
	/* agent to worker */
	REPLICA_APPLIER_HELLO, /* with SCM_CREDENTIALS */
	REPLICA_APPLIER_STATE, /* lineage, state, code, text; number: 1 = of before a HOLD, the rewind has still to come */
	REPLICA_APPLIER_DONE, /* number, code, text */
};
struct replica_applier_msg {
	uint32_t version, type;
	uint64_t number; /* of a request; its answer carries the same */
	uint64_t txid;
	struct replica_apply_state state;
	int32_t code;
	char lineage[17];
	char text[511]; /* NAME or the sentence of an error */
};

#endif
