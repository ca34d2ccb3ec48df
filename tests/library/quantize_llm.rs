//! quantize-llm on the demo model: what is stored is the nearest that the documented layout can hold, scales from
//! the text beat plain rounding, and what cannot be done is refused by name. `scripts/check-quantized` holds
//! such checkpoints against transformers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Built, argmax, build_engine, data, json, reference, tensors};
use half::f16;
use jetspool::compress::{Cache, Method, QuantizeOptions, QuantizeReport, Rounding, quantize};
use jetspool::format::engine::projection_weight;
use jetspool::format::{StoredMatrix, Tensor, TensorFile};
use jetspool::numbers::architecture::Projection;
use jetspool::numbers::{Kind, Precision};
use jetspool::store::Engine;
use jetspool::tools::build::Progress;
use safetensors::Dtype;

fn options(output_dir: &Path, method: Method) -> QuantizeOptions {
    QuantizeOptions {
        model_dir: data("demo/checkpoint"),
        output_dir: output_dir.to_owned(),
        method,
        head: None,
        quantizes_cache: Cache::AsIs,
        calibration_text: Some(data("demo/texts.jsonl")),
        held_text: None,
        n_sequences: 24,
        sequence_len: 64,
        rounding: Rounding::Calibrated,
        n_threads: 2,
        progress: Progress::Quiet,
    }
}

/// An emulated processor is spared the long tests: they compute what the short ones do.
pub fn is_emulated() -> bool {
    std::env::var_os("JETSPOOL_TEST_RUNNER").is_some()
}

fn run(options: &QuantizeOptions) -> (QuantizeReport, TensorFile) {
    let report = quantize(options).unwrap_or_else(|error| panic!("{}: {error}", options.method.name()));
    (report, tensors(&options.output_dir.join("model.safetensors")))
}

/// A stored matrix, read element by element as the layout's description says.
pub struct Stored {
    method: Method,
    weight: Tensor,
    scale: Tensor,
    scale_2: f32,
    pre_quant_scale: Option<Vec<f32>>,
    n_columns: usize,
}

impl Stored {
    pub fn new(file: &TensorFile, module: &str, method: Method, (n, k): (usize, usize)) -> Self {
        let part = |name: &str| file.get(&format!("{module}.{name}"));
        let (weight, scale) = (part("weight").unwrap(), part("weight_scale").unwrap());
        let shapes = (weight.dtype(), weight.shape().to_vec(), scale.dtype(), scale.shape().to_vec());
        let wanted = match method {
            Method::Fp8 => (Dtype::F8_E4M3, vec![n, k], Dtype::F32, vec![]),
            Method::Int8Sq => (Dtype::I8, vec![n, k], Dtype::F32, vec![n]),
            Method::Nvfp4 => (Dtype::U8, vec![n, k / 2], Dtype::F8_E4M3, vec![n, k / 16]),
            Method::Mxfp8 => (Dtype::F8_E4M3, vec![n, k], Dtype::U8, vec![n, k / 32]),
            Method::Int4Awq { group } => (Dtype::U8, vec![n / 2, k], Dtype::F32, vec![n, k / group]),
        };
        assert_eq!(shapes, wanted, "{module}");
        let has_input_scale = !matches!(method, Method::Int4Awq { .. } | Method::Mxfp8);
        assert_eq!(part("input_scale").is_some(), has_input_scale, "{module}");
        let pre_quant_scale = part("pre_quant_scale").map(|scales| {
            assert_eq!((scales.dtype(), scales.shape()), (Dtype::F16, &[k][..]));
            scales.data().chunks(2).map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32()).collect()
        });
        assert_eq!(pre_quant_scale.is_some(), matches!(method, Method::Int4Awq { .. } | Method::Int8Sq));
        let scale_2 = part("weight_scale_2").map_or(1.0, |scale| f32_at(&scale, 0));
        Self { method, weight, scale, scale_2, pre_quant_scale, n_columns: k }
    }

    /// Scale of an element, without that of its input.
    fn scale(&self, row: usize, column: usize) -> f32 {
        let k = self.n_columns;
        match self.method {
            Method::Fp8 => f32_at(&self.scale, 0),
            Method::Int8Sq => f32_at(&self.scale, row),
            Method::Nvfp4 => e4m3(self.scale.data()[row * k / 16 + column / 16]) * self.scale_2,
            Method::Mxfp8 => 2.0_f32.powi(i32::from(self.scale.data()[row * k / 32 + column / 32]) - 127),
            Method::Int4Awq { group } => f32_at(&self.scale, row * k / group + column / group),
        }
    }

    /// What stands for a weight.
    pub fn value(&self, row: usize, column: usize) -> f32 {
        self.code(row, column) * self.scale(row, column) * self.input_scale(column)
    }

    fn code(&self, row: usize, column: usize) -> f32 {
        let (bytes, k) = (self.weight.data(), self.n_columns);
        match self.method {
            Method::Fp8 | Method::Mxfp8 => e4m3(bytes[row * k + column]),
            Method::Int8Sq => f32::from(bytes[row * k + column].cast_signed()),
            Method::Nvfp4 => {
                let byte = bytes[row * k / 2 + column / 2];
                e2m1(if column.is_multiple_of(2) { byte & 15 } else { byte >> 4 })
            }
            Method::Int4Awq { .. } => {
                let byte = bytes[row / 2 * k + column];
                let nibble = if row.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                f32::from(if nibble < 8 { nibble.cast_signed() } else { nibble.cast_signed() - 16 })
            }
        }
    }

    fn input_scale(&self, column: usize) -> f32 {
        self.pre_quant_scale.as_ref().map_or(1.0, |scales| scales[column])
    }

    /// Every value that a code can have.
    fn codes(&self) -> Vec<f32> {
        match self.method {
            Method::Fp8 | Method::Mxfp8 => (0..=255).map(e4m3).filter(|value| !value.is_nan()).collect(),
            Method::Int8Sq => (-127_i8..=127).map(f32::from).collect(),
            Method::Nvfp4 => (0..16).map(e2m1).collect(),
            Method::Int4Awq { .. } => (-8_i8..8).map(f32::from).collect(),
        }
    }
}

