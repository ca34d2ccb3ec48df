//! A batch file: one request a line.
#![no_main]

use jetspool::spool::wire::{RequestFile, Stamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let stamp = Stamp { name: "1k1g0n21fjp".to_owned(), created: 0 };
    if let Ok(file) = RequestFile::parse_lines(bytes.to_vec(), stamp) {
        file.requests().for_each(drop);
    }
});
