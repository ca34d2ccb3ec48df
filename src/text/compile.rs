//! tokenizer.json to a token table. The same file always gives the same bytes.

use super::error::TextError;
use super::error::damaged;
use super::table::{
    EMPTY, ENTRY_LEN, HEADER_LEN, Header, MERGE_LEN, SLOT_LEN, TableSource, hash_pair, hash_text, probes,
};
use super::tokenizer_json::{MergeWire, ModelBulk, TokenizerWire};

/// The table of a tokenizer.json; `Tokenizer::open` checks the parts that the library reads.
///
/// # Errors
/// `Damaged` or `Unsupported`.
pub(super) fn compile(tokenizer_json: &[u8]) -> Result<Vec<u8>, TextError> {
    let (parts, bulk) = TokenizerWire::parse(tokenizer_json)?.into_parts()?;
    let prefix_len = parts.model.prefix.as_ref().map_or(0, String::len);
    let parts = serde_json::to_vec(&parts).map_err(|error| damaged(error.to_string()))?;
    let tokens = TokenSection::new(&bulk)?;
    let (merges, max_merge_probes) = merge_slots(&bulk, prefix_len)?;
    let body = [
        numbers(merges.iter().flatten()),
        numbers(tokens.entries.iter().flatten()),
        numbers(&tokens.slots),
        parts.clone(),
        tokens.texts.clone(),
    ]
    .concat();
    let header = Header {
        source: TableSource::of(tokenizer_json),
        n_tokens: size(tokens.entries.len() - 1)?,
        n_token_slots: size(tokens.slots.len())?,
        n_merge_slots: size(merges.len())?,
        max_token_probes: tokens.max_probes,
        max_merge_probes,
        parts_len: size(parts.len())?,
        texts_len: size(tokens.texts.len())?,
        parts_sum: crc32fast::hash(&parts),
        body_sum: crc32fast::hash(&body),
    };
    let mut table = Vec::with_capacity(HEADER_LEN + body.len());
    table.extend(header.to_bytes());
    table.extend(body);
    Ok(table)
}

/// The vocabulary by text and by id.
struct TokenSection {
    /// [n_tokens + 1]: id and where its text starts, by rising id; the last says where the last text ends.
    entries: Vec<[u32; ENTRY_LEN / 4]>,
    /// Indices into `entries` at the places of the texts' hashes.
    slots: Vec<u32>,
    max_probes: u32,
    texts: Vec<u8>,
}

impl TokenSection {
    fn new(bulk: &ModelBulk) -> Result<Self, TextError> {
        let mut tokens: Vec<(u32, &str)> = bulk.vocab.iter().map(|(text, &id)| (id, text.as_str())).collect();
        tokens.sort_unstable();
        let n_slots = n_slots(tokens.len())?;
        let mut section = Self {
            entries: Vec::with_capacity(tokens.len() + 1),
            slots: vec![EMPTY; n_slots as usize],
            max_probes: 0,
            texts: Vec::new(),
        };
        for (entry, (id, text)) in tokens.into_iter().enumerate() {
            section.entries.push([id, size(section.texts.len())?]);
            section.texts.extend(text.as_bytes());
            let mut places = probes(hash_text(text), n_slots, n_slots).zip(1..);
            let (slot, n_probes) =
                places.find(|&(slot, _)| section.slots[slot] == EMPTY).expect("slots are more than tokens");
            section.slots[slot] = size(entry)?;
            section.max_probes = section.max_probes.max(n_probes);
        }
        section.entries.push([EMPTY, size(section.texts.len())?]);
        Ok(section)
    }
}

/// [n_slots]: left id, right id, rank, merged id at the places of the pairs' hashes; and the longest search. Of two
/// merges of one pair the later holds, as in the library. `prefix_len` bytes of a right piece are its prefix.
fn merge_slots(bulk: &ModelBulk, prefix_len: usize) -> Result<(Vec<[u32; MERGE_LEN / 4]>, u32), TextError> {
    let id = |piece: &str| {
        let missing = || damaged(format!("merge with {piece:?}, which is not in the vocabulary"));
        bulk.vocab.get(piece).copied().ok_or_else(missing)
    };
    let n_slots = n_slots(bulk.merges.len())?;
    let mut slots = vec![[EMPTY; 4]; n_slots as usize];
    let mut max_probes = 0;
    for (rank, MergeWire(left, right)) in bulk.merges.iter().enumerate() {
        let merged = id(&[left, right.get(prefix_len..).unwrap_or_default()].concat())?;
        let (left, right) = (id(left)?, id(right)?);
        let mut places = probes(hash_pair(left, right), n_slots, n_slots).zip(1..);
        let is_free = |slot: usize| slots[slot][0] == EMPTY || slots[slot][..2] == [left, right];
        let (slot, n_probes) = places.find(|&(slot, _)| is_free(slot)).expect("slots are more than merges");
        slots[slot] = [left, right, size(rank)?, merged];
        max_probes = max_probes.max(n_probes);
    }
    Ok((slots, max_probes))
}

/// A power of two of which at most three quarters get used, and one stays empty.
fn n_slots(n_items: usize) -> Result<u32, TextError> {
    size((n_items + n_items / 3 + 1).next_power_of_two())
}

fn size(count: usize) -> Result<u32, TextError> {
    let too_large = |_| damaged(format!("{count} bytes or tokens are more than a table holds"));
    u32::try_from(count).map_err(too_large)
}

fn numbers<'a>(numbers: impl IntoIterator<Item = &'a u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(|number| number.to_le_bytes()).collect()
}

const _: () = assert!(SLOT_LEN == size_of::<u32>());
