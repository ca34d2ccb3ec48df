//! Weights of a mapped engine, checked once and then read in place.

use safetensors::Dtype;

use crate::device::check::{check_shape, check_type};
use crate::format::{FormatError, StoredMatrix, Tensor};
use crate::kernels::matrix::{GroupScales, LineBits, LineScales, Matrix, Values, row_stride};
use crate::kernels::tile::TILE_ROWS;
use crate::numbers::kind::{MatrixShape, ScaleType};
use crate::numbers::{KeptBlocks, Kind};

pub(super) const CHECKED: &str = "type and alignment were checked when the tensor was taken";

/// A matrix of the engine.
pub struct Weights {
    stored: StoredMatrix,
    stride: usize,
}

impl Weights {
    /// Checks the alignment; types and shapes were checked when the matrix was found.
    pub fn new(name: &str, stored: StoredMatrix) -> Result<Self, FormatError> {
        let stride = row_stride(stored.shape.columns);
        let weights = Self { stored, stride };
        let vectors = [&weights.stored.input_scale, &weights.stored.input_order];
        let is_aligned = vectors.into_iter().flatten().all(|tensor| tensor.as_slice::<f32>().is_some());
        match weights.matrix() {
            Some(_) if is_aligned => Ok(weights),
            _ => Err(FormatError::Dtype {
                name: name.to_owned(),
                wanted: "one that kernels read, 64-byte aligned",
                found: format!("{:?}", weights.stored.values.dtype()),
            }),
        }
    }

    pub fn as_matrix(&self) -> Matrix<'_> {
        self.matrix().expect(CHECKED)
    }

    fn matrix(&self) -> Option<Matrix<'_>> {
        let StoredMatrix { values, scale, row_scale, zero, levels, .. } = &self.stored;
        let values = match self.stored.kind {
            Kind::F32 => Values::F32(values.as_slice()?),
            Kind::F16 => Values::F16(values.as_slice()?),
            Kind::Int8 => Values::I8 { q: values.as_slice()?, scale: scale.as_ref()?.as_slice()? },
            Kind::Int8Groups { group, .. } => Values::I8Groups {
                q: values.as_slice()?,
                scale: scale.as_ref()?.as_slice()?,
                zero: match zero {
                    Some(zero) => Some(zero.as_slice()?),
                    None => None,
                },
                group,
            },
            Kind::Int4 { group, scales, .. } => {
                let scale = scale.as_ref()?;
                let scale = match scales {
                    ScaleType::F16 => GroupScales::F16(scale.as_slice()?),
                    ScaleType::F32 => GroupScales::F32(scale.as_slice()?),
                };
                Values::I4 { q: values.data(), scale, zero: zero.as_ref().map(Tensor::data), group }
            }
            Kind::Affine => Values::Affine {
                q: values.data(),
                scale: scale.as_ref()?.data(),
                factor: row_scale.as_ref()?.as_slice()?,
            },
            Kind::Fp8 => Values::Fp8 { q: values.data(), scale: scale.as_ref()?.as_slice()? },
            Kind::Fp8Groups { group } => {
                Values::Fp8Groups { q: values.data(), scale: scale.as_ref()?.as_slice()?, group }
            }
            Kind::Mxfp8 => Values::Mxfp8 { q: values.data(), scale: scale.as_ref()?.data() },
            Kind::Nvfp4 => Values::Nvfp4 {
                q: values.data(),
                scale: scale.as_ref()?.data(),
                row_scale: row_scale.as_ref()?.as_slice()?,
            },
            Kind::Levels { group, .. } => Values::Levels {
                q: values.data(),
                levels: levels.as_ref()?.as_slice()?,
                scale: scale.as_ref()?.as_slice()?,
                group,
            },
            Kind::Kept(blocks) => self.kept(blocks)?,
        };
        let MatrixShape { n_parts, rows, .. } = self.stored.shape;
        // A stack is one matrix of whole tiles.
        let n_rows = if n_parts == 1 { rows } else { self.stored.shape.n_tiles() * TILE_ROWS };
        Matrix::new(values, n_rows, self.stride)
    }

    fn kept(&self, blocks: KeptBlocks) -> Option<Values<'_>> {
        let (q, scale) = (self.stored.values.data(), self.stored.scale.as_ref()?);
        let factor = self.stored.row_scale.as_ref();
        let lines = |bits, scales| Values::Lines { q, bits, scales };
        let with_factors = || Some(LineScales::Super { scale: scale.data(), factor: factor?.as_slice()? });
        Some(match blocks {
            KeptBlocks::Q4_1 => lines(LineBits::Four, LineScales::Pairs(scale.as_slice()?)),
            KeptBlocks::Q5_0 => lines(LineBits::Five, LineScales::Middle(scale.as_slice()?)),
            KeptBlocks::Q5_1 => lines(LineBits::Five, LineScales::Pairs(scale.as_slice()?)),
            KeptBlocks::Q4K => lines(LineBits::Four, with_factors()?),
            KeptBlocks::Q5K => lines(LineBits::Five, with_factors()?),
            KeptBlocks::Q6K => Values::Sixes { q, scale: scale.as_slice()?, factor: factor?.as_slice()? },
        })
    }

    /// Whether the inputs are changed before they meet the matrix.
    pub fn changes_inputs(&self) -> bool {
        self.stored.input_scale.is_some() || self.stored.input_order.is_some()
    }

    /// One row of inputs as the matrix takes it: in its order, each times its factor.
    pub fn change_inputs(&self, x: &[f32], out: &mut [f32]) {
        let order: Option<&[u32]> =
            self.stored.input_order.as_ref().map(|tensor| tensor.as_slice().expect(CHECKED));
        let scale: Option<&[f32]> =
            self.stored.input_scale.as_ref().map(|tensor| tensor.as_slice().expect(CHECKED));
        for (column, value) in out[..self.stored.shape.columns].iter_mut().enumerate() {
            let input = order.map_or(column, |order| order[column] as usize);
            // The order was checked, but the file may have been written into since.
            let x = x.get(input).copied().unwrap_or(f32::NAN);
            *value = scale.map_or(x, |scale| x * scale.get(input).copied().unwrap_or(f32::NAN));
        }
    }
}

/// A norm's weight or a bias.
pub struct Vector(Tensor);

impl Vector {
    pub fn new(name: &str, len: usize, values: Tensor) -> Result<Self, FormatError> {
        check_shape(name, &values, &[len])?;
        check_type::<f32>(name, &values, Dtype::F32, "F32")?;
        Ok(Self(values))
    }

    pub fn as_slice(&self) -> &[f32] {
        self.0.as_slice().expect(CHECKED)
    }
}
