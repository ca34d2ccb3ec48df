//! A plan where kernels read it: one piece of the host's memory that the device sees, written anew for each step.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::adapter::Lora;
use super::gpu::{Cuda, lock};
use crate::cuda::{Argument, Pinned};
use crate::device::{AdapterRows, RowPlace, StepPlan};
use crate::kernels::attention::{BLOCK_LEN, parts};

/// Addresses of a plan's parts, and what the host has to know of it.
pub struct Step {
    pub n_rows: usize,
    pub n_logit_rows: usize,
    pub tokens: Argument,
    pub positions: Argument,
    /// Where in `blocks` those of a row's sequence begin.
    pub first_block: Argument,
    pub blocks: Argument,
    pub views: Vec<StepView>,
    pub logit_rows: Argument,
    /// By turn; empty where no row has an adapter.
    pub adapters: Vec<StepAdapters>,
    /// The blocks that it writes.
    pub written: Vec<u32>,
}

pub struct StepView {
    pub starts: Argument,
    pub cos: Argument,
    pub sin: Argument,
    /// Pairs of a head that are turned.
    pub half: usize,
    /// Parts that a row's positions lie in, at most.
    pub max_parts: usize,
}

/// At most one adapter of each row.
pub struct StepAdapters {
    pub table: Argument,
    pub adapter_of: Argument,
    pub max_rank: usize,
    /// They are needed until the step is done.
    _adapters: Vec<Arc<Lora>>,
}

/// `struct Adapter` in lora.cu.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AdapterEntry {
    pairs: u64,
    scale: f32,
    n_experts: i32,
    first_expert: i32,
    unused: i32,
}

/// A plan as words, each part on a boundary of 16 bytes.
#[derive(Default)]
struct Words(Vec<u32>);

impl Words {
    /// Offset of what is added, in words.
    fn add<T: Pod>(&mut self, values: impl IntoIterator<Item = T>) -> usize {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        let at = self.0.len();
        for value in values {
            self.0.extend_from_slice(bytemuck::cast_slice(&[value]));
        }
        at
    }

    /// Offsets of a turn's table of adapters, which has room for one of each row, and of each row's place in it.
    fn add_turn(&mut self, turn: &[AdapterRows<Lora>], n_rows: usize) -> [usize; 2] {
        let mut adapter_of = vec![-1_i32; n_rows];
        for (number, of) in (0..).zip(turn) {
            adapter_of[of.rows.clone()].fill(number);
        }
        let mut entries = vec![AdapterEntry::zeroed(); n_rows];
        for (entry, of) in entries.iter_mut().zip(turn) {
            *entry = AdapterEntry {
                pairs: of.adapter.table(),
                scale: of.scale,
                n_experts: word(of.adapter.n_experts).cast_signed(),
                first_expert: word(of.adapter.first_expert).cast_signed(),
                unused: 0,
            };
        }
        [self.add(entries), self.add(adapter_of)]
    }
}

fn word(n: usize) -> u32 {
    u32::try_from(n).expect("positions and rows have 31 bits")
}

impl Cuda {
    /// See [`crate::device::Device::upload`].
    pub(super) fn bring(&self, plan: StepPlan<Lora>) -> Step {
        let n_rows = plan.n_rows();
        let mut words = Words::default();
        let mut first_blocks = Vec::with_capacity(plan.blocks.len());
        let mut n_blocks = 0;
        for blocks in &plan.blocks {
            first_blocks.push(word(n_blocks));
            n_blocks += blocks.len();
        }
        let tokens = words.add(plan.tokens.iter().copied());
        let positions = words.add(plan.places.iter().map(|place| word(place.position)));
        let first_block = words.add(plan.places.iter().map(|place| first_blocks[place.sequence]));
        let logit_rows = words.add(plan.logit_rows.iter().map(|&row| word(row)));
        let views: Vec<[usize; 3]> = plan
            .views
            .iter()
            .map(|view| {
                let starts = words.add(view.starts.iter().map(|&start| word(start)));
                [starts, words.add(view.cos.iter().copied()), words.add(view.sin.iter().copied())]
            })
            .collect();
        let turns: Vec<[usize; 2]> = plan.adapters.iter().map(|turn| words.add_turn(turn, n_rows)).collect();
        // What has another length in the next step comes last, so that all else stays where it is.
        let blocks = words.add(plan.blocks.iter().flatten().copied());
        let base = self.write_plan(&words.0);
        let at = |offset: usize| Argument::Address(base + (offset * size_of::<u32>()) as u64);
        let written = |place: &RowPlace| plan.blocks[place.sequence][place.position / BLOCK_LEN];
        let max_parts = |starts: &[usize]| {
            let seen = plan.places.iter().zip(starts).map(|(place, start)| *start..place.position + 1);
            seen.map(|seen| parts(seen).count()).max().unwrap_or(1)
        };
        Step {
            n_rows,
            n_logit_rows: plan.logit_rows.len(),
            tokens: at(tokens),
            positions: at(positions),
            first_block: at(first_block),
            blocks: at(blocks),
            views: plan
                .views
                .iter()
                .zip(views)
                .map(|(view, [starts, cos, sin])| StepView {
                    starts: at(starts),
                    cos: at(cos),
                    sin: at(sin),
                    half: view.cos.len() / n_rows.max(1),
                    max_parts: max_parts(&view.starts),
                })
                .collect(),
            logit_rows: at(logit_rows),
            adapters: plan
                .adapters
                .iter()
                .zip(turns)
                .map(|(turn, [table, adapter_of])| StepAdapters {
                    table: at(table),
                    adapter_of: at(adapter_of),
                    max_rank: turn.iter().map(|of| of.adapter.max_rank).max().unwrap_or(0),
                    _adapters: turn.iter().map(|of| Arc::clone(&of.adapter)).collect(),
                })
                .collect(),
            written: plan.places.iter().map(written).collect(),
        }
    }

    /// Where kernels find these words.
    fn write_plan(&self, words: &[u32]) -> u64 {
        let mut plan = lock(&self.plan);
        if !self.is_idle() {
            // The step before may still read it. Who wants to know what went wrong asks `finish`.
            let _ = self.wait();
        }
        if plan.words.as_ref().is_none_or(|memory| memory.len() < words.len()) {
            plan.words = None;
            plan.words = self.note(Pinned::new(&self.context, words.len().next_power_of_two().max(1 << 14)));
        }
        let Some(memory) = &mut plan.words else { return 0 };
        // SAFETY: everything was waited for.
        unsafe { memory.as_mut_slice()[..words.len()].copy_from_slice(words) };
        memory.address()
    }
}
