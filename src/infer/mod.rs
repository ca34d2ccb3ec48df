//! Who runs now: sequences, the cache blocks they hold, the step's batch, the sampler. Never tensors or files.

mod blocks;
mod exp;
mod likeliest;
mod random;
mod runner;
mod sampler;
mod sequence;
mod spread;

pub use runner::{KvMemory, Runner, RunnerOptions, StepCounts};
pub use sampler::{Sampling, TokenLogprob};
pub use sequence::{Finish, InferError, Output, SequenceId, Submission};
