#!/usr/bin/env bash
# Runs the suites and counts. The last line is `N passed, N failed`, summed up
# from what the test programs themselves report; a suite that breaks before it
# can report (it does not compile, it is killed), and a check that fails, count
# as one failure each. Exit code 0 exactly if nothing failed.
#
#   tests/run.sh all     format, lints, and every test (root)
#   tests/run.sh unit    what needs no root
#   tests/run.sh lab     the labs (root)
set -uo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
passed=0
failed=0
broken=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The daemons under test are those of this tree; labs find them here.
target=${CARGO_TARGET_DIR:-target}
export OVERLAY_BIN_DIR=$target/debug
# Errors of labs show what was seen; where the kit noticed it is noise.
export RUST_LIB_BACKTRACE=0

title() { printf '\n== %s\n' "$*"; }

# A check: it passes or it is one failure.
check() {
    title "$*"
    if ! "$@"; then
        failed=$((failed + 1))
        broken+=("$*")
    fi
}

# Tests: counted by what they report, `test result: ok. 3 passed; 0 failed; …`
# of cargo test and of tests/fuzz.sh,
# `Summary [ 1.2s] 3 tests run: 2 passed (1 slow), 1 failed` of nextest.
tests() {
    title "$*"
    "$@" 2>&1 | tee "$log"
    local code=${PIPESTATUS[0]} p f
    read -r p f < <(sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
        /^test result: / || /^ *Summary \[/ {
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) p += $(i - 1)
                if ($i ~ /^failed/ || $i ~ /^timed/) f += $(i - 1)
            }
        }
        END { print p + 0, f + 0 }')
    passed=$((passed + p))
    failed=$((failed + f))
    if [ "$f" -gt 0 ]; then
        broken+=("$*")
    elif [ "$code" -ne 0 ]; then
        failed=$((failed + 1))
        broken+=("$* (ended with $code)")
    fi
}

# nextest runs each test in a process of its own and ends one that hangs; where
# it is missing, cargo test runs the same tests.
suite() {
    if cargo nextest --version >/dev/null 2>&1; then
        tests cargo nextest run --locked --no-fail-fast --config-file .config/nextest.toml "$@"
    else
        tests cargo test --locked --no-fail-fast "$@"
    fi
}

labs=()
for lab in tests/lab/*.rs; do
    labs+=(--test "lab_$(basename "$lab" .rs)")
done

start=$SECONDS
case $what in
all)
    if [ "$(id -u)" -ne 0 ]; then
        echo "make test makes network namespaces and needs root; without it: make test-unit" >&2
        exit 1
    fi
    check cargo fmt --all --check
    check cargo clippy --workspace --all-targets --locked -- -D warnings
    if command -v cargo-deny >/dev/null; then
        # Advisories need a fresh database from the network: `make deny` asks for it.
        check cargo deny --config .deny.toml check bans licenses sources
    fi
    check cargo build --locked -p overlayd -p overlayctl -p overlay-cni
    suite --workspace
    # Every target for a moment, from the corpus: that libFuzzer's build works, and the
    # cheapest of finds. Longer: make fuzz.
    tests tests/fuzz.sh smoke "${FUZZ_SECONDS:-5}"
    # nextest leaves the examples in comments out.
    if cargo nextest --version >/dev/null 2>&1; then
        tests cargo test --locked --workspace --doc
    fi
    ;;
unit)
    suite --workspace --exclude overlay-tests --exclude overlay-netlink --lib --bins
    suite -p overlay-tests --test tidy --lib
    suite -p overlay-fuzz --test corpus
    ;;
lab)
    check cargo build --locked -p overlayd -p overlayctl -p overlay-cni
    suite -p overlay-tests "${labs[@]}" --test kit
    ;;
*)
    echo "usage: $0 all|unit|lab" >&2
    exit 2
    ;;
esac

printf '\n'
for one in "${broken[@]:-}"; do
    [ -n "$one" ] && echo "failed: $one"
done
echo "in $((SECONDS - start)) s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
