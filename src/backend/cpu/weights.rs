//! Weights of a mapped engine and pairs of mapped adapters, checked once and then read in place.

use half::f16;
use safetensors::Dtype;

use crate::format::{FormatError, Tensor};
use crate::kernels::matrix::{Matrix, Values, row_stride};

const CHECKED: &str = "type and alignment were checked when the tensor was taken";

/// A matrix of the engine.
pub struct Weights {
    values: Tensor,
    scale: Option<Tensor>,
    n_rows: usize,
    stride: usize,
}

impl Weights {
    /// Checks types, shapes and alignment against the engine's layout for `[out, in]`.
    pub fn new(
        name: &str,
        (n_rows, n_inputs): (usize, usize),
        values: Tensor,
        scale: Option<Tensor>,
    ) -> Result<Self, FormatError> {
        let stride = row_stride(n_inputs);
        let stored = if values.dtype() == Dtype::U8 { stride / 2 } else { stride };
        check_shape(name, &values, &[n_rows, stored])?;
        let weights = Self { values, scale, n_rows, stride };
        match weights.matrix() {
            Some(_) => Ok(weights),
            None => Err(FormatError::Dtype {
                name: name.to_owned(),
                wanted: "F32, F16, I8 with a scale per row, or U8 with a scale per group, 64-byte aligned",
                found: format!("{:?}", weights.values.dtype()),
            }),
        }
    }

    pub fn as_matrix(&self) -> Matrix<'_> {
        self.matrix().expect(CHECKED)
    }

    fn matrix(&self) -> Option<Matrix<'_>> {
        let values = match (self.values.dtype(), &self.scale) {
            (Dtype::F32, None) => Values::F32(self.values.as_slice()?),
            (Dtype::F16, None) => Values::F16(self.values.as_slice()?),
            (Dtype::I8, Some(scale)) if scale.dtype() == Dtype::F32 => {
                Values::I8 { q: self.values.as_slice()?, scale: scale.as_slice()? }
            }
            (Dtype::U8, Some(scale)) if scale.dtype() == Dtype::F16 => {
                let n_groups = *scale.shape().get(1)?;
                let group = self.stride.checked_div(n_groups)?;
                Values::I4 { q: self.values.as_slice()?, scale: scale.as_slice()?, group }
            }
            _ => return None,
        };
        Matrix::new(values, self.n_rows, self.stride)
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

/// One adapter pair.
pub struct Lora {
    a: Tensor,
    b: Tensor,
    rank: usize,
}

impl Lora {
    pub fn new(a: Tensor, b: Tensor) -> Result<Self, FormatError> {
        check_type::<f16>("lora_A.weight", &a, Dtype::F16, "F16")?;
        check_type::<f16>("lora_B.weight", &b, Dtype::F16, "F16")?;
        match (a.shape(), b.shape()) {
            (&[_, rank], &[same, _]) if rank == same && rank > 0 => Ok(Self { a, b, rank }),
            (wanted, found) => Err(FormatError::Shape {
                name: "lora_B.weight".into(),
                wanted: wanted.to_vec(),
                found: found.to_vec(),
            }),
        }
    }

    /// `[in, rank]`
    pub fn a(&self) -> &[f16] {
        self.a.as_slice().expect(CHECKED)
    }

    /// `[rank, out]`
    pub fn b(&self) -> &[f16] {
        self.b.as_slice().expect(CHECKED)
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Output features.
    pub fn n_outputs(&self) -> usize {
        self.b.shape()[1]
    }
}

fn check_shape(name: &str, tensor: &Tensor, wanted: &[usize]) -> Result<(), FormatError> {
    if tensor.shape() == wanted {
        return Ok(());
    }
    let found = tensor.shape().to_vec();
    Err(FormatError::Shape { name: name.to_owned(), wanted: wanted.to_vec(), found })
}

fn check_type<T: bytemuck::Pod>(
    name: &str,
    tensor: &Tensor,
    dtype: Dtype,
    wanted: &'static str,
) -> Result<(), FormatError> {
    if tensor.dtype() == dtype && tensor.as_slice::<T>().is_some() {
        return Ok(());
    }
    Err(FormatError::Dtype { name: name.to_owned(), wanted, found: format!("{:?}", tensor.dtype()) })
}
