#!/usr/bin/env bash
# Runs cargo tests on several versions of PostgreSQL: each-postgresql.sh 'MAJOR…' COMMAND…, with HOLDFAST_TEST_PG_BIN set
# to that version's programs; AT_ONCE (1) of them at the same time. Installs what is missing, prints a summary, and fails
# if one fails or ran no test. What a version said is kept in target/test-MAJOR.log.
set -euo pipefail
cd "$(dirname "$0")/.."
me=each-postgresql
read -ra majors <<<"$1"
shift

# All of them first: half an hour of tests is no time to learn that one cannot be had.
servers=$(contrib/install-postgresql-versions.sh "${majors[@]}")
mkdir -p target

# run_one MAJOR BIN COMMAND…: every line begins with the version; what came of it is in target/test-MAJOR.outcome.
run_one() {
    local major=$1 bin=$2 log=target/test-$1.log started=$SECONDS outcome=passed passed
    shift 2
    HOLDFAST_TEST_PG_BIN=$bin "$@" </dev/null 2>&1 | tee "$log" | sed -u "s/^/$major: /" || outcome=FAILED
    passed=$(awk '/^test result: / { sum += $4 } END { print sum + 0 }' "$log")
    [[ $outcome == passed && $passed == 0 ]] && outcome='FAILED: no test ran'
    echo "$me: PostgreSQL $major: $outcome, $passed tests passed, $((SECONDS - started)) s, $log" \
        >"target/test-$major.outcome"
}

while read -r major bin; do
    found=$("$bin/postgres" --version)
    if [[ $found != *" $major"* ]]; then
        echo "$me: $bin has $found, not $major" >&2
        exit 1
    fi
    echo "$me: $found in $bin"
    rm -f "target/test-$major.outcome"
    while (($(jobs -rp | wc -l) >= ${AT_ONCE:-1})); do
        wait -n
    done
    run_one "$major" "$bin" "$@" &
done <<<"$servers"
wait

status=0
for major in "${majors[@]}"; do
    cat "target/test-$major.outcome" || status=1
    grep -q ': passed, ' "target/test-$major.outcome" || status=1
done
exit "$status"
