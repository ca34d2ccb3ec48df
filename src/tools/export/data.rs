//! The tensors of an exported decoder: where each lies, and their bytes, a few megabytes in memory at a time.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use half::f16;
use safetensors::Dtype;

use super::quantized::{Exported, Form, MatrixPart, QuantizedMatrix, part_name};
use crate::format::engine::{EMBEDDING, FINAL_NORM, HEAD, PAGE, projection_bias};
use crate::format::header::Header;
use crate::format::onnx::ElementType;
use crate::format::onnx::write::{self, NewPlace};
use crate::format::{FormatError, Tensor};
use crate::numbers::Module;
use crate::numbers::architecture::Architecture;
use crate::numbers::family::Family;
use crate::store::Checkpoint;
use crate::tools::build::run::check_missing;
use crate::tools::weights::quantized_source::quantized_rows;
use crate::tools::weights::source::{Decoder, RowSource, decoder};
use crate::tools::{ToolError, WriteError};

/// The file of the workflow's exporter.
pub const DATA_FILE: &str = "onnx_model.data";
pub const EMBEDDING_FILE: &str = "embedding.safetensors";
/// Tensors below this stand in the model itself.
const LEAST_EXTERNAL: usize = 1024;
/// Bytes that are converted at a time.
const CHUNK_BYTES: usize = 8 << 20;

/// A tensor of the graph and the checkpoint's tensor that it comes from.
#[derive(Clone)]
pub struct ExportTensor {
    /// The checkpoint's name, and the graph's.
    name: String,
    source: TensorSource,
    /// In the graph.
    dims: Vec<usize>,
    element: ElementType,
    place: Place,
}

#[derive(Clone)]
enum TensorSource {
    /// In the checkpoint's order.
    Plain {
        tensor: Tensor,
        decode: Decoder,
    },
    /// One row.
    Vector(Arc<RowSource>),
    /// Stored `[in, out]` where the checkpoint has `[out, in]`.
    Transposed(Arc<RowSource>),
    Quantized(QuantizedMatrix, MatrixPart),
}

#[derive(Clone)]
enum Place {
    /// The converted bytes.
    Inline(Vec<u8>),
    /// Offset in [`DATA_FILE`].
    Data(u64),
    /// The tied table, offset in [`EMBEDDING_FILE`].
    Embedding(u64),
}

/// All tensors with their places, and the embedding table.
pub struct ExportPlan {
    pub tensors: Vec<ExportTensor>,
    pub embedding: ExportTensor,
    /// How the graph gets the numbers of matrices that stay quantized.
    pub quantized: BTreeMap<String, Form>,
    pub n_data_bytes: u64,
}

impl ExportPlan {
    /// Finds and checks every tensor, and gives it a place.
    ///
    /// # Errors
    /// [`ToolError::MissingTensors`], [`ToolError::Format`], [`ToolError::Range`] for small tensors.
    pub fn new(
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        element: ElementType,
    ) -> Result<Self, ToolError> {
        let wanted = wanted(architecture, element);
        check_missing(checkpoint, wanted.iter().map(|wanted| wanted.name.as_str()))?;
        let (mut found, mut quantized) = (Vec::with_capacity(wanted.len()), BTreeMap::new());
        for wanted in &wanted {
            match quantized_matrix(checkpoint, wanted)? {
                Some(Exported::AsItIs(matrix)) => {
                    quantized.insert(wanted.name.clone(), matrix.form);
                    let parts = matrix.parts().into_iter();
                    found.extend(parts.map(|part| ExportTensor::part(&wanted.name, &matrix, part, element)));
                }
                Some(Exported::AsNumbers(rows)) => found.push(ExportTensor::transposed(wanted, rows)),
                None => found.push(ExportTensor::new(checkpoint, wanted)?),
            }
        }
        let mut tensors = Vec::with_capacity(found.len());
        let mut position = 0_u64;
        for mut tensor in found {
            let n_bytes = tensor.n_bytes();
            if n_bytes < LEAST_EXTERNAL {
                let mut bytes = Vec::new();
                tensor
                    .write(&mut bytes)
                    .map_err(|error| error.at(checkpoint.directory(), checkpoint.directory(), 0))?;
                tensor.place = Place::Inline(bytes);
            } else if tensor.name != EMBEDDING {
                position = position.next_multiple_of(PAGE as u64);
                tensor.place = Place::Data(position);
                position += n_bytes as u64;
            }
            tensors.push(tensor);
        }
        let embedding = tensors.remove(0);
        if architecture.tied_head {
            let offset = embedding_header(&embedding).len() as u64;
            tensors.push(ExportTensor { place: Place::Embedding(offset), ..embedding.clone() });
        }
        Ok(Self { tensors, embedding, quantized, n_data_bytes: position })
    }

