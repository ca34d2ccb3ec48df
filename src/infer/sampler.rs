//! Logits to a token: bias, then greedy, or temperature, top-k, top-p and one random number.

use std::cmp::Ordering;

use super::random::uniform;

/// Below this temperature sampling is greedy, as in the workflow's runtime.
const GREEDY_BELOW: f32 = 1e-3;

/// How one request's tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keeps the fewest likeliest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Names the stream of random numbers.
    pub seed: u64,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
}

/// A token and the natural logarithm of its probability at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    pub logprob: f32,
}

/// Logits of a step with the request's bias added.
pub struct Scores {
    /// `[vocab_size]`
    logits: Vec<f32>,
}

impl Scores {
    /// Copies the model's logits and adds the bias; entries outside the vocabulary do nothing.
    pub fn new(logits: &[f32], sampling: &Sampling) -> Self {
        let mut logits = logits.to_vec();
        for &(token, bias) in &sampling.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        Self { logits }
    }

    /// Whether all logits are numbers; an adapter or a scale beyond reason makes others.
    pub fn are_finite(&self) -> bool {
        self.logits.iter().all(|logit| logit.is_finite())
    }

    /// The token at `index` of the answer.
    pub fn choose(&self, sampling: &Sampling, index: u64) -> u32 {
        if sampling.temperature < GREEDY_BELOW || sampling.top_k == 1 {
            return self.best();
        }
        let candidates = self.likeliest(match sampling.top_k {
            0 => self.logits.len(),
            k => k,
        });
        let largest = self.logits[candidates[0] as usize];
        let weight = |token: u32| {
            (f64::from(self.logits[token as usize] - largest) / f64::from(sampling.temperature)).exp()
        };
        let weights: Vec<f64> = candidates.iter().map(|&token| weight(token)).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut n_kept = 0;
        while n_kept < weights.len() && (n_kept == 0 || kept < f64::from(sampling.top_p) * total) {
            kept += weights[n_kept];
            n_kept += 1;
        }
        let mut left = uniform(sampling.seed, index) * kept;
        for (&token, weight) in candidates[..n_kept].iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        candidates[n_kept - 1]
    }

    /// The `n` likeliest tokens with their log probabilities, falling: a log softmax at temperature 1 over
    /// the logits with the request's bias, before top-k and top-p.
    pub fn logprobs(&self, n: usize) -> Vec<TokenLogprob> {
        if n == 0 {
            return Vec::new();
        }
        let tokens = self.likeliest(n);
        let largest = f64::from(self.logits[tokens[0] as usize]);
        let sum: f64 = self.logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        let log_sum = largest + sum.ln();
        let logprob = |token: u32| (f64::from(self.logits[token as usize]) - log_sum) as f32;
        tokens.into_iter().map(|token| TokenLogprob { token, logprob: logprob(token) }).collect()
    }

    fn best(&self) -> u32 {
        let mut best = 0;
        for (token, logit) in self.logits.iter().enumerate() {
            if *logit > self.logits[best] {
                best = token;
            }
        }
        best as u32
    }

    /// The `n` likeliest tokens, falling; equal logits by rising token.
    fn likeliest(&self, n: usize) -> Vec<u32> {
        let order = |a: &u32, b: &u32| -> Ordering {
            self.logits[*b as usize].total_cmp(&self.logits[*a as usize]).then(a.cmp(b))
        };
        let mut tokens: Vec<u32> = (0..self.logits.len() as u32).collect();
        if n < tokens.len() {
            tokens.select_nth_unstable_by(n, order);
            tokens.truncate(n);
        }
        tokens.sort_unstable_by(order);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling { temperature, top_p, top_k, seed: 7, logit_bias: Vec::new() }
    }

    fn chosen(logits: &[f32], sampling: &Sampling, n: u64) -> Vec<u32> {
        let scores = Scores::new(logits, sampling);
        (0..n).map(|index| scores.choose(sampling, index)).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let logits = [0.5, 2.0, 2.0, -1.0];
        for sampling in [sampling(0.0, 50, 0.8), sampling(5.0, 1, 1.0), sampling(5e-4, 0, 1.0)] {
            assert_eq!(chosen(&logits, &sampling, 3), [1, 1, 1]);
        }
    }

    #[test]
    fn bias_moves_the_choice_and_ignores_unknown_tokens() {
        let mut sampling = sampling(0.0, 50, 0.8);
        sampling.logit_bias = vec![(3, 100.0), (999, 5.0)];
        assert_eq!(chosen(&[0.5, 2.0, 2.0, -1.0], &sampling, 1), [3]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let probabilities = [0.1f64, 0.2, 0.7];
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln() as f32).collect();
        let n = 20_000;
        let tokens = chosen(&logits, &sampling(1.0, 0, 1.0), n);
        for (token, probability) in probabilities.iter().enumerate() {
            let share = tokens.iter().filter(|&&t| t as usize == token).count() as f64 / n as f64;
            assert!((share - probability).abs() < 0.015, "token {token}: {share}, wanted {probability}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits: Vec<f32> = [0.4f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
        let seen = |sampling: &Sampling| {
            let mut tokens = chosen(&logits, sampling, 500);
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(seen(&sampling(1.0, 2, 1.0)), [0, 1]);
        assert_eq!(seen(&sampling(1.0, 0, 0.69)), [0, 1]);
        assert_eq!(seen(&sampling(1.0, 0, 0.71)), [0, 1, 2]);
        assert_eq!(seen(&sampling(1.0, 0, 1e-9)), [0]);
        assert_eq!(seen(&sampling(1.0, 100, 1.0)), [0, 1, 2, 3]);
    }

    #[test]
    fn logprobs_are_a_log_softmax() {
        let scores = Scores::new(&[1.0, 3.0, 2.0], &sampling(0.3, 1, 0.5));
        let sum: f32 = [1.0f32, 3.0, 2.0].iter().map(|x| x.exp()).sum();
        let logprobs = scores.logprobs(2);
        assert_eq!(logprobs.iter().map(|l| l.token).collect::<Vec<_>>(), [1, 2]);
        assert!((logprobs[0].logprob - (3.0 - sum.ln())).abs() < 1e-6);
        assert!(scores.logprobs(0).is_empty());
        assert_eq!(scores.logprobs(50).len(), 3);
    }
}