fn f32_at(tensor: &Tensor, index: usize) -> f32 {
    f32::from_le_bytes(tensor.data()[index * 4..][..4].try_into().unwrap())
}

/// Sign, 4 bits of exponent with a bias of 7, 3 bits of fraction.
fn e4m3(code: u8) -> f32 {
    let sign = if code >= 128 { -1.0 } else { 1.0 };
    match (code & 127) / 8 {
        _ if code & 127 == 127 => f32::NAN,
        0 => sign * f32::from(code & 7) * 2.0_f32.powi(-9),
        exponent => sign * (8.0 + f32::from(code & 7)) / 8.0 * 2.0_f32.powi(i32::from(exponent) - 7),
    }
}

/// Sign, 2 bits of exponent with a bias of 1, 1 bit of fraction.
fn e2m1(code: u8) -> f32 {
    let sign = if code >= 8 { -1.0 } else { 1.0 };
    match (code & 7) / 2 {
        0 => sign * f32::from(code & 1) / 2.0,
        exponent => sign * (2.0 + f32::from(code & 1)) / 2.0 * 2.0_f32.powi(i32::from(exponent) - 1),
    }
}

/// The demo checkpoint's matrices, `(module, [out][in])`, of the first layer.
fn originals() -> BTreeMap<String, Vec<Vec<f32>>> {
    let file = tensors(&data("demo/checkpoint/model.safetensors"));
    let is_matrix = |name: &&str| name.starts_with("model.layers.0.") && name.ends_with("proj.weight");
    file.names()
        .filter(is_matrix)
        .map(|name| {
            let tensor = file.get(name).unwrap();
            let bf16 = |two: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([two[0], two[1]])) << 16);
            let values: Vec<f32> = tensor.data().chunks(2).map(bf16).collect();
            let rows = values.chunks(tensor.shape()[1]).map(<[f32]>::to_vec).collect();
            (name.strip_suffix(".weight").unwrap().to_owned(), rows)
        })
        .collect()
}

