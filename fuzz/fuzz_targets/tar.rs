//! See `rl::fuzz::tar`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rl::fuzz::tar(&rl::fuzz::summed(bytes)));
