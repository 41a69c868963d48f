#!/bin/sh
# deb.sh - builds the Debian package of fazt for the release that it runs on, in $B (default: build), and prints its path.
#
# A build of its own with Debian's flags goes to $B/deb; `make install` lays the files out, dpkg-shlibdeps finds what the program
# needs, dpkg-deb packs. The same tree gives the same bytes wherever it lies: paths are mapped, times are those of SOURCE_DATE_EPOCH,
# by default the last commit's. MAINTAINER="Name <address>" names who builds.
set -eu
cd "$(dirname "$0")/.."
B=${B:-$PWD/build}
MAINTAINER=${MAINTAINER:-fazt maintainers <maintainers@fazt.invalid>}
umask 022

die() {
	echo "deb.sh: $*" >&2
	exit 1
}
for tool in dpkg-deb dpkg-shlibdeps dpkg-buildflags dpkg-architecture strip; do
	command -v $tool >/dev/null || die "there is no $tool: scripts/deps.sh deb"
done
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
	SOURCE_DATE_EPOCH=$(git -c safe.directory='*' log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGES.md)
fi
export SOURCE_DATE_EPOCH
release=$(. /etc/os-release && echo "${VERSION_ID:-}")
[ -n "$release" ] || release=$(sed 's/[^0-9a-z].*//' /etc/debian_version) # testing has no number
version=$(cat VERSION)-1~deb$release
arch=$(dpkg --print-architecture)
out=$B/deb
root=$out/root
deb=$B/fazt_${version}_$arch.deb

export DEB_BUILD_MAINT_OPTIONS=hardening=+all
CFLAGS="$(dpkg-buildflags --get CFLAGS) $(dpkg-buildflags --get CPPFLAGS) -ffile-prefix-map=$PWD=."
LDFLAGS=$(dpkg-buildflags --get LDFLAGS)
make -s -j"$(nproc)" B="$out/obj" CC="${CC:-cc}" CFLAGS="$CFLAGS" LDFLAGS="$LDFLAGS" all

rm -rf "$root" "$out/debian"
make -s B="$out/obj" CC="${CC:-cc}" CFLAGS="$CFLAGS" LDFLAGS="$LDFLAGS" DESTDIR="$root" PREFIX=/usr \
	ZSHDIR="$root/usr/share/zsh/vendor-completions" install
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/fazt"
doc=$root/usr/share/doc/fazt
rm "$doc/LICENSE"
mv "$doc/CHANGES.md" "$doc/NEWS.md"
gzip -9n "$doc/NEWS.md"
sed "s|@YEAR@|$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y)|" scripts/debian/copyright >"$doc/copyright"
{
	printf 'fazt (%s) unstable; urgency=medium\n\n  * See NEWS.md.gz.\n\n' "$version"
	printf ' -- %s  %s\n' "$MAINTAINER" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.Debian.gz"
find "$root/usr/share/man" -type f -exec gzip -9n {} +
find "$root" -type d -empty -delete

# what it needs, by the libraries' own symbols files
mkdir -p "$out/debian" "$root/DEBIAN"
printf 'Source: fazt\n\nPackage: fazt\nArchitecture: any\n' >"$out/debian/control"
depends=$(cd "$out" && dpkg-shlibdeps -O -eroot/usr/bin/fazt) || die "dpkg-shlibdeps failed"
sed -e "s|@VERSION@|$version|" -e "s|@ARCH@|$arch|" -e "s|@MAINTAINER@|$MAINTAINER|" \
	-e "s|@DEPENDS@|${depends#shlibs:Depends=}|" -e "s|@SIZE@|$(du -k -s --apparent-size "$root" | cut -f1)|" \
	scripts/debian/control >"$root/DEBIAN/control"
(cd "$root" && find etc -type f | sort | sed 's|^|/|') >"$root/DEBIAN/conffiles"
for s in postinst prerm postrm; do
	install -m 0755 scripts/debian/$s "$root/DEBIAN/$s"
done
(cd "$root" && find usr -type f | LC_ALL=C sort | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz -b "$root" "$deb" >/dev/null
rm -rf "$root" "$out/debian"
echo "$deb"
