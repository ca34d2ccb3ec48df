//! A quantized row.

/// A row as it is stored, but for int4, where a byte holds one code instead of those of two rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedRow {
    pub codes: Vec<u8>,
    /// The row's part of `weight_scale`; empty for fp8.
    pub scales: Vec<u8>,
}
