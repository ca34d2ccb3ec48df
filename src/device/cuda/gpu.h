// What the kernels use beyond plain CUDA C++, for a device. Tests have a file of this name for the processor.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DYN_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char dyn_shared[]; \
  T* name = reinterpret_cast<T*>(dyn_shared)

__device__ __forceinline__ float float_of_bits(u32 bits) { return __uint_as_float(bits); }

__device__ __forceinline__ bool is_finite(float value) {
  return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

// f16 by its bits, so that no header is needed.
__device__ __forceinline__ float float_of_half(u16 half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

// To the nearest, ties to even.
__device__ __forceinline__ u16 half_of_float(float value) {
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return half;
}
