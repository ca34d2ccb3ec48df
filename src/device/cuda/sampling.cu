// Tokens drawn from logits as infer::sampler draws them: every sum in the same order, equal logits by rising token. What is
// not decided here (logits that are no numbers, a guide that came late, too many tokens of like weight, a number that falls
// beyond those that are put in order) is left to the host, which has the logits too.
//
// A row is cut into parts of 4096 logits; in a part each of 128 threads sees every 128th of them, its group. The n likeliest
// tokens are not below the n-th likeliest of what is likeliest in each group: those that are not are few, and put in order.

constexpr int SCORE_PART = 4096;
constexpr int GROUPS = 128;  // of a part
constexpr int GROUP_LOGITS = SCORE_PART / GROUPS;
constexpr int SUM_PART = 1024;  // infer::exp
constexpr int MAX_ORDERED = 256;
constexpr int MAX_GROUPS = 512;
constexpr int MAX_FOUND = 1024;
constexpr int MAX_LOGPROBS = 64;
constexpr float EXCLUDED = -3.40282347e38f;  // infer::sampler
constexpr u32 EXCLUDED_KEY = 0xff7fffffu;
constexpr u32 NO_KEY = 0xffffffffu;  // beyond those of all numbers

enum Rule { LEFT, LARGEST, OF_LIKELIEST, OF_ALL };
enum Told { NOTHING, ALL_TOKENS, SOME_TOKENS };

struct Draw {
  double random, inverse_temperature, top_p;
  u32 rule;
  int n_first;  // tokens that the random number may choose from
  int n_logprobs, first_bias, n_biases;
  u32 is_guided;
};
struct Bias {
  u32 token;
  float value;
};
struct ScorePart {
  float largest;
  u32 first;  // token of it
  u32 is_left, unused;
};
struct Answer {
  double sum;
  u32 is_drawn, token;
  float logit, largest;
  int n_likeliest, unused;
};
struct Likely {
  u32 token;
  float logit;
};

// As infer::exp::exp: e to the x, which is not positive.
__device__ __forceinline__ double exp_of_weight(double x) {
  constexpr double ROUND = 6755399441055744.0;
  x = x < -708.0 ? -708.0 : x;
  double shifted = x * 1.4426950408889634 + ROUND;
  double n = shifted - ROUND;
  double r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  double sum = 1.0 / 6227020800.0;
  sum = sum * r + 1.0 / 479001600.0;
  sum = sum * r + 1.0 / 39916800.0;
  sum = sum * r + 1.0 / 3628800.0;
  sum = sum * r + 1.0 / 362880.0;
  sum = sum * r + 1.0 / 40320.0;
  sum = sum * r + 1.0 / 5040.0;
  sum = sum * r + 1.0 / 720.0;
  sum = sum * r + 1.0 / 120.0;
  sum = sum * r + 1.0 / 24.0;
  sum = sum * r + 1.0 / 6.0;
  sum = sum * r + 0.5;
  sum = sum * r + 1.0;
  sum = sum * r + 1.0;
  return sum * double_of_bits((bits_of_double(shifted) - bits_of_double(ROUND) + 1023) << 52);
}

// As the upper half of infer::likeliest::key: it rises as the logit falls.
__device__ __forceinline__ u32 key_of(float logit) {
  u32 bits = bits_of_float(logit);
  return bits >> 31 ? bits : bits ^ 0x7fffffffu;
}
__device__ __forceinline__ float logit_of(u32 key) { return float_of_bits(key >> 31 ? key : key ^ 0x7fffffffu); }

