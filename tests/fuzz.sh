#!/usr/bin/env bash
# Fuzzes: builds the targets of tests/fuzz with libFuzzer and runs each for a
# bounded time, beginning with what the corpus has.
#
#   tests/fuzz.sh run SECONDS [TARGET...]   all targets, or those; a line of figures for each
#   tests/fuzz.sh smoke SECONDS             the same from a debug build, for make test
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
target_dir=${CARGO_TARGET_DIR:-target}
out=$target_dir/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
binary=$out/$host/fuzz/fuzz
found=$out/found
wrapper=$PWD/tests/fuzz-rustc.sh
# Bytes that a target's part of the corpus may have, seeds aside: it lies in git.
most=40000

# With optimised code and every check, in a folder of its own. For the target only: neither
# macros nor build scripts are fuzzed.
build() {
    RUSTC_WRAPPER=$wrapper cargo build --quiet --locked -p overlay-fuzz --bin fuzz \
        --features libfuzzer --profile fuzz --target "$host" --target-dir "$out"
}

# With what cargo test has built already, and counters in our own crates only: a tenth of the
# speed, and built in half a minute.
build_quickly() {
    RUSTC_WORKSPACE_WRAPPER=$wrapper cargo build --quiet --locked -p overlay-fuzz --bin fuzz \
        --features libfuzzer --target-dir "$target_dir"
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
run | smoke)
    seconds=${2:?how many seconds a target}
    if [ "$1" = run ]; then
        build || exit 1
    else
        build_quickly || exit 1
        binary=$target_dir/debug/fuzz
        found=$out/smoke
        rm -rf "$found"
    fi
    shift 2
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
        # By edges, not by how often each was taken: a tenth of the files.
        FUZZ_TARGET=$target "$binary" -set_cover_merge=1 -use_counters=0 -max_len=4096 \
            "$small" "$corpus/$target" "$found/$target" \
            >"$found/$target.merge.log" 2>&1 || { echo "$target: see $found/$target.merge.log" >&2; exit 1; }
        # Seeds stay under their names; what was kept for what it broke stays, too.
        find "$corpus/$target" -type f ! -name 'seed-*' ! -name 'bug-*' -delete
        # The shortest first, until it is enough.
        find "$small" -type f -size +0 -printf '%s %p\n' | sort -n | while read -r size file; do
            left=$((${left:-$most} - size))
            [ "$left" -ge 0 ] && mv "$file" "$corpus/$target/"
        done
        rm -r "$small"
        echo "$target: $(find "$corpus/$target" -type f | wc -l) files," \
            "$(cat "$corpus/$target"/* | wc -c) bytes"
    done
    ;;
*)
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
