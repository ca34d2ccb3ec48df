//! A request file that is another kind of file than its name says: what it seems to be, and what helps.

use super::json::Value;

/// So much of a text is looked at.
const START_BYTES: usize = 8 << 10;
/// Characters that are shown of a text that is no JSON at all.
const MAX_SHOWN: usize = 40;

/// The beginning of a text, for [`hint`].
pub fn start(text: &str) -> String {
    text[..text.floor_char_boundary(START_BYTES)].to_owned()
}

/// What people should know of a file that was to be one JSON object, and was refused; `start` is its beginning.
pub fn hint(start: &str) -> Option<String> {
    let text = start.trim_start_matches('\u{feff}').trim_ascii_start();
    let first = text.lines().next().unwrap_or_default();
    if is_batch_line(first) {
        return Some("its lines are requests of a batch file: give it a name that ends in .jsonl".to_owned());
    }
    let is_json = text.is_empty() || text.starts_with(['{', '[']);
    let shown: String = first.chars().take(MAX_SHOWN).collect();
    (!is_json).then(|| format!("the file begins {shown:?}"))
}

/// Whether the first line of a batch file of so many lines is the start, or the whole, of one JSON object.
pub fn is_object_of_requests(first_line: &[u8], n_lines: usize) -> bool {
    let is_whole = || parsed(first_line).is_some_and(|value| value.get("requests").is_some());
    (first_line == b"{" && n_lines > 1) || is_whole()
}

fn is_batch_line(line: &str) -> bool {
    let value = parsed(line.trim_ascii().as_bytes());
    value.is_some_and(|value| value.get("body").is_some() && value.get("requests").is_none())
}

fn parsed(line: &[u8]) -> Option<Value<'_>> {
    let value = Value::parse(std::str::from_utf8(line).ok()?).ok()?;
    value.is_object().then_some(value)
}

#[cfg(test)]
mod tests {
    use crate::spool::wire::{Form, RequestFile, Stamp};

    #[test]
    fn each_form_is_told_from_the_other() {
        let line =
            r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}"#;
        let fault = |text: &str| RequestFile::parse(text.as_bytes().to_vec()).unwrap_err().message;
        for text in [format!("{line}\n{line}\n"), line.to_owned(), format!("\u{feff}{line}")] {
            assert!(fault(&text).ends_with("give it a name that ends in .jsonl"), "{}", fault(&text));
        }
        let page = fault("<!DOCTYPE html>\n<html></html>");
        assert_eq!(page, "not JSON: expected value at line 1 column 1; the file begins \"<!DOCTYPE html>\"");
        assert_eq!(fault("{\"requests\": [],\n}"), "not JSON: key must be a string at line 2 column 1");

        let stamp = || Stamp { name: String::new(), created: 0 };
        let of_lines = |text: &str| RequestFile::parse_as(text.as_bytes().to_vec(), Form::Lines(stamp()));
        for text in ["{\n \"requests\": []\n}", "{\"requests\": []}"] {
            let message = of_lines(text).unwrap_err().message;
            assert!(message.ends_with("give it a name that ends in .json"), "{message}");
        }
        assert!(of_lines(line).is_ok());
    }
}
