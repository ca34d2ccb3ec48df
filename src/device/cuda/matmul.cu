// Products with weights: y[i, n] = sum_k x[i, k] * w[n, k] + bias[n].
//
// A block of threads makes the sixteen outputs of a tile for up to eight rows. Its half warps, four to sixteen and at least
// one for each row, share the tile's blocks of 32 inputs: a lane has an output, so that a half warp reads 64 bytes side by
// side and no sum leaves its lane. The sums of blocks meet in shared memory, where a thread for each row and output adds them
// in the order of the blocks, which is the processor's: how many half warps there are changes nothing.
//
// Rows meet up to three matrices of a kind in one launch (q, k and v; gate and up), whose tiles stand one after the other.
// Rows of experts come as a list of groups {expert, first row, rows}, all others are eight a group. A few groups, the band,
// have their turn with a tile one after the other, so that its weights come from memory once for all of them.
// Grid [groups of a band, tiles of all, bands]; shared memory [CHUNK][sums of a block][rows][16] f32.

// Blocks of inputs whose sums are in shared memory at once.
constexpr int CHUNK = 32;
constexpr int MAX_PARTS = 3;
constexpr int GROUP_ROWS = 8;

struct RowGroup {
  int expert, first, n_rows, unused;
};

// A matrix and what its products are for; without tiles there is none.
struct Part {
  const u8 *w, *scale, *more;  // as in Matrix
  const float* bias;
  float* y;
  int group, n_outputs, y_stride, n_tiles;
};

struct Parts {
  Part parts[MAX_PARTS];
};

// Of the matrix that a block of threads has.
struct Product {
  Matrix m;
  const float* bias;
  float* y;
  int n_outputs, y_stride, n_tiles, n_rows;
  const RowGroup* groups;
  int first_tile;  // of this block of threads
};

// `n_tiles` is what a block of threads has.
__device__ __forceinline__ Product product_of(const Parts& all, int stride, int n_rows, const RowGroup* groups, int n_tiles) {
  int which = 0, block = blockIdx.y;
  for (int i = 0; i < MAX_PARTS - 1; i++) {
    int n_blocks = (all.parts[i].n_tiles + n_tiles - 1) / n_tiles;
    if (which == i && block >= n_blocks) which++, block -= n_blocks;
  }
  const Part& p = all.parts[which];
  return {{p.w, p.scale, p.more, stride, p.group}, p.bias, p.y, p.n_outputs, p.y_stride, p.n_tiles, n_rows, groups, block * n_tiles};
}

// Codes of rows: [n_rows, stride], a scale and a sum for each 32.
struct CodeRows {
  const i8* codes;
  const float *scale, *sum;
};

__device__ __forceinline__ int word(const u8* at, int index) { return reinterpret_cast<const int*>(at)[index]; }
__device__ __forceinline__ float byte_as_float(u8 byte) { return (float)byte; }

// Which group of inputs a block is of, told by counting: a division for each block would be most of what adding it takes.
struct GroupOfBlock {
  int n_blocks, n_left, index;
  __device__ __forceinline__ explicit GroupOfBlock(const Matrix& m) : n_blocks(m.group / BLOCK), n_left(n_blocks), index(0) {}
  __device__ __forceinline__ void next() {
    if (--n_left == 0) index++, n_left = n_blocks;
  }
};
// Where an output's numbers of a group are.
__device__ __forceinline__ long long at_group(const Matrix& m, long long tile, int group, int n) {
  return (tile * (m.stride / m.group) + group) * TILE_ROWS + n;
}

// Kinds of codes: what a block's products are, what an output has of its own for a block, and how with that the products are
// added to the total.
struct Int8 {
  struct Scales {};
  static constexpr int WORDS = 8, SUMS = 1;
  static __device__ __forceinline__ void dot(const int (&w)[WORDS], const int (&x)[8], int (&sums)[SUMS]) {
    for (int i = 0; i < 8; i++) sums[0] = __dp4a(w[i], x[i], sums[0]);
  }
  static __device__ __forceinline__ Scales scales(const Matrix&, long long, int, int, int) { return {}; }
  static __device__ __forceinline__ float add(Scales, const float* sums, int, float scale, float, float total) {
    return fmaf(sums[0], scale, total);
  }
  static __device__ __forceinline__ float finish(const Matrix& m, long long tile, int n, float total) {
    return total * float_at(m.scale, tile * TILE_ROWS + n);
  }
};

