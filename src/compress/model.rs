//! The checkpoint as a model: rows by name, and which of its matrices are quantized.

use super::awq::Member;
use super::method::Method;
use super::options::QuantizeOptions;
use super::streamed::Sources;
use crate::format::engine::{EMBEDDING, FORMAT_VERSION, HEAD, Item};
use crate::format::{EngineConfig, Limits, Target};
use crate::numbers::{MatrixShape, Precision};
use crate::store::Checkpoint;
use crate::tools::ToolError;
use crate::tools::build::find_sources;

/// A matrix that could be quantized.
pub struct Linear {
    /// Of the weight.
    pub name: String,
    pub shape: (usize, usize),
    /// None: it stays.
    pub method: Option<Method>,
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
        let family = checkpoint.config.architecture.family;
        if !family.row().is_plain {
            let what = format!("is of family {}, which is not quantized", family.name());
            let advice = "build --precision int8 or int4 quantizes it on the way into an engine";
            return Err(ToolError::Refused { path: checkpoint.directory().to_owned(), what, advice });
        }
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
        let mut linears = Vec::new();
        let mut obstacles = Vec::new();
        for item in &self.items {
            let &Item::Matrix { ref name, shape, .. } = item else { continue };
            let (rows, columns) = (shape.n_parts * shape.rows, shape.columns);
            let method = match name.as_str() {
                EMBEDDING => continue,
                HEAD => options.head,
                _ => Some(of_projections),
            };
            if method.is_some()
                && checkpoint.tensor(name).is_none_or(|found| found.shape() != [rows, columns])
            {
                let what =
                    format!("{name} is stored in another form, fused or split, which is not quantized");
                let advice = "give a checkpoint with a tensor for each projection";
                return Err(ToolError::Refused { path: options.model_dir.clone(), what, advice });
            }
            let obstacle = method.and_then(|method| method.obstacle((rows, columns)));
            let method = method.filter(|_| obstacle.is_none() && !is_router(name));
            obstacles.extend(obstacle.map(|why| format!("{name} stays f16: {why}")));
            linears.push(Linear { name: name.clone(), shape: (rows, columns), method });
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

    pub fn member<'a>(&'a self, linear: &Linear) -> Member<'a> {
        Member { name: linear.name.clone(), shape: linear.shape, source: &self.sources[&linear.name] }
    }

    /// Inputs of a matrix.
    pub fn width(&self, name: &str) -> usize {
        let shape = self.items.iter().find(|item| item.name() == name).map(Item::logical_shape);
        shape.and_then(|shape| shape.last().copied()).unwrap_or_default()
    }
}

/// The small matrix that chooses experts is always kept.
fn is_router(name: &str) -> bool {
    name.ends_with(".mlp.gate.weight")
}
