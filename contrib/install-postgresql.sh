#!/usr/bin/env bash
# Installs what the tests and the demonstration need and this machine lacks: a PostgreSQL server (14 to 18), the
# stock compression tools, and what makes the tests' own disks. Does nothing, and needs no rights, when all
# of it is there.
set -euo pipefail
me=install-postgresql
# shellcheck source=contrib/packages.sh
source "$(dirname "$0")/packages.sh"
export PATH=$PATH:/usr/sbin:/sbin

missing_tools() {
    local tool
    for tool in zstd lz4 gzip tar setpriv perl mkfs.ext4 mkfs.xfs psql; do
        command -v "$tool" >/dev/null || echo "$tool"
    done
    have_server || echo "a PostgreSQL server"
}

# The same places, in the same order, as tests/src/postgres.rs.
have_server() {
    local dir
    for dir in "${HOLDFAST_TEST_PG_BIN:-}" /usr/lib/postgresql/1[4-8]/bin /usr/pgsql-1[4-8]/bin \
        "$(pg_config --bindir 2>/dev/null || true)"; do
        [[ -n $dir && -x $dir/initdb && -x $dir/pg_waldump && -x $dir/pg_verifybackup && -x $dir/pg_amcheck ]] && return 0
    done
    return 1
}

install_with_apt() {
    # Debian would make and start a cluster of its own; the tests make theirs. Left alone where it is configured.
    local config=/etc/postgresql-common/createcluster.d/holdfast-tests.conf
    if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
        as_root mkdir -p "${config%/*}"
        echo 'create_main_cluster = false' | as_root tee "$config" >/dev/null
    fi
    as_root apt-get update -qq
    local server=postgresql-15
    apt-cache show "$server" >/dev/null 2>&1 || server=postgresql
    apt_install "$server" postgresql-client-common zstd lz4 gzip tar util-linux mount perl-base e2fsprogs xfsprogs
}

install_with_dnf() {
    dnf_install postgresql-server postgresql-contrib postgresql zstd lz4 gzip tar util-linux perl-interpreter e2fsprogs xfsprogs
}

missing=$(missing_tools)
[[ -z $missing ]] && exit 0
echo "install-postgresql: missing: ${missing//$'\n'/, }" >&2
if command -v apt-get >/dev/null; then
    install_with_apt
elif command -v dnf >/dev/null; then
    install_with_dnf
else
    echo "install-postgresql: neither apt-get nor dnf here: install PostgreSQL 14 to 18 with its server programs by hand" >&2
    exit 1
fi

missing=$(missing_tools)
if [[ -n $missing ]]; then
    echo "install-postgresql: installed, but still missing: ${missing//$'\n'/, }" >&2
    exit 1
fi