struct Int8Groups : Int8 {
  struct Scales {
    float minus_zero, scale;
  };
  static __device__ __forceinline__ Scales scales(const Matrix& m, long long tile, int, int group, int n) {
    long long at = at_group(m, tile, group, n);
    return {m.more ? float_at(m.more, at) * -1.0f : 0.0f, float_at(m.scale, at)};
  }
  static __device__ __forceinline__ float add(Scales of, const float* sums, int, float scale, float sum, float total) {
    return fmaf(fmaf(of.minus_zero, sum, sums[0]) * scale, of.scale, total);
  }
  static __device__ __forceinline__ float finish(const Matrix&, long long, int, float total) { return total; }
};

// Nibbles of eight inputs: the first four low, the others high.
struct Nibbles {
  static constexpr int WORDS = 4, SUMS = 1;
  static __device__ __forceinline__ void dot(const int (&w)[WORDS], const int (&x)[8], int (&sums)[SUMS]) {
    for (int i = 0; i < 4; i++) {
      sums[0] = __dp4a(w[i] & 0x0f0f0f0f, x[2 * i], sums[0]);
      sums[0] = __dp4a((int)((u32)w[i] >> 4) & 0x0f0f0f0f, x[2 * i + 1], sums[0]);
    }
  }
};

template <bool HALVES>
struct Int4 : Nibbles {
  struct Scales {
    float minus_zero, scale;
  };
  static __device__ __forceinline__ Scales scales(const Matrix& m, long long tile, int, int group, int n) {
    long long at = at_group(m, tile, group, n);
    float minus_zero = m.more ? byte_as_float(m.more[at]) * -1.0f : -8.0f;
    return {minus_zero, HALVES ? half_at(m.scale, at) : float_at(m.scale, at)};
  }
  static __device__ __forceinline__ float add(Scales of, const float* sums, int, float scale, float sum, float total) {
    return fmaf(fmaf(of.minus_zero, sum, sums[0]) * scale, of.scale, total);
  }
  static __device__ __forceinline__ float finish(const Matrix&, long long, int, float total) { return total; }
};

struct Affine : Nibbles {
  struct Scales {
    float scale, minimum;
  };
  static __device__ __forceinline__ Scales scales(const Matrix& m, long long tile, int block, int, int n) {
    const u8* bytes = m.scale + (tile * (m.stride / BLOCK) + block) * 2 * TILE_ROWS + n;
    float factor = float_at(m.more, (tile * 2 + 1) * TILE_ROWS + n);
    return {byte_as_float(bytes[0]), byte_as_float(bytes[TILE_ROWS]) * factor};
  }
  static __device__ __forceinline__ float add(Scales of, const float* sums, int, float scale, float sum, float total) {
    return fmaf(of.minimum, -(scale * sum), fmaf(sums[0] * scale, of.scale, total));
  }
  static __device__ __forceinline__ float finish(const Matrix& m, long long tile, int n, float total) {
    return total * float_at(m.more, tile * 2 * TILE_ROWS + n);
  }
};

