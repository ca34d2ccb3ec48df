//! A request file: the top, then each request on its own.
#![no_main]

use jetspool::spool::wire::{RequestFile, completeness};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = completeness(bytes);
    if let Ok(file) = RequestFile::parse(bytes.to_vec()) {
        file.requests().for_each(drop);
    }
});
