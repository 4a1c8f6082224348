#!/usr/bin/env bash
# Runs cargo tests on several versions of PostgreSQL, one after the other: each-postgresql.sh 'MAJOR…' COMMAND…, with
# HOLDFAST_TEST_PG_BIN set to one after the other. Installs what is missing, prints a summary, and fails if one fails or
# ran no test. What a version said is kept in target/test-MAJOR.log.
set -euo pipefail
cd "$(dirname "$0")/.."
me=each-postgresql
read -ra majors <<<"$1"
shift

# All of them first: half an hour of tests is no time to learn that one cannot be had.
servers=$(contrib/install-postgresql-versions.sh "${majors[@]}")
mkdir -p target
status=0
summary=
while read -r major bin; do
    found=$("$bin/postgres" --version)
    if [[ $found != *" $major"* ]]; then
        echo "$me: $bin has $found, not $major" >&2
        exit 1
    fi
    echo "$me: $found in $bin"
    log=target/test-$major.log started=$SECONDS outcome=passed
    HOLDFAST_TEST_PG_BIN=$bin "$@" </dev/null 2>&1 | tee "$log" || outcome=FAILED
    passed=$(awk '/^test result: / { sum += $4 } END { print sum + 0 }' "$log")
    [[ $outcome == passed && $passed == 0 ]] && outcome='FAILED: no test ran'
    [[ $outcome == passed ]] || status=1
    summary+="$me: PostgreSQL $major: $outcome, $passed tests passed, $((SECONDS - started)) s, $log"$'\n'
done <<<"$servers"
printf '%s' "$summary"
exit "$status"
