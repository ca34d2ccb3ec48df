//! A compiled tokenizer: vocabulary and merges as hash tables that are looked up where they lie, in mapped bytes.
//!
//! All numbers are little-endian. Opening checks the header and the small JSON part by checksum and the sections'
//! lengths by arithmetic; of the bulk nothing is read. Damage in the bulk gives wrong ids at worst: every lookup
//! is bounded in place and in steps.
//!
//! header [128] | merge slots [n x 16] | entries [(n_tokens + 1) x 8] | token slots [n x 4] | JSON | token texts

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::error::TextError;

/// Bytes and who keeps them alive, such as a map of a file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

const MAGIC: [u8; 8] = *b"jstokens";
/// Counts every change of the layout, the hashes or the meaning.
const VERSION: u32 = 2;
pub(super) const HEADER_LEN: usize = 128;
pub(super) const MERGE_LEN: usize = 16;
pub(super) const ENTRY_LEN: usize = 8;
pub(super) const SLOT_LEN: usize = 4;
/// Marks a slot without a token, and as its left id one without a merge: no id and no index is that high.
pub(super) const EMPTY: u32 = u32::MAX;

/// Which tokenizer.json a table was compiled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSource {
    pub n_bytes: u64,
    pub sha256: [u8; 32],
    /// CRC-32, which can be taken at every start: 10 MiB cost a millisecond, by SHA-256 up to forty.
    pub crc32: u32,
}

impl TableSource {
    pub(super) fn of(json: &[u8]) -> Self {
        Self { n_bytes: json.len() as u64, sha256: Sha256::digest(json).into(), crc32: crc32fast::hash(json) }
    }

    /// Whether the table was compiled from this file, as far as length and CRC-32 tell.
    pub fn is(&self, json: &[u8]) -> bool {
        self.n_bytes == json.len() as u64 && self.crc32 == crc32fast::hash(json)
    }
}

/// The first 128 bytes: what lies where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub source: TableSource,
    pub n_tokens: u32,
    /// A power of two, as the next.
    pub n_token_slots: u32,
    pub n_merge_slots: u32,
    /// Slots that the longest search looks at.
    pub max_token_probes: u32,
    pub max_merge_probes: u32,
    pub parts_len: u32,
    pub texts_len: u32,
    /// CRC-32 of the JSON.
    pub parts_sum: u32,
    /// CRC-32 of everything behind the header.
    pub body_sum: u32,
}

/// Byte ranges of the sections.
#[derive(Debug, Clone)]
struct Sections {
    merges: Range<usize>,
    entries: Range<usize>,
    slots: Range<usize>,
    parts: Range<usize>,
    texts: Range<usize>,
}

/// An opened table.
#[derive(Clone)]
pub(super) struct TokenTable {
    bytes: SharedBytes,
    header: Header,
    sections: Sections,
}

/// The table's sections, for lookups. Cheap to make and to copy.
#[derive(Clone, Copy)]
pub(super) struct TableView<'a> {
    header: &'a Header,
    merges: &'a [u8],
    entries: &'a [u8],
    slots: &'a [u8],
    texts: &'a [u8],
}

/// What two neighbours become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    pub rank: u32,
    pub id: u32,
}

impl TokenTable {
    /// # Errors
    /// `Table` for what is no table of this version, or a damaged one as far as header, lengths and JSON tell.
    pub fn open(bytes: SharedBytes) -> Result<Self, TextError> {
        let whole = (*bytes).as_ref();
        let header = Header::parse(whole)?;
        let sections = header.sections().filter(|sections| sections.texts.end == whole.len());
        let Some(sections) = sections else {
            return Err(wrong(format!("its sections do not fill its {} bytes", whole.len())));
        };
        if crc32fast::hash(&whole[sections.parts.clone()]) != header.parts_sum {
            return Err(wrong("the checksum of its JSON is wrong".to_owned()));
        }
        Ok(Self { bytes, header, sections })
    }

    pub fn source(&self) -> TableSource {
        self.header.source
    }

