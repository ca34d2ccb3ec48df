//! An engine is opened and tried: its numbers here, its text in another process, both at once.

use super::prepare::TextSource;
use crate::answer::{AnswerError, EngineOptions, Launch, TextEngine, TextLimits, TextProcess};

/// Opens the engine; what its template and its tokenizer do when they are opened, they do to another process.
///
/// # Errors
/// [`AnswerError`] with what is wrong with it.
pub fn open_engine(options: &EngineOptions, promised: u64) -> Result<TextEngine, AnswerError> {
    std::thread::scope(|scope| {
        let text = scope.spawn(|| check_text(options));
        let engine = TextEngine::open_tried(options, promised)?;
        let broken = |_| AnswerError::TextRefused {
            directory: options.directory.clone(),
            why: "the thread that tries it has ended".into(),
        };
        text.join().map_err(broken)??;
        Ok(engine)
    })
}

fn check_text(options: &EngineOptions) -> Result<(), AnswerError> {
    let directory = options.directory.clone();
    let cannot = AnswerError::system("start the text process");
    let launch = Launch::own_program(&[]);
    let source = launch.map(|launch| TextSource { directory, max_input_len: usize::MAX, launch });
    let process = source.and_then(|source| TextProcess::new(source.options(TextLimits::default())));
    let refused = |why| AnswerError::TextRefused { directory: options.directory.clone(), why };
    process.map_err(cannot)?.check().map_err(refused)
}
