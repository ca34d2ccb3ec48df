//! An instruction set that is another one and more: what it leaves to the one inside, which is its field `0`.

/// Functions as those of the one inside.
macro_rules! as_inner {
    (safe { $($name:ident($($value:ident: $kind:ty),*) $(-> $result:ty)?;)* }
     by_pointer { $($of:ident($($at:ident: $at_kind:ty),*) $(-> $found:ty)?;)* }) => {
        $(
            #[inline(always)]
            fn $name(self, $($value: $kind),*) $(-> $result)? {
                self.0.$name($($value),*)
            }
        )*
        $(
            #[inline(always)]
            unsafe fn $of(self, $($at: $at_kind),*) $(-> $found)? {
                // SAFETY: the caller's promise.
                unsafe { self.0.$of($($at),*) }
            }
        )*
    };
}
pub(super) use as_inner;

/// All of [`crate::kernels::simd::Simd`] as the one inside has it.
macro_rules! simd_of_inner {
    () => {
        type F32 = __m256;

        $crate::kernels::x86_64::inner::as_inner! {
            safe {
                splat(value: f32) -> __m256;
                add(a: __m256, b: __m256) -> __m256;
                sub(a: __m256, b: __m256) -> __m256;
                mul(a: __m256, b: __m256) -> __m256;
                div(a: __m256, b: __m256) -> __m256;
                max(a: __m256, b: __m256) -> __m256;
                min(a: __m256, b: __m256) -> __m256;
                mul_add(a: __m256, b: __m256, c: __m256) -> __m256;
                round(a: __m256) -> __m256;
                exp2_integral(a: __m256) -> __m256;
                to_array(a: __m256) -> [f32; LANES];
                sum(a: __m256) -> f32;
            }
            by_pointer {
                load(from: *const f32) -> __m256;
                store(to: *mut f32, value: __m256);
                load_f16(from: *const f16) -> __m256;
                store_f16(to: *mut f16, value: __m256);
                load_u8(from: *const u8) -> __m256;
                load_i8(from: *const i8) -> __m256;
                load_e4m3(from: *const u8) -> __m256;
                store_i8(to: *mut i8, value: __m256);
            }
        }
    };
}
pub(super) use simd_of_inner;
