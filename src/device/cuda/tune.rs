//! Times the candidates of [`Choice`] for the products of a step, and chooses. All layers' products of a shape are asked for
//! one after the other, so that their weights come from memory as in a step, and not from a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::fuse::products_of;
use super::gpu::Cuda;
use super::launch::Launch;
use super::launches::{GROUP_ROWS, products};
use super::operation::{Part, Way};
use super::tuning::{Choice, ROWS, Shape, Tuning};
use crate::cuda::CudaError;
use crate::format::GpuTuning;

/// Times that a candidate is asked for; the best counts.
const PASSES: usize = 5;

/// What the products of a shape took for a number of rows, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    pub shape: Shape,
    pub n_rows: usize,
    /// By the threads that share a tile.
    pub threads: BTreeMap<u32, f64>,
    /// On tensor cores, where there is a kernel for that.
    pub gemm: Option<f64>,
}

impl Cuda {
    /// Times the products of the step before, the only one since [`Cuda::forget_steps`]. They are computed again: what
    /// they write stays as it is.
    ///
    /// # Errors
    /// [`CudaError`] of a launch that fails.
    pub fn time_products(&self) -> Result<Vec<Timed>, CudaError> {
        let mut by_shape: BTreeMap<Shape, Vec<(Way, Vec<Part>)>> = BTreeMap::new();
        for (way, parts) in products_of(&self.last_operations()) {
            // How many rows an expert has is not known before, and in a step of few rows they are few.
            if way.groups.is_none() {
                by_shape.entry(Shape::new(&way, &parts)).or_default().push((way, parts));
            }
        }
        by_shape.into_iter().map(|(shape, group)| self.time_shape(shape, &group)).collect()
    }

    fn time_shape(&self, shape: Shape, group: &[(Way, Vec<Part>)]) -> Result<Timed, CudaError> {
        let n_rows = group.first().map_or(0, |(way, _)| way.n_rows);
        let time = |choice: Choice| {
            let launches = group.iter().map(|(way, parts)| products(parts, way, choice));
            self.time(&launches.collect::<Vec<_>>())
        };
        let rows = n_rows.next_power_of_two().min(GROUP_ROWS);
        let of_threads = |threads| {
            let choice = Choice { threads: [threads; ROWS.len()], gemm_from: usize::MAX };
            Ok((threads, time(choice)?))
        };
        let threads = Choice::candidates(rows).map(of_threads).collect::<Result<_, CudaError>>()?;
        let has_gemm = group.iter().all(|(way, _)| way.gemm.is_some());
        let gemm = has_gemm.then(|| time(Choice { gemm_from: 1, ..Choice::default() })).transpose()?;
        Ok(Timed { shape, n_rows, threads, gemm })
    }

    /// Seconds that these launches take, the best of some passes.
    fn time(&self, launches: &[Launch]) -> Result<f64, CudaError> {
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            self.context.synchronize()?;
            let start = Instant::now();
            // SAFETY: what they use lives as long as the engine and its workspace, which were used for the step before.
            launches.iter().try_for_each(|launch| unsafe { launch.ask() })?;
            self.context.synchronize()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}

impl Cuda {
    /// The fastest of what was timed, as a file has it; `kernels` is the digest of those that were.
    pub fn tuning_of(&self, timed: &[Timed], kernels: &str) -> GpuTuning {
        let (device, architecture) = self.device();
        GpuTuning {
            device: device.to_owned(),
            architecture: architecture.to_owned(),
            kernels: kernels.to_owned(),
            products: Tuning::fastest(timed).products(),
        }
    }
}

impl Tuning {
    /// The fastest candidates of those that were timed.
    pub fn fastest(timed: &[Timed]) -> Self {
        let shapes: BTreeSet<&Shape> = timed.iter().map(|timed| &timed.shape).collect();
        let choice = |shape: &Shape| choose(timed.iter().filter(|timed| timed.shape == *shape));
        Self {
            choices: shapes.into_iter().map(|shape| (shape.clone(), choice(shape))).collect(),
            otherwise: Choice::default(),
        }
    }
}

fn choose<'a>(timed: impl Iterator<Item = &'a Timed> + Clone) -> Choice {
    let mut choice = Choice::default();
    let fastest =
        |timed: &Timed| timed.threads.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(&n, &s)| (n, s));
    for (threads, rows) in choice.threads.iter_mut().zip(ROWS) {
        let found = timed.clone().find(|timed| timed.n_rows == rows).and_then(fastest);
        *threads = found.map_or(*threads, |(n, _)| n);
    }
    // From the first number of rows on from which tensor cores never lose.
    let mut by_rows: Vec<&Timed> = timed.filter(|timed| timed.gemm.is_some()).collect();
    by_rows.sort_by_key(|timed| timed.n_rows);
    if by_rows.is_empty() {
        return choice;
    }
    let wins = |timed: &&&Timed| timed.gemm <= fastest(timed).map(|(_, seconds)| seconds);
    let winning = by_rows.iter().rev().take_while(wins).last();
    choice.gemm_from = winning.map_or(usize::MAX, |timed| timed.n_rows);
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(n_tiles: usize, n_rows: usize, threads: &[(u32, f64)], gemm: Option<f64>) -> Timed {
        let shape = Shape { kernel: "matmul_int8".into(), n_inputs: 64, n_tiles };
        Timed { shape, n_rows, threads: threads.iter().copied().collect(), gemm }
    }

    #[test]
    fn the_fastest_are_chosen_for_each_shape_and_number_of_rows() {
        let found = Tuning::fastest(&[
            timed(1, 1, &[(64, 1.0), (128, 2.0), (256, 3.0)], Some(9.0)),
            timed(1, 8, &[(128, 5.0), (256, 4.0)], Some(3.0)),
            timed(1, 16, &[(128, 5.0), (256, 6.0)], Some(5.5)),
            timed(1, 32, &[(128, 5.0), (256, 6.0)], Some(5.0)),
            timed(1, 64, &[(128, 9.0), (256, 8.0)], Some(2.0)),
            // Tensor cores lose at last; and there are none.
            timed(2, 64, &[(128, 1.0)], Some(2.0)),
            timed(3, 4, &[(256, 1.0)], None),
        ]);
        let choices: Vec<Choice> = found.choices.values().copied().collect();
        let default = Choice::default();
        assert_eq!(
            choices,
            [
                Choice { threads: [64, 128, 128, 256], gemm_from: 32 },
                Choice { gemm_from: usize::MAX, ..default },
                Choice { threads: [128, 128, 256, 128], ..default },
            ]
        );
        assert_eq!(found.otherwise, default);
    }

    #[test]
    fn every_row_has_its_threads() {
        for (rows, wanted) in [(1, &[64, 128, 256][..]), (4, &[64, 128, 256]), (8, &[128, 256])] {
            assert_eq!(Choice::candidates(rows).collect::<Vec<_>>(), wanted);
        }
    }
}
