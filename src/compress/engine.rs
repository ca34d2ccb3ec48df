//! `build --calib`: an int4 engine whose codes make up for each other's errors, as far as the inputs go together in a text.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::method::Method;
use super::model::Model;
use super::observe::{Input, Observations, input_of};
use super::options::{Cache, QuantizeOptions, Rounding};
use super::perplexity::Reading;
use super::quantize::{observe, read_texts};
use crate::device;
use crate::numbers::Precision;
use crate::numbers::feedback::Feedback;
use crate::numbers::int4::Spread;
use crate::store::{Checkpoint, StoreError};
use crate::tools::build::{BuildReport, Spreads, build_spread};
use crate::tools::{BuildOptions, ToolError};

/// Inputs whose rounding errors make up for each other: the first that divides a row.
const BLOCKS: [usize; 3] = [128, 64, 32];

/// The text that an engine is built with.
#[derive(Debug, Clone)]
pub struct CalibrationOptions {
    /// A file or a directory of them.
    pub text: PathBuf,
    /// Sequences that the model reads, at most.
    pub n_sequences: usize,
    /// Tokens of a sequence, at most.
    pub sequence_len: usize,
}

/// Builds an int4 engine of a checkpoint that is not quantized.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn build_calibrated(
    options: &BuildOptions,
    calibration: &CalibrationOptions,
) -> Result<BuildReport, ToolError> {
    if options.precision != Precision::Int4 {
        return Err(ToolError::Options("--calib goes with --precision int4".to_owned()));
    }
    let checkpoint = Checkpoint::open(&options.model_dir)?;
    if checkpoint.config.quantization.is_some() {
        let what = "the checkpoint is quantized: there is nothing to round".to_owned();
        return Err(ToolError::Refused {
            path: options.model_dir.clone(),
            what,
            advice: "leave --calib out",
        });
    }
    build_spread(options, spreads(&reading_options(options, calibration), &checkpoint)?)
}

/// What quantize-llm would be told.
fn reading_options(options: &BuildOptions, calibration: &CalibrationOptions) -> QuantizeOptions {
    QuantizeOptions {
        model_dir: options.model_dir.clone(),
        output_dir: options.engine_dir.clone(),
        method: Method::INT4_AWQ,
        head: None,
        quantizes_cache: Cache::AsIs,
        calibration_text: Some(calibration.text.clone()),
        held_text: None,
        n_sequences: calibration.n_sequences,
        sequence_len: calibration.sequence_len,
        rounding: Rounding::Calibrated,
        n_threads: options.n_threads,
        progress: options.progress,
    }
}

fn spreads(options: &QuantizeOptions, checkpoint: &Checkpoint) -> Result<Spreads, ToolError> {
    let model = Model::new(checkpoint)?;
    let texts = read_texts(options, &model)?;
    let no_threads =
        |source| StoreError::Io { path: options.model_dir.clone(), action: "start threads for", source };
    let cpu = device::open_cpu(options.n_threads).map_err(no_threads)?;
    let block_of = |width: usize| BLOCKS.into_iter().find(|block| width.is_multiple_of(*block));
    // The first matrix of those that read the same.
    let mut watched: BTreeMap<String, &str> = BTreeMap::new();
    for (name, _) in model.projections() {
        watched.entry(input_of(name)).or_insert(name);
    }
    let inputs = model
        .projections()
        .filter(|(name, _)| watched[&input_of(name)] == *name)
        .map(|(name, shape)| (name.to_owned(), Input::new(shape.columns, block_of(shape.columns), 0)));
    let observations = Observations::of(inputs, model.config.architecture.n_layers);
    let failed = ToolError::format(&options.model_dir);
    let reading = Reading::new(&cpu, &model.config, &model.sources, observations).map_err(failed)?;
    let observations = observe(options, &reading, &texts)?;
    // One as large as the other: what was seen goes as soon as it was used.
    let found: BTreeMap<String, Arc<Spread>> = observations
        .inputs
        .into_iter()
        .filter_map(|(name, input)| Some((name, Arc::new(spread(&input)?))))
        .collect();
    let of = |name: &str| found.get(watched[&input_of(name)]).map(Arc::clone);
    Ok(model.projections().filter_map(|(name, _)| Some((name.to_owned(), of(name)?))).collect())
}

/// None where no block divides a row.
fn spread(input: &Input) -> Option<Spread> {
    let (block, moments) = (input.block()?, input.moments()?);
    let even = vec![1.0; block];
    Some(Spread { block, feedback: moments.map(|moments| Feedback::new(moments, &even)).collect() })
}