    /// Whether all bytes are as they were written. Reads the whole table.
    pub fn is_intact(&self) -> bool {
        let body = (*self.bytes).as_ref().get(HEADER_LEN..).unwrap_or_default();
        crc32fast::hash(body) == self.header.body_sum
    }

    pub fn n_tokens(&self) -> u32 {
        self.header.n_tokens
    }

    /// The JSON of a `PartsWire`.
    pub fn parts(&self) -> &[u8] {
        self.section(&self.sections.parts)
    }

    pub fn view(&self) -> TableView<'_> {
        TableView {
            header: &self.header,
            merges: self.section(&self.sections.merges),
            entries: self.section(&self.sections.entries),
            slots: self.section(&self.sections.slots),
            texts: self.section(&self.sections.texts),
        }
    }

    fn section(&self, range: &Range<usize>) -> &[u8] {
        (*self.bytes).as_ref().get(range.clone()).unwrap_or_default()
    }
}

impl<'a> TableView<'a> {
    /// The id of a token by its text.
    pub fn token_id(self, text: &str) -> Option<u32> {
        let mut slots = probes(hash_text(text), self.header.n_token_slots, self.header.max_token_probes);
        slots.find_map(|slot| match u32_at(self.slots, slot, SLOT_LEN, 0) {
            None | Some(EMPTY) => Some(None),
            Some(entry) if self.text_bytes(entry as usize) == Some(text.as_bytes()) => {
                Some(self.entry_id(entry as usize))
            }
            Some(_) => None,
        })?
    }

    /// The text of a token; of two with the same id, the first in byte order.
    pub fn text(self, id: u32) -> Option<&'a str> {
        std::str::from_utf8(self.text_bytes(self.entry_of(id)?)?).ok()
    }

    /// The texts of all tokens.
    pub fn texts(self) -> impl Iterator<Item = &'a str> {
        let entries = 0..self.header.n_tokens as usize;
        entries.filter_map(move |entry| std::str::from_utf8(self.text_bytes(entry)?).ok())
    }

    /// The highest id.
    pub fn highest_id(self) -> Option<u32> {
        self.entry_id((self.header.n_tokens as usize).checked_sub(1)?)
    }

    /// What the tokens `left` and `right` become.
    pub fn merge(self, left: u32, right: u32) -> Option<Merge> {
        let hash = hash_pair(left, right);
        let mut slots = probes(hash, self.header.n_merge_slots, self.header.max_merge_probes);
        slots.find_map(|slot| {
            let start = slot * MERGE_LEN;
            let Some(bytes) = self.merges.get(start..start + MERGE_LEN) else { return Some(None) };
            let [slot_left, slot_right, rank, id] = four_numbers(bytes);
            match (slot_left, slot_right) {
                _ if (slot_left, slot_right) == (left, right) => Some(Some(Merge { rank, id })),
                (EMPTY, _) => Some(None),
                _ => None,
            }
        })?
    }

    /// Where the entries, sorted by id, have this one: at the index of the same number unless ids are missing.
    fn entry_of(self, id: u32) -> Option<usize> {
        let n_tokens = self.header.n_tokens as usize;
        let is_at = |entry: usize| entry < n_tokens && self.entry_id(entry) == Some(id);
        let is_first = |entry: usize| entry == 0 || self.entry_id(entry - 1) != Some(id);
        if is_at(id as usize) && is_first(id as usize) {
            return Some(id as usize);
        }
        let (mut low, mut high) = (0, n_tokens);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry_id(middle)? < id {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        is_at(low).then_some(low)
    }

    fn entry_id(self, entry: usize) -> Option<u32> {
        u32_at(self.entries, entry, ENTRY_LEN, 0)
    }

    fn text_bytes(self, entry: usize) -> Option<&'a [u8]> {
        let start = u32_at(self.entries, entry, ENTRY_LEN, 4)? as usize;
        let end = u32_at(self.entries, entry.checked_add(1)?, ENTRY_LEN, 4)? as usize;
        self.texts.get(start..end)
    }
}

