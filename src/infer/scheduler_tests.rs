//! The scheduler over a model that is a hash, and a cache that remembers of what each position was computed.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use proptest::prelude::*;

use super::kv::ledger::Sharing;
use super::kv::prefix::AdapterKey;
use super::scheduler::{Chunk, Scheduler, SchedulerOptions, StepCounts};
use super::sequence::{SequenceId, Task};
use crate::model::BLOCK_LEN;

const VOCAB_SIZE: u64 = 4;
/// More steps than any of the tests takes.
const MANY_STEPS: usize = 50_000;

/// What the keys and values of a position depend on, or what a token is drawn from.
fn fingerprint(adapters: &[AdapterKey], tokens: &[u32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (adapters, tokens).hash(&mut hasher);
    hasher.finish()
}

fn next_token(adapters: &[AdapterKey], tokens: &[u32]) -> u32 {
    (fingerprint(adapters, tokens) % VOCAB_SIZE) as u32
}

/// The answer that a task gets alone.
fn wanted(adapters: &[AdapterKey], prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_new_tokens {
        tokens.push(next_token(adapters, &tokens));
    }
    tokens.split_off(prompt.len())
}

struct World {
    scheduler: Scheduler,
    max_step_rows: usize,
    /// `[n_blocks][BLOCK_LEN]`: the fingerprints of what was computed there.
    cache: Vec<[u64; BLOCK_LEN]>,
    answers: BTreeMap<SequenceId, Vec<u32>>,
    /// In the order of their ends.
    finished: Vec<SequenceId>,
    /// Of all steps.
    counts: StepCounts,
}

impl World {
    fn new(options: SchedulerOptions) -> Self {
        Self {
            max_step_rows: options.max_step_rows,
            cache: vec![[0; BLOCK_LEN]; options.n_blocks as usize],
            scheduler: Scheduler::new(options),
            answers: BTreeMap::new(),
            finished: Vec::new(),
            counts: StepCounts::default(),
        }
    }

    fn add(&mut self, task: Task) -> SequenceId {
        let id = self.scheduler.add(task).unwrap();
        self.answers.insert(id, Vec::new());
        id
    }

    /// Computes a step and checks what every row would read. Returns the rows by sequence.
    fn step(&mut self) -> Vec<(SequenceId, usize)> {
        let chunks = self.scheduler.plan();
        assert_eq!(chunks.is_empty(), self.scheduler.is_idle());
        assert!(chunks.iter().map(|chunk| chunk.n_tokens).sum::<usize>() <= self.max_step_rows);
        for copy in self.scheduler.copies() {
            self.cache[copy.to as usize] = self.cache[copy.from as usize];
        }
        for chunk in &chunks {
            self.compute(chunk);
        }
        for chunk in &chunks {
            self.check(chunk);
        }
        let rows =
            chunks.iter().map(|chunk| (self.scheduler.running()[chunk.index].id, chunk.n_tokens)).collect();
        let mut finished = Vec::new();
        for &chunk in &chunks {
            if self.scheduler.note_computed(chunk) {
                let sequence = &self.scheduler.running()[chunk.index];
                let (id, token) = (sequence.id, next_token(&sequence.adapters, &sequence.tokens));
                self.answers.get_mut(&id).unwrap().push(token);
                finished.extend(self.scheduler.push(chunk.index, token).map(|_| id));
            }
        }
        for id in &finished {
            assert!(self.scheduler.remove(*id));
        }
        self.finished.extend(finished);
        self.counts.add(self.scheduler.counts());
        rows
    }

    fn compute(&mut self, chunk: &Chunk) {
        let sequence = &self.scheduler.running()[chunk.index];
        for position in sequence.n_computed..sequence.n_computed + chunk.n_tokens {
            let block = sequence.holding.blocks()[position / BLOCK_LEN] as usize;
            self.cache[block][position % BLOCK_LEN] =
                fingerprint(&sequence.adapters, &sequence.tokens[..=position]);
        }
    }

    fn check(&self, chunk: &Chunk) {
        let sequence = &self.scheduler.running()[chunk.index];
        for position in 0..sequence.n_computed + chunk.n_tokens {
            let block = sequence.holding.blocks()[position / BLOCK_LEN] as usize;
            let wanted = fingerprint(&sequence.adapters, &sequence.tokens[..=position]);
            assert_eq!(self.cache[block][position % BLOCK_LEN], wanted, "{:?} at {position}", sequence.id);
        }
    }

    fn run(&mut self) {
        for _ in 0..MANY_STEPS {
            if self.scheduler.is_idle() {
                return;
            }
            self.step();
        }
        panic!("no end");
    }
}

fn options(max_batch_size: usize, max_step_rows: usize, n_blocks: u32) -> SchedulerOptions {
    SchedulerOptions {
        max_batch_size,
        max_step_rows,
        capacity: 4096,
        n_blocks,
        max_cached_blocks: usize::MAX,
    }
}

/// A prompt of `len` tokens that has nothing in common with others.
fn task(mark: u32, len: usize, max_new_tokens: usize) -> Task {
    Task {
        prompt: (mark * 10_000..).take(len).collect(),
        adapters: [].into(),
        priority: 0,
        max_new_tokens,
        stop_tokens: [].into(),
        sharing: Sharing::default(),
    }
}

#[test]
fn rows_are_divided_between_answers_and_prompts() {
    struct Case {
        max_step_rows: usize,
        n_generating: usize,
        prompts: &'static [usize],
        wanted: &'static [usize],
    }
    let cases = [
        Case { max_step_rows: 16, n_generating: 3, prompts: &[100, 9], wanted: &[1, 1, 1, 13] },
        Case { max_step_rows: 16, n_generating: 3, prompts: &[9, 100], wanted: &[1, 1, 1, 9, 4] },
        Case { max_step_rows: 16, n_generating: 0, prompts: &[100, 9], wanted: &[16] },
        // A quarter of the rows is for prompts, however many generate.
        Case { max_step_rows: 8, n_generating: 8, prompts: &[100], wanted: &[1, 1, 1, 1, 1, 1, 2] },
        Case { max_step_rows: 8, n_generating: 8, prompts: &[], wanted: &[1; 8] },
        Case { max_step_rows: 4, n_generating: 6, prompts: &[], wanted: &[1; 4] },
        Case { max_step_rows: 1, n_generating: 2, prompts: &[3], wanted: &[1] },
        // A prompt of one token is as good as a token of an answer.
        Case { max_step_rows: 8, n_generating: 1, prompts: &[1, 20], wanted: &[1, 1, 6] },
    ];
    for (case_idx, case) in cases.into_iter().enumerate() {
        let mut world = World::new(options(16, case.max_step_rows, 200));
        for mark in (0..).take(case.n_generating) {
            world.add(task(mark, 1, 100));
        }
        while world.answers.values().any(|answer| answer.len() < 2) {
            world.step();
        }
        for (mark, len) in (100..).zip(case.prompts) {
            world.add(task(mark, *len, 100));
        }
        let rows: Vec<usize> = world.step().into_iter().map(|(_, n_rows)| n_rows).collect();
        assert_eq!(rows, case.wanted, "case {case_idx}");
    }
}

#[test]
fn with_fewer_rows_than_sequences_each_gets_its_turn() {
    let mut world = World::new(options(8, 3, 100));
    let ids: Vec<SequenceId> = (0..8).map(|mark| world.add(task(mark, 1, 30))).collect();
    let mut last_turns = [0; 8];
    for step in 1..30 {
        for (id, n_rows) in world.step() {
            assert_eq!(n_rows, 1);
            last_turns[usize::try_from(id.0).unwrap()] = step;
        }
        // The first one always has a row, and the others share two.
        assert_eq!(last_turns[0], step);
        assert!(last_turns.iter().all(|turn| step - turn < 7usize.div_ceil(2)), "{last_turns:?} at {step}");
    }
    world.run();
    assert_eq!(world.finished.len(), ids.len());
}

#[test]
fn a_prompt_is_read_though_others_generate_all_the_time_and_they_go_on_meanwhile() {
    let mut world = World::new(options(4, 4, 400));
    let others: Vec<SequenceId> = (0..3).map(|mark| world.add(task(mark, 1, 2000))).collect();
    let long = world.add(task(9, 400, 1));
    let mut n_steps = 0;
    while world.finished.is_empty() {
        world.step();
        n_steps += 1;
    }
    assert_eq!(world.finished, [long]);
    assert!(n_steps <= 402, "{n_steps}");
    assert!(others.iter().all(|id| world.answers[id].len() >= 400));
}

#[test]
fn admission_asks_for_the_blocks_of_now() {
    // At their ends each of them has 4 blocks, and all of them 16.
    let mut world = World::new(options(8, 64, 9));
    (0..4).for_each(|mark| {
        world.add(task(mark, 20, 44));
    });
    world.step();
    assert_eq!(world.scheduler.running().len(), 3, "2 blocks and one to spare for each");
    world.run();
    assert_eq!(world.finished.len(), 4);
    // The head waits for its blocks, and nobody passes it.
    let mut world = World::new(options(8, 64, 9));
    let ids: Vec<SequenceId> =
        [(0, 60), (1, 100), (2, 3)].map(|(mark, len)| world.add(task(mark, len, 4))).to_vec();
    world.step();
    assert_eq!(world.scheduler.running().len(), 1);
    world.run();
    assert_eq!(world.finished[0], ids[0]);
    assert_eq!(world.scheduler.add(task(3, 140, 5)), Ok(SequenceId(3)));
    assert_eq!(world.scheduler.add(task(3, 140, 6)), Err(145), "more than there is");
}

#[test]
fn the_youngest_of_the_lowest_priority_makes_room() {
    struct Case {
        priorities: &'static [i32],
        /// Sequences in the order they are preempted first.
        victims: &'static [u64],
    }
    let cases = [
        Case { priorities: &[0, 0, 0], victims: &[2, 1] },
        Case { priorities: &[0, 5, 0], victims: &[2, 0] },
        Case { priorities: &[-1, 5, 5], victims: &[0, 2] },
        Case { priorities: &[1, 2, 3], victims: &[0, 1] },
    ];
    for (case_idx, case) in cases.into_iter().enumerate() {
        let mut world = World::new(options(3, 64, 6));
        let ids: Vec<SequenceId> = (0..)
            .zip(case.priorities)
            .map(|(mark, priority)| world.add(Task { priority: *priority, ..task(mark, 16, 75) }))
            .collect();
        let (mut victims, mut n_preempted) = (Vec::new(), 0);
        while !world.scheduler.is_idle() {
            world.step();
            n_preempted += world.scheduler.counts().n_preempted;
            let running: Vec<SequenceId> =
                world.scheduler.running().iter().map(|sequence| sequence.id).collect();
            let gone = ids.iter().filter(|id| !running.contains(id) && !world.finished.contains(id));
            for id in gone {
                if !victims.contains(&id.0) && world.finished.is_empty() {
                    victims.push(id.0);
                }
            }
        }
        assert_eq!(victims, case.victims, "case {case_idx}");
        assert!(n_preempted >= 2);
        let mut order: Vec<u64> = (0..3).collect();
        order.sort_by_key(|&id| (-case.priorities[usize::try_from(id).unwrap()], id));
        let finished: Vec<u64> = world.finished.iter().map(|id| id.0).collect();
        assert_eq!(finished, order, "case {case_idx}: who goes first ends first");
        for (mark, id) in (0..).zip(&ids) {
            let Task { prompt, .. } = task(mark, 16, 75);
            assert_eq!(world.answers[id], wanted(&[], &prompt, 75), "case {case_idx}");
        }
    }
}

#[test]
fn a_preempted_one_finds_most_of_its_blocks_again() {
    let cost = |max_cached_blocks| {
        let mut world = World::new(SchedulerOptions { max_cached_blocks, ..options(2, 64, 8) });
        (0..2).for_each(|mark| {
            world.add(task(mark, 40, 40));
        });
        world.run();
        assert_eq!((world.counts.n_prompt_tokens, world.counts.n_cached_tokens), (80, 0));
        assert_eq!((world.counts.n_prompts_read, world.counts.n_generating), (2, 2 * 39));
        assert!(world.counts.n_preempted > 0);
        world.counts.n_recomputed_tokens
    };
    let (without, with) = (cost(0), cost(usize::MAX));
    assert!(without >= 40 && with < without, "{with} of {without}");
}

#[test]
fn a_common_beginning_is_read_once() {
    // 31 blocks of the system's 500 tokens are common, and four tokens of the next one: once somebody has
    // ended in it, they are copied.
    let system: Vec<u32> = (0..500).collect();
    let tasks = || {
        (0..100).map(|mark| {
            let own = (0..7 + mark % 5).map(|i| 1000 + mark * 20 + i);
            Task { prompt: system.iter().copied().chain(own).collect(), ..task(0, 0, 3 + mark as usize % 4) }
        })
    };
    let n_all: usize = tasks().map(|task| task.prompt.len()).sum();
    for (max_batch_size, max_step_rows) in [(1, 128), (8, 128), (32, 700), (100, 1000)] {
        let mut world = World::new(options(max_batch_size, max_step_rows, 4000));
        let ids: Vec<SequenceId> = tasks().map(|task| world.add(task)).collect();
        world.run();
        assert_eq!(world.counts.n_prompt_tokens + world.counts.n_cached_tokens, n_all);
        let n_copied = world.counts.n_cached_tokens - 99 * 31 * BLOCK_LEN;
        let least = 4 * (100 - if max_batch_size == 1 { 1 } else { 2 * max_batch_size.min(50) });
        assert!((least..=4 * 99).contains(&n_copied), "{n_copied} in a batch of {max_batch_size}");
        for (id, Task { prompt, max_new_tokens, .. }) in ids.iter().zip(tasks()) {
            assert_eq!(world.answers[id], wanted(&[], &prompt, max_new_tokens));
        }
    }
}

#[test]
fn who_waits_for_anothers_block_goes_on_without_it() {
    let mut world = World::new(options(2, 8, 40));
    let prompt: Vec<u32> = (0..100).collect();
    let [first, second] = [(), ()].map(|()| world.add(Task { prompt: prompt.clone(), ..task(0, 0, 4) }));
    for _ in 0..3 {
        assert_eq!(world.step(), [(first, 8)]);
    }
    world.scheduler.remove(first);
    assert_eq!(world.step(), [(second, 8)]);
    assert_eq!(world.scheduler.running()[0].n_cached, 24, "a block, and a copy of what the other had begun");
    world.run();
    assert_eq!(world.answers[&second], wanted(&[], &prompt, 4));
}

#[test]
fn adapters_and_scales_share_nothing_and_stand_together() {
    let mut world = World::new(options(12, 256, 100));
    let asked = |i: usize| Task { adapters: keys(ADAPTERS[i % 6]), ..task(1, 20 + i, 10) };
    let ids: Vec<SequenceId> = (0..12).map(|i| world.add(asked(i))).collect();
    world.step();
    let order: Vec<u64> = world.step().into_iter().map(|(id, _)| id.0 % 6).collect();
    assert_eq!(
        order,
        [0, 0, 2, 2, 1, 1, 4, 4, 3, 3, 5, 5],
        "by content, then by scale, the first adapter first"
    );
    world.run();
    assert_eq!(world.counts.n_cached_tokens, 6 * BLOCK_LEN, "one block for each second one");
    for (i, id) in ids.iter().enumerate() {
        assert_eq!(world.answers[id], wanted(&asked(i).adapters, &asked(i).prompt, 10));
    }
}

/// Contents and scales of none, one and two adapters.
const ADAPTERS: [&[(u64, f32)]; 6] =
    [&[], &[(1, 1.0)], &[(1, 0.5)], &[(2, 1.0)], &[(1, 1.0), (2, 1.0)], &[(2, 1.0), (1, 1.0)]];

fn keys(adapters: &[(u64, f32)]) -> Arc<[AdapterKey]> {
    adapters.iter().map(|(content, scale)| AdapterKey::new(*content, *scale)).collect()
}

#[test]
fn the_next_turn_of_a_conversation_finds_prompt_and_answer() {
    let mut world = World::new(options(2, 128, 100));
    let first = world.add(task(1, 30, 30));
    world.run();
    let mut prompt = task(1, 30, 0).prompt;
    prompt.extend(&world.answers[&first]);
    prompt.extend([7, 8, 9]);
    // Of the 60 tokens before, 59 were computed: 3 full blocks, and a copy of the one in which they ended.
    world.counts = StepCounts::default();
    world.add(Task { prompt, ..task(0, 0, 1) });
    world.run();
    assert_eq!((world.counts.n_cached_tokens, world.counts.n_prompt_tokens), (59, 4));
}

#[derive(Debug, Clone)]
enum Order {
    Add {
        common: usize,
        own: Vec<u32>,
        adapters: usize,
        priority: i32,
        max_new_tokens: usize,
        sharing: Sharing,
    },
    Steps(usize),
    Cancel(usize),
    DropCached,
    LimitBatch(usize),
}

fn sharing() -> impl Strategy<Value = Sharing> {
    (prop::bool::weighted(0.8), prop::bool::weighted(0.8), 0..60usize)
        .prop_map(|(takes, gives_answer, n_kept)| Sharing { takes, gives_answer, n_kept })
}

fn order() -> impl Strategy<Value = Order> {
    let own = prop::collection::vec(0..4u32, 1..20);
    let add = (0..70usize, own, 0..ADAPTERS.len(), -1..2i32, 1..40usize, sharing()).prop_map(
        |(common, own, adapters, priority, max_new_tokens, sharing)| Order::Add {
            common,
            own,
            adapters,
            priority,
            max_new_tokens,
            sharing,
        },
    );
    prop_oneof![
        6 => add,
        4 => (1..30usize).prop_map(Order::Steps),
        1 => (0..20usize).prop_map(Order::Cancel),
        1 => Just(Order::DropCached),
        1 => (1..6usize).prop_map(Order::LimitBatch),
    ]
}

proptest! {
    /// Whatever is added, cancelled and dropped: every row reads what its own tokens and its adapters make, everybody
    /// gets the answer that he would get alone, and no block is lost.
    #[test]
    fn everybody_gets_the_answer_that_he_would_get_alone(
        (max_batch_size, max_step_rows, n_blocks) in (1..6usize, 1..40usize, 9..24u32),
        max_cached_blocks in prop_oneof![Just(0), 1..8usize, Just(usize::MAX)],
        orders in prop::collection::vec(order(), 1..40),
    ) {
        let options = SchedulerOptions { max_cached_blocks, ..options(max_batch_size, max_step_rows, n_blocks) };
        let mut world = World::new(options);
        let mut asked = Vec::new();
        // Not known any more when one was cancelled.
        let mut n_prompt_tokens = Some(0);
        for order in orders {
            match order {
                Order::Add { common, own, adapters, priority, max_new_tokens, sharing } => {
                    let prompt: Vec<u32> = (0..).take(common).map(|i: u32| i % 3).chain(own).collect();
                    let adapters = keys(ADAPTERS[adapters]);
                    n_prompt_tokens = n_prompt_tokens.map(|n| n + prompt.len());
                    let task = Task { prompt: prompt.clone(), adapters: adapters.clone(), priority, sharing, ..task(0, 0, max_new_tokens) };
                    asked.push((world.add(task), adapters, prompt, max_new_tokens));
                }
                Order::Steps(n) => (0..n).for_each(|_| { world.step(); }),
                Order::Cancel(place) => {
                    if place < asked.len() {
                        let (id, ..) = asked.remove(place);
                        if world.scheduler.remove(id) {
                            n_prompt_tokens = None;
                        }
                    }
                }
                Order::DropCached => world.scheduler.ledger_mut().drop_cached(),
                Order::LimitBatch(n) => world.scheduler.limit_batch(n),
            }
            let ledger = world.scheduler.ledger();
            prop_assert!(ledger.n_cached() <= max_cached_blocks && ledger.n_committed() <= ledger.n_blocks());
        }
        world.run();
        for (id, adapters, prompt, max_new_tokens) in asked {
            prop_assert_eq!(&world.answers[&id], &wanted(&adapters, &prompt, max_new_tokens));
        }
        let counts = world.counts;
        if let Some(wanted) = n_prompt_tokens {
            prop_assert_eq!(counts.n_prompt_tokens + counts.n_cached_tokens, wanted);
        }
        prop_assert_eq!(world.scheduler.ledger().n_held(), 0);
        world.scheduler.ledger_mut().drop_cached();
        prop_assert_eq!(world.scheduler.ledger().n_available(), n_blocks as usize);
        prop_assert_eq!(world.scheduler.ledger().n_cached(), 0);
    }
}
