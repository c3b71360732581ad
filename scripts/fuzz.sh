#!/usr/bin/env bash
# Fuzzes everything that comes from outside: fuzz.sh [seconds in all] [target...]. Without targets, all of them, one after
# another, each for its part of the time. What a target finds beyond tests/fuzz/corpus goes to target/fuzz/corpus and is
# where the next run goes on; an input that fails is kept in target/fuzz/failed, and the target's name and that file are
# what `fuzz.sh 0 TARGET FILE` runs once more.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

targets=(kg1 kg2 kg3 sg1 sg2 kg1_reply kg2_reply kg3_reply sg1_reply
    envelope owner_proof answer_proof identity device_key token body transaction calls offer)
seconds=${1:-60}
[ $# -gt 0 ] && shift
again=''
if [ "$seconds" = 0 ]; then
    [ $# -eq 2 ] || die "fuzz.sh 0 TARGET FILE"
    again=$2
    targets=("$1")
elif [ $# -gt 0 ]; then
    targets=("$@")
fi

scripts/setup.sh compilers
RUSTC_WORKSPACE_WRAPPER=$PWD/scripts/fuzz-rustc.sh \
    cargo build --quiet --locked --package countersign-fuzz --features libfuzzer
program=$(target_dir)/debug/countersign-fuzz

mkdir -p target/fuzz/failed
run() { # target libfuzzer-arguments...
    local target=$1
    shift
    # No honest message is longer than 200 kB: a process that grows this large has believed a hostile length.
    COUNTERSIGN_FUZZ_TARGET=$target "$program" -timeout=20 -rss_limit_mb=512 "$@"
}
if [ -n "$again" ]; then
    run "${targets[0]}" "$again"
    exit
fi

each=$((seconds / ${#targets[@]}))
[ "$each" -gt 0 ] || each=1
for target in "${targets[@]}"; do
    found=target/fuzz/corpus/$target log=target/fuzz/$target.log
    mkdir -p "$found"
    if ! run "$target" -max_len=512 -max_total_time="$each" -print_final_stats=1 \
        -artifact_prefix="target/fuzz/failed/$target-" "$found" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
        tail -40 "$log" >&2
        die "$target failed; once more: scripts/fuzz.sh 0 $target target/fuzz/failed/$target-…"
    fi
    awk -v name="$target" '
        /stat::number_of_executed_units/ {runs = $2}
        /stat::average_exec_per_sec/ {rate = $2}
        /stat::peak_rss_mb/ {memory = $2}
        / cov: / {for (i = 1; i < NF; i++) if ($i == "cov:") coverage = $(i + 1)}
        END {printf "  %-12s %8d inputs, %6d per second, %6d edges, at most %4d MiB\n", name, runs, rate, coverage, memory}
    ' "$log"
done
