//! A decoder on a GPU gives the bits that it gives on the processor: each kind of weights, each family, adapters, experts,
//! windows, keys and values of each kind. The GPU's driver stands in for one, and its kernels are those of the product.

use std::path::Path;
use std::sync::Arc;

use crate::quantized::support::names;
use crate::support::{build_engine, build_options, data, limits, reference, standin, tensors, token};
use jetspool::device::cuda::{Choice, Cuda, SOURCE, Tuning};
use jetspool::device::{Cpu, Device};
use jetspool::format::{Adapter, Limits};
use jetspool::kernels::Kernels;
use jetspool::model::{BLOCK_LEN, Decoder, LogitRows, Segment, block_ids};
use jetspool::numbers::{KvCacheDtype, Precision};
use jetspool::store::Engine;
use jetspool::tools::{BuildOptions, ProcessOptions, build, build_gguf, process_lora};

fn gpu() -> Cuda {
    standin::load();
    Cuda::open(0, "a stand-in".into(), &standin::module_of(SOURCE), 2).unwrap().unwrap()
}

fn cpu() -> Cpu {
    Cpu::new(Kernels::detect(), 2).unwrap()
}

/// What is computed: an engine in `engine` of the folder, and adapters.
struct Case<'a> {
    folder: &'a Path,
    adapters: &'a [&'a Path],
    kv_cache: KvCacheDtype,
    /// Tokens of the prompt.
    n_tokens: usize,
}

/// Logits of some steps as bits: a prompt in two chunks, then two sequences side by side, one with all adapters, the
/// other with the third one alone; at last one that goes on in a copy of the other's first block.
fn logits<D: Device>(device: D, case: &Case<'_>) -> Vec<u32> {
    let engine = Engine::open(&case.folder.join("engine")).unwrap();
    let decoder = Decoder::new(device, &engine.config, &engine.tensors).unwrap().with_kv_cache(case.kv_cache);
    let lora = |input_dir: &&Path| {
        let output_dir = case.folder.join(input_dir.file_name().unwrap());
        let options = ProcessOptions::new(input_dir.to_path_buf(), output_dir.clone());
        process_lora(&options).unwrap();
        let file = tensors(&output_dir.join("processed_adapter_model.safetensors"));
        let adapter = Adapter::bind(file, decoder.architecture(), limits().max_lora_rank).unwrap();
        Arc::new(decoder.lora(&adapter).unwrap())
    };
    let loras: Vec<_> = case.adapters.iter().map(lora).collect();
    let all: Vec<_> = loras.iter().zip([0.5, -0.75, 1.0]).collect();
    let later = all.get(2..).unwrap_or_default();
    let vocab_size = decoder.architecture().vocab_size;
    let tokens: Vec<u32> = (0..case.n_tokens + 2).map(|i| token((i * 7919 + 11) % vocab_size)).collect();
    let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
    // Blocks in no order.
    let all_blocks = block_ids(0..2 * n_blocks + 1);
    let blocks: Vec<u32> = all_blocks.iter().copied().skip(1).step_by(2).collect();
    let others: Vec<u32> = all_blocks.iter().copied().step_by(2).take(n_blocks).collect();
    let (mut cache, mut workspace) = (decoder.cache(2 * n_blocks + 1).unwrap(), decoder.workspace());
    let mut found = Vec::new();
    let mut step = |cache: &mut D::Cache, segments: &[Segment<'_, D>]| {
        let n_rows = decoder.forward(segments, cache, &mut workspace).unwrap();
        for row in 0..n_rows {
            found.extend(decoder.logits(&workspace, row).iter().map(|x| x.to_bits()));
        }
    };
    let segment = |first: usize, end: usize, blocks, loras: &[_], logits| Segment {
        tokens: &tokens[first..end],
        start: first,
        blocks,
        loras: loras.to_vec(),
        logits,
    };
    let (third, n) = (case.n_tokens / 3, case.n_tokens);
    step(&mut cache, &[segment(0, third, &blocks[..], &all, LogitRows::None)]);
    step(
        &mut cache,
        &[
            segment(0, n, &others[..], later, LogitRows::Last),
            segment(third, n, &blocks[..], &all, LogitRows::All),
        ],
    );
    step(
        &mut cache,
        &[
            segment(n, n + 1, &blocks[..], &all, LogitRows::Last),
            segment(n, n + 1, &others[..], later, LogitRows::Last),
        ],
    );
    step(&mut cache, &[segment(n + 1, n + 2, &blocks[..], &all, LogitRows::Last)]);
    let copied = all_blocks[2 * n_blocks];
    decoder.device().copy_block(&mut cache, others[0], copied);
    step(&mut cache, &[segment(8, 12, &[copied], later, LogitRows::All)]);
    found
}

