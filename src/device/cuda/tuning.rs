//! What was chosen for the products of an engine's shapes on a device. Choices change how long a launch takes, never a bit.

use std::collections::BTreeMap;

use super::operation::{Part, Way};
use crate::format::{GpuTuning, TunedProduct};

/// Rows that a block of threads may have, each a power of two.
pub const ROWS: [usize; 4] = [1, 2, 4, 8];
/// Threads that may share a tile.
const THREADS: [u32; 3] = [64, 128, 256];
/// Lanes that have an output each: every row needs so many threads.
const TILE_LANES: usize = 16;

/// How the products of a shape are launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Threads that share a tile, for each of `ROWS`.
    pub threads: [u32; ROWS.len()],
    /// From so many rows on, tensor cores make them, where there is a kernel for that. Rows of experts count as if all
    /// had as many.
    pub gemm_from: usize,
}

impl Default for Choice {
    /// Of devices that nobody has timed. Of nine rows the other kernel makes two groups.
    fn default() -> Self {
        Self { threads: [128; ROWS.len()], gemm_from: 9 }
    }
}

impl Choice {
    /// Threads for so many rows of a block, one of `ROWS`.
    pub fn threads(&self, rows: usize) -> u32 {
        self.threads[rows.ilog2() as usize]
    }

    /// What [`Self::threads`] may be for so many rows.
    pub fn candidates(rows: usize) -> impl Iterator<Item = u32> {
        THREADS.into_iter().filter(move |&threads| threads as usize >= rows * TILE_LANES)
    }
}

/// Products that take as long as each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// The kernel for few rows.
    pub kernel: String,
    /// Inputs, with those that fill the last block.
    pub n_inputs: usize,
    /// Sixteens of outputs, of all matrices of a launch.
    pub n_tiles: usize,
}

impl Shape {
    pub fn new(way: &Way, parts: &[Part]) -> Self {
        let n_tiles = parts.iter().map(Part::tiles).sum();
        Self { kernel: way.kernel.name().to_owned(), n_inputs: way.stride, n_tiles }
    }
}

/// The choice of each shape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    pub choices: BTreeMap<Shape, Choice>,
    /// Of all other shapes.
    pub otherwise: Choice,
}

impl Tuning {
    /// What a file says for a device of that name.
    ///
    /// # Errors
    /// Why it does not fit, in words.
    pub fn of_file(file: &GpuTuning, device: &str) -> Result<Self, String> {
        if file.device != device {
            return Err(format!("the tuning is of {}, and this is {device}", file.device));
        }
        let choices = file.products.iter().map(|product| {
            let fits =
                |(threads, rows): (&u32, usize)| Choice::candidates(rows).any(|known| known == *threads);
            if !product.threads.iter().zip(ROWS).all(fits) {
                return Err(format!("{} cannot have threads of {:?}", product.kernel, product.threads));
            }
            let shape =
                Shape { kernel: product.kernel.clone(), n_inputs: product.inputs, n_tiles: product.tiles };
            let gemm_from = product.tensor_cores_from.unwrap_or(usize::MAX);
            Ok((shape, Choice { threads: product.threads, gemm_from }))
        });
        Ok(Self { choices: choices.collect::<Result<_, _>>()?, otherwise: Choice::default() })
    }

    /// As a file has them.
    pub fn products(&self) -> Vec<TunedProduct> {
        let product = |(shape, choice): (&Shape, &Choice)| TunedProduct {
            kernel: shape.kernel.clone(),
            inputs: shape.n_inputs,
            tiles: shape.n_tiles,
            threads: choice.threads,
            tensor_cores_from: (choice.gemm_from != usize::MAX).then_some(choice.gemm_from),
        };
        self.choices.iter().map(product).collect()
    }

    pub fn of(&self, shape: &Shape) -> Choice {
        self.choices.get(shape).copied().unwrap_or(self.otherwise)
    }
}
