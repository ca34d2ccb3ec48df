//! Weights that an ONNX graph keeps in few bits: as an engine stores them where it has such a kind, else as
//! numbers, `(value - zero) * scale * input_scale`.

use super::onnx_files::OnnxFiles;
use super::quantized_rows::{CodeLayout, QuantizedRows, Scales, StoredZeros, ZeroLayout, int4_kind};
use super::source::{Encoded, PackRow, ReadRow, RowSource, decoder};
use crate::format::Tensor;
use crate::format::checkpoint::quantization::Bits;
use crate::format::onnx::tensor::number_at;
use crate::format::onnx::{ElementType, ScaledWeight, Spread, StoredTensor};
use crate::numbers::kind::{MXFP8_GROUP, NVFP4_GROUP};
use crate::numbers::{Kind, Storage, code_i8};
use crate::tools::ToolError;

/// The rows of a weight from `first` on.
///
/// # Errors
/// [`ToolError::Format`] with the name of the tensor that does not fit.
pub fn scaled_rows(
    files: &OnnxFiles,
    weight: &ScaledWeight,
    first: usize,
    input_scale: Option<Vec<f32>>,
) -> Result<RowSource, ToolError> {
    match kept(files, weight)? {
        Some(mut rows) => {
            rows.first_row = first;
            rows.storage.has_input_scale = input_scale.is_some();
            rows.input_scale = input_scale;
            Ok(RowSource::of(rows))
        }
        None => Ok(RowSource::of(ScaledRows::new(files, weight, first, input_scale)?)),
    }
}

/// The weight in a kind that engines have; none where there is no such kind.
fn kept(files: &OnnxFiles, weight: &ScaledWeight) -> Result<Option<QuantizedRows>, ToolError> {
    let (Some((n, k)), true, false) = (weight.shape(), weight.is_rows, weight.is_rounded) else {
        return Ok(None);
    };
    let parts = match (weight.values.element, weight.spread) {
        (ElementType::I8, Spread::All | Spread::Axis(0)) if is_centered(files, weight)? => {
            (Kind::Int8, CodeLayout::Bytes, row_scales(files, weight, n)?)
        }
        (ElementType::E4m3, Spread::All | Spread::Axis(0)) => {
            (Kind::Fp8, CodeLayout::Bytes, row_scales(files, weight, n)?)
        }
        (ElementType::E4m3, Spread::Blocks { axis: 1, len: MXFP8_GROUP }) => {
            match block_powers(files, weight)? {
                Some(scales) => (Kind::Mxfp8, CodeLayout::Bytes, scales),
                None => return Ok(None),
            }
        }
        (ElementType::E2m1, Spread::Blocks { axis: 1, len: NVFP4_GROUP })
            if weight.scale.element == ElementType::E4m3 =>
        {
            let rows = vec![Numbers::outer(files, weight)?; n];
            let tensor = files.raw(&weight.scale)?;
            (Kind::Nvfp4, CodeLayout::ColumnPairs, Scales::Bytes { tensor, rows })
        }
        (ElementType::I4 | ElementType::U4, Spread::Blocks { axis: 1, len }) => {
            match int4(files, weight, len)? {
                Some((kind, layout, scales, zeros)) => {
                    return Ok(Some(rows_of(files, weight, (kind, layout, scales), zeros)?));
                }
                None => return Ok(None),
            }
        }
        _ => return Ok(None),
    };
    // A whole row of these is kept with filler behind it, which is 0 in all of them.
    let is_filled = !matches!(parts.0, Kind::Nvfp4) || k.is_multiple_of(NVFP4_GROUP);
    if !is_filled || !(weight.zero.is_none() || parts.0 == Kind::Int8) {
        return Ok(None);
    }
    rows_of(files, weight, parts, None).map(Some)
}

fn rows_of(
    files: &OnnxFiles,
    weight: &ScaledWeight,
    (kind, layout, scales): (Kind, CodeLayout, Scales),
    zeros: Option<StoredZeros>,
) -> Result<QuantizedRows, ToolError> {
    let shape = weight.shape().unwrap_or((0, 0));
    let codes = files.raw(&weight.values)?;
    Ok(QuantizedRows { zeros, ..QuantizedRows::new(kind, shape, (codes, layout, scales)) })
}

/// Whether all zeros are 0.
fn is_centered(files: &OnnxFiles, weight: &ScaledWeight) -> Result<bool, ToolError> {
    let Some(stored) = &weight.zero else { return Ok(true) };
    let zeros = Numbers::new(files, stored)?;
    Ok((0..zeros.len()).all(|i| zeros.at(i) == 0.0))
}

