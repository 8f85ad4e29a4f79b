//! See `rl::fuzz::manifest`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rl::fuzz::manifest(bytes));
