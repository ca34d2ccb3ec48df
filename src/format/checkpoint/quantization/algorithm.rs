//! How the weights of a module are stored in a quantized checkpoint.

use crate::numbers::{Levels, Precision};

/// The layout of a module's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// E4M3 with one scale for the matrix, or one for each output.
    Fp8,
    /// E4M3; `[outputs, inputs]` of such a block share a scale.
    Fp8Blocks([usize; 2]),
    Mxfp8,
    Nvfp4,
    /// compressed-tensors' NVFP4: the same numbers under other names, and the outer scale divides.
    PackedNvfp4,
    /// ModelOpt's `W4A16_AWQ`; `group` inputs share a scale.
    Int4Awq {
        group: usize,
    },
    /// Whole numbers of eight bits, a scale for each output or for the matrix: `W8A8_SQ_PER_CHANNEL`, and
    /// compressed-tensors' `int-quantized`.
    Int8,
    /// AutoAWQ.
    Awq {
        group: usize,
    },
    Gptq(Gptq),
    /// compressed-tensors' `pack-quantized`.
    Packed(Packed),
    /// bitsandbytes' four bits; all else stands beside each weight.
    Levels(Levels),
}

/// Bits of a code that words hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    Four,
    Eight,
}

/// What a GPTQ checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gptq {
    pub bits: Bits,
    /// None: a row is one group.
    pub group: Option<usize>,
    /// Added to the stored zeros: 1 in the first version of the layout, 0 in the second.
    pub zero_offset: u8,
    pub is_symmetric: bool,
}

/// What compressed-tensors says of packed weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub bits: Bits,
    /// None: a row is one group.
    pub group: Option<usize>,
    /// The middle of the codes is zero; else zeros are stored.
    pub is_symmetric: bool,
}

impl Bits {
    /// Codes in a word of 32 bits.
    pub const fn per_word(self) -> usize {
        match self {
            Bits::Four => 8,
            Bits::Eight => 4,
        }
    }

    fn precision(self) -> Precision {
        match self {
            Bits::Four => Precision::Int4,
            Bits::Eight => Precision::Int8,
        }
    }
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Fp8 => "fp8",
            Algorithm::Fp8Blocks(_) => "fp8 in blocks",
            Algorithm::Mxfp8 => "mxfp8",
            Algorithm::Nvfp4 | Algorithm::PackedNvfp4 => "nvfp4",
            Algorithm::Int4Awq { .. } => "int4_awq",
            Algorithm::Int8 => "int8_sq",
            Algorithm::Awq { .. } => "awq",
            Algorithm::Gptq(_) => "gptq",
            Algorithm::Packed(Packed { bits: Bits::Four, .. }) => "packed int4",
            Algorithm::Packed(Packed { bits: Bits::Eight, .. }) => "packed int8",
            Algorithm::Levels(levels) => levels.name(),
        }
    }

    /// The precision that `build` names so, if there is one.
    pub fn precision(self) -> Option<Precision> {
        match self {
            Algorithm::Int4Awq { .. } | Algorithm::Awq { .. } => Some(Precision::Int4),
            Algorithm::Gptq(Gptq { bits, .. }) | Algorithm::Packed(Packed { bits, .. }) => {
                Some(bits.precision())
            }
            Algorithm::Int8 => Some(Precision::Int8),
            Algorithm::Fp8
            | Algorithm::Fp8Blocks(_)
            | Algorithm::Mxfp8
            | Algorithm::Nvfp4
            | Algorithm::PackedNvfp4
            | Algorithm::Levels(_) => None,
        }
    }
}
