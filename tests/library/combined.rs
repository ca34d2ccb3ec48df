//! Several adapters of one row equal PEFT's `add_weighted_adapter` with `combination_type="cat"`, with no copy of them.

use std::path::Path;
use std::sync::Arc;

use crate::support::{Built, argmax, ids, json, reference, tensors};
use jetspool::device::cpu::Lora;
use jetspool::numbers::{DeviceChoice, KvCacheDtype, Precision, round_to_f32};
use jetspool::probe::{LogitsOptions, logits};
use serde_json::Value;

const MODELS: [&str; 3] = ["llama_mqa", "phi3_short", "qwen3_moe"];

/// The adapters of a run in their order, with their weights.
fn adapters(built: &Built, model: &str, run: &Value) -> Vec<(Arc<Lora>, f32)> {
    let folder = reference(&format!("models/{model}/adapters"));
    let adapters = run["adapters"].as_array().unwrap();
    let adapter = |used: &Value| {
        let lora = built.lora(&folder.join(used["name"].as_str().unwrap()));
        (lora, round_to_f32(used["scale"].as_f64().unwrap()))
    };
    adapters.iter().map(adapter).collect()
}

fn borrowed(adapters: &[(Arc<Lora>, f32)]) -> Vec<(&Arc<Lora>, f32)> {
    adapters.iter().map(|(lora, scale)| (lora, *scale)).collect()
}

/// The runs of a model by name, with the file of their logits.
fn runs(model: &str) -> (serde_json::Map<String, Value>, std::path::PathBuf) {
    let file = json(&reference(&format!("combined/{model}.json")));
    (file["runs"].as_object().unwrap().clone(), reference(&format!("combined/{model}.safetensors")))
}

fn largest_difference(found: &[Vec<f32>], file: &Path, run: &str, precision: Precision) -> f32 {
    let file = tensors(file);
    let rounded = file.get(&format!("{run}@f16")).filter(|_| precision == Precision::F16);
    let wanted = rounded.or_else(|| file.get(run)).unwrap();
    let (found, wanted) = (found.concat(), wanted.as_slice::<f32>().unwrap());
    assert!(found.len() == wanted.len() && found.iter().all(|x| x.is_finite()), "{run}");
    found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_and_greedy_tokens_equal_pefts_weighted_adapters() {
    for (model, (precision, bound)) in
        MODELS.into_iter().flat_map(|m| [(Precision::F32, 1e-4), (Precision::F16, 3e-2)].map(|p| (m, p)))
    {
        let built = Built::new(&reference(&format!("models/{model}")), precision, 2);
        let (runs, file) = runs(model);
        let prompt = ids(&tensors(&file), "tokens");
        for (name, run) in &runs {
            let adapters = adapters(&built, model, run);
            let mut uses = borrowed(&adapters);
            let found = built.logits_with(&prompt, &uses, 5);
            let difference = largest_difference(&found, &file, name, precision);
            assert!(difference <= bound, "{model} {name} {precision}: {difference}");
            let wanted: Vec<u32> = serde_json::from_value(run["ids"].clone()).unwrap();
            if precision == Precision::F32 {
                // Fed with the reference's own tokens: every step must choose the same.
                let tokens = [&prompt[..], &wanted[..wanted.len() - 1]].concat();
                let rows = built.logits_with(&tokens, &uses, 7);
                let chosen: Vec<u32> = rows[prompt.len() - 1..].iter().map(|row| argmax(row)).collect();
                assert_eq!(chosen, wanted, "{model} {name}");
            }
            // Another order is the same sum, and other bits.
            uses.reverse();
            let other = built.logits_with(&prompt, &uses, 5);
            assert!(largest_difference(&other, &file, name, precision) <= bound, "{model} {name} reversed");
            assert!(precision == Precision::F16 || other != found, "{model} {name}: the order has no effect");
            // Each of them counts.
            uses.pop();
            let less = built.logits_with(&prompt, &uses, 5);
            let difference = largest_difference(&less, &file, name, precision);
            assert!(difference > 10.0 * bound, "{model} {name} without one: {difference}");
        }
    }
}

#[test]
fn the_probe_takes_several_adapters_and_no_scale_too_many() {
    let model = reference("models/llama_mqa");
    let built = Built::new(&model, Precision::F32, 2);
    let loras = ["all_r8", "attention_r4"].map(|name| built.lora(&model.join("adapters").join(name)));
    let path = |name: &str| built.folder.path().join(name).join("processed_adapter_model.safetensors");
    let output_file = built.folder.path().join("logits.safetensors");
    let options = |lora_scales: &[f32]| LogitsOptions {
        engine_dir: built.folder.path().join("engine"),
        loras: vec![path("all_r8"), path("attention_r4")],
        lora_scales: lora_scales.to_vec(),
        tokens: vec![5, 6, 7],
        output_file: output_file.clone(),
        threads: 2,
        kv_cache_dtype: KvCacheDtype::Auto,
        device: DeviceChoice::Cpu,
    };
    for scales in [&[][..], &[0.5], &[0.5, -0.25]] {
        logits(&options(scales)).unwrap();
        let file = tensors(&output_file);
        let found = file.require("logits").unwrap();
        let all = scales.iter().copied().chain([1.0, 1.0]);
        let wanted = built.logits_with(&[5, 6, 7], &loras.iter().zip(all).collect::<Vec<_>>(), 3).concat();
        assert!(found.as_slice::<f32>().unwrap() == wanted, "{scales:?}");
    }
    let error = logits(&options(&[1.0, 1.0, 1.0])).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().starts_with("3 scales are given for 2 adapters")),
        (64, true)
    );
}
