//! Text files to sequences of token ids: some to calibrate with, others held back to judge by.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::store::StoreError;
use crate::text::{Prompt, TextError, Tokenizer};
use crate::tools::ToolError;

/// The text that comes with the program, written for it.
const BUNDLED: &str = include_str!("../../data/calibration.txt");
/// Of so many sequences one is held back.
const HELD_EVERY: usize = 5;
/// More than that many held sequences tell nothing new.
const MAX_HELD: usize = 32;
/// Longest line of a file.
const MAX_LINE: u64 = 1 << 20;
/// Bytes of plain text that are tokenized at a time.
const CHUNK: usize = 1 << 16;
/// Fields of a JSON line that hold its text, the first that is there.
const FIELDS: [&str; 4] = ["completion", "text", "article", "content"];
/// Field of what comes before the text: read, but not judged.
const PROMPT: &str = "prompt";

/// A text for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// At least two.
    pub tokens: Vec<u32>,
    /// The first token that the model is judged by; at least 1, for nothing foretells the first.
    pub judged_from: usize,
}

/// What is read.
#[derive(Debug, Default)]
pub struct Texts {
    pub calibration: Vec<Sequence>,
    pub held: Vec<Sequence>,
}

impl Sequence {
    pub fn n_judged(&self) -> usize {
        self.tokens.len().saturating_sub(self.judged_from)
    }
}

/// How text becomes sequences.
pub struct Reader<'a> {
    pub tokenizer: &'a Tokenizer,
    /// What the tokenizer puts before each text.
    pub first: Option<u32>,
    pub sequence_len: usize,
    pub n_sequences: usize,
}

