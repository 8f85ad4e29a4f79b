//! See `rl::fuzz::unpack`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rl::fuzz::unpack(&rl::fuzz::summed(bytes), rl::fuzz::Place::new().path()));
