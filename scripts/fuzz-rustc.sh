#!/bin/sh
# rustc for our own crates when scripts/fuzz.sh builds them: with the counters and comparisons that libFuzzer looks at.
# On stable Rust: what cargo-fuzz passes, without the sanitizers.
case " $* " in
    *" build_script_build "*) exec "$@" ;;
    *" --crate-name "*)
        exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
            -Cllvm-args=-sanitizer-coverage-trace-compares
        ;;
    *) exec "$@" ;;
esac
