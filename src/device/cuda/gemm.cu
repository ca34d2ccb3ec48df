// Products with weights that are codes, for many rows: y[i, n] = sum_k x[i, k] * w[n, k] + bias[n] by tensor cores.
//
// A warp makes the sixteen outputs of a tile for up to 64 rows; the four warps of a block of threads have a tile each, and
// share the rows' codes in shared memory. Those of the next blocks of 32 inputs are under way there while one is multiplied,
// as are the next block's weights in registers. One m16n8k32 is a block: its sums are whole numbers, exact, and are added to
// the totals in the order of the blocks, as the processor's are. A tile's words lie as the instruction wants them: sixteen
// outputs by four inputs. Of few rows, only the sixteens that are there are computed.
//
// Several matrices, groups of rows and grid as in matmul.cu, with four tiles a block of threads and 64 rows a group.

constexpr int GEMM_ROWS = 64;
constexpr int GEMM_TILES = 4;
// Rows whose codes are loaded at once: two times the eight of an instruction.
constexpr int PAIR_ROWS = 16;
// Blocks of inputs in shared memory: one that is multiplied, the others under way.
constexpr int STAGES = 4;

// Rows of a block of inputs.
struct Stage {
  int4 codes[2][GEMM_ROWS];  // by halves: eight rows of a half are in banks of their own
  float2 scale_and_sum[GEMM_ROWS];
};

// How a lane has its part of a tile's block: `fetch` reads its words, `numbers` makes the operand of them, which is outputs g
// and g + 8 of inputs 4 t to 4 t + 3, and those of the other half.
struct GemmInt8 {
  static constexpr int BLOCK_BYTES = 512, WORDS = 4;
  static __device__ __forceinline__ void fetch(const u8* block, int g, int t, u32 (&words)[WORDS]) {
    for (int i = 0; i < 4; i++) words[i] = (u32)word(block, (t + i / 2 * 4) * TILE_ROWS + g + i % 2 * 8);
  }
  static __device__ __forceinline__ void numbers(const u32 (&words)[WORDS], int, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) a[i] = words[i];
  }
};
struct GemmNibbles {
  static constexpr int BLOCK_BYTES = 256, WORDS = 4;
  static __device__ __forceinline__ void fetch(const u8* block, int g, int t, u32 (&words)[WORDS]) {
    for (int i = 0; i < 4; i++) words[i] = (u32)word(block, (t / 2 + i / 2 * 2) * TILE_ROWS + g + i % 2 * 8);
  }
  static __device__ __forceinline__ void numbers(const u32 (&words)[WORDS], int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) a[i] = words[i] >> t % 2 * 4 & 0x0f0f0f0f;
  }
};
// Twice the numbers.
struct GemmNvfp4 : GemmNibbles {
  static __device__ __forceinline__ void numbers(const u32 (&words)[WORDS], int t, u32 (&a)[4]) {
    GemmNibbles::numbers(words, t, a);
    for (int i = 0; i < 4; i++) a[i] = (u32)Nvfp4::numbers(a[i]);
  }
};
struct GemmFives {
  static constexpr int BLOCK_BYTES = 320, WORDS = 6;
  static __device__ __forceinline__ void fetch(const u8* block, int g, int t, u32 (&words)[WORDS]) {
    for (int i = 0; i < 4; i++) words[i] = (u32)word(block, (t / 2 + i / 2 * 2) * TILE_ROWS + g + i % 2 * 8);
    for (int i = 0; i < 2; i++) words[4 + i] = (u32)word(block, 4 * TILE_ROWS + g + i * 8);
  }
  static __device__ __forceinline__ void numbers(const u32 (&words)[WORDS], int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) a[i] = (u32)Fives::quad(words[i], words[4 + i % 2], t + i / 2 * 4);
  }
};
struct GemmSixes {
  static constexpr int BLOCK_BYTES = 384, WORDS = 8;
  static __device__ __forceinline__ void fetch(const u8* block, int g, int t, u32 (&words)[WORDS]) {
    for (int i = 0; i < 4; i++) {
      int n = g + i % 2 * 8, first = i / 2 * 3;
      words[i] = (u32)word(block, (first + t / 2) * TILE_ROWS + n);
      words[4 + i] = (u32)word(block, (first + 2) * TILE_ROWS + n);
    }
  }
  static __device__ __forceinline__ void numbers(const u32 (&words)[WORDS], int t, u32 (&a)[4]) {
    for (int i = 0; i < 4; i++) a[i] = (u32)Sixes::quad(words[i], words[4 + i], t);
  }
};

