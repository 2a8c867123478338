#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| marca_fuzz::ftp(data));
