//! The command: read the checkpoint and a text, choose scales, write, and judge what was written.
//!
//! The activations that calibration sees are those of the original weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use safetensors::Dtype;

use super::awq::{Member, choose, errors_and_sizes, sample_rows, with_feedback};
use super::checkpoint::{Entry, Plan, Writer, entries_of, module_of};
use super::codec::{Coder, Dequantized};
use super::files::{WEIGHTS_FILE, check_output, companions, note_of_adapters, write_configs};
use super::method::Method;
use super::model::{Linear, Model};
use super::observe::{Input, Observations, input_of};
use super::options::{Cache, QuantizeOptions};
use super::perplexity::Reading;
use super::report::{MatrixReport, QuantizeReport, order_of};
use super::texts::{Reader, Sequence, Texts, first_token};
use crate::device::{self, Cpu};
use crate::format::engine::{HEAD, projection_weight};
use crate::format::{FormatError, TensorFile};
use crate::numbers::architecture::Projection;
use crate::progress::Bar;
use crate::store::engine::TOKENIZER_FILE;
use crate::store::{Checkpoint, StoreError, map_file, read_small_optional};
use crate::text::Tokenizer;
use crate::tools::staging::Staging;
use crate::tools::weights::source::{RowSource, decoder};
use crate::tools::{ToolError, WriteError};

/// Rows of activations that the errors are measured on: no more are kept of an input.
const ERROR_ROWS: usize = 128;

/// Quantizes a checkpoint.
///
/// # Errors
/// [`ToolError`]; nothing is left behind then.
pub fn quantize(options: &QuantizeOptions) -> Result<QuantizeReport, ToolError> {
    let checkpoint = Checkpoint::open(&options.model_dir)?;
    check_output(options)?;
    let mut warnings = Vec::new();
    let model = Model::new(&checkpoint)?;
    let linears = model.linears(&checkpoint, options, &mut warnings)?;
    let companions = companions(&options.model_dir, &checkpoint)?;
    warnings.extend_from_slice(&companions.notes);
    warnings.extend(note_of_adapters(&checkpoint));
    let texts = read_texts(options, &model)?;
    let no_threads =
        |source| StoreError::Io { path: options.model_dir.clone(), action: "start threads for", source };
    let cpu = device::open_cpu(options.n_threads).map_err(no_threads)?;

    let (before, observations) = read_with_original(options, &model, &linears, &texts, &cpu)?;
    let groups = Groups::choose(options, &linears, &observations, &cpu, &mut warnings);
    let mut staging = Staging::create(&options.output_dir)?;
    let written = write_weights(
        options,
        &mut staging,
        (&checkpoint, &model, &linears),
        (&groups, &observations),
        &cpu,
    )?;
    let after = judge_written(options, &staging, (&checkpoint, &model, &linears), &groups, &texts, &cpu)?;
    let report = QuantizeReport {
        output_dir: staging.target().to_owned(),
        method: options.method,
        n_bytes: (checkpoint.shards().map(|(_, shard)| shard.as_bytes().len() as u64).sum(), written.n_bytes),
        perplexity: (before, after),
        n_calibration_tokens: n_tokens(&texts.calibration),
        n_held_tokens: texts.held.iter().map(Sequence::n_judged).sum(),
        held_text: held_text(options),
        matrices: written.matrices,
        warnings,
    };
    write_configs(options, &mut staging, &checkpoint, &companions, &linears, &report)?;
    staging.publish(&[])?;
    Ok(report)
}

/// Whose text the perplexity is of.
fn held_text(options: &QuantizeOptions) -> String {
    let path = options.held_text.as_ref().or(options.calibration_text.as_ref());
    path.map_or_else(|| "the text that comes with this program".to_owned(), |path| path.display().to_string())
}

