//! The checkpoint as a model: rows by name, and which of its matrices are quantized.

use std::collections::BTreeSet;

use super::awq::Member;
use super::method::Method;
use super::options::QuantizeOptions;
use super::streamed::Sources;
use crate::format::checkpoint::naming::Place;
use crate::format::engine::{EMBEDDING, FORMAT_VERSION, HEAD, Item, checkpoint_names};
use crate::format::{EngineConfig, Limits, Target};
use crate::numbers::{MatrixShape, Precision};
use crate::store::Checkpoint;
use crate::tools::ToolError;
use crate::tools::build::find_sources;
use crate::tools::weights::source::RowSource;

/// A matrix of the checkpoint that could be quantized.
pub struct Linear {
    /// Of the weight, in the checkpoint and in what is written.
    pub name: String,
    pub shape: (usize, usize),
    /// None: it stays.
    pub method: Option<Method>,
    /// What the model calls it: one matrix, or those that a fused one holds.
    pub parts: Vec<SubMatrix>,
    source: RowSource,
}

/// A matrix that the model knows by a plain name, such as one expert's.
pub struct SubMatrix {
    /// `model.layers.0.mlp.experts.3.up_proj.weight`
    pub name: String,
    /// The item of an engine that holds it: itself, or the stack of all experts.
    pub item: String,
    /// Where it begins in the checkpoint's matrix.
    pub first_row: usize,
}

impl Linear {
    /// The plain name of the first part.
    pub fn first_name(&self) -> &str {
        self.parts.first().map_or(&self.name, |part| &part.name)
    }

    /// The engine's matrix whose inputs are watched: experts are watched together, for there may be thousands.
    pub fn watched(&self) -> &str {
        self.parts.first().map_or(&self.name, |part| &part.item)
    }

    /// Whether it is one of a stack.
    pub fn is_stacked(&self) -> bool {
        self.watched() != self.first_name()
    }

    pub fn member(&self) -> Member<'_> {
        Member {
            name: self.name.clone(),
            shape: self.shape,
            source: &self.source,
            is_stacked: self.is_stacked(),
        }
    }
}

/// The original model.
pub struct Model {
    pub config: EngineConfig,
    items: Vec<Item>,
    /// Rows by the names that an engine gives.
    pub sources: Sources,
}

impl Model {
    /// # Errors
    /// [`ToolError`] for tensors that are missing or of another shape.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, ToolError> {
        let config = EngineConfig {
            architecture: checkpoint.config.architecture.clone(),
            limits: Limits::default(),
            precision: Precision::F32,
            target: Target::Cpu,
            eos_token_ids: Vec::new(),
            bos_token_id: None,
            source_digest: String::new(),
            sha256: Default::default(),
            format_version: FORMAT_VERSION,
        };
        let (sources, items) = find_sources(checkpoint, &config)?;
        let sources = items.iter().map(|item| item.name().to_owned()).zip(sources).collect();
        Ok(Self { config, items, sources })
    }

    /// The matrices to quantize; what cannot be is named in a warning.
    ///
    /// # Errors
    /// [`ToolError::Refused`] when nothing is left, or the head cannot be done.
    pub fn linears(
        &self,
        checkpoint: &Checkpoint,
        options: &QuantizeOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Linear>, ToolError> {
        let is_tied = self.config.architecture.tied_head;
        if options.head.is_some() && is_tied {
            let what = "lm_head is tied to the embedding table, which stays f16".to_owned();
            let advice = "leave --lm_head_quantization out";
            return Err(ToolError::Refused { path: options.model_dir.clone(), what, advice });
        }
        let widths: Vec<usize> = self.projections().map(|(_, shape)| shape.columns).collect();
        let of_projections = options.method.for_widths(&widths);
        if let (true, Some(group)) = (of_projections != options.method, of_projections.block()) {
            warnings.push(format!(
                "int4 in groups of {group}, for not all rows are multiples of 128; the workflow's own kernels take 128 alone"
            ));
        }
        let mut linears = self.matrices(checkpoint)?;
        let mut obstacles = Vec::new();
        let mut told = BTreeSet::new();
        for linear in linears.iter_mut().filter(|linear| !is_router(linear.first_name())) {
            let method = match linear.first_name() {
                HEAD => options.head,
                _ => Some(of_projections),
            };
            let obstacle = method.and_then(|method| method.obstacle(linear.shape));
            linear.method = method.filter(|_| obstacle.is_none());
            // Experts of a layer are alike.
            if let Some(why) = obstacle.filter(|_| told.insert(linear.watched().to_owned())) {
                let name = if linear.is_stacked() { linear.watched() } else { linear.name.as_str() };
                obstacles.push(format!("{name} stays f16: {why}"));
            }
        }
        if linears.iter().all(|linear| linear.method.is_none()) {
            let what =
                format!("no matrix can be quantized; {}", obstacles.first().map_or("", String::as_str));
            let advice = "choose another --quantization";
            return Err(ToolError::Refused { path: options.model_dir.clone(), what, advice });
        }
        warnings.extend(obstacles);
        Ok(linears)
    }

    /// The matrices of the layers but for routers, by name.
    pub fn projections(&self) -> impl Iterator<Item = (&str, MatrixShape)> {
        self.items.iter().filter_map(|item| match item {
            Item::Matrix { name, shape, .. }
                if ![EMBEDDING, HEAD].contains(&name.as_str()) && !is_router(name) =>
            {
                Some((name.as_str(), *shape))
            }
            _ => None,
        })
    }

    /// Rows of a matrix, or of each in a stack.
    pub fn rows_of_part(&self, item: &str) -> usize {
        let shapes = self.items.iter().filter(|found| found.name() == item);
        shapes.map(|item| if let Item::Matrix { shape, .. } = item { shape.rows } else { 1 }).sum()
    }

    /// Every matrix but the embedding as the checkpoint holds it, in the model's order.
    fn matrices(&self, checkpoint: &Checkpoint) -> Result<Vec<Linear>, ToolError> {
        let wrong = || ToolError::format(checkpoint.directory());
        let mut linears: Vec<Linear> = Vec::new();
        for item in &self.items {
            let &Item::Matrix { name: ref item_name, shape, .. } = item else { continue };
            if item_name == EMBEDDING {
                continue;
            }
            for name in checkpoint_names(&self.config.architecture, item) {
                let Place { tensor, fused } = checkpoint.place(&name).expect("the sources have it");
                let first_row = fused.as_ref().map_or(0, |fused| fused.rows.start);
                let part = SubMatrix { name, item: item_name.clone(), first_row };
                // Parts of a fused matrix are neighbours.
                if let Some(last) = linears.last_mut().filter(|last| last.name == tensor) {
                    last.parts.push(part);
                    continue;
                }
                let shape = fused.map_or((shape.rows, shape.columns), |fused| fused.shape.into());
                let stored = checkpoint.tensor(&tensor).expect("its place was found");
                let source = RowSource::new(&tensor, stored, &[shape.0, shape.1]).map_err(wrong())?;
                linears.push(Linear { name: tensor, shape, method: None, parts: vec![part], source });
            }
        }
        Ok(linears)
    }
}

/// The small matrix that chooses experts is always kept.
fn is_router(name: &str) -> bool {
    name.ends_with(".mlp.gate.weight")
}
