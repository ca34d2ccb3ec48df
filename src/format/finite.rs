//! Values that are no numbers: NaN and the infinities, which a sound adapter has nowhere.

use half::{bf16, f16};
use safetensors::Dtype;

use super::{FormatError, TensorFile};
use crate::numbers::round_to_f32;

/// Bytes that are looked at as one before any is looked at alone.
const BLOCK: usize = 2 << 10;

/// The index of the first element that is no finite number, and what it is. Types without such values have none.
pub fn first_not_finite(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    match dtype {
        Dtype::F16 => {
            first(bytes, |e| u16::from_le_bytes(e) & 0x7c00 == 0x7c00, |e| f16::from_le_bytes(e).to_f32())
        }
        Dtype::BF16 => {
            first(bytes, |e| u16::from_le_bytes(e) & 0x7f80 == 0x7f80, |e| bf16::from_le_bytes(e).to_f32())
        }
        Dtype::F32 => {
            first(bytes, |e| u32::from_le_bytes(e) & 0x7f80_0000 == 0x7f80_0000, f32::from_le_bytes)
        }
        Dtype::F64 => {
            first(bytes, |e| !f64::from_le_bytes(e).is_finite(), |e| round_to_f32(f64::from_le_bytes(e)))
        }
        _ => None,
    }
}

/// Whole blocks first, without a branch in them: the compiler makes vectors of that.
fn first<const N: usize>(
    bytes: &[u8],
    is_bad: impl Fn([u8; N]) -> bool + Copy,
    value: impl Fn([u8; N]) -> f32,
) -> Option<(usize, f32)> {
    let elements = |block_idx: usize, block: &[u8]| {
        block
            .as_chunks::<N>()
            .0
            .iter()
            .copied()
            .enumerate()
            .find(|&(_, element)| is_bad(element))
            .map(|(element_idx, element)| (block_idx * (BLOCK / N) + element_idx, value(element)))
    };
    bytes.chunks(BLOCK).enumerate().find_map(|(block_idx, block)| {
        let any = block.as_chunks::<N>().0.iter().fold(false, |any, &element| any | is_bad(element));
        if any { elements(block_idx, block) } else { None }
    })
}

/// Looks through a file of f16 tensors, an adapter's, as its bytes come by.
pub struct FiniteCheck<'a> {
    file: &'a TensorFile,
}

impl<'a> FiniteCheck<'a> {
    pub fn new(file: &'a TensorFile) -> Self {
        Self { file }
    }

    /// Looks at bytes of the file from `offset` on, which is even, as the start of the data is.
    ///
    /// # Errors
    /// [`FormatError::NotFinite`] with the tensor's name.
    pub fn look(&self, offset: usize, piece: &[u8]) -> Result<(), FormatError> {
        let n_header = self.file.data_start().saturating_sub(offset).min(piece.len());
        let Some((index, found)) = first_not_finite(Dtype::F16, &piece[n_header..]) else { return Ok(()) };
        let at = offset + n_header + index * size_of::<f16>();
        let (name, start) = self.file.tensor_at(at).unwrap_or(("", at));
        Err(FormatError::NotFinite { name: name.to_owned(), index: (at - start) / size_of::<f16>(), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_place_of_a_bad_value_is_found() {
        struct Case {
            dtype: Dtype,
            good: Vec<Vec<u8>>,
            bad: Vec<Vec<u8>>,
        }
        let f16s = |values: &[f32]| values.iter().map(|v| f16::from_f32(*v).to_le_bytes().to_vec()).collect();
        let bf16s =
            |values: &[f32]| values.iter().map(|v| bf16::from_f32(*v).to_le_bytes().to_vec()).collect();
        let f32s = |values: &[f32]| values.iter().map(|v| v.to_le_bytes().to_vec()).collect();
        let f64s = |values: &[f64]| values.iter().map(|v| v.to_le_bytes().to_vec()).collect();
        let bad = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let cases = [
            Case { dtype: Dtype::F16, good: f16s(&[0.0, -0.0, 65504.0, -65504.0, 6e-8]), bad: f16s(&bad) },
            Case { dtype: Dtype::BF16, good: bf16s(&[0.0, -1.0, 3e38, -3e38, 1e-40]), bad: bf16s(&bad) },
            Case { dtype: Dtype::F32, good: f32s(&[0.0, -1.0, f32::MAX, f32::MIN, 1e-45]), bad: f32s(&bad) },
            Case {
                dtype: Dtype::F64,
                good: f64s(&[0.0, f64::MAX, f64::MIN, 5e-324]),
                bad: f64s(&bad.map(f64::from)),
            },
        ];
        for Case { dtype, good, bad } in &cases {
            let size = good[0].len();
            for n in [1, 7, BLOCK / size, BLOCK / size + 1, 3 * BLOCK / size + 5] {
                let mut bytes: Vec<u8> = good.iter().cycle().take(n).flatten().copied().collect();
                assert_eq!(first_not_finite(*dtype, &bytes), None, "{dtype:?} {n}");
                for (bad, at) in bad.iter().zip([0, n / 2, n - 1, n / 3]) {
                    let was = bytes[at * size..][..size].to_vec();
                    bytes[at * size..][..size].copy_from_slice(bad);
                    let (index, value) = first_not_finite(*dtype, &bytes).unwrap();
                    assert!(index == at && !value.is_finite(), "{dtype:?} {n}: {index} {value}, wanted {at}");
                    bytes[at * size..][..size].copy_from_slice(&was);
                }
            }
        }
        assert_eq!(first_not_finite(Dtype::U16, &[0xff; 64]), None);
    }
}
