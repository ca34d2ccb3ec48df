// What all kernels share: numbers as src/kernels and src/numbers define them. Every sum is made in the order of the
// processor's kernels, so that both give the same bits: products are fused where fmaf stands and nowhere else.
#include "gpu.h"

// Inputs that share a scale of activations, and whose products are added up by themselves.
constexpr int BLOCK = 32;
// Outputs that lie side by side in a matrix.
constexpr int TILE_ROWS = 16;
// Positions of a cache block, and those whose softmax is made by itself.
constexpr int BLOCK_LEN = 16;
constexpr int PART = 1024;
// Lanes of the processor's vectors, over which its sums are spread.
constexpr int LANES = 8;

// As Simd::max and min: NaN where b is.
__device__ __forceinline__ float larger(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b ? a : b; }

// As Simd::exp.
__device__ __forceinline__ float exp_of(float a) {
  a = smaller(88.0f, larger(-87.0f, a));
  float n = rintf(a * 1.44269504089f);
  float r = fmaf(n, -0.6933594f, a);
  r = fmaf(n, 2.1219444e-4f, r);
  float p = 1.9875691e-4f;
  p = fmaf(p, r, 1.3981999e-3f);
  p = fmaf(p, r, 8.333452e-3f);
  p = fmaf(p, r, 4.1665796e-2f);
  p = fmaf(p, r, 0.16666665f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r * r, r) + 1.0f;
  return p * float_of_bits((u32)((int)n + 127) << 23);
}

