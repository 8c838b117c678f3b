#!/bin/sh
# What cargo calls instead of rustc for `make fuzz`: puts libFuzzer's counters
# into the crates that read what hostile bytes say, ours and those that we hand
# them to. In all 250 they would double the time of the build, and libFuzzer
# would have to go through three times as many after every run.
case " $* " in
*" --crate-name overlay"* | *" --crate-name fuzz "* | \
    *" --crate-name redb "* | *" --crate-name chitchat "* | *" --crate-name bincode "* | \
    *" --crate-name serde_json "* | *" --crate-name base64 "* | *" --crate-name ipnet "* | \
    *" --crate-name uuid "* | *" --crate-name hickory_proto "*) ;;
*) exec "$@" ;;
esac
# A counter an edge, and what is compared with what. All of it is in stable Rust.
exec "$@" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0