struct Nvfp4 {
  static constexpr int WORDS = 4, SUMS = 2;
  // Twice the numbers of four codes, one to a byte.
  static __device__ __forceinline__ int numbers(u32 codes) {
    u32 indices = codes & 0x07070707;
    indices |= indices >> 4;
    u32 selector = (indices & 0xff) | (indices >> 8 & 0xff00);
    u32 positive = byte_perm(0x03020100, 0x0c080604, selector), negative = byte_perm(0xfdfeff00, 0xf4f8fafc, selector);
    u32 is_negative = (codes >> 3 & 0x01010101) * 0xff;
    return (int)((positive & ~is_negative) | (negative & is_negative));
  }
  static __device__ __forceinline__ void dot(const int (&w)[WORDS], const int (&x)[8], int (&sums)[SUMS]) {
    for (int i = 0; i < 4; i++) {
      sums[i / 2] = __dp4a(numbers((u32)w[i] & 0x0f0f0f0f), x[2 * i], sums[i / 2]);
      sums[i / 2] = __dp4a(numbers((u32)w[i] >> 4 & 0x0f0f0f0f), x[2 * i + 1], sums[i / 2]);
    }
  }
  struct Scales {
    float halves[2];
  };
  static __device__ __forceinline__ Scales scales(const Matrix& m, long long tile, int block, int, int n) {
    const u8* bytes = m.scale + (tile * (m.stride / 16) + block * 2) * TILE_ROWS + n;
    return {{e4m3(bytes[0]), e4m3(bytes[TILE_ROWS])}};
  }
  static __device__ __forceinline__ float add(Scales of, const float* sums, int step, float scale, float, float total) {
    return fmaf(sums[step] * scale, of.halves[1], fmaf(sums[0] * scale, of.halves[0], total));
  }
  static __device__ __forceinline__ float finish(const Matrix& m, long long tile, int n, float total) {
    return total * 0.5f * float_at(m.more, tile * TILE_ROWS + n);
  }
};

// Five bits: nibbles, and a word whose bytes have the fifth bit of quad j at bit j.
struct Fives {
  static constexpr int WORDS = 5, SUMS = 1;
  // The codes of inputs 4 j to 4 j + 3, one to a byte.
  static __device__ __forceinline__ int quad(u32 low, u32 upper, int j) {
    return (int)((low >> j % 2 * 4 & 0x0f0f0f0f) | (upper >> j & 0x01010101) << 4);
  }
  static __device__ __forceinline__ void dot(const int (&w)[WORDS], const int (&x)[8], int (&sums)[SUMS]) {
    for (int j = 0; j < 8; j++) sums[0] = __dp4a(quad((u32)w[j / 2], (u32)w[4], j), x[j], sums[0]);
  }
};

// Six bits less 32: of each half two words of nibbles, and one whose bytes have the upper bits of quad j at bit 2 j.
struct Sixes {
  static constexpr int WORDS = 6, SUMS = 2;
  // The numbers of inputs 4 j to 4 j + 3 of a half, one to a byte.
  static __device__ __forceinline__ int quad(u32 low, u32 upper, int j) {
    u32 codes = (low >> j % 2 * 4 & 0x0f0f0f0f) | (upper >> 2 * j & 0x03030303) << 4;
    // The sign of a number of six bits, spread over two more.
    u32 numbers = codes ^ 0x20202020;
    return (int)(numbers | (numbers & 0x20202020) * 6);
  }
  static __device__ __forceinline__ void dot(const int (&w)[WORDS], const int (&x)[8], int (&sums)[SUMS]) {
    for (int j = 0; j < 8; j++) {
      int half = j / 4;
      int numbers = quad((u32)w[half * 3 + j % 4 / 2], (u32)w[half * 3 + 2], j % 4);
      sums[half] = __dp4a(numbers, x[j], sums[half]);
    }
  }
};

// Codes `C` with scales and offsets `S`.
template <class C, class S>
struct Lines : C {
  struct Scales {
    float scale, offset;
  };
  static __device__ __forceinline__ Scales scales(const Matrix& m, long long tile, int block, int, int n) {
    Scales found;
    S::get(m, tile * (m.stride / BLOCK) + block, n, found.scale, found.offset);
    return found;
  }
  static __device__ __forceinline__ float add(Scales of, const float* sums, int, float scale, float sum, float total) {
    return fmaf(of.offset, scale * sum, fmaf(sums[0] * scale, of.scale, total));
  }
  static __device__ __forceinline__ float finish(const Matrix&, long long, int, float total) { return total; }
};

