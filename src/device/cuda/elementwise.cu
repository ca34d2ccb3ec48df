// Rows: [n_rows, stride], f32, one row (or head of a row) to a block of threads.

// y[i] = table[tokens[i]]. Grid [n_rows].
extern "C" __global__ void __launch_bounds__(128)
embed(int kind, const u8* w, const u8* scale, const u8* more, int stride, int group, const u32* tokens, float* y) {
  Matrix m{w, scale, more, stride, group};
  int token = (int)tokens[blockIdx.x];
  for (int k = threadIdx.x; k < stride; k += 128) y[(long long)blockIdx.x * stride + k] = weight_at(kind, m, token, k);
}

// Where codes of rows go: [n_rows, stride], with a scale and a sum for each 32; nowhere where nobody wants them.
struct CodesOut {
  i8* codes;
  float *scale, *sum;
};
#define CODES_OUT i8 *codes, float *code_scale, float *code_sum
#define THE_CODES CodesOut to{codes, code_scale, code_sum}

// A block of 32 inputs as codes, an input to each lane of a warp (kernels::activations::quantize). `place` counts blocks.
__device__ __forceinline__ void write_codes(const CodesOut& to, long long place, float value) {
  int lane = threadIdx.x % 32;
  float largest = fabsf(value);
  int n_wrong = is_finite(value) ? 0 : 1;
  for (int o = 16; o; o >>= 1) {
    largest = larger(__shfl_xor_sync(~0u, largest, o), largest);
    n_wrong += __shfl_xor_sync(~0u, n_wrong, o);
  }
  bool is_zero = largest < 1e-30f;
  float inverse = is_zero ? 0.0f : 127.0f / largest;
  int code = n_wrong ? 0 : (int)rintf(value * inverse);
  to.codes[place * BLOCK + lane] = (i8)code;
  for (int o = 16; o; o >>= 1) code += __shfl_xor_sync(~0u, code, o);
  if (lane == 0) {
    to.scale[place] = n_wrong ? float_of_bits(0x7fc00000u) : is_zero ? 0.0f : largest / 127.0f;
    to.sum[place] = (float)code;
  }
}

// What a vector is multiplied with to have a mean square of one, from its sums of squares: [LANES].
__device__ __forceinline__ float inverse_rms(const float* squares, int n, float eps) {
  float sum = sum_of_lanes(squares);
  return is_finite(sum) ? 1.0f / sqrtf(sum / (float)n + eps) : float_of_bits(0x7fc00000u);
}

// y = x / rms(x) * weight of n elements, the heads of a row side by side, and y as codes too; x += added before, where there
// is something to add. Grid [heads, n_rows], of up to 512 threads. The sum of squares is spread over eight lanes, as the
// processor's is; the others bring the numbers.
extern "C" __global__ void __launch_bounds__(512)
rms_norm(float* x, const float* added, const float* weight, float eps, float* y, CODES_OUT, int n, int stride) {
  constexpr int CHUNK = 1024;
  __shared__ float part[CHUNK];
  __shared__ float lanes[LANES];
  THE_CODES;
  long long first = (long long)blockIdx.y * stride + blockIdx.x * n;
  float squares = 0.0f;
  for (int start = 0; start < n; start += CHUNK) {
    int len = min(CHUNK, n - start);
    for (int i = threadIdx.x; i < len; i += blockDim.x) {
      long long at = first + start + i;
      part[i] = x[at];
      if (added) x[at] = part[i] = part[i] + added[at];
    }
    __syncthreads();
    if (threadIdx.x < LANES)
      for (int i = threadIdx.x; i < len; i += LANES) squares = fmaf(part[i], part[i], squares);
    __syncthreads();
  }
  if (threadIdx.x < LANES) lanes[threadIdx.x] = squares;
  __syncthreads();
  float inverse = inverse_rms(lanes, n, eps);
  // Zeros beyond a row are codes too.
  int end = codes ? stride : n;
  for (int i = threadIdx.x; i < end; i += blockDim.x) {
    float value = 0.0f;
    if (i < n) y[first + i] = value = x[first + i] * inverse * weight[i];
    if (codes) write_codes(to, (first + i) / BLOCK, value);
  }
}

// Inputs as a matrix takes them: in its order, each times its factor; either may be null. Zeros beyond them. Grid
// [n_rows].
extern "C" __global__ void __launch_bounds__(128)
change_inputs(const float* x, const u32* order, const float* factor, float* y, int n, int stride) {
  long long first = (long long)blockIdx.x * stride;
  for (int k = threadIdx.x; k < stride; k += 128) {
    if (k >= n) {
      y[first + k] = 0.0f;
      continue;
    }
    u32 input = order ? order[k] : (u32)k;
    float value = input < (u32)n ? x[first + input] : float_of_bits(0x7fc00000u);
    y[first + k] = factor ? value * (input < (u32)n ? factor[input] : value) : value;
  }
}

// Rows as codes. Grid [ceil(stride / 128), n_rows].
extern "C" __global__ void __launch_bounds__(128) quantize(const float* x, CODES_OUT, int stride) {
  THE_CODES;
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= stride) return;
  long long at = (long long)blockIdx.y * stride + i;
  write_codes(to, at / BLOCK, x[at]);
}

// y += x
extern "C" __global__ void __launch_bounds__(128) add(const float* x, float* y, int n) {
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i < n) y[i] += x[i];
}

// x *= factor
extern "C" __global__ void __launch_bounds__(128) multiply_by(float* x, float factor, int n) {
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i < n) x[i] *= factor;
}

// gate = silu(gate) * up, and as codes too where they are wanted. Grid [ceil(stride / 128), n_rows].
extern "C" __global__ void __launch_bounds__(128) silu_mul(float* gate, const float* up, CODES_OUT, int stride) {
  THE_CODES;
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= stride) return;
  long long at = (long long)blockIdx.y * stride + i;
  float value = gate[at];
  gate[at] = value = value * (1.0f / (1.0f + exp_of(0.0f - value))) * up[at];
  if (codes) write_codes(to, at / BLOCK, value);
}

// The same with gelu, by the tanh formula.
extern "C" __global__ void __launch_bounds__(128) gelu_mul(float* gate, const float* up, CODES_OUT, int stride) {
  THE_CODES;
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= stride) return;
  long long at = (long long)blockIdx.y * stride + i;
  float value = gate[at];
  float cubic = fmaf(value * value, 0.044715f, 1.0f);
  float exponent = value * cubic * -1.595769f;
  gate[at] = value = value * (1.0f / (1.0f + exp_of(exponent))) * up[at];
  if (codes) write_codes(to, at / BLOCK, value);
}

// y[i] = x[rows[i]]. Grid [n_rows of y].
extern "C" __global__ void __launch_bounds__(128) gather(const float* x, const u32* rows, float* y, int stride) {
  const float* from = x + (long long)rows[blockIdx.x] * stride;
  for (int i = threadIdx.x; i < stride; i += 128) y[(long long)blockIdx.x * stride + i] = from[i];
}

// Reads n pieces of 16 bytes, to see how fast that goes; what they are is told, so that nobody leaves it out.
extern "C" __global__ void __launch_bounds__(128) read_all(const int4* x, int n, u32* found) {
  int folded = 0;
  for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) {
    int4 piece = x[i];
    folded ^= piece.x ^ piece.y ^ piece.z ^ piece.w;
  }
  if (folded != 0) found[0] = 1;
}
