#!/bin/sh
# install.sh [--prefix DIR] [--unit DIRECTORY]... - from this tree to an installed fazt: what building needs, the build, `make install`
# (program, man pages, units, completions; below /usr/local). Can be run again at any time: what is there is kept, and what did not
# change is not written. Enables nothing, unless --unit names a directory: its unit is then enabled, and started where systemd runs.
# `make uninstall` takes it away; configuration, keys and data stay.
set -eu
cd "$(dirname "$0")/.."

PREFIX=/usr/local
B=${B:-$PWD/build}
units=

die() {
	echo "install.sh: $*" >&2
	exit 1
}
while [ $# -gt 0 ]; do
	case $1 in
	--prefix)
		case ${2:-} in
		*[[:space:]]*) die "--prefix: '$2' has a blank" ;;
		/*) PREFIX=$2 ;;
		*) die "--prefix needs an absolute directory" ;;
		esac
		shift
		;;
	--unit)
		[ $# -ge 2 ] && [ -d "$2" ] || die "--unit needs a directory that exists: '${2:-}' does not"
		units="$units$(cd "$2" && pwd -P)
"
		shift
		;;
	-h | --help)
		sed -n '2,5s/^# //p' "$0"
		exit 0
		;;
	*) die "unknown argument '$1': see --help" ;;
	esac
	shift
done
as=
if [ "$(id -u)" != 0 ] && ! { mkdir -p "$PREFIX" 2>/dev/null && [ -w "$PREFIX" ]; }; then
	command -v sudo >/dev/null || die "run as root, or give a --prefix that you can write"
	as=sudo
fi

scripts/deps.sh build
make -s -j"$(nproc)" B="$B" all
changes=$(mktemp -d)
trap 'rm -rf "$changes"' EXIT
# laid out beside it first, so that only what differs is written, and what an older version had does not stay unseen
make -s B="$B" DESTDIR="$changes" PREFIX="$PREFIX" install
written=0
for f in $(cd "$changes" && find . -type f | sed 's|^\./||' | sort); do
	case $f in
	etc/*) # yours once it is there
		if [ -e "/$f" ] || { [ -z "$as" ] && [ ! -w /etc ]; }; then continue; fi
		;;
	esac
	if ! cmp -s "$changes/$f" "/$f"; then
		$as install -D -m "$(stat -c %a "$changes/$f")" "$changes/$f" "/$f"
		written=$((written + 1))
	fi
done
echo "$written files written; fazt $("$PREFIX/bin/fazt" version | sed 's/^fazt //') in $PREFIX/bin"
if dpkg-query -W -f '${db:Status-Status}' fazt 2>/dev/null | grep -qx installed && [ "$PREFIX" != /usr ]; then
	echo "note: the package fazt is installed as well; $(command -v fazt) is what a shell finds"
fi
if [ ! -c /dev/fuse ]; then
	$as modprobe fuse 2>/dev/null || echo "note: there is no /dev/fuse here; fazt cannot mount without it"
fi

if [ $written != 0 ]; then
	awk '$3 == "fuse.fazt" { print $2 }' /proc/self/mounts | sed 's/\\/\\0/g' | while IFS= read -r m; do
		echo "note: $(printf '%b' "$m") is served by the program that mounted it; to the installed one without unmounting: fazt upgrade DIR"
	done
fi

running=
[ -d /run/systemd/system ] && running=yes
if [ -n "$running" ] && [ $written != 0 ]; then
	$as systemctl daemon-reload || echo "note: systemd does not know the units yet: systemctl daemon-reload, as root"
	$as systemd-sysusers "$PREFIX/lib/sysusers.d/fazt.conf" || echo "note: there is no user fazt; workers run as root"
fi
printf '%s' "$units" | while IFS= read -r dir; do
	[ -e "$PREFIX/lib/systemd/system/fazt@.service" ] || die "there is no fazt@.service"
	unit=$(systemd-escape --path --template=fazt@.service "$dir") || die "there is no systemd here"
	if [ -n "$running" ]; then
		$as systemctl enable --now "$unit"
		echo "$unit: $(systemctl is-active "$unit")"
	else
		$as systemctl enable "$unit"
		echo "$unit is enabled; systemd does not run here, so it starts with the next boot"
	fi
done
