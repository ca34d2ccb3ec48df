//! The kinds of tensors that GGUF files have, as a table: number, name, elements and bytes of a block, decoder.
//!
//! Source: `ggml_type` and the block structures of ggml; `gguf.constants` of the Python package gguf.

use super::blocks::Codes;
use super::{blocks, super_blocks};

/// A kind of stored numbers. A row is whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockKind {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    Bf16,
}

struct Row {
    /// In the description of a tensor.
    id: u32,
    name: &'static str,
    block_len: usize,
    block_bytes: usize,
    /// One block to its elements.
    decode: fn(&[u8], &mut [f32]),
}

const fn row(
    id: u32,
    name: &'static str,
    (block_len, block_bytes): (usize, usize),
    decode: fn(&[u8], &mut [f32]),
) -> Row {
    Row { id, name, block_len, block_bytes, decode }
}

/// Kinds that exist and are not read, so that they can be named.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl BlockKind {
    pub const ALL: [BlockKind; 11] = [
        BlockKind::F32,
        BlockKind::F16,
        BlockKind::Bf16,
        BlockKind::Q8_0,
        BlockKind::Q4_0,
        BlockKind::Q4_1,
        BlockKind::Q5_0,
        BlockKind::Q5_1,
        BlockKind::Q4K,
        BlockKind::Q5K,
        BlockKind::Q6K,
    ];

    const fn row(self) -> Row {
        match self {
            BlockKind::F32 => row(0, "F32", (1, 4), blocks::f32),
            BlockKind::F16 => row(1, "F16", (1, 2), blocks::f16),
            BlockKind::Q4_0 => row(2, "Q4_0", (32, 18), blocks::q4_0),
            BlockKind::Q4_1 => row(3, "Q4_1", (32, 20), blocks::q4_1),
            BlockKind::Q5_0 => row(6, "Q5_0", (32, 22), blocks::q5_0),
            BlockKind::Q5_1 => row(7, "Q5_1", (32, 24), blocks::q5_1),
            BlockKind::Q8_0 => row(8, "Q8_0", (32, 34), blocks::q8_0),
            BlockKind::Q4K => row(12, "Q4_K", (256, 144), super_blocks::q4_k),
            BlockKind::Q5K => row(13, "Q5_K", (256, 176), super_blocks::q5_k),
            BlockKind::Q6K => row(14, "Q6_K", (256, 210), super_blocks::q6_k),
            BlockKind::Bf16 => row(30, "BF16", (1, 2), blocks::bf16),
        }
    }

    /// The kind of that number; else its name, or the number itself.
    ///
    /// # Errors
    /// What the kind is called that is not read.
    pub fn from_id(id: u32) -> Result<Self, String> {
        let found = BlockKind::ALL.into_iter().find(|kind| kind.row().id == id);
        found.ok_or_else(|| match OTHERS.iter().find(|(other, _)| *other == id) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("number {id}"),
        })
    }

    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements of a block.
    pub fn block_len(self) -> usize {
        self.row().block_len
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().block_bytes
    }

    /// Bytes of a row of `n_columns` elements; none where that is no number of blocks, or too many.
    pub fn row_bytes(self, n_columns: usize) -> Option<usize> {
        let row = self.row();
        let is_whole = n_columns.is_multiple_of(row.block_len);
        is_whole.then(|| (n_columns / row.block_len).checked_mul(row.block_bytes)).flatten()
    }

    /// The signed codes of a block and what they are multiplied with; none for a kind whose numbers are something else.
    /// `block` is as long as [`BlockKind::block_bytes`].
    pub fn scaled_codes(self, block: &[u8]) -> Option<(f32, Codes)> {
        let codes = match self {
            BlockKind::Q4_0 => blocks::q4_0_codes,
            BlockKind::Q8_0 => blocks::q8_0_codes,
            _ => return None,
        };
        Some((blocks::half_at(block, 0), codes(block)))
    }

    /// Decodes as many whole blocks as `bytes` and `out` both have.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let row = self.row();
        let blocks = bytes.chunks_exact(row.block_bytes).zip(out.chunks_exact_mut(row.block_len));
        blocks.for_each(|(block, values)| (row.decode)(block, values));
    }
}