struct Q6K : Sixes {
  struct Scales {
    float halves[2];
  };
  static __device__ __forceinline__ Scales scales(const Matrix& m, long long tile, int block, int, int n) {
    long long of_all = tile * (m.stride / BLOCK) + block;
    const u8* bytes = m.scale + of_all * 2 * TILE_ROWS + n;
    float factor = half_at(m.more, of_all / 8 * TILE_ROWS + n);
    return {{(float)(i8)bytes[0] * factor, (float)(i8)bytes[TILE_ROWS] * factor}};
  }
  static __device__ __forceinline__ float add(Scales of, const float* sums, int step, float scale, float, float total) {
    return fmaf(sums[step] * scale, of.halves[1], fmaf(sums[0] * scale, of.halves[0], total));
  }
  static __device__ __forceinline__ float finish(const Matrix&, long long, int, float total) { return total; }
};

using Q41 = Lines<Nibbles, PairScales>;
using Q50 = Lines<Fives, MiddleScales>;
using Q51 = Lines<Fives, PairScales>;
using Q4K = Lines<Nibbles, SuperScales>;
using Q5K = Lines<Fives, SuperScales>;

// The rows that a block of threads has, up to `most`; false for none.
__device__ __forceinline__ bool rows_of(const Product& p, int most, RowGroup& group) {
  int index = blockIdx.z * gridDim.x + blockIdx.x;
  if (p.groups) {
    group = p.groups[index];
  } else {
    int first = index * most;
    group = {0, first, min(most, p.n_rows - first), 0};
  }
  return group.n_rows > 0;
}

__device__ __forceinline__ void store(const Product& p, const RowGroup& group, int tile, int row, int n, float total) {
  int output = tile * TILE_ROWS + n;
  if (row < group.n_rows && output < p.n_outputs)
    p.y[(long long)(group.first + row) * p.y_stride + output] = p.bias ? total + p.bias[output] : total;
}

template <class K, int R>
__device__ __forceinline__ void multiply_codes(const Product& p, const CodeRows& x, float* sums) {
  RowGroup group;
  if (!rows_of(p, GROUP_ROWS, group)) return;
  const Matrix& m = p.m;
  int n_blocks = m.stride / BLOCK, n = threadIdx.x % TILE_ROWS, part = threadIdx.x / TILE_ROWS;
  int half_warps = blockDim.x / TILE_ROWS;
  long long tile = (long long)group.expert * p.n_tiles + p.first_tile;
  const u8* w = m.w + tile * n_blocks * (K::WORDS * 64) + n * 4;
  long long my_row = group.first + min(part, group.n_rows - 1);
  GroupOfBlock group_of(m);
  float total = 0.0f;
  for (int first = 0; first < n_blocks; first += CHUNK) {
    int end = min(n_blocks, first + CHUNK);
    for (int block = first + part; block < end; block += half_warps) {
      int words[K::WORDS];
      for (int i = 0; i < K::WORDS; i++) words[i] = word(w + (long long)block * (K::WORDS * 64), i * TILE_ROWS);
      for (int r = 0; r < R; r++) {
        long long row = group.first + min(r, group.n_rows - 1);
        const int4* from = reinterpret_cast<const int4*>(x.codes + (row * n_blocks + block) * BLOCK);
        int4 low = from[0], high = from[1];
        int inputs[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}, found[K::SUMS] = {};
        K::dot(words, inputs, found);
        for (int s = 0; s < K::SUMS; s++)
          sums[((block - first) * K::SUMS + s) * (R * TILE_ROWS) + r * TILE_ROWS + n] = (float)found[s];
      }
    }
    __syncthreads();
    if (part < R)
      for (int block = first; block < end; block++, group_of.next()) {
        const float* found = sums + (block - first) * K::SUMS * (R * TILE_ROWS) + threadIdx.x;
        long long place = my_row * n_blocks + block;
        typename K::Scales scales = K::scales(m, tile, block, group_of.index, n);
        total = K::add(scales, found, R * TILE_ROWS, x.scale[place], x.sum[place], total);
      }
    __syncthreads();
  }
  store(p, group, p.first_tile, part, n, K::finish(m, tile, n, total));
}