/// One scale a row.
fn row_scales(files: &OnnxFiles, weight: &ScaledWeight, n: usize) -> Result<Scales, ToolError> {
    let (scale, outer) = (Numbers::new(files, &weight.scale)?, Numbers::outer(files, weight)?);
    let is_one = weight.spread == Spread::All;
    Ok(Scales::Rows((0..n).map(|row| scale.at(if is_one { 0 } else { row }) * outer).collect()))
}

/// Scales of blocks that are powers of two.
fn block_powers(files: &OnnxFiles, weight: &ScaledWeight) -> Result<Option<Scales>, ToolError> {
    if weight.outer_scale.is_some() {
        return Ok(None);
    }
    let tensor = files.raw(&weight.scale)?;
    match weight.scale.element {
        ElementType::E8m0 => {
            let rows = vec![1.0; weight.shape().map_or(0, |(n, _)| n)];
            Ok((!tensor.data().contains(&u8::MAX)).then_some(Scales::Bytes { tensor, rows }))
        }
        ElementType::F32 => {
            let mut all = tensor.data().as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
            // No sign, no mantissa, an exponent of a number.
            let is_power = |bits: u32| bits & 0x807f_ffff == 0 && (1..255).contains(&(bits >> 23));
            Ok(all.all(is_power).then(|| Scales::Powers(tensor)))
        }
        _ => Ok(None),
    }
}

type Int4Parts = (Kind, CodeLayout, Scales, Option<StoredZeros>);

fn int4(files: &OnnxFiles, weight: &ScaledWeight, group: usize) -> Result<Option<Int4Parts>, ToolError> {
    let is_float = matches!(weight.scale.element, ElementType::F16 | ElementType::F32);
    if weight.outer_scale.is_some() || !is_float || weight.scale.small_values().is_some() {
        return Ok(None);
    }
    let tensor = files.tensor(&weight.scale)?;
    let Some(decode) = decoder(tensor.dtype()) else { return Ok(None) };
    let n_groups = tensor.shape().get(1).copied().unwrap_or(0);
    let (layout, zeros) = match (weight.values.element, &weight.zero) {
        (ElementType::I4, None) => (CodeLayout::SignedColumnPairs, None),
        (ElementType::U4, Some(zero))
            if zero.element == ElementType::U4 && zero.dims == weight.scale.dims =>
        {
            let words = files.raw(zero)?;
            (
                CodeLayout::ColumnPairs,
                Some(StoredZeros {
                    words,
                    layout: ZeroLayout::Nibbles { n_groups },
                    bits: Bits::Four,
                    offset: 0,
                }),
            )
        }
        _ => return Ok(None),
    };
    let kind = int4_kind(group, tensor.dtype(), zeros.as_ref());
    Ok(Some((kind, layout, Scales::Groups { tensor, decode, is_group_first: false }, zeros)))
}

/// Rows of a [`ScaledWeight`] as numbers.
struct ScaledRows {
    values: Numbers,
    scale: Numbers,
    zero: Option<Numbers>,
    /// Multiplies every scale.
    outer: f32,
    spread: Spread,
    is_rows: bool,
    is_rounded: bool,
    /// Outputs and inputs of the whole weight, and the first output that is meant.
    n: usize,
    k: usize,
    first: usize,
    /// `[k]`
    input_scale: Option<Vec<f32>>,
}

impl ScaledRows {
    fn new(
        files: &OnnxFiles,
        weight: &ScaledWeight,
        first: usize,
        input_scale: Option<Vec<f32>>,
    ) -> Result<Self, ToolError> {
        let (n, k) = weight.shape().unwrap_or((0, 0));
        let is_one = |stored: &StoredTensor| stored.dims.iter().all(|dim| *dim == 1);
        let fits =
            |zero: &StoredTensor| zero.dims == weight.scale.dims || (is_one(zero) && is_one(&weight.scale));
        let zero = match &weight.zero {
            Some(stored) if fits(stored) => Some(Numbers::new(files, stored)?),
            Some(stored) => return Err(files.wrong_shape(stored, &weight.scale.dims)),
            None => None,
        };
        Ok(Self {
            values: Numbers::new(files, &weight.values)?,
            scale: Numbers::new(files, &weight.scale)?,
            zero,
            outer: Numbers::outer(files, weight)?,
            spread: weight.spread,
            is_rows: weight.is_rows,
            is_rounded: weight.is_rounded,
            n,
            k,
            first,
            input_scale,
        })
    }

