//! The merges of a SentencePiece vocabulary, which has scores instead: a piece is made of any two that make up its text,
//! pieces of a higher score first.
//!
//! Source: `generate_merges` of transformers' `convert_slow_tokenizer.py`; sentencepiece's `bpe_model.cc`.

use std::collections::HashMap;

/// `left` and `right` of each merge, in order of rank. `pieces` are texts with their scores, by id.
pub(super) fn merges_of_scores<'a>(pieces: &[(&'a str, f32)]) -> Vec<[&'a str; 2]> {
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().map(|(id, (text, _))| (*text, id)).collect();
    let mut merges: Vec<(f32, [&str; 2])> = Vec::new();
    for (text, score) in pieces {
        let first = merges.len();
        for (at, _) in text.char_indices().skip(1) {
            let parts = [&text[..at], &text[at..]];
            if parts.iter().all(|part| ids.contains_key(part)) {
                merges.push((*score, parts));
            }
        }
        merges[first..].sort_by_key(|(_, parts)| parts.map(|part| ids[part]));
    }
    let length = |parts: &[&str; 2]| parts.map(|part| part.chars().count());
    // Stable: pieces of one score stay in the order of their ids.
    merges.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| length(right).cmp(&length(left))));
    merges.into_iter().map(|(_, parts)| parts).collect()
}
