//! Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as
//! 1, 2, 3"). The number of a token depends on the seed and the token's index and on nothing else.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// A number in [0, 1) with 53 bits for the token at `index` of the stream `seed`.
pub fn uniform(seed: u64, index: u64) -> f64 {
    let [a, b, ..] = philox(counter(index, 0), halves(seed));
    let bits = (u64::from(b) << 32 | u64::from(a)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// The seed of another stream: that of choice `index` where several answers are drawn with one seed. The first is the
/// seed's own.
pub fn seed_of(seed: u64, index: u64) -> u64 {
    if index == 0 {
        return seed;
    }
    // The third word is 0 where tokens are drawn.
    let [a, b, ..] = philox(counter(index, 1), halves(seed));
    u64::from(b) << 32 | u64::from(a)
}

fn counter(index: u64, third: u32) -> [u32; 4] {
    let [low, high] = halves(index);
    [low, high, third, 0]
}

/// The low and the high 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "each half is taken alone")]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let product = |i: usize, x: u32| u64::from(MULTIPLIERS[i]) * u64::from(x);
        let [p0_low, p0_high] = halves(product(0, counter[0]));
        let [p1_low, p1_high] = halves(product(1, counter[2]));
        counter = [p1_high ^ counter[1] ^ key[0], p1_low, p0_high ^ counter[3] ^ key[1], p0_low];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_equals_the_published_vectors() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, wanted) in cases {
            assert_eq!(philox(counter, key), wanted);
        }
    }

    #[test]
    fn uniform_fills_the_unit_interval() {
        let mean = (0..10_000).map(|i| uniform(42, i)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((0..10_000).all(|i| (0.0..1.0).contains(&uniform(7, i))));
    }
}
