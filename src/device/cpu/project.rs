//! Products with weights: rows are prepared once for all matrices that they meet, then the tiles of all these
//! matrices are shared by the threads, adapters included.
//!
//! ```text
//! first region    rows to panels (codes, or interleaved f32); h = x A of each adapter, in parts of the inputs
//! second region   some tiles of a matrix: y = x W^T + bias, then y += h B for these columns, adapter after adapter
//! ```

use std::ops::Range;
use std::sync::MutexGuard;

use super::adapter::Lora;
use super::inputs::{Inputs, grow};
use super::processor::Cpu;
use super::routing::{ExpertRows, Routing};
use super::rows::Rows;
use super::shared::Shared;
use super::weights::Weights;
use crate::device::{AdapterRows, Output, Pairs};
use crate::format::LoraPair;
use crate::kernels::activations::{CodesMut, code_groups, f32_groups, groups, interleave};
use crate::kernels::lora::{ExpandTask, PART_INPUTS, ShrinkTask};
use crate::kernels::matmul::MatmulTask;
use crate::kernels::matrix::{Matrix, Partner};
use crate::kernels::tile::{BLOCK, TILE_ROWS};
use crate::numbers::Module;
use crate::numbers::tiles::n_tiles;

/// Tasks per thread: enough that a slow thread does not hold up the others.
const TASKS_PER_THREAD: usize = 4;
/// Elements that are prepared without help: a region of its own would take longer.
const ALONE: usize = 16 << 10;

/// Consecutive rows, at most four, that share an adapter.
struct Update<'a> {
    output_idx: usize,
    rows: Range<usize>,
    pair: &'a LoraPair,
    scale: f32,
    /// Where its parts begin in `hidden`, and `h` when they are summed.
    offset: usize,
}

impl Update<'_> {
    /// Elements of one part: `[n_rows, rank]`.
    fn part_len(&self) -> usize {
        self.rows.len() * self.pair.rank()
    }
}

/// Tiles of one matrix for some rows.
struct Job<'a> {
    output_idx: usize,
    matrix: Matrix<'a>,
    rows: Range<usize>,
    n_tiles: usize,
}

impl Cpu {
    /// `y = x W^T`
    pub fn multiply(&self, x: &Rows, w: &Weights, y: &mut Rows) {
        self.project_all(&[], x, &mut [Output::plain(w, y)]);
    }

