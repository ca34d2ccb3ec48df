//! Compact JSON to the layout of answer files, byte by byte as it comes: nothing of it is held.
//! An indent of 4, as the original's writer has it: `"key": value`, `[]`, `{}`.

use std::io::{self, Write};

/// A writer that takes JSON and writes it indented. Text that is no JSON comes out as no JSON.
pub struct Indent<W: Write> {
    out: W,
    level: usize,
    /// A bracket was opened and nothing came after it.
    is_open: bool,
    in_string: bool,
    is_escaped: bool,
}

impl<W: Write> Indent<W> {
    /// The first line is not indented; the others stand `level` steps in.
    pub fn new(out: W, level: usize) -> Self {
        Self { out, level, is_open: false, in_string: false, is_escaped: false }
    }

    /// Ends with the writer beneath, not flushed.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn string(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (idx, &byte) in bytes.iter().enumerate() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.in_string = false;
                    self.out.write_all(&bytes[..=idx])?;
                    return Ok(idx + 1);
                }
                _ => {}
            }
        }
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn outside(&mut self, byte: u8) -> io::Result<()> {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => return Ok(()),
            b'}' | b']' => {
                self.level = self.level.saturating_sub(1);
                if !std::mem::take(&mut self.is_open) {
                    self.new_line()?;
                }
                return self.out.write_all(&[byte]);
            }
            _ => {}
        }
        if std::mem::take(&mut self.is_open) {
            self.new_line()?;
        }
        match byte {
            b',' => {
                self.out.write_all(b",")?;
                self.new_line()
            }
            b':' => self.out.write_all(b": "),
            _ => {
                if matches!(byte, b'{' | b'[') {
                    self.level += 1;
                    self.is_open = true;
                }
                self.in_string = byte == b'"';
                self.out.write_all(&[byte])
            }
        }
    }

    fn new_line(&mut self) -> io::Result<()> {
        write!(self.out, "\n{:1$}", "", self.level * 4)
    }
}

impl<W: Write> Write for Indent<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut idx = 0;
        while idx < bytes.len() {
            if self.in_string {
                idx += self.string(&bytes[idx..])?;
            } else {
                self.outside(bytes[idx])?;
                idx += 1;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indented(text: &str, level: usize, piece: usize) -> String {
        let mut out = Indent::new(Vec::new(), level);
        for piece in text.as_bytes().chunks(piece) {
            out.write_all(piece).unwrap();
        }
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn indents_by_four_in_pieces_of_any_size() {
        let text = r#"{"a":[1,[],{}],"b":{"c":"d"}}"#;
        let wanted = "{\n        \"a\": [\n            1,\n            [],\n            {}\n        ],\n        \"b\": {\n            \"c\": \"d\"\n        }\n    }";
        for piece in 1..text.len() {
            assert_eq!(indented(text, 1, piece), wanted);
        }
    }

    /// serde_json's own writer with an indent of four says the same.
    #[test]
    fn says_what_serde_json_says() {
        use serde::Serialize;
        let texts = [
            r#"{}"#,
            r#" [ ] "#,
            r#"[1,-2.5e+3,"a",true , null,[[]],{}]"#,
            "{\"a\\\"b\" :\t{\"c\":[1,{\"d\":\"}]\\\\\"}]},\n\"e\" : \"\\u00e9ü\"}",
            r#"[[[],[1]],{"a":{"b":{}}}]"#,
            r#""only a \"string\", {[:,""#,
            "7",
        ];
        for text in texts {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            let compact = value.to_string();
            let mut wanted = Vec::new();
            let layout = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut wanted, layout)).unwrap();
            for piece in [1, 2, 3, 1000] {
                assert_eq!(indented(&compact, 0, piece).as_bytes(), wanted, "{text}");
            }
        }
    }
}
