//! Eight f32 lanes as a trait; an instruction set is a value of a type that implements it.
//!
//! All implementations give the same bits: the lane count is fixed, every multiply-add is fused, and a
//! vector is summed as ((0+4)+(2+6)) + ((1+5)+(3+7)). So an answer does not depend on the processor.
//!
//! NaN and infinities are results like others, and the same ones everywhere (but for the bits of a NaN). No
//! operation of a model makes a number of them that says nothing: what one row holds of them reaches its logits,
//! where the sampler looks. Only three operations of these kernels could hide them, and say what they do:
//! [`Simd::exp`], `attend` and `rms_norm`. A kernel that rounds activations to integers must do so too.

use half::f16;

use super::minifloat::{E4M3_FACTOR, e4m3_bits};

/// Lanes of a vector.
pub const LANES: usize = 8;

/// Arithmetic on eight f32 lanes.
///
/// # Safety
/// The loads and stores take pointers: the caller guarantees that the elements named in each doc are
/// readable (writable). No alignment is needed. A value of an implementing type proves that the
/// processor has the instructions.
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    type F32: Copy;

    fn splat(self, value: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger of each lane; NaN where `b` is, and anything where only `a` is.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller of each lane; NaN where `b` is, and anything where only `a` is.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c` with one rounding.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F32) -> Self::F32;
    /// 2 to the power of an integral lane in -126..=127.
    fn exp2_integral(self, a: Self::F32) -> Self::F32;
    fn to_array(self, a: Self::F32) -> [f32; LANES];

    /// # Safety
    /// 8 elements.
    unsafe fn load(self, from: *const f32) -> Self::F32;
    /// # Safety
    /// 8 elements.
    unsafe fn store(self, to: *mut f32, value: Self::F32);
    /// # Safety
    /// 8 elements.
    unsafe fn load_f16(self, from: *const f16) -> Self::F32;
    /// # Safety
    /// 8 elements. Rounds to nearest, ties to even.
    unsafe fn store_f16(self, to: *mut f16, value: Self::F32);
    /// # Safety
    /// 8 elements.
    unsafe fn load_u8(self, from: *const u8) -> Self::F32;
    /// # Safety
    /// 8 elements.
    unsafe fn load_i8(self, from: *const i8) -> Self::F32;
    /// Whole numbers in -127..=127.
    ///
    /// # Safety
    /// 8 elements.
    unsafe fn store_i8(self, to: *mut i8, value: Self::F32);

    /// E4M3 codes as numbers.
    ///
    /// # Safety
    /// 8 elements.
    #[inline(always)]
    unsafe fn load_e4m3(self, from: *const u8) -> Self::F32 {
        // SAFETY: 8 elements by the caller; halves has 8.
        unsafe {
            let halves = from.cast::<[u8; LANES]>().read_unaligned().map(e4m3_bits);
            self.mul(self.load_f16(halves.as_ptr().cast()), self.splat(E4M3_FACTOR))
        }
    }

    /// Sum of the lanes, in the order of the file's head.
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        let v = self.to_array(a);
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }

    /// The largest lane that is a number; minus infinity if none is.
    #[inline(always)]
    fn max_lane(self, a: Self::F32) -> f32 {
        self.to_array(a).into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The first `n` elements, the other lanes zero.
    ///
    /// # Safety
    /// `n` <= 8 elements.
    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, n: usize) -> Self::F32 {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller gives n readable elements; lanes has 8.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            self.load(lanes.as_ptr())
        }
    }

    /// The first `n` elements, the other lanes zero.
    ///
    /// # Safety
    /// `n` <= 8 elements.
    #[inline(always)]
    unsafe fn load_f16_partial(self, from: *const f16, n: usize) -> Self::F32 {
        let mut lanes = [f16::ZERO; LANES];
        // SAFETY: the caller gives n readable elements; lanes has 8.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            self.load_f16(lanes.as_ptr())
        }
    }

    /// # Safety
    /// `n` <= 8 elements.
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, value: Self::F32, n: usize) {
        let lanes = self.to_array(value);
        // SAFETY: the caller gives n writable elements; lanes has 8.
        unsafe { std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n) }
    }

    /// e to the power of each lane, relative error under 2^-22; lanes below -87 give about 1e-38, those above 88
    /// about 1.7e38, and NaN gives NaN.
    ///
    /// Range reduction by ln 2 in two parts and a polynomial of degree 6 (Cephes `expf`).
    #[inline(always)]
    fn exp(self, a: Self::F32) -> Self::F32 {
        let a = self.min(self.splat(88.0), self.max(self.splat(-87.0), a));
        let n = self.round(self.mul(a, self.splat(std::f32::consts::LOG2_E)));
        let r = self.mul_add(n, self.splat(-0.693_359_4), a);
        let r = self.mul_add(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
            p = self.mul_add(p, r, self.splat(coefficient));
        }
        let r_squared = self.mul(r, r);
        let p = self.add(self.mul_add(p, r_squared, r), self.splat(1.0));
        self.mul(p, self.exp2_integral(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "aarch64")]
    use crate::kernels::aarch64::{Neon, PLAIN};
    use crate::kernels::scalar::Scalar;

    const CASES: [f32; LANES] =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1.0, -90.0, 100.0, -f32::NAN];

    /// The exponentials of the cases, and the larger and smaller of 0.5 and each.
    fn results<S: Simd>(s: S) -> [[f32; LANES]; 3] {
        // SAFETY: 8 elements.
        let cases = unsafe { s.load(CASES.as_ptr()) };
        let half = s.splat(0.5);
        [s.exp(cases), s.max(half, cases), s.min(half, cases)].map(|lanes| s.to_array(lanes))
    }

    #[test]
    fn nan_stays_nan_on_every_processor() {
        let scalar = results(Scalar);
        assert!(scalar.iter().all(|lanes| lanes.map(f32::is_nan) == CASES.map(f32::is_nan)), "{scalar:?}");
        let [exp, ..] = scalar;
        assert!(exp[1] > 1e38 && exp[1].is_finite() && exp[2] < 2e-38 && exp[3] == 1.0, "{exp:?}");
        #[cfg(target_arch = "x86_64")]
        let found = crate::kernels::x86_64::Avx2::new().map(results);
        #[cfg(target_arch = "aarch64")]
        let found = Neon::<PLAIN>::new().map(results);
        for (found, wanted) in found.iter().flatten().flatten().zip(scalar.iter().flatten()) {
            assert!(found == wanted || found.is_nan() && wanted.is_nan(), "{found} {wanted}");
        }
    }
}
