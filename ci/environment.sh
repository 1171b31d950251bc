# Sourced by every script here: where things are, and the machine's own package mirrors.
# shellcheck shell=bash
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
cd "$top"

# What the tests need beside the project: kept between runs, made anew when missing.
export INGOT_CI_CACHE=${INGOT_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ingot-ci}
mkdir -p "$INGOT_CI_CACHE"

say() { printf '== %s\n' "$*" >&2; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# apt_uri PATTERN: the first package source of this machine whose address ends like PATTERN.
apt_uri() {
  { sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null || true
    sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]*)?([^[:space:]]+).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true
  } | sed 's#/$##' | grep -E "$1" | head -n 1 || true
}

# The machine's own mirrors, in the form INGOT_MIRROR takes; Debian's public ones where it names none.
debian_mirror() { local uri; uri=$(apt_uri '/debian$'); printf '%s' "${uri:-http://deb.debian.org/debian}"; }
security_mirror() { local uri; uri=$(apt_uri '/debian-security$'); printf '%s' "${uri:-http://deb.debian.org/debian-security}"; }
export INGOT_MIRROR=${INGOT_MIRROR:-"debian=$(debian_mirror) debian-security=$(security_mirror)"}

musl=x86_64-unknown-linux-musl
