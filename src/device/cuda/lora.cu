// The low-rank update of each row by its adapter: h = x A, y += scale * h B. A is [in, rank], B [rank, all_out], f16.
// Sums over the inputs are made in parts of 512, which are then added in order: kernels::lora. Up to three projections of the
// same x are one launch.

constexpr int PART_INPUTS = 512;
// Inputs whose part of A is in shared memory at once.
constexpr int A_ROWS = 16;
// Ranks that a thread has at most.
constexpr int RANKS = 8;

struct Pair {
  const u16 *a, *b;
  int rank, b_stride, first_column, unused;
};

// Of the adapters of a step. Pairs of layer and projection are at layer * 8 + projection, the router's as the eighth;
// those of experts at first_expert + (layer * 3 + projection) * n_experts + expert.
struct Adapter {
  const Pair* pairs;
  float scale;
  int n_experts, first_expert, unused;
};

// What is updated: a projection and its outputs.
struct Update {
  int projection, n_outputs, y_stride, unused;
  float* y;
};

struct Updates {
  Update of[MAX_PARTS];
};

// Which rows have which adapter (-1: none), and for rows sorted by expert which row and expert they are of.
struct AdaptedRows {
  const Adapter* adapters;
  const int* adapter_of;
  const u32 *row_of, *expert_of;
  int layer, projection;
};

// False where nothing changes the row.
__device__ __forceinline__ bool pair_of(const AdaptedRows& rows, int row, Pair& pair, float& scale) {
  int index = rows.adapter_of[rows.row_of ? rows.row_of[row] : row];
  if (index < 0) return false;
  Adapter adapter = rows.adapters[index];
  int slot = rows.layer * 8 + rows.projection;
  if (rows.expert_of) {
    int expert = (int)rows.expert_of[row];
    if (expert >= adapter.n_experts) return false;
    slot = adapter.first_expert + (rows.layer * 3 + rows.projection) * adapter.n_experts + expert;
  }
  pair = adapter.pairs[slot];
  scale = adapter.scale;
  return pair.a != nullptr;
}

#define ROWS                                                                                                      \
  const Adapter *adapters, const int *adapter_of, const u32 *row_of, const u32 *expert_of, int layer
#define ADAPTED AdaptedRows rows{adapters, adapter_of, row_of, expert_of, layer, updates.of[blockIdx.z].projection}

// hidden[update, row, part, rank] = sum of a part's inputs. Grid [parts, n_rows, updates]; shared memory [A_ROWS][max_rank]
// f16.
extern "C" __global__ void __launch_bounds__(128)
lora_shrink(const __grid_constant__ Updates updates, const float* x, int n_inputs, int x_stride, ROWS, float* hidden, int max_rank) {
  DYN_SHARED(u16, part);
  __shared__ float inputs[A_ROWS];
  ADAPTED;
  Pair pair;
  float scale;
  if (!pair_of(rows, blockIdx.y, pair, scale)) return;
  int first = blockIdx.x * PART_INPUTS, end = min(n_inputs, first + PART_INPUTS);
  float sums[RANKS] = {};
  for (int start = first; start < end; start += A_ROWS) {
    int len = min(A_ROWS, end - start);
    __syncthreads();
    for (int i = threadIdx.x; i < len * pair.rank; i += 128) part[i] = pair.a[(long long)start * pair.rank + i];
    if (threadIdx.x < len) inputs[threadIdx.x] = x[(long long)blockIdx.y * x_stride + start + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < len; k++)
      for (int i = 0; i < RANKS; i++) {
        int rank = i * 128 + threadIdx.x;
        if (rank < pair.rank) sums[i] = fmaf(inputs[k], float_of_half(part[k * pair.rank + rank]), sums[i]);
      }
  }
  long long row = (long long)blockIdx.z * gridDim.y + blockIdx.y;
  float* to = hidden + (row * gridDim.x + blockIdx.x) * max_rank;
  for (int i = 0; i < RANKS; i++) {
    int rank = i * 128 + threadIdx.x;
    if (rank < pair.rank) to[rank] = sums[i];
  }
}

// y += scale * (the parts' sum) B. Grid [ceil(most outputs / 128), n_rows, updates]; shared memory [max_rank] f32.
extern "C" __global__ void __launch_bounds__(128)
lora_expand(const __grid_constant__ Updates updates, const float* hidden, int n_parts, int max_rank, ROWS) {
  DYN_SHARED(float, h);
  ADAPTED;
  Pair pair;
  float scale;
  const Update& update = updates.of[blockIdx.z];
  if ((int)blockIdx.x * 128 >= update.n_outputs || !pair_of(rows, blockIdx.y, pair, scale)) return;
  const float* from = hidden + ((long long)blockIdx.z * gridDim.y + blockIdx.y) * n_parts * max_rank;
  for (int rank = threadIdx.x; rank < pair.rank; rank += 128) {
    float sum = from[rank];
    for (int part = 1; part < n_parts; part++) sum += from[part * max_rank + rank];
    h[rank] = sum * scale;
  }
  __syncthreads();
  int output = blockIdx.x * 128 + threadIdx.x;
  if (output >= update.n_outputs) return;
  const u16* b = pair.b + pair.first_column + output;
  float sum = 0.0f;
  for (int rank = 0; rank < pair.rank; rank++) sum = fmaf(h[rank], float_of_half(b[(long long)rank * pair.b_stride]), sum);
  update.y[(long long)blockIdx.y * update.y_stride + output] += sum;
}
