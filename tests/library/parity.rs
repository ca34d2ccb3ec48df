//! Logits and greedy tokens equal those of transformers and PEFT, on every reference model and adapter.

use crate::support::{Built, argmax, ids, json, models, reference, tensors};
use jetspool::numbers::Precision;

/// Largest difference of a run's logits to the reference, over both sequences. An f16 engine is compared
/// with the reference that holds the same f16 weights, where the checkpoint's are not f16 already.
fn largest_difference(built: &Built, model: &str, run: &str, precision: Precision) -> f32 {
    const CHUNK: usize = 16;
    let file = tensors(&reference(&format!("logits/{model}.safetensors")));
    let lora = (run != "base").then(|| built.lora(&reference(&format!("models/{model}/adapters/{run}"))));
    let mut largest = 0.0f32;
    for sequence in ["short", "long"] {
        let tokens = ids(&file, &format!("{sequence}.tokens"));
        let positions: Vec<u32> = match sequence {
            "short" => (0..).take(tokens.len()).collect(),
            _ => ids(&file, "long.positions"),
        };
        let name = format!("{sequence}.{run}");
        let rounded = file.get(&format!("{name}@f16")).filter(|_| precision == Precision::F16);
        let wanted = rounded.or_else(|| file.get(&name)).unwrap();
        let wanted = wanted.as_slice::<f32>().unwrap();
        let found = built.logits(&tokens, lora.as_ref(), CHUNK);
        let vocab_size = wanted.len() / positions.len();
        for (&position, wanted) in positions.iter().zip(wanted.chunks_exact(vocab_size)) {
            let found = &found[position as usize];
            assert_eq!(found.len(), vocab_size);
            for (found, wanted) in found.iter().zip(wanted) {
                assert!(found.is_finite());
                largest = largest.max((found - wanted).abs());
            }
        }
    }
    largest
}

fn check(precision: Precision, bound: f32) {
    let mut report = Vec::new();
    for (model, adapters) in models() {
        let built = Built::new(&reference(&format!("models/{model}")), precision, 2);
        for run in std::iter::once("base".to_owned()).chain(adapters) {
            let largest = largest_difference(&built, &model, &run, precision);
            report.push((largest, format!("{model} {run}")));
        }
    }
    report.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("largest differences at {}: {:?}", precision.name(), &report[..3]);
    let over: Vec<_> = report.iter().filter(|(largest, _)| *largest > bound).take(3).collect();
    assert!(over.is_empty(), "above {bound}: {over:?}");
}

#[test]
fn f32_logits_equal_transformers_and_peft() {
    check(Precision::F32, 1e-4);
}

#[test]
fn f16_logits_equal_transformers_and_peft() {
    check(Precision::F16, 3e-2);
}

#[test]
fn greedy_tokens_equal_transformers_and_peft() {
    for (model, adapters) in models() {
        let built = Built::new(&reference(&format!("models/{model}")), Precision::F32, 1);
        let greedy = json(&reference(&format!("greedy/{model}.json")));
        let prompt: Vec<u32> = serde_json::from_value(greedy["prompt"].clone()).unwrap();
        for run in std::iter::once("base".to_owned()).chain(adapters) {
            let wanted: Vec<u32> = serde_json::from_value(greedy["runs"][&run]["ids"].clone()).unwrap();
            let lora =
                (run != "base").then(|| built.lora(&reference(&format!("models/{model}/adapters/{run}"))));
            // Fed with the reference's own tokens: every step must choose the same.
            let tokens = [&prompt[..], &wanted[..wanted.len() - 1]].concat();
            let rows = built.logits(&tokens, lora.as_ref(), 7);
            let found: Vec<u32> = rows[prompt.len() - 1..].iter().map(|row| argmax(row)).collect();
            assert_eq!(found, wanted, "{model} {run}");
        }
    }
}

#[test]
fn chunks_and_threads_do_not_change_a_bit() {
    for model in ["qwen2_odd", "mistral_window", "qwen3", "phi3_long", "gemma3", "qwen3_moe"] {
        let checkpoint = reference(&format!("models/{model}"));
        let tokens = ids(&tensors(&reference(&format!("logits/{model}.safetensors"))), "long.tokens");
        for precision in Precision::ALL {
            let wanted = Built::new(&checkpoint, precision, 1).logits(&tokens, None, tokens.len());
            let built = Built::new(&checkpoint, precision, 3);
            for chunk in [1, 5, 16, 47] {
                assert!(
                    built.logits(&tokens, None, chunk) == wanted,
                    "{model} {} chunk {chunk}",
                    precision.name()
                );
            }
        }
    }
}
