//! What quantization cost: perplexity before and after, and the error of each matrix.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::method::Method;

/// One quantized matrix.
#[derive(Debug, Clone)]
pub struct MatrixReport {
    /// Path of the module.
    pub module: String,
    pub method: Method,
    /// Mean magnitude of the difference over mean magnitude of the weights.
    pub weight_error: f64,
    /// The same as root mean squares of the products with calibration rows.
    pub output_error: f64,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct QuantizeReport {
    pub output_dir: PathBuf,
    pub method: Method,
    /// Bytes of the weight files, before and after.
    pub n_bytes: (u64, u64),
    /// On the held text, before and after.
    pub perplexity: (f64, f64),
    pub n_calibration_tokens: usize,
    pub n_held_tokens: usize,
    /// Where these are from, for people.
    pub held_text: String,
    /// In the order of the layers.
    pub matrices: Vec<MatrixReport>,
    pub warnings: Vec<String>,
}

impl QuantizeReport {
    /// Mean of the matrices' weight errors.
    pub fn weight_error(&self) -> f64 {
        mean(self.matrices.iter().map(|matrix| matrix.weight_error))
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        let matrices: Vec<Value> = self
            .matrices
            .iter()
            .map(|matrix| {
                json!({
                    "module": matrix.module,
                    "method": matrix.method.name(),
                    "weight_error": matrix.weight_error,
                    "output_error": matrix.output_error,
                })
            })
            .collect();
        json!({
            "quantization": self.method.name(),
            "bytes_before": self.n_bytes.0,
            "bytes_after": self.n_bytes.1,
            "perplexity_before": self.perplexity.0,
            "perplexity_after": self.perplexity.1,
            "perplexity_ratio": self.perplexity.1 / self.perplexity.0,
            "weight_error": self.weight_error(),
            "calibration_tokens": self.n_calibration_tokens,
            "held_tokens": self.n_held_tokens,
            "held_text": self.held_text,
            "matrices": matrices,
        })
    }

    /// Place in the model and the matrices there: `model.layers.0` and its, in order.
    fn layers(&self) -> Vec<(String, Vec<&MatrixReport>)> {
        let mut layers: Vec<(String, Vec<&MatrixReport>)> = Vec::new();
        for matrix in &self.matrices {
            let layer = layer_of(&matrix.module);
            match layers.last_mut() {
                Some((last, matrices)) if *last == layer => matrices.push(matrix),
                _ => layers.push((layer, vec![matrix])),
            }
        }
        layers
    }
}

/// `model.layers.3.mlp.up_proj` is in `layer 3`; what is in no layer stands for itself.
fn layer_of(module: &str) -> String {
    let number = module.split_once(".layers.").and_then(|(_, rest)| rest.split('.').next());
    number.map_or_else(|| module.to_owned(), |number| format!("layer {number}"))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len().max(1) as f64;
    values.sum::<f64>() / n
}

impl fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<10} {:>12} {:>12}  largest output error", "", "weight error", "output error")?;
        for (layer, matrices) in self.layers() {
            let worst = matrices.iter().max_by(|a, b| a.output_error.total_cmp(&b.output_error));
            let worst = worst.map_or_else(String::new, |worst| {
                // Phi-4-multimodal's own code wraps its layers.
                let module = worst.module.strip_suffix(".base_layer").unwrap_or(&worst.module);
                let name = module.rsplit('.').next().unwrap_or_default();
                format!("{name} {:.4}", worst.output_error)
            });
            writeln!(
                f,
                "{layer:<10} {:>12.4} {:>12.4}  {worst}",
                mean(matrices.iter().map(|matrix| matrix.weight_error)),
                mean(matrices.iter().map(|matrix| matrix.output_error)),
            )?;
        }
        let (before, after) = self.perplexity;
        writeln!(
            f,
            "perplexity {before:.3} before, {after:.3} after ({:.4}x), on {} held tokens of {}",
            after / before,
            self.n_held_tokens,
            self.held_text
        )?;
        write!(
            f,
            "{}: {}, {:.1} MB before, {:.1} MB after",
            self.output_dir.display(),
            self.method.name(),
            self.n_bytes.0 as f64 / 1e6,
            self.n_bytes.1 as f64 / 1e6
        )
    }
}

/// A key that puts layers in the order of their numbers; what is in no layer comes last.
pub fn order_of(module: &str) -> (usize, String) {
    let number = module.split_once(".layers.").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
    (number.unwrap_or(usize::MAX), module.to_owned())
}
