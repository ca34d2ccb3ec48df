// What kernels use beyond plain CUDA C++, on the processor.
#pragma once
#include "cucpu.h"

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(16) int4 { int x, y, z, w; };

__device__ __forceinline__ float float_of_bits(u32 bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
__device__ __forceinline__ bool is_finite(float value) { return std::isfinite(value); }
__device__ __forceinline__ float float_of_half(u16 half) {
  cucpu_f16 value;
  memcpy(&value, &half, 2);
  return (float)value;
}
__device__ __forceinline__ u16 half_of_float(float value) {
  cucpu_f16 narrow = (cucpu_f16)value;
  u16 half;
  memcpy(&half, &narrow, 2);
  return half;
}
__device__ __forceinline__ float warp_sum(float v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
