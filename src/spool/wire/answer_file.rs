//! The answer file, written entry by entry so that it is never whole in memory.
//! Keys by the alphabet, indent 4, UTF-8 as it is, a line feed at the end.

use std::io::{self, Write};

use super::fault::Fault;
use super::indent::Indent;
use super::json::Value;

/// A file of answers that is being written.
pub struct AnswerFile<W: Write> {
    out: W,
    n_written: usize,
}

impl<W: Write> AnswerFile<W> {
    /// Starts a file of answers to the request file `input_file`.
    pub fn begin(mut out: W, input_file: &str) -> io::Result<Self> {
        write!(out, "{{\n    \"input_file\": {},\n    \"responses\": [", Value::quoted(input_file))?;
        Ok(Self { out, n_written: 0 })
    }

    /// Adds the next answer, which `write` writes as [`super::Answer::write_json`] does.
    pub fn entry<E: From<io::Error>>(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        self.out.write_all(if self.n_written == 0 { b"\n        " } else { b",\n        " })?;
        self.n_written += 1;
        write(&mut Indent::new(&mut self.out, 2))
    }

    /// Ends the file and gives the writer back, not flushed.
    pub fn finish(mut self, warnings: &[String]) -> io::Result<W> {
        self.out.write_all(if self.n_written == 0 { b"]" } else { b"\n    ]" })?;
        if !warnings.is_empty() {
            self.out.write_all(b",\n    \"warnings\": ")?;
            serde_json::to_writer(Indent::new(&mut self.out, 1), warnings)?;
        }
        self.out.write_all(b"\n}\n")?;
        Ok(self.out)
    }
}

/// Writes the answer to a file that was rejected as a whole.
pub fn write_rejection(out: &mut impl Write, input_file: &str, fault: &Fault) -> io::Result<()> {
    out.write_all(b"{\n    \"error\": ")?;
    serde_json::to_writer(Indent::new(&mut *out, 1), fault)?;
    write!(out, ",\n    \"input_file\": {},\n    \"responses\": []\n}}\n", Value::quoted(input_file))
}
