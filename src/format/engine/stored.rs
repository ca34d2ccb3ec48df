//! A matrix as it is found in an engine: its tensors tell its kind, and are what that kind wants.

use safetensors::Dtype;

use crate::format::{FormatError, Tensor, TensorFile};
use crate::numbers::kind::{
    ScaleType, Stored, Zeros, input_order_name, input_scale_name, levels_name, row_scale_name, zero_name,
};
use crate::numbers::precision::{ROW_ALIGN, row_stride, scale_name};
use crate::numbers::{KeptBlocks, Kind, Levels, MatrixShape, Storage};

/// The tensors of a matrix, found in an engine and checked.
#[derive(Clone)]
pub struct StoredMatrix {
    pub kind: Kind,
    pub shape: MatrixShape,
    pub values: Tensor,
    pub scale: Option<Tensor>,
    pub row_scale: Option<Tensor>,
    pub zero: Option<Tensor>,
    pub levels: Option<Tensor>,
    pub input_scale: Option<Tensor>,
    /// A permutation of the inputs.
    pub input_order: Option<Tensor>,
}

impl StoredMatrix {
    /// Finds a matrix of that shape.
    ///
    /// # Errors
    /// [`FormatError`] naming the tensor that is missing or does not fit, or an order that is none.
    pub fn find(file: &TensorFile, name: &str, shape: impl Into<MatrixShape>) -> Result<Self, FormatError> {
        let (shape, values) = (shape.into(), file.require(name)?);
        let mut matrix = Self {
            kind: Kind::F32,
            shape,
            values,
            scale: file.get(&scale_name(name)),
            row_scale: file.get(&row_scale_name(name)),
            zero: file.get(&zero_name(name)),
            levels: file.get(&levels_name(name)),
            input_scale: file.get(&input_scale_name(name)),
            input_order: file.get(&input_order_name(name)),
        };
        matrix.kind = matrix.recognize(name)?;
        let storage = Storage {
            kind: matrix.kind,
            has_input_scale: matrix.input_scale.is_some(),
            has_input_order: matrix.input_order.is_some(),
        };
        for stored in storage.tensors(name, shape) {
            check(&stored, &file.require(&stored.name)?)?;
        }
        matrix.check_order(name)?;
        Ok(matrix)
    }

    /// By the types of the weight and its scale; shapes are checked afterwards.
    fn recognize(&self, name: &str) -> Result<Kind, FormatError> {
        if let Some(blocks) = self.kept_blocks() {
            return Ok(Kind::Kept(blocks));
        }
        if let Some(numbers) = &self.levels {
            let levels = numbers.as_slice().and_then(Levels::of).ok_or_else(|| {
                let why = format!("tensor {} holds neither nf4's numbers nor fp4's", levels_name(name));
                FormatError::Damaged { what: "engine", why }
            })?;
            return Ok(Kind::Levels { group: self.group().unwrap_or(ROW_ALIGN), levels });
        }
        let scale = self.scale.as_ref().map(Tensor::dtype);
        match (self.values.dtype(), scale) {
            (Dtype::F32, None) => Ok(Kind::F32),
            (Dtype::F16, None) => Ok(Kind::F16),
            (Dtype::I8, _) => Ok(match self.group() {
                Some(group) => Kind::Int8Groups { group, zeros: self.zeros() },
                None => Kind::Int8,
            }),
            (Dtype::F8_E4M3, Some(Dtype::F8_E8M0)) => Ok(Kind::Mxfp8),
            (Dtype::F8_E4M3, _) => Ok(self.group().map_or(Kind::Fp8, |group| Kind::Fp8Groups { group })),
            (Dtype::F4, _) => Ok(Kind::Nvfp4),
            (Dtype::U8, Some(Dtype::U8)) => Ok(Kind::Affine),
            (Dtype::U8, scale) => Ok(Kind::Int4 {
                group: self.group().unwrap_or(ROW_ALIGN),
                scales: if scale == Some(Dtype::F32) { ScaleType::F32 } else { ScaleType::F16 },
                zeros: self.zeros(),
            }),
            (found, _) => Err(FormatError::Dtype {
                name: name.to_owned(),
                wanted: "F32 or F16 without a scale, or I8, U8, F8_E4M3 or F4 with one",
                found: format!("{found:?}"),
            }),
        }
    }

    /// Blocks of a GGUF file, which have their planes.
    fn kept_blocks(&self) -> Option<KeptBlocks> {
        let &[_, _, bits, _, _] = self.values.shape() else { return None };
        let scale = self.scale.as_ref()?;
        KeptBlocks::recognize(bits, scale.dtype(), scale.shape().len())
    }

    /// Elements that share a scale; none where scales are not those of groups, or do not fill a row.
    fn group(&self) -> Option<usize> {
        let shape = self.scale.as_ref().map_or(&[][..], Tensor::shape);
        let n_groups = shape.get(1).filter(|_| shape.len() == 3)?;
        let stride = row_stride(self.shape.columns);
        stride.checked_div(*n_groups).filter(|group| group * n_groups == stride)
    }

    fn zeros(&self) -> Zeros {
        if self.zero.is_some() { Zeros::Stored } else { Zeros::Middle }
    }

    fn check_order(&self, name: &str) -> Result<(), FormatError> {
        let Some(tensor) = &self.input_order else { return Ok(()) };
        let order = tensor.as_slice::<u32>();
        if order.is_some_and(|order| is_permutation(order, self.shape.columns)) {
            return Ok(());
        }
        let why = format!("tensor {} does not name each input once", input_order_name(name));
        Err(FormatError::Damaged { what: "engine", why })
    }
}

/// Whether each number below `n` stands in the list once.
fn is_permutation(order: &[u32], n: usize) -> bool {
    let mut seen = vec![false; n];
    let all_new = order.iter().all(|&input| {
        let place = seen.get_mut(input as usize);
        place.is_some_and(|place| !std::mem::replace(place, true))
    });
    all_new && order.len() == n
}

/// Whether the tensor is what the file should hold.
///
/// # Errors
/// [`FormatError::Dtype`], [`FormatError::Shape`].
fn check(stored: &Stored, tensor: &Tensor) -> Result<(), FormatError> {
    let name = stored.name.clone();
    if tensor.dtype() != stored.dtype {
        let (wanted, found) = (dtype_name(stored.dtype), format!("{:?}", tensor.dtype()));
        return Err(FormatError::Dtype { name, wanted, found });
    }
    if tensor.shape() != stored.shape {
        let (wanted, found) = (stored.shape.clone(), tensor.shape().to_vec());
        return Err(FormatError::Shape { name, wanted, found });
    }
    Ok(())
}

fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::I8 => "I8",
        Dtype::U8 => "U8",
        Dtype::U32 => "U32",
        Dtype::F4 => "F4",
        Dtype::F8_E4M3 => "F8_E4M3",
        Dtype::F8_E8M0 => "F8_E8M0",
        _ => "a type of the engine format",
    }
}
