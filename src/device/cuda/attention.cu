// Keys and values in blocks of 16 positions, and attention to them, as kernels::attention makes it.
//
// A block of the cache has for each layer and head the keys [head_dim][16], for all heads, then the values
// [16][head_stride]; codes of eight bits are followed by the scales of the positions. Blocks lie in chunks.

struct Cache {
  const u64* chunks;  // addresses
  int blocks_per_chunk;
  long long block_bytes;
  int element_bytes;  // 4: f32, 2: f16, 1: codes
  int n_kv_heads, head_dim, layer;
};

#define CACHE                                                                                                        \
  const u64 *chunks, int blocks_per_chunk, int block_bytes, int element_bytes, int n_kv_heads, int head_dim, int layer
#define THE_CACHE Cache cache{chunks, blocks_per_chunk, block_bytes, element_bytes, n_kv_heads, head_dim, layer}

__device__ __forceinline__ int head_stride(const Cache& c) {
  return (c.head_dim + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

// Where the keys (part 0) or values (1) of a head begin.
__device__ __forceinline__ u8* place(const Cache& c, u32 block, int part, int head) {
  long long bytes = (long long)BLOCK_LEN * (head_stride(c) * c.element_bytes + (c.element_bytes == 1 ? 4 : 0));
  u64 base = c.chunks[block / c.blocks_per_chunk] + (u64)(block % c.blocks_per_chunk) * (u64)c.block_bytes;
  return reinterpret_cast<u8*>(base) + ((long long)(c.layer * 2 + part) * c.n_kv_heads + head) * bytes;
}

__device__ __forceinline__ float element(const Cache& c, const u8* at, int index) {
  switch (c.element_bytes) {
    case 4: return float_at(at, index);
    case 2: return half_at(at, index);
    default: return (float)(i8)at[index];
  }
}

// Of a position, behind the codes of a head.
__device__ __forceinline__ float* scale_of(const Cache& c, u8* head, int slot) {
  return reinterpret_cast<float*>(head + BLOCK_LEN * head_stride(c)) + slot;
}

// Writes a head's keys (part 0) or values (1) at the position of a row.
__device__ __forceinline__ void store_head(const Cache& cache, u8* to, int part, int slot, const float* values, float* most,
                                           int* wrong) {
  float by = 0.0f;
  if (cache.element_bytes == 1) {
    float largest = 0.0f;
    int n_wrong = 0;
    for (int d = threadIdx.x; d < cache.head_dim; d += 128) {
      largest = larger(fabsf(values[d]), largest);
      n_wrong += !is_finite(values[d]);
    }
    for (int o = 16; o; o >>= 1) {
      largest = larger(__shfl_xor_sync(~0u, largest, o), largest);
      n_wrong += __shfl_xor_sync(~0u, n_wrong, o);
    }
    if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = largest, wrong[threadIdx.x / 32] = n_wrong;
    __syncthreads();
    largest = larger(larger(most[0], most[1]), larger(most[2], most[3]));
    n_wrong = wrong[0] + wrong[1] + wrong[2] + wrong[3];
    float scale = largest / 127.0f;
    by = 1.0f / scale;
    if (!is_finite(by)) by = 0.0f;
    if (threadIdx.x == 0) *scale_of(cache, to, slot) = n_wrong ? float_of_bits(0x7fc00000u) : scale;
  }
  for (int d = threadIdx.x; d < cache.head_dim; d += 128) {
    int index = part ? slot * head_stride(cache) + d : d * BLOCK_LEN + slot;
    float value = values[d];
    switch (cache.element_bytes) {
      case 4: reinterpret_cast<float*>(to)[index] = value; break;
      case 2: reinterpret_cast<u16*>(to)[index] = half_of_float(value); break;
      default: {
        float scaled = larger(-127.0f, smaller(127.0f, value * by));
        reinterpret_cast<i8*>(to)[index] = (i8)(int)(scaled + 12582912.0f - 12582912.0f);
      }
    }
  }
}

// Rows of heads, [n_rows, stride]; a norm's weight or null.
struct Heads {
  float* x;
  int stride, n_heads;
  const float* norm;
};

// What attention needs of a row's queries, keys and values. Heads of queries and keys are normalized where they have a norm,
// and their pairs (i, i + half) turned by the angles of the row; keys and values are written at its position. Either may be
// missing: no queries, no pairs, nothing to store (then k is null and the cache has no heads). Grid
// [n_heads + 2 * kv heads, n_rows]; shared memory [head_dim] f32.
extern "C" __global__ void __launch_bounds__(128)
prepare_heads(CACHE, float* q, int q_stride, int n_heads, const float* q_norm, float* k, const float* k_norm, float* v,
              int kv_stride, float eps, const float* cos, const float* sin, int half, const u32* positions,
              const u32* first_block, const u32* blocks) {
  DYN_SHARED(float, values);
  __shared__ float lanes[LANES], most[4];
  __shared__ int wrong[4];
  THE_CACHE;
  int head = blockIdx.x, row = blockIdx.y, part = -1;
  Heads heads{q, q_stride, n_heads, q_norm};
  if (head >= n_heads) {
    head -= n_heads;
    part = head / n_kv_heads;
    head %= n_kv_heads;
    heads = part ? Heads{v, kv_stride, n_kv_heads, nullptr} : Heads{k, kv_stride, n_kv_heads, k_norm};
  }
  float* at = heads.x + (long long)row * heads.stride + head * head_dim;
  for (int d = threadIdx.x; d < head_dim; d += 128) values[d] = at[d];
  __syncthreads();
  if (heads.norm) {
    if (threadIdx.x < LANES) {
      float squares = 0.0f;
      for (int d = threadIdx.x; d < head_dim; d += LANES) squares = fmaf(values[d], values[d], squares);
      lanes[threadIdx.x] = squares;
    }
    __syncthreads();
    float inverse = inverse_rms(lanes, head_dim, eps);
    for (int d = threadIdx.x; d < head_dim; d += 128) at[d] = values[d] = values[d] * inverse * heads.norm[d];
    __syncthreads();
  }
  if (part != 1) {
    const float *c = cos + (long long)row * half, *s = sin + (long long)row * half;
    for (int i = threadIdx.x; i < half; i += 128) {
      float a = values[i], b = values[i + half];
      at[i] = values[i] = a * c[i] - b * s[i];
      at[i + half] = values[i + half] = b * c[i] + a * s[i];
    }
    __syncthreads();
  }
  if (part < 0) return;
  u32 position = positions[row];
  u8* to = place(cache, blocks[first_block[row] + position / BLOCK_LEN], part, head);
  store_head(cache, to, part, position % BLOCK_LEN, values, most, wrong);
}

// Queries that share keys and values, in one block of threads.
constexpr int QUERIES = 4;

struct Weight {
  float largest, sum;
};

// Each row's heads in one part of the positions that it sees. Grid [n_rows, kv heads * groups of queries, parts];
// shared memory [QUERIES][head_dim] and [QUERIES][PART] f32. A row with one part writes to y, others to outs and weights:
// [n_rows, n_heads, parts, head_dim] and [n_rows, n_heads, parts]. What is written to y is written as codes too where they
// are wanted, which needs heads of whole blocks.
extern "C" __global__ void __launch_bounds__(128)
attend(CACHE, const float* q, int stride, int n_shared, float scale, const u32* positions, const u32* starts,
       const u32* first_block, const u32* blocks, float* y, float* outs, Weight* weights, CODES_OUT) {
  DYN_SHARED(float, space);
  __shared__ const u8* keys_at[PART / BLOCK_LEN];
  __shared__ u8* values_at[PART / BLOCK_LEN];
  __shared__ float lanes[QUERIES][LANES], most[QUERIES][4];
  __shared__ int wrong[QUERIES][4];
  THE_CACHE;
  THE_CODES;
  int n_groups = (n_shared + QUERIES - 1) / QUERIES;
  int row = blockIdx.x, kv_head = blockIdx.y / n_groups, group = blockIdx.y % n_groups;
  int first_head = kv_head * n_shared + group * QUERIES, n_queries = min(QUERIES, n_shared - group * QUERIES);
  int position = (int)positions[row], start = (int)starts[row];
  int first_part = start / PART, n_parts = position / PART + 1 - first_part, part = blockIdx.z;
  if (part >= n_parts) return;
  int base = (first_part + part) * PART, low = max(start, base), high = min(position + 1, base + PART);
  float *queries = space, *scores = space + QUERIES * head_dim;
  for (int i = threadIdx.x; i < n_queries * head_dim; i += 128)
    queries[i] = q[(long long)row * stride + first_head * head_dim + i];
  const u32* mine = blocks + first_block[row] + base / BLOCK_LEN;
  for (int i = low / BLOCK_LEN - base / BLOCK_LEN + threadIdx.x; base + i * BLOCK_LEN < high; i += 128) {
    keys_at[i] = place(cache, mine[i], 0, kv_head);
    values_at[i] = place(cache, mine[i], 1, kv_head);
  }
  __syncthreads();

  // A position to a thread.
  float largest[QUERIES];
  int n_wrong[QUERIES] = {};
  for (int j = 0; j < QUERIES; j++) largest[j] = float_of_bits(0xff800000u);
  for (int at = low + threadIdx.x; at < high; at += 128) {
    const u8* keys = keys_at[(at - base) / BLOCK_LEN];
    int slot = at % BLOCK_LEN;
    float sums[QUERIES] = {};
    for (int d = 0; d < head_dim; d++) {
      float key = element(cache, keys, d * BLOCK_LEN + slot);
      for (int j = 0; j < QUERIES; j++)
        if (j < n_queries) sums[j] = fmaf(key, queries[j * head_dim + d], sums[j]);
    }
    float factor = element_bytes == 1 ? *scale_of(cache, const_cast<u8*>(keys), slot) * scale : scale;
    for (int j = 0; j < QUERIES; j++)
      if (j < n_queries) {
        float score = sums[j] * factor;
        scores[j * PART + at - base] = score;
        n_wrong[j] += !is_finite(score);
        largest[j] = larger(score, largest[j]);
      }
  }
  for (int j = 0; j < QUERIES; j++) {
    for (int o = 16; o; o >>= 1) {
      largest[j] = larger(__shfl_xor_sync(~0u, largest[j], o), largest[j]);
      n_wrong[j] += __shfl_xor_sync(~0u, n_wrong[j], o);
    }
    if (threadIdx.x % 32 == 0) most[j][threadIdx.x / 32] = largest[j], wrong[j][threadIdx.x / 32] = n_wrong[j];
  }
  __syncthreads();
  for (int j = 0; j < QUERIES; j++) {
    largest[j] = larger(larger(most[j][0], most[j][1]), larger(most[j][2], most[j][3]));
    if (j < n_queries)
      for (int at = low + threadIdx.x; at < high; at += 128)
        scores[j * PART + at - base] = exp_of(scores[j * PART + at - base] - largest[j]);
  }
  __syncthreads();
  // Eight lanes to a query: positions of one remainder each.
  if (threadIdx.x < n_queries * LANES) {
    int j = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float sum = 0.0f;
    for (int at = low / LANES * LANES + lane; at < high; at += LANES)
      if (at >= low) sum += scores[j * PART + at - base];
    lanes[j][lane] = sum;
  }
  __syncthreads();
  // An element of the values to a thread, for all queries, or for some of them where a head has fewer elements than threads.
  int n_heads = n_shared * n_kv_heads, n_together = head_dim > 64 ? QUERIES : head_dim > 32 ? QUERIES / 2 : 1;
  for (int i = threadIdx.x; i < QUERIES / n_together * head_dim; i += 128) {
    int first = i / head_dim * n_together, d = i % head_dim, n_mine = min(n_together, n_queries - first);
    float sums[QUERIES] = {};
    for (int at = low; at < high; at++) {
      u8* values = values_at[(at - base) / BLOCK_LEN];
      int slot = at % BLOCK_LEN;
      float value = element(cache, values, slot * head_stride(cache) + d);
      float factor = element_bytes == 1 ? *scale_of(cache, values, slot) : 1.0f;
      for (int j = 0; j < QUERIES; j++)
        if (j < n_mine) sums[j] = fmaf(scores[(first + j) * PART + at - base] * factor, value, sums[j]);
    }
    for (int j = 0; j < QUERIES; j++)
      if (j < n_mine) {
        int query = first + j, head = first_head + query;
        int any_wrong = wrong[query][0] + wrong[query][1] + wrong[query][2] + wrong[query][3];
        float of_query = largest[0];
        for (int other = 1; other < QUERIES; other++) of_query = other == query ? largest[other] : of_query;
        Weight found{of_query, any_wrong ? float_of_bits(0x7fc00000u) : sum_of_lanes(lanes[query])};
        if (n_parts == 1) {
          long long at = (long long)row * stride + head * head_dim + d;
          float output = sums[j] * (1.0f / found.sum);
          y[at] = output;
          if (codes) write_codes(to, at / BLOCK, output);
        } else {
          long long place = ((long long)row * n_heads + head) * gridDim.z + part;
          outs[place * head_dim + d] = sums[j];
          if (d == 0) weights[place] = found;
        }
      }
  }
}

// Puts the parts of a row together, if it has more than one. Grid [n_rows, n_heads].
extern "C" __global__ void __launch_bounds__(128)
combine_parts(const u32* positions, const u32* starts, const float* outs, const Weight* weights, int max_parts, float* y,
              CODES_OUT, int stride, int head_dim) {
  THE_CODES;
  int row = blockIdx.x, head = blockIdx.y;
  int n_parts = (int)positions[row] / PART + 1 - (int)starts[row] / PART;
  if (n_parts == 1) return;
  long long first = ((long long)row * gridDim.y + head) * max_parts;
  float largest = float_of_bits(0xff800000u);
  for (int part = 0; part < n_parts; part++) largest = larger(weights[first + part].largest, largest);
  for (int d = threadIdx.x; d < head_dim; d += 128) {
    float sum = 0.0f, out = 0.0f;
    for (int part = 0; part < n_parts; part++) {
      Weight weight = weights[first + part];
      float factor = weight.largest == largest ? 1.0f : exp_of(weight.largest - largest);
      sum += weight.sum * factor;
      out += outs[(first + part) * head_dim + d] * factor;
    }
    long long at = (long long)row * stride + head * head_dim + d;
    y[at] = out = out * (1.0f / sum);
    if (codes) write_codes(to, at / BLOCK, out);
  }
}