    /// Writes [`DATA_FILE`]; `written` gets the bytes of each tensor.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_data<W: Write>(&self, mut out: W, written: &dyn Fn(u64)) -> Result<W, WriteError> {
        let mut position = 0_u64;
        for tensor in &self.tensors {
            let Place::Data(offset) = tensor.place else { continue };
            let gap = usize::try_from(offset - position).expect("a gap is less than a page");
            out.write_all(&[0; PAGE][..gap])?;
            tensor.write(&mut out)?;
            position = offset + tensor.n_bytes() as u64;
            written(tensor.n_bytes() as u64);
        }
        Ok(out)
    }

    /// Writes [`EMBEDDING_FILE`]: one tensor `embedding`, which starts on a page.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_embedding<W: Write>(&self, mut out: W) -> Result<W, WriteError> {
        out.write_all(&embedding_header(&self.embedding))?;
        self.embedding.write(&mut out)?;
        Ok(out)
    }
}

/// A tensor of the checkpoint, and how the graph has it.
struct Wanted {
    name: String,
    shape: Vec<usize>,
    layout: Layout,
    element: ElementType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    AsItIs,
    /// With 1 added: what Gemma's norms multiply by.
    PlusOne,
    /// `[in, out]`.
    Transposed,
}

/// Everything that is exported; the embedding table first.
fn wanted(a: &Architecture, element: ElementType) -> Vec<Wanted> {
    let norm_layout = if a.family == Family::Gemma3 { Layout::PlusOne } else { Layout::AsItIs };
    // Vectors are f32, for they cost nothing.
    let norm = |name: String, len| {
        let (shape, element) = (vec![len], ElementType::F32);
        Wanted { name, shape, layout: norm_layout, element }
    };
    let table = |name: &str, layout| {
        let shape = vec![a.vocab_size, a.hidden_size];
        Wanted { name: name.to_owned(), shape, layout, element }
    };
    let mut wanted = vec![table(EMBEDDING, Layout::AsItIs)];
    for layer in 0..a.n_layers {
        let inside = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let around = ["input_layernorm", a.norms.before_mlp()].into_iter();
        let around = around.chain(a.norms.after().into_iter().flatten());
        wanted.extend(around.map(|part| norm(inside(part), a.hidden_size)));
        if a.qk_norm {
            wanted.push(norm(inside("self_attn.q_norm"), a.head_dim));
            wanted.push(norm(inside("self_attn.k_norm"), a.head_dim));
        }
        for module in Module::in_layer(a, layer) {
            let (n, k) = module.shape(a);
            // A small error of the router would choose other experts.
            let element = if module == Module::Router { ElementType::F32 } else { element };
            let (name, layout) = (module_weight(layer, module), Layout::Transposed);
            wanted.push(Wanted { name, shape: vec![n, k], layout, element });
            if let Module::One(projection) = module
                && a.has_bias(projection)
            {
                let (name, element) = (projection_bias(layer, projection), ElementType::F32);
                wanted.push(Wanted { name, shape: vec![n], layout: Layout::AsItIs, element });
            }
        }
    }
    wanted.push(norm(FINAL_NORM.to_owned(), a.hidden_size));
    if !a.tied_head {
        wanted.push(table(HEAD, Layout::Transposed));
    }
    wanted
}

/// `model.layers.0.self_attn.qkv_proj.weight`, the checkpoint's name and the graph's.
pub fn module_weight(layer: usize, module: Module) -> String {
    format!("model.layers.{layer}.{}.weight", module.path_in_layer())
}

fn embedding_header(embedding: &ExportTensor) -> Vec<u8> {
    let dtype = if embedding.element == ElementType::F32 { Dtype::F32 } else { Dtype::F16 };
    let mut header = Header::new(&serde_json::json!({ "format": "pt" }));
    header.add("embedding", dtype, &embedding.dims);
    header.finish(PAGE)
}

/// A matrix that the checkpoint has quantized.
fn quantized_matrix(checkpoint: &Checkpoint, wanted: &Wanted) -> Result<Option<Exported>, ToolError> {
    let (Some(quantization), &[n, k]) = (&checkpoint.config.quantization, &wanted.shape[..]) else {
        return Ok(None);
    };
    let Some(place) = checkpoint.place(&wanted.name) else { return Ok(None) };
    let rows = quantized_rows(checkpoint, quantization, &place, (n, k));
    let rows = rows.map_err(ToolError::format(checkpoint.directory()))?;
    Ok(rows.map(Exported::new))
}

