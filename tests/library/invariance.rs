//! A request's tokens and logprobs do not depend on what else runs, nor on how its prompt is cut.

use std::collections::HashMap;
use std::sync::Arc;

use crate::support::{Built, reference, token};
use jetspool::device::Cpu;
use jetspool::device::cpu::Lora;
use jetspool::infer::{
    AdapterUse, InferError, Output, PrefixCache, Runner, RunnerOptions, Sampling, SequenceId, Sharing,
    StepCounts, Submission,
};
use jetspool::model::BLOCK_LEN;
use jetspool::numbers::{KvCacheDtype, Precision};

type Adapter = Arc<Lora>;

const N_REQUESTS: usize = 12;

/// A reference model and the adapters that its requests use.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    adapters: &'static [&'static str],
    /// Prompts hold ids below it.
    n_ids: usize,
    kv_cache: KvCacheDtype,
}

const QWEN2: Model = Model {
    name: "qwen2",
    adapters: &["all_r8", "rslora", "attention_r4", "mlp_r3"],
    n_ids: 500,
    kv_cache: KvCacheDtype::Auto,
};
/// Layers with a window and without.
const GEMMA3: Model = Model { name: "gemma3", adapters: &["all_r6", "attention_r4"], ..QWEN2 };
/// Keys and values in eight bits.
const GEMMA3_CODES: Model = Model { kv_cache: KvCacheDtype::Int8, ..GEMMA3 };
/// Rows are sorted by expert, and an expert's rows by adapter.
const QWEN3_MOE: Model =
    Model { name: "qwen3_moe", adapters: &["experts_r4", "attention_r4", "down_r3"], n_ids: 180, ..QWEN2 };

impl Model {
    fn build(self, precision: Precision, n_threads: usize) -> (Built, Vec<Adapter>) {
        let folder = reference("models").join(self.name);
        let built = Built::new(&folder, precision, n_threads).with_kv_cache(self.kv_cache);
        let loras =
            self.adapters.iter().map(|name| built.lora(&folder.join("adapters").join(name))).collect();
        (built, loras)
    }
}

/// The adapters of a request, which are numbered from 1, and how much of each: none, one, two or three.
fn adapters_of(index: usize, n_loras: usize) -> Vec<(usize, f32)> {
    let mut uses = Vec::new();
    if let number @ 1.. = index % (n_loras + 1) {
        uses.push((number, if index % 3 == 1 { 0.5 } else { 1.0 }));
    }
    if index % 4 == 3 {
        uses.push((index % n_loras + 1, 0.75));
    }
    if index % 6 == 4 {
        // One of them may be there already.
        uses.extend([(1, -0.5), (n_loras, 0.25)]);
    }
    uses
}

/// A request: prompt, adapters, sampling; different for every index.
fn submission(index: usize, loras: &[Adapter], n_ids: usize) -> Submission<Cpu> {
    Submission {
        prompt: (0..5 + index * 9).map(|i| token((i * 31 + index * 17) % n_ids)).collect(),
        adapters: adapter_uses(loras, &adapters_of(index, loras.len())),
        sampling: Sampling {
            temperature: if index.is_multiple_of(3) { 0.0 } else { 0.9 },
            top_p: 0.95,
            top_k: 40,
            seed: index as u64,
            logit_bias: vec![(3, 1.5)],
        },
        guide: None,
        max_new_tokens: 20 + index,
        stop_tokens: Arc::new([7]),
        num_logprobs: 4,
        priority: 0,
        sharing: Sharing::default(),
    }
}

fn adapter_uses(loras: &[Adapter], uses: &[(usize, f32)]) -> Vec<AdapterUse<Cpu>> {
    uses.iter()
        .map(|&(number, scale)| AdapterUse {
            lora: Arc::clone(&loras[number - 1]),
            scale,
            content: number as u64,
        })
        .collect()
}

fn options(max_batch_size: usize, max_step_rows: usize) -> RunnerOptions {
    RunnerOptions {
        max_batch_size,
        max_input_len: 512,
        capacity: 1024,
        max_step_rows,
        max_kv_bytes: usize::MAX,
        prefix_cache: PrefixCache::Bytes(0),
    }
}

