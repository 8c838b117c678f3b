#!/usr/bin/env bash
# Fuzzes: builds the targets of tests/fuzz with libFuzzer and runs each for a
# bounded time, beginning with what the corpus has.
#
#   tests/fuzz.sh run SECONDS [TARGET...]   all targets, or those; a line of figures for each
#   tests/fuzz.sh repro TARGET FILE         one file, with a backtrace
#   tests/fuzz.sh minimize [TARGET...]      makes the corpus as small as it can be, and takes
#                                           in what the runs here have found
#   tests/fuzz.sh build                     nothing but that
#
# Stable Rust and a C++ compiler are enough: what cargo-fuzz asks of the compiler
# are flags that stable has, too. What runs find is kept in target/fuzz/found, a
# folder a target, and is the corpus of the next run; JOBS=n runs n targets beside
# each other. Exit code 0 exactly if nothing was found. The last line counts in
# the words of cargo test, for tests/run.sh.
set -uo pipefail
cd "$(dirname "$0")/.."

corpus=tests/fuzz/corpus
out=${CARGO_TARGET_DIR:-target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
binary=$out/$host/fuzz/fuzz
found=$out/found

# For the target only: neither macros nor build scripts are fuzzed.
build() {
    RUSTC_WRAPPER=$PWD/tests/fuzz-rustc.sh cargo build --quiet --locked -p overlay-fuzz --bin fuzz \
        --features libfuzzer --profile fuzz --target "$host" --target-dir "$out"
}

targets() {
    if [ $# -gt 0 ]; then
        printf '%s\n' "$@"
    else
        ls "$corpus"
    fi
}

# The number called $1 in what libFuzzer says at its end.
figure() { sed -n "s/^stat::$1: *//p" "$2"; }

# One target for so many seconds. Prints its line.
run_one() {
    local target=$1 seconds=$2 log=$found/$1.log code
    mkdir -p "$found/$target" "$found/crashes"
    # 4 KiB is libFuzzer's own idea of how long an input may be.
    FUZZ_TARGET=$target "$binary" "$found/$target" "$corpus/$target" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=4096 \
        -print_final_stats=1 -artifact_prefix="$found/crashes/$target-" \
        >"$log" 2>&1 </dev/null
    code=$?
    local last
    last=$(grep -aE '^#[0-9]+.*cov: ' "$log" | tail -1)
    local cov=${last#*cov: } ft=${last#*ft: } corp=${last#*corp: }
    printf '%-16s %10s executions %8s/s  %6s edges %7s features %6s files  %s\n' "$target" \
        "$(figure number_of_executed_units "$log")" "$(figure average_exec_per_sec "$log")" \
        "${cov%% *}" "${ft%% *}" "${corp%%/*}" "$([ $code -eq 0 ] && echo ok || echo FAILED)"
    [ $code -eq 0 ] && return
    grep -aE -A3 '^thread .* panicked|ERROR: libFuzzer' "$log" | head -12
    local file
    file=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    echo "the input is kept in: ${file:-nowhere, see $log}"
    echo "run it again with:    make fuzz-repro TARGET=$target FILE=$file"
    return 1
}

case ${1:-} in
build)
    build
    ;;
run)
    seconds=${2:?how many seconds a target}
    shift 2
    build || exit 1
    mkdir -p "$found"
    export -f run_one figure
    export binary corpus found
    # shellcheck disable=SC2016
    targets "$@" | xargs -P "${JOBS:-2}" -I{} bash -c 'run_one "$@" || echo >>"$found/failed"' _ {} "$seconds"
    failed=0
    if [ -e "$found/failed" ]; then
        failed=$(wc -l <"$found/failed")
        rm "$found/failed"
    fi
    passed=$(($(targets "$@" | wc -l) - failed))
    echo "test result: fuzzing. $passed passed; $failed failed"
    [ "$failed" -eq 0 ]
    ;;
repro)
    target=${2:?which target}
    file=${3:?which file}
    build || exit 1
    FUZZ_TARGET=$target RUST_BACKTRACE=${RUST_BACKTRACE:-1} exec "$binary" "$file"
    ;;
minimize)
    shift
    build || exit 1
    for target in $(targets "$@"); do
        mkdir -p "$found/$target"
        small=$(mktemp -d)
        FUZZ_TARGET=$target "$binary" -merge=1 -max_len=4096 "$small" "$corpus/$target" "$found/$target" \
            >"$found/$target.merge.log" 2>&1 || { echo "$target: see $found/$target.merge.log" >&2; exit 1; }
        # Seeds stay under their names; what was kept for what it broke stays, too.
        find "$corpus/$target" -type f ! -name 'seed-*' ! -name 'bug-*' -delete
        for file in "$small"/*; do
            cmp -s "$file" /dev/null || mv "$file" "$corpus/$target/"
        done
        rm -r "$small"
        echo "$target: $(find "$corpus/$target" -type f | wc -l) files," \
            "$(cat "$corpus/$target"/* | wc -c) bytes"
    done
    ;;
*)
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