// Kinds of numbers: those of four inputs, `w` being where the output's part of a block begins, and how a block's sum is
// added to the total. Here elements of `BYTES` that lie as [inputs][16] and have no scale; `K` says what one is.
template <class K, int BYTES>
struct Elements {
  static constexpr int OUTPUT_BYTES = BYTES, BLOCK_BYTES = BLOCK * TILE_ROWS * BYTES;
  static __device__ __forceinline__ void quad(const Matrix&, const u8* w, int k, float (&weights)[4]) {
    for (int i = 0; i < 4; i++) weights[i] = K::at(w, (k + i) * TILE_ROWS);
  }
  static __device__ __forceinline__ float add(const Matrix&, long long, int, int, int, float sum, float total) {
    return total + sum;
  }
  static __device__ __forceinline__ float finish(const Matrix&, long long, int, float total) { return total; }
};
struct Floats : Elements<Floats, 4> {
  static __device__ __forceinline__ float at(const u8* w, int index) { return float_at(w, index); }
};
struct Halves : Elements<Halves, 2> {
  static __device__ __forceinline__ float at(const u8* w, int index) { return half_at(w, index); }
};
struct E4m3 : Elements<E4m3, 1> {
  static __device__ __forceinline__ float at(const u8* w, int index) { return e4m3(w[index]); }
};
struct Fp8 : E4m3 {
  static __device__ __forceinline__ float finish(const Matrix& m, long long tile, int n, float total) {
    return total * float_at(m.scale, tile * TILE_ROWS + n);
  }
};
struct Fp8Groups : E4m3 {
  static __device__ __forceinline__ float add(const Matrix& m, long long tile, int, int group, int n, float sum, float total) {
    return fmaf(sum, float_at(m.scale, at_group(m, tile, group, n)), total);
  }
};
struct Mxfp8 : E4m3 {
  static __device__ __forceinline__ float add(const Matrix& m, long long tile, int block, int, int n, float sum, float total) {
    return fmaf(sum, e8m0(m.scale[(tile * (m.stride / BLOCK) + block) * TILE_ROWS + n]), total);
  }
};
// Nibbles that choose one of sixteen numbers; groups have scales as those of fp8.
struct Levels : Fp8Groups {
  static constexpr int OUTPUT_BYTES = 4, BLOCK_BYTES = BLOCK * TILE_ROWS / 2;
  static __device__ __forceinline__ void quad(const Matrix& m, const u8* w, int k, float (&weights)[4]) {
    // Four inputs are low, the other four high.
    u32 codes = (u32)word(w, k / 8 * TILE_ROWS) >> k % 8;
    for (int i = 0; i < 4; i++) weights[i] = float_at(m.more, codes >> 8 * i & 15);
  }
};

template <class K, int R>
__device__ __forceinline__ void multiply_numbers(const Product& p, const float* x, float* sums) {
  RowGroup group;
  if (!rows_of(p, GROUP_ROWS, group)) return;
  const Matrix& m = p.m;
  int n_blocks = m.stride / BLOCK, n = threadIdx.x % TILE_ROWS, part = threadIdx.x / TILE_ROWS;
  int half_warps = blockDim.x / TILE_ROWS;
  long long tile = (long long)group.expert * p.n_tiles + p.first_tile;
  const u8* w = m.w + tile * m.stride * (K::BLOCK_BYTES / BLOCK) + n * K::OUTPUT_BYTES;
  GroupOfBlock group_of(m);
  float total = 0.0f;
  for (int first = 0; first < n_blocks; first += CHUNK) {
    int end = min(n_blocks, first + CHUNK);
    for (int block = first + part; block < end; block += half_warps) {
      float found[R] = {};
      for (int k = 0; k < BLOCK; k += 4) {
        float weights[4];
        K::quad(m, w + (long long)block * K::BLOCK_BYTES, k, weights);
        for (int r = 0; r < R; r++) {
          long long row = group.first + min(r, group.n_rows - 1);
          float4 inputs = *reinterpret_cast<const float4*>(x + row * m.stride + block * BLOCK + k);
          found[r] = fmaf(weights[0], inputs.x, found[r]);
          found[r] = fmaf(weights[1], inputs.y, found[r]);
          found[r] = fmaf(weights[2], inputs.z, found[r]);
          found[r] = fmaf(weights[3], inputs.w, found[r]);
        }
      }
      for (int r = 0; r < R; r++) sums[((block - first) * R + r) * TILE_ROWS + n] = found[r];
    }
    __syncthreads();
    if (part < R)
      for (int block = first; block < end; block++, group_of.next())
        total = K::add(m, tile, block, group_of.index, n, sums[(block - first) * R * TILE_ROWS + threadIdx.x], total);
    __syncthreads();
  }
  store(p, group, p.first_tile, part, n, K::finish(m, tile, n, total));
}

