//! An answer's text as its tokens come: always whole UTF-8, and the same in any number of pieces.

use super::decoding::Place;
use super::tokenizer::Tokenizer;

/// Decodes one answer, token by token.
///
/// Bytes of a character that is not finished wait; bytes that cannot begin or continue one become U+FFFD, as in
/// `String::from_utf8_lossy`. Special tokens and ids outside the vocabulary have no text.
#[derive(Debug, Clone)]
pub struct AnswerDecoder {
    text: String,
    /// The beginning of a character: at most 3 bytes between calls.
    waiting: Vec<u8>,
    place: Place,
    /// The character that is taken away at the start of the text, and how many of it still.
    strip: Option<(char, usize)>,
}

impl Tokenizer {
    /// The text of an answer: without special tokens and unknown ids, whole characters only. Equal to the library's
    /// but for broken UTF-8: an unfinished character at the end is dropped, and where the library's byte fallback
    /// gives up a whole run of byte tokens, only its bad bytes become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut answer = AnswerDecoder::new(self);
        for &id in ids {
            answer.push(self, id);
        }
        answer.into_text()
    }
}

impl AnswerDecoder {
    /// Keep to one tokenizer for all calls.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self {
            text: String::new(),
            waiting: Vec::new(),
            place: Place::First,
            strip: tokenizer.decoding().strip_start,
        }
    }

    /// Takes the next token and returns the text that is new with it, maybe empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        let old_len = self.text.len();
        if let Some(token) = tokenizer.text_token(id) {
            let bytes = tokenizer.decoding().bytes(token, self.place);
            self.place = Place::Later;
            self.waiting.extend(bytes);
            self.take_finished();
        }
        &self.text[old_len..]
    }

    /// The text so far. At the answer's end, a character left unfinished is dropped.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }

    /// Moves finished characters from `waiting` to `text`.
    fn take_finished(&mut self) {
        let bytes = std::mem::take(&mut self.waiting);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.append(valid);
                    return;
                }
                Err(error) => {
                    let (valid, tail) = rest.split_at(error.valid_up_to());
                    self.append(&String::from_utf8_lossy(valid));
                    let Some(n_bad) = error.error_len() else {
                        self.waiting = tail.to_vec();
                        return;
                    };
                    self.append("\u{FFFD}");
                    rest = &tail[n_bad..];
                }
            }
        }
    }

    fn append(&mut self, new_text: &str) {
        let mut new_text = new_text;
        while let Some((character, n_left)) = self.strip
            && !new_text.is_empty()
        {
            match new_text.strip_prefix(character) {
                Some(rest) if n_left > 0 => {
                    new_text = rest;
                    self.strip = Some((character, n_left - 1));
                }
                _ => self.strip = None,
            }
        }
        self.text.push_str(new_text);
    }
}