    /// Where the scale of an element stands; `place` is the element's in the stored values.
    fn scale_position(&self, place: [usize; 2]) -> usize {
        let width = if self.is_rows { self.k } else { self.n };
        match self.spread {
            Spread::All => 0,
            Spread::Axis(axis) => place[axis],
            Spread::Blocks { axis: 0, len } => place[0] / len * width + place[1],
            Spread::Blocks { len, .. } => place[0] * (width / len) + place[1] / len,
        }
    }

    /// An element's code, what is 0 among the codes, and its scale.
    fn parts(&self, row_idx: usize, column: usize) -> (f32, f32, f32) {
        let row_idx = self.first + row_idx;
        let (position, place) = match self.is_rows {
            true => (row_idx * self.k + column, [row_idx, column]),
            false => (column * self.n + row_idx, [column, row_idx]),
        };
        let at = self.scale_position(place);
        let scale = self.scale.at(at) * self.outer;
        let mut code = self.values.at(position);
        if self.is_rounded {
            code = (code / scale).round_ties_even().clamp(-128.0, 127.0);
        }
        (code, self.zero.as_ref().map_or(0.0, |zero| zero.at(at)), scale)
    }
}

impl ReadRow for ScaledRows {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        for (column, value) in out[..self.k].iter_mut().enumerate() {
            let (code, zero, scale) = self.parts(row_idx, column);
            let factor = self.input_scale.as_ref().map_or(1.0, |factors| factors[column]);
            *value = (code - zero) * scale * factor;
        }
    }

    /// What a graph rounds to whole numbers with one scale per output.
    fn packed(&self) -> Option<&dyn PackRow> {
        let is_by_row = matches!((self.spread, self.is_rows), (Spread::All, _) | (Spread::Axis(0), true));
        let is_centered = self.zero.as_ref().is_none_or(|zero| (0..zero.len()).all(|i| zero.at(i) == 0.0));
        (self.is_rounded && is_by_row && is_centered).then_some(self)
    }
}

impl PackRow for ScaledRows {
    fn storage(&self) -> Storage {
        Storage { has_input_scale: self.input_scale.is_some(), ..Kind::Int8.into() }
    }

    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        let stride = crate::numbers::precision::row_stride(self.k);
        for column in 0..self.k {
            let (code, _, _) = self.parts(row_idx, column);
            if !code.is_finite() {
                return Err(code);
            }
            packed.weights.push(code_i8(code).cast_unsigned());
        }
        packed.weights.extend(std::iter::repeat_n(0, stride - self.k));
        packed.scales.extend(self.parts(row_idx, 0).2.to_le_bytes());
        Ok(())
    }

    fn inputs(&self) -> Vec<Vec<u8>> {
        self.input_scale.iter().map(|scale| bytemuck::cast_slice(scale).to_vec()).collect()
    }
}

/// A tensor's elements as numbers.
enum Numbers {
    /// Of tensors that may stand in fields of the model.
    Few(Vec<f32>),
    Many {
        tensor: Tensor,
        element: ElementType,
        len: usize,
    },
}

impl Numbers {
    fn new(files: &OnnxFiles, stored: &StoredTensor) -> Result<Self, ToolError> {
        if stored.n_bytes() == Some(0) {
            return Err(files.wrong_shape(stored, &[1]));
        }
        if let Some(values) = stored.small_values() {
            return Ok(Self::Few(values));
        }
        let element = stored.element;
        if number_at(element, &[0; 8], 0).is_none() {
            return Err(files.wrong_element(stored, "numbers of 4 to 64 bits"));
        }
        let tensor = files.raw(stored)?;
        Ok(Self::Many { tensor, element, len: stored.dims.iter().product() })
    }

    /// The one number that multiplies all scales of a weight.
    fn outer(files: &OnnxFiles, weight: &ScaledWeight) -> Result<f32, ToolError> {
        let stored = weight.outer_scale.as_ref();
        stored.map_or(Ok(1.0), |stored| Ok(Self::new(files, stored)?.at(0)))
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(values) => values.len(),
            Self::Many { len, .. } => *len,
        }
    }

    fn at(&self, position: usize) -> f32 {
        match self {
            Self::Few(values) => values.get(position).copied().unwrap_or(f32::NAN),
            Self::Many { tensor, element, .. } => {
                number_at(*element, tensor.data(), position).expect("sizes and types were checked")
            }
        }
    }
}
