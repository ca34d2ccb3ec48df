//! The answers of a run, and the file that it writes.

use std::io::{self, Write};
use std::path::Path;

use super::resume::Kept;
use crate::spool::wire::{Answer, AnswerFile, FaultCode, Form, RequestFile};
use crate::store::{AtomicFile, StoreError};

/// An answer for the output file.
pub enum Outcome {
    /// Of the run that was interrupted.
    Kept(Kept),
    Computed(Box<Answer>),
}

impl Outcome {
    pub fn has_failed(&self) -> bool {
        match self {
            Self::Kept(kept) => kept.has_failed,
            Self::Computed(answer) => answer.error.is_some(),
        }
    }

    pub fn is_cancelled(&self) -> bool {
        let Self::Computed(answer) = self else { return false };
        answer.error.as_ref().is_some_and(|fault| fault.code == FaultCode::Cancelled)
    }

    /// Request, adapters, text.
    fn printed(&self) -> (usize, String, &str) {
        match self {
            Self::Kept(kept) => (kept.request_idx, kept.lora_names.join(" + "), &kept.output_text),
            Self::Computed(answer) => {
                let names: Vec<&str> = answer.lora_names().collect();
                (answer.request_idx, names.join(" + "), &answer.output_text)
            }
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Kept(kept) => out.write_all(kept.json.get().as_bytes()),
            Self::Computed(answer) => answer.write_json(out),
        }
    }
}

/// # Errors
/// Those of standard output.
pub fn print_answers(answers: &[Outcome]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for answer in answers {
        let (request_idx, names, text) = answer.printed();
        let names = if names.is_empty() { "no adapter" } else { &names };
        writeln!(out, "[{request_idx} {names}] {text}")?;
    }
    Ok(())
}

/// Writes all answers to a file at once, in its form.
///
/// # Errors
/// [`StoreError`].
pub fn write_answers(
    path: &Path,
    input_file: &str,
    (file, answers): (&RequestFile, &[Outcome]),
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), action: "write", source };
    let mut out = AtomicFile::create(path)?;
    match file.form() {
        Form::Lines(_) => {
            for answer in answers {
                answer.write(&mut out).and_then(|()| out.write_all(b"\n")).map_err(failed)?;
            }
        }
        Form::Object => {
            let mut writer = AnswerFile::begin(out, input_file).map_err(failed)?;
            for answer in answers {
                writer.entry(|out| answer.write(out)).map_err(failed)?;
            }
            out = writer.finish(&file.warnings).map_err(failed)?;
        }
    }
    out.commit()
}
