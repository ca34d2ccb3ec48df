//! Byte-pair merges over a token table: the tokens that the tokenizers library makes of a piece of text, and in its
//! order (its `Word::merge_all`): the lowest rank first, of equal ones the leftmost.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::table::{Merge, TableView};
use super::tokenizer_json::ModelOptions;

/// Words up to this many bytes are remembered during one text.
const MAX_REMEMBERED_BYTES: usize = 64;
const MAX_REMEMBERED_WORDS: usize = 8192;

/// The model's options, ready to use.
#[derive(Debug, Clone)]
pub(super) struct Bpe {
    options: ModelOptions,
    /// [256]: tokens of single bytes; none without byte fallback.
    byte_ids: Option<Box<[Option<u32>; 256]>>,
}

/// Turns the pieces of one text into ids.
pub(super) struct PieceEncoder<'a> {
    bpe: &'a Bpe,
    table: TableView<'a>,
    /// Where in `remembered_ids` the tokens of a word stand.
    remembered: HashMap<String, Range<usize>>,
    remembered_ids: Vec<u32>,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

/// A token of a piece, linked to its neighbours by their indices.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    /// Merged into one before it.
    is_gone: bool,
    previous: Option<usize>,
    next: Option<usize>,
}

/// A merge that is possible when it is queued; ordered by rank, then by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    id: u32,
}

impl Bpe {
    pub fn new(options: ModelOptions, table: TableView) -> Self {
        let byte_ids = options.byte_fallback.then(|| {
            let byte_id = |byte: usize| table.token_id(&format!("<0x{byte:02X}>"));
            Box::new(std::array::from_fn(byte_id))
        });
        Self { options, byte_ids }
    }

    /// For the pieces of one text.
    pub fn encoder<'a>(&'a self, table: TableView<'a>) -> PieceEncoder<'a> {
        PieceEncoder {
            bpe: self,
            table,
            remembered: HashMap::new(),
            remembered_ids: Vec::new(),
            symbols: Vec::new(),
            queue: BinaryHeap::new(),
        }
    }
}

impl PieceEncoder<'_> {
    /// Appends the tokens of a piece; a character that has none and no unknown token is left out.
    pub fn encode(&mut self, piece: &str, ids: &mut Vec<u32>) {
        if self.bpe.options.ignore_merges
            && let Some(id) = self.table.token_id(piece)
        {
            ids.push(id);
            return;
        }
        if let Some(range) = self.remembered.get(piece) {
            ids.extend(&self.remembered_ids[range.clone()]);
            return;
        }
        self.split(piece);
        self.merge_all();
        let start = ids.len();
        ids.extend(self.symbols.iter().filter(|symbol| !symbol.is_gone).map(|symbol| symbol.id));
        if piece.len() <= MAX_REMEMBERED_BYTES && self.remembered.len() < MAX_REMEMBERED_WORDS {
            let remembered_start = self.remembered_ids.len();
            self.remembered_ids.extend(&ids[start..]);
            self.remembered.insert(piece.to_owned(), remembered_start..self.remembered_ids.len());
        }
    }

    /// Fills `symbols` with the tokens of single characters.
    fn split(&mut self, piece: &str) {
        self.symbols.clear();
        let options = &self.bpe.options;
        let mut is_unknown_waiting = false;
        let mut dressed = String::new();
        for (start, character) in piece.char_indices() {
            let end = start + character.len_utf8();
            let prefix = options.prefix.as_deref().filter(|_| start > 0);
            let suffix = options.suffix.as_deref().filter(|_| end == piece.len());
            let text = if prefix.is_none() && suffix.is_none() {
                &piece[start..end]
            } else {
                dressed.clear();
                dressed.extend([prefix.unwrap_or_default(), &piece[start..end], suffix.unwrap_or_default()]);
                dressed.as_str()
            };
            if let Some(id) = self.table.token_id(text) {
                if is_unknown_waiting && let Some(unknown) = options.unknown_id {
                    self.symbols.push(Symbol::new(unknown));
                }
                is_unknown_waiting = false;
                self.symbols.push(Symbol::new(id));
            } else if let Some(ids) = self.bpe.fallback(text) {
                // As in the library, in front of unknown characters that wait for the next known one.
                self.symbols.extend(ids.into_iter().map(Symbol::new));
            } else if let Some(unknown) = options.unknown_id {
                if is_unknown_waiting && !options.fuse_unknown {
                    self.symbols.push(Symbol::new(unknown));
                }
                is_unknown_waiting = true;
            }
        }
        if is_unknown_waiting && let Some(unknown) = options.unknown_id {
            self.symbols.push(Symbol::new(unknown));
        }
        let n_symbols = self.symbols.len();
        for (symbol_idx, symbol) in self.symbols.iter_mut().enumerate() {
            symbol.previous = symbol_idx.checked_sub(1);
            symbol.next = Some(symbol_idx + 1).filter(|&next| next < n_symbols);
        }
    }

    /// Merges neighbours until none can be. Every merge takes one symbol away and queues two candidates at most.
    fn merge_all(&mut self) {
        let mut candidates = std::mem::take(&mut self.queue).into_vec();
        candidates.clear();
        let pairs = self.symbols.windows(2).enumerate();
        candidates.extend(pairs.filter_map(|(left, pair)| {
            let Merge { rank, id } = self.table.merge(pair[0].id, pair[1].id)?;
            Some(Reverse(Candidate { rank, left, id }))
        }));
        self.queue = candidates.into();
        while let Some(Reverse(candidate)) = self.queue.pop() {
            self.merge(candidate);
        }
    }

    /// Merges what a candidate names, unless one of its two has gone or changed.
    fn merge(&mut self, candidate: Candidate) {
        let left = self.symbols[candidate.left];
        let Some(right_idx) = left.next.filter(|_| !left.is_gone) else { return };
        let right = self.symbols[right_idx];
        if self.table.merge(left.id, right.id).is_none_or(|merge| merge.id != candidate.id) {
            return;
        }
        self.symbols[right_idx].is_gone = true;
        self.symbols[candidate.left] = Symbol { id: candidate.id, next: right.next, ..left };
        if let Some(next) = right.next {
            self.symbols[next].previous = Some(candidate.left);
        }
        for (left, right) in [(left.previous, Some(candidate.left)), (Some(candidate.left), right.next)] {
            let (Some(left), Some(right)) = (left, right) else { continue };
            let merge = self.table.merge(self.symbols[left].id, self.symbols[right].id);
            self.queue.extend(merge.map(|Merge { rank, id }| Reverse(Candidate { rank, left, id })));
        }
    }
}

impl Bpe {
    /// The tokens of all bytes of a text, if all have one.
    fn fallback(&self, text: &str) -> Option<Vec<u32>> {
        let byte_ids = self.byte_ids.as_ref()?;
        text.bytes().map(|byte| byte_ids[usize::from(byte)]).collect()
    }
}

impl Symbol {
    fn new(id: u32) -> Self {
        Self { id, is_gone: false, previous: None, next: None }
    }
}
