//! Attention: queries that share keys and values go together, and long sequences are shared by the threads in parts.

use std::ops::Range;

use super::adapter::Lora;
use super::cache::Cache;
use super::inputs::grow;
use super::processor::Cpu;
use super::rows::Rows;
use super::shared::Shared;
use crate::device::{Attend, CacheShape, StepPlan};
use crate::kernels::activations;
use crate::kernels::attention::{AttendTask, BLOCK_LEN, PART, Query, Weight, parts, scratch_len};
use crate::kernels::tile::MAX_QUERIES;

/// A few queries, in one part of the positions that they see.
struct Group {
    /// The first of the run of rows that they are of: consecutive positions of one sequence, with the same parts.
    first_row: usize,
    kv_head: usize,
    /// Of the run's queries that share the key-value head, row after row.
    queries: Range<usize>,
    part_idx: usize,
}

impl Group {
    /// Row and head of each query; `n_shared` heads share a key-value head.
    fn queries(&self, n_shared: usize) -> impl Iterator<Item = (usize, usize)> {
        let (first_row, first_head) = (self.first_row, self.kv_head * n_shared);
        self.queries.clone().map(move |i| (first_row + i / n_shared, first_head + i % n_shared))
    }
}

/// Where the parts of a row's results lie, if it has more than one.
#[derive(Clone, Copy)]
struct Parts {
    n_parts: usize,
    /// The first of `n_heads * n_parts` weights; outputs lie at `head_dim` times it.
    first: usize,
}

/// Where a row stands in its sequence.
#[derive(Clone, Copy)]
struct AttendRow<'a> {
    sequence: usize,
    position: usize,
    /// The first position it sees.
    start: usize,
    /// Cache blocks of its sequence, in order.
    blocks: &'a [u32],
}

/// The rows of a step as one view shows them.
#[derive(Clone, Copy)]
struct Viewed<'a> {
    plan: &'a StepPlan<Lora>,
    starts: &'a [usize],
}

impl<'a> Viewed<'a> {
    fn len(self) -> usize {
        self.starts.len()
    }

    fn row(self, row_idx: usize) -> AttendRow<'a> {
        let place = self.plan.places[row_idx];
        AttendRow {
            sequence: place.sequence,
            position: place.position,
            start: self.starts[row_idx],
            blocks: self.plan.blocks_of(row_idx),
        }
    }

    fn iter(self) -> impl Iterator<Item = AttendRow<'a>> {
        (0..self.len()).map(move |row_idx| self.row(row_idx))
    }
}

