//! What Phi-3 and the backbones of larger models do that other decoders do not: fused matrices and adapters,
//! one table of longrope per engine, tensors that an engine leaves out.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::support::{Built, build_options, ids, limits, reference, tensors};
use jetspool::device::Cpu;
use jetspool::device::cpu::Lora;
use jetspool::format::{Limits, TensorFile};
use jetspool::kernels::Kernels;
use jetspool::model::{BLOCK_LEN, Decoder, LogitRows, Segment, block_ids};
use jetspool::numbers::Precision;
use jetspool::store::Engine;
use jetspool::tools::{BuildOptions, BuildReport, ToolError, build, inspect};

fn build_with(
    checkpoint: &Path,
    engine_dir: &Path,
    max_kv_cache_capacity: usize,
) -> Result<BuildReport, ToolError> {
    let max_input_len = max_kv_cache_capacity.min(16);
    let limits = Limits { max_input_len, max_kv_cache_capacity, ..limits() };
    build(&BuildOptions { limits, ..build_options(checkpoint, engine_dir, Precision::F32, 0) })
}

/// Largest difference of the first tokens' logits, computed alone, to transformers'.
fn brief_difference(max_kv_cache_capacity: usize) -> f32 {
    let folder = tempfile::tempdir().unwrap();
    let engine_dir = folder.path().join("engine");
    let report = build_with(&reference("models/phi3_long"), &engine_dir, max_kv_cache_capacity).unwrap();
    let warned = report.warnings.iter().any(|warning| warning.contains("long factors"));
    assert_eq!(warned, max_kv_cache_capacity > 16, "{:?}", report.warnings);
    let engine = Engine::open(&engine_dir).unwrap();
    let decoder = Decoder::new(Cpu::new(Kernels::detect(), 1).unwrap(), &engine.config, &engine.tensors);
    let built = Built { folder, decoder: decoder.unwrap() };
    let file = tensors(&reference("logits/phi3_long.safetensors"));
    let wanted = file.get("brief.base").unwrap();
    let tokens = &ids(&file, "short.tokens")[..wanted.shape()[0]];
    let found = built.logits(tokens, None, 5).concat();
    let wanted = wanted.as_slice::<f32>().unwrap();
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max)
}

#[test]
fn the_engines_capacity_chooses_the_longrope_table() {
    // Made for 16 positions; transformers takes the short factors for a text of 12 tokens.
    for capacity in [12, 16] {
        let difference = brief_difference(capacity);
        assert!(difference < 1e-4, "capacity {capacity}: {difference}");
    }
    let difference = brief_difference(17);
    assert!(difference > 1e-2, "the long factors give the same: {difference}");
}

type Adapter = Option<Arc<Lora>>;

/// Logits of the last token of each text, all of them in one step.
fn last_logits(built: &Built, texts: &[(&[u32], &Adapter)]) -> Vec<Vec<f32>> {
    let n_blocks = texts.iter().map(|(tokens, _)| tokens.len().div_ceil(BLOCK_LEN)).max().unwrap();
    let blocks: Vec<Vec<u32>> =
        (0..texts.len()).map(|i| block_ids(i * n_blocks..(i + 1) * n_blocks)).collect();
    let mut cache = built.decoder.cache(n_blocks * texts.len()).unwrap();
    let mut workspace = built.decoder.workspace();
    let segments: Vec<Segment<Cpu>> = texts
        .iter()
        .zip(&blocks)
        .map(|((tokens, lora), blocks)| Segment {
            tokens,
            start: 0,
            blocks,
            loras: lora.iter().map(|lora| (lora, 1.0)).collect(),
            logits: LogitRows::Last,
        })
        .collect();
    let n_rows = built.decoder.forward(&segments, &mut cache, &mut workspace).unwrap();
    (0..n_rows).map(|row_idx| built.decoder.logits(&workspace, row_idx).to_vec()).collect()
}

