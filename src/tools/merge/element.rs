//! The type that is written: rounding to it, and what it cannot hold.

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

/// Values that are converted at a time.
const BLOCK: usize = 4096;

/// A type of floats that a checkpoint is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    F32,
}

impl Element {
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
            Self::F32 => Dtype::F32,
        }
    }

    /// As torch, and config.json, call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F16, Self::Bf16, Self::F32].into_iter().find(|element| element.name() == name)
    }

    /// The type of stored floats, where it is one of these.
    pub fn of(dtype: Dtype) -> Option<Self> {
        [Self::F16, Self::Bf16, Self::F32].into_iter().find(|element| element.dtype() == dtype)
    }

    pub fn n_bytes(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// Magnitudes from here on, and what is no number, cannot be held: they would round to infinity.
    fn limit(self) -> f32 {
        match self {
            Self::F16 => 65_520.0,
            // Half a step above the largest finite one.
            Self::Bf16 => f32::from_bits(0x7f7f_8000),
            Self::F32 => f32::INFINITY,
        }
    }

    /// Whether all can be held; the error is the first that cannot.
    fn check(self, values: &[f32]) -> Result<(), f32> {
        let limit = self.limit();
        // False for what is no number, too.
        let fits = |value: &f32| value.abs() < limit;
        // Without an early end this takes vectors.
        if values.iter().fold(true, |all_fit, value| all_fit & fits(value)) {
            return Ok(());
        }
        Err(values.iter().copied().find(|value| !fits(value)).unwrap_or(f32::NAN))
    }

    /// Rounds to the type, to nearest, ties to even; the error is the first value that it cannot hold.
    pub fn round(self, values: &mut [f32]) -> Result<(), f32> {
        self.check(values)?;
        match self {
            Self::F32 => {}
            Self::Bf16 => values.iter_mut().for_each(|value| {
                *value = f32::from_bits(u32::from(bf16_bits(*value)) << 16);
            }),
            Self::F16 => {
                let mut halves = [f16::ZERO; BLOCK];
                for part in values.chunks_mut(BLOCK) {
                    let halves = &mut halves[..part.len()];
                    halves.convert_from_f32_slice(part);
                    halves.convert_to_f32_slice(part);
                }
            }
        }
        Ok(())
    }

    /// Adds the values' bytes, rounded; the error is the first value that the type cannot hold.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), f32> {
        self.check(values)?;
        match self {
            Self::F32 => out.extend_from_slice(bytemuck::cast_slice(values)),
            Self::Bf16 => {
                let mut bits = [0_u16; BLOCK];
                for part in values.chunks(BLOCK) {
                    bits.iter_mut().zip(part).for_each(|(bits, value)| *bits = bf16_bits(*value));
                    out.extend_from_slice(bytemuck::cast_slice(&bits[..part.len()]));
                }
            }
            Self::F16 => {
                let mut halves = [f16::ZERO; BLOCK];
                for part in values.chunks(BLOCK) {
                    halves[..part.len()].convert_from_f32_slice(part);
                    out.extend_from_slice(bytemuck::cast_slice(&halves[..part.len()]));
                }
            }
        }
        Ok(())
    }
}

/// A finite value that stays finite, rounded to nearest, ties to even. Without branches: it takes vectors.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounding_is_that_of_half() {
        let values: Vec<f32> = (0..1_000_000_u32)
            .map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9)))
            .filter(|value| value.abs() < 65_000.0)
            .chain([0.0, -0.0, 65_519.996, 1.0 + f32::EPSILON, 6e-8, 2.9e-8, -1e-40])
            .collect();
        for element in [Element::F16, Element::Bf16, Element::F32] {
            let wanted: Vec<u32> = values
                .iter()
                .map(|value| match element {
                    Element::F16 => f16::from_f32(*value).to_f32().to_bits(),
                    Element::Bf16 => bf16::from_f32(*value).to_f32().to_bits(),
                    Element::F32 => value.to_bits(),
                })
                .collect();
            let mut rounded = values.clone();
            element.round(&mut rounded).unwrap();
            assert!(rounded.iter().zip(&wanted).all(|(found, wanted)| found.to_bits() == *wanted));
            let (mut first, mut second) = (Vec::new(), Vec::new());
            element.encode(&values, &mut first).unwrap();
            element.encode(&rounded, &mut second).unwrap();
            assert!(first == second && first.len() == values.len() * element.n_bytes());
        }
    }

    #[test]
    fn what_does_not_fit_is_found() {
        let largest_bf16 = bf16::MAX.to_f32();
        let cases = [
            (Element::F16, 65_504.0, 65_520.0),
            (Element::Bf16, largest_bf16, f32::MAX),
            (Element::F32, f32::MAX, f32::INFINITY),
        ];
        for (element, good, bad) in cases {
            element.encode(&[good, -good], &mut Vec::new()).unwrap();
            for bad in [bad, -bad, f32::NAN] {
                let found = element.encode(&[1.0, bad, good], &mut Vec::new()).unwrap_err();
                assert!(found.to_bits() == bad.to_bits(), "{element:?} {found}");
                assert!(element.round(&mut [1.0, bad]).is_err());
            }
        }
    }
}