impl Cpu {
    /// See [`crate::device::Device::attend`].
    pub(super) fn attend_all(
        &self,
        plan: &StepPlan<Lora>,
        q: &Rows,
        cache: &Cache,
        task: Attend,
        y: &mut Rows,
    ) {
        let rows = Viewed { plan, starts: &plan.views[task.view].starts };
        let &CacheShape { n_kv_heads, head_dim, n_blocks, block_len, .. } = cache.shape();
        assert!(block_len == BLOCK_LEN && q.width() == y.width() && q.width().is_multiple_of(head_dim));
        assert!(rows.len() == q.n_rows() && rows.len() == y.n_rows());
        for row in rows.iter() {
            let blocks = &row.blocks[..row.position / block_len + 1];
            assert!(row.start <= row.position && blocks.iter().all(|&block| (block as usize) < n_blocks));
        }
        let n_heads = q.width() / head_dim;
        let n_shared = n_heads / n_kv_heads;
        let (places, n_weights) = places(rows, n_heads);
        let n_queries = self.kernels.n_queries;
        let groups = groups(rows, n_kv_heads, n_shared, &places, n_queries);
        let mut weights = vec![Weight::default(); n_weights];
        let mut outs = vec![0.0_f32; n_weights * head_dim];
        let (stride, y_at) = (y.stride(), Shared::new(y.as_mut_ptr()));
        let (weights_at, outs_at) = (Shared::new(weights.as_mut_ptr()), Shared::new(outs.as_mut_ptr()));
        self.pool.run(groups.len(), &|group_idx, worker_idx| {
            let group = &groups[group_idx];
            let mut scratch = self.scratch[worker_idx].lock().expect("a task that panics ends the program");
            grow(&mut scratch, scratch_len(n_queries, head_dim));
            let mut found = [Weight::default(); MAX_QUERIES];
            let found = &mut found[..group.queries.len()];
            let mut queries = Vec::with_capacity(MAX_QUERIES);
            for (row_idx, head) in group.queries(n_shared) {
                let row = rows.row(row_idx);
                let seen = parts(row.start..row.position + 1).nth(group.part_idx).unwrap_or_default();
                let Parts { n_parts, first } = places[row_idx];
                // SAFETY: the output belongs to this task: it is the head's own, or that of its part.
                let out = unsafe {
                    match n_parts {
                        1 => y_at.at(row_idx * stride + head * head_dim),
                        _ => outs_at.at((first + head * n_parts + group.part_idx) * head_dim),
                    }
                };
                let q = q.row(row_idx)[head * head_dim..].as_ptr();
                queries.push(Query { q, start: seen.start, end: seen.end, out });
            }
            // SAFETY: the blocks were checked above; the outputs belong to this task.
            unsafe {
                (self.kernels.attend)(&mut AttendTask {
                    queries: &queries,
                    head_dim,
                    cache: cache.head(task.layer, group.kv_head, rows.row(group.first_row).blocks),
                    scale: task.scale,
                    scratch: &mut scratch,
                    weights: found,
                });
                for ((row_idx, head), weight) in group.queries(n_shared).zip(found) {
                    let Parts { n_parts, first } = places[row_idx];
                    if n_parts == 1 {
                        let inverse = 1.0 / weight.sum;
                        let out = row_idx * stride + head * head_dim;
                        y_at.part(out..out + head_dim).iter_mut().for_each(|value| *value *= inverse);
                    } else {
                        *weights_at.at(first + head * n_parts + group.part_idx) = *weight;
                    }
                }
            }
        });
        if n_weights == 0 {
            return;
        }
        self.pool.run(rows.len() * n_heads, &|task_idx, _| {
            let (row_idx, head) = (task_idx / n_heads, task_idx % n_heads);
            let Parts { n_parts, first } = places[row_idx];
            if n_parts == 1 {
                return;
            }
            let first = first + head * n_parts;
            let part_outs: Vec<&[f32]> =
                outs[first * head_dim..][..n_parts * head_dim].chunks_exact(head_dim).collect();
            // SAFETY: the head's output belongs to this task.
            unsafe {
                let out = y_at.at(row_idx * stride + head * head_dim);
                (self.kernels.combine)(&weights[first..][..n_parts], &part_outs, out);
            }
        });
    }
}

/// Where each row's parts lie, and how many weights there are in all.
fn places(rows: Viewed<'_>, n_heads: usize) -> (Vec<Parts>, usize) {
    let mut n_weights = 0;
    let places = rows
        .iter()
        .map(|row| {
            let n_parts = parts(row.start..row.position + 1).count();
            let first = n_weights;
            n_weights += if n_parts == 1 { 0 } else { n_heads * n_parts };
            Parts { n_parts, first }
        })
        .collect();
    (places, n_weights)
}

/// All queries, in groups. Those that read the same part of the same keys and values follow each other, so that it
/// stays in the second cache.
fn groups(rows: Viewed<'_>, n_kv_heads: usize, n_shared: usize, places: &[Parts], most: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut first_row = 0;
    while first_row < rows.len() {
        let may_follow = |row_idx: &usize| {
            let (last, row) = (rows.row(row_idx - 1), rows.row(*row_idx));
            // A group lies in one part.
            let numbers = |row: AttendRow<'_>| (row.start / PART, row.position / PART);
            let same_parts = numbers(last) == numbers(row);
            last.sequence == row.sequence && row.position == last.position + 1 && same_parts
        };
        let n_rows = 1 + (first_row + 1..rows.len()).take_while(may_follow).count();
        for kv_head in 0..n_kv_heads {
            for part_idx in 0..places[first_row].n_parts {
                groups.extend(query_groups(n_rows * n_shared, most).map(|queries| Group {
                    first_row,
                    kv_head,
                    queries,
                    part_idx,
                }));
            }
        }
        first_row += n_rows;
    }
    groups
}

/// Groups of `most` queries where there are several of them, for what is left the usual ones.
fn query_groups(n_queries: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let n_large = if n_queries < 2 * most { 0 } else { n_queries / most };
    let large = (0..n_large).map(move |group| group * most..(group + 1) * most);
    large.chain(activations::groups(n_large * most..n_queries))
}