    /// `y = x W^T + bias` and the adapters' updates for every output.
    pub(super) fn project_all(
        &self,
        adapters: &[Vec<AdapterRows<Lora>>],
        x: &Rows,
        outputs: &mut [Output<'_, Self>],
    ) {
        let whole = [ExpertRows { expert: 0, rows: 0..x.n_rows() }];
        if outputs.iter().any(|output| output.weights.changes_inputs()) {
            for output in outputs {
                let changed = output.weights.changes_inputs().then(|| self.changed_inputs(x, output.weights));
                let updates = updates(std::slice::from_ref(output), adapters, None, x);
                let changed = changed.as_ref().unwrap_or(x);
                self.products(changed, x, &whole, &updates, std::slice::from_mut(output));
            }
        } else {
            let updates = updates(outputs, adapters, None, x);
            self.products(x, x, &whole, &updates, outputs);
        }
    }

    /// The same with the matrices of each row's expert; x is sorted by them.
    pub(super) fn project_experts(
        &self,
        adapters: &[Vec<AdapterRows<Lora>>],
        routing: &Routing,
        x: &Rows,
        outputs: &mut [Output<'_, Self>],
    ) {
        for output in outputs.iter_mut() {
            output.y.set_n_rows(x.n_rows());
        }
        let updates = updates(outputs, adapters, Some(routing), x);
        self.products(x, x, &routing.groups, &updates, outputs);
    }

    /// A matrix of each output's stack for the rows of each expert. Adapters see `adapted`.
    fn products(
        &self,
        x: &Rows,
        adapted: &Rows,
        experts: &[ExpertRows],
        updates: &[Update<'_>],
        outputs: &mut [Output<'_, Self>],
    ) {
        let n_rows = x.n_rows();
        let mut jobs = Vec::new();
        for (output_idx, output) in outputs.iter().enumerate() {
            let matrix = output.weights.as_matrix();
            assert!(output.y.n_rows() == n_rows && matrix.stride() == x.stride());
            let n_tiles = n_tiles(output.y.width());
            jobs.extend(experts.iter().map(|group| Job {
                output_idx,
                matrix: matrix.part(group.expert * n_tiles..(group.expert + 1) * n_tiles, output.y.width()),
                rows: group.rows.clone(),
                n_tiles,
            }));
        }
        let mut inputs = self.inputs();
        self.prepare(&mut inputs, (x, experts), adapted, &jobs, updates);
        let n_parts = adapted.width().div_ceil(PART_INPUTS);
        for update in updates {
            inputs.sum_parts(update.offset, update.part_len(), n_parts, update.scale);
        }
        self.multiply_tiles(x, &inputs, &jobs, updates, outputs);
    }

    pub(super) fn inputs(&self) -> MutexGuard<'_, Inputs> {
        self.inputs.lock().expect("a task that panics ends the program")
    }

    /// The second region.
    fn multiply_tiles(
        &self,
        x: &Rows,
        inputs: &Inputs,
        jobs: &[Job<'_>],
        updates: &[Update<'_>],
        outputs: &mut [Output<'_, Self>],
    ) {
        let n_tiles: usize = jobs.iter().map(|job| job.n_tiles).sum();
        let per_task = n_tiles.div_ceil(self.n_threads() * TASKS_PER_THREAD).max(1);
        let tasks: Vec<(&Job<'_>, Range<usize>)> = jobs
            .iter()
            .flat_map(|job| {
                let starts = (0..job.n_tiles).step_by(per_task);
                starts.map(move |first| (job, first..job.n_tiles.min(first + per_task)))
            })
            .collect();
        let places: Vec<(Shared, usize, Option<&[f32]>)> = outputs
            .iter_mut()
            .map(|output| {
                let bias = output.bias.map(super::weights::Vector::as_slice);
                (Shared::new(output.y.as_mut_ptr()), output.y.stride(), bias)
            })
            .collect();
        self.pool.run(tasks.len(), &|task_idx, _| {
            let (job, tiles) = &tasks[task_idx];
            let (y, y_stride, bias) = places[job.output_idx];
            // SAFETY: these columns of the job's rows belong to this task: jobs of one output share no row.
            unsafe {
                self.kernels.matmul(&MatmulTask {
                    x: inputs.panel(x, job.matrix.partner(), job.rows.clone()),
                    n_rows: job.rows.len(),
                    w: job.matrix,
                    tiles: tiles.clone(),
                    bias,
                    y: y.at(job.rows.start * y_stride),
                    y_stride,
                });
            }
            let columns = tiles.start * TILE_ROWS..job.matrix.n_rows().min(tiles.end * TILE_ROWS);
            let is_mine = |update: &&Update<'_>| {
                update.output_idx == job.output_idx
                    && job.rows.start <= update.rows.start
                    && update.rows.end <= job.rows.end
            };
            for update in updates.iter().filter(is_mine) {
                let pair = update.pair;
                let first = pair.columns().start;
                // SAFETY: as above.
                unsafe {
                    (self.kernels.lora_expand)(&ExpandTask {
                        h: &inputs.hidden[update.offset..][..update.part_len()],
                        n_rows: update.rows.len(),
                        b: pair.b(),
                        rank: pair.rank(),
                        columns: first + columns.start..first + columns.end,
                        y: y.at(update.rows.start * y_stride + columns.start),
                        y_stride,
                    });
                }
            }
        });
    }
}

/// The updates of all outputs by the step's adapters, in groups of rows; those of a row stand in the order of its
/// adapters.
fn updates<'a>(
    outputs: &[Output<'_, Cpu>],
    adapters: &'a [Vec<AdapterRows<Lora>>],
    routing: Option<&Routing>,
    x: &Rows,
) -> Vec<Update<'a>> {
    let n_parts = x.width().div_ceil(PART_INPUTS);
    let mut offset = 0;
    let mut updates = Vec::new();
    for (output_idx, output) in outputs.iter().enumerate() {
        let mut add = |pair: &'a LoraPair, rows: Range<usize>, scale: f32| {
            assert!(pair.columns().len() == output.y.width() && rows.end <= x.n_rows());
            assert!(pair.a().len() == x.width() * pair.rank());
            for rows in groups(rows) {
                let update = Update { output_idx, rows, pair, scale, offset };
                offset += n_parts * update.part_len();
                updates.push(update);
            }
        };
        for AdapterRows { rows, adapter, scale } in adapters.iter().flatten() {
            match output.pairs {
                Pairs::None => {}
                Pairs::Of { layer, module } => {
                    if let Some(pair) = adapter.pair(layer, module) {
                        add(pair, rows.clone(), *scale);
                    }
                }
                Pairs::OfExperts { layer, projection } if adapter.has_mixture_pairs() => {
                    for (routing, group) in routing.iter().flat_map(|r| r.groups.iter().map(move |g| (r, g)))
                    {
                        let module = Module::Expert { expert: group.expert, projection };
                        if let Some(pair) = adapter.pair(layer, module) {
                            add(pair, routing.places(&group.rows, rows), *scale);
                        }
                    }
                }
                Pairs::OfExperts { .. } => {}
            }
        }
    }
    updates
}

impl Cpu {
    /// The first region.
    fn prepare(
        &self,
        inputs: &mut Inputs,
        (x, experts): (&Rows, &[ExpertRows]),
        adapted: &Rows,
        jobs: &[Job<'_>],
        updates: &[Update<'_>],
    ) {
        let (stride, n) = (x.stride(), x.as_slice().len());
        let takes = |partner| jobs.iter().any(|job| job.matrix.partner() == partner);
        // One row is its own panel.
        let (with_f32, with_codes) = (takes(Partner::F32) && x.n_rows() > 1, takes(Partner::I8));
        grow(&mut inputs.f32, if with_f32 { n } else { 0 });
        grow(&mut inputs.codes, if with_codes { n } else { 0 });
        for buffer in [&mut inputs.scale, &mut inputs.sum] {
            grow(buffer, if with_codes { n / BLOCK } else { 0 });
        }
        let n_parts = adapted.width().div_ceil(PART_INPUTS);
        grow(&mut inputs.hidden, updates.iter().map(|update| n_parts * update.part_len()).sum());
        let mut fills: Vec<(Partner, Range<usize>)> = Vec::new();
        for rows in experts.iter().map(|expert| expert.rows.clone()) {
            fills.extend(f32_groups(rows.clone()).filter(|_| with_f32).map(|rows| (Partner::F32, rows)));
            let code_groups = code_groups(rows, self.kernels.code_rows);
            fills.extend(code_groups.filter(|_| with_codes).map(|rows| (Partner::I8, rows)));
        }
        let (f32, codes) = (Shared::new(inputs.f32.as_mut_ptr()), Shared::new(inputs.codes.as_mut_ptr()));
        let (scale, sum) = (Shared::new(inputs.scale.as_mut_ptr()), Shared::new(inputs.sum.as_mut_ptr()));
        let hidden = Shared::new(inputs.hidden.as_mut_ptr());
        let fill = |(partner, rows): &(Partner, Range<usize>)| {
            let elements = rows.start * stride..rows.end * stride;
            let blocks = elements.start / BLOCK..elements.end / BLOCK;
            let from = &x.as_slice()[elements.clone()];
            // SAFETY: the group's places in the buffers belong to this task.
            unsafe {
                match partner {
                    Partner::F32 => interleave(from, stride, f32.part(elements)),
                    Partner::I8 => (self.kernels.quantize)(
                        from,
                        stride,
                        &mut CodesMut {
                            codes: codes.part(elements),
                            scale: scale.part(blocks.clone()),
                            sum: sum.part(blocks),
                        },
                    ),
                }
            }
        };
        let shrink = |update: &Update<'_>, part: usize| {
            let first = part * PART_INPUTS;
            let offset = update.offset + part * update.part_len();
            // SAFETY: the part of this update belongs to this task.
            unsafe {
                (self.kernels.lora_shrink)(&mut ShrinkTask {
                    x: &adapted.as_slice()[update.rows.start * adapted.stride()..],
                    x_stride: adapted.stride(),
                    n_rows: update.rows.len(),
                    a: update.pair.a(),
                    rank: update.pair.rank(),
                    inputs: first..adapted.width().min(first + PART_INPUTS),
                    h: hidden.part(offset..offset + update.part_len()),
                });
            }
        };
        if updates.is_empty() && n <= ALONE {
            fills.iter().for_each(fill);
            return;
        }
        let n_fills = fills.len();
        self.pool.run(
            n_fills + updates.len() * n_parts,
            &|task_idx, _| match task_idx.checked_sub(n_fills) {
                None => fill(&fills[task_idx]),
                Some(shrink_idx) => shrink(&updates[shrink_idx / n_parts], shrink_idx % n_parts),
            },
        );
    }
}