#[test]
fn neighbours_do_not_change_a_bit_under_fused_adapters() {
    let tokens = ids(&tensors(&reference("logits/phi3_short.safetensors")), "long.tokens");
    for precision in [Precision::F32, Precision::Int4] {
        let built = Built::new(&reference("models/phi3_short"), precision, 3);
        let adapter = |name: &str| -> Adapter {
            Some(built.lora(&reference(&format!("models/phi3_short/adapters/{name}"))))
        };
        let (all, patterns) = (adapter("fused_all"), adapter("fused_patterns"));
        let texts = [
            (&tokens[..19], &all),
            (&tokens[3..40], &patterns),
            (&tokens[7..9], &None),
            (&tokens[..19], &patterns),
        ];
        let together = last_logits(&built, &texts);
        for (text, together) in texts.iter().zip(&together) {
            assert!(last_logits(&built, &[*text]) == [together.clone()], "{precision}");
        }
        assert!(together[0] != together[3]);
    }
}

#[test]
fn what_stands_beside_the_backbone_is_told() {
    struct Case {
        model: &'static str,
        warns: &'static [&'static str],
        shows: &'static [&'static str],
    }
    let cases = [
        Case {
            model: "phi4mm",
            warns: &["4 tensors for images and sound", "speech, vision: 32 tensors", "merge-lora"],
            shows: &[
                "phi4mm",
                "4 tensors for images",
                "speech, vision",
                "longrope beyond 2048",
                "12 of 16 rotated",
            ],
        },
        Case { model: "qwen2_5_vl", warns: &["tensors for images and sound"], shows: &["qwen2_5_vl"] },
        Case {
            model: "qwen3_vl",
            warns: &["tensors for images and sound"],
            shows: &["qwen3vl", "q and k norms"],
        },
    ];
    let scratch = tempfile::tempdir().unwrap();
    for case in cases {
        let checkpoint = reference(&format!("models/{}", case.model));
        let warnings =
            build_with(&checkpoint, &scratch.path().join(case.model), 64).unwrap().warnings.join("\n");
        let shown = inspect(&checkpoint).unwrap();
        assert!(!warnings.contains("are not used"), "{warnings}");
        for (text, words) in [(&warnings, case.warns), (&shown, case.shows)] {
            for word in words {
                assert!(text.contains(word), "{}: {text} does not say {word}", case.model);
            }
        }
    }
}

#[test]
fn a_fused_matrix_of_another_size_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let source = reference("models/phi3");
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    let fewer = config.replacen("\"num_key_value_heads\": 3", "\"num_key_value_heads\": 1", 1);
    assert_ne!(fewer, config);
    fs::write(scratch.path().join("config.json"), fewer).unwrap();
    fs::copy(source.join("model.safetensors"), scratch.path().join("model.safetensors")).unwrap();
    let error = build_with(scratch.path(), &scratch.path().join("engine"), 64).unwrap_err().to_string();
    for word in ["model.layers.0.self_attn.qkv_proj.weight", "[80, 48]", "[144, 48]"] {
        assert!(error.contains(word), "{error}");
    }
    // What is missing is named as the checkpoint should have it.
    let file = TensorFile::parse(Arc::new(fs::read(source.join("model.safetensors")).unwrap())).unwrap();
    let renamed: Vec<(String, _)> = file
        .names()
        .map(|name| {
            (name.replace("layers.1.mlp.gate_up_proj", "layers.1.mlp.other"), file.get(name).unwrap())
        })
        .collect();
    let views = renamed.iter().map(|(name, tensor)| {
        let view =
            safetensors::tensor::TensorView::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data());
        (name.as_str(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(scratch.path().join("model.safetensors"), bytes).unwrap();
    fs::write(scratch.path().join("config.json"), config).unwrap();
    let error = build_with(scratch.path(), &scratch.path().join("engine"), 64).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.gate_up_proj.weight"), "{error}");
}
