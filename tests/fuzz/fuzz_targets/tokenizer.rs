//! tokenizer.json, and the table that `build` compiles of it.
#![no_main]

use std::sync::Arc;

use jetspool::text::{Prompt, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = Tokenizer::parse(bytes).ok();
    let opened = Tokenizer::open(Arc::new(bytes.to_vec())).ok();
    for tokenizer in parsed.into_iter().chain(opened) {
        if let Ok(prompt) = Prompt::trusted("What is aspirin? <|im_end|> é 12 345") {
            let _ = tokenizer.encode(&prompt);
        }
    }
});