impl Reader<'_> {
    /// Reads the calibration text and what is held back: of another file, or of the same one, every fifth sequence or
    /// the last of a few.
    ///
    /// # Errors
    /// [`ToolError`] when a file cannot be read or tokenized, or there is too little text.
    pub fn read(&self, calibration: Option<&Path>, held: Option<&Path>) -> Result<Texts, ToolError> {
        let max_held = (self.n_sequences / (HELD_EVERY - 1)).clamp(1, MAX_HELD);
        let Some(held) = held else {
            let wanted = self.n_sequences + max_held;
            let mut texts = Texts::default();
            for (index, sequence) in self.sequences(calibration, wanted)?.into_iter().enumerate() {
                let is_held = index % HELD_EVERY == HELD_EVERY - 1 && texts.held.len() < max_held;
                if is_held { texts.held.push(sequence) } else { texts.calibration.push(sequence) }
            }
            if texts.held.is_empty() {
                texts.held.extend(texts.calibration.pop());
            }
            if texts.calibration.is_empty() {
                return Err(too_little(calibration, "has fewer sequences than 2"));
            }
            return Ok(texts);
        };
        let texts = Texts {
            calibration: self.sequences(calibration, self.n_sequences)?,
            held: self.sequences(Some(held), MAX_HELD.max(max_held))?,
        };
        match (texts.calibration.is_empty(), texts.held.is_empty()) {
            (true, _) => Err(too_little(calibration, "holds no text")),
            (_, true) => Err(too_little(Some(held), "holds no text")),
            _ => Ok(texts),
        }
    }

    fn sequences(&self, path: Option<&Path>, wanted: usize) -> Result<Vec<Sequence>, ToolError> {
        let mut found = Vec::new();
        let Some(path) = path else {
            self.add_plain(&mut BUNDLED.as_bytes(), Path::new("the bundled text"), wanted, &mut found)?;
            return Ok(found);
        };
        for path in files(path)? {
            let file = fs::File::open(&path).map_err(StoreError::io(&path, "open"))?;
            let mut file = BufReader::new(file);
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                self.add_lines(&mut file, &path, wanted, &mut found)?;
            } else {
                self.add_plain(&mut file, &path, wanted, &mut found)?;
            }
        }
        Ok(found)
    }

    /// Plain text: one stream of tokens, cut into full sequences.
    fn add_plain(
        &self,
        file: &mut impl BufRead,
        path: &Path,
        wanted: usize,
        found: &mut Vec<Sequence>,
    ) -> Result<(), ToolError> {
        let body = self.sequence_len - usize::from(self.first.is_some());
        let (mut text, mut tokens) = (String::new(), Vec::new());
        loop {
            let line = next_line(file, path)?;
            text.push_str(line.as_deref().unwrap_or_default());
            if text.len() >= CHUNK || line.is_none() {
                tokens.extend(self.encode(std::mem::take(&mut text), path)?);
            }
            while found.len() < wanted && (tokens.len() >= body || (line.is_none() && tokens.len() > 1)) {
                let rest = tokens.split_off(body.min(tokens.len()));
                let tokens = self.first.into_iter().chain(std::mem::replace(&mut tokens, rest)).collect();
                found.push(Sequence { tokens, judged_from: 1 });
            }
            if found.len() >= wanted || line.is_none() {
                return Ok(());
            }
        }
    }

    /// A JSON object in each line: a text of its own, cut off where it is too long.
    fn add_lines(
        &self,
        file: &mut impl BufRead,
        path: &Path,
        wanted: usize,
        found: &mut Vec<Sequence>,
    ) -> Result<(), ToolError> {
        let mut number = 0;
        while found.len() < wanted
            && let Some(line) = next_line(file, path)?
        {
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let object: Value = serde_json::from_str(&line).unwrap_or_default();
            let text = FIELDS.iter().find_map(|field| object.get(field)?.as_str());
            let text = text.ok_or_else(|| {
                let fields = FIELDS.join(", ");
                ToolError::Options(format!(
                    "{}: line {number} is no JSON object with text in one of {fields}",
                    path.display()
                ))
            })?;
            let mut tokens: Vec<u32> = self.first.into_iter().collect();
            if let Some(prompt) = object.get(PROMPT).and_then(Value::as_str) {
                tokens.extend(self.encode(prompt.to_owned(), path)?);
            }
            let judged_from = tokens.len().max(1);
            tokens.extend(self.encode(text.to_owned(), path)?);
            tokens.truncate(self.sequence_len);
            if tokens.len() > 1 {
                found.push(Sequence { tokens, judged_from });
            }
        }
        Ok(())
    }

    fn encode(&self, text: String, path: &Path) -> Result<Vec<u32>, ToolError> {
        let wrong = |source: TextError| ToolError::Tokenizer { path: path.to_owned(), source };
        self.tokenizer.encode(&Prompt::trusted(text).map_err(wrong)?).map_err(wrong)
    }
}

fn too_little(path: Option<&Path>, why: &str) -> ToolError {
    let name = path.map_or_else(|| "the bundled text".to_owned(), |path| path.display().to_string());
    ToolError::Options(format!("{name} {why}; give more text"))
}

/// The file itself, or the text files of a directory by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, ToolError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(StoreError::io(path, "read"))?;
    let is_text = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|extension| extension == "txt" || extension == "jsonl")
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_text).collect();
    files.sort();
    if files.is_empty() {
        return Err(ToolError::Options(format!("{} holds no .txt and no .jsonl file", path.display())));
    }
    Ok(files)
}

/// A line with its end; none at the end of the file.
fn next_line(file: &mut impl BufRead, path: &Path) -> Result<Option<String>, ToolError> {
    let mut bytes = Vec::new();
    file.take(MAX_LINE + 1).read_until(b'\n', &mut bytes).map_err(StoreError::io(path, "read"))?;
    if bytes.len() as u64 > MAX_LINE {
        let why = format!("{} has a line of more than {MAX_LINE} bytes", path.display());
        return Err(ToolError::Options(why));
    }
    let not_text = |_| StoreError::NotText { path: path.to_owned() };
    let line = String::from_utf8(bytes).map_err(not_text)?;
    Ok((!line.is_empty()).then_some(line))
}

