//! The k likeliest of a vocabulary in one pass: whatever is below the k-th of those seen so far is passed over,
//! a chunk at a time.

/// Logits that are looked at together.
const CHUNK: usize = 32;
/// Candidates are cut back to `n` when they are this many times as many.
const SLACK: usize = 2;

/// The `n` tokens of the largest logits, falling; equal logits by rising token. The logits are numbers.
pub fn likeliest(logits: &[f32], n: usize) -> Vec<u32> {
    let n = n.min(logits.len());
    if n == 0 {
        return Vec::new();
    }
    let mut found: Vec<u64> = Vec::with_capacity(SLACK * n + CHUNK);
    let mut least = f32::NEG_INFINITY;
    for (chunk_idx, chunk) in logits.chunks(CHUNK).enumerate() {
        if largest(chunk) < least {
            continue;
        }
        let first = chunk_idx * CHUNK;
        // Equal ones too: -0 and 0 are equal, and only the key decides between them.
        let tokens = (first..first + chunk.len()).filter(|&token| logits[token] >= least);
        found.extend(tokens.map(|token| key(logits[token], token_at(token))));
        if found.len() >= SLACK * n {
            let (_, last, _) = found.select_nth_unstable(n - 1);
            least = logits[token(*last) as usize];
            found.truncate(n);
        }
    }
    if found.len() > n {
        found.select_nth_unstable(n - 1);
        found.truncate(n);
    }
    found.sort_unstable();
    found.into_iter().map(token).collect()
}

/// A number that rises as the logit falls (in the order of `f32::total_cmp`), and then with the token: the logit's
/// bits with all but the sign flipped where it is positive, and the token below them.
pub fn key(logit: f32, token: u32) -> u64 {
    let bits = logit.to_bits();
    let falling = if bits >> 31 == 0 { bits ^ 0x7fff_ffff } else { bits };
    u64::from(falling) << 32 | u64::from(token)
}

/// The token of a logit.
#[expect(clippy::cast_possible_truncation, reason = "a vocabulary has less than 2^32 tokens")]
#[inline(always)]
pub fn token_at(place: usize) -> u32 {
    place as u32
}

/// The token of such a number.
#[expect(clippy::cast_possible_truncation, reason = "the low half is the token")]
pub fn token(key: u64) -> u32 {
    key as u32
}

/// The largest of some numbers, in lanes.
pub fn largest(chunk: &[f32]) -> f32 {
    const LANES: usize = 8;
    let max = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = chunk.as_chunks::<LANES>();
    for eight in whole {
        for (lane, &value) in lanes.iter_mut().zip(eight) {
            *lane = max(*lane, value);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the whole order.
    fn sorted(logits: &[f32], n: usize) -> Vec<u32> {
        let mut tokens: Vec<u32> = (0..).take(logits.len()).collect();
        tokens.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        tokens.truncate(n);
        tokens
    }

    #[test]
    fn it_is_the_head_of_the_whole_order() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for len in [1, 2, 31, 32, 33, 500, 5000] {
            let spread: Vec<f32> = (0..len).map(|_| random() as f32 / 1e5 - 80.0).collect();
            let coarse: Vec<f32> = (0..len).map(|_| (random() % 7) as f32 - 3.0).collect();
            let zeros: Vec<f32> = (0..len).map(|_| if random() % 2 == 0 { 0.0 } else { -0.0 }).collect();
            let rising: Vec<f32> = (0..len).map(|i| i as f32).collect();
            for logits in [spread, coarse, zeros, rising] {
                for n in [0, 1, 2, 16, 50, len, len + 1] {
                    assert_eq!(likeliest(&logits, n), sorted(&logits, n), "{n} of {len}");
                }
            }
        }
    }
}
