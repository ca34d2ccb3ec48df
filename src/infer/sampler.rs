//! Logits to a token: bias, then greedy, or temperature, top-k, top-p and one random number.

use std::borrow::Cow;

use super::exp::{exp, sum_of_exp};
use super::likeliest::{largest, likeliest, token_at};
use super::random::uniform;
use super::spread::{Distribution, Histogram};
use crate::device::{Among, Rule};
use crate::numbers::round_to_f32;

/// Below this temperature sampling is greedy, as in the workflow's runtime.
const GREEDY_BELOW: f32 = 1e-3;
/// Tokens that are put in order first where all of the vocabulary may be chosen.
const FIRST_ORDERED: usize = 256;

/// The logit of a token that may not come: its probability is zero beside any other's.
const EXCLUDED: f32 = f32::MIN;

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

impl Sampling {
    /// How the token at `index` of the answer is chosen.
    pub fn rule(&self, index: u64) -> Rule {
        if self.temperature < GREEDY_BELOW || self.top_k == 1 {
            return Rule::Largest;
        }
        Rule::Random {
            among: if self.top_k > 0 { Among::Likeliest(self.top_k) } else { Among::All },
            top_p: f64::from(self.top_p),
            inverse_temperature: 1.0 / f64::from(self.temperature),
            random: uniform(self.seed, index),
        }
    }
}

/// A token and the natural logarithm of its probability at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    pub token: u32,
    pub logprob: f32,
}

/// Logits of a step with the request's bias added. Only of finite ones may a token be asked for.
pub struct Scores<'a> {
    /// `[vocab_size]`
    logits: Cow<'a, [f32]>,
}

impl<'a> Scores<'a> {
    /// Adds the bias to the model's logits; entries outside the vocabulary do nothing.
    pub fn new(logits: &'a [f32], sampling: &Sampling) -> Self {
        let mut logits = Cow::Borrowed(logits);
        for &(token, bias) in &sampling.logit_bias {
            if (token as usize) < logits.len() {
                logits.to_mut()[token as usize] += bias;
            }
        }
        Self { logits }
    }

