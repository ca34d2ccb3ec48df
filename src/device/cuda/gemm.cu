// Products with weights that are codes, for many rows: y[i, n] = sum_k x[i, k] * w[n, k] + bias[n] by tensor cores.
//
// A warp makes the sixteen outputs of a tile for 64 rows; the four warps of a block of threads have a tile each, and share
// the rows' codes in shared memory, two blocks of 32 inputs in turn. One m16n8k32 is a block: its sums are whole numbers,
// exact, and are added to the totals in the order of the blocks, as the processor's are. A tile's words lie as the
// instruction wants them: sixteen outputs by four inputs.
//
// Several matrices as in matmul.cu. Grid [ceil(tiles / 4) of all, ceil(n_rows / 64)].

constexpr int GEMM_ROWS = 64;
constexpr int GEMM_TILES = 4;

struct GemmInt8 {
  static constexpr int WORDS = 128;  // of a tile's block
  static __device__ __forceinline__ void load(const u8* block, int g, int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) a[i] = (u32)word(block, (t + i / 2 * 4) * TILE_ROWS + g + i % 2 * 8);
  }
};
struct GemmNibbles {
  static constexpr int WORDS = 64;
  static __device__ __forceinline__ void load(const u8* block, int g, int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++)
      a[i] = (u32)word(block, (t / 2 + i / 2 * 2) * TILE_ROWS + g + i % 2 * 8) >> t % 2 * 4 & 0x0f0f0f0f;
  }
};
// Twice the numbers, in halves as those of six bits.
struct GemmNvfp4 {
  static constexpr int WORDS = 64;
  static __device__ __forceinline__ void load(const u8* block, int g, int t, u32 (&a)[4]) {
    GemmNibbles::load(block, g, t, a);
    for (int i = 0; i < 4; i++) a[i] = (u32)Nvfp4::numbers(a[i]);
  }
};
struct GemmFives {
  static constexpr int WORDS = 80;
  static __device__ __forceinline__ void load(const u8* block, int g, int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) {
      int n = g + i % 2 * 8, j = t + i / 2 * 4;
      a[i] = (u32)Fives::quad((u32)word(block, j / 2 * TILE_ROWS + n), (u32)word(block, 4 * TILE_ROWS + n), j);
    }
  }
};
// A half's sums are those of an instruction for which the other half is 0.
struct GemmSixes {
  static constexpr int WORDS = 96;
  static __device__ __forceinline__ void load(const u8* block, int g, int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) {
      int n = g + i % 2 * 8, first = i / 2 * 3;
      u32 low = (u32)word(block, (first + t / 2) * TILE_ROWS + n), upper = (u32)word(block, (first + 2) * TILE_ROWS + n);
      a[i] = (u32)Sixes::quad(low, upper, t);
    }
  }
};

