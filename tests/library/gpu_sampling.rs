//! Tokens that a GPU draws are those that the host draws, and their log probabilities have the same bits. The GPU's driver
//! stands in for one.

use std::collections::HashMap;
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::products::woven;
use crate::support::random::Random;
use crate::support::{build_engine, reference, standin, token};
use jetspool::device::cuda::{Cuda, SOURCE, Weights};
use jetspool::device::{Cpu, Device, Draw, Drawn, RowPlace, StepPlan};
use jetspool::format::{StoredMatrix, TensorFile};
use jetspool::infer::{
    Allowed, Guide, PrefixCache, Runner, RunnerOptions, Sampling, Scores, SequenceId, Sharing, Submission,
    TokenLogprob, sum_of_exp,
};
use jetspool::kernels::Kernels;
use jetspool::kernels::matrix::row_stride;
use jetspool::model::Decoder;
use jetspool::numbers::{Kind, Precision, round_to_f32};
use jetspool::store::Engine;

/// Threads of the host; a third of it are the rows with sums over the vocabulary that the device takes.
const N_THREADS: usize = 12;
const N_SUM_ROWS: usize = 4;

fn gpu() -> Cuda {
    standin::load();
    Cuda::open(0, "a stand-in".into(), &standin::module_of(SOURCE), N_THREADS).unwrap().unwrap()
}

/// Rows of logits as an embedding table: what comes out of an embedding is what stands in it.
struct Table<'a> {
    gpu: &'a Cuda,
    rows: Vec<Vec<f32>>,
    weights: Weights,
}

impl<'a> Table<'a> {
    fn new(gpu: &'a Cuda, rows: Vec<Vec<f32>>) -> Self {
        let (width, stride) = (rows[0].len(), row_stride(rows[0].len()));
        let padded: Vec<f32> = rows
            .iter()
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat(0.0)).take(stride))
            .collect();
        let tiles = woven(&padded, stride, 1);
        let view = TensorView::new(Dtype::F32, vec![tiles.len()], bytemuck::cast_slice(&tiles)).unwrap();
        let bytes = safetensors::serialize([("table", view)], None).unwrap();
        let file = TensorFile::parse(Arc::new(bytes)).unwrap();
        let stored = StoredMatrix {
            kind: Kind::F32,
            shape: (rows.len(), width).into(),
            values: file.require("table").unwrap(),
            scale: None,
            row_scale: None,
            zero: None,
            levels: None,
            input_scale: None,
            input_order: None,
        };
        let weights = gpu.weights("table", stored).unwrap();
        Self { gpu, rows, weights }
    }

    /// What the device draws from the rows that these ask for.
    fn draw(&self, asks: &[Ask]) -> Vec<Option<Drawn>> {
        let draws: Vec<Draw<'_>> = asks
            .iter()
            .map(|ask| Draw {
                rule: ask.sampling.rule(ask.index),
                logit_bias: &ask.sampling.logit_bias,
                is_guided: ask.guide != Told::Unguided,
                num_logprobs: ask.num_logprobs,
            })
            .collect();
        let vocab_size = self.rows[0].len();
        self.gpu.ask_tokens(&draws, vocab_size);
        for (row_idx, ask) in asks.iter().enumerate() {
            match &ask.guide {
                Told::Unguided | Told::Late => {}
                Told::All => self.gpu.allow(row_idx, None),
                Told::Only(tokens) => self.gpu.allow(row_idx, Some(tokens)),
            }
        }
        let place = |_| RowPlace { sequence: 0, position: 0 };
        let step = self.gpu.upload(StepPlan {
            tokens: asks.iter().map(|ask| token(ask.row)).collect(),
            places: asks.iter().map(place).collect(),
            blocks: vec![vec![0]],
            views: Vec::new(),
            adapters: Vec::new(),
            logit_rows: Vec::new(),
        });
        let mut logits = self.gpu.host_rows(vocab_size);
        self.gpu.set_n_rows(&mut logits, asks.len());
        self.gpu.embed(&step, &self.weights, &mut logits);
        self.gpu.draw(&logits);
        self.gpu.finish().unwrap();
        (0..asks.len()).map(|row_idx| self.gpu.drawn(row_idx)).collect()
    }

    /// Compares what the device draws with what the host draws, as many rows at a time as the device takes. Returns how
    /// many rows the device has decided.
    fn compare(&self, asks: &[Ask], name: &str) -> usize {
        let mut n_decided = 0;
        for asks in asks.chunks(N_SUM_ROWS) {
            for (ask, found) in asks.iter().zip(self.draw(asks)) {
                let wanted = ask.on_host(&self.rows[ask.row]);
                if let Some(found) = found {
                    n_decided += 1;
                    let (token, logprobs, logprob) = wanted.unwrap_or_else(|| panic!("{name}: {ask:?}"));
                    assert_eq!(found.token, token, "{name}: {ask:?}");
                    assert_eq!(found.likeliest.len(), logprobs.len(), "{name}: {ask:?}");
                    if ask.num_logprobs > 0 {
                        let sum = sum_of_exp(&ask.scores(&self.rows[ask.row]), found.largest, 1.0);
                        assert_eq!(found.sum.to_bits(), sum.to_bits(), "{name}: {ask:?}");
                        let log_sum = f64::from(found.largest) + found.sum.ln();
                        let of = |logit: f32| round_to_f32(f64::from(logit) - log_sum).to_bits();
                        let likeliest: Vec<_> =
                            found.likeliest.iter().map(|(token, logit)| (*token, of(*logit))).collect();
                        assert_eq!((likeliest, of(found.logit)), (logprobs, logprob), "{name}: {ask:?}");
                    }
                }
            }
        }
        n_decided
    }
}

