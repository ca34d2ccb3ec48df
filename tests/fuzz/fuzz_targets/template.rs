//! A chat template, compiled and run.
#![no_main]

use jetspool::text::{ChatMessage, ChatTemplate, RenderOptions, SpecialTokens, TemplateVariables};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let special = || SpecialTokens::new(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
    let jinja = ChatTemplate::from_jinja(source, TemplateVariables::default(), special());
    let processed = ChatTemplate::from_processed(bytes, special());
    let messages = [ChatMessage::new("system", "Be brief."), ChatMessage::new("user", "What is <|im_end|>?")];
    let options = RenderOptions {
        add_generation_prompt: true,
        enable_thinking: Some(false),
        local_time: 0,
        tools: None,
    };
    for template in [jinja, processed].into_iter().flatten() {
        let _ = template.render(&messages, &options);
    }
});
