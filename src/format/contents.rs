//! What the bytes of a file are, by their beginning: asked where they are not what they should be, so that people
//! are told what they have.
//!
//! Sources: git-lfs, docs/spec.md (pointers); safetensors, "Format"; docs/gguf.md of ggml; onnx.proto; PKZIP's
//! APPNOTE, 4.3.7; Python's pickle.py (PROTO); POSIX ustar.

use std::fmt;

use serde_json::Value;

/// So many bytes of a file are enough to know it: the longest header of a safetensors file that is read, and its
/// length.
pub const ENOUGH_BYTES: u64 = (8 << 20) + 8;
/// A longer text is a document, not what a server says.
const MAX_SAID: u64 = 4096;
/// Characters of a text that are shown.
const MAX_SHOWN: usize = 40;

/// Kinds of files that people give for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    Empty,
    /// Nothing but zeros at its beginning: room that a download has reserved.
    Zeros,
    /// What git leaves where git-lfs has not run; the bytes of the file that is meant.
    LfsPointer {
        n_bytes: u64,
    },
    /// HTML or XML.
    WebPage,
    Safetensors,
    /// A safetensors file without its end, or with part of its header; the bytes that are missing at the least.
    CutSafetensors {
        n_bytes: u64,
        n_missing: u64,
    },
    Gguf,
    Onnx,
    TensorRtEngine,
    /// What torch.save writes, in either of its forms.
    Pickle,
    Zip,
    Tar,
    /// gzip, zstd, xz or bzip2.
    Compressed,
    JsonObject,
    JsonArray,
    JsonLines,
    /// UTF-8 after the mark that only UTF-16 needs.
    ByteOrderMark,
    Utf16,
    /// A short text: what a server says in place of a file.
    Text {
        start: String,
    },
    Unknown,
}

impl Contents {
    /// Looks at the first bytes of a file of `n_bytes`: all of them, or [`ENOUGH_BYTES`].
    pub fn of(start: &[u8], n_bytes: u64) -> Self {
        if start.is_empty() {
            return Self::Empty;
        }
        // First, because a length may look like any other mark.
        safetensors(start, n_bytes)
            .or_else(|| by_mark(start))
            .or_else(|| by_text(start, n_bytes))
            .unwrap_or(Self::Unknown)
    }

    /// Whether it is a file that was not fetched, or not all of it.
    pub fn is_failed_download(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Zeros
                | Self::LfsPointer { .. }
                | Self::WebPage
                | Self::CutSafetensors { .. }
                | Self::Text { .. }
        )
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Empty => "an empty file",
            Self::Zeros => "a file of zeros",
            Self::LfsPointer { n_bytes } => {
                return write!(f, "a git-lfs pointer to a file of {n_bytes} bytes");
            }
            Self::WebPage => "a web page (HTML or XML), as a server sends it in place of a file",
            Self::Safetensors => "a safetensors file",
            Self::CutSafetensors { n_bytes, n_missing } => {
                return write!(
                    f,
                    "a safetensors file of {n_bytes} bytes without its end: {n_missing} bytes are missing"
                );
            }
            Self::Gguf => "a GGUF file",
            Self::Onnx => "an ONNX model",
            Self::TensorRtEngine => "an engine of TensorRT",
            Self::Pickle => "a pickle of PyTorch",
            Self::Zip => "a zip archive",
            Self::Tar => "a tar archive",
            Self::Compressed => "a compressed file",
            Self::JsonObject | Self::JsonArray => "JSON",
            Self::JsonLines => "JSON lines",
            Self::ByteOrderMark => "text that begins with a byte order mark (BOM)",
            Self::Utf16 => "UTF-16 text",
            Self::Text { start } => return write!(f, "a text that begins {start:?}"),
            Self::Unknown => "no file of a kind that is known here",
        };
        f.write_str(words)
    }
}

/// `{`, behind the length of the header.
fn safetensors(start: &[u8], n_bytes: u64) -> Option<Contents> {
    let (length, rest) = start.split_first_chunk::<8>()?;
    let header_len = u64::from_le_bytes(*length);
    if !(2..=ENOUGH_BYTES - 8).contains(&header_len) || !rest.starts_with(b"{") {
        return None;
    }
    let data_start = 8 + header_len;
    let cut = |wanted: u64| (wanted > n_bytes).then(|| wanted - n_bytes);
    if let Some(n_missing) = cut(data_start) {
        return Some(Contents::CutSafetensors { n_bytes, n_missing });
    }
    let header = usize::try_from(header_len).ok().and_then(|length| rest.get(..length))?;
    let header: Value = serde_json::from_slice(header).ok()?;
    let ends = header.as_object()?.values().filter_map(|entry| entry["data_offsets"][1].as_u64());
    let data_len = ends.max().unwrap_or(0);
    Some(match cut(data_start.saturating_add(data_len)) {
        Some(n_missing) => Contents::CutSafetensors { n_bytes, n_missing },
        None => Contents::Safetensors,
    })
}