#[test]
fn every_weight_is_the_nearest_that_the_layout_can_hold() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let originals = originals();
    assert_eq!(originals.len(), 7);
    for method in Method::ALL {
        // With a text, int4 does not round each weight by itself.
        let rounding = if method.is_int4_awq() { Rounding::Nearest } else { Rounding::Calibrated };
        let (_, file) =
            run(&QuantizeOptions { rounding, ..options(&folder.path().join(method.name()), method) });
        for (module, rows) in &originals {
            let stored = Stored::new(&file, module, method, (rows.len(), rows[0].len()));
            let mut codes = stored.codes();
            codes.sort_by(f32::total_cmp);
            for (row_idx, row) in rows.iter().enumerate().step_by(3) {
                for (column, w) in row.iter().enumerate().step_by(5) {
                    let wanted = w / stored.input_scale(column) / stored.scale(row_idx, column);
                    let found = stored.code(row_idx, column);
                    let at = codes.partition_point(|code| *code < wanted);
                    let near =
                        [at.saturating_sub(1), at.min(codes.len() - 1)].map(|at| (codes[at] - wanted).abs());
                    let nearest = near[0].min(near[1]);
                    let off = (found - wanted).abs();
                    assert!(
                        off <= nearest * 1.0001 + 1e-4,
                        "{} {module} [{row_idx}, {column}]: {w} became {found}, wanted {wanted}",
                        method.name()
                    );
                }
            }
        }
    }
}

#[test]
fn plain_scales_are_those_of_the_largest_magnitude() {
    let folder = tempfile::tempdir().unwrap();
    let originals = originals();
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
    for method in Method::ALL {
        let plain = QuantizeOptions {
            rounding: Rounding::Nearest,
            n_sequences: 4,
            ..options(&folder.path().join(method.name()), method)
        };
        let (_, file) = run(&plain);
        // Reads activations that no other matrix reads, so its scales are its own.
        let module = "model.layers.0.mlp.down_proj";
        let rows = &originals[module];
        let stored = Stored::new(&file, module, method, (rows.len(), rows[0].len()));
        let all = rows.iter().fold(0.0, |most: f32, row| most.max(largest(row)));
        for (row_idx, row) in rows.iter().enumerate() {
            for first in (0..row.len()).step_by(128) {
                let found = stored.scale(row_idx, first);
                let block = |n: usize| largest(&row[first..first + n]);
                let (low, high) = match method {
                    Method::Fp8 => (all / 448.0, all / 448.0),
                    Method::Int8Sq => (largest(row) / 127.0, largest(row) / 127.0),
                    // Rounded to f16, to E4M3, and up to a power of two.
                    Method::Int4Awq { .. } => (block(128) / 7.0 * 0.999, block(128) / 7.0 * 1.001),
                    Method::Nvfp4 => (block(16) / 6.0 * 0.93, block(16) / 6.0 * 1.07),
                    Method::Mxfp8 => (block(32) / 448.0, block(32) / 224.0),
                };
                let is_near = found >= low * 0.99999 && found <= high * 1.00001;
                assert!(is_near, "{} row {row_idx}: {found}, wanted {low} to {high}", method.name());
            }
        }
    }
}

#[test]
fn scales_of_the_text_beat_plain_rounding() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let calibrated =
        QuantizeOptions { n_sequences: 64, ..options(&folder.path().join("awq"), Method::INT4_AWQ) };
    let (awq, file) = run(&calibrated);
    // What the report says of each matrix is what the layout's description makes of the file.
    for (module, rows) in originals() {
        let stored = Stored::new(&file, &module, Method::INT4_AWQ, (rows.len(), rows[0].len()));
        let (mut differences, mut sizes) = (0.0, 0.0);
        for (row_idx, row) in rows.iter().enumerate() {
            for (column, w) in row.iter().enumerate() {
                differences += f64::from((stored.value(row_idx, column) - w).abs());
                sizes += f64::from(w.abs());
            }
        }
        let reported = awq.matrices.iter().find(|matrix| matrix.module == module).unwrap().weight_error;
        assert!((differences / sizes - reported).abs() < 1e-5, "{module}: {reported}");
        assert!((0.08..0.17).contains(&reported), "{module}: {reported}");
    }
    let plain = QuantizeOptions {
        output_dir: folder.path().join("plain"),
        rounding: Rounding::Nearest,
        ..calibrated.clone()
    };
    let (plain, _) = run(&plain);
    let ratio = |report: &QuantizeReport| report.perplexity.1 / report.perplexity.0;
    println!("int4_awq {:.4}x, rounded to the nearest {:.4}x", ratio(&awq), ratio(&plain));
    assert_eq!(awq.perplexity.0, plain.perplexity.0);
    assert!(ratio(&awq) < ratio(&plain), "{} {}", ratio(&awq), ratio(&plain));
    assert!(ratio(&awq) <= 1.02, "{}", ratio(&awq));
    assert!(share_of_right_answers(&calibrated.output_dir) > 0.97, "of the engine built of it");
    let output =
        |report: &QuantizeReport| report.matrices.iter().map(|matrix| matrix.output_error).sum::<f64>();
    assert!(output(&awq) < 0.75 * output(&plain), "{} {}", output(&awq), output(&plain));
}

