//! Exact sums of products of bytes, sixteen rows of weights with `R` rows of codes, by three sets of instructions.
//!
//! `x` has row r at `x + 32 r`; `weights(oct, part)` are inputs 0..4 and 4..8 of an oct of eight inputs, for rows
//! `4 part..4 part + 4`, four bytes each. The sums of row r are `[r][part]`.

use std::arch::aarch64::*;
use std::arch::asm;

/// `[rows of weights / 4]`
type Sums = [int32x4_t; 4];

/// NEON alone: products of 16 bits, added in pairs.
///
/// # Safety
/// 32 bytes a row; NEON.
#[inline(always)]
pub unsafe fn multiply_block<const R: usize, const OCTS: usize>(
    x: *const i8,
    weights: impl Fn(usize, usize) -> [int8x16_t; 2],
) -> [Sums; R] {
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; R];
        for oct in 0..OCTS {
            for part in 0..4 {
                for (quad, codes) in weights(oct, part).into_iter().enumerate() {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let at = x.add(r * 32 + oct * 8 + quad * 4).cast::<i32>();
                        let x = vreinterpretq_s8_s32(vdupq_n_s32(at.read_unaligned()));
                        let low = vpaddlq_s16(vmull_s8(vget_low_s8(codes), vget_low_s8(x)));
                        let high = vpaddlq_s16(vmull_high_s8(codes, x));
                        sums[part] = vaddq_s32(sums[part], vpaddq_s32(low, high));
                    }
                }
            }
        }
        sums
    }
}

/// `sum[n] += w[4 n..4 n + 4] . x[4 LANE..4 LANE + 4]`
///
/// # Safety
/// The processor has dotprod.
#[inline(always)]
unsafe fn dot<const LANE: i32>(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Sums of four products.
///
/// # Safety
/// 32 bytes a row; the processor has dotprod.
#[inline(always)]
pub unsafe fn dot_block<const R: usize, const OCTS: usize>(
    x: *const i8,
    weights: impl Fn(usize, usize) -> [int8x16_t; 2],
) -> [Sums; R] {
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 4]; R];
        for pair in 0..OCTS / 2 {
            let x: [int8x16_t; R] = std::array::from_fn(|r| vld1q_s8(x.add(r * 32 + pair * 16)));
            for part in 0..4 {
                let [w0, w1] = weights(2 * pair, part);
                let [w2, w3] = weights(2 * pair + 1, part);
                for (sums, x) in sums.iter_mut().zip(x) {
                    let sum = dot::<1>(dot::<0>(sums[part], w0, x), w1, x);
                    sums[part] = dot::<3>(dot::<2>(sum, w2, x), w3, x);
                }
            }
        }
        sums
    }
}

/// `sum[2 i + j] += w[8 i..8 i + 8] . x[8 j..8 j + 8]`
///
/// # Safety
/// The processor has i8mm.
#[inline(always)]
unsafe fn multiply(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Products of two rows with two rows; `R` is even.
///
/// # Safety
/// 32 bytes a row; the processor has i8mm.
#[inline(always)]
pub unsafe fn matrix_block<const R: usize, const OCTS: usize>(
    x: *const i8,
    weights: impl Fn(usize, usize) -> [int8x16_t; 2],
) -> [Sums; R] {
    unsafe {
        // Of rows of codes 2 p and 2 p + 1: `[2 p][part]` for the first two rows of weights, `[2 p + 1]` for the others.
        let mut squares = [[vdupq_n_s32(0); 4]; R];
        for oct in 0..OCTS {
            for part in 0..4 {
                let [low, high] = weights(oct, part).map(|codes| vreinterpretq_s32_s8(codes));
                let first = vreinterpretq_s8_s32(vzip1q_s32(low, high));
                let second = vreinterpretq_s8_s32(vzip2q_s32(low, high));
                for r in (0..R).step_by(2) {
                    let at = x.add(r * 32 + oct * 8);
                    let x = vcombine_s8(vld1_s8(at), vld1_s8(at.add(32)));
                    squares[r][part] = multiply(squares[r][part], first, x);
                    squares[r + 1][part] = multiply(squares[r + 1][part], second, x);
                }
            }
        }
        let mut sums = squares;
        for r in (0..R).step_by(2) {
            for part in 0..4 {
                sums[r][part] = vuzp1q_s32(squares[r][part], squares[r + 1][part]);
                sums[r + 1][part] = vuzp2q_s32(squares[r][part], squares[r + 1][part]);
            }
        }
        sums
    }
}
