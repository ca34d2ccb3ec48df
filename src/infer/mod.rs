//! Who runs now: sequences, the cache blocks they hold, the step's batch, the sampler. Never tensors or files.

mod exp;
mod guide;
mod kv;
mod likeliest;
mod random;
mod request;
mod runner;
mod sampler;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod sequence;
mod spread;

pub use exp::sum_of_exp;
pub use guide::{Allowed, Guide};
pub use kv::ledger::Sharing;
pub use random::seed_of;
pub use request::{AdapterUse, InferError, Output, Submission};
pub use runner::{KvMemory, PrefixCache, Runner, RunnerOptions};
pub use sampler::{Sampling, Scores, TokenLogprob};
pub use scheduler::StepCounts;
pub use sequence::{Finish, SequenceId};
