#!/bin/bash
# SQLite's own TCL test suite, natively and with its files on a fazt mount, and the difference.
#   scripts/sqlite-tcl.sh [options] [--all | FILE.test...]     default: the list in tests/sqlite-tcl.list
#   --no-passthrough   mount with that flag (--mount-flag=FLAG: any)     --kill-worker [MS]   SIGKILL the worker meanwhile
#   --help             the other options
# Debian's source package of the installed SQLite builds `testfixture` (kept in $SQLITE_TCL_DIR for the next run, default
# build/sqlite-tcl; needs the network and, unless they are there, root to install tcl-dev and dpkg-dev). Prints a line per
# file that differs and a summary; exit 1 when a file passes natively but not on the mount, or when what was captured is
# not what the databases hold. scripts/sqlite-tcl.py does the runs.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
export B=${B:-$top/build}
export SQLITE_TCL_DIR=${SQLITE_TCL_DIR:-$B/sqlite-tcl}
work=$SQLITE_TCL_DIR

install_packages() {
	local want=() p
	for p in tcl tcl-dev dpkg-dev gcc make libc6-dev python3; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || want+=("$p")
	done
	[ ${#want[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || { echo "run as root, or install: ${want[*]}" >&2; return 1; }
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${want[@]}" >/dev/null
}

# The source package by a list of sources of its own: those of the machine seldom have deb-src.
fetch_and_build() {
	mkdir -p "$work/apt/lists/partial"
	local uri suite opts
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	uri=$(grep -rhoE 'https?://[^ ]*/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri:-http://deb.debian.org/debian} $suite main" \
		>"$work/apt/src.list"
	opts=(-o "Dir::Etc::sourcelist=$work/apt/src.list" -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=$work/apt/lists"
		-o APT::Sandbox::User=root)
	apt-get -qq "${opts[@]}" update
	install_packages
	rm -rf "$work/src" "$work/src.new"
	(cd "$work" && apt-get -qq "${opts[@]}" source --download-only sqlite3 && dpkg-source --no-check -x sqlite3_*.dsc src.new)
	(cd "$work/src.new" && ./configure --disable-static >configure.log 2>&1) || { tail -20 "$work/src.new/configure.log" >&2; return 1; }
	(cd "$work/src.new" && nice make -j2 testfixture >make.log 2>&1) || { tail -20 "$work/src.new/make.log" >&2; return 1; }
	mv "$work/src.new" "$work/src" # complete, or not there
}

case " $* " in *" --help "* | *" -h "*) exec "${PYTHON:-/usr/bin/python3}" scripts/sqlite-tcl.py "$@" ;; esac
[ -x "$B/fazt" ] || { echo "$B/fazt is missing: run make first" >&2; exit 1; }
[ -x "$work/src/testfixture" ] || { echo "building SQLite's testfixture (a few minutes)"; fetch_and_build; }
exec "${PYTHON:-/usr/bin/python3}" scripts/sqlite-tcl.py "$@"
