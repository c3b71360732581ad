#!/usr/bin/env bash
# Everything CI runs, cheapest first, stopping at the first failure; ends with each suite's time.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

passed=0
current=''
summary=()
finish() {
    local code=$?
    trap - EXIT
    [ -z "$current" ] || summary+=("$(printf 'FAILED %4ds  %s' "$((SECONDS - start))" "$current")")
    say
    say "suites:"
    printf '  %s\n' "${summary[@]}"
    if [ "$code" -eq 0 ]; then say "$passed passed, 0 failed"; else say "$passed passed, 1 failed"; fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

suite() { # name command...
    current=$1 start=$SECONDS
    shift
    say
    say "== $current"
    "$@" || exit
    summary+=("$(printf 'ok     %4ds  %s' "$((SECONDS - start))" "$current")")
    passed=$((passed + 1))
    current=''
}

# The 512 transactions that our own tests have just built, signed and written, as ethers-core sees them.
xcheck() {
    cargo run --quiet --locked --manifest-path tests/xcheck/Cargo.toml --target-dir "$(target_dir)/xcheck" -- \
        target/xcheck/vectors.jsonl 512
    cargo run --quiet --locked --manifest-path tests/xcheck/Cargo.toml --target-dir "$(target_dir)/xcheck" -- \
        target/xcheck/calls.jsonl 512
}

# The service unit keeps its hardening: exposure at most 1.5 of 10.
service_unit() {
    if ! have systemd-analyze; then
        warn "no systemd-analyze on this machine: the unit was NOT checked"
        return
    fi
    systemd-analyze security --offline=true --no-pager --threshold=15 systemd/countersignd.service | tail -1
}

# Behaviour over the network once more; what does not depend on the engine is left out.
on_postgres() {
    COUNTERSIGN_TEST_STORE=postgres scripts/with-postgres.sh cargo nextest run --package countersign --test it --locked \
        -E 'not test(/^(repository|attacks|postgres|copy|gateway|instances|support)::/)'
}

rm -f target/xcheck/vectors.jsonl target/xcheck/calls.jsonl
suite "setup: what is missing" scripts/setup.sh softhsm peers postgres programs cargo-tools
suite "format" cargo fmt --all --check
suite "dependencies: licences, sources, bans, advisories" scripts/deny.sh
suite "service unit" service_unit
suite "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
suite "tests" scripts/with-postgres.sh cargo nextest run --workspace --locked
suite "tests on PostgreSQL" on_postgres
suite "documentation tests" cargo test --quiet --doc --workspace --locked
suite "encoder against ethers-core" xcheck
suite "fuzzing" scripts/fuzz.sh 60
suite "demo" scripts/demo.sh
