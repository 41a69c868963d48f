#include "replica/dial.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/net.h"
#include "ltx/age.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

#define MS_NS        UINT64_C(1000000)
#define CONNECT_MS   5000
#define HANDSHAKE_MS 5000

/* The primary does not say why it hangs up: strangers shall learn nothing. So all that it can be is said here. */
static int refused(const struct replica_dial *d, struct fz_err *err)
{
	struct ltx_age_identity id;
	struct ltx_age_recipient r;
	char text[LTX_AGE_RECIPIENT_SIZE];

	memcpy(id.secret, d->secret, sizeof(id.secret));
	ltx_age_identity_recipient(&id, &r);
	sodium_memzero(&id, sizeof(id));
	ltx_age_recipient_format(text, &r);
	return fz_fail(
	        err, FZ_EDENIED,
	        "%s hung up on this host's key: it must be called with --follower %s, and the --primary-key given "
	        "here must be its key",
	        d->primary, text);
}

static int other_version(const struct replica_dial *d, uint8_t version, struct fz_err *err)
{
	return fz_fail(err, FZ_EVERSION,
	               "%s speaks version %u of the link, this host %d to %d: bring both to releases that lie closer",
	               d->primary, version, LTX_WIRE_VERSION_MIN, LTX_WIRE_VERSION);
}

/* One call with one version. Returns 0, 1 = *other is what the primary speaks, negative. */
static int call(struct replica_dial *d, uint8_t version, uint8_t *other, struct fz_err *err)
{
	uint8_t out[LTX_WIRE_HELLO_BYTES + LTX_NOISE_MSG1], in[LTX_NOISE_MSG2], head[LTX_WIRE_HELLO_BYTES], none[1];
	uint64_t deadline_ns;
	struct ltx_noise n;
	uint16_t length = 0;
	int rc;

	d->fd = rc = fz_net_connect(d->primary, CONNECT_MS, d->cancel_fd, err);
	if (rc < 0)
		return rc;
	d->met = true;
	deadline_ns = fz_mono_ns() + HANDSHAKE_MS * MS_NS;
	ltx_wire_hello_put(out, version, LTX_NOISE_MSG1);
	rc = ltx_noise_init(&n, true, d->secret, d->primary_key, out, LTX_WIRE_PROLOGUE, err);
	if (rc < 0)
		goto out;
	rc = ltx_noise_write(&n, NULL, 0, out + LTX_WIRE_HELLO_BYTES, LTX_NOISE_MSG1, err);
	if (rc >= 0)
		rc = fz_net_write(d->fd, out, sizeof(out), deadline_ns, d->cancel_fd, err);
	if (rc >= 0)
		rc = fz_net_read(d->fd, head, sizeof(head), deadline_ns, d->cancel_fd, err);
	if (rc == -ECONNRESET)
		rc = refused(d, err);
	if (rc >= 0)
		rc = ltx_wire_hello_get(head, sizeof(head), other, &length, err);
	if (rc >= 0 && *other != version)
		rc = 1;
	else if (rc >= 0 && length != LTX_NOISE_MSG2)
		rc = fz_fail(err, FZ_ECORRUPT, "the answer has %u bytes", length);
	if (rc == 0)
		rc = fz_net_read(d->fd, in, sizeof(in), deadline_ns, d->cancel_fd, err);
	if (rc == 0) {
		rc = ltx_noise_read(&n, in, sizeof(in), none, sizeof(none), err);
		if (rc == -FZ_ECRYPT)
			rc = refused(d, err);
		else if (rc >= 0)
			rc = ltx_noise_split(&n, &d->send, &d->receive, err);
	}
out:
	ltx_noise_fini(&n);
	if (rc)
		fz_close(&d->fd);
	return rc;
}

int replica_dial(struct replica_dial *d, struct fz_err *err)
{
	uint8_t other = 0, again = 0;
	int rc;

	d->met = false;
	d->fd = -1;
	rc = call(d, d->version, &other, err);
	if (rc > 0) {
		if (other < LTX_WIRE_VERSION_MIN || other > LTX_WIRE_VERSION)
			return other_version(d, other, err);
		rc = call(d, other, &again, err);
		if (rc > 0)
			return other_version(d, again, err);
	}
	if (rc == -FZ_ECORRUPT)
		fz_err_prefix(err, "what listens at %s is no fazt link", d->primary);
	return rc;
}
