#!/bin/sh
# man.sh FAZT DIRECTORY - makes the man pages from docs/man/*.in. Comment lines in those are replaced:
#   .\" COMMAND NAME    by the section of that command, from its table (`fazt completion man NAME`)
#   .\" COMMANDS        by a list of all commands, each with the page that has it
#   .\" KEYS            by the keys of docs/fazt.conf.example with what their comments say
# @VERSION@ is the version. Each command also gets a page of its name that refers to the one it stands in.
# Held by tests/e2e/cli.sh.
set -eu
cd "$(dirname "$0")/.."
fazt=$1 out=$2
mkdir -p "$out"
rm -f "$out"/*.[1-8]

commands() {
	"$fazt" --help | sed -n '/^commands:$/,/^$/s/^  \([a-z]*\)  *\(.*\)/\1 \2/p'
}
page_of() { # COMMAND
	grep -lx "\.\\\\\" COMMAND $1" docs/man/*.in | sed 's|.*/||; s|\.in$||'
}
list() {
	commands | while read -r name what; do
		page=$(page_of "$name")
		[ -n "$page" ] || { echo "man.sh: no page in docs/man has fazt $name" >&2 && exit 1; }
		printf '.TP\n.B fazt %s\n%s:\n.BR %s (%s)\n' "$name" "$(printf '%s' "$what" | sed "s/-/\\\\-/g; s/'/\\\\(aq/g")" \
			"$(echo "${page%.*}" | sed 's/-/\\-/g')" "${page##*.}"
	done
}
# A block of comments, then the keys that it is about; "#  more" behind a key goes on with its value.
keys() {
	awk '
	function esc(s) {
		gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); gsub(/\047/, "\\(aq", s); gsub(/~/, "\\(ti", s); gsub(/\^/, "\\(ha", s)
		gsub(/`/, "\\(ga", s)
		if (s ~ /^\./) s = "\\\\&" s
		return s
	}
	function flush(   i) {
		for (i = 1; i <= n; i++) {
			print (i == 1 ? ".TP" : ".TQ")
			print keys[i]
		}
		if (n) print (text != "" ? text : "see above")
		n = 0; text = ""
	}
	/^#?\[/ { flush(); if (/^\[/) print ".SH " esc($0); else exit; next }
	!section && !/^\[/ && !/^#[a-z_]+ =/ { if (/^$/) section = 1; next }
	/^#?[a-z_0-9]+ = / {
		line = $0; sub(/^#/, "", line)
		at = index(line, " = ")
		keys[++n] = "\\fB" esc(substr(line, 1, at - 1)) "\\fR = \\fI" esc(substr(line, at + 3)) "\\fR"
		next
	}
	/^#  / { next }
	/^# / { if (n) flush(); line = $0; sub(/^# /, "", line); text = text (text == "" ? "" : "\n") esc(line) }
	END { flush() }' docs/fazt.conf.example
}

list >"$out/list"
for page in docs/man/*.in; do
	name=$(basename "$page" .in)
	while IFS= read -r line; do
		case $line in
		'.\" COMMAND '*)
			command=${line#'.\" COMMAND '}
			"$fazt" completion man "$command" >"$out/section"
			[ -s "$out/section" ] || continue # not in this build
			cat "$out/section"
			[ "$name" = "fazt-$command.1" ] || echo ".so man1/$name" >"$out/fazt-$command.1"
			;;
		'.\" COMMANDS') cat "$out/list" ;;
		'.\" KEYS') keys ;;
		*) printf '%s\n' "$line" ;;
		esac
	done <"$page" | sed "s/@VERSION@/$(cat VERSION)/" >"$out/$name"
done
rm -f "$out/list" "$out/section"
