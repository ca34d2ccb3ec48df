//! Quantized checkpoints: engines that hold them as they are give the logits that transformers and PEFT give
//! with the same weights dequantized, are not larger than the checkpoint, and damage is named.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Built, build_options, ids, limits, matrix_numbers, reference, tensors};
use half::f16;
use jetspool::device::Cpu;
use jetspool::format::engine::{EMBEDDING, HEAD, items};
use jetspool::format::{StoredMatrix, TensorFile};
use jetspool::kernels::Kernels;
use jetspool::model::Decoder;
use jetspool::numbers::Precision;
use jetspool::numbers::kind::Stored;
use jetspool::store::Engine;
use jetspool::tools::{BuildOptions, BuildReport, ToolError, build};
use safetensors::Dtype;
use serde_json::{Value, json};

const CASES: [&str; 22] = [
    "auto_round",
    "auto_round_gptq",
    "awq_g128",
    "awq_g64",
    "ct_float",
    "ct_mixed",
    "ct_packed",
    "fp8",
    "fp8_blocks",
    "fused_gptq",
    "fused_int4_awq",
    "gptq_8bit",
    "gptq_order",
    "gptq_row",
    "gptq_symmetric",
    "gptq_v2",
    "int4_awq",
    "int8_sq",
    "mixed",
    "mxfp8",
    "nf4",
    "nvfp4",
];

fn checkpoint(name: &str) -> PathBuf {
    reference("quantized").join(name)
}

fn options(model_dir: &Path, engine_dir: &Path, precision: Precision) -> BuildOptions {
    BuildOptions { limits: limits(), ..build_options(model_dir, engine_dir, precision, 0) }
}

/// How far logits may move when inputs of codes are rounded to eight bits, as a share of the largest of them: these
/// models are two layers of random numbers, and know nothing that would stay. That weights are the checkpoint's to the
/// last bit is tried by themselves.
const ROUNDED_ACTIVATIONS: f32 = 0.06;

/// Largest difference to the reference over all positions and runs, in chunks of two lengths.
fn largest_difference(name: &str, what: &str, built: &Built) -> f32 {
    let folder = checkpoint(name);
    let wanted = tensors(&folder.join("logits.safetensors"));
    let tokens = ids(&wanted, "tokens");
    let mut largest = 0.0f32;
    for run in wanted.names().filter(|name| *name != "tokens") {
        let lora = (run != "base").then(|| built.lora(&folder.join("adapters").join(run)));
        let wanted: Vec<f32> = wanted.require(run).unwrap().as_slice::<f32>().unwrap().to_vec();
        let whole = built.logits(&tokens, lora.as_ref(), tokens.len());
        assert!(built.logits(&tokens, lora.as_ref(), 1) == whole, "{name} {run}: chunks change the bits");
        let found = whole.concat();
        assert_eq!(found.len(), wanted.len(), "{name}");
        let differences = found.iter().zip(&wanted).map(|(found, wanted)| (found - wanted).abs());
        let most =
            differences.fold(0.0, |most: f32, now| if now > most || now.is_nan() { now } else { most });
        println!("{name} {run} {what}: {most:.1e}");
        largest = largest.max(most);
        assert!(!most.is_nan());
    }
    largest
}

#[test]
fn logits_equal_those_of_the_dequantized_weights() {
    let mut over = Vec::new();
    let mut check = |name: &str, what: &str, built: &Built, bound: f32| {
        let most = largest_difference(name, what, built);
        if most > bound {
            over.push(format!("{name} {what}: {most} above {bound}"));
        }
    };
    for name in CASES {
        let wanted = tensors(&checkpoint(name).join("logits.safetensors")).require("base").unwrap();
        let size = wanted.as_slice::<f32>().unwrap().iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let bound = ROUNDED_ACTIVATIONS * size;
        check(name, "stored", &Built::new(&checkpoint(name), Precision::Stored, 2), bound);
        check(name, "f32", &Built::new(&checkpoint(name), Precision::F32, 2), 2e-5);
        check(name, "f16", &Built::new(&checkpoint(name), Precision::F16, 2), 3e-2);
    }
    assert!(over.is_empty(), "{over:?}");
}

