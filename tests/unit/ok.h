/* ok.h - a call that must succeed: the test fails with the sentence of error e otherwise. Its value is what the call returned. */
#ifndef FZ_TESTS_OK_H
#define FZ_TESTS_OK_H

#define OK_OR(call, e)                                                                                                 \
	({                                                                                                             \
		int rc_ = (call);                                                                                      \
		if (rc_ < 0)                                                                                           \
			fail_msg("%s: %s (%d)", #call, (e).text, rc_);                                                 \
		rc_;                                                                                                   \
	})

#endif