pub fn read_texts(options: &QuantizeOptions, model: &Model) -> Result<Texts, ToolError> {
    let path = options.model_dir.join(TOKENIZER_FILE);
    let Some(bytes) = read_small_optional(&path)? else {
        let why = format!("{} is missing: calibration reads a text", path.display());
        return Err(ToolError::Options(why));
    };
    let tokenizer = Tokenizer::parse(&bytes).map_err(ToolError::text(path, &bytes))?;
    let reader = Reader {
        tokenizer: &tokenizer,
        first: first_token(&bytes),
        sequence_len: options.sequence_len.min(model.config.architecture.max_positions).max(2),
        n_sequences: options.n_sequences,
    };
    let texts = reader.read(options.calibration_text.as_deref(), options.held_text.as_deref())?;
    let vocab_size = model.config.architecture.vocab_size;
    let all = texts.calibration.iter().chain(&texts.held).flat_map(|sequence| &sequence.tokens);
    if let Some(token) = all.copied().find(|token| *token as usize >= vocab_size) {
        let why = format!("the tokenizer gives token {token}, but the vocabulary has {vocab_size}");
        return Err(ToolError::Options(why));
    }
    Ok(texts)
}

/// Perplexity of the original, and what its matrices see.
fn read_with_original(
    options: &QuantizeOptions,
    model: &Model,
    linears: &[Linear],
    texts: &Texts,
    cpu: &Cpu,
) -> Result<(f64, Observations), ToolError> {
    let mut seen = BTreeSet::new();
    let firsts =
        linears.iter().filter(|linear| linear.method.is_some() && seen.insert(input_of(linear.watched())));
    let inputs = firsts.map(|linear| {
        let block = linear.method.filter(|method| method.is_int4_awq()).and_then(Method::block);
        (linear.watched().to_owned(), Input::new(linear.shape.1, block, ERROR_ROWS))
    });
    let watched = Observations::of(inputs, model.config.architecture.n_layers);
    let failed = ToolError::format(&options.model_dir);
    let reading = Reading::new(cpu, &model.config, &model.sources, watched).map_err(failed)?;
    let observations = observe(options, &reading, texts)?;
    let before = judge(options, &reading, texts, "perplexity before")?;
    Ok((before, observations))
}

/// What is seen while the text is read.
pub fn observe(
    options: &QuantizeOptions,
    reading: &Reading<'_>,
    texts: &Texts,
) -> Result<Observations, ToolError> {
    let no_room =
        |source| StoreError::Io { path: options.model_dir.clone(), action: "hold a cache for", source };
    let bar = bar(options, "calibration", n_tokens(&texts.calibration) as u64, "tokens");
    if options.head.is_some() {
        // The head sees activations only where logits are asked for.
        reading.perplexity(&texts.calibration, &|n| bar.add(n)).map_err(no_room)?;
    } else {
        reading.read(&texts.calibration, &|n| bar.add(n)).map_err(no_room)?;
    }
    Ok(reading.observations())
}

fn n_tokens(sequences: &[Sequence]) -> usize {
    sequences.iter().map(|sequence| sequence.tokens.len()).sum()
}

fn judge(
    options: &QuantizeOptions,
    reading: &Reading<'_>,
    texts: &Texts,
    what: &'static str,
) -> Result<f64, ToolError> {
    let bar = bar(options, what, n_tokens(&texts.held) as u64, "tokens");
    let no_room =
        |source| StoreError::Io { path: options.model_dir.clone(), action: "hold a cache for", source };
    let perplexity = reading.perplexity(&texts.held, &|n| bar.add(n)).map_err(no_room)?;
    Ok(perplexity)
}

/// How each matrix is coded, by the name of its weight.
struct Groups {
    coders: BTreeMap<String, Arc<Coder>>,
    /// The watched matrix of each matrix's group.
    watched: BTreeMap<String, String>,
}

impl Groups {
    fn choose(
        options: &QuantizeOptions,
        linears: &[Linear],
        observations: &Observations,
        cpu: &Cpu,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut by_input: BTreeMap<String, Vec<&Linear>> = BTreeMap::new();
        for linear in linears.iter().filter(|linear| linear.method.is_some()) {
            by_input.entry(input_of(linear.first_name())).or_default().push(linear);
        }
        let bar = bar(options, "scales", by_input.len() as u64, "inputs");
        let mut groups = Self { coders: BTreeMap::new(), watched: BTreeMap::new() };
        let mut common: BTreeMap<&str, Arc<Coder>> = BTreeMap::new();
        let mut n_unseen = 0;
        for linears in by_input.into_values() {
            let watched = linears[0].watched();
            let Some(input) = observations.inputs.get(watched) else { continue };
            n_unseen += usize::from(input.n_rows == 0);
            let method = linears[0].method.unwrap_or(options.method);
            let members: Vec<Member<'_>> = linears.iter().map(|linear| linear.member()).collect();
            // Nothing of these depends on the expert.
            let is_common = linears[0].is_stacked() && method.scales_inputs();
            let coder = match common.get(watched).filter(|_| is_common) {
                Some(coder) => Arc::clone(coder),
                None => Arc::new(choose(cpu, method, options.rounding, &members, input)),
            };
            if is_common {
                common.insert(watched, Arc::clone(&coder));
            }
            for linear in linears {
                groups.coders.insert(linear.name.clone(), Arc::clone(&coder));
                groups.watched.insert(linear.name.clone(), watched.to_owned());
            }
            bar.add(1);
        }
        drop(bar);
        if n_unseen > 0 {
            warnings
                .push(format!("{n_unseen} inputs were never used by the text: their scales are plain ones"));
        }
        groups
    }

