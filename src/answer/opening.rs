//! An engine is opened and tried: its numbers here, its text in another process, both at once. It is what the
//! daemon does before it is ready, and what doctor looks at.

use std::path::Path;

use super::engine::{EngineOptions, TextEngine};
use super::error::AnswerError;
use super::text_process::{Launch, TextLimits, TextProcess, TextProcessOptions};
use crate::store::engine::TOKENIZER_FILE;

/// Opens the engine; what its template and its tokenizer do when they are opened, they do to another process.
/// `promised` bytes of what the machine has are already somebody else's.
///
/// # Errors
/// [`AnswerError`] with what is wrong with it.
pub fn open_engine(options: &EngineOptions, promised: u64) -> Result<TextEngine, AnswerError> {
    std::thread::scope(|scope| {
        let text = scope.spawn(|| check_text(&options.directory));
        let engine = TextEngine::open_tried(options, promised)?;
        let broken = |_| refused(&options.directory, "the thread that tries it has ended".into());
        text.join().map_err(broken)??;
        Ok(engine)
    })
}

/// Tries the text files of a checkpoint that is to become an engine. Without a tokenizer it has no text.
///
/// # Errors
/// [`AnswerError::TextRefused`] with what is wrong with them.
pub fn check_source(directory: &Path) -> Result<(), AnswerError> {
    if directory.join(TOKENIZER_FILE).exists() { check_text(directory) } else { Ok(()) }
}

fn check_text(directory: &Path) -> Result<(), AnswerError> {
    let launch = Launch::own_program().map_err(AnswerError::system("find this program"))?;
    let process = TextProcess::new(TextProcessOptions {
        directory: directory.to_owned(),
        max_input_len: usize::MAX,
        limits: TextLimits::default(),
        launch,
    });
    let mut process = process.map_err(AnswerError::system("open the text of the engine"))?;
    process.check().map_err(|why| refused(directory, why))
}

fn refused(directory: &Path, why: String) -> AnswerError {
    AnswerError::TextRefused { directory: directory.to_owned(), why }
}
