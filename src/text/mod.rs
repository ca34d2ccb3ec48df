//! Text to tokens and back: the tokenizer, the chat template, answers and their stop strings.
//!
//! Nothing here knows a model or a path: files come as bytes. Message contents are never turned into special tokens
//! (see `special.rs`), whatever the template does with them.

mod added;
mod answer;
mod assemble;
mod bound;
mod bpe;
mod calendar;
mod coloured;
mod compile;
mod complete;
mod decoding;
mod error;
mod filters;
mod jinja;
mod message;
mod methods;
mod pre_tokenizers;
mod printf;
mod processed;
mod prompt;
mod python;
mod refusal;
mod remainder;
mod render;
mod scan;
mod score_merges;
mod source;
mod special;
mod steps;
mod stop;
mod table;
mod template;
mod text_methods;
mod tokenizer;
mod tokenizer_json;
mod vocabulary;

pub use answer::AnswerDecoder;
pub use assemble::{TokenizerFiles, VocabularyParts, assemble_tokenizer};
pub use complete::{BesideTokenizer, with_tokens_beside};
pub use error::TextError;
pub use message::ChatMessage;
pub use prompt::{MAX_PROMPT_BYTES, Prompt};
pub use render::{RenderOptions, Rendered};
pub use source::{TemplateFiles, TemplateSource, TemplateVariables, template_source};
pub use special::SpecialTokens;
pub use stop::StopStrings;
pub use table::{SharedBytes, TableSource};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
