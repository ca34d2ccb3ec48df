//! The demo model: answers equal to transformers and PEFT, and what quantization costs.

use std::sync::Arc;

use crate::support::{Built, argmax, build_options, data, json, limits};
use jetspool::compress::{CalibrationOptions, build_calibrated};
use jetspool::device::cpu::Lora;
use jetspool::numbers::{KvCacheDtype, Precision};
use jetspool::tools::BuildOptions;

/// One prompt with the reference's answer.
struct Case {
    prompt_ids: Vec<u32>,
    answer_ids: Vec<u32>,
}

/// The adapter's name (none for the base) and every so manyth of its cases; an emulated processor gets few.
fn cases(step: usize) -> Vec<(Option<String>, Vec<Case>)> {
    let step = if std::env::var_os("JETSPOOL_TEST_RUNNER").is_some() { 20 } else { step };
    let expected = json(&data("demo/expected.json"));
    let ids = |value: &serde_json::Value| serde_json::from_value(value.clone()).unwrap();
    expected
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, cases)| {
            let cases = cases.as_array().unwrap().iter().step_by(step);
            let cases = cases
                .map(|case| Case {
                    prompt_ids: ids(&case["prompt_ids"]),
                    answer_ids: ids(&case["answer_ids"]),
                })
                .collect();
            ((name != "base").then(|| name.clone()), cases)
        })
        .collect()
}

fn lora(built: &Built, name: Option<&String>) -> Option<Arc<Lora>> {
    name.map(|name| built.lora(&data(&format!("demo/adapters/{name}"))))
}

/// Logits of the positions that choose the answer's tokens.
fn answer_logits(built: &Built, case: &Case, lora: Option<&Arc<Lora>>) -> Vec<Vec<f32>> {
    let tokens = [&case.prompt_ids[..], &case.answer_ids[..case.answer_ids.len() - 1]].concat();
    built.logits(&tokens, lora, 64).split_off(case.prompt_ids.len() - 1)
}

#[test]
fn greedy_answers_equal_transformers_and_peft() {
    let built = Built::new(&data("demo/checkpoint"), Precision::F32, 2);
    for (name, cases) in cases(1) {
        assert!(cases.len() >= 2);
        let lora = lora(&built, name.as_ref());
        for case in &cases {
            let rows = answer_logits(&built, case, lora.as_ref());
            let found: Vec<u32> = rows.iter().map(|row| argmax(row)).collect();
            assert_eq!(found, case.answer_ids, "{name:?}");
        }
    }
}

/// Mean Kullback-Leibler divergence in nats, and the share of positions with the same likeliest token.
fn compare(wanted: &[Vec<Vec<f32>>], found: &[Vec<Vec<f32>>]) -> (f64, f64) {
    let (mut divergence, mut n_same, mut n) = (0.0, 0_u32, 0_u32);
    for (wanted, found) in wanted.iter().flatten().zip(found.iter().flatten()) {
        let (p, q) = (log_softmax(wanted), log_softmax(found));
        divergence += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
        n_same += u32::from(argmax(wanted) == argmax(found));
        n += 1;
    }
    (divergence / f64::from(n), f64::from(n_same) / f64::from(n))
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
}

/// Of every third case.
fn all_answer_logits(built: &Built) -> Vec<Vec<Vec<f32>>> {
    let of_name = |(name, cases): (Option<String>, Vec<Case>)| {
        let lora = lora(built, name.as_ref());
        cases.iter().map(|case| answer_logits(built, case, lora.as_ref())).collect::<Vec<_>>()
    };
    cases(3).into_iter().flat_map(of_name).collect()
}

#[test]
fn a_text_brings_int4_nearer() {
    // An emulated processor takes minutes for the text; the arithmetic is that of quantize-llm.
    if std::env::var_os("JETSPOOL_TEST_RUNNER").is_some() {
        return;
    }
    let wanted = all_answer_logits(&Built::new(&data("demo/checkpoint"), Precision::F32, 2));
    let plain = all_answer_logits(&Built::new(&data("demo/checkpoint"), Precision::Int4, 2));
    let build = |n_threads| {
        let folder = tempfile::tempdir().unwrap();
        let options = BuildOptions {
            limits: limits(),
            n_threads,
            ..build_options(&data("demo/checkpoint"), &folder.path().join("engine"), Precision::Int4, 0)
        };
        let calibration =
            CalibrationOptions { text: data("demo/texts.jsonl"), n_sequences: 64, sequence_len: 64 };
        build_calibrated(&options, &calibration).unwrap();
        folder
    };
    let (folder, other) = (build(2), build(1));
    let bytes = |folder: &tempfile::TempDir| std::fs::read(folder.path().join("engine/llm.engine")).unwrap();
    assert!(bytes(&folder) == bytes(&other), "threads change the bytes");
    let shown = all_answer_logits(&Built::open(folder, 2));
    let (plain, shown) = (compare(&wanted, &plain).0, compare(&wanted, &shown).0);
    println!("KL divergence of int4 {plain:.2e} nats, with a text {shown:.2e}");
    assert!(shown < 0.8 * plain, "{shown} {plain}");
}

#[test]
fn quantized_engines_agree_with_f32() {
    let all_logits = |precision, head, kv_cache| {
        let built = Built::with_head(&data("demo/checkpoint"), precision, head, 2);
        all_answer_logits(&built.with_kv_cache(kv_cache))
    };
    let wanted = all_logits(Precision::F32, None, KvCacheDtype::Auto);
    let (f32, f16, int8, int4) = (Precision::F32, Precision::F16, Precision::Int8, Precision::Int4);
    for (precision, head, kv_cache, bound) in [
        (f16, None, KvCacheDtype::Auto, 0.999),
        (int8, None, KvCacheDtype::Auto, 0.99),
        (int4, None, KvCacheDtype::Auto, 0.95),
        (f32, None, KvCacheDtype::Int8, 0.999),
        (f32, Some(f16), KvCacheDtype::Auto, 0.999),
        (f32, Some(int8), KvCacheDtype::Auto, 0.99),
        (f32, Some(int4), KvCacheDtype::Auto, 0.95),
    ] {
        let (divergence, agreement) = compare(&wanted, &all_logits(precision, head, kv_cache));
        println!(
            "{:<5} head {:<5} keys and values {:<5} KL divergence {divergence:.2e} nats, top-1 {:.2}%",
            precision.name(),
            head.map_or("", Precision::name),
            kv_cache.name(),
            agreement * 100.0
        );
        assert!(agreement >= bound, "{}: {agreement}, wanted {bound}", precision.name());
    }
}
