//! A quantized matrix in an exported graph: the tensors that the standard's DequantizeLinear reads.
//!
//! Codes keep their bits, rows stay rows `[n, k]`. What the operator cannot say is exported as numbers: an order
//! of inputs, zeros of 16, and scales of scales that differ by row.

use std::io::{self, Write};
use std::sync::Arc;

use crate::format::onnx::ElementType;
use crate::numbers::Kind;
use crate::numbers::kind::{
    MXFP8_GROUP, NVFP4_GROUP, ScaleType, Zeros, input_scale_name, row_scale_name, zero_name,
};
use crate::numbers::precision::scale_name;
use crate::tools::weights::quantized_rows::{QuantizedRows, Scales};
use crate::tools::weights::quantized_source::Quantized;
use crate::tools::weights::source::RowSource;

/// One tensor of a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixPart {
    Codes,
    Scales,
    /// One number that the scales are multiplied with.
    OuterScale,
    Zeros,
    /// Multiplies what enters the layer.
    InputScale,
}

/// How a graph gets numbers from the parts.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Scales are for rows, or for so many inputs of a row.
    pub block: Option<usize>,
    pub has_outer_scale: bool,
    pub has_zeros: bool,
    pub has_input_scale: bool,
    /// Of the scales as they are multiplied.
    pub scale_element: ElementType,
}

/// What becomes of a quantized matrix.
pub enum Exported {
    AsItIs(QuantizedMatrix),
    AsNumbers(RowSource),
}

/// A matrix that is exported as it is.
#[derive(Clone)]
pub struct QuantizedMatrix {
    pub form: Form,
    rows: Arc<QuantizedRows>,
}

impl Exported {
    pub fn new(quantized: Quantized) -> Self {
        let Quantized::Rows(rows) = quantized else { return Self::AsNumbers(quantized.into()) };
        let (block, scale_element, has_zeros) = match rows.storage.kind {
            Kind::F32
            | Kind::F16
            | Kind::Affine
            | Kind::Int8Groups { .. }
            | Kind::Fp8Groups { .. }
            | Kind::Levels { .. }
            | Kind::Kept(_) => {
                return Self::AsNumbers(Quantized::Rows(rows).into());
            }
            Kind::Int8 | Kind::Fp8 => (None, ElementType::F32, false),
            Kind::Mxfp8 => (Some(MXFP8_GROUP), ElementType::F32, false),
            Kind::Nvfp4 => (Some(NVFP4_GROUP), ElementType::F32, false),
            Kind::Int4 { group, scales, zeros } => {
                let element = if scales == ScaleType::F16 { ElementType::F16 } else { ElementType::F32 };
                (Some(group), element, zeros == Zeros::Stored)
            }
        };
        let has_outer_scale = rows.storage.kind == Kind::Nvfp4;
        if rows.order.is_some()
            || (has_outer_scale && has_several_outer_scales(&rows))
            || (has_zeros && block.is_some_and(|group| has_large_zero(&rows, group)))
        {
            return Self::AsNumbers(Quantized::Rows(rows).into());
        }
        let has_input_scale = rows.input_scale.is_some();
        let form = Form { block, has_outer_scale, has_zeros, has_input_scale, scale_element };
        Self::AsItIs(QuantizedMatrix { form, rows: Arc::new(*rows) })
    }
}

fn has_several_outer_scales(rows: &QuantizedRows) -> bool {
    match &rows.scales {
        Scales::Bytes { rows, .. } => rows.windows(2).any(|pair| pair[0] != pair[1]),
        _ => true,
    }
}

/// Whether a zero does not fit four bits.
fn has_large_zero(rows: &QuantizedRows, group: usize) -> bool {
    (0..rows.n).any(|row| (0..rows.k / group).any(|group| rows.zero(row, group) > 15))
}

impl QuantizedMatrix {
    pub fn parts(&self) -> Vec<MatrixPart> {
        let form = &self.form;
        let some = [
            (MatrixPart::OuterScale, form.has_outer_scale),
            (MatrixPart::Zeros, form.has_zeros),
            (MatrixPart::InputScale, form.has_input_scale),
        ];
        let some = some.into_iter().filter(|(_, is_there)| *is_there).map(|(part, _)| part);
        [MatrixPart::Codes, MatrixPart::Scales].into_iter().chain(some).collect()
    }

