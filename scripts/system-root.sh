#!/bin/bash
# system-root.sh NAME... - makes the Debian systems that `make system-test` boots, once each, in ${FAZT_ROOTS:-~/.cache/fazt-roots},
# and prints their directories. NAME is deb12 or deb13 (systemd, the libraries that fazt needs, python3 and sqlite3 as applications),
# or one of these with -build (what builds fazt and its package). Needs root, debootstrap and systemd-nspawn, and the network
# once. A root is never booted itself: tests copy it (tests/lib/nspawn.py). FAZT_ROOTS/NAME removed = made anew.
set -eu
cd "$(dirname "$0")/.."
ROOTS=${FAZT_ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/fazt-roots}
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

# Names that both releases know, some of them as what another package provides.
RUN="systemd systemd-sysv dbus fuse3 libsqlite3-0 libcurl4 libssl3 liblz4-1 libsodium23 libisal2 libexpat1 libinih1 libcjson1
 libmicrohttpd12 libncursesw6 python3 sqlite3 procps ca-certificates"
BUILD="$(sed -n '/^BUILD="/,/"$/p' scripts/deps.sh | sed 's/^BUILD=//; s/"//g' | tr '\n' ' ') debhelper lintian git"

die() {
	echo "system-root.sh: $*" >&2
	exit 1
}

inside() { # ROOT COMMAND...
	local root=$1
	shift
	systemd-nspawn -q --register=no --keep-unit --resolv-conf=copy-host --pipe -D "$root" --setenv=DEBIAN_FRONTEND=noninteractive \
		--setenv=LC_ALL=C.UTF-8 --setenv=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null
}

fill() { # NAME DIRECTORY: what the finished root contains
	local release want
	case $1 in
	deb12*) release=bookworm ;;
	deb13*) release=trixie ;;
	*) die "there is no system $1" ;;
	esac
	case $1 in
	*-build)
		want=$BUILD
		make_root "${1%-build}"
		cp -a "$ROOTS/${1%-build}" "$2"
		;;
	*)
		want=$RUN
		debootstrap --variant=minbase "$release" "$2" "$MIRROR"
		;;
	esac
	inside "$2" apt-get update -q
	inside "$2" apt-get install -q -y --no-install-recommends $want
	inside "$2" sh -c 'systemctl mask systemd-networkd-wait-online.service systemd-resolved.service >/dev/null 2>&1; passwd -d root'
}

make_root() {
	local name=$1 dir=$ROOTS/$1 log=$ROOTS/$1.log
	[ -d "$dir" ] && return
	echo "making $dir" >&2
	rm -rf --one-file-system "$dir.new"
	if ! (set -e; fill "$name" "$dir.new") >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		die "could not make $dir (all of it: $log)"
	fi
	mv "$dir.new" "$dir"
}

[ "$(id -u)" = 0 ] || die "must run as root"
for tool in debootstrap systemd-nspawn; do
	command -v $tool >/dev/null || die "needs $tool (apt-get install debootstrap systemd-container)"
done
mkdir -p "$ROOTS"
exec 9>"$ROOTS/lock"
flock 9
for name in "$@"; do
	make_root "$name"
	echo "$ROOTS/$name"
done