/// What is asked of a row of a table.
#[derive(Debug, Clone)]
struct Ask {
    row: usize,
    sampling: Sampling,
    index: u64,
    guide: Told,
    num_logprobs: usize,
}

/// A token, the likeliest ones with their log probabilities, and that of the token, as bits.
type OnHost = (u32, Vec<(u32, u32)>, u32);

/// What a guide has told before the device draws.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Unguided,
    Late,
    All,
    Only(Vec<u32>),
}

impl Ask {
    /// The logits with the bias, and far below all numbers where a token may not come.
    fn scores(&self, logits: &[f32]) -> Vec<f32> {
        let mut scores = logits.to_vec();
        let biases = self.sampling.logit_bias.iter().filter(|(token, _)| (*token as usize) < logits.len());
        biases.for_each(|(token, bias)| scores[*token as usize] += bias);
        if let Told::Only(tokens) = &self.guide {
            let is_allowed = |i: usize| tokens.get(i / 32).is_some_and(|word| word >> (i % 32) & 1 == 1);
            (0..scores.len()).filter(|i| !is_allowed(*i)).for_each(|i| scores[i] = f32::MIN);
        }
        scores
    }

    /// What the host draws; none where there is no token.
    fn on_host(&self, logits: &[f32]) -> Option<OnHost> {
        let mut scores = Scores::new(logits, &self.sampling);
        if !scores.are_finite() {
            return None;
        }
        if let Told::Only(tokens) = &self.guide
            && !scores.keep(tokens)
        {
            return None;
        }
        let token = scores.choose(&self.sampling, self.index);
        let (logprobs, logprob) = scores.logprobs(self.num_logprobs, token);
        let bits = |l: &TokenLogprob| (l.token, l.logprob.to_bits());
        Some((token, logprobs.iter().map(bits).collect(), logprob.to_bits()))
    }
}

fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
    Sampling { temperature, top_p, top_k, seed: 7, logit_bias: Vec::new() }
}

/// Ways of choosing, those that the sampler's own tests have among them.
fn ways() -> Vec<Sampling> {
    [
        (0.0, 50, 0.8),
        (5.0, 1, 1.0),
        (1.0, 50, 0.8),
        (0.7, 0, 0.95),
        (1.0, 0, 1.0),
        (1.5, 0, 0.999),
        (0.2, 1000, 0.3),
        (0.2, 256, 0.3),
        (1.0, 256, 1.0),
        (1.0, 0, 0.0),
        (1.0, 0, 0.999_999_94),
        (0.3, 2, 1.0),
        (100.0, 7, 0.5),
    ]
    .map(|(temperature, top_k, top_p)| sampling(temperature, top_k, top_p))
    .to_vec()
}

