#!/bin/sh
# Builds a package's program for an image: optimised, static, without any cargo feature. Prints the program's path.
#
#   controller/static.sh PACKAGE [amd64|arm64]        without an architecture: this machine's
set -eu
cd "$(dirname "$0")/.."

package=$1
case "${2:-$(uname -m)}" in
amd64 | x86_64) target=x86_64-unknown-linux-gnu ;;
arm64 | aarch64) target=aarch64-unknown-linux-gnu ;;
*) echo "no static build for the architecture $2" >&2; exit 2 ;;
esac

# Random numbers come from the kernel's call: an empty root has no /dev/urandom to fall back to. The addresses that the program
# puts right when it starts are packed: two megabytes less. With --target the flags are for the program only; without it build
# scripts would get them, too.
AWS_LC_SYS_USE_SYSTEM=0 \
RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom" -C link-arg=-Wl,-z,pack-relative-relocs' \
    cargo build --release --locked --target "$target" --package "$package" >&2
echo "${CARGO_TARGET_DIR:-target}/$target/release/$package"