/// Codes and scales mean the numbers that the checkpoint means by them.
#[test]
fn stored_weights_are_the_dequantized_ones() {
    for name in CASES {
        let folders = [Precision::Stored, Precision::F32].map(|precision| {
            let folder = tempfile::tempdir().unwrap();
            build(&options(&checkpoint(name), folder.path(), precision)).unwrap();
            folder
        });
        let [stored, plain] = folders.each_ref().map(|folder| Engine::open(folder.path()).unwrap());
        for item in items(&stored.config.architecture, Precision::F32) {
            // Tables are rounded to int8.
            if item.name() == EMBEDDING || item.name() == HEAD {
                continue;
            }
            let (Some(found), Some(wanted)) = (matrix_numbers(&stored, &item), matrix_numbers(&plain, &item))
            else {
                continue;
            };
            // What is not quantized is f16.
            for (found, wanted) in found.iter().zip(&wanted) {
                let bound = 1e-6_f32.max(wanted.abs() * 5e-4);
                assert!((found - wanted).abs() <= bound, "{name} {}: {found} {wanted}", item.name());
            }
        }
    }
}

/// What stands where in the engine, by type and shape, and how many bytes a matrix takes.
#[test]
fn engines_are_no_larger_than_what_was_quantized() {
    struct Case {
        name: &'static str,
        module: &'static str,
        /// Without the module's name.
        tensors: &'static [(&'static str, Dtype, &'static [usize])],
        kinds: &'static str,
    }
    let cases = [
        Case {
            name: "fp8",
            module: "mlp.down_proj",
            tensors: &[("weight", Dtype::F8_E4M3, &[5, 128, 16]), ("weight_scale", Dtype::F32, &[5, 16])],
            kinds: "8 fp8, 1 int8",
        },
        Case {
            name: "int4_awq",
            module: "self_attn.k_proj",
            tensors: &[
                ("bias", Dtype::F32, &[64]),
                ("pre_quant_scale", Dtype::F32, &[128]),
                ("weight", Dtype::U8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 1, 16]),
            ],
            kinds: "7 int4 in groups of 128, 1 int8",
        },
        Case {
            name: "nvfp4",
            module: "mlp.down_proj",
            tensors: &[
                ("weight", Dtype::F4, &[3, 12, 16, 8]),
                ("weight_scale", Dtype::F8_E4M3, &[3, 6, 16]),
                ("weight_scale_2", Dtype::F32, &[3, 16]),
            ],
            kinds: "7 nvfp4, 1 int8",
        },
        Case {
            name: "int8_sq",
            module: "mlp.up_proj",
            tensors: &[
                ("pre_quant_scale", Dtype::F32, &[64]),
                ("weight", Dtype::I8, &[6, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[6, 16]),
            ],
            kinds: "9 int8",
        },
        Case {
            name: "mxfp8",
            module: "mlp.up_proj",
            tensors: &[
                ("weight", Dtype::F8_E4M3, &[6, 64, 16]),
                ("weight_scale", Dtype::F8_E8M0, &[6, 2, 16]),
            ],
            kinds: "7 mxfp8, 1 int8",
        },
        Case {
            name: "mixed",
            module: "mlp.up_proj",
            tensors: &[
                ("weight", Dtype::F4, &[8, 8, 16, 8]),
                ("weight_scale", Dtype::F8_E4M3, &[8, 4, 16]),
                ("weight_scale_2", Dtype::F32, &[8, 16]),
            ],
            kinds: "4 int4 in groups of 64, 4 fp8, 3 f16, 3 nvfp4, 2 int8",
        },
        Case {
            name: "awq_g128",
            module: "self_attn.q_proj",
            tensors: &[
                ("bias", Dtype::F32, &[128]),
                ("weight", Dtype::U8, &[8, 16, 16, 4]),
                ("weight_scale", Dtype::F16, &[8, 1, 16]),
                ("weight_zero", Dtype::U8, &[8, 1, 16]),
            ],
            kinds: "6 int4 in groups of 128 with zeros, 1 f16, 1 int8",
        },
        Case {
            name: "gptq_order",
            module: "mlp.down_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[96]),
                ("weight", Dtype::U8, &[4, 12, 16, 4]),
                ("weight_scale", Dtype::F16, &[4, 3, 16]),
                ("weight_zero", Dtype::U8, &[4, 3, 16]),
            ],
            kinds: "7 int4 in groups of 32 with zeros, 2 int8",
        },
        Case {
            name: "ct_packed",
            module: "self_attn.v_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[64]),
                ("weight", Dtype::U8, &[2, 8, 16, 4]),
                ("weight_scale", Dtype::F32, &[2, 2, 16]),
                ("weight_zero", Dtype::U8, &[2, 2, 16]),
            ],
            kinds: "2 int8, 1 int8 in groups of 32, 1 int8 in groups of 32 with zeros, 1 int8 in groups of 64, \
                    1 int4 in groups of 32, 1 int4 in groups of 32 with zeros, 1 int4 in groups of 64, \
                    1 int4 in groups of 64 with zeros",
        },
        Case {
            name: "ct_packed",
            module: "mlp.up_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[64]),
                ("weight", Dtype::I8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 2, 16]),
                ("weight_zero", Dtype::F32, &[4, 2, 16]),
            ],
            kinds: "2 int8, 1 int8 in groups of 32, 1 int8 in groups of 32 with zeros, 1 int8 in groups of 64, \
                    1 int4 in groups of 32, 1 int4 in groups of 32 with zeros, 1 int4 in groups of 64, \
                    1 int4 in groups of 64 with zeros",
        },
        Case {
            name: "ct_float",
            module: "self_attn.o_proj",
            tensors: &[("weight", Dtype::F8_E4M3, &[4, 64, 16]), ("weight_scale", Dtype::F32, &[4, 2, 16])],
            kinds: "5 fp8, 2 int8, 1 f16, 1 fp8 in groups of 32",
        },
        Case {
            name: "ct_mixed",
            module: "mlp.down_proj",
            tensors: &[
                ("weight", Dtype::F4, &[4, 12, 16, 8]),
                ("weight_scale", Dtype::F8_E4M3, &[4, 6, 16]),
                ("weight_scale_2", Dtype::F32, &[4, 16]),
            ],
            kinds: "6 int8, 3 nvfp4",
        },
        Case {
            name: "fp8_blocks",
            module: "mlp.down_proj",
            tensors: &[("weight", Dtype::F8_E4M3, &[5, 128, 16]), ("weight_scale", Dtype::F32, &[5, 2, 16])],
            kinds: "6 fp8 in groups of 32, 1 int8, 1 fp8 in groups of 64",
        },
        Case {
            name: "gptq_8bit",
            module: "mlp.down_proj",
            tensors: &[
                ("input_order", Dtype::U32, &[64]),
                ("weight", Dtype::I8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 2, 16]),
                ("weight_zero", Dtype::F32, &[4, 2, 16]),
            ],
            kinds: "7 int8 in groups of 32 with zeros, 2 int8",
        },
        Case {
            name: "auto_round",
            module: "mlp.gate_proj",
            tensors: &[
                ("weight", Dtype::I8, &[4, 16, 16, 4]),
                ("weight_scale", Dtype::F32, &[4, 2, 16]),
                ("weight_zero", Dtype::F32, &[4, 2, 16]),
            ],
            kinds: "4 int4 in groups of 32 with zeros, 2 int8, 2 int8 in groups of 32 with zeros, 1 f16",
        },
        Case {
            name: "auto_round_gptq",
            module: "mlp.gate_proj",
            tensors: &[("weight", Dtype::U8, &[4, 8, 16, 4]), ("weight_scale", Dtype::F16, &[4, 2, 16])],
            kinds: "7 int4 in groups of 32, 2 int8",
        },
        Case {
            name: "nf4",
            module: "mlp.gate_proj",
            tensors: &[("weight", Dtype::F16, &[6, 64, 16])],
            kinds: "7 f16, 2 int8",
        },
        Case {
            name: "gptq_symmetric",
            module: "mlp.gate_proj",
            tensors: &[("weight", Dtype::U8, &[8, 16, 16, 4]), ("weight_scale", Dtype::F16, &[8, 1, 16])],
            kinds: "7 int4 in groups of 128, 1 int8",
        },
        Case {
            name: "gptq_row",
            module: "mlp.down_proj",
            tensors: &[
                ("weight", Dtype::U8, &[6, 20, 16, 4]),
                ("weight_scale", Dtype::F16, &[6, 1, 16]),
                ("weight_zero", Dtype::U8, &[6, 1, 16]),
            ],
            kinds: "6 int4 in groups of 96 with zeros, 2 int8, 1 int4 in groups of 160 with zeros",
        },
    ];
    for Case { name, module, tensors, kinds } in cases {
        let scratch = tempfile::tempdir().unwrap();
        let report = build(&options(&checkpoint(name), scratch.path(), Precision::Stored)).unwrap();
        assert_eq!(report.kinds, kinds, "{name}");
        let engine = Engine::open(scratch.path()).unwrap();
        let prefix = format!("model.layers.0.{module}.");
        let found: Vec<Stored> = engine
            .tensors
            .names()
            .filter_map(|full| {
                let tensor = engine.tensors.get(full)?;
                let name = full.strip_prefix(&prefix)?.to_owned();
                Some(Stored { name, dtype: tensor.dtype(), shape: tensor.shape().to_vec() })
            })
            .collect();
        let wanted: Vec<Stored> = tensors
            .iter()
            .map(|(name, dtype, shape)| Stored {
                name: (*name).to_owned(),
                dtype: *dtype,
                shape: shape.to_vec(),
            })
            .collect();
        assert_eq!(found, wanted, "{name}");
        let text = jetspool::tools::inspect(scratch.path()).unwrap();
        // Long lines are cut.
        assert!(text.contains(&kinds[..kinds.len().min(90)]), "{name}: {text}");
    }
}

