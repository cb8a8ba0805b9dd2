#!/bin/sh
# Installs what the test world needs from a Debian or Ubuntu distribution and is missing here, as root or by sudo.
# It says which packages; with all of them there it does nothing and says nothing.
set -eu
PATH="$PATH:/usr/sbin:/sbin"

missing=""
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need ip iproute2
need unshare util-linux
need nsenter util-linux
need setpriv util-linux
need curl curl
need make make
need cc gcc
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"

missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ' | sed 's/ *$//')
[ -n "$missing" ] || exit 0

if [ "${1:-}" = --check ]; then
    echo "missing packages: $missing"
    exit 1
fi
sudo=""
if [ "$(id -u)" != 0 ]; then
    sudo=$(command -v sudo) || { echo "missing packages: $missing (neither root nor sudo here: install them by hand)" >&2; exit 1; }
fi
command -v apt-get >/dev/null 2>&1 || { echo "missing: $missing (no apt-get here: install them by hand)" >&2; exit 1; }
echo "installing the distribution's packages: $missing"
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