    /// Type and shape of a part; factors of inputs have the type of the graph's activations.
    pub fn layout(&self, part: MatrixPart, activations: ElementType) -> (ElementType, Vec<usize>) {
        let rows = &self.rows;
        let groups = match self.form.block {
            Some(group) => vec![rows.n, rows.k / group],
            None => vec![rows.n],
        };
        match part {
            MatrixPart::Codes => {
                let element = match rows.storage.kind {
                    Kind::Int4 { zeros: Zeros::Stored, .. } => ElementType::U4,
                    Kind::Int4 { .. } => ElementType::I4,
                    Kind::Nvfp4 => ElementType::E2m1,
                    Kind::Int8 => ElementType::I8,
                    _ => ElementType::E4m3,
                };
                (element, vec![rows.n, rows.k])
            }
            MatrixPart::Scales if self.form.has_outer_scale => (ElementType::E4m3, groups),
            MatrixPart::Scales => (self.form.scale_element, groups),
            MatrixPart::OuterScale => (ElementType::F32, vec![]),
            MatrixPart::Zeros => (ElementType::U4, groups),
            MatrixPart::InputScale => (activations, vec![rows.k]),
        }
    }

    /// Writes the elements of a part; of factors of inputs the caller writes the numbers.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, part: MatrixPart, out: &mut dyn Write) -> io::Result<()> {
        match part {
            MatrixPart::Zeros => {
                let zeros: Vec<u8> = (0..self.rows.n).flat_map(|row| self.row(part, row)).collect();
                out.write_all(&pairs(&zeros))
            }
            MatrixPart::OuterScale => match &self.rows.scales {
                Scales::Bytes { rows, .. } => out.write_all(&rows[0].to_le_bytes()),
                _ => Ok(()),
            },
            _ => (0..self.rows.n).try_for_each(|row| out.write_all(&self.row(part, row))),
        }
    }

    /// What multiplies the inputs.
    pub fn input_scale(&self) -> &[f32] {
        self.rows.input_scale.as_deref().unwrap_or_default()
    }

    /// A row's bytes of a part; of zeros one byte each.
    fn row(&self, part: MatrixPart, row: usize) -> Vec<u8> {
        let rows = &self.rows;
        let n_groups = self.form.block.map_or(1, |group| rows.k / group);
        match (part, &rows.scales) {
            (MatrixPart::Codes, _) => {
                let codes = &rows.row_codes(row)[..rows.k];
                match rows.storage.kind {
                    Kind::Int4 { zeros: Zeros::Stored, .. } | Kind::Nvfp4 => pairs(codes),
                    // Biased by 8 to two's complement.
                    Kind::Int4 { .. } => pairs(&codes.iter().map(|code| code ^ 8).collect::<Vec<_>>()),
                    _ => codes.to_vec(),
                }
            }
            (MatrixPart::Zeros, _) => {
                let zero = |group| u8::try_from(rows.zero(row, group)).expect("large ones go as numbers");
                (0..n_groups).map(zero).collect()
            }
            (_, Scales::Bytes { tensor, .. }) if self.form.has_outer_scale => {
                tensor.data()[row * n_groups..][..n_groups].to_vec()
            }
            _ => {
                let scales = (0..n_groups).map(|group| rows.group_scale(row, group, n_groups));
                match self.form.scale_element {
                    ElementType::F16 => {
                        scales.flat_map(|scale| half::f16::from_f32(scale).to_le_bytes()).collect()
                    }
                    _ => scales.flat_map(f32::to_le_bytes).collect(),
                }
            }
        }
    }
}

/// Two numbers of four bits in a byte, the first low.
fn pairs(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect()
}

/// The name of a part in the graph.
pub fn part_name(weight: &str, part: MatrixPart) -> String {
    match part {
        MatrixPart::Codes => weight.to_owned(),
        MatrixPart::Scales => scale_name(weight),
        MatrixPart::OuterScale => row_scale_name(weight),
        MatrixPart::Zeros => zero_name(weight),
        MatrixPart::InputScale => input_scale_name(weight),
    }
}