    fn input<'a>(&self, name: &str, observations: &'a Observations) -> &'a Input {
        &observations.inputs[&self.watched[name]]
    }
}

/// What writing found out.
struct Written {
    n_bytes: u64,
    matrices: Vec<MatrixReport>,
}

fn write_weights(
    options: &QuantizeOptions,
    staging: &mut Staging,
    (checkpoint, model, linears): (&Checkpoint, &Model, &[Linear]),
    (groups, observations): (&Groups, &Observations),
    cpu: &Cpu,
) -> Result<Written, ToolError> {
    let by_name: BTreeMap<&str, &Linear> =
        linears.iter().map(|linear| (linear.name.as_str(), linear)).collect();
    let head = checkpoint.place(HEAD).filter(|_| model.config.architecture.tied_head);
    let is_left_out = |name: &str| {
        head.as_ref().is_some_and(|head| head.tensor == name) || name.ends_with("rotary_emb.inv_freq")
    };
    let names: Vec<&str> = checkpoint.names().filter(|name| !is_left_out(name)).collect();
    let cache_scales = cache_scales(options, checkpoint, observations);
    let mut entries: Vec<Entry> =
        cache_scales.iter().map(|(name, _)| Entry::new(name.clone(), Dtype::F32, vec![])).collect();
    for name in &names {
        match (groups.coders.get(*name), checkpoint.tensor(name)) {
            (Some(coder), _) => {
                entries.extend(entries_of(module_of(name), by_name[name].shape, coder.method))
            }
            (None, Some(tensor)) => {
                let is_float = decoder(tensor.dtype()).is_some();
                let dtype = if is_float { Dtype::F16 } else { tensor.dtype() };
                entries.push(Entry::new((*name).to_owned(), dtype, tensor.shape().to_vec()));
            }
            (None, None) => {}
        }
    }
    let plan = Plan::new(entries);
    let mut matrices = BTreeMap::new();
    let bar = bar(options, "writing", names.len() as u64, "tensors");
    let mut fill = |file: &fs::File| -> Result<(), WriteError> {
        let writer = Writer::start(file, &plan, cpu.n_threads())?;
        for (name, scale) in &cache_scales {
            writer.put(name, 0, &scale.to_le_bytes())?;
        }
        for name in &names {
            match (groups.coders.get(*name), checkpoint.tensor(name)) {
                (Some(coder), _) => {
                    let member = by_name[name].member();
                    let input = groups.input(name, observations);
                    let report = write_matrix(&writer, cpu, &member, coder, input)?;
                    matrices.insert(order_of(&report.module), report);
                }
                (None, Some(tensor)) => writer.copy(name, &tensor)?,
                (None, None) => {}
            }
            bar.add(1);
        }
        Ok(())
    };
    staging.write(WEIGHTS_FILE, |out| {
        fill(out.file())
            .map_err(|error| error.at(&options.model_dir, &options.output_dir, plan.n_bytes()))?;
        Ok(out)
    })?;
    Ok(Written { n_bytes: plan.n_bytes(), matrices: matrices.into_values().collect() })
}

