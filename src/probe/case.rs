//! The shape of a step that is timed.

/// What a step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchMode {
    /// `batch_size` prompts of `input_len` tokens.
    Prefill,
    /// One token of each of `batch_size` sequences that hold `past_kv_len` positions.
    Decode,
}

/// A shape of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub mode: BenchMode,
    pub batch_size: usize,
    /// Tokens of each prompt, or tokens that each sequence holds already.
    pub len: usize,
    /// The first so many adapters, given to the sequences in turn.
    pub n_loras: usize,
    pub iterations: usize,
}

impl Case {
    /// In a few words.
    pub fn label(self) -> String {
        let Self { batch_size, len, .. } = self;
        match self.mode {
            BenchMode::Prefill => format!("prefill, {batch_size} x {len}"),
            BenchMode::Decode => format!("decode, {batch_size} x {len}"),
        }
    }

    /// Tokens of each sequence in a step, and where they begin.
    pub fn tokens_and_start(self) -> (usize, usize) {
        match self.mode {
            BenchMode::Prefill => (self.len, 0),
            BenchMode::Decode => (1, self.len),
        }
    }
}
