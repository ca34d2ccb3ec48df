//! How an engine's matrices are stored: the precisions that `build` offers, rows, and groups of scales.

use std::fmt;
use std::str::FromStr;

/// Rows are padded to a multiple of this many elements.
pub const ROW_ALIGN: usize = 32;

/// How `build` stores matrices; what each is stored as is told by [`Kind`](super::Kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    F32,
    F16,
    /// `q` in -127..=127, one f32 scale a row.
    Int8,
    /// `q` in 0..=15, blocks of 32 with a scale and a minimum each.
    Int4,
    /// As the checkpoint has it quantized, the rest f16, tables as int8. A plain checkpoint: f16.
    Stored,
}

impl Precision {
    /// Those that fit every checkpoint.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::F16, Precision::Int8, Precision::Int4];

    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Int8 => "int8",
            Precision::Int4 => "int4",
            Precision::Stored => "stored",
        }
    }

    /// How the embedding table and an untied head are stored in an engine of this precision.
    pub fn of_table(self) -> Precision {
        match self {
            Precision::Int4 | Precision::Stored => Precision::Int8,
            other => other,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no precision has.
///
/// ```
/// use jetspool::numbers::Precision;
///
/// assert_eq!("int4".parse(), Ok(Precision::Int4));
/// let error = "int3".parse::<Precision>().expect_err("no precision");
/// assert!(error.to_string().contains("supported: f32, f16, int8, int4"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("precision is not supported: {0}; supported: f32, f16, int8, int4, stored")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        let mut all = Precision::ALL.into_iter().chain([Precision::Stored]);
        all.find(|precision| precision.name() == text).ok_or_else(|| UnknownPrecision(text.to_owned()))
    }
}

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvCacheDtype {
    /// f32 for engines of f32, f16 for all others.
    #[default]
    Auto,
    F32,
    F16,
    /// Codes of eight bits; each head of a position has a scale for its key and one for its value.
    Int8,
}

impl KvCacheDtype {
    pub const ALL: [KvCacheDtype; 4] =
        [KvCacheDtype::Auto, KvCacheDtype::F32, KvCacheDtype::F16, KvCacheDtype::Int8];

    pub fn name(self) -> &'static str {
        match self {
            KvCacheDtype::Auto => "auto",
            KvCacheDtype::F32 => "f32",
            KvCacheDtype::F16 => "f16",
            KvCacheDtype::Int8 => "int8",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

/// Elements of a stored row of `in_features` logical elements.
pub fn row_stride(in_features: usize) -> usize {
    in_features.next_multiple_of(ROW_ALIGN)
}

/// `X.weight` to `X.weight_scale`.
pub fn scale_name(weight: &str) -> String {
    format!("{weight}_scale")
}
