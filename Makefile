# fazt: one non-recursive Makefile.
#   make            build/fazt                      make check      every test (SAN=address,undefined | SAN=thread)
#   make lint       format, headers, include order  make fuzz       fuzz every decoder (FUZZ_SECONDS each)
#   make sqlite-tests   SQLite's own TCL tests on a mount, beside native
#   make bench      speed beside native             make torture    hours of randomized kills (TORTURE_SECONDS)
#   make install DESTDIR= PREFIX=/usr/local
# B= names the build directory, so that several builds can live side by side.

SAN     ?=
empty   :=
comma   := ,
B       ?= build$(if $(SAN),-$(subst $(comma),-,$(SAN)))
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= cc
AR      ?= ar
PYTHON  ?= /usr/bin/python3
VERSION := $(shell cat VERSION 2>/dev/null || echo 0.0.0)

# Archives, lowest first: each folder may include only those to its left (primary, replica, fs never one another).
DIRS    := base ltx store fs primary replica cmd
PKGS    := fuse3 sqlite3 libcurl libcrypto liblz4 libsodium libisal expat inih libcjson

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-align=strict \
           -Wwrite-strings -Wvla -Wformat=2 -Wundef -Wno-unused-parameter
ifneq (,$(findstring clang,$(CC)))
WARN    := $(filter-out -Wcast-align=strict,$(WARN)) -Wthread-safety -Wno-unknown-attributes
endif
OPT     ?= -O2
CFLAGS  ?= $(OPT) -g
ALLCF   = -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFZ_VERSION='"$(VERSION)"' -I. $(WARN) $(CFLAGS) \
          -fstack-protector-strong -fno-strict-aliasing $(SANFLAGS) $(PKGCF)
ifeq ($(SAN),)
ALLCF   += -D_FORTIFY_SOURCE=2
SANFLAGS :=
else
SANFLAGS := -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
endif
PKGCF   := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
# Only what a folder brings in is linked into its tests: an upward call is a link error.
LIBS_base    := -pthread -lm
LIBS_ltx     := $(shell pkg-config --libs liblz4 libsodium libisal 2>/dev/null) -pthread -lm
LIBS_store   := $(shell pkg-config --libs libcurl libcrypto expat 2>/dev/null) $(LIBS_ltx)
LIBS_fs      := $(shell pkg-config --libs fuse3 libcjson sqlite3 2>/dev/null) $(LIBS_ltx)
LIBS_primary := $(shell pkg-config --libs libcjson 2>/dev/null) $(LIBS_store)
LIBS_replica := $(shell pkg-config --libs sqlite3 libcjson 2>/dev/null) $(LIBS_store)
LIBS_cmd     := $(shell pkg-config --libs fuse3 sqlite3 inih libcjson 2>/dev/null) $(LIBS_store)
DEPS_base    := base
DEPS_ltx     := ltx base
DEPS_store   := store ltx base
DEPS_fs      := fs ltx base
DEPS_primary := primary store ltx base
DEPS_replica := replica store ltx base
DEPS_cmd     := cmd replica primary fs store ltx base

SRC      := $(foreach d,$(DIRS),$(wildcard $(d)/*.c))
OBJ      := $(SRC:%.c=$(B)/%.o)
ARCHIVES := $(foreach d,$(DIRS),$(B)/lib$(d).a)

all: $(B)/fazt

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALLCF) -MMD -MP -c -o $@ $<

define archive
$(B)/lib$(1).a: $$(filter-out $(B)/cmd/main.o,$$(patsubst %.c,$(B)/%.o,$$(wildcard $(1)/*.c)))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(AR) rcs $$@ $$^
endef
$(foreach d,$(DIRS),$(eval $(call archive,$(d))))

$(B)/fazt: $(B)/cmd/main.o $(foreach d,$(DEPS_cmd),$(B)/lib$(d).a)
	$(CC) $(ALLCF) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS_cmd)

# ---- tests -------------------------------------------------------------------------------------------------------
UNIT := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
CMOCKA_LIBS := $(shell pkg-config --libs cmocka 2>/dev/null)

define unit
$(B)/unit/test_$(1)_%: tests/unit/test_$(1)_%.c $(foreach d,$(DEPS_$(1)),$(B)/lib$(d).a)
	@mkdir -p $$(@D)
	$$(CC) $$(ALLCF) -MMD -MP -o $$@ $$< $$(foreach d,$(DEPS_$(1)),$(B)/lib$$(d).a) $$(LIBS_$(1)) $(LIBS_TEST_$(1)) $$(CMOCKA_LIBS) -ldl -lm
endef
LIBS_TEST_fs := $(shell pkg-config --libs sqlite3 2>/dev/null)
LIBS_TEST_ltx := $(shell pkg-config --libs sqlite3 2>/dev/null)
$(foreach d,$(DIRS),$(eval $(call unit,$(d))))

unit: $(UNIT)

# helper programs of the scenarios in tests/e2e
HELPERS := $(patsubst tests/e2e/%.c,$(B)/e2e/%,$(wildcard tests/e2e/*.c))
$(B)/e2e/%: tests/e2e/%.c
	@mkdir -p $(@D)
	$(CC) $(ALLCF) -o $@ $< $(LIBS_cmd)
helpers: $(HELPERS)

check: $(B)/fazt unit helpers fuzz-replay
	B=$(abspath $(B)) SAN=$(SAN) PYTHON=$(PYTHON) scripts/run-tests.sh

# ---- fuzz: libFuzzer with clang; the corpus is replayed by `make check` with any compiler --------------------------
FUZZ    := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 60
FUZZ_DEPS := $(foreach d,$(DEPS_cmd),$(B)/lib$(d).a)
$(B)/fuzz/%: tests/fuzz/%.c tests/fuzz/replay.c $(FUZZ_DEPS)
	@mkdir -p $(@D)
	$(CC) $(ALLCF) -o $@ $< tests/fuzz/replay.c -Wl,--start-group $(FUZZ_DEPS) -Wl,--end-group $(LIBS_cmd)
fuzz-replay: $(FUZZ:%=$(B)/fuzz/%)

fuzz:
	CC=clang B=build-fuzz scripts/fuzz.sh $(FUZZ_SECONDS) $(FUZZ)

bench: $(B)/fazt helpers
	B=$(abspath $(B)) scripts/bench.sh

torture: $(B)/fazt helpers
	B=$(abspath $(B)) PYTHON=$(PYTHON) scripts/torture.sh

# SQLite's own tests on a mount: SQLITE_TESTS="--no-passthrough --jobs 2" passes options
sqlite-tests: $(B)/fazt
	B=$(abspath $(B)) PYTHON=$(PYTHON) scripts/sqlite-tcl.sh $(SQLITE_TESTS)

lint:
	scripts/lint.sh $(DIRS)

install: $(B)/fazt
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/doc/fazt
	install -m 0755 $(B)/fazt $(DESTDIR)$(PREFIX)/bin/fazt
	install -m 0644 docs/fazt.1 $(DESTDIR)$(PREFIX)/share/man/man1/fazt.1
	install -m 0644 README.md LICENSE docs/*.md $(DESTDIR)$(PREFIX)/share/doc/fazt/

clean:
	rm -rf build build-*

.PHONY: all unit helpers check fuzz fuzz-replay bench torture sqlite-tests lint install clean
.SECONDARY:
-include $(OBJ:.o=.d) $(UNIT:%=%.d)
