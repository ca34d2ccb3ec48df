//! Logits and weights against those of the dequantized weights.

use std::collections::BTreeSet;

use crate::support::{Built, ids, matrix_numbers, reference, tensors};
use jetspool::format::engine::{EMBEDDING, HEAD, items};
use jetspool::numbers::{KvCacheDtype, Precision};
use jetspool::store::Engine;
use jetspool::tools::build;

use super::support::{checkpoint, names, options};

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
    for name in names() {
        let wanted = tensors(&checkpoint(name).join("logits.safetensors")).require("base").unwrap();
        let size = wanted.as_slice::<f32>().unwrap().iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let bound = ROUNDED_ACTIVATIONS * size;
        check(name, "stored", &Built::new(&checkpoint(name), Precision::Stored, 2), bound);
        check(name, "f32", &Built::new(&checkpoint(name), Precision::F32, 2), 2e-5);
        check(name, "f16", &Built::new(&checkpoint(name), Precision::F16, 2), 3e-2);
    }
    assert!(over.is_empty(), "{over:?}");
}

/// Codes that meet f32 give the logits of their numbers, where the tables and the cache are f32 too.
#[test]
fn logits_of_codes_that_meet_f32_are_as_near_as_those_of_numbers() {
    // One matrix of fp4 becomes f16.
    for (name, bound) in
        [("fp4", 2e-3), ("fp8_blocks", 1e-5), ("fp8_scale", 1e-5), ("mxfp8", 1e-5), ("nf4", 1e-5)]
    {
        let built = Built::with_head(&checkpoint(name), Precision::Stored, Some(Precision::F32), 2);
        let most = largest_difference(name, "codes and f32", &built.with_kv_cache(KvCacheDtype::F32));
        assert!(most <= bound, "{name}: {most}");
    }
}

/// Codes and scales mean the numbers that the checkpoint means by them.
#[test]
fn stored_weights_are_the_dequantized_ones() {
    for name in names() {
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

#[test]
fn the_list_of_fixtures_names_every_one() {
    let folders = std::fs::read_dir(reference("quantized")).unwrap();
    let found: BTreeSet<String> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, names().map(str::to_owned).collect());
}
