# fazt: one non-recursive Makefile.
#   make            build/fazt                      make check      every test (SAN=address,undefined | SAN=thread)
#   make lint       format, headers, include order  make fuzz       fuzz every decoder (FUZZ_SECONDS each)
#   make sqlite-tests   SQLite's own TCL tests on a mount, beside native
#   make system-test    whole Debian systems under systemd (SYSTEM_TESTS=names; scripts/system-test.sh)
#   make bench      speed beside native             make torture    hours of randomized kills (TORTURE_SECONDS)
#   make install DESTDIR= PREFIX=/usr/local   (and make uninstall)
#   make deb            a Debian package for the release that it is made on, in B
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
PKGS    := fuse3 sqlite3 libcurl libcrypto liblz4 libsodium libisal expat inih libcjson libmicrohttpd ncursesw

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
LIBS_ltx     := $(shell pkg-config --libs liblz4 libsodium libisal libcrypto 2>/dev/null) -pthread -lm
LIBS_store   := $(shell pkg-config --libs libcurl libcrypto expat 2>/dev/null) $(LIBS_ltx)
LIBS_fs      := $(shell pkg-config --libs fuse3 libcjson sqlite3 2>/dev/null) $(LIBS_ltx)
LIBS_primary := $(shell pkg-config --libs libcjson 2>/dev/null) $(LIBS_store)
LIBS_replica := $(shell pkg-config --libs sqlite3 libcjson 2>/dev/null) $(LIBS_store)
LIBS_cmd     := $(shell pkg-config --libs fuse3 sqlite3 inih libcjson libmicrohttpd ncursesw 2>/dev/null) $(LIBS_store)
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

$(B)/cmd/page.o: cmd/page.html

define archive
$(B)/lib$(1).a: $$(filter-out $(B)/cmd/main.o,$$(patsubst %.c,$(B)/%.o,$$(wildcard $(1)/*.c)))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(AR) rcs $$@ $$^
endef
$(foreach d,$(DIRS),$(eval $(call archive,$(d))))

$(B)/fazt: $(B)/cmd/main.o $(foreach d,$(DEPS_cmd),$(B)/lib$(d).a)
	$(CC) $(ALLCF) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LDFLAGS) $(LIBS_cmd)

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

# whole systems, booted: needs root and, the first time, the network; SYSTEM_TESTS="service package" names some
system-test: $(B)/fazt helpers
	B=$(abspath $(B)) PYTHON=$(PYTHON) scripts/system-test.sh $(SYSTEM_TESTS)

lint:
	scripts/lint.sh $(DIRS)

# ---- install: everything below PREFIX; of /etc only a configuration in which all is commented out, when there is none -----
UNITS    = $(wildcard $(addprefix scripts/systemd/,*.service *.timer *.socket *.target *.path))
EXAMPLES = docs/fazt.conf.example $(filter-out %-test.yml,$(wildcard scripts/*.json scripts/*.yml))
DROPINS  = $(wildcard scripts/systemd/*.d/*.conf)
BIN     := $(DESTDIR)$(PREFIX)/bin
SHARE   := $(DESTDIR)$(PREFIX)/share
SYSTEMD := $(DESTDIR)$(PREFIX)/lib/systemd/system
MODULES := $(DESTDIR)$(PREFIX)/lib/modules-load.d
USERS   := $(DESTDIR)$(PREFIX)/lib/sysusers.d
DOC     := $(SHARE)/doc/fazt
BASHDIR := $(SHARE)/bash-completion/completions
ZSHDIR  ?= $(SHARE)/zsh/site-functions
FISHDIR := $(SHARE)/fish/vendor_completions.d
FAZTCONF := $(DESTDIR)/etc/fazt/fazt.conf
# of the example, which has a target in it, only the names of the other sections stay
COMMENTED = sed '/^\[target/,$$ s/^\([^\#]\)/\#\1/'

# each command's part of a page is printed by the program itself
$(B)/man/fazt.1: $(B)/fazt $(wildcard docs/man/*.in) docs/fazt.conf.example scripts/man.sh VERSION
	scripts/man.sh $(B)/fazt $(B)/man
man: $(B)/man/fazt.1

install: $(B)/fazt $(B)/man/fazt.1
	install -d $(BIN) $(DOC)/docs $(DOC)/examples $(BASHDIR) $(ZSHDIR) $(FISHDIR) $(MODULES) $(USERS) $(SYSTEMD) $(dir $(FAZTCONF))
	install -m 0755 $(B)/fazt $(BIN)/fazt
	for m in $(B)/man/*.[1-8]; do install -D -m 0644 $$m $(SHARE)/man/man$${m##*.}/$${m##*/} || exit; done
	for s in bash zsh fish; do $(B)/fazt completion $$s >$(B)/completion.$$s || exit; done
	install -m 0644 $(B)/completion.bash $(BASHDIR)/fazt
	install -m 0644 $(B)/completion.zsh $(ZSHDIR)/_fazt
	install -m 0644 $(B)/completion.fish $(FISHDIR)/fazt.fish
	echo fuse >$(MODULES)/fazt.conf && chmod 0644 $(MODULES)/fazt.conf
	install -m 0644 scripts/systemd/fazt.sysusers $(USERS)/fazt.conf
	for u in $(UNITS); do sed 's|/usr/bin/fazt|$(PREFIX)/bin/fazt|g' $$u >$(SYSTEMD)/$${u##*/} && chmod 0644 $(SYSTEMD)/$${u##*/} || exit; done
	install -m 0644 README.md SECURITY.md CHANGES.md LICENSE $(DOC)/
	install -m 0644 docs/*.md docs/fazt.conf.example $(DOC)/docs/
	install -m 0644 $(EXAMPLES) $(DOC)/examples/
	sed -i 's|/usr/share/doc/fazt|$(PREFIX)/share/doc/fazt|g' $(SHARE)/man/man1/fazt.1 $(SHARE)/man/man5/fazt.conf.5 $(DOC)/docs/*.md
	for d in $(DROPINS); do install -D -m 0644 $$d $(DOC)/examples/$${d#scripts/systemd/} || exit; done
	[ -e $(FAZTCONF) ] || { $(COMMENTED) docs/fazt.conf.example >$(FAZTCONF) && chmod 0644 $(FAZTCONF); }

# what `make install` wrote, but for the configuration; keys and state are never touched
uninstall:
	rm -f $(BIN)/fazt $(BASHDIR)/fazt $(ZSHDIR)/_fazt $(FISHDIR)/fazt.fish $(MODULES)/fazt.conf $(USERS)/fazt.conf
	rm -f $(SHARE)/man/man1/fazt.1 $(SHARE)/man/man1/fazt-*.1 $(SHARE)/man/man5/fazt.conf.5
	for u in $(UNITS); do rm -f $(SYSTEMD)/$${u##*/}; done
	rm -rf $(DOC)

deb:
	B=$(abspath $(B)) CC='$(CC)' scripts/deb.sh

clean:
	rm -rf build build-*

.PHONY: all unit helpers check fuzz fuzz-replay bench torture sqlite-tests system-test lint man install uninstall deb clean
.SECONDARY:
-include $(OBJ:.o=.d) $(UNIT:%=%.d)