// Logits with the bias, of tokens that may come; what is likeliest in each group; and of each part the largest logit and
// its first token. Grid [n_parts, n_rows].
extern "C" __global__ void __launch_bounds__(128)
score_tokens(const float* logits, int stride, int vocab_size, const Draw* draws, const Bias* biases, const u32* masks,
             int mask_stride, float* scores, u32* groups, ScorePart* parts) {
  __shared__ Bias some[128];
  __shared__ u32 mask[SCORE_PART / 32];
  __shared__ u32 told;
  __shared__ float largest_of[4];
  __shared__ u32 first_of[4];
  __shared__ int left_of[4];
  int row = blockIdx.y, thread = threadIdx.x, start = blockIdx.x * SCORE_PART, len = min(SCORE_PART, vocab_size - start);
  Draw draw = draws[row];
  if (draw.rule == LEFT) return;
  const float* from = logits + (long long)row * stride + start;
  float* mine = scores + (long long)row * stride + start;
  for (int i = thread; i < len; i += 128) mine[i] = from[i];
  // One after the other, by the thread whose logit it is.
  for (int done = 0; done < draw.n_biases; done += 128) {
    int n = min(128, draw.n_biases - done);
    if (thread < n) some[thread] = biases[draw.first_bias + done + thread];
    __syncthreads();
    for (int i = 0; i < n; i++) {
      u32 at = some[i].token - (u32)start;
      if (at < (u32)len && at % 128 == (u32)thread) mine[at] += some[i].value;
    }
    __syncthreads();
  }
  if (thread == 0) told = draw.is_guided ? read_acquire(masks + (long long)row * mask_stride) : (u32)ALL_TOKENS;
  __syncthreads();
  int word = start / 32 + thread;
  if (told == SOME_TOKENS)
    mask[thread] = word * 32 < vocab_size ? masks[(long long)row * mask_stride + 4 + word] : 0;
  __syncthreads();

  u32 group = NO_KEY, first = ~0u;
  float largest = float_of_bits(0xff800000u);
  int is_left = told == NOTHING;
  for (int i = thread; i < len; i += 128) {
    float score = mine[i];
    if (!is_finite(score)) is_left = 1;
    if (told == SOME_TOKENS && !(mask[i / 32] >> i % 32 & 1)) mine[i] = score = EXCLUDED;
    group = min(group, key_of(score));
    if (score > largest) largest = score, first = (u32)(start + i);
  }
  groups[((long long)row * gridDim.x + blockIdx.x) * GROUPS + thread] = group;
  for (int o = 16; o; o >>= 1) {
    float other = __shfl_xor_sync(~0u, largest, o);
    u32 other_first = __shfl_xor_sync(~0u, first, o);
    if (other > largest || (other == largest && other_first < first)) largest = other, first = other_first;
    is_left |= __shfl_xor_sync(~0u, is_left, o);
  }
  if (thread % 32 == 0) largest_of[thread / 32] = largest, first_of[thread / 32] = first, left_of[thread / 32] = is_left;
  __syncthreads();
  if (thread > 0) return;
  for (int warp = 1; warp < 4; warp++) {
    bool is_first = largest_of[warp] == largest && first_of[warp] < first;
    if (largest_of[warp] > largest || is_first) largest = largest_of[warp], first = first_of[warp];
    is_left |= left_of[warp];
  }
  parts[row * gridDim.x + blockIdx.x] = {largest, first, (u32)is_left, 0};
}

// Sums of weights, part by part: infer::exp::sum_of_exp. At the row's temperature where all tokens may come, and at 1 where
// log probabilities are wanted. Grid [n_sum_parts, n_rows, 2].
extern "C" __global__ void __launch_bounds__(128)
sum_weights(const float* scores, int stride, int vocab_size, const Draw* draws, const ScorePart* parts, int n_parts,
            double* sums) {
  __shared__ double terms[SUM_PART];
  __shared__ double lanes[LANES];
  int row = blockIdx.y, thread = threadIdx.x, start = blockIdx.x * SUM_PART, len = min(SUM_PART, vocab_size - start);
  Draw draw = draws[row];
  bool is_at_one = blockIdx.z == 1;
  bool is_wanted = draw.rule != LEFT && (is_at_one ? draw.n_logprobs > 0 : draw.rule == OF_ALL);
  if (!is_wanted) return;
  double inverse = is_at_one ? 1.0 : draw.inverse_temperature;
  float largest = float_of_bits(0xff800000u);
  for (int part = 0; part < n_parts; part++) largest = larger(parts[row * n_parts + part].largest, largest);
  const float* mine = scores + (long long)row * stride + start;
  for (int i = thread; i < len; i += 128) terms[i] = exp_of_weight((double)(mine[i] - largest) * inverse);
  __syncthreads();
  int whole = len / LANES * LANES;
  if (thread < LANES) {
    double sum = 0.0;
    for (int i = thread; i < whole; i += LANES) sum += terms[i];
    lanes[thread] = sum;
  }
  __syncthreads();
  if (thread > 0) return;
  double sum = 0.0, rest = 0.0;
  for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
  for (int i = whole; i < len; i++) rest += terms[i];
  sums[((long long)row * 2 + blockIdx.z) * gridDim.x + blockIdx.x] = sum + rest;
}

__device__ __forceinline__ double sum_of_parts(const double* sums, int n) {
  double sum = 0.0;
  for (int part = 0; part < n; part++) sum += sums[part];
  return sum;
}

// The `rank`-th smallest of n keys, from 1 on, eight bits at a time. All 256 threads.
__device__ __forceinline__ u32 smallest(const u32* keys, int n, int rank, int (&counts)[256], int (&chosen)[2]) {
  u32 prefix = 0, known = 0;
  int thread = threadIdx.x;
  for (int shift = 24; shift >= 0; shift -= 8) {
    counts[thread] = 0;
    __syncthreads();
    for (int i = thread; i < n; i += 256)
      if ((keys[i] & known) == prefix) atomicAdd(&counts[keys[i] >> shift & 255], 1);
    __syncthreads();
    if (thread < 32) {
      int mine = 0;
      for (int i = 0; i < 8; i++) mine += counts[thread * 8 + i];
      int up_to = mine;
      for (int o = 1; o < 32; o *= 2) {
        int below = __shfl_up_sync(~0u, up_to, o);
        if (thread >= o) up_to += below;
      }
      int left = rank - (up_to - mine);
      if (0 < left && left <= mine) {
        int value = thread * 8;
        for (; left > counts[value]; value++) left -= counts[value];
        chosen[0] = value, chosen[1] = left;
      }
    }
    __syncthreads();
    prefix |= (u32)chosen[0] << shift;
    known |= 255u << shift;
    rank = chosen[1];
  }
  return prefix;
}

