/* Where a statement of a migration ends, and which ones cannot be one. */
#include "cmd/migrate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

static const struct split_case {
	const char *sql, *want; /* "|" behind each statement */
} splits[] = {
        {"",                                                          ""                                            },
        {"SELECT 1",                                                  "SELECT 1|"                                   },
        {"SELECT 1;SELECT 2;",                                        "SELECT 1;|SELECT 2;|"                        },
        {"SELECT ';'; SELECT \";\"",                                  "SELECT ';';| SELECT \";\"|"                  },
        {"SELECT 'it''s;'; SELECT [a;b], `c;`;",                      "SELECT 'it''s;';| SELECT [a;b], `c;`;|"      },
        {"-- a; b\nSELECT 1; /* ; ' */ SELECT 2",                     "-- a; b\nSELECT 1;| /* ; ' */ SELECT 2|"     },
        {"SELECT 1 -- it's; not the end\n; SELECT 2;",                "SELECT 1 -- it's; not the end\n;| SELECT 2;|"},
        {"CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; X",
         "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END;| X|"                                              },
        {"SELECT 'open; SELECT 2;",                                   "SELECT 'open; SELECT 2;|"                    },
        {"/* open; SELECT 2;",                                        "/* open; SELECT 2;|"                         },
};

static void split(void **state)
{
	for (size_t i = 0; i < sizeof(splits) / sizeof(splits[0]); i++) {
		char got[400] = "";
		size_t n, k = 0;

		for (const char *p = splits[i].sql; (n = cmd_migrate_statement(p)); p += n)
			k += (size_t)snprintf(got + k, sizeof(got) - k, "%.*s|", (int)n, p);
		assert_string_equal(got, splits[i].want);
	}
}

static const struct refused_case {
	const char *sql, *why; /* a part of it, "" = is taken */
} refused[] = {
        {"BEGIN",                                    "leave BEGIN" },
        {" /* x */ begin immediate;",                "leave BEGIN" },
        {"-- c\nCOMMIT;",                            "leave BEGIN" },
        {"END TRANSACTION",                          "leave BEGIN" },
        {"; ;ROLLBACK",                              "rolled back" },
        {"VACUUM INTO 'x'",                          "VACUUM"      },
        {"Attach 'x' as y",                          "way back"    },
        {"PRAGMA journal_mode=WAL",                  "journal mode"},
        {"PRAGMA/**/main . /**/ \n journal_mode",    "journal mode"},
        {"PRAGMA foreign_keys = off",                "not enforced"},
        {".read x.sql",                              "shell"       },
        {"PRAGMA defer_foreign_keys=ON",             ""            },
        {"PRAGMA user_version = 7",                  ""            },
        {"CREATE TABLE vacuum_log(begin_at)",        ""            },
        {"CREATE TRIGGER t AFTER INSERT ON a BEGIN", ""            },
        {"SAVEPOINT s",                              ""            },
        {"INSERT INTO t VALUES ('BEGIN')",           ""            },
        {"",                                         ""            },
        {"-- only a comment",                        ""            },
};

static void refuses(void **state)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		const char *why = cmd_migrate_refuses(refused[i].sql, strlen(refused[i].sql));

		if (!*refused[i].why ? why != NULL : !why || !strstr(why, refused[i].why))
			fail_msg("%s: %s", refused[i].sql, why ? why : "is taken");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(split),
	        cmocka_unit_test(refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
