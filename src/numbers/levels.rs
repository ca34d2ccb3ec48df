//! Codes of four bits that stand for one of sixteen numbers: bitsandbytes' NF4 and FP4, `w = level * scale`.
//!
//! A scale is the largest magnitude of its block, so that levels go to 1. They are no multiples of one another: a product
//! with them is one of f32, not of codes. The sixteen stand in the engine beside the codes, where kernels find them.
//!
//! Source: `get_4bit_type` of bitsandbytes 0.50. NF4 is of Dettmers et al., "QLoRA" (2023), appendix E.

/// Sixteen numbers by their codes.
pub type LevelTable = [f32; 16];

/// Which sixteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Levels {
    /// Quantiles of a normal distribution.
    Nf4,
    /// A sign, and eight magnitudes.
    Fp4,
}

/// Digits as they are published.
#[expect(clippy::excessive_precision)]
const NF4: LevelTable = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

const FP4: LevelTable = {
    let twelfths = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut table = [0.0; 16];
    let mut code = 0;
    while code < 8 {
        table[code] = twelfths[code] / 12.0;
        table[code + 8] = 0.0 - table[code];
        code += 1;
    }
    table
};

impl Levels {
    pub const ALL: [Levels; 2] = [Levels::Nf4, Levels::Fp4];

    /// Those whose sixteen numbers these are, if any.
    pub fn of(numbers: &[f32]) -> Option<Self> {
        Self::ALL.into_iter().find(|levels| levels.table() == numbers)
    }

    pub fn table(self) -> &'static LevelTable {
        match self {
            Levels::Nf4 => &NF4,
            Levels::Fp4 => &FP4,
        }
    }

    /// As bitsandbytes calls them.
    pub fn name(self) -> &'static str {
        match self {
            Levels::Nf4 => "nf4",
            Levels::Fp4 => "fp4",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|levels| levels.name() == name)
    }
}