// As Simd::sum, of the eight lanes.
__device__ __forceinline__ float sum_of_lanes(const float* v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

__device__ __forceinline__ float e4m3(u8 code) {
  return float_of_half((u16)((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f;
}

__device__ __forceinline__ float e8m0(u8 code) {
  u32 bits = (u32)code << 23;
  return float_of_bits(bits > (1u << 22) ? bits : 1u << 22);
}

// Twice the number of a code of E2M1.
__device__ __forceinline__ int e2m1_doubled(u32 code) {
  u32 magnitude = (u32)(0xc8643210u >> (code & 7) * 4) & 15;
  return code & 8 ? -(int)magnitude : (int)magnitude;
}

// How a matrix is stored: numbers::Kind.
enum Kind {
  F32, F16, INT8, INT4_F16, INT4_F32, AFFINE, FP8, MXFP8, NVFP4, FP8_GROUPS, INT8_GROUPS, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K,
  LEVELS
};

struct Matrix {
  const u8* w;
  const u8* scale;
  const u8* more;  // zeros of groups (or null: 8), factors or scales of rows, factors of scales, numbers of codes
  int stride, group;
};

__device__ __forceinline__ float float_at(const u8* at, long long index) {
  return reinterpret_cast<const float*>(at)[index];
}
__device__ __forceinline__ float half_at(const u8* at, long long index) {
  return float_of_half(reinterpret_cast<const u16*>(at)[index]);
}

// Scales and offsets of blocks of 32 inputs, as kernels/weights.rs; `block` counts blocks of all tiles.
struct MiddleScales {
  static __device__ __forceinline__ void get(const Matrix& m, long long block, int n, float& scale, float& offset) {
    scale = half_at(m.scale, block * TILE_ROWS + n);
    offset = scale * -16.0f;
  }
};
struct PairScales {
  static __device__ __forceinline__ void get(const Matrix& m, long long block, int n, float& scale, float& offset) {
    scale = half_at(m.scale, block * 2 * TILE_ROWS + n);
    offset = half_at(m.scale, (block * 2 + 1) * TILE_ROWS + n);
  }
};
struct SuperScales {
  static __device__ __forceinline__ void get(const Matrix& m, long long block, int n, float& scale, float& offset) {
    const u8* bytes = m.scale + block * 2 * TILE_ROWS + n;
    long long factors = block / 8 * 2 * TILE_ROWS + n;
    scale = (float)bytes[0] * half_at(m.more, factors);
    offset = (float)bytes[TILE_ROWS] * half_at(m.more, factors + TILE_ROWS);
  }
};

// The code of an input in planes of five or six bits: numbers/tiles.rs. `block` is the first byte of its block.
__device__ __forceinline__ int code_of_five(const u8* block, int lane, int k) {
  const u8* at = block + lane * 4 + k % 4;
  return (at[k / 8 * 64] >> k / 4 % 2 * 4 & 15) | (at[4 * 64] >> k / 4 & 1) << 4;
}
__device__ __forceinline__ int code_of_six(const u8* block, int lane, int k) {
  const u8* at = block + k / 16 * 3 * 64 + lane * 4 + k % 4;
  return (at[k % 16 / 8 * 64] >> k / 4 % 2 * 4 & 15) | (at[2 * 64] >> k % 16 / 4 * 2 & 3) << 4;
}

// One weight as f32: Matrix::read_row.
__device__ __forceinline__ float weight_at(int kind, const Matrix& m, int row, int k) {
  int lane = row % TILE_ROWS;
  long long tile = row / TILE_ROWS, stride = m.stride;
  long long number = (tile * stride + k) * TILE_ROWS + lane;
  long long quad = tile * TILE_ROWS * stride + k / 4 * 64 + lane * 4 + k % 4;
  auto nibble = [&] {
    u8 byte = m.w[tile * TILE_ROWS * stride / 2 + k / 8 * 64 + lane * 4 + k % 4];
    return k % 8 < 4 ? byte & 15 : byte >> 4;
  };
  auto of_group = [&](int group) { return (tile * (stride / group) + k / group) * TILE_ROWS + lane; };
  switch (kind) {
    case F32: return float_at(m.w, number);
    case F16: return half_at(m.w, number);
    case INT8: return (float)(i8)m.w[quad] * float_at(m.scale, row);
    case INT4_F16:
    case INT4_F32: {
      long long at = of_group(m.group);
      float zero = m.more ? (float)m.more[at] : 8.0f;
      return ((float)nibble() - zero) * (kind == INT4_F16 ? half_at(m.scale, at) : float_at(m.scale, at));
    }
    case AFFINE: {
      long long at = (tile * (stride / BLOCK) + k / BLOCK) * 2 * TILE_ROWS + lane, factor = tile * 2 * TILE_ROWS + lane;
      float minimum = (float)m.scale[at + TILE_ROWS] * float_at(m.more, factor + TILE_ROWS);
      return ((float)m.scale[at] * (float)nibble() - minimum) * float_at(m.more, factor);
    }
    case FP8: return e4m3(m.w[number]) * float_at(m.scale, row);
    case FP8_GROUPS: return e4m3(m.w[number]) * float_at(m.scale, of_group(m.group));
    case INT8_GROUPS: {
      long long at = of_group(m.group);
      return ((float)(i8)m.w[quad] - (m.more ? float_at(m.more, at) : 0.0f)) * float_at(m.scale, at);
    }
    case Q4_1:
    case Q5_0:
    case Q5_1:
    case Q4_K:
    case Q5_K: {
      long long block = (tile * stride + k) / BLOCK;
      float scale, offset;
      if (kind == Q5_0) MiddleScales::get(m, block, lane, scale, offset);
      else if (kind == Q4_1 || kind == Q5_1) PairScales::get(m, block, lane, scale, offset);
      else SuperScales::get(m, block, lane, scale, offset);
      bool has_four = kind == Q4_1 || kind == Q4_K;
      int code = has_four ? nibble() : code_of_five(m.w + block * 5 * 64, lane, k % BLOCK);
      return scale * (float)code + offset;
    }
    case Q6_K: {
      float factor = half_at(m.more, of_group(256)), scale = (float)(i8)m.scale[of_group(16)];
      int code = code_of_six(m.w + (tile * stride + k) / BLOCK * 6 * 64, lane, k % BLOCK);
      return factor * scale * ((float)code - 32.0f);
    }
    case LEVELS: return float_at(m.more, nibble()) * float_at(m.scale, of_group(m.group));
    case MXFP8: return e4m3(m.w[number]) * e8m0(m.scale[of_group(BLOCK)]);
    default: return (float)e2m1_doubled(nibble()) * 0.5f * e4m3(m.scale[of_group(16)]) * float_at(m.more, row);
  }
}