/// With a few hundred large ones, flat, with many equal ones, spread out, peaked like a model's, zeros of both signs.
fn tables(vocab_size: usize) -> Vec<Vec<f32>> {
    let mut numbers = Random(vocab_size as u64 + 1);
    let mut spread = |width: f32, power: i32, step: f32| -> Vec<f32> {
        let mut value = || (numbers.float().abs().powi(power) * width / step).round() * step;
        (0..vocab_size).map(|_| value()).collect()
    };
    let rows = [
        spread(40.0, 4, 1e-6),
        spread(-3.0, 1, 1e-6),
        spread(10.0, 4, 1.0),
        spread(-80.0, 1, 1e-3),
        spread(40.0, 60, 1e-6),
    ];
    let zeros = (0..vocab_size).map(|i| if i % 3 == 0 { 0.0 } else { -0.0 }).collect();
    rows.into_iter().chain([zeros]).collect()
}

const SPREAD: usize = 3;
const PEAKED: usize = 4;

#[test]
fn tokens_and_logprobs_are_the_hosts() {
    let gpu = gpu();
    for (vocab_size, n_indices) in [(1, 1), (33, 4), (1000, 4), (4097, 4), (20_000, 12), (33_001, 4)] {
        let table = Table::new(&gpu, tables(vocab_size));
        for row in 0..table.rows.len() {
            for sampling in ways() {
                let ask = |index| Ask {
                    row,
                    sampling: sampling.clone(),
                    index,
                    guide: Told::Unguided,
                    num_logprobs: [0, 1, 5, 50][usize::try_from(index % 4).unwrap()],
                };
                let asks: Vec<Ask> = (0..n_indices).map(ask).collect();
                let name = format!("{vocab_size} tokens");
                let n_decided = table.compare(&asks, &name);
                // What is peaked is decided there, if so few are to be put in order.
                let is_large = !(1024..20_000).contains(&vocab_size);
                let is_easy = row == PEAKED && sampling.temperature <= 1.0;
                if is_large && is_easy && sampling.top_k <= 256 && sampling.top_p < 0.99 {
                    assert_eq!(n_decided, asks.len(), "{name}, row {row}: {sampling:?}");
                }
                if sampling.top_k > 256 {
                    assert_eq!(n_decided, 0, "{sampling:?}");
                }
            }
        }
    }
}

#[test]
fn biases_are_added_one_after_the_other() {
    let gpu = gpu();
    let table = Table::new(&gpu, tables(20_000));
    let mut numbers = Random(3);
    for sampling in ways() {
        let mut bias: Vec<(u32, f32)> =
            (0..300).map(|_| (token(numbers.below(25_000)), numbers.float() * 20.0)).collect();
        // One token several times, in an order that decides over the last bits; and the first and last of a part.
        bias.extend([
            (4096, 1e8),
            (77, 12.3),
            (4096, -1e8),
            (77, 1e-7),
            (77, 3.21),
            (4095, 2.0),
            (19_999, 41.0),
        ]);
        let sampling = Sampling { logit_bias: bias, ..sampling };
        let ask = |index| Ask {
            row: usize::try_from(index % 4).unwrap(),
            sampling: sampling.clone(),
            index,
            guide: Told::Unguided,
            num_logprobs: 20,
        };
        let asks: Vec<Ask> = (0..8).map(ask).collect();
        let n_decided = table.compare(&asks, "biases");
        assert!(n_decided > 0 || sampling.top_k > 256, "{sampling:?}");
    }
}

/// A mask that has the tokens for which this is true.
fn mask(vocab_size: usize, is_allowed: impl Fn(usize) -> bool) -> Vec<u32> {
    let mut words = vec![0; vocab_size.div_ceil(32)];
    (0..vocab_size)
        .filter(|token| is_allowed(*token))
        .for_each(|token| words[token / 32] |= 1 << (token % 32));
    words
}