    /// Whether all logits are numbers; an adapter or a scale beyond reason makes others.
    pub fn are_finite(&self) -> bool {
        // Without a branch: 0 times a number is 0, and the sum of anything else is no number.
        let (chunks, rest) = self.logits.as_chunks::<8>();
        let mut lanes = [0.0; 8];
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += logit * 0.0;
            }
        }
        lanes.iter().chain(rest).all(|value| value.is_finite())
    }

    /// Leaves only these tokens: bit `token % 32` of word `token / 32`. False if none is left; the logits are numbers.
    pub fn keep(&mut self, tokens: &[u32]) -> bool {
        let is_kept = |token: usize| tokens.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
        let mut is_any_left = false;
        for (token, logit) in self.logits.to_mut().iter_mut().enumerate() {
            if is_kept(token) {
                is_any_left = true;
            } else {
                *logit = EXCLUDED;
            }
        }
        is_any_left
    }

    /// The token at `index` of the answer.
    ///
    /// ```
    /// use jetspool::infer::{Sampling, Scores};
    ///
    /// let greedy = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0, logit_bias: vec![(0, 5.0)] };
    /// assert_eq!(Scores::new(&[0.5, 2.0, 1.0], &greedy).choose(&greedy, 0), 0);
    /// ```
    pub fn choose(&self, sampling: &Sampling, index: u64) -> u32 {
        let token = self.choose_any(sampling, index);
        // With fewer tokens left than are kept in order, one of the others may stand at the end.
        if self.logits[token as usize] == EXCLUDED { self.best() } else { token }
    }

    fn choose_any(&self, sampling: &Sampling, index: u64) -> u32 {
        let Rule::Random { among, top_p, inverse_temperature: inverse, random } = sampling.rule(index) else {
            return self.best();
        };
        if let Among::Likeliest(n) = among {
            let weights = self.weights(n, inverse);
            let total = weights.iter().map(|(_, weight)| weight).sum();
            return draw(&weights, total, top_p, random).unwrap_or(weights[weights.len() - 1].0);
        }
        let first = self.weights(FIRST_ORDERED, inverse);
        let all = Distribution { logits: &self.logits, largest: self.logits[first[0].0 as usize], inverse };
        // If the others weigh about as much as the last of the first, the answer is hardly among the first.
        let (reached, least) =
            (first.iter().map(|(_, weight)| weight).sum::<f64>(), first[first.len() - 1].1);
        let mut histogram = (least * self.logits.len() as f64 > reached).then(|| Histogram::new(all));
        let total = match &histogram {
            Some(histogram) => histogram.total(),
            None => sum_of_exp(&self.logits, all.largest, inverse),
        };
        draw(&first, total, top_p, random)
            .or_else(|| histogram.get_or_insert_with(|| Histogram::new(all)).draw(top_p, random))
            .unwrap_or_else(|| self.choose_in_order(inverse, total, (top_p, random)))
    }

    /// Puts more and more tokens in order until the answer is among them.
    fn choose_in_order(&self, inverse: f64, total: f64, (top_p, random): (f64, f64)) -> u32 {
        let mut n_ordered = 8 * FIRST_ORDERED;
        loop {
            let weights = self.weights(n_ordered, inverse);
            if let Some(token) = draw(&weights, total, top_p, random) {
                return token;
            }
            if weights.len() == self.logits.len() {
                // Sums in another order may differ in their last bits: then nothing is cut off.
                return draw(&weights, total, 1.0, random).unwrap_or(weights[weights.len() - 1].0);
            }
            n_ordered *= 8;
        }
    }

    /// The `n` likeliest tokens, falling, with their probabilities as multiples of the first one's.
    fn weights(&self, n: usize, inverse: f64) -> Vec<(u32, f64)> {
        let tokens = likeliest(&self.logits, n);
        let largest = self.logits[tokens[0] as usize];
        let weight = |token: u32| exp(f64::from(self.logits[token as usize] - largest) * inverse);
        tokens.into_iter().map(|token| (token, weight(token))).collect()
    }

    /// The `n` likeliest tokens with their log probabilities, falling, and that of `token`: a log softmax at
    /// temperature 1 over the logits with the request's bias, before top-k and top-p. Nothing of it if `n` is 0.
    pub fn logprobs(&self, n: usize, token: u32) -> (Vec<TokenLogprob>, f32) {
        if n == 0 {
            return (Vec::new(), 0.0);
        }
        let tokens = likeliest(&self.logits, n);
        let largest = self.logits[tokens[0] as usize];
        let of = log_softmax(largest, sum_of_exp(&self.logits, largest, 1.0));
        let logit = |token: u32| self.logits[token as usize];
        let kept = tokens.into_iter().filter(|token| logit(*token) != EXCLUDED);
        (kept.map(|token| TokenLogprob { token, logprob: of(logit(token)) }).collect(), of(logit(token)))
    }

    /// The first of the largest.
    fn best(&self) -> u32 {
        let largest = largest(&self.logits);
        token_at(self.logits.iter().position(|logit| *logit == largest).unwrap_or(0))
    }
}

/// The log probability of a logit at temperature 1; `sum` is [`sum_of_exp`] of all of them.
pub fn log_softmax(largest: f32, sum: f64) -> impl Fn(f32) -> f32 {
    let log_sum = f64::from(largest) + sum.ln();
    move |logit| round_to_f32(f64::from(logit) - log_sum)
}

