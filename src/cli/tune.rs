//! `tune`: the launches that are the fastest on the GPU at hand.

use std::path::PathBuf;

use clap::Args;

use crate::probe::TuneOptions;

const HELP: &str = "\
How many threads share a piece of a matrix, and from how many rows on tensor cores multiply, changes how long a step \
takes on a GPU, and never an answer. `tune` times what there is to choose with the engine's own matrices, which it reads \
some 150 times, and writes the choice to `tuning.sm_87.json` (after the GPU's architecture) in the engine directory. \
`serve`, `run` and `bench` use it on a GPU of that name and architecture, as long as the engine has the same kernels; \
anywhere else they say in one line of the log that they do not. A daemon that runs takes it when it opens the engine \
the next time. Stop it first: others who compute on the GPU spoil the times. Delete the file to undo it. Without a GPU \
that the engine has kernels for nothing is done (exit code 69).

Examples:
  jetspool tune engine
  jetspool tune engine --dryRun
  sudo jetspool tune /var/lib/jetspool/engine";

/// Choose the fastest launches for an engine on this machine's GPU.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct TuneArgs {
    /// Engine directory, with kernels for this GPU.
    #[arg(value_name = "ENGINE")]
    engine_dir: PathBuf,
    /// Show what is the fastest, and write nothing.
    #[arg(long = "dryRun")]
    is_dry: bool,
}

impl TuneArgs {
    /// The flags as the probe takes them.
    pub fn options(&self) -> TuneOptions {
        TuneOptions { engine_dir: self.engine_dir.clone(), is_dry: self.is_dry }
    }
}
