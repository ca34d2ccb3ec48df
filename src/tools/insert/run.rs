//! `insert-lora`: `lora_model.onnx` beside `model.onnx`, with inputs for an adapter, sharing its weights.

use std::path::PathBuf;

use super::graph::insert_adapters;
use crate::format::onnx::Model;
use crate::store::{AtomicFile, Expected, Losses, explain, map_file};
use crate::tools::ToolError;
use crate::tools::export::run::{LORA_MODEL_FILE, MODEL_FILE};
use crate::tools::weights::onnx_files::OnnxFiles;

/// What to change.
#[derive(Debug, Clone)]
pub struct InsertOptions {
    /// Holds `model.onnx`, of this program's exporter or the workflow's.
    pub onnx_dir: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertReport {
    pub path: PathBuf,
    /// Projections with inputs for an adapter.
    pub n_pairs: usize,
    pub n_layers: usize,
}

/// Inserts the inputs.
///
/// # Errors
/// [`ToolError`]; a `lora_model.onnx` that is there already then stays as it was.
pub fn insert_lora(options: &InsertOptions) -> Result<InsertReport, ToolError> {
    let losses = Losses::now();
    let model_path = options.onnx_dir.join(MODEL_FILE);
    let bytes = map_file(&model_path).map_err(|error| explain(&options.onnx_dir, Expected::Onnx, error))?;
    let mut model = Model::parse((*bytes).as_ref()).map_err(ToolError::format(&model_path))?;
    let files = OnnxFiles::new(&model_path, bytes.clone());
    let scalars = files.scalars(&model)?;
    model.take_scalars(|name| scalars.get(name).map(|bytes| (**bytes).as_ref()));
    let inserted = insert_adapters(&model).map_err(ToolError::format(&model_path))?;
    let path = options.onnx_dir.join(LORA_MODEL_FILE);
    losses.check()?;
    AtomicFile::write(&path, &inserted.model)?;
    Ok(InsertReport { path, n_pairs: inserted.n_pairs, n_layers: inserted.n_layers })
}
