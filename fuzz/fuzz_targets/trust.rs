//! See `rl::fuzz::trust`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rl::fuzz::trust(bytes));