/// The token at `random` of the fewest `weights` that reach `top_p` of `total`; none if there are not enough of
/// them to tell.
fn draw(weights: &[(u32, f64)], total: f64, top_p: f64, random: f64) -> Option<u32> {
    let is_cut = top_p < 1.0;
    let (mut n_kept, mut kept) = (weights.len(), total);
    if is_cut {
        kept = 0.0;
        let reaches = |(_, weight): &(u32, f64)| {
            kept += weight;
            kept >= top_p * total
        };
        n_kept = weights.iter().position(reaches)? + 1;
    }
    let mut left = random * kept;
    let chosen = weights[..n_kept].iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    match chosen {
        Some((token, _)) => Some(*token),
        None if is_cut => Some(weights[n_kept - 1].0),
        None => None,
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
        let probabilities = [0.1_f64, 0.2, 0.7];
        let logits = [0.1_f32, 0.2, 0.7].map(f32::ln);
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

    /// The plain way: all in order, by the library's exp.
    fn plain(logits: &[f32], sampling: &Sampling, index: u64) -> u32 {
        let mut tokens: Vec<u32> = (0..).take(logits.len()).collect();
        tokens.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        if sampling.top_k > 0 {
            tokens.truncate(sampling.top_k);
        }
        let largest = logits[tokens[0] as usize];
        let weight = |token: &u32| {
            (f64::from(logits[*token as usize] - largest) / f64::from(sampling.temperature)).exp()
        };
        let weights: Vec<f64> = tokens.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut n_kept = 0;
        while n_kept < weights.len() && (n_kept == 0 || kept < f64::from(sampling.top_p) * total) {
            kept += weights[n_kept];
            n_kept += 1;
        }
        let mut left = uniform(sampling.seed, index) * kept;
        let chosen = weights[..n_kept].iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        tokens[chosen.unwrap_or(n_kept - 1)]
    }

    #[test]
    fn tokens_are_those_of_the_plain_way() {
        let n_tokens = 20_000;
        // Peaked like a model's, flat, and with many equal ones.
        let logits = |seed: u64, spread: f32, step: f32| -> Vec<f32> {
            let value = |i: u64| round_to_f32(uniform(seed, i)).powi(4) * spread;
            (0..n_tokens).map(|i| (value(i) / step).round() * step).collect()
        };
        for (seed, spread, step) in [(1, 40.0, 1e-6), (2, 2.0, 1e-6), (3, 10.0, 1.0)] {
            let logits = logits(seed, spread, step);
            for (temperature, top_k, top_p) in [
                (1.0, 50, 0.8),
                (0.7, 0, 0.95),
                (1.0, 0, 1.0),
                (1.5, 0, 0.999),
                (0.2, 1000, 0.3),
                (1.0, 0, 0.0),
                (1.0, 0, 0.999_999_94),
            ] {
                let sampling = sampling(temperature, top_k, top_p);
                let scores = Scores::new(&logits, &sampling);
                for index in 0..40 {
                    let wanted = plain(&logits, &sampling, index);
                    assert_eq!(scores.choose(&sampling, index), wanted, "{sampling:?} {seed} {index}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_seen_wherever_it_stands() {
        for len in [1, 7, 8, 9, 100] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, len / 2, len - 1] {
                    let mut logits = vec![1e38; len];
                    assert!(Scores::new(&logits, &sampling(1.0, 0, 1.0)).are_finite());
                    logits[at] = bad;
                    assert!(!Scores::new(&logits, &sampling(1.0, 0, 1.0)).are_finite(), "{bad} at {at}");
                }
            }
        }
    }

    #[test]
    fn logprobs_are_a_log_softmax() {
        let scores = Scores::new(&[1.0, 3.0, 2.0], &sampling(0.3, 1, 0.5));
        let sum: f32 = [1.0f32, 3.0, 2.0].iter().map(|x| x.exp()).sum();
        let (logprobs, last) = scores.logprobs(2, 0);
        assert_eq!(logprobs.iter().map(|l| l.token).collect::<Vec<_>>(), [1, 2]);
        assert!((logprobs[0].logprob - (3.0 - sum.ln())).abs() < 1e-6);
        assert!((last - (1.0 - sum.ln())).abs() < 1e-6);
        assert!(scores.logprobs(0, 0).0.is_empty());
        assert_eq!(scores.logprobs(50, 0).0.len(), 3);
    }
}