// `K` tells how sums are added, `L` how words are loaded.
template <class K, class L>
__device__ __forceinline__ void gemm(const Product& p, const CodeRows& x, int4 (*codes)[GEMM_ROWS][2],
                                     float (*scales)[GEMM_ROWS], float (*sums)[GEMM_ROWS]) {
  const Matrix& m = p.m;
  int n_blocks = m.stride / BLOCK;
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int tile = p.first_tile + threadIdx.x / 32, first_row = blockIdx.y * GEMM_ROWS;
  bool has_tile = tile < p.n_tiles;
  const u8* w = m.w + (long long)(has_tile ? tile : 0) * n_blocks * (L::WORDS * 4);
  // What a thread brings of each block: half of a row's codes; those of the first half warps scales and sums.
  int my_row = threadIdx.x / 2, my_half = threadIdx.x % 2;
  long long from = min(first_row + my_row, p.n_rows - 1);
  float totals[GEMM_ROWS / 8][4] = {};
  auto bring = [&](int block, int stage) {
    long long place = from * n_blocks + block;
    codes[stage][my_row][my_half] = reinterpret_cast<const int4*>(x.codes + place * BLOCK)[my_half];
    if (my_half == 0) scales[stage][my_row] = x.scale[place];
    else sums[stage][my_row] = x.sum[place];
  };
  bring(0, 0);
  __syncthreads();
  for (int block = 0; block < n_blocks; block++) {
    int stage = block % 2;
    if (block + 1 < n_blocks) bring(block + 1, 1 - stage);
    u32 a[4];
    L::load(w + (long long)block * (L::WORDS * 4), g, t, a);
    const int* rows = reinterpret_cast<const int*>(codes[stage]);
    for (int f = 0; f < GEMM_ROWS / 8; f++) {
      int found[K::SUMS][4];
      const int* row = rows + (f * 8 + g) * 8;
      if (K::SUMS == 1) {
        mma_s8(found[0], a, (u32)row[t], (u32)row[t + 4]);
      } else {
        mma_s8(found[0], a, (u32)row[t], 0);
        mma_s8(found[K::SUMS - 1], a, 0, (u32)row[t + 4]);
      }
      for (int i = 0; i < 4; i++) {
        int column = f * 8 + t * 2 + i % 2, n = g + i / 2 * 8;
        float of_block[K::SUMS];
        for (int s = 0; s < K::SUMS; s++) of_block[s] = (float)found[s][i];
        totals[f][i] = K::add(m, has_tile ? tile : 0, block, n, of_block, 1, scales[stage][column], sums[stage][column], totals[f][i]);
      }
    }
    __syncthreads();
  }
  if (!has_tile) return;
  for (int f = 0; f < GEMM_ROWS / 8; f++)
    for (int i = 0; i < 4; i++) {
      int row = first_row + f * 8 + t * 2 + i % 2, n = g + i / 2 * 8, output = tile * TILE_ROWS + n;
      float total = K::finish(m, tile, n, totals[f][i]);
      if (row < p.n_rows && output < p.n_outputs)
        p.y[(long long)row * p.y_stride + output] = p.bias ? total + p.bias[output] : total;
    }
}

#define GEMM(K, L)                                                    \
  __shared__ int4 staged[2][GEMM_ROWS][2];                            \
  __shared__ float scales[2][GEMM_ROWS], sums[2][GEMM_ROWS];          \
  Product p = product_of(parts, stride, n_rows, groups, GEMM_TILES);  \
  gemm<K, L>(p, CodeRows{codes, x_scale, x_sum}, staged, scales, sums)

extern "C" __global__ void __launch_bounds__(128) gemm_int8(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Int8, GemmInt8); }
extern "C" __global__ void __launch_bounds__(128) gemm_int8_groups(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Int8Groups, GemmInt8); }
extern "C" __global__ void __launch_bounds__(128) gemm_int4_f16(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Int4<true>, GemmNibbles); }
extern "C" __global__ void __launch_bounds__(128) gemm_int4_f32(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Int4<false>, GemmNibbles); }
extern "C" __global__ void __launch_bounds__(128) gemm_affine(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Affine, GemmNibbles); }
extern "C" __global__ void __launch_bounds__(128) gemm_nvfp4(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Nvfp4, GemmNvfp4); }
extern "C" __global__ void __launch_bounds__(128) gemm_q4_1(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Q41, GemmNibbles); }
extern "C" __global__ void __launch_bounds__(128) gemm_q5_0(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Q50, GemmFives); }
extern "C" __global__ void __launch_bounds__(128) gemm_q5_1(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Q51, GemmFives); }
extern "C" __global__ void __launch_bounds__(128) gemm_q4_k(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Q4K, GemmNibbles); }
extern "C" __global__ void __launch_bounds__(128) gemm_q5_k(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Q5K, GemmFives); }
extern "C" __global__ void __launch_bounds__(128) gemm_q6_k(MATRICES, CODES, ROWS_OF_PRODUCT) { GEMM(Q6K, GemmSixes); }
