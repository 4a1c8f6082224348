#!/usr/bin/env bash
# Unpacks a backup without Holdfast: a second reader of docs/FORMAT.md, for the day when the first cannot be had.
#
#   read-backup.sh CLUSTER BACKUP DEST [OID=FOLDER]...
#   read-backup.sh /var/lib/holdfast/main backup_20261120_154212 /srv/new 16384=/srv/fast > /tmp/settings
#
# CLUSTER is a cluster's folder in the repository; DEST, and a FOLDER for each tablespace, do not exist yet. Run it as the
# user that shall run the server. It needs bash, coreutils, find, grep, sed, GNU tar, and zstd (or lz4, gzip).
#
# It prints the settings with which a stock server recovers to the end of the WAL. Append them to DEST/postgresql.auto.conf,
# make an empty DEST/recovery.signal, and start the server; before that "pg_verifybackup -n DEST" checks every file once
# more. A segment that is missing ends the recovery wherever it is missing, so look at the names in CLUSTER/wal first. A
# damaged one ends the server: codes of 1 to 125 would tell PostgreSQL that the WAL is at its end.
# Configuration from outside the data directory is in config.tar.*, with paths below /.
set -euo pipefail
export LC_ALL=C
fail() { printf 'read-backup: %s\n' "$*" >&2; exit 1; }
[[ $# -ge 3 && -d $1/backup/$2 ]] || fail "usage: read-backup.sh CLUSTER BACKUP DEST [OID=FOLDER]..."
cluster=$(realpath -s "$1") backup=$(realpath -s "$1/backup/$2") dest=$3
[[ ! -e $dest ]] || fail "$dest exists"
[[ $cluster != *[!A-Za-z0-9/_.-]* ]] || fail "restore_command cannot name $cluster: go by a link with a plain name"

# The commit record. Its digest is that of the text between "record": and the last brace.
envelope='^\{"format":1,"kind":"backup","sha256":"([0-9a-f]{64})","record":(\{"id":"([a-z0-9_]+)".*\})\}$'
[[ $(<"$backup/backup.json") =~ $envelope ]] || fail "backup.json is damaged, or not of format 1"
sum=${BASH_REMATCH[1]} record=${BASH_REMATCH[2]} id=${BASH_REMATCH[3]}
[[ $(printf %s "$record" | sha256sum) == "$sum  -" && $id == "$2" ]] || fail "backup.json is damaged"
get() { { grep -oE "$1" <<<"$record" || true; } | sed -E "s/$1/$2/"; } # A quote within a text has a \ before it.

tool=$(get '"compression":"([a-z0-9]+)[^"]*"' '\1')
case $tool in zstd) end=zst ;; lz4) end=lz4 ;; gzip) end=gz ;; *) fail "compression by $tool is not known" ;; esac

# Every stored byte that is to be unpacked, before anything is written. Part numbers have at least five digits.
sums=$(
    get '\{"number":([0-9]+),[^{}]*"stored_sha256":"([0-9a-f]{64})"[^{}]*\}' "\2  part-0000\1.tar.$end" |
        sed -E 's/part-0*([0-9]{5})/part-\1/'
    get '"manifest":\{[^{}]*"stored_sha256":"([0-9a-f]{64})"[^{}]*\}' "\1  backup_manifest.$end"
)
(cd "$backup" && sha256sum --check --quiet --strict <<<"$sums" >&2) || fail "$2 is damaged"

# The tablespaces' links first: tar goes through them. What makes the rest a cluster, pg_control, is in the last part.
declare -A folders=()
for mapping in "${@:4}"; do folders[${mapping%%=*}]=$(realpath -m "${mapping#*=}"); done
oids=$(get '\{"oid":([0-9]+),"name"' '\1') mode=$(printf %o "$(get '"data_directory_mode":([0-9]+)' '\1')")
for oid in $oids; do [[ -n ${folders[$oid]:-} ]] || fail "tablespace $oid needs a folder: $oid=FOLDER"; done
mkdir -m "$mode" "$dest" "$dest/pg_tblspc" "${folders[@]}"
for oid in $oids; do ln -s "${folders[$oid]}" "$dest/pg_tblspc/$oid"; done
for part in $(grep -o 'part-.*' <<<"$sums"); do
    "$tool" -dc "$backup/$part" | tar -x -p --keep-directory-symlink -C "$dest"
done
[[ $(find -L "$dest" -type f -printf x | wc -c) == "$(get '"files":([0-9]+)' '\1')" ]] || fail "files are missing"
(umask 077 && "$tool" -dc "$backup/backup_manifest.$end" >"$dest/backup_manifest")

# Objects of one archive may have different codecs. %f.partial and %f.OFFSET.backup are not the segment.
wal=$cluster/wal/$(get '"system_identifier":"([0-9]+)"' '\1')
find "$wal" -name '*.abandoned.json' -printf 'read-backup: %p: set recovery_target_timeline to another one\n' >&2
unpack='case $f in *%f.zst) c=zstd ;; *%f.lz4) c=lz4 ;; *%f.gz) c=gzip ;; *) continue ;; esac; $c -dc $f > %p'
printf "%s = '%s'\n" archive_mode off restore_command \
    "test -d $wal || exit 200; for f in $wal/*/%f.*; do $unpack && exit 0; exit 200; done; exit 1"