impl ExportTensor {
    fn new(checkpoint: &Checkpoint, wanted: &Wanted) -> Result<Self, ToolError> {
        let (name, dims, element) = (wanted.name.clone(), wanted.shape.clone(), wanted.element);
        let to_error = ToolError::format(checkpoint.directory());
        let found = checkpoint.find(&name).map_err(ToolError::format(checkpoint.directory()))?;
        let Some(tensor) = found else {
            return Err(to_error(FormatError::MissingTensor { name }));
        };
        if wanted.layout != Layout::AsItIs {
            let rows = RowSource::new(&name, tensor, &dims).map_err(to_error)?;
            return Ok(match wanted.layout {
                Layout::PlusOne => {
                    let source = TensorSource::Vector(Arc::new(RowSource::plus_one(rows)));
                    Self { name, source, dims, element, place: Place::Data(0) }
                }
                Layout::Transposed | Layout::AsItIs => Self::transposed(wanted, rows),
            });
        }
        if tensor.shape() != dims {
            let found = tensor.shape().to_vec();
            return Err(to_error(FormatError::Shape { name, wanted: dims, found }));
        }
        let Some(decode) = decoder(tensor.dtype()) else {
            let found = format!("{:?}", tensor.dtype());
            return Err(to_error(FormatError::Dtype { name, wanted: "F32, F16 or BF16", found }));
        };
        Ok(Self {
            name,
            source: TensorSource::Plain { tensor, decode },
            dims,
            element,
            place: Place::Data(0),
        })
    }

    fn transposed(wanted: &Wanted, rows: RowSource) -> Self {
        let mut dims = wanted.shape.clone();
        dims.reverse();
        let source = TensorSource::Transposed(Arc::new(rows));
        Self { name: wanted.name.clone(), source, dims, element: wanted.element, place: Place::Data(0) }
    }

    fn part(weight: &str, matrix: &QuantizedMatrix, part: MatrixPart, activations: ElementType) -> Self {
        let (element, dims) = matrix.layout(part, activations);
        let source = TensorSource::Quantized(matrix.clone(), part);
        Self { name: part_name(weight, part), source, dims, element, place: Place::Data(0) }
    }

    /// Size in the exported files.
    pub fn n_bytes(&self) -> usize {
        (self.dims.iter().product::<usize>() * self.element.n_bits().unwrap_or(0)).div_ceil(8)
    }

    /// TensorProto.
    pub fn message(&self) -> Vec<u8> {
        let length = self.n_bytes() as u64;
        let place = match &self.place {
            Place::Inline(bytes) => NewPlace::Inline(bytes),
            Place::Data(offset) => NewPlace::External { location: DATA_FILE, offset: *offset, length },
            Place::Embedding(offset) => {
                NewPlace::External { location: EMBEDDING_FILE, offset: *offset, length }
            }
        };
        write::tensor(&self.name, self.element, &self.dims, place)
    }

    /// Writes the elements in the graph's order, converted.
    fn write(&self, out: &mut dyn Write) -> Result<(), WriteError> {
        match &self.source {
            TensorSource::Plain { tensor, decode } => {
                let size = tensor.dtype().bitsize() / 8;
                let mut values = vec![0.0; CHUNK_BYTES / 4];
                for bytes in tensor.data().chunks(values.len() * size) {
                    let values = &mut values[..bytes.len() / size];
                    decode(bytes, values);
                    self.put(values, out)?;
                }
                Ok(())
            }
            TensorSource::Vector(row) => {
                let mut values = vec![0.0; self.dims.iter().product()];
                row.read_row(0, &mut values);
                self.put(&values, out)
            }
            TensorSource::Transposed(rows) => self.write_transposed(rows, out),
            TensorSource::Quantized(matrix, MatrixPart::InputScale) => self.put(matrix.input_scale(), out),
            TensorSource::Quantized(matrix, part) => Ok(matrix.write(*part, out)?),
        }
    }

    /// Some of the input columns at a time become rows of the output.
    fn write_transposed(&self, rows: &RowSource, out: &mut dyn Write) -> Result<(), WriteError> {
        let (n_columns, n_rows) = (self.dims[0], self.dims[1]);
        let per_chunk = (CHUNK_BYTES / 4 / n_rows).clamp(1, n_columns);
        let mut row = vec![0.0; n_columns];
        let mut values = vec![0.0; per_chunk * n_rows];
        for first in (0..n_columns).step_by(per_chunk) {
            let width = per_chunk.min(n_columns - first);
            for row_idx in 0..n_rows {
                rows.read_part(row_idx, first..first + width, &mut row);
                for (column_idx, value) in row[..width].iter().enumerate() {
                    values[column_idx * n_rows + row_idx] = *value;
                }
            }
            self.put(&values[..width * n_rows], out)?;
        }
        Ok(())
    }

    fn put(&self, values: &[f32], out: &mut dyn Write) -> Result<(), WriteError> {
        let is_f32 = self.element == ElementType::F32;
        let fits = |value: &f32| if is_f32 { value.is_finite() } else { f16::from_f32(*value).is_finite() };
        if let Some(found) = values.iter().find(|value| !fits(value)) {
            let precision = if is_f32 { "f32" } else { "f16" };
            return Err(WriteError::Range { name: self.name.clone(), found: *found, precision });
        }
        if is_f32 {
            out.write_all(bytemuck::cast_slice(values))?;
        } else {
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            out.write_all(bytemuck::cast_slice(&halves))?;
        }
        Ok(())
    }
}
