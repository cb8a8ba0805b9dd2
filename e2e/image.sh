#!/bin/sh
# Builds the images that a world's node runs, and tells the size of each:
#   target/image/evercert.tar   localhost/evercert:dev   by the last stage of /Dockerfile, the program built here
#   target/image/demo-app.tar   localhost/demo-app:dev   by e2e/app/Dockerfile
# Beside the first target/image/evercert.cdx.json, its bill of materials (CycloneDX).
# Archives of `docker save`'s kind. Does nothing where nothing has changed. Needs cargo, and buildah, which runs nothing here:
# no stage of these has a command to run, so neither a registry nor a daemon is asked.
set -eu
cd "$(dirname "$0")/.."
images=${CARGO_TARGET_DIR:-target}/image

command -v buildah >/dev/null || { echo "buildah is missing: e2e/cluster/packages.sh installs it" >&2; exit 1; }
mkdir -p "$images"
work=$(mktemp -d "$PWD/$images/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

in_storage() { # COMMAND...: with a storage of its own, gone with this script
    command=$1
    shift
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$command" "$@"
}

build() { # PACKAGE DOCKERFILE ARGUMENT...
    package=$1
    dockerfile=$2
    shift 2
    program=$(sh controller/static.sh "$package")
    context=$images/$package
    archive=$images/$package.tar
    reference=localhost/$package:dev
    if [ ! -e "$archive" ] || [ "$dockerfile" -nt "$archive" ] || [ e2e/image.sh -nt "$archive" ] \
        || ! cmp -s "$program" "$context/out/$package"; then
        rm -f "$archive"
        mkdir -p "$context/out"
        install "$program" "$context/out/$package"
        # The same input gives the same image: no time of today in it.
        in_storage build --quiet --isolation chroot --pull=never --format docker --timestamp 0 --identity-label=false \
            --build-context "build=$context" --tag "$reference" --file "$dockerfile" "$@" . >/dev/null
        in_storage push --quiet "$reference" "docker-archive:$work/$package.tar:$reference"
        mv "$work/$package.tar" "$archive"
    fi
    printf '%s  %s  %s MB\n' "$reference" "$archive" "$(($(wc -c <"$archive") / 1000000))"
}

# The whole workspace, as everywhere, so that nothing is built a second time with other features.
bill() { # PACKAGE
    program=$images/$1/out/$1
    cargo build --quiet --workspace --locked
    target=$(rustc -vV | sed -n 's/^host: //p')
    "${CARGO_TARGET_DIR:-target}/debug/evercert-e2e" sbom --package "$1" --target "$target" --program "$program" --output "$images/$1.cdx.json"
    printf '%s  %s packages\n' "$images/$1.cdx.json" "$(grep -c '"purl": ' "$images/$1.cdx.json")"
}

build evercert Dockerfile --build-arg "TARGETARCH=$(uname -m)"
bill evercert
build demo-app e2e/app/Dockerfile
