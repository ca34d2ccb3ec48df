//! The meaning: eight lanes as an array, one operation after the other. Never tuned.

use half::f16;

use super::simd::{LANES, Simd};

/// Runs everywhere.
#[derive(Clone, Copy)]
pub struct Scalar;

type Lanes = [f32; LANES];

fn each(a: Lanes, b: Lanes, op: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| op(a[i], b[i]))
}

// SAFETY: no instruction beyond the baseline; the loads read exactly the elements that the trait names.
unsafe impl Simd for Scalar {
    type F32 = Lanes;

    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a + b)
    }
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a - b)
    }
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a * b)
    }
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a / b)
    }
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    fn round(self, a: Lanes) -> Lanes {
        a.map(f32::round_ties_even)
    }
    fn exp2_integral(self, a: Lanes) -> Lanes {
        a.map(|x| f32::from_bits(((x as i32 + 127) << 23) as u32))
    }
    fn to_array(self, a: Lanes) -> Lanes {
        a
    }
    unsafe fn load(self, from: *const f32) -> Lanes {
        // SAFETY: 8 elements by the trait's contract; [f32; 8] is read without alignment.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }
    unsafe fn store(self, to: *mut f32, value: Lanes) {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { to.cast::<Lanes>().write_unaligned(value) }
    }
    unsafe fn load_f16(self, from: *const f16) -> Lanes {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }
    unsafe fn store_f16(self, to: *mut f16, value: Lanes) {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(value.map(f16::from_f32)) }
    }
    unsafe fn load_i8(self, from: *const i8) -> Lanes {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    unsafe fn load_i4_block(self, from: *const u8) -> [Lanes; 4] {
        // SAFETY: 16 bytes by the trait's contract.
        let bytes = unsafe { from.cast::<[u8; 16]>().read_unaligned() };
        let low = |i: usize| f32::from((bytes[i] & 15) as i8 - 8);
        let high = |i: usize| f32::from((bytes[i] >> 4) as i8 - 8);
        [
            std::array::from_fn(low),
            std::array::from_fn(|i| low(i + 8)),
            std::array::from_fn(high),
            std::array::from_fn(|i| high(i + 8)),
        ]
    }
}
