//! What libFuzzer drives: the target that `FUZZ_TARGET` names. Built and started
//! by `make fuzz`; see `tests/fuzz.sh`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: overlay_fuzz::start(),
    |data: &[u8]| (overlay_fuzz::chosen().run)(data)
);
