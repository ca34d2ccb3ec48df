//! The answer's text on standard output, as it comes.

use std::io::{self, IsTerminal, Stdout, Write};

/// Standard output.
pub struct Voice {
    out: Stdout,
    /// A terminal would obey control characters.
    is_terminal: bool,
}

impl Voice {
    pub fn new() -> Self {
        let out = io::stdout();
        Self { is_terminal: out.is_terminal(), out }
    }

    /// # Errors
    /// The system's; of kind `BrokenPipe` when nobody reads any more.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut out = self.out.lock();
        if self.is_terminal {
            out.write_all(harmless(text).as_bytes())?;
        } else {
            out.write_all(text.as_bytes())?;
        }
        out.flush()
    }

    /// Ends an answer.
    ///
    /// # Errors
    /// As [`Voice::say`].
    pub fn end_line(&mut self) -> io::Result<()> {
        self.say("\n")
    }
}

/// The text without what a terminal would do instead of showing it.
fn harmless(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\t' => character,
        _ if character.is_control() => '\u{FFFD}',
        _ => character,
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_orders() {
        assert_eq!(harmless("a\n\tb é 世"), "a\n\tb é 世");
        assert_eq!(harmless("\u{1b}]52;c;x\u{7}\r\u{9b}"), "\u{FFFD}]52;c;x\u{FFFD}\u{FFFD}\u{FFFD}");
    }
}