/// The token that the tokenizer's post-processor puts before a text, as Llama's does.
pub fn first_token(tokenizer_json: &[u8]) -> Option<u32> {
    let tokenizer: Value = serde_json::from_slice(tokenizer_json).ok()?;
    let post = tokenizer.get("post_processor")?;
    let steps = post.get("processors").and_then(Value::as_array);
    let single = steps.into_iter().flatten().chain([post]).find_map(|step| step.get("single"))?;
    let name = single.get(0)?.get("SpecialToken")?.get("id")?.as_str()?;
    let added = tokenizer.get("added_tokens")?.as_array()?;
    let token = added.iter().find(|token| token.get("content").and_then(Value::as_str) == Some(name))?;
    u32::try_from(token.get("id")?.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/demo").join(path)
    }

    #[test]
    fn texts_become_sequences() {
        let tokenizer = Tokenizer::parse(&fs::read(demo("checkpoint/tokenizer.json")).unwrap()).unwrap();
        let reader = Reader { tokenizer: &tokenizer, first: Some(7), sequence_len: 20, n_sequences: 8 };
        let whole = reader.encode(BUNDLED.to_owned(), Path::new("")).unwrap();
        let texts = reader.read(None, None).unwrap();
        assert_eq!((texts.calibration.len(), texts.held.len()), (8, 2));
        let all = texts.calibration.iter().chain(&texts.held);
        assert!(all.clone().all(|sequence| sequence.tokens.len() == 20 && sequence.tokens[0] == 7));
        assert_eq!(texts.calibration[1].tokens[1..], whole[19..38]);
        assert_eq!(texts.held[0].tokens[1..], whole[4 * 19..5 * 19]);

        let folder = tempfile::tempdir().unwrap();
        let lines = folder.path().join("a.jsonl");
        fs::write(
            &lines,
            "{\"prompt\": \"Hello\", \"completion\": \" world\"}\n\n{\"text\": \"Hello world\"}",
        )
        .unwrap();
        let reader = Reader { first: None, ..reader };
        let found = reader.sequences(Some(folder.path()), 9).unwrap();
        let encode = |text: &str| reader.encode(text.to_owned(), Path::new("")).unwrap();
        assert_eq!(found[0].tokens, [encode("Hello"), encode(" world")].concat());
        assert_eq!(found[0].judged_from, encode("Hello").len());
        assert_eq!((&found[1].tokens, found[1].judged_from), (&encode("Hello world"), 1));
        for n_sequences in 1..4 {
            let texts = Reader { n_sequences, ..reader }.read(None, None).unwrap();
            assert_eq!((texts.calibration.len(), texts.held.len()), (n_sequences, 1));
        }
        fs::write(&lines, "{\"text\": \"Hello world\"}").unwrap();
        assert!(reader.read(Some(&lines), None).unwrap_err().to_string().contains("fewer sequences than 2"));
        fs::write(&lines, vec![b'a'; usize::try_from(MAX_LINE + 9).unwrap()]).unwrap();
        assert!(reader.read(Some(&lines), None).unwrap_err().to_string().contains("a line of more than"));
    }

    #[test]
    fn the_tokenizers_first_token() {
        let with = |post: &str| {
            let added = r#"[{"id": 5, "content": "<s>"}]"#;
            first_token(format!(r#"{{"added_tokens": {added}, "post_processor": {post}}}"#).as_bytes())
        };
        let template = r#"{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}}]}"#;
        assert_eq!(with(template), Some(5));
        assert_eq!(with(&format!(r#"{{"type": "Sequence", "processors": [{{}}, {template}]}}"#)), Some(5));
        assert_eq!(with(r#"{"single": [{"Sequence": {}}]}"#), None);
        assert_eq!(with("null"), None);
    }
}
