//! Blocks of GGUF files that engines keep with their own codes, scales and minima: `w = scale * code + offset` per 32,
//! codes of four or five bits, and Q6_K, `w = scale * (code - 32)` per 16.
//!
//! They are kinds of their own beside [`Kind::Affine`](super::Kind), which has scale and minimum per 32 too: its factors
//! are of rows and multiply a finished sum, those of K blocks are of 256 inputs and two bytes wide. One kind for both
//! would give engines of `--precision int4` larger factors and another order of sums, and so other answers.
//!
//! All products of scales and codes have few enough bits to be exact in f32, so a weight has one rounding, that of the
//! sum with its offset: the bits of ggml's own code. The six bits of a scale of Q4_K and Q5_K take a byte here, which is
//! 0.125 bits a weight more than in the file, and saves their unpacking in every product.

use safetensors::Dtype;

use super::gguf::BlockKind;
use super::tiles::TILE_ROWS;

/// Elements that share a scale and an offset.
pub const KEPT_GROUP: usize = 32;
/// Elements that share a scale of Q6_K.
pub const Q6_K_GROUP: usize = 16;
/// Elements that share the factors of their scales.
pub const SUPER_BLOCK: usize = 256;
/// The code of Q5_0 that means 0.
pub const Q5_0_MIDDLE: u8 = 16;
/// The code of Q6_K that means 0.
pub const Q6_K_MIDDLE: u8 = 32;

/// What is kept; `t` is the number of tiles, and the weights are U8 `[t, stride / 32, bits, 16, 4]`, as
/// [`Weave::Planes`](super::tiles::Weave) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeptBlocks {
    /// F16 `[t, stride / 32, 2, 16]` named `X.weight_scale`: scales and offsets.
    Q4_1,
    /// F16 `[t, stride / 32, 16]` named `X.weight_scale`: scales; offsets are -16 times them.
    Q5_0,
    /// As [`KeptBlocks::Q4_1`].
    Q5_1,
    /// U8 `[t, stride / 32, 2, 16]` named `X.weight_scale`: scales and minima of six bits; F16
    /// `[t, stride / 256, 2, 16]` named `X.weight_scale_2`: what scales are multiplied with, and what minima are to become
    /// offsets.
    Q4K,
    /// As [`KeptBlocks::Q4K`].
    Q5K,
    /// I8 `[t, stride / 16, 16]` named `X.weight_scale`, F16 `[t, stride / 256, 16]` named `X.weight_scale_2`; 32 is the
    /// code that means 0.
    Q6K,
}

impl KeptBlocks {
    /// How blocks of a file are kept, where it is as one of these.
    pub fn of(kind: BlockKind) -> Option<Self> {
        match kind {
            BlockKind::Q4_1 => Some(Self::Q4_1),
            BlockKind::Q5_0 => Some(Self::Q5_0),
            BlockKind::Q5_1 => Some(Self::Q5_1),
            BlockKind::Q4K => Some(Self::Q4K),
            BlockKind::Q5K => Some(Self::Q5K),
            BlockKind::Q6K => Some(Self::Q6K),
            _ => None,
        }
    }

    /// Of a code.
    pub fn bits(self) -> usize {
        match self {
            Self::Q4_1 | Self::Q4K => 4,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 5,
            Self::Q6K => 6,
        }
    }

    /// As the file's format calls them, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Bytes of a scale.
    pub fn scale_bytes(self) -> usize {
        if self.has_super_blocks() { 1 } else { 2 }
    }

    /// Whether scales have factors beside them, so that a row is whole blocks of 256.
    pub fn has_super_blocks(self) -> bool {
        matches!(self, Self::Q4K | Self::Q5K | Self::Q6K)
    }

    /// Which blocks a matrix of codes of so many bits has, by its scales: their type and the number of their dimensions.
    pub fn recognize(bits: usize, scale: Dtype, n_dimensions: usize) -> Option<Self> {
        match (bits, scale, n_dimensions) {
            (4, Dtype::F16, _) => Some(Self::Q4_1),
            (5, Dtype::F16, 3) => Some(Self::Q5_0),
            (5, Dtype::F16, _) => Some(Self::Q5_1),
            (4, Dtype::U8, _) => Some(Self::Q4K),
            (5, Dtype::U8, _) => Some(Self::Q5K),
            (6, Dtype::I8, _) => Some(Self::Q6K),
            _ => None,
        }
    }

    /// Types and shapes of a matrix's tensors behind the number of tiles: codes, scales, factors of scales. `stride` is
    /// the length of a stored row.
    pub fn tensors(self, stride: usize) -> Vec<(Dtype, Vec<usize>)> {
        let (n_groups, n_super) = (stride / KEPT_GROUP, stride / SUPER_BLOCK);
        let codes = (Dtype::U8, vec![n_groups, self.bits(), TILE_ROWS, 4]);
        let pairs = vec![n_groups, 2, TILE_ROWS];
        match self {
            Self::Q4_1 | Self::Q5_1 => vec![codes, (Dtype::F16, pairs)],
            Self::Q5_0 => vec![codes, (Dtype::F16, vec![n_groups, TILE_ROWS])],
            Self::Q4K | Self::Q5K => {
                vec![codes, (Dtype::U8, pairs), (Dtype::F16, vec![n_super, 2, TILE_ROWS])]
            }
            Self::Q6K => {
                let scales = vec![stride / Q6_K_GROUP, TILE_ROWS];
                vec![codes, (Dtype::I8, scales), (Dtype::F16, vec![n_super, TILE_ROWS])]
            }
        }
    }
}