// `K` tells how sums are added, `L` how words are loaded.
template <class K, class L>
__device__ __forceinline__ void gemm(const Product& p, const CodeRows& x, Stage (&stages)[STAGES]) {
  RowGroup group;
  if (!rows_of(p, GEMM_ROWS, group)) return;
  const Matrix& m = p.m;
  int n_blocks = m.stride / BLOCK;
  int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int output_tile = p.first_tile + threadIdx.x / 32;
  bool has_tile = output_tile < p.n_tiles;
  long long tile = (long long)group.expert * p.n_tiles + (has_tile ? output_tile : 0);
  const u8* w = m.w + tile * n_blocks * L::BLOCK_BYTES;
  // What a thread brings of each block: half of a row's codes, and its scale or its sum.
  int my_row = threadIdx.x / 2, my_half = threadIdx.x % 2;
  long long from = (long long)(group.first + my_row) * n_blocks;
  auto bring = [&](int block) {
    Stage& stage = stages[block % STAGES];
    if (block < n_blocks && my_row < group.n_rows) {
      copy_async<16>(&stage.codes[my_half][my_row], x.codes + (from + block) * BLOCK + my_half * 16);
      float2& to = stage.scale_and_sum[my_row];
      copy_async<4>(my_half ? &to.y : &to.x, (my_half ? x.sum : x.scale) + from + block);
    }
    commit_copies();
  };
  for (int block = 0; block < STAGES - 1; block++) bring(block);
  u32 words[L::WORDS];
  typename K::Scales scales[2];
  GroupOfBlock group_of(m);
  auto fetch = [&](int block) {
    L::fetch(w + (long long)block * L::BLOCK_BYTES, g, t, words);
    for (int i = 0; i < 2; i++) scales[i] = K::scales(m, tile, block, group_of.index, g + i * 8);
    group_of.next();
  };
  fetch(0);
  float totals[GEMM_ROWS / 8][4] = {};
  for (int block = 0; block < n_blocks; block++) {
    wait_copies<STAGES - 2>();
    // All copies of this block are there, and nobody reads the stage of the block before any more.
    __syncthreads();
    bring(block + STAGES - 1);
    u32 a[4];
    L::numbers(words, t, a);
    typename K::Scales of_outputs[2] = {scales[0], scales[1]};
    if (block + 1 < n_blocks) fetch(block + 1);
    const Stage& stage = stages[block % STAGES];
    // The two halves of eight rows, and those of eight more, lane by lane.
    const int4* codes = &stage.codes[lane / 8 % 2][lane / 16 * 8 + lane % 8];
    const float4* of_rows = reinterpret_cast<const float4*>(stage.scale_and_sum);
#pragma unroll
    for (int pair = 0; pair < GEMM_ROWS / PAIR_ROWS; pair++) {
      if (pair > 0 && pair * PAIR_ROWS >= group.n_rows) break;
      u32 b[4];
      load_matrices(b, codes + pair * PAIR_ROWS);
      for (int f = pair * 2; f < pair * 2 + 2; f++) {
        int found[K::SUMS][4];
        u32 b0 = b[f % 2 * 2], b1 = b[f % 2 * 2 + 1];
        if (K::SUMS == 1) {
          mma_s8(found[0], a, b0, b1);
        } else {
          mma_s8_half(found[0], a[0], a[1], b0);
          mma_s8_half(found[K::SUMS - 1], a[2], a[3], b1);
        }
        float4 two = of_rows[f * 4 + t];
        for (int i = 0; i < 4; i++) {
          float of_block[K::SUMS];
          for (int s = 0; s < K::SUMS; s++) of_block[s] = (float)found[s][i];
          float scale = i % 2 ? two.z : two.x, sum = i % 2 ? two.w : two.y;
          totals[f][i] = K::add(of_outputs[i / 2], of_block, 1, scale, sum, totals[f][i]);
        }
      }
    }
  }
  if (!has_tile) return;
  for (int f = 0; f < GEMM_ROWS / 8; f++)
    for (int i = 0; i < 4; i++) {
      int n = g + i / 2 * 8;
      store(p, group, output_tile, f * 8 + t * 2 + i % 2, n, K::finish(m, tile, n, totals[f][i]));
    }
}

#define GEMM(K, L)                                                           \
  __shared__ Stage stages[STAGES];                                           \
  Product p = product_of(parts, stride, n_rows, groups, GEMM_TILES);         \
  gemm<K, L>(p, CodeRows{codes, x_scale, x_sum}, stages)

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
