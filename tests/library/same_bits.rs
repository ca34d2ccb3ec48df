//! The same bits on every processor: logits of reference models, with and without an adapter, in every precision, by
//! every table of this processor; and the same as on the machine where these digests were taken.

use std::sync::Arc;

use crate::support::{build_engine, limits, reference, tables, tensors, token};
use jetspool::device::Cpu;
use jetspool::format::Adapter;
use jetspool::kernels::Kernels;
use jetspool::model::{BLOCK_LEN, Decoder, LogitRows, Segment, block_ids};
use jetspool::numbers::{KvCacheDtype, Precision};
use jetspool::store::Engine;
use jetspool::tools::{ProcessOptions, process_lora};

/// Of the logits' bits (FNV-1a, 64 bits), taken on x86-64 with AVX2.
const DIGESTS: [(&str, &str, Precision, KvCacheDtype, u64); 10] = [
    ("qwen2", "patterns", Precision::F32, KvCacheDtype::Auto, 0xe4d3_fccc_455e_f49c),
    ("qwen2", "patterns", Precision::F16, KvCacheDtype::Auto, 0xc436_7c82_17c8_4335),
    ("qwen2", "patterns", Precision::Int8, KvCacheDtype::Auto, 0xd342_27bf_890c_e54f),
    ("qwen2", "patterns", Precision::Int4, KvCacheDtype::Auto, 0x21f9_6c6a_2155_c1d2),
    ("qwen3_moe", "experts_r4", Precision::F16, KvCacheDtype::Auto, 0xa2bb_567e_45b3_bd78),
    ("qwen3_moe", "experts_r4", Precision::Int4, KvCacheDtype::Auto, 0x6b26_758c_ce93_42d9),
    ("gemma3", "", Precision::Int8, KvCacheDtype::Auto, 0xdbac_87e6_37a1_f5d0),
    ("llama_mqa", "all_r8", Precision::Int4, KvCacheDtype::Auto, 0xb78e_a1ed_ba17_06ad),
    ("qwen2", "patterns", Precision::F16, KvCacheDtype::Int8, 0x13bf_51c6_5f2f_56d6),
    ("llama_mqa", "all_r8", Precision::Int8, KvCacheDtype::Int8, 0xde17_f63e_3ae7_9d02),
];

/// Logits of all positions of a prompt that spans several blocks, as bits.
fn logits(kernels: Kernels, directory: &std::path::Path, adapter: &str, kv_cache: KvCacheDtype) -> Vec<u32> {
    let engine = Engine::open(&directory.join("engine")).unwrap();
    let decoder = Decoder::new(Cpu::new(kernels, 2).unwrap(), &engine.config, &engine.tensors)
        .unwrap()
        .with_kv_cache(kv_cache);
    let lora = (!adapter.is_empty()).then(|| {
        let output_dir = directory.join("adapter");
        let input_dir = reference(adapter);
        process_lora(&ProcessOptions::new(input_dir, output_dir.clone())).unwrap();
        let file = tensors(&output_dir.join("processed_adapter_model.safetensors"));
        let adapter = Adapter::bind(file, decoder.architecture(), limits().max_lora_rank).unwrap();
        Arc::new(decoder.lora(&adapter).unwrap())
    });
    let vocab_size = decoder.architecture().vocab_size;
    let tokens: Vec<u32> = (0..37).map(|i| token((i * 7919 + 11) % vocab_size)).collect();
    let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
    let blocks = block_ids(0..n_blocks);
    let (mut cache, mut workspace) = (decoder.cache(n_blocks).unwrap(), decoder.workspace());
    let segment = Segment {
        tokens: &tokens,
        start: 0,
        blocks: &blocks,
        loras: lora.iter().map(|lora| (lora, 0.5)).collect(),
        logits: LogitRows::All,
    };
    let n_rows = decoder.forward(&[segment], &mut cache, &mut workspace).unwrap();
    (0..n_rows).flat_map(|row| decoder.logits(&workspace, row).iter().map(|x| x.to_bits())).collect()
}

fn digest(bits: &[u32]) -> u64 {
    let bytes = bits.iter().flat_map(|bits| bits.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn logits_are_the_same_on_every_processor() {
    let mut wrong = Vec::new();
    for (model, adapter, precision, kv_cache, wanted) in DIGESTS {
        let scratch = tempfile::tempdir().unwrap();
        build_engine(&reference(&format!("models/{model}")), &scratch.path().join("engine"), precision);
        let mut tables = tables();
        let adapter =
            if adapter.is_empty() { String::new() } else { format!("models/{model}/adapters/{adapter}") };
        let best = logits(tables.remove(0), scratch.path(), &adapter, kv_cache);
        for kernels in tables {
            let name = kernels.name;
            let same = logits(kernels, scratch.path(), &adapter, kv_cache) == best;
            assert!(same, "{model} {adapter} {precision} by {name}");
        }
        if digest(&best) != wanted {
            wrong.push(format!("{model} {adapter} {precision} {kv_cache:?}: {:#x}", digest(&best)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