impl Header {
    /// The JSON's checksum is not checked here.
    fn parse(whole: &[u8]) -> Result<Self, TextError> {
        let Some(bytes) = whole.get(..HEADER_LEN).filter(|bytes| bytes.starts_with(&MAGIC)) else {
            return Err(wrong("it does not begin as a token table".to_owned()));
        };
        let word = |at: usize| u32_at(bytes, 0, 0, at).unwrap_or_default();
        if word(8) != VERSION {
            return Err(wrong(format!("it has version {}, wanted {VERSION}", word(8))));
        }
        if crc32fast::hash(&bytes[16..]) != word(12) {
            return Err(wrong("the checksum of its header is wrong".to_owned()));
        }
        let n_bytes = u64::from(word(16)) | u64::from(word(20)) << 32;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&bytes[24..56]);
        Ok(Self {
            source: TableSource { n_bytes, sha256, crc32: word(92) },
            n_tokens: word(56),
            n_token_slots: word(60),
            n_merge_slots: word(64),
            max_token_probes: word(68),
            max_merge_probes: word(72),
            parts_len: word(76),
            texts_len: word(80),
            parts_sum: word(84),
            body_sum: word(88),
        })
    }

    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.source.n_bytes.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.source.sha256);
        let words = [
            self.n_tokens,
            self.n_token_slots,
            self.n_merge_slots,
            self.max_token_probes,
            self.max_merge_probes,
            self.parts_len,
            self.texts_len,
            self.parts_sum,
            self.body_sum,
            self.source.crc32,
        ];
        for (word, place) in words.iter().zip(bytes[56..].chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let sum = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// None if the slots are no powers of two or the lengths do not fit a machine word.
    fn sections(&self) -> Option<Sections> {
        if !self.n_token_slots.is_power_of_two() || !self.n_merge_slots.is_power_of_two() {
            return None;
        }
        let mut end = HEADER_LEN;
        let mut section = |count: u32, item_len: usize, extra: usize| {
            let start = end;
            end = (count as usize).checked_add(extra)?.checked_mul(item_len)?.checked_add(start)?;
            Some(start..end)
        };
        Some(Sections {
            merges: section(self.n_merge_slots, MERGE_LEN, 0)?,
            entries: section(self.n_tokens, ENTRY_LEN, 1)?,
            slots: section(self.n_token_slots, SLOT_LEN, 0)?,
            parts: section(self.parts_len, 1, 0)?,
            texts: section(self.texts_len, 1, 0)?,
        })
    }
}

/// The slots to look at for a hash, in order: from its place on, around the end.
#[expect(clippy::cast_possible_truncation, reason = "the mask leaves less than 2^32")]
pub(super) fn probes(hash: u64, n_slots: u32, max_probes: u32) -> impl Iterator<Item = usize> {
    let mask = u64::from(n_slots).wrapping_sub(1);
    (0..u64::from(max_probes.min(n_slots))).map(move |step| (hash.wrapping_add(step) & mask) as usize)
}

/// Mixes all bits into the low ones (the finish of Steele and others, "Fast splittable pseudorandom number
/// generators").
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

pub(super) fn hash_text(text: &str) -> u64 {
    let start = text.len() as u64;
    text.as_bytes().chunks(8).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word)).wrapping_add(0x9E37_79B9_7F4A_7C15)
    })
}

pub(super) fn hash_pair(left: u32, right: u32) -> u64 {
    mix(u64::from(left) << 32 | u64::from(right))
}

/// The number at `offset` of item `idx`.
fn u32_at(bytes: &[u8], idx: usize, item_len: usize, offset: usize) -> Option<u32> {
    let start = idx.checked_mul(item_len)?.checked_add(offset)?;
    let four = bytes.get(start..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}

/// Four numbers of the 16 bytes of a merge.
fn four_numbers(bytes: &[u8]) -> [u32; 4] {
    [0, 4, 8, 12].map(|offset| u32_at(bytes, 0, 0, offset).unwrap_or(EMPTY))
}

pub(super) fn wrong(why: String) -> TextError {
    TextError::Table { why }
}