// For 1, 2, 4 or 8 rows.
template <class K>
__device__ __forceinline__ void codes_with(int rows, const Product& p, const CodeRows& x, float* sums) {
  switch (rows) {
    case 1: return multiply_codes<K, 1>(p, x, sums);
    case 2: return multiply_codes<K, 2>(p, x, sums);
    case 4: return multiply_codes<K, 4>(p, x, sums);
    default: return multiply_codes<K, 8>(p, x, sums);
  }
}
template <class K>
__device__ __forceinline__ void numbers_with(int rows, const Product& p, const float* x, float* sums) {
  switch (rows) {
    case 1: return multiply_numbers<K, 1>(p, x, sums);
    case 2: return multiply_numbers<K, 2>(p, x, sums);
    case 4: return multiply_numbers<K, 4>(p, x, sums);
    default: return multiply_numbers<K, 8>(p, x, sums);
  }
}

#define MATRICES const __grid_constant__ Parts parts, int stride
#define ROWS_OF_PRODUCT int n_rows, const RowGroup *groups, int rows
#define CODES const i8 *codes, const float *x_scale, const float *x_sum
#define WITH_CODES(K)      \
  DYN_SHARED(float, sums); \
  Product p = product_of(parts, stride, n_rows, groups, 1); \
  codes_with<K>(rows, p, CodeRows{codes, x_scale, x_sum}, sums)
#define WITH_NUMBERS(K)    \
  DYN_SHARED(float, sums); \
  Product p = product_of(parts, stride, n_rows, groups, 1); \
  numbers_with<K>(rows, p, x, sums)

extern "C" __global__ void __launch_bounds__(256) matmul_f32(MATRICES, const float* x, ROWS_OF_PRODUCT) { WITH_NUMBERS(Floats); }
extern "C" __global__ void __launch_bounds__(256) matmul_f16(MATRICES, const float* x, ROWS_OF_PRODUCT) { WITH_NUMBERS(Halves); }
extern "C" __global__ void __launch_bounds__(256) matmul_fp8(MATRICES, const float* x, ROWS_OF_PRODUCT) { WITH_NUMBERS(Fp8); }
extern "C" __global__ void __launch_bounds__(256) matmul_fp8_groups(MATRICES, const float* x, ROWS_OF_PRODUCT) { WITH_NUMBERS(Fp8Groups); }
extern "C" __global__ void __launch_bounds__(256) matmul_mxfp8(MATRICES, const float* x, ROWS_OF_PRODUCT) { WITH_NUMBERS(Mxfp8); }
extern "C" __global__ void __launch_bounds__(256) matmul_levels(MATRICES, const float* x, ROWS_OF_PRODUCT) { WITH_NUMBERS(Levels); }
extern "C" __global__ void __launch_bounds__(256) matmul_int8(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Int8); }
extern "C" __global__ void __launch_bounds__(256) matmul_int8_groups(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Int8Groups); }
extern "C" __global__ void __launch_bounds__(256) matmul_int4_f16(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Int4<true>); }
extern "C" __global__ void __launch_bounds__(256) matmul_int4_f32(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Int4<false>); }
extern "C" __global__ void __launch_bounds__(256) matmul_affine(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Affine); }
extern "C" __global__ void __launch_bounds__(256) matmul_nvfp4(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Nvfp4); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_1(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Q41); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_0(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Q50); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_1(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Q51); }
extern "C" __global__ void __launch_bounds__(256) matmul_q4_k(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Q4K); }
extern "C" __global__ void __launch_bounds__(256) matmul_q5_k(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Q5K); }
extern "C" __global__ void __launch_bounds__(256) matmul_q6_k(MATRICES, CODES, ROWS_OF_PRODUCT) { WITH_CODES(Q6K); }
