#include "cmd/given.h"

#include "base/file.h"
#include "cmd/quote.h"

#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GIVEN_MAX (1u << 20)

static void forget(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	cJSON_free(text);
}

int cmd_given_save(const struct cmd_conf *c, char *const *env, int statefd, struct fz_err *err)
{
	cJSON *o = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(o, "environment");
	char *text;
	int rc;

	if (c->file)
		cJSON_AddStringToObject(o, "file", c->file);
	for (; *env; env++)
		if (!strncmp(*env, "FAZT_", 5))
			cJSON_AddItemToArray(list, cJSON_CreateString(*env));
	list = cJSON_AddArrayToObject(o, "flags");
	for (size_t i = 0; i < c->n_flags; i++) {
		cJSON *f = cJSON_CreateObject();

		cJSON_AddStringToObject(f, "flag", c->flags[i].flag);
		cJSON_AddStringToObject(f, "section", c->flags[i].section);
		cJSON_AddStringToObject(f, "key", c->flags[i].key);
		cJSON_AddStringToObject(f, "value", c->flags[i].value);
		cJSON_AddItemToArray(list, f);
	}
	text = cJSON_PrintUnformatted(o);
	cJSON_Delete(o);
	rc = text ? fz_write_file(statefd, CMD_GIVEN, text, strlen(text), 0600, err)
	          : fz_fail_errno(err, ENOMEM, "writing " CMD_GIVEN);
	forget(text);
	return rc;
}

static const char *text_of(const cJSON *o, const char *key)
{
	return cJSON_GetStringValue(cJSON_GetObjectItem(o, key));
}

static int set_flags(struct cmd_conf *c, const cJSON *flags, struct fz_err *err)
{
	const cJSON *f;

	cJSON_ArrayForEach (f, flags) {
		const char *flag = text_of(f, "flag"), *section = text_of(f, "section"), *key = text_of(f, "key");
		const char *value = text_of(f, "value");
		int rc = flag && section && key && value ? cmd_conf_flag(c, flag, section, key, value, err)
		                                         : fz_fail(err, FZ_ECORRUPT, CMD_GIVEN " lacks a part");

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int set_env(struct cmd_conf *c, const cJSON *list, struct fz_err *err)
{
	int n = cJSON_GetArraySize(list), rc;
	char **env = calloc((size_t)n + 1, sizeof(*env));

	if (!env)
		return fz_fail_errno(err, ENOMEM, "reading " CMD_GIVEN);
	for (int i = 0; i < n; i++) {
		env[i] = cJSON_GetStringValue(cJSON_GetArrayItem(list, i));
		if (!env[i])
			break;
	}
	rc = cmd_conf_env(c, env, err);
	free(env);
	return rc;
}

int cmd_given_load(struct cmd_conf *c, int statefd, struct fz_err *err)
{
	struct fz_buf text = {0};
	cJSON *o = NULL;
	int rc;

	cmd_conf_init(c);
	rc = fz_read_file(statefd, CMD_GIVEN, GIVEN_MAX, &text, err);
	if (rc == -ENOENT)
		rc = fz_fail(err, FZ_ENOTFOUND,
		             "an older fazt mounted it, and nothing tells what it was given: umount and mount it");
	if (rc == 0) {
		o = cJSON_ParseWithLength(fz_buf_str(&text), text.size);
		if (!o)
			rc = fz_fail(err, FZ_ECORRUPT, CMD_GIVEN " in the state directory is no JSON");
	}
	if (rc == 0 && text_of(o, "file"))
		c->file = strdup(text_of(o, "file"));
	if (rc == 0)
		rc = cmd_conf_read(c, text_of(o, "file"), err);
	if (rc == 0)
		rc = set_env(c, cJSON_GetObjectItem(o, "environment"), err);
	if (rc == 0)
		rc = set_flags(c, cJSON_GetObjectItem(o, "flags"), err);
	cJSON_Delete(o);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
	return rc;
}

static void add_word(struct fz_buf *out, const char *word)
{
	if (fz_buf_add(out, " ", 1) == 0)
		cmd_quote_word(out, word);
}

void cmd_given_command(int statefd, const char *dir, struct fz_buf *out)
{
	const char *between = "    # with, as they were: ";
	struct fz_buf text = {0};
	const cJSON *each;
	cJSON *o = NULL;
	int rc = fz_buf_addf(out, "fazt mount");

	if (statefd >= 0 && fz_read_file(statefd, CMD_GIVEN, GIVEN_MAX, &text, NULL) == 0)
		o = cJSON_ParseWithLength(fz_buf_str(&text), text.size);
	if (text_of(o, "file")) {
		add_word(out, "--config");
		add_word(out, text_of(o, "file"));
	}
	cJSON_ArrayForEach (each, cJSON_GetObjectItem(o, "flags")) {
		const char *flag = text_of(each, "flag"), *value = text_of(each, "value");

		if (!flag || !value || !strcmp(flag, "--take-over"))
			continue;
		add_word(out, flag);
		if (strncmp(flag, "--no-", 5) != 0)
			add_word(out, value);
	}
	add_word(out, dir);
	cJSON_ArrayForEach (each, cJSON_GetObjectItem(o, "environment")) {
		const char *name = cJSON_GetStringValue(each);

		if (rc < 0 || !name || !strncmp(name, "FAZT_CONFIG=", 12)) /* told as the file */
			continue;
		rc = fz_buf_addf(out, "%s%.*s", between, (int)strcspn(name, "="), name);
		between = ", ";
	}
	cJSON_Delete(o);
	if (text.data)
		explicit_bzero(text.data, text.size);
	fz_buf_fini(&text);
}

uint64_t cmd_given_mount(int statefd)
{
	struct stat st;

	if (fstatat(statefd, CMD_GIVEN, &st, 0) < 0)
		return 1; /* an older fazt mounted it */
	return (uint64_t)st.st_mtim.tv_sec * UINT64_C(1000000000) + (uint64_t)st.st_mtim.tv_nsec;
}