/// Tokens, and the logprobs' bits.
type Trace = Vec<(u32, Vec<(u32, u32)>)>;

fn trace(output: &Output) -> (u32, Vec<(u32, u32)>) {
    (output.token, output.logprobs.iter().map(|l| (l.token, l.logprob.to_bits())).collect())
}

/// Runs the requests with these limits and returns each one's trace.
fn run(
    requests: &[usize],
    max_batch_size: usize,
    max_step_rows: usize,
    precision: Precision,
) -> HashMap<usize, Trace> {
    run_model(QWEN2, requests, max_batch_size, max_step_rows, precision)
}

fn run_model(
    model: Model,
    requests: &[usize],
    max_batch_size: usize,
    max_step_rows: usize,
    precision: Precision,
) -> HashMap<usize, Trace> {
    let (built, loras) = model.build(precision, 2);
    let mut runner = Runner::new(built.decoder, options(max_batch_size, max_step_rows)).unwrap();
    let mut ids: HashMap<SequenceId, usize> = HashMap::new();
    let mut traces: HashMap<usize, Trace> = HashMap::new();
    for &index in requests {
        ids.insert(runner.add(submission(index, &loras, model.n_ids)).unwrap(), index);
    }
    while !runner.is_idle() {
        for output in runner.step() {
            traces.entry(ids[&output.id]).or_default().push(trace(&output));
        }
    }
    assert_eq!(runner.n_used_blocks(), 0);
    traces
}

#[test]
fn windows_and_experts_give_the_same_bits_in_other_company() {
    let all: Vec<usize> = (0..N_REQUESTS).collect();
    for (model, precision) in [
        (GEMMA3, Precision::F16),
        (GEMMA3_CODES, Precision::F16),
        (QWEN3_MOE, Precision::F32),
        (QWEN3_MOE, Precision::Int4),
    ] {
        let name = model.name;
        let together = run_model(model, &all, 8, 64, precision);
        assert!(together.values().all(|trace| trace.len() > 1));
        let reversed: Vec<usize> = all.iter().rev().copied().collect();
        assert!(run_model(model, &reversed, 5, 9, precision) == together, "{name}: other order and chunks");
        for index in [1, 2, 11] {
            let alone = run_model(model, &[index], 1, 1, precision);
            assert!(alone[&index] == together[&index], "{name} {precision:?}: {index} alone");
        }
    }
}

#[test]
fn alone_together_and_in_other_chunks_give_the_same_bits() {
    let all: Vec<usize> = (0..N_REQUESTS).collect();
    for precision in [Precision::F32, Precision::F16, Precision::Int8, Precision::Int4] {
        let together = run(&all, 8, 64, precision);
        assert!(together.values().all(|trace| trace.len() > 1));
        let reversed: Vec<usize> = all.iter().rev().copied().collect();
        assert!(run(&reversed, 8, 9, precision) == together, "{precision:?}: other order and chunks");
        assert!(run(&all, 3, 200, precision) == together, "{precision:?}: smaller batches");
        for index in [0, 4, 7, 11] {
            assert!(
                run(&[index], 1, 1, precision)[&index] == together[&index],
                "{precision:?}: {index} alone"
            );
        }
    }
}

#[test]
fn a_cancelled_sequence_disturbs_nobody_and_gives_its_blocks_back() {
    let (built, loras) = QWEN2.build(Precision::Int8, 1);
    let wanted = run(&[1], 1, 64, Precision::Int8)[&1].clone();
    let mut runner = Runner::new(built.decoder, options(3, 32)).unwrap();
    let kept = runner.add(submission(1, &loras, QWEN2.n_ids)).unwrap();
    let others: Vec<SequenceId> =
        [2, 3, 4].map(|i| runner.add(submission(i, &loras, QWEN2.n_ids)).unwrap()).to_vec();
    let mut found = Vec::new();
    for step in 0.. {
        for output in runner.step() {
            if output.id == kept {
                found.push(trace(&output));
            }
        }
        if step == 3 {
            others.iter().for_each(|&id| runner.cancel(id));
        }
        if runner.is_idle() {
            break;
        }
    }
    assert_eq!(found, wanted);
    assert_eq!(runner.n_used_blocks(), 0);
}