fn assert_same(case: &Case<'_>, name: &str) {
    assert_same_on(gpu(), case, name);
}

fn assert_same_on(gpu: Cuda, case: &Case<'_>, name: &str) {
    let (wanted, found) = (logits(cpu(), case), logits(gpu, case));
    assert!(wanted.iter().all(|bits| f32::from_bits(*bits).is_finite()));
    assert_eq!(found.len(), wanted.len(), "{name}");
    if let Some(index) = (0..wanted.len()).find(|&i| wanted[i] != found[i]) {
        let [wanted, found] = [&wanted, &found].map(|all| f32::from_bits(all[index]));
        panic!("{name}: logit {index} is {found}, wanted {wanted}");
    }
}

#[test]
fn every_family_gives_the_processors_bits() {
    let cases = [
        ("qwen2", "patterns", Precision::F32, KvCacheDtype::Auto),
        ("qwen2", "patterns", Precision::F16, KvCacheDtype::Int8),
        ("qwen2", "all_r8", Precision::Int8, KvCacheDtype::Auto),
        ("qwen2", "all_r8", Precision::Int4, KvCacheDtype::Int8),
        ("qwen3_moe", "experts_r4", Precision::F16, KvCacheDtype::Auto),
        ("qwen3_moe", "experts_r4", Precision::Int4, KvCacheDtype::Auto),
        ("gemma3", "all_r6", Precision::Int8, KvCacheDtype::Auto),
        ("llama_mqa", "all_r8", Precision::Int4, KvCacheDtype::Auto),
        ("phi3_long", "", Precision::F16, KvCacheDtype::Auto),
    ];
    for (model, adapter, precision, kv_cache) in cases {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = reference(&format!("models/{model}"));
        build_engine(&checkpoint, &folder.path().join("engine"), precision);
        let adapter = checkpoint.join("adapters").join(adapter);
        let adapters: &[&Path] = if adapter.ends_with("adapters") { &[] } else { &[&adapter] };
        let case = Case { folder: folder.path(), adapters, kv_cache, n_tokens: 37 };
        assert_same(&case, &format!("{model} {precision} {kv_cache:?}"));
    }
}

#[test]
fn rows_of_none_one_and_several_adapters_give_the_processors_bits() {
    let cases = [
        ("qwen2", ["patterns", "attention_r4", "all_r8"], Precision::Int4),
        ("qwen3_moe", ["down_r3", "experts_r4", "attention_r4"], Precision::F16),
        ("phi3_short", ["fused_patterns", "fused_all", "fused_patterns"], Precision::Int8),
    ];
    for (model, adapters, precision) in cases {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = reference(&format!("models/{model}"));
        build_engine(&checkpoint, &folder.path().join("engine"), precision);
        let paths = adapters.map(|adapter| checkpoint.join("adapters").join(adapter));
        let [first, second, third] = paths.each_ref().map(|path| &**path);
        for adapters in [&[first, second][..], &[first, second, third]] {
            let kv_cache = KvCacheDtype::Auto;
            let case = Case { folder: folder.path(), adapters, kv_cache, n_tokens: 37 };
            assert_same(&case, &format!("{model} {precision} with {} adapters", adapters.len()));
        }
    }
}

#[test]
fn every_kind_of_stored_weights_gives_the_processors_bits() {
    for name in names() {
        let folder = tempfile::tempdir().unwrap();
        let (checkpoint, engine_dir) = (reference("quantized").join(name), folder.path().join("engine"));
        let options = build_options(&checkpoint, &engine_dir, Precision::Stored, 0);
        build(&BuildOptions { limits: limits(), ..options }).unwrap();
        let case = Case { folder: folder.path(), adapters: &[], kv_cache: KvCacheDtype::Auto, n_tokens: 19 };
        assert_same(&case, name);
    }
}

/// Of the two files together: every kind that GGUF files have and engines keep.
#[test]
fn blocks_of_gguf_files_give_the_processors_bits() {
    for name in ["llama_blocks", "llama_k_blocks"] {
        let folder = tempfile::tempdir().unwrap();
        let file = data(&format!("gguf/{name}.gguf"));
        let options = build_options(&file, &folder.path().join("engine"), Precision::Stored, 0);
        build_gguf(&BuildOptions { limits: limits(), ..options }).unwrap();
        let case = Case { folder: folder.path(), adapters: &[], kv_cache: KvCacheDtype::Auto, n_tokens: 19 };
        assert_same(&case, name);
    }
}