/// Of the answers' tokens that transformers gives for the original, those that an engine of the checkpoint gives.
fn share_of_right_answers(checkpoint: &Path) -> f64 {
    let built = Built::new(checkpoint, Precision::Stored, 2);
    let expected = json(&data("demo/expected.json"));
    let (mut n_right, mut n) = (0, 0);
    for case in expected["base"].as_array().unwrap().iter().step_by(3) {
        let ids = |name: &str| serde_json::from_value::<Vec<u32>>(case[name].clone()).unwrap();
        let (prompt, answer) = (ids("prompt_ids"), ids("answer_ids"));
        let rows = built.logits(&[&prompt[..], &answer].concat(), None, 64);
        let found = rows[prompt.len() - 1..].iter().map(|row| argmax(row));
        n_right += found.zip(&answer).filter(|(found, wanted)| found == *wanted).count();
        n += answer.len();
    }
    n_right as f64 / n as f64
}

#[test]
fn bytes_do_not_depend_on_threads_and_all_files_come_along() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = |name: &str, n_threads: usize| -> BTreeMap<String, Vec<u8>> {
        let output_dir = folder.path().join(name);
        let options = QuantizeOptions {
            n_threads,
            n_sequences: 8,
            quantizes_cache: Cache::Fp8,
            ..options(&output_dir, Method::INT4_AWQ)
        };
        quantize(&options).unwrap();
        // A second time over the first.
        quantize(&options).unwrap();
        let entries = fs::read_dir(&output_dir).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect()
    };
    let one = files("one", 1);
    assert!(one == files("three", 3));
    let names: Vec<&str> = one.keys().map(String::as_str).collect();
    for name in
        ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "quantization_report.json"]
    {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    assert_eq!(one["tokenizer.json"], fs::read(data("demo/checkpoint/tokenizer.json")).unwrap());
    let about = json(&folder.path().join("one/hf_quant_config.json"));
    let wanted = serde_json::json!({
        "quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": "FP8", "group_size": 128, "has_zero_point": false,
        "pre_quant_scale": true, "exclude_modules": ["lm_head", "model.embed_tokens"],
    });
    assert_eq!(about["quantization"], wanted);
    let config = json(&folder.path().join("one/config.json"));
    assert_eq!(config["quantization_config"]["quant_algo"], "W4A16_AWQ");
    assert_eq!(config["hidden_size"], 256);
    let file = tensors(&folder.path().join("one/model.safetensors"));
    for name in ["k_proj.k_scale", "v_proj.v_scale"] {
        let scale = file.get(&format!("model.layers.3.self_attn.{name}")).unwrap();
        assert!(f32_at(&scale, 0) > 0.0 && scale.shape().is_empty());
    }
    assert!(file.get("lm_head.weight").is_none(), "a tied head is the embedding");
    assert_eq!(file.get("model.embed_tokens.weight").unwrap().dtype(), Dtype::F16);
}

/// A reference model with a tokenizer beside it.
fn with_tokenizer(model: &str, tokenizer: &str, directory: &Path) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    for entry in fs::read_dir(reference("models").join(model)).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_file() {
            fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
        }
    }
    let tokenizer = reference("tokenizers").join(tokenizer).join("tokenizer.json");
    fs::copy(tokenizer, directory.join("tokenizer.json")).unwrap();
    directory.to_owned()
}