#[test]
fn more_blocks_than_numbers_are_refused() {
    let (built, _) = QWEN2.build(Precision::F32, 1);
    let options = RunnerOptions { capacity: 16, ..options(1 << 33, 32) };
    let error = Runner::new(built.decoder, options).err().unwrap().to_string();
    assert!(error.contains("8589934592 blocks"), "{error}");
}

/// Runs submissions to their ends, all added at once. Returns each one's trace and what the steps computed.
fn run_all(runner: &mut Runner<Cpu>, submissions: Vec<Submission<Cpu>>) -> (Vec<Trace>, StepCounts) {
    let ids: Vec<SequenceId> = submissions.into_iter().map(|asked| runner.add(asked).unwrap()).collect();
    let mut traces = vec![Trace::new(); ids.len()];
    let mut counts = StepCounts::default();
    while !runner.is_idle() {
        for output in runner.step() {
            let index = ids.iter().position(|id| *id == output.id).unwrap();
            traces[index].push(trace(&output));
        }
        counts.add(runner.last_step());
        let kv = runner.kv_memory();
        assert!(kv.in_use <= kv.reserved && kv.reserved <= kv.capacity, "{kv:?}");
        assert!(kv.in_use + kv.cached <= kv.committed && kv.committed <= kv.capacity, "{kv:?}");
    }
    assert_eq!(runner.n_used_blocks(), 0);
    (traces, counts)
}

#[test]
fn preempted_sequences_get_the_same_bits_within_the_budget() {
    let all: Vec<usize> = (0..N_REQUESTS).collect();
    let wanted = run(&all, 8, 64, Precision::Int8);
    for prefix_cache in [PrefixCache::Bytes(0), PrefixCache::Blocks(3), PrefixCache::DEFAULT] {
        let (built, loras) = QWEN2.build(Precision::Int8, 2);
        let block_bytes = built.decoder.block_bytes();
        // The longest request, of 104 + 31 - 1 positions, takes 9 blocks; all twelve would take about 60.
        let max_kv_bytes = 14 * block_bytes + block_bytes / 2;
        let options = RunnerOptions { max_kv_bytes, prefix_cache, ..options(8, 64) };
        let mut runner = Runner::new(built.decoder, options).unwrap();
        assert_eq!(runner.kv_memory().capacity, 14 * block_bytes as u64);
        let too_long = Submission { max_new_tokens: 300, ..submission(0, &loras, QWEN2.n_ids) };
        let (needed, available) = (19 * block_bytes, 14 * block_bytes);
        assert_eq!(runner.add(too_long), Err(InferError::Memory { n_tokens: 304, needed, available }));
        let submissions = all.iter().map(|&index| submission(index, &loras, QWEN2.n_ids)).collect();
        let (traces, counts) = run_all(&mut runner, submissions);
        assert!(counts.n_preempted > 0 && counts.n_recomputed_tokens > 0, "{counts:?}");
        for (index, trace) in traces.iter().enumerate() {
            assert!(*trace == wanted[&index], "{prefix_cache:?}: {index}");
        }
        let kv = runner.kv_memory();
        assert_eq!(kv.cached > 0, prefix_cache != PrefixCache::Bytes(0), "{kv:?}");
        runner.drop_cached_blocks();
        runner.give_back_memory();
        assert_eq!((runner.kv_memory().committed, runner.kv_memory().cached), (0, 0));
    }
}

/// Requests in threes that begin alike, and differ in adapters, scale or order from the next three.
fn alike(loras: &[Adapter]) -> Vec<Submission<Cpu>> {
    let uses: [&[(usize, f32)]; 6] =
        [&[], &[(1, 1.0)], &[(1, 0.5)], &[(2, 1.0)], &[(1, 1.0), (2, 1.0)], &[(2, 1.0), (1, 1.0)]];
    let requests = (0..3).flat_map(|turn| uses.map(|used| (turn, used)));
    requests
        .enumerate()
        .map(|(index, (turn, used))| Submission {
            prompt: (0..90).chain((0..5 * turn + 1).map(|i| 200 + 20 * turn + i)).collect(),
            adapters: adapter_uses(loras, used),
            ..submission(index, loras, QWEN2.n_ids)
        })
        .collect()
}

