#![no_main]

#[allow(dead_code)] // the checks of the other targets
#[path = "../../tests/soak/keep.rs"]
mod keep;

libfuzzer_sys::fuzz_target!(|input: &[u8]| keep::locator(input));
