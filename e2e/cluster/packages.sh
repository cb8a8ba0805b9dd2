#!/bin/sh
# Installs what the test world needs from a Debian or Ubuntu distribution and is missing here, as root or by sudo.
# It says which packages; with all of them there it does nothing and says nothing.
#
# What a world of level node needs besides is installed where that can be, unless EVERCERT_LEVEL=plane.
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

sudo=""
if [ "$(id -u)" != 0 ]; then
    sudo=$(command -v sudo) || sudo=none
fi
# An ordinary user has worlds of level plane, for which nothing of this is needed.
if [ "${EVERCERT_LEVEL:-}" != plane ] && [ "$sudo" != none ]; then
    need containerd containerd
    need runc runc
    need nft nftables
    need buildah buildah
    [ -e /usr/lib/cni/ptp ] || [ -e /opt/cni/bin/ptp ] || missing="$missing containernetworking-plugins"
fi

# shellcheck disable=SC2086 # a list of words
missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ' | sed 's/ *$//')
[ -n "$missing" ] || exit 0

if [ "${1:-}" = --check ]; then
    echo "missing packages: $missing"
    exit 1
fi
if [ "$sudo" = none ]; then
    echo "missing packages: $missing (neither root nor sudo here: install them by hand)" >&2
    exit 1
fi
command -v apt-get >/dev/null 2>&1 || { echo "missing: $missing (no apt-get here: install them by hand)" >&2; exit 1; }
echo "installing the distribution's packages: $missing"
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq

# Each world starts a containerd of its own: the package shall not start one for the machine. 101 is "not allowed" (the policy
# of Debian's invoke-rc.d); a policy that is there already stays.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$sudo rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi
# shellcheck disable=SC2086 # a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
