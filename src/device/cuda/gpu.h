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

__device__ __forceinline__ u32 bits_of_float(float value) { return __float_as_uint(value); }
__device__ __forceinline__ double double_of_bits(u64 bits) { return __longlong_as_double((long long)bits); }
__device__ __forceinline__ u64 bits_of_double(double value) { return (u64)__double_as_longlong(value); }

// A word that the host writes meanwhile. What it wrote before is seen after it.
__device__ __forceinline__ u32 read_acquire(const u32* at) {
  u32 value;
  asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}

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

// d = a (16 x 32, rows) * b (32 x 8, columns): codes of eight bits, whole sums, one warp.
__device__ __forceinline__ void mma_s8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}
// The same of 16 inputs: a is 16 x 16.
__device__ __forceinline__ void mma_s8_half(int (&d)[4], u32 a0, u32 a1, u32 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(0));
}
// Four matrices of eight rows by 16 bytes from shared memory: lane i says where row i % 8 of matrix i / 8 is, and gets of
// each matrix word i % 4 of row i / 4.
__device__ __forceinline__ void load_matrices(u32 (&d)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"((u32)__cvta_generic_to_shared(row)));
}

// Copies 4 or 16 bytes from memory to shared memory, both aligned to as many, while the thread goes on. They are there for it
// when it has waited for their group, and for others behind a barrier after that.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* shared, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;"
               :: "r"((u32)__cvta_generic_to_shared(shared)), "l"(from), "n"(BYTES) : "memory");
}
// Ends a group: what was copied since the last one.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups but the last `N`.
template <int N>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

// Four bytes of eight, chosen by the nibbles of the selector.
__device__ __forceinline__ u32 byte_perm(u32 low, u32 high, u32 selector) { return __byte_perm(low, high, selector); }
