//! A request's tokens and logprobs do not depend on what else runs, nor on how its prompt is cut.

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use jetspool::backend::Cpu;
use jetspool::format::Precision;
use jetspool::infer::{InferError, Output, Runner, RunnerOptions, Sampling, SequenceId, Submission};
use jetspool::model::Lora;
use support::{Built, reference};

type Adapter = Arc<Lora<Cpu>>;

const N_REQUESTS: usize = 12;

/// A reference model and the adapters that its requests use.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    adapters: &'static [&'static str],
    /// Prompts hold ids below it.
    n_ids: usize,
}

const QWEN2: Model =
    Model { name: "qwen2", adapters: &["all_r8", "rslora", "attention_r4", "mlp_r3"], n_ids: 500 };
/// Layers with a window and without.
const GEMMA3: Model = Model { name: "gemma3", adapters: &["all_r6", "attention_r4"], n_ids: 500 };
/// Rows are sorted by expert, and an expert's rows by adapter.
const QWEN3_MOE: Model =
    Model { name: "qwen3_moe", adapters: &["experts_r4", "attention_r4", "down_r3"], n_ids: 180 };

impl Model {
    fn build(self, precision: Precision, n_threads: usize) -> (Built, Vec<Adapter>) {
        let folder = reference("models").join(self.name);
        let built = Built::new(&folder, precision, n_threads);
        let loras =
            self.adapters.iter().map(|name| built.lora(&folder.join("adapters").join(name))).collect();
        (built, loras)
    }
}

/// A request: prompt, adapter, sampling; different for every index.
fn submission(index: usize, loras: &[Adapter], n_ids: usize) -> Submission<Cpu> {
    let lora = match index % (loras.len() + 1) {
        0 => None,
        i => Some((Arc::clone(&loras[i - 1]), if index % 3 == 1 { 0.5 } else { 1.0 })),
    };
    Submission {
        prompt: (0..5 + index * 9).map(|i| ((i * 31 + index * 17) % n_ids) as u32).collect(),
        lora,
        sampling: Sampling {
            temperature: if index.is_multiple_of(3) { 0.0 } else { 0.9 },
            top_p: 0.95,
            top_k: 40,
            seed: index as u64,
            logit_bias: vec![(3, 1.5)],
        },
        max_new_tokens: 20 + index,
        stop_tokens: Arc::new([7]),
        num_logprobs: 4,
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
    let options = RunnerOptions {
        max_batch_size,
        max_input_len: 512,
        capacity: 1024,
        max_step_rows,
        max_kv_bytes: usize::MAX,
    };
    let mut runner = Runner::new(built.decoder, options).unwrap();
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
    for (model, precision) in
        [(GEMMA3, Precision::F16), (QWEN3_MOE, Precision::F32), (QWEN3_MOE, Precision::Int4)]
    {
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
    let options = RunnerOptions {
        max_batch_size: 3,
        max_input_len: 512,
        capacity: 1024,
        max_step_rows: 32,
        max_kv_bytes: usize::MAX,
    };
    let mut runner = Runner::new(built.decoder, options).unwrap();
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
    let options = RunnerOptions {
        max_batch_size: 1 << 33,
        max_input_len: 512,
        capacity: 16,
        max_step_rows: 32,
        max_kv_bytes: usize::MAX,
    };
    let error = Runner::new(built.decoder, options).err().unwrap().to_string();
    assert!(error.contains("8589934592 blocks"), "{error}");
}

#[test]
fn sequences_that_wait_for_memory_get_the_same_bits_and_never_more_than_the_budget() {
    let all: Vec<usize> = (0..N_REQUESTS).collect();
    let wanted = run(&all, 8, 64, Precision::Int8);
    let (built, loras) = QWEN2.build(Precision::Int8, 2);
    let block_bytes = built.decoder.block_bytes();
    // The longest request, of 104 + 31 - 1 positions, takes 9 blocks; all twelve would take about 60.
    let options = RunnerOptions {
        max_batch_size: 8,
        max_input_len: 512,
        capacity: 1024,
        max_step_rows: 64,
        max_kv_bytes: 14 * block_bytes + block_bytes / 2,
    };
    let mut runner = Runner::new(built.decoder, options).unwrap();
    assert_eq!(runner.kv_memory().capacity, 14 * block_bytes as u64);
    let too_long = Submission { max_new_tokens: 300, ..submission(0, &loras, QWEN2.n_ids) };
    let (needed, available) = (19 * block_bytes, 14 * block_bytes);
    assert_eq!(runner.add(too_long), Err(InferError::Memory { n_tokens: 304, needed, available }));
    let ids: HashMap<SequenceId, usize> = all
        .iter()
        .map(|&index| (runner.add(submission(index, &loras, QWEN2.n_ids)).unwrap(), index))
        .collect();
    let mut traces: HashMap<usize, Trace> = HashMap::new();
    while !runner.is_idle() {
        for output in runner.step() {
            traces.entry(ids[&output.id]).or_default().push(trace(&output));
        }
        let kv = runner.kv_memory();
        assert!(kv.in_use <= kv.reserved && kv.reserved <= kv.capacity, "{kv:?}");
        assert!(kv.in_use <= kv.committed && kv.committed <= kv.capacity, "{kv:?}");
    }
    assert!(traces == wanted);
    runner.give_back_memory();
    assert_eq!(runner.kv_memory().committed, 0);
}
