//! The files of an ONNX directory, each mapped once, and the tensors in them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;

use crate::format::checkpoint::shards::is_plain_name;
use crate::format::onnx::tensor::range_in;
use crate::format::onnx::{ElementType, Model, Place, StoredTensor};
use crate::format::{Bytes, FormatError, ONNX_DATA, ONNX_MODEL, Tensor};
use crate::store::mistaken::cut_file;
use crate::store::{Expected, explain, map_file};
use crate::tools::ToolError;

/// A model file and the files beside it, each mapped once.
pub struct OnnxFiles {
    path: PathBuf,
    model: Bytes,
    external: RefCell<BTreeMap<String, Bytes>>,
}

impl OnnxFiles {
    /// The model's path and bytes.
    pub fn new(path: &Path, model: Bytes) -> Self {
        Self { path: path.to_owned(), model, external: RefCell::default() }
    }

    /// The mapped files beside the model, by name.
    pub fn external(&self) -> BTreeMap<String, Bytes> {
        self.external.borrow().clone()
    }

    /// The files with numbers of the graph's arithmetic.
    ///
    /// # Errors
    /// [`ToolError`] when one is missing or too short: what the graph computes is not known then.
    pub fn scalars(&self, model: &Model) -> Result<BTreeMap<String, Bytes>, ToolError> {
        let mut found = BTreeMap::new();
        for (name, end) in model.scalar_files() {
            let bytes = self.map(name)?;
            let n_bytes = (*bytes).as_ref().len();
            if n_bytes < end {
                let path = self.path.with_file_name(name);
                let model = self.path.file_name().unwrap_or_default().display();
                return Err(cut_file(&path, n_bytes, (&format!("a number of {model}"), end)).into());
            }
            found.insert(name.to_owned(), bytes);
        }
        Ok(found)
    }

    fn map(&self, location: &str) -> Result<Bytes, ToolError> {
        if !is_plain_name(location) {
            let why = format!("external data lies at {location:?}, wanted a plain file name");
            return Err(self.format_error(FormatError::Damaged { what: ONNX_MODEL, why }));
        }
        let mut external = self.external.borrow_mut();
        if let Some(bytes) = external.get(location) {
            return Ok(Arc::clone(bytes));
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let bytes = map_file(&self.path.with_file_name(location))
            .map_err(|error| explain(directory, Expected::Onnx, error))?;
        external.insert(location.to_owned(), Arc::clone(&bytes));
        Ok(bytes)
    }

    /// The error for a tensor of a type that is not read.
    pub fn wrong_element(&self, stored: &StoredTensor, wanted: &'static str) -> ToolError {
        let (name, found) = (stored.name.to_owned(), format!("number {} of ONNX", stored.element.number()));
        self.format_error(FormatError::Dtype { name, wanted, found })
    }

    /// The error for a tensor of another shape.
    pub fn wrong_shape(&self, stored: &StoredTensor, wanted: &[usize]) -> ToolError {
        let (name, found) = (stored.name.to_owned(), stored.dims.clone());
        self.format_error(FormatError::Shape { name, wanted: wanted.to_vec(), found })
    }

    /// The bytes of a tensor of any type that has a size, as a list of bytes.
    ///
    /// # Errors
    /// As [`OnnxFiles::tensor`].
    pub fn raw(&self, stored: &StoredTensor) -> Result<Tensor, ToolError> {
        let Some(n_bytes) = stored.n_bytes() else {
            return Err(self.wrong_element(stored, "numbers of 4 to 32 bits"));
        };
        let mut bytes = stored.clone();
        (bytes.element, bytes.dims) = (ElementType::U8, vec![n_bytes]);
        self.tensor(&bytes)
    }

    /// An error of this model.
    pub(super) fn format_error(&self, source: FormatError) -> ToolError {
        ToolError::format(&self.path)(source)
    }

    /// The bytes of a tensor where they lie.
    ///
    /// # Errors
    /// [`ToolError`] when the file is missing or too short, or the type is not read.
    pub fn tensor(&self, stored: &StoredTensor) -> Result<Tensor, ToolError> {
        let name = stored.name.to_owned();
        let Some(dtype) = dtype_of(stored.element) else {
            return Err(self.wrong_element(stored, "FLOAT, FLOAT16, BFLOAT16, INT8 or UINT8"));
        };
        let leaves = |file: &str| ToolError::Format {
            path: if file.is_empty() { self.path.clone() } else { self.path.with_file_name(file) },
            source: FormatError::Damaged {
                what: ONNX_DATA,
                why: format!("tensor {name} leaves the file, or its length is not its shape's"),
            },
        };
        let location = match stored.place {
            Place::External { location, .. } => location,
            Place::Inline(_) | Place::Fields => "",
        };
        let n_bytes = stored.n_bytes().ok_or_else(|| leaves(location))?;
        let (bytes, dtype, range) = match stored.place {
            Place::Inline(inline) => {
                let range = range_in((*self.model).as_ref(), inline).ok_or_else(|| leaves(location))?;
                (Arc::clone(&self.model), dtype, range)
            }
            Place::External { offset, length, .. } => {
                let start = usize::try_from(offset).map_err(|_| leaves(location))?;
                let end = start.checked_add(n_bytes).ok_or_else(|| leaves(location))?;
                if length.is_some_and(|length| length != n_bytes as u64) {
                    return Err(leaves(location));
                }
                let bytes = self.map(location)?;
                let n_held = (*bytes).as_ref().len();
                if n_held < end {
                    let path = self.path.with_file_name(location);
                    return Err(cut_file(&path, n_held, (&format!("tensor {name}"), end)).into());
                }
                (bytes, dtype, start..end)
            }
            Place::Fields => {
                // Only tensors of a few elements are written so.
                let values = stored.small_values().ok_or_else(|| leaves(location))?;
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let range = 0..bytes.len();
                (Arc::new(bytes) as Bytes, Dtype::F32, range)
            }
        };
        Tensor::at(bytes, dtype, stored.dims.clone(), range).ok_or_else(|| leaves(location))
    }
}

fn dtype_of(element: ElementType) -> Option<Dtype> {
    Some(match element {
        ElementType::F32 => Dtype::F32,
        ElementType::F16 => Dtype::F16,
        ElementType::Bf16 => Dtype::BF16,
        ElementType::I8 => Dtype::I8,
        ElementType::U8 => Dtype::U8,
        _ => return None,
    })
}
