//! How a token is drawn from a row of logits, told to a device that may do it where the logits are; what it says then. The
//! meaning is `infer::sampler`: a device gives the token and the numbers that come out there, or nothing.

/// What is asked of a row of logits.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    pub rule: Rule,
    /// Added to the logits of these tokens, in this order; those outside the vocabulary do nothing.
    pub logit_bias: &'a [(u32, f32)],
    /// The tokens that may come are told by [`super::Device::allow`], while the device computes.
    pub is_guided: bool,
    /// So many of the likeliest tokens are wanted with their logits.
    pub num_logprobs: usize,
}

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// The first of the largest.
    Largest,
    /// By a number in [0, 1), of the fewest likeliest tokens that reach `top_p` of the weight of `among`.
    Random { among: Among, top_p: f64, inverse_temperature: f64, random: f64 },
}

/// The tokens that a random number chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// So many likeliest, at least 1.
    Likeliest(usize),
    All,
}

/// What a row gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    pub token: u32,
    /// Its logit, with the bias.
    pub logit: f32,
    /// Tokens and their logits, falling: as many as were wanted, or as may come.
    pub likeliest: Vec<(u32, f32)>,
    pub largest: f32,
    /// Of e to each logit's difference to the largest; 0 if no likeliest were wanted.
    pub sum: f64,
}