#[test]
fn an_untied_head_may_have_a_method_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let model_dir = with_tokenizer("llama3", "llama3", &folder.path().join("model"));
    let mixed = QuantizeOptions {
        model_dir,
        calibration_text: None,
        n_sequences: 8,
        head: Some(Method::Fp8),
        ..options(&folder.path().join("mixed"), Method::Nvfp4)
    };
    let (report, file) = run(&mixed);
    assert_eq!(report.matrices.last().unwrap().module, "lm_head");
    assert_eq!(file.get("lm_head.weight").unwrap().dtype(), Dtype::F8_E4M3);
    assert!(f32_at(&file.get("lm_head.input_scale").unwrap(), 0) > 0.0);
    let about = &json(&folder.path().join("mixed/hf_quant_config.json"))["quantization"];
    assert_eq!(about["quant_algo"], "MIXED_PRECISION");
    assert_eq!(about["quantized_layers"]["lm_head"], serde_json::json!({ "quant_algo": "FP8" }));
    let wanted = serde_json::json!({ "quant_algo": "NVFP4", "group_size": 16 });
    assert_eq!(about["quantized_layers"]["model.layers.0.mlp.up_proj"], wanted);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let refused = |options: &QuantizeOptions, said: &str| {
        let error = quantize(options).expect_err(said).to_string();
        assert!(error.contains(said), "wanted {said:?} in {error:?}");
    };
    let usual = options(&output, Method::Fp8);
    refused(&QuantizeOptions { head: Some(Method::Fp8), ..usual.clone() }, "lm_head is tied");
    refused(
        &QuantizeOptions { output_dir: data("demo/checkpoint"), ..usual.clone() },
        "choose another output",
    );
    refused(&QuantizeOptions { output_dir: data("demo"), ..usual.clone() }, "choose another output");
    let text = folder.path().join("text.jsonl");
    fs::write(&text, "{\"text\": \"one two three\"}\n{\"words\": 1}\n").unwrap();
    refused(&QuantizeOptions { calibration_text: Some(text), ..usual.clone() }, "line 2");
    let missing = folder.path().join("missing.txt");
    refused(&QuantizeOptions { calibration_text: Some(missing), ..usual.clone() }, "missing.txt");
    let model_dir = with_tokenizer("qwen2", "qwen2", &folder.path().join("model"));
    let narrow = QuantizeOptions { model_dir: model_dir.clone(), calibration_text: None, ..usual.clone() };
    let odd = with_tokenizer("qwen2_odd", "qwen2", &folder.path().join("odd"));
    let odd = QuantizeOptions { method: Method::INT4_AWQ, model_dir: odd, ..narrow.clone() };
    refused(&odd, "no multiple of 32");
    assert!(!output.exists(), "nothing is left behind");
    let report = quantize(&QuantizeOptions { n_sequences: 8, ..narrow.clone() }).unwrap().to_string();
    assert!(report.contains("held tokens of the text that comes with this program"), "{report}");
    let again = QuantizeOptions { model_dir: output, output_dir: folder.path().join("twice"), ..narrow };
    refused(&again, "the checkpoint is quantized");
}

/// Rows of 64 and 160 have no groups of 128; what is written says so, and an engine takes it.
#[test]
fn int4_takes_the_groups_that_fit() {
    let folder = tempfile::tempdir().unwrap();
    let output_dir = folder.path().join("awq");
    let model_dir = with_tokenizer("qwen2", "qwen2", &folder.path().join("model"));
    let options = QuantizeOptions { model_dir, n_sequences: 8, ..options(&output_dir, Method::INT4_AWQ) };
    let report = quantize(&options).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("groups of 32")), "{:?}", report.warnings);
    let about = json(&output_dir.join("hf_quant_config.json"));
    assert_eq!(about["quantization"]["group_size"], 32);
    let engine_dir = folder.path().join("engine");
    build_engine(&output_dir, &engine_dir, Precision::Stored);
    let engine = Engine::open(&engine_dir).unwrap();
    let architecture = &engine.config.architecture;
    for projection in Projection::ALL {
        let (name, shape) = (projection_weight(1, projection), architecture.projection_shape(projection));
        let kind = StoredMatrix::find(&engine.tensors, &name, shape).unwrap().kind;
        assert!(matches!(kind, Kind::Int4 { group: 32, .. }), "{name}: {kind}");
    }
}
