//! See `rl::fuzz::reference`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rl::fuzz::reference(bytes));
