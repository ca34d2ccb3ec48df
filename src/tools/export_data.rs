//! The tensors of an exported decoder: where each lies, and their bytes, a few megabytes in memory at a time.

use std::io::{self, Write};

use half::f16;

use super::ToolError;
use super::weights_source::{Decoder, decoder};
use crate::format::architecture::{Architecture, Projection};
use crate::format::engine::{EMBEDDING, FINAL_NORM, HEAD, PAGE, projection_bias, projection_weight};
use crate::format::onnx::ElementType;
use crate::format::onnx::write::{self, NewPlace};
use crate::format::{FormatError, Tensor};
use crate::store::Checkpoint;

/// The file of the workflow's exporter.
pub const DATA_FILE: &str = "onnx_model.data";
pub const EMBEDDING_FILE: &str = "embedding.safetensors";
/// Tensors below this stand in the model itself.
const LEAST_EXTERNAL: usize = 1024;
/// Bytes that are converted at a time.
const CHUNK_BYTES: usize = 8 << 20;

/// A tensor of the graph and the checkpoint's tensor that it comes from.
pub struct ExportTensor {
    /// The checkpoint's name, and the graph's.
    name: String,
    source: Tensor,
    decode: Decoder,
    /// In the graph.
    dims: Vec<usize>,
    /// Whether it is stored `[in, out]` where the checkpoint has `[out, in]`.
    is_transposed: bool,
    place: Place,
}

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
    pub element: ElementType,
    pub tensors: Vec<ExportTensor>,
    pub embedding: ExportTensor,
    pub n_data_bytes: u64,
}

impl ExportPlan {
    /// Finds and checks every tensor, and gives it a place.
    ///
    /// # Errors
    /// [`ToolError::MissingTensors`], [`ToolError::Format`], [`ToolError::Range`] for small tensors.
    pub fn new(checkpoint: &Checkpoint, element: ElementType) -> Result<Self, ToolError> {
        let architecture = &checkpoint.config.architecture;
        let wanted = wanted(architecture);
        let missing: Vec<&str> = wanted
            .iter()
            .map(|(name, ..)| name.as_str())
            .filter(|name| checkpoint.tensor(name).is_none())
            .collect();
        if !missing.is_empty() {
            let (count, names) = (missing.len(), crate::format::adapter::listed(&missing));
            return Err(ToolError::MissingTensors { path: checkpoint.directory().to_owned(), count, names });
        }
        let mut tensors = Vec::with_capacity(wanted.len());
        let mut position = 0_u64;
        for (name, shape, is_transposed) in wanted {
            let mut tensor = ExportTensor::new(checkpoint, name, shape, is_transposed)?;
            let n_bytes = tensor.n_bytes(element);
            if n_bytes < LEAST_EXTERNAL {
                let mut bytes = Vec::new();
                tensor.write(element, &mut bytes).map_err(|error| error.at(checkpoint))?;
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
            let offset = embedding_header(&embedding, element).len() as u64;
            tensors.push(ExportTensor { place: Place::Embedding(offset), ..embedding.clone_source() });
        }
        Ok(Self { element, tensors, embedding, n_data_bytes: position })
    }

    /// Writes [`DATA_FILE`].
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn write_data<W: Write>(&self, mut out: W) -> Result<W, ConvertError> {
        let mut position = 0_u64;
        for tensor in &self.tensors {
            let Place::Data(offset) = tensor.place else { continue };
            let gap = usize::try_from(offset - position).expect("a gap is less than a page");
            out.write_all(&[0; PAGE][..gap])?;
            tensor.write(self.element, &mut out)?;
            position = offset + tensor.n_bytes(self.element) as u64;
        }
        Ok(out)
    }

    /// Writes [`EMBEDDING_FILE`]: one tensor `embedding`, which starts on a page.
    ///
    /// # Errors
    /// [`ConvertError`].
    pub fn write_embedding<W: Write>(&self, mut out: W) -> Result<W, ConvertError> {
        out.write_all(&embedding_header(&self.embedding, self.element))?;
        self.embedding.write(self.element, &mut out)?;
        Ok(out)
    }
}

/// Name, shape in the checkpoint, and whether it is transposed; the embedding table first.
fn wanted(a: &Architecture) -> Vec<(String, Vec<usize>, bool)> {
    let mut wanted = vec![(EMBEDDING.to_owned(), vec![a.vocab_size, a.hidden_size], false)];
    for layer in 0..a.n_layers {
        let mut vector = |part: &str, len| {
            wanted.push((format!("model.layers.{layer}.{part}.weight"), vec![len], false));
        };
        vector("input_layernorm", a.hidden_size);
        vector("post_attention_layernorm", a.hidden_size);
        if a.qk_norm {
            vector("self_attn.q_norm", a.head_dim);
            vector("self_attn.k_norm", a.head_dim);
        }
        for projection in Projection::ALL {
            let (n, k) = a.projection_shape(projection);
            wanted.push((projection_weight(layer, projection), vec![n, k], true));
            if a.has_bias(projection) {
                wanted.push((projection_bias(layer, projection), vec![n], false));
            }
        }
    }
    wanted.push((FINAL_NORM.to_owned(), vec![a.hidden_size], false));
    if !a.tied_head {
        wanted.push((HEAD.to_owned(), vec![a.vocab_size, a.hidden_size], true));
    }
    wanted
}

fn embedding_header(embedding: &ExportTensor, element: ElementType) -> Vec<u8> {
    let dtype = if element == ElementType::F32 { "F32" } else { "F16" };
    let n_bytes = embedding.n_bytes(element);
    let info = serde_json::json!({"embedding": {"dtype": dtype, "shape": embedding.dims, "data_offsets": [0, n_bytes]}});
    let mut header = info.to_string();
    let padded = (header.len() + 8).next_multiple_of(PAGE) - 8;
    header.push_str(&" ".repeat(padded - header.len()));
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes
}

/// Why converting stopped.
#[derive(Debug)]
pub enum ConvertError {
    Io(io::Error),
    Range { name: String, found: f32, precision: &'static str },
}

impl From<io::Error> for ConvertError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ConvertError {
    fn at(self, checkpoint: &Checkpoint) -> ToolError {
        let path = checkpoint.directory().to_owned();
        match self {
            Self::Range { name, found, precision } => ToolError::Range { path, name, found, precision },
            Self::Io(source) => crate::store::StoreError::Io { path, action: "read", source }.into(),
        }
    }
}

impl ExportTensor {
    fn new(
        checkpoint: &Checkpoint,
        name: String,
        shape: Vec<usize>,
        is_transposed: bool,
    ) -> Result<Self, ToolError> {
        let to_error = |source| ToolError::Format { path: checkpoint.directory().to_owned(), source };
        let missing = || FormatError::MissingTensor { name: name.clone() };
        let source = checkpoint.tensor(&name).ok_or_else(missing).map_err(to_error)?;
        if source.shape() != shape {
            let found = source.shape().to_vec();
            return Err(to_error(FormatError::Shape { name, wanted: shape, found }));
        }
        let Some(decode) = decoder(source.dtype()) else {
            let found = format!("{:?}", source.dtype());
            return Err(to_error(FormatError::Dtype { name, wanted: "F32, F16 or BF16", found }));
        };
        let mut dims = shape;
        if is_transposed {
            dims.reverse();
        }
        Ok(Self { name, source, decode, dims, is_transposed, place: Place::Data(0) })
    }