fn by_mark(start: &[u8]) -> Option<Contents> {
    let (zip, is_torch) = (start.starts_with(b"PK\x03\x04"), || first_zip_name(start).ends_with(b"data.pkl"));
    Some(match start {
        _ if zip && is_torch() => Contents::Pickle,
        _ if zip => Contents::Zip,
        // The opcode PROTO and its number.
        [0x80, 2..=5, ..] => Contents::Pickle,
        [b'G', b'G', b'U', b'F', ..] => Contents::Gguf,
        [b'f' | b'p', b't', b'r', b't', ..] => Contents::TensorRtEngine,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            Contents::Compressed
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Contents::Compressed,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Contents::Utf16,
        [0xef, 0xbb, 0xbf, ..] => Contents::ByteOrderMark,
        // ir_version, then a field of ModelProto.
        [0x08, 3..=30, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42, ..] => Contents::Onnx,
        _ if start.get(257..262) == Some(b"ustar") => Contents::Tar,
        _ if start.iter().all(|byte| *byte == 0) => Contents::Zeros,
        _ => return None,
    })
}

/// The name of the first file in a zip archive.
fn first_zip_name(start: &[u8]) -> &[u8] {
    let length =
        start.get(26..28).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    start.get(30..30 + length).unwrap_or_default()
}

fn by_text(start: &[u8], n_bytes: u64) -> Option<Contents> {
    // A character may be cut where the bytes end.
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if let Some(pointer) = text.strip_prefix("version https://git-lfs.github.com/spec/") {
        let size = pointer.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse().ok());
        return Some(Contents::LfsPointer { n_bytes: size.unwrap_or(0) });
    }
    let text = text.trim_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if ["<!doctype", "<html", "<?xml", "<error"].into_iter().any(begins) {
        return Some(Contents::WebPage);
    }
    match text.bytes().next() {
        Some(b'[') => return Some(Contents::JsonArray),
        Some(b'{') if is_lines(text) => return Some(Contents::JsonLines),
        Some(b'{') => return Some(Contents::JsonObject),
        _ => {}
    }
    let is_said = n_bytes <= MAX_SAID && !text.is_empty() && !text.contains('\0');
    is_said.then(|| Contents::Text {
        start: text.lines().next().unwrap_or("").chars().take(MAX_SHOWN).collect(),
    })
}

/// Whether the first line is an object, and another one follows.
fn is_lines(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let is_object = |line: &str| serde_json::from_str::<serde_json::Map<String, Value>>(line).is_ok();
    lines.next().is_some_and(is_object) && lines.next().is_some_and(|line| line.trim_start().starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Contents {
        Contents::of(bytes, bytes.len() as u64)
    }

    #[test]
    fn files_are_known_by_their_beginning() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\
             258daaa5e2ca24d17e2393\nsize 988097824\n";
        // Python's zipfile with a file of the name that torch.save gives its first one.
        let torch =
            b"PK\x03\x04\x14\0\0\0\0\0\0\0!\0\x83\x16\xdc\x8c\x01\0\0\0\x01\0\0\0\x10\0\0\0archive/data.pklx";
        let mut tar = vec![b'a'; 257];
        tar.extend(b"ustar\x0000");
        let cases: [(&[u8], Contents); 24] = [
            (b"", Contents::Empty),
            (&[0; 100], Contents::Zeros),
            (pointer.as_bytes(), Contents::LfsPointer { n_bytes: 988_097_824 }),
            (b"<!DOCTYPE html>\n<html>", Contents::WebPage),
            (b"\n<html lang=en>", Contents::WebPage),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", Contents::WebPage),
            (b"GGUF\x03\0\0\0", Contents::Gguf),
            (torch, Contents::Pickle),
            (b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0a.txt", Contents::Zip),
            // pickle.dumps({"a": 1}), and the start of what torch.save wrote before 1.6.
            (b"\x80\x04\x95\n\0\0\0\0\0\0\0}\x94\x8c\x01a\x94K\x01s.", Contents::Pickle),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", Contents::Pickle),
            (&tar, Contents::Tar),
            (b"\x1f\x8b\x08\0", Contents::Compressed),
            (b"ftrt\0\0\0\0", Contents::TensorRtEngine),
            // onnx.helper.make_model of an empty graph, with and without a producer.
            (b"\x08\x0e\x12\x07pytorch:\x03\x12\x01gB\x02\x10\x1c", Contents::Onnx),
            (b"\x08\x0e:\x03\x12\x01gB\x02\x10\x1c", Contents::Onnx),
            (b"{\"a\": 1}", Contents::JsonObject),
            (b"{\"a\": 1}\n{\"a\": 2}\n", Contents::JsonLines),
            (b"{\n \"a\": 1\n}\n", Contents::JsonObject),
            (b"[1]", Contents::JsonArray),
            (b"\xef\xbb\xbf{}", Contents::ByteOrderMark),
            (b"\xff\xfe{\0}\0", Contents::Utf16),
            (
                b"Invalid username or password.",
                Contents::Text { start: "Invalid username or password.".into() },
            ),
            (b"\x01\x02\xff\x03", Contents::Unknown),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(of(bytes), wanted, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_cut_file_says_how_much_is_missing() {
        let tensors =
            [("a", safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![5], &[0; 20]))];
        let tensors = tensors.map(|(name, view)| (name, view.unwrap()));
        let whole = safetensors::serialize(tensors, None).unwrap();
        assert_eq!(of(&whole), Contents::Safetensors);
        for n_bytes in 9..whole.len() {
            let Contents::CutSafetensors { n_missing, .. } = of(&whole[..n_bytes]) else {
                panic!("{n_bytes}")
            };
            let end = if n_bytes < whole.len() - 20 { whole.len() - 20 } else { whole.len() };
            assert_eq!(n_missing, (end - n_bytes) as u64, "{n_bytes}");
        }
    }
}