#[test]
fn codes_scales_and_zeros_are_the_checkpoints_own() {
    let scratch = tempfile::tempdir().unwrap();
    build(&options(&checkpoint("awq_g64"), scratch.path(), Precision::Stored)).unwrap();
    let engine = Engine::open(scratch.path()).unwrap();
    let source = tensors(&checkpoint("awq_g64").join("model.safetensors"));
    let module = "model.layers.0.mlp.up_proj";
    let (n, k) = (128, 64);
    let matrix = StoredMatrix::find(&engine.tensors, &format!("{module}.weight"), (n, k)).unwrap();
    let scales: Vec<u8> = source.require(&format!("{module}.scales")).unwrap().data().to_vec();
    // One group: f16 `[1, n]` there, and sixteen by sixteen here.
    assert_eq!(matrix.scale.unwrap().data(), scales);
    let words = |part: &str| -> Vec<u32> {
        let tensor = source.require(&format!("{module}.{part}")).unwrap();
        tensor.data().chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    // AutoAWQ's order, written out: output 8 c + i lies at these bits of word c.
    let shift = [0, 16, 4, 20, 8, 24, 12, 28];
    let (qweight, qzeros) = (words("qweight"), words("qzeros"));
    for row in 0..n {
        let at = |words: &[u32], line: usize| words[line * (n / 8) + row / 8] >> shift[row % 8] & 15;
        assert_eq!(u32::from(matrix.zero.as_ref().unwrap().data()[row]), at(&qzeros, 0));
        for column in 0..k {
            let byte =
                matrix.values.data()[(row / 16 * (k / 8) + column / 8) * 64 + row % 16 * 4 + column % 4];
            let code = if column % 8 < 4 { byte & 15 } else { byte >> 4 };
            assert_eq!(u32::from(code), at(&qweight, column), "{row} {column}");
        }
    }
}

fn refused(model_dir: &Path, precision: Precision) -> String {
    let scratch = tempfile::tempdir().unwrap();
    match build(&options(model_dir, &scratch.path().join("engine"), precision)) {
        Ok(_) => panic!("{} was built", model_dir.display()),
        Err(error) => {
            assert_eq!(error.exit_code(), 65, "{error}");
            assert!(!scratch.path().join("engine").exists(), "{error} left files");
            error.to_string()
        }
    }
}

#[test]
fn precisions_that_do_not_fit_are_refused_with_advice() {
    for (name, precision) in [
        ("int4_awq", Precision::Int8),
        ("fp8", Precision::Int8),
        ("fp8", Precision::Int4),
        ("mixed", Precision::Int4),
        ("int8_sq", Precision::Int4),
    ] {
        let said = refused(&checkpoint(name), precision);
        assert!(said.contains("quantized as") && said.contains("leave --precision out"), "{name}: {said}");
    }
    for (name, precision) in [("gptq_order", Precision::Int4), ("int8_sq", Precision::Int8)] {
        let scratch = tempfile::tempdir().unwrap();
        let report = build(&options(&checkpoint(name), scratch.path(), precision)).unwrap();
        assert_eq!(report.config.precision, Precision::Stored, "{name}");
    }
    // What no engine has is rounded again.
    for (precision, kinds) in
        [(Precision::Int4, "7 int4 in blocks of 32 with minima, 2 int8"), (Precision::Int8, "9 int8")]
    {
        let scratch = tempfile::tempdir().unwrap();
        let report = build(&options(&checkpoint("nf4"), scratch.path(), precision)).unwrap();
        assert_eq!(report.kinds, kinds);
    }
}

#[test]
fn notes_say_what_is_not_applied() {
    let built = |name: &str| -> BuildReport {
        let scratch = tempfile::tempdir().unwrap();
        build(&options(&checkpoint(name), scratch.path(), Precision::Stored)).unwrap()
    };
    let fp8 = built("fp8").warnings.join("\n");
    assert!(fp8.contains("8 input_scale") && fp8.contains("kv_cache_quant_algo FP8"), "{fp8}");
    assert!(!fp8.contains("not used"), "{fp8}");
    for name in CASES {
        let warnings = built(name).warnings;
        let other: Vec<_> = warnings.iter().filter(|line| !line.contains("not applied")).collect();
        // max_kv_cache_capacity is above the model's 512 positions, and there is no text.
        let known = ["positions", "tokenizer.json", "no chat template"];
        let is_known = |line: &String| known.iter().any(|known| line.contains(known));
        assert!(other.into_iter().all(is_known), "{name}: {warnings:?}");
    }
}

/// A tensor of a checkpoint: type, shape, bytes.
type Parts = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn parts(file: &TensorFile) -> Parts {
    let of = |name: &str| {
        let tensor = file.get(name).unwrap();
        (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
    };
    file.names().map(|name| (name.to_owned(), of(name))).collect()
}

fn write(parts: &Parts, path: &Path) {
    let views = parts.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of a checkpoint with changed tensors and configuration.
fn changed(
    name: &str,
    change: impl FnOnce(&mut Parts),
    config: impl FnOnce(&mut Value),
) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let source = checkpoint(name);
    let mut tensors = parts(&tensors(&source.join("model.safetensors")));
    change(&mut tensors);
    write(&tensors, &scratch.path().join("model.safetensors"));
    let mut json = crate::support::json(&source.join("config.json"));
    config(&mut json);
    fs::write(scratch.path().join("config.json"), json.to_string()).unwrap();
    if let Ok(bytes) = fs::read(source.join("hf_quant_config.json")) {
        fs::write(scratch.path().join("hf_quant_config.json"), bytes).unwrap();
    }
    scratch
}

#[test]
fn damaged_tensors_are_named() {
    const UP: &str = "model.layers.0.mlp.up_proj";
    struct Case {
        name: &'static str,
        part: &'static str,
        change: fn(&mut (Dtype, Vec<usize>, Vec<u8>)),
        said: &'static str,
    }
    fn reshape(tensor: &mut (Dtype, Vec<usize>, Vec<u8>)) {
        let n = tensor.1.iter().product();
        tensor.1 = if tensor.1.len() == 1 { vec![1, n] } else { vec![n] };
    }
    fn put(tensor: &mut (Dtype, Vec<usize>, Vec<u8>), bytes: &[u8]) {
        tensor.2[..bytes.len()].copy_from_slice(bytes);
    }
    let nan = f32::NAN.to_le_bytes();
    assert_eq!(nan, [0, 0, 0xc0, 0x7f]);
    let cases = [
        Case { name: "fp8", part: "weight", change: |t| t.0 = Dtype::U8, said: "U8" },
        Case { name: "fp8", part: "weight", change: |t| put(t, &[0x7f]), said: "NaN" },
        Case { name: "fp8", part: "weight_scale", change: |t| put(t, &[0, 0, 0xc0, 0x7f]), said: "NaN" },
        Case { name: "nvfp4", part: "weight_scale", change: |t| put(t, &[0xff]), said: "NaN" },
        Case { name: "nvfp4", part: "weight_scale", change: reshape, said: "shape" },
        Case { name: "mxfp8", part: "weight_scale", change: |t| put(t, &[0xff]), said: "NaN" },
        Case { name: "mxfp8", part: "weight", change: reshape, said: "shape" },
        Case { name: "int4_awq", part: "pre_quant_scale", change: reshape, said: "shape" },
        Case { name: "int4_awq", part: "weight", change: reshape, said: "shape" },
        Case {
            name: "int4_awq",
            part: "weight_scale",
            change: |t| t.1 = vec![t.1[1], t.1[0]],
            said: "shape",
        },
        Case { name: "int8_sq", part: "weight", change: |t| t.0 = Dtype::U8, said: "U8" },
        Case { name: "int8_sq", part: "weight_scale", change: reshape, said: "shape" },
        Case { name: "awq_g64", part: "qzeros", change: reshape, said: "shape" },
        Case { name: "awq_g128", part: "qweight", change: reshape, said: "shape" },
        Case { name: "awq_g64", part: "scales", change: |t| t.0 = Dtype::I16, said: "I16" },
        Case { name: "gptq_order", part: "g_idx", change: |t| put(t, &[9, 0, 0, 0]), said: "group 9 of 2" },
        Case { name: "gptq_order", part: "g_idx", change: |t| put(t, &[255; 4]), said: "group -1 of 2" },
        Case { name: "gptq_order", part: "g_idx", change: |t| put(t, &[0; 8]), said: "gives group 0" },
        Case { name: "gptq_order", part: "g_idx", change: reshape, said: "shape" },
        Case { name: "ct_packed", part: "weight_packed", change: reshape, said: "shape" },
        Case { name: "ct_packed", part: "weight_zero_point", change: reshape, said: "shape" },
        Case { name: "ct_packed", part: "weight_shape", change: |t| put(t, &[65]), said: "[65, 64]" },
        Case {
            name: "ct_packed",
            part: "weight_g_idx",
            change: |t| put(t, &[9, 0, 0, 0]),
            said: "group 9 of 2",
        },
        Case { name: "ct_mixed", part: "weight_global_scale", change: |t| put(t, &[0; 4]), said: "above 0" },
        Case { name: "ct_mixed", part: "weight_scale", change: |t| put(t, &[0xff]), said: "NaN" },
        Case { name: "fp8_blocks", part: "weight_scale_inv", change: reshape, said: "shape" },
        Case { name: "fp8_blocks", part: "weight", change: |t| put(t, &[0x7f]), said: "NaN" },
        Case { name: "gptq_8bit", part: "qzeros", change: reshape, said: "shape" },
        Case {
            name: "nf4",
            part: "weight",
            change: |t| {
                t.1 = vec![8, 1];
                t.2.truncate(8);
            },
            said: "shape",
        },
        Case { name: "nf4", part: "weight.absmax", change: reshape, said: "shape" },
        Case { name: "nf4", part: "weight.quant_map", change: |t| put(t, &[0, 0, 0xc0, 0x7f]), said: "NaN" },
        Case { name: "gptq_v2", part: "qzeros", change: |t| t.1.reverse(), said: "shape" },
        Case { name: "gptq_v2", part: "scales", change: |t| put(t, &[0, 0x7c]), said: "inf" },
    ];
    for Case { name, part, change, said } in cases {
        let full = format!("{UP}.{part}");
        let model = changed(name, |parts| change(parts.get_mut(&full).unwrap()), |_| {});
        let message = refused(model.path(), Precision::Stored);
        assert!(message.contains(&full) && message.contains(said), "{name} {part}: {message}");
    }
    for (name, part) in [
        ("fp8", "weight_scale"),
        ("nvfp4", "weight_scale_2"),
        ("mxfp8", "weight_scale"),
        ("int4_awq", "weight_scale"),
        ("int8_sq", "weight_scale"),
        ("awq_g64", "qzeros"),
        ("awq_g64", "scales"),
        ("gptq_order", "scales"),
        ("gptq_order", "qzeros"),
        ("ct_packed", "weight_scale"),
        ("ct_packed", "weight_zero_point"),
        ("ct_mixed", "weight_global_scale"),
        ("fp8_blocks", "weight_scale_inv"),
        ("nf4", "weight.absmax"),
    ] {
        let full = format!("{UP}.{part}");
        let model = changed(name, |parts| drop(parts.remove(&full)), |_| {});
        let message = refused(model.path(), Precision::Stored);
        assert!(message.contains(&full) && message.contains("missing"), "{name} {part}: {message}");
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        move |config: &mut Value| config["quantization_config"][key] = value.clone()
    };
    let cases = [
        ("awq_g64", set("version", json!("gemv")), "gemv"),
        ("awq_g64", set("bits", json!(8)), "8"),
        ("ct_packed", set("quantization_status", json!("frozen")), "frozen"),
        ("awq_g64", set("group_size", json!(48)), "group_size"),
        ("gptq_order", set("bits", json!(3)), "3"),
        ("gptq_order", set("checkpoint_format", json!("marlin")), "marlin"),
        ("gptq_order", set("quant_method", json!("hqq")), "hqq"),
        ("gptq_order", set("group_size", json!(128)), "128 for the 64 inputs"),
    ];
    for (name, config, said) in cases {
        let model = changed(name, |_| {}, config);
        let message = refused(model.path(), Precision::Stored);
        assert!(message.contains(said), "{name}: {message}");
    }
    // What quantize-llm of release 0.5 left: plain weights with the numbers that would quantize them.
    let amax = |parts: &mut Parts| {
        let name = "model.layers.0.mlp.up_proj.weight_quantizer._amax".to_owned();
        parts.insert(name, (Dtype::F16, vec![1], vec![0, 0x3c]));
    };
    let message = refused(changed("int4_awq", amax, |_| {}).path(), Precision::Stored);
    assert!(message.contains("_amax") && message.contains("quantize again"), "{message}");
}

#[test]
fn zero_biases_and_bfloat16_scales_are_taken() {
    let scratch = tempfile::tempdir().unwrap();
    let to_bf16 = |parts: &mut Parts| {
        parts.insert("model.layers.0.self_attn.o_proj.bias".to_owned(), (Dtype::F16, vec![64], vec![0; 128]));
        let scales = parts.iter_mut().filter(|(name, _)| name.ends_with(".scales"));
        for (_, (dtype, _, data)) in scales {
            *dtype = Dtype::BF16;
            for pair in data.chunks_mut(2) {
                let value = f16::from_le_bytes([pair[0], pair[1]]).to_f32();
                pair.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
            }
        }
    };
    let model = changed("awq_g64", to_bf16, |_| {});
    let report = build(&options(model.path(), scratch.path(), Precision::Stored)).unwrap();
    assert!(!report.warnings.join(" ").contains("not used"), "{:?}", report.warnings);
    let engine = Engine::open(scratch.path()).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight_scale";
    assert_eq!(engine.tensors.require(name).unwrap().dtype(), Dtype::F32);
}

/// An engine whose tensors were changed is refused by who builds a decoder of it, never a panic.
#[test]
fn damaged_engines_are_named() {
    type Change = fn(&mut Parts);
    let cases: [(&str, Change, &str); 6] = [
        ("gptq_order", |parts| order(parts)[0] = 64, "input_order"),
        ("gptq_order", |parts| order(parts)[..4].fill(0), "input_order"),
        ("gptq_order", |parts| drop(parts.remove("model.layers.0.mlp.up_proj.weight_scale")), "weight_scale"),
        ("nvfp4", |parts| drop(parts.remove("model.layers.0.mlp.up_proj.weight_scale_2")), "weight_scale_2"),
        ("mxfp8", |parts| drop(parts.remove("model.layers.0.mlp.up_proj.weight_scale")), "weight_scale"),
        (
            "awq_g64",
            |parts| parts.get_mut("model.layers.0.mlp.up_proj.weight_zero").unwrap().1.reverse(),
            "weight_zero",
        ),
    ];
    fn order(parts: &mut Parts) -> &mut [u8] {
        &mut parts.get_mut("model.layers.0.mlp.up_proj.input_order").unwrap().2
    }
    for (name, change, said) in cases {
        let scratch = tempfile::tempdir().unwrap();
        build(&options(&checkpoint(name), scratch.path(), Precision::Stored)).unwrap();
        let engine = Engine::open(scratch.path()).unwrap();
        let mut tensors = parts(&engine.tensors);
        change(&mut tensors);
        let path = scratch.path().join("changed.safetensors");
        write(&tensors, &path);
        let file = crate::support::tensors(&path);
        let weight = "model.layers.0.mlp.up_proj.weight";
        let shape = match name {
            "gptq_order" | "mxfp8" => (96, 64),
            "nvfp4" => (80, 48),
            _ => (128, 64),
        };
        let error = StoredMatrix::find(&file, weight, shape).err().unwrap().to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
}

/// An engine's file with one more tensor, of ones, behind the others.
fn with_tensor(file: &TensorFile, name: &str, len: usize) -> Vec<u8> {
    let (bytes, start) = (file.as_bytes(), file.data_start());
    let mut header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let end = bytes.len() - start;
    header[name] = json!({"dtype": "F32", "shape": [len], "data_offsets": [end, end + 4 * len]});
    let mut header = header.to_string();
    while !(header.len() + 8).is_multiple_of(4096) {
        header.push(' ');
    }
    let ones = vec![1.0_f32; len].into_iter().flat_map(f32::to_le_bytes).collect();
    [(header.len() as u64).to_le_bytes().to_vec(), header.into_bytes(), bytes[start..].to_vec(), ones]
        .concat()
}

/// Rows of the embedding are looked up, and those of experts share their inputs: nothing changes these inputs.
#[test]
fn changes_of_inputs_are_refused_where_nothing_makes_them() {
    let cases = [
        ("qwen2", "model.embed_tokens.pre_quant_scale", 64, true),
        ("qwen3_moe", "model.layers.1.mlp.experts.gate_proj.pre_quant_scale", 48, true),
        ("qwen2", "model.layers.1.mlp.up_proj.pre_quant_scale", 64, false),
    ];
    for (model, name, len, is_refused) in cases {
        let scratch = tempfile::tempdir().unwrap();
        build(&options(&reference(&format!("models/{model}")), scratch.path(), Precision::F16)).unwrap();
        let engine = Engine::open(scratch.path()).unwrap();
        let weight = name.replace("pre_quant_scale", "weight");
        assert!(engine.tensors.get(&weight).is_some(), "{weight}");
        let file = TensorFile::parse(std::sync::Arc::new(with_tensor(&engine.tensors, name, len))).unwrap();
        let cpu = Cpu::new(Kernels::detect(), 1).unwrap();
        let error = Decoder::new(cpu, &engine.config, &file).err().map(|error| error.to_string());
        assert_eq!(error.is_some(), is_refused, "{name}: {error:?}");
        assert!(error.is_none_or(|error| error.contains(&weight)), "{name}");
    }
}

#[test]
fn other_tools_refuse_them() {
    let error = jetspool::store::Checkpoint::open(&checkpoint("fp8")).err().unwrap();
    assert!(error.to_string().contains("hf_quant_config.json"), "{error}");
    let error = ToolError::from(jetspool::store::Checkpoint::open(&checkpoint("awq_g64")).err().unwrap());
    assert!(error.to_string().contains("config.json") && error.exit_code() == 65, "{error}");
}