    fn clone_source(&self) -> Self {
        let (name, source, dims) = (self.name.clone(), self.source.clone(), self.dims.clone());
        Self {
            name,
            source,
            decode: self.decode,
            dims,
            is_transposed: self.is_transposed,
            place: Place::Data(0),
        }
    }

    /// Size in the exported files.
    fn n_bytes(&self, element: ElementType) -> usize {
        self.dims.iter().product::<usize>() * element.n_bytes().unwrap_or(0)
    }

    /// TensorProto.
    pub fn message(&self, element: ElementType) -> Vec<u8> {
        let length = self.n_bytes(element) as u64;
        let place = match &self.place {
            Place::Inline(bytes) => NewPlace::Inline(bytes),
            Place::Data(offset) => NewPlace::External { location: DATA_FILE, offset: *offset, length },
            Place::Embedding(offset) => {
                NewPlace::External { location: EMBEDDING_FILE, offset: *offset, length }
            }
        };
        write::tensor(&self.name, element, &self.dims, place)
    }

    /// Writes the elements in the graph's order, converted.
    fn write(&self, element: ElementType, out: &mut dyn Write) -> Result<(), ConvertError> {
        let size = self.source.dtype().bitsize() / 8;
        if !self.is_transposed {
            let mut values = vec![0.0; CHUNK_BYTES / 4];
            for bytes in self.source.data().chunks(values.len() * size) {
                let values = &mut values[..bytes.len() / size];
                (self.decode)(bytes, values);
                self.put(values, element, out)?;
            }
            return Ok(());
        }
        // Some of the input columns at a time become rows of the output.
        let (n_columns, n_rows) = (self.dims[0], self.dims[1]);
        let per_chunk = (CHUNK_BYTES / 4 / n_rows).clamp(1, n_columns);
        let mut part = vec![0.0; per_chunk];
        let mut values = vec![0.0; per_chunk * n_rows];
        for first in (0..n_columns).step_by(per_chunk) {
            let width = per_chunk.min(n_columns - first);
            let part = &mut part[..width];
            for (row_idx, row) in self.source.data().chunks_exact(n_columns * size).enumerate() {
                (self.decode)(&row[first * size..(first + width) * size], part);
                for (column_idx, value) in part.iter().enumerate() {
                    values[column_idx * n_rows + row_idx] = *value;
                }
            }
            self.put(&values[..width * n_rows], element, out)?;
        }
        Ok(())
    }

    fn put(&self, values: &[f32], element: ElementType, out: &mut dyn Write) -> Result<(), ConvertError> {
        let is_f32 = element == ElementType::F32;
        let fits = |value: &f32| if is_f32 { value.is_finite() } else { f16::from_f32(*value).is_finite() };
        if let Some(found) = values.iter().find(|value| !fits(value)) {
            let precision = if is_f32 { "f32" } else { "f16" };
            return Err(ConvertError::Range { name: self.name.clone(), found: *found, precision });
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
