// Which experts a row goes through, and the rows sorted by them: device::cpu::routing.

// The experts with the largest logits of each row, by rising number, and their weights: [n_rows, n_used]. A thread has a
// row; grid [ceil(n_rows / 128)].
extern "C" __global__ void __launch_bounds__(128)
choose_experts(const float* logits, int n_rows, int stride, int n_experts, int n_used, int normalized, u32* experts,
               float* weights) {
  int row = blockIdx.x * 128 + threadIdx.x;
  if (row >= n_rows) return;
  const float* mine = logits + (long long)row * stride;
  u32* chosen = experts + (long long)row * n_used;
  bool all_finite = true;
  float largest = float_of_bits(0xff800000u);
  for (int e = 0; e < n_experts; e++) {
    all_finite = all_finite && is_finite(mine[e]);
    largest = larger(mine[e], largest);
  }
  for (int i = 0; i < n_used; i++) {
    int best = -1;
    for (int e = 0; e < n_experts; e++) {
      bool is_taken = false;
      for (int j = 0; j < i; j++) is_taken = is_taken || chosen[j] == (u32)e;
      if (!is_taken && (best < 0 || mine[e] > mine[best])) best = e;
    }
    int at = i;
    for (; at > 0 && chosen[at - 1] > (u32)best; at--) chosen[at] = chosen[at - 1];
    chosen[at] = (u32)best;
  }
  double sum = 0.0;
  if (normalized)
    for (int i = 0; i < n_used; i++) sum += exp((double)mine[chosen[i]] - (double)largest);
  else
    for (int e = 0; e < n_experts; e++) sum += exp((double)mine[e] - (double)largest);
  for (int i = 0; i < n_used; i++) {
    double numerator = exp((double)mine[chosen[i]] - (double)largest);
    weights[(long long)row * n_used + i] = all_finite ? (float)(numerator / sum) : float_of_bits(0x7fc00000u);
  }
}

// Groups of up to `most` places of one expert; those that are not needed have no rows. `first_group` is room for
// n_experts + 1.
__device__ __forceinline__ void groups_of(const int* first_place, int n_experts, int most, int* first_group, RowGroup* groups,
                                          int n_groups) {
  if (threadIdx.x == 0) {
    first_group[0] = 0;
    for (int e = 0; e < n_experts; e++)
      first_group[e + 1] = first_group[e] + (first_place[e + 1] - first_place[e] + most - 1) / most;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < n_experts; e += 128) {
    int group = first_group[e], end = first_place[e + 1];
    for (int at = first_place[e]; at < end; at += most, group++) groups[group] = {e, at, min(most, end - at), 0};
  }
  for (int group = first_group[n_experts] + threadIdx.x; group < n_groups; group += 128) groups[group] = {0, 0, 0, 0};
  __syncthreads();
}

// The choices in the order of their experts: of each place its row and expert, of each choice its place, and groups of places
// for matmul.cu and gemm.cu. One block of threads, shared memory [2][n_experts + 1] integers.
extern "C" __global__ void __launch_bounds__(128)
sort_by_expert(const u32* experts, int n_choices, int n_used, int n_experts, u32* row_of, u32* expert_of, u32* place_of,
               RowGroup* groups, int n_groups, RowGroup* many, int n_many) {
  DYN_SHARED(int, first_place);
  int* first_group = first_place + n_experts + 1;
  for (int e = threadIdx.x; e < n_experts; e += 128) {
    int count = 0;
    for (int c = 0; c < n_choices; c++) count += experts[c] == (u32)e;
    first_place[e + 1] = count;
  }
  if (threadIdx.x == 0) first_place[0] = 0;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int e = 0; e < n_experts; e++) first_place[e + 1] += first_place[e];
  __syncthreads();
  for (int e = threadIdx.x; e < n_experts; e += 128) {
    int place = first_place[e];
    for (int c = 0; c < n_choices; c++)
      if (experts[c] == (u32)e) {
        row_of[place] = (u32)(c / n_used);
        expert_of[place] = (u32)e;
        place_of[c] = (u32)place++;
      }
  }
  groups_of(first_place, n_experts, GROUP_ROWS, first_group, groups, n_groups);
  groups_of(first_place, n_experts, GEMM_ROWS, first_group, many, n_many);
}

// y[i] = the weighted sum of what the row's experts gave, by rising expert. Grid [n_rows].
extern "C" __global__ void __launch_bounds__(128)
combine_experts(const float* x, const u32* place_of, const float* weights, int n_used, float* y, int width, int stride) {
  long long first = (long long)blockIdx.x * n_used;
  for (int d = threadIdx.x; d < width; d += 128) {
    float sum = 0.0f;
    for (int i = 0; i < n_used; i++) sum += x[(long long)place_of[first + i] * stride + d] * weights[first + i];
    y[(long long)blockIdx.x * stride + d] = sum;
  }
}