#[test]
fn what_others_computed_gives_the_same_bits() {
    for precision in [Precision::F32, Precision::F16, Precision::Int8, Precision::Int4] {
        let traces = |max_batch_size, prefix_cache, max_kv_blocks| {
            let (built, loras) = QWEN2.build(precision, 2);
            let max_kv_bytes = built.decoder.block_bytes() * max_kv_blocks;
            let options = RunnerOptions { prefix_cache, max_kv_bytes, ..options(max_batch_size, 40) };
            let mut runner = Runner::new(built.decoder, options).unwrap();
            let (first, counts) = run_all(&mut runner, alike(&loras));
            let (second, _) = run_all(&mut runner, alike(&loras));
            assert!(second == first, "{precision:?}: the second time");
            (first, counts)
        };
        let (wanted, counts) = traces(1, PrefixCache::Bytes(0), 500);
        assert_eq!(counts.n_cached_tokens, 0);
        for max_batch_size in [1, 5, 12] {
            let (found, counts) = traces(max_batch_size, PrefixCache::DEFAULT, 500);
            assert!(found == wanted, "{precision:?}, batch of {max_batch_size}");
            // 90 tokens hold 5 blocks; the first of each three computes them. Ten more tokens may be copied.
            let n_copied = counts.n_cached_tokens - 12 * 5 * BLOCK_LEN;
            assert!(n_copied <= 12 * 10 && n_copied.is_multiple_of(10), "{n_copied}");
            assert!(max_batch_size > 1 || n_copied == 12 * 10, "{n_copied}");
            let (found, counts) = traces(max_batch_size, PrefixCache::DEFAULT, 16);
            assert!(found == wanted, "{precision:?}, batch of {max_batch_size} with little memory");
            assert!(max_batch_size == 1 || counts.n_preempted > 0, "{counts:?}");
        }
    }
}

#[test]
fn windows_and_experts_share_too() {
    for (model, precision) in
        [(GEMMA3, Precision::F16), (GEMMA3_CODES, Precision::Int8), (QWEN3_MOE, Precision::Int4)]
    {
        let traces = |prefix_cache| {
            let (built, loras) = model.build(precision, 2);
            let options = RunnerOptions { prefix_cache, ..options(4, 40) };
            let mut runner = Runner::new(built.decoder, options).unwrap();
            let with_system = |index: usize| {
                let mut asked = submission(index % 4, &loras, model.n_ids);
                asked.prompt = (0..80).map(|i| token(i * 7 % model.n_ids)).chain(asked.prompt).collect();
                asked
            };
            run_all(&mut runner, (0..8).map(with_system).collect())
        };
        let (wanted, _) = traces(PrefixCache::Bytes(0));
        let (found, counts) = traces(PrefixCache::DEFAULT);
        assert!(found == wanted, "{}", model.name);
        assert!(counts.n_cached_tokens >= 4 * 80, "{counts:?}");
    }
}

#[test]
fn a_hundred_requests_with_one_system_prompt_read_it_once() {
    let (built, loras) = QWEN2.build(Precision::Int4, 2);
    let options = RunnerOptions { prefix_cache: PrefixCache::DEFAULT, ..options(8, 128) };
    let mut runner = Runner::new(built.decoder, options).unwrap();
    let submissions: Vec<Submission<Cpu>> = (0..100)
        .map(|index| Submission {
            prompt: (0..500).map(|i| i * 3 % 490).chain([index, index + 1, 5]).collect(),
            adapters: Vec::new(),
            guide: None,
            max_new_tokens: 4,
            ..submission(index as usize, &loras, QWEN2.n_ids)
        })
        .collect();
    let (_, counts) = run_all(&mut runner, submissions);
    // Of 503 tokens 31 blocks are common, and four tokens that are copied once somebody has ended.
    let common = 500 / BLOCK_LEN * BLOCK_LEN;
    assert_eq!((counts.n_prompt_tokens + counts.n_cached_tokens, counts.n_prompts_read), (100 * 503, 100));
    let n_copied = counts.n_cached_tokens - 99 * common;
    assert!((4 * 84..=4 * 99).contains(&n_copied), "{n_copied}");
}