fn write_matrix(
    writer: &Writer<'_>,
    cpu: &Cpu,
    member: &Member<'_>,
    coder: &Coder,
    input: &Input,
) -> Result<MatrixReport, WriteError> {
    let largest = input.largest_scaled(coder.pre_quant_scale.as_deref());
    // An input that was never seen, or only as zeros, must not make everything infinite.
    let largest = if largest > 0.0 { largest } else { 1.0 };
    let input_scale = largest / coder.method.input_divisor().unwrap_or(1.0);
    let coder = with_feedback(coder, input);
    let weight = writer.quantize(member, &coder, input_scale)?;
    let output = errors_and_sizes(cpu, member, &coder, &sample_rows(cpu, input, ERROR_ROWS));
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    Ok(MatrixReport {
        module: module_of(&member.name).to_owned(),
        method: coder.method,
        weight_error: share(weight.sum_differences, weight.sum_sizes),
        output_error: share(output.output_error, output.output_size).sqrt(),
    })
}

/// `k_scale` and `v_scale` of each layer, as ModelOpt names them: largest magnitude over 448.
fn cache_scales(
    options: &QuantizeOptions,
    checkpoint: &Checkpoint,
    observations: &Observations,
) -> Vec<(String, f32)> {
    if options.quantizes_cache == Cache::AsIs {
        return Vec::new();
    }
    let scales = observations.caches.iter().enumerate().flat_map(|(layer, (keys, values))| {
        // Where the checkpoint has the layer.
        let place = checkpoint.place(&projection_weight(layer, Projection::K)).map(|place| place.tensor);
        let attention = place.as_deref().and_then(|tensor| Some(tensor.split_once(".self_attn.")?.0));
        let attention = attention.unwrap_or_default().to_owned();
        let inside = move |part: &str| format!("{attention}.self_attn.{part}");
        [(inside("k_proj.k_scale"), keys / 448.0), (inside("v_proj.v_scale"), values / 448.0)]
    });
    scales.map(|(name, scale)| (name, if scale > 0.0 { scale } else { 1.0 })).collect()
}

/// Perplexity of the file that was written, read back.
fn judge_written(
    options: &QuantizeOptions,
    staging: &Staging,
    (checkpoint, model, linears): (&Checkpoint, &Model, &[Linear]),
    groups: &Groups,
    texts: &Texts,
    cpu: &Cpu,
) -> Result<f64, ToolError> {
    let path = staging.path(WEIGHTS_FILE);
    let wrong = || ToolError::format(&path);
    let file = TensorFile::parse(map_file(&path)?).map_err(wrong())?;
    let mut sources = Model::new(checkpoint)?.sources;
    let mut written: BTreeMap<&str, Vec<RowSource>> = BTreeMap::new();
    for (linear, coder) in
        linears.iter().filter_map(|linear| Some((linear, groups.coders.get(&linear.name)?)))
    {
        for part in &linear.parts {
            let all = dequantized(&file, &linear.name, coder.method, linear.shape.1).map_err(wrong())?;
            written.entry(&part.item).or_default().push(RowSource::below(all, part.first_row));
        }
    }
    for (item, parts) in written {
        sources.insert(item.to_owned(), RowSource::joined(parts, model.rows_of_part(item)));
    }
    let reading = Reading::new(cpu, &model.config, &sources, Observations::default()).map_err(wrong())?;
    judge(options, &reading, texts, "perplexity after")
}

/// A quantized matrix of a file.
fn dequantized(
    file: &TensorFile,
    weight: &str,
    method: Method,
    n_columns: usize,
) -> Result<RowSource, FormatError> {
    let module = module_of(weight);
    let named = |part: &str| format!("{module}.{part}");
    let scale = file.require(&named("weight_scale"))?;
    let scalar = match method {
        Method::Fp8 => Some(scale.clone()),
        Method::Nvfp4 => Some(file.require(&named("weight_scale_2"))?),
        Method::Int4Awq { .. } | Method::Int8Sq | Method::Mxfp8 => None,
    };
    let scalar =
        scalar.and_then(|scalar| scalar.data().first_chunk().map(|bytes| f32::from_le_bytes(*bytes)));
    Ok(RowSource::of(Dequantized {
        method,
        weight: file.require(weight)?,
        scale,
        matrix_scale: scalar.unwrap_or(1.0),
        pre_quant_scale: file.get(&named("pre_quant_scale")),
        n_columns,
    }))
}

fn bar(options: &QuantizeOptions, words: &'static str, n: u64, what: &str) -> Bar {
    let bar = Bar::of(options.progress, n, what);
    bar.say(words);
    bar
}
