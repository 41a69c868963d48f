/* setup_text.c - the configuration file that `fazt init` writes: what was decided, and beside it what is often wanted, commented out. */
#include "cmd/setup.h"

#include "cmd/config.h"
#include "cmd/quote.h"

#include <errno.h>
#include <string.h>

#define WORD_MAX 150 /* of a comment, which cannot go on in the next line as a value can */

static const char head[] =
        "# Configuration of fazt for %s.\n"
        "# Every key with its meaning: man 5 fazt.conf. After a change:\n"
        "#   fazt config check %s\n"
        "#   fazt reload %s\n"
        "\n"
        "[mount]\n"
        "# Files that are never captured, as patterns of paths below the directory, one a line.\n"
        "#exclude = cache/*.db\n"
        "# Limit of the local log, per database: how long targets may be away before detail is given up.\n"
        "#log_max = 1G\n"
        "# Where log and state are kept; the default is .fazt in the directory itself.\n"
        "#state = /var/lib/fazt/app\n"
        "\n"
        "[encrypt]\n";
static const char with_key[] =
        "# Public keys that backups are encrypted for (age1...). Each of their secret keys can read them alone.\n";
static const char plain[] = "# Plain objects, as it was asked for: whoever reads the store reads the databases.\n"
                            "encrypt = none\n";
static const char links[] = "\n"
                            "# Replicas, and taking over: docs/replication.md\n"
                            "#[link]\n"
                            "#host_key = /etc/fazt/host.key\n"
                            "#listen = 10.0.0.1:7300\n"
                            "#follower = age1...\n";
static const char tuning[] =
        "# How often commits are shipped; 1s makes up to 2.6 million requests a month while something is written.\n"
        "#ship_interval = 1s\n"
        "# Intervals are stretched before more requests are made.\n"
        "#requests_per_month = 1000000\n"
        "# How long every commit stays restorable; then one state a minute, an hour, a day.\n"
        "#keep_commits = 1d\n"
        "#keep_minutes = 7d\n"
        "#keep_hours = 30d\n"
        "#keep_days = 365d\n"
        "# `fazt status` calls more lag than this a problem.\n"
        "#lag_max = 60s\n";

static int add_target(const struct cmd_setup *s, const char *url, size_t i, struct fz_buf *out, struct fz_err *err)
{
	bool s3 = !strncmp(url, "s3:", 3);
	int rc = i ? fz_buf_addf(out, "\n[target %s%zu]\n", s3 ? "offsite" : "local", i + 1)
	           : fz_buf_addf(out, "\n# NAME/app.db then is a source for restore, log and verify.\n[target %s]\n",
	                         s3 ? "offsite" : "local");

	if (rc == 0)
		rc = cmd_conf_format_line(out, "url", url, err);
	if (rc == 0 && s3 && s->credentials[0])
		rc = fz_buf_addf(out, "# Access keys (0600); without this: AWS_* in the environment, ~/.aws.\n");
	if (rc == 0 && s3 && s->credentials[0])
		rc = cmd_conf_format_line(out, "credentials_file", s->credentials, err);
	return rc < 0 ? rc : fz_buf_add(out, tuning, sizeof(tuning) - 1);
}

/* For a command line in a comment. */
static const char *word(struct fz_buf *b, const char *path, const char *otherwise)
{
	cmd_quote_word(b, path);
	return b->size > WORD_MAX ? otherwise : fz_buf_str(b);
}

int cmd_setup_text(const struct cmd_setup *s, struct fz_buf *out, struct fz_err *err)
{
	struct fz_buf dir = {0}, file = {0};
	const char *d = word(&dir, s->where.dir, "DIR");
	int rc = fz_buf_addf(out, head, d, word(&file, s->config, "FILE"), d);

	fz_buf_fini(&dir);
	fz_buf_fini(&file);
	if (rc == 0 && s->encrypt && !strcmp(s->encrypt, "none"))
		rc = fz_buf_add(out, plain, sizeof(plain) - 1);
	else if (rc == 0) {
		rc = fz_buf_add(out, with_key, sizeof(with_key) - 1);
		for (size_t i = 0; rc == 0 && i < s->recipients.n; i++)
			rc = fz_buf_addf(out, "%s%s\n", i ? "  " : "recipients = ", s->recipients.v[i]);
	}
	for (size_t i = 0; rc == 0 && i < s->targets.n; i++)
		rc = add_target(s, s->targets.v[i], i, out, err);
	if (rc == 0 && !s->targets.n)
		rc = fz_buf_addf(out, "\n# Where commits are shipped. Without a target they stay in the local "
		                      "log.\n#[target offsite]\n"
		                      "#url = s3://bucket/prefix?region=eu-central-1\n");
	if (rc == 0)
		rc = fz_buf_add(out, links, sizeof(links) - 1);
	return rc == -ENOMEM ? fz_fail(err, rc, "making the configuration") : rc;
}
