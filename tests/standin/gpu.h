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
__device__ __forceinline__ u32 bits_of_float(float value) {
  u32 bits;
  memcpy(&bits, &value, 4);
  return bits;
}
__device__ __forceinline__ double double_of_bits(u64 bits) {
  double value;
  memcpy(&value, &bits, 8);
  return value;
}
__device__ __forceinline__ u64 bits_of_double(double value) {
  u64 bits;
  memcpy(&bits, &value, 8);
  return bits;
}
__device__ __forceinline__ u32 read_acquire(const u32* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
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
__device__ __forceinline__ u32 byte_perm(u32 low, u32 high, u32 selector) {
  u64 all = (u64)high << 32 | low;
  u32 found = 0;
  for (int i = 0; i < 4; i++) found |= (u32)(all >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return found;
}
static void mma_s8_of_warp(cucpu::Warp& w, uint32_t lanes) {
  struct In { u32 a[4], b[2]; };
  if (lanes != ~0u) cucpu::fail(719, "mma without all 32 lanes");
  signed char a[16][32], b[8][32];
  for (int l = 0; l < 32; l++) {
    In* in = (In*)w.slot[l].in;
    int g = l >> 2, t = (l & 3) * 4;
    for (int r = 0; r < 4; r++) memcpy(&a[g + (r & 1) * 8][t + (r >> 1) * 16], &in->a[r], 4);
    for (int r = 0; r < 2; r++) memcpy(&b[g][t + r * 16], &in->b[r], 4);
  }
  for (int l = 0; l < 32; l++)
    for (int r = 0; r < 4; r++) {
      int sum = 0;
      for (int k = 0; k < 32; k++) sum += a[(l >> 2) + (r >> 1) * 8][k] * b[(l & 3) * 2 + (r & 1)][k];
      ((int*)w.slot[l].out)[r] = sum;
    }
}
__device__ __forceinline__ void mma_s8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  struct { u32 a[4], b[2]; } in = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  int4 out = cucpu::collective<int4>(~0u, in, mma_s8_of_warp);
  d[0] = out.x, d[1] = out.y, d[2] = out.z, d[3] = out.w;
}
__device__ __forceinline__ void mma_s8_half(int (&d)[4], u32 a0, u32 a1, u32 b) {
  mma_s8(d, {a0, a1, 0, 0}, b, 0);
}
__device__ __forceinline__ void load_matrices(u32 (&d)[4], const void* row) { ldmatrix_x4(d, row); }
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* from) { cp_async<BYTES>(shared, from); }
__device__ __forceinline__ void commit_copies() { cp_async_commit(); }
template <int N>
__device__ __forceinline__ void wait_copies() { cp_async_wait<N>(); }
__device__ __forceinline__ float warp_sum(float v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