// The place of the token that the random number chooses, among n in order: infer::sampler::draw. -1 if that is not decided.
__device__ __forceinline__ int chosen_of(const Draw& draw, const double* weights, int n, double total) {
  double kept = total;
  if (draw.top_p < 1.0) {
    double wanted = draw.top_p * total;
    int n_kept = 0;
    for (kept = 0.0; n_kept < n;) {
      kept += weights[n_kept++];
      if (kept >= wanted) break;
    }
    if (!(kept >= wanted)) return -1;
    n = n_kept;
  }
  double left = draw.random * kept;
  for (int i = 0; i < n; i++) {
    left -= weights[i];
    if (left < 0.0) return i;
  }
  return -1;
}

// The token of each row, and its likeliest ones. Grid [n_rows], 256 threads.
extern "C" __global__ void __launch_bounds__(256, 4)
draw_token(const float* scores, int stride, int vocab_size, const Draw* draws, const u32* groups, const ScorePart* parts,
           int n_parts, const double* sums, Answer* answers, Likely* likeliest) {
  __shared__ int counts[256];
  __shared__ int chosen[2];
  __shared__ int n_close, n_found;
  __shared__ u32 close[MAX_GROUPS];
  __shared__ u64 found[MAX_FOUND];
  __shared__ u64 ordered[MAX_ORDERED];
  __shared__ double weights[MAX_ORDERED];
  int row = blockIdx.x, thread = threadIdx.x, n_groups = n_parts * GROUPS;
  Draw draw = draws[row];
  if (draw.rule == LEFT) return;
  float largest = float_of_bits(0xff800000u);
  u32 first = 0, is_left = 0;
  for (int i = 0; i < n_parts; i++) {
    ScorePart part = parts[row * n_parts + i];
    if (part.largest > largest) largest = part.largest, first = part.first;
    is_left |= part.is_left;
  }
  // Of a row without a token that may come the host says why.
  if (is_left || largest == EXCLUDED) return;

  int n = 0, n_ordered = max(draw.rule == LARGEST ? 0 : draw.n_first, draw.n_logprobs);
  if (n_ordered > 0) {
    const float* mine = scores + (long long)row * stride;
    const u32* of_groups = groups + (long long)row * n_groups;
    if (thread == 0) n_close = n_found = 0;
    u32 bound = n_ordered <= n_groups ? smallest(of_groups, n_groups, n_ordered, counts, chosen) : NO_KEY;
    bound = min(bound, EXCLUDED_KEY - 1);
    __syncthreads();
    for (int i = thread; i < n_groups; i += 256)
      if (of_groups[i] <= bound) {
        int at = atomicAdd(&n_close, 1);
        if (at < MAX_GROUPS) close[at] = (u32)i;
      }
    __syncthreads();
    if (n_close > MAX_GROUPS) return;
    for (int i = thread; i < n_close * GROUP_LOGITS; i += 256) {
      int group = (int)close[i / GROUP_LOGITS];
      int token = group / GROUPS * SCORE_PART + i % GROUP_LOGITS * GROUPS + group % GROUPS;
      u32 key = token < vocab_size ? key_of(mine[token]) : NO_KEY;
      if (key > bound) continue;
      int at = atomicAdd(&n_found, 1);
      if (at < MAX_FOUND) found[at] = (u64)key << 32 | (u32)token;
    }
    __syncthreads();
    if (n_found > MAX_FOUND) return;
    for (int i = thread; i < n_found; i += 256) {
      int place = 0;
      for (int j = 0; j < n_found; j++) place += found[j] < found[i];
      if (place < n_ordered) ordered[place] = found[i];
    }
    __syncthreads();
    n = min(n_found, n_ordered);
  }

  int n_first = min(n, draw.n_first);
  if (draw.rule != LARGEST) {
    if (thread < n_first)
      weights[thread] =
          exp_of_weight((double)(logit_of((u32)(ordered[thread] >> 32)) - largest) * draw.inverse_temperature);
    __syncthreads();
  }
  int n_likeliest = min(n, draw.n_logprobs);
  if (thread < n_likeliest)
    likeliest[row * MAX_LOGPROBS + thread] = {(u32)ordered[thread], logit_of((u32)(ordered[thread] >> 32))};
  if (thread > 0) return;
  int n_sums = (vocab_size + SUM_PART - 1) / SUM_PART;
  const double* of_row = sums + (long long)row * 2 * n_sums;
  u32 token = first;
  if (draw.rule != LARGEST) {
    double total = draw.rule == OF_ALL ? sum_of_parts(of_row, n_sums) : sum_of_parts(weights, n_first);
    int place = chosen_of(draw, weights, n_first, total);
    if (place < 0) return;
    token = (u32)ordered[place];
  }
  double sum = draw.n_logprobs > 0 ? sum_of_parts(of_row + n_sums, n_sums) : 0.0;
  answers[row] = {sum, 1, token, scores[(long long)row * stride + token], largest, n_likeliest, 0};
}
