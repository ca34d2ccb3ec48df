//! A GGUF file: its metadata and where its tensors lie.
#![no_main]

use jetspool::format::gguf::GgufFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = GgufFile::parse(bytes) {
        assert!(file.tensors().all(|(name, _)| file.tensor(name).is_some()));
    }
});