#[test]
fn long_sequences_are_put_together_of_the_same_parts() {
    let folder = tempfile::tempdir().unwrap();
    let (checkpoint, engine_dir) = (reference("models/gemma3"), folder.path().join("engine"));
    let options = build_options(&checkpoint, &engine_dir, Precision::Int8, 0);
    let limits = Limits { max_input_len: 1200, max_kv_cache_capacity: 1400, ..limits() };
    build(&BuildOptions { limits, ..options }).unwrap();
    let case = Case { folder: folder.path(), adapters: &[], kv_cache: KvCacheDtype::Auto, n_tokens: 1100 };
    assert_same(&case, "1100 tokens");
}

/// Everything that `tune` may choose.
#[test]
fn every_choice_of_launches_gives_the_processors_bits() {
    let never = usize::MAX;
    let choices = [([64, 64, 64, 128], never), ([256; 4], never), ([128; 4], 1), ([128; 4], 24)];
    let cases = [
        ("qwen2", "all_r8", Precision::Int4, 37, &choices[..]),
        ("qwen2", "all_r8", Precision::F16, 37, &choices[..2]),
        // More than 64 rows to an expert.
        ("qwen3_moe", "experts_r4", Precision::Int4, 150, &choices[1..3]),
    ];
    for (model, adapter, precision, n_tokens, choices) in cases {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = reference(&format!("models/{model}"));
        build_engine(&checkpoint, &folder.path().join("engine"), precision);
        let adapter = checkpoint.join("adapters").join(adapter);
        let adapters: &[&Path] = &[&adapter];
        let case = Case { folder: folder.path(), adapters, kv_cache: KvCacheDtype::Auto, n_tokens };
        for &(threads, gemm_from) in choices {
            let otherwise = Choice { threads, gemm_from };
            let tuned = gpu().with_tuning(Tuning { otherwise, ..Tuning::default() });
            assert_same_on(tuned, &case, &format!("{model} {precision} {otherwise:?}"));
        }
    }
}

#[test]
fn a_step_that_decodes_is_two_calls_of_the_driver() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = reference("models/qwen2");
    build_engine(&checkpoint, &folder.path().join("engine"), Precision::Int4);
    let engine = Engine::open(&folder.path().join("engine")).unwrap();
    let decoder = Decoder::new(gpu(), &engine.config, &engine.tensors).unwrap();
    let output_dir = folder.path().join("adapter");
    let input_dir = checkpoint.join("adapters/all_r8");
    process_lora(&ProcessOptions::new(input_dir, output_dir.clone())).unwrap();
    let file = tensors(&output_dir.join("processed_adapter_model.safetensors"));
    let adapter = Adapter::bind(file, decoder.architecture(), limits().max_lora_rank).unwrap();
    let loras = [(); 3].map(|()| Arc::new(decoder.lora(&adapter).unwrap()));
    let (mut cache, mut workspace) = (decoder.cache(8).unwrap(), decoder.workspace());
    let blocks: [&[u32]; 2] = [&[0, 1, 2, 3], &[4, 5, 6, 7]];
    let mut step = |position: usize, adapters: [&[usize]; 2]| {
        let tokens = [token(position % 90 + 3)];
        let segment = |i: usize| Segment {
            tokens: &tokens,
            start: position,
            blocks: &blocks[i][..=position / BLOCK_LEN],
            loras: adapters[i].iter().map(|lora| (&loras[*lora], 1.0)).collect(),
            logits: LogitRows::Last,
        };
        let before = decoder.device().n_calls();
        decoder.forward(&[segment(0), segment(1)], &mut cache, &mut workspace).unwrap();
        (decoder.logits(&workspace, 0)[0], decoder.device().n_calls() - before).1
    };
    // The blocks are all taken in the first steps; adapters come and go without another graph.
    let n_calls: Vec<u64> = (0..40)
        .map(|position| step(position, [&[position % 3], if position % 2 == 0 { &[1] } else { &[] }]))
        .collect();
    assert!(n_calls[0] > 20, "{n_calls:?}");
    assert!(n_calls[3..].iter().all(|n| *n == 2), "{n_calls:?}");
    // Without adapters it is another step, which becomes a graph too.
    let n_calls: Vec<u64> = (40..44).map(|position| step(position, [&[], &[]])).collect();
    assert!(n_calls[2..].iter().all(|n| *n == 2), "{n_calls:?}");
    // And with two adapters of one sequence a third one.
    let n_calls: Vec<u64> = (44..48)
        .map(|position| step(position, [&[position % 3, 1], if position % 2 == 0 { &[2] } else { &[] }]))
        .collect();
    assert!(n_calls[2..].iter().all(|n| *n == 2), "{n_calls:?}");
}
