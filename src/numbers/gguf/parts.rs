//! Blocks of one row taken apart: codes one per byte, scales and what belongs to them as engines keep them.

use half::f16;

use super::blocks;
use super::kind::BlockKind;
use super::super_blocks::{self, scale_and_minimum};

/// Parts of a block of Q4_K and Q5_K that have a scale and a minimum.
const N_PARTS: usize = 8;

/// A row of blocks, taken apart. What it holds of each kind is told by [`KeptBlocks`](crate::numbers::KeptBlocks).
#[derive(Default)]
pub struct RowParts {
    /// A code per byte, as the file has them: without a sign.
    pub codes: Vec<u8>,
    /// Scales, or pairs of a scale and an offset or minimum.
    pub scales: Vec<u8>,
    /// Factors of the scales of 256 elements, little-endian f16; before those of minima, which are negated.
    pub factors: Vec<u8>,
}

impl RowParts {
    /// Appends a block. The error is a scale that is no number.
    ///
    /// # Panics
    /// For a kind whose blocks are not kept, and a block of another length.
    pub fn push(&mut self, kind: BlockKind, block: &[u8]) -> Result<(), f32> {
        assert_eq!(block.len(), kind.block_bytes());
        let all = 0..kind.block_len();
        match kind {
            BlockKind::Q4_1 => {
                self.scales.extend(numbers::<4>(block)?);
                self.codes.extend(all.map(|at| blocks::nibble(&block[4..], at)));
            }
            BlockKind::Q5_0 => {
                self.scales.extend(numbers::<2>(block)?);
                self.codes.extend(all.map(|at| blocks::five_bits(&block[2..], at)));
            }
            BlockKind::Q5_1 => {
                self.scales.extend(numbers::<4>(block)?);
                self.codes.extend(all.map(|at| blocks::five_bits(&block[4..], at)));
            }
            BlockKind::Q4K => {
                self.push_lines(block)?;
                self.codes.extend(all.map(|at| super_blocks::q4_k_code(block, at)));
            }
            BlockKind::Q5K => {
                self.push_lines(block)?;
                self.codes.extend(all.map(|at| super_blocks::q5_k_code(block, at)));
            }
            BlockKind::Q6K => {
                self.factors.extend(numbers::<2>(&block[208..])?);
                self.scales.extend(&block[192..208]);
                self.codes.extend(all.map(|at| super_blocks::q6_k_code(block, at)));
            }
            _ => panic!("{} is not taken apart", kind.name()),
        }
        Ok(())
    }

    /// Scales, minima and factors of Q4_K and Q5_K.
    fn push_lines(&mut self, block: &[u8]) -> Result<(), f32> {
        let [d_low, d_high, minimum_low, minimum_high] = numbers(block)?;
        // What is taken off there is added here.
        self.factors.extend([d_low, d_high, minimum_low, minimum_high ^ 0x80]);
        self.scales.extend((0..N_PARTS).flat_map(|part| {
            let (scale, minimum) = scale_and_minimum(&block[4..16], part);
            [scale, minimum]
        }));
        Ok(())
    }
}

/// F16 that are finite, as they are.
fn numbers<const N: usize>(bytes: &[u8]) -> Result<[u8; N], f32> {
    let bytes: [u8; N] = std::array::from_fn(|i| bytes[i]);
    let mut halves = bytes.as_chunks().0.iter().map(|two| f16::from_le_bytes(*two).to_f32());
    halves.find(|number| !number.is_finite()).map_or(Ok(bytes), Err)
}