#[test]
fn guides_leave_what_they_allow() {
    let gpu = gpu();
    for vocab_size in [50, 20_000, 20_003] {
        let table = Table::new(&gpu, tables(vocab_size));
        let last = vocab_size - 1;
        let guides = [
            ("all", Told::All, true),
            ("late", Told::Late, false),
            ("none", Told::Only(mask(vocab_size, |_| false)), false),
            ("no word", Told::Only(Vec::new()), false),
            ("the last", Told::Only(mask(vocab_size, |token| token == last)), true),
            ("few words", Told::Only(mask(40, |token| token > 31)), true),
            ("some", Told::Only(mask(vocab_size, |token| token % 617 == 3)), true),
            ("every other", Told::Only(mask(vocab_size, |token| token % 2 == 1)), true),
        ];
        for (name, guide, is_decided) in guides {
            for sampling in ways() {
                let ask = |index| Ask {
                    row: if index % 2 == 0 { PEAKED } else { SPREAD },
                    sampling: Sampling { logit_bias: vec![(3, 20.0), (4, 50.0)], ..sampling.clone() },
                    index,
                    guide: guide.clone(),
                    num_logprobs: 3,
                };
                let asks: Vec<Ask> = (0..4).map(ask).collect();
                let n_decided = table.compare(&asks, &format!("{name} of {vocab_size}"));
                let has_answer = is_decided && sampling.top_k <= 256 && sampling.top_p < 0.9;
                if has_answer || !is_decided {
                    let wanted = if is_decided { asks.len() } else { 0 };
                    assert_eq!(n_decided, wanted, "{name} of {vocab_size}: {sampling:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_is_left_to_the_host() {
    let gpu = gpu();
    let vocab_size = 5000;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let row = |at: usize| {
            let mut row = tables(vocab_size).swap_remove(SPREAD);
            row[at] = bad;
            row
        };
        let table = Table::new(&gpu, [0, 127, 4095, 4096, 4999].map(row).to_vec());
        for sampling in [sampling(0.0, 1, 1.0), sampling(1.0, 40, 0.9), sampling(1.0, 0, 1.0)] {
            let ask = |row| Ask {
                row,
                sampling: sampling.clone(),
                index: 0,
                // Where it may not come either.
                guide: if row % 2 == 0 { Told::Unguided } else { Told::Only(mask(32, |token| token == 9)) },
                num_logprobs: 0,
            };
            let asks: Vec<Ask> = (0..5).map(ask).collect();
            assert_eq!(table.compare(&asks, "no number"), 0, "{bad} {sampling:?}");
        }
        // A bias may make what is none.
        let table = Table::new(&gpu, vec![vec![f32::MAX; 40]]);
        let sampling = Sampling { logit_bias: vec![(7, f32::MAX)], ..sampling(0.0, 1, 1.0) };
        let ask = Ask { row: 0, sampling, index: 0, guide: Told::Unguided, num_logprobs: 0 };
        assert_eq!(table.compare(&[ask], "too large"), 0);
    }
}

#[test]
fn of_rows_with_sums_so_many_are_taken_as_pay() {
    let gpu = gpu();
    let table = Table::new(&gpu, tables(20_000));
    let ask =
        |sampling, num_logprobs| Ask { row: PEAKED, sampling, index: 0, guide: Told::Unguided, num_logprobs };
    let all = ask(sampling(0.5, 0, 0.5), 0);
    let mut asks = vec![ask(sampling(0.5, 9, 0.5), 0), ask(sampling(0.0, 1, 0.5), 1)];
    asks.extend(std::iter::repeat_n(all, 6));
    let are_decided: Vec<bool> = table.draw(&asks).iter().map(Option::is_some).collect();
    assert_eq!(are_decided, [true, true, true, true, true, false, false, false]);
}

/// Allows every third token, and which ones changes with each; nothing after eight tokens.
#[derive(Clone)]
struct Thirds {
    mask: Vec<u32>,
    n_taken: usize,
    vocab_size: usize,
}

impl Guide for Thirds {
    fn prepare(&mut self) {
        self.mask = mask(self.vocab_size, |token| token % 3 == self.n_taken % 3);
    }

    fn next(&mut self) -> Allowed<'_> {
        self.prepare();
        match self.n_taken {
            3 => Allowed::All,
            8.. => Allowed::None,
            _ => Allowed::Only(&self.mask),
        }
    }

    fn take(&mut self, token: u32) {
        assert!(self.n_taken == 3 || token as usize % 3 == self.n_taken % 3);
        self.n_taken += 1;
    }

    fn fork(&self) -> Box<dyn Guide> {
        Box::new(self.clone())
    }
}

fn submission<D: Device>(index: usize, vocab_size: usize) -> Submission<D> {
    let ways = ways();
    let guide = || Box::new(Thirds { mask: Vec::new(), n_taken: 0, vocab_size }) as Box<dyn Guide>;
    Submission {
        prompt: (0..3 + index * 4).map(|i| token((i * 31 + index * 17) % vocab_size)).collect(),
        adapters: Vec::new(),
        sampling: Sampling {
            seed: index as u64,
            logit_bias: if index % 3 == 1 { vec![(5, 3.5), (600, -9.0)] } else { Vec::new() },
            ..ways[index % ways.len()].clone()
        },
        guide: (index % 4 == 2).then(guide),
        max_new_tokens: 12,
        stop_tokens: Arc::new([7]),
        num_logprobs: if index.is_multiple_of(2) { 0 } else { 4 },
        priority: 0,
        sharing: Sharing::default(),
    }
}

/// Token, its log probability and those of the likeliest as bits, and why it was the last.
type Trace = Vec<(u32, u32, Vec<(u32, u32)>, String)>;

/// What the requests give, and the driver's calls of each step.
fn run<D: Device>(
    device: D,
    engine: &Engine,
    n_requests: usize,
    n_calls: impl Fn(&D) -> u64,
) -> (HashMap<usize, Trace>, Vec<u64>) {
    let decoder = Decoder::new(device, &engine.config, &engine.tensors).unwrap();
    let vocab_size = decoder.architecture().vocab_size;
    let options = RunnerOptions {
        max_batch_size: 6,
        max_input_len: 512,
        capacity: 1024,
        max_step_rows: 40,
        max_kv_bytes: usize::MAX,
        prefix_cache: PrefixCache::Bytes(0),
    };
    let mut runner = Runner::new(decoder, options).unwrap();
    let ids: HashMap<SequenceId, usize> =
        (0..n_requests).map(|index| (runner.add(submission(index, vocab_size)).unwrap(), index)).collect();
    let (mut traces, mut calls) = (HashMap::<usize, Trace>::new(), Vec::new());
    while !runner.is_idle() {
        let before = n_calls(runner.decoder().device());
        for output in runner.step() {
            let logprobs = output.logprobs.iter().map(|l| (l.token, l.logprob.to_bits())).collect();
            let finish = format!("{:?}", output.finish);
            traces.entry(ids[&output.id]).or_default().push((
                output.token,
                output.logprob.to_bits(),
                logprobs,
                finish,
            ));
        }
        calls.push(n_calls(runner.decoder().device()) - before);
    }
    assert!(runner.fault().is_none());
    (traces, calls)
}

#[test]
fn a_run_gives_the_processors_answers() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("engine");
    build_engine(&reference("models/qwen2"), &directory, Precision::Int8);
    let engine = Engine::open(&directory).unwrap();
    let (wanted, _) = run(Cpu::new(Kernels::detect(), 2).unwrap(), &engine, 16, |_| 0);
    assert!(wanted.values().any(|trace| trace.last().unwrap().3.contains("DeadEnd")), "{wanted:?}");
    let (found, _) = run(gpu(), &engine, 16, Cuda::n_calls);
    assert_eq!(found, wanted);
    // Six sequences that run side by side, with a guide, biases and log probabilities.
    let (_, calls) = run(gpu(), &engine, 6, Cuda::n_calls);
    assert!(calls[0] > 20 && calls[6..9].iter().all(|n| *n == 2), "{calls:?}");
}
