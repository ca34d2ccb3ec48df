// Rows: [n_rows, stride], f32, one row (or head of a row) to a block of threads.

// y[i] = table[tokens[i]]. Grid [n_rows].
extern "C" __global__ void __launch_bounds__(128)
embed(int kind, const u8* w, const u8* scale, const u8* more, int stride, int group, const u32* tokens, float* y) {
  Matrix m{w, scale, more, stride, group};
  int token = (int)tokens[blockIdx.x];
  for (int k = threadIdx.x; k < stride; k += 128) y[(long long)blockIdx.x * stride + k] = weight_at(kind, m, token, k);
}

// y = x / rms(x) * weight of n elements, the heads of a row side by side. Grid [heads, n_rows]. The sum of squares is
// spread over eight lanes, as the processor's is; the others bring the numbers.
extern "C" __global__ void __launch_bounds__(128)
rms_norm(const float* x, const float* weight, float eps, float* y, int n, int stride) {
  constexpr int CHUNK = 1024;
  __shared__ float part[CHUNK];
  __shared__ float lanes[LANES];
  long long first = (long long)blockIdx.y * stride + blockIdx.x * n;
  float squares = 0.0f;
  for (int start = 0; start < n; start += CHUNK) {
    int len = min(CHUNK, n - start);
    for (int i = threadIdx.x; i < len; i += 128) part[i] = x[first + start + i];
    __syncthreads();
    if (threadIdx.x < LANES)
      for (int i = threadIdx.x; i < len; i += LANES) squares = fmaf(part[i], part[i], squares);
    __syncthreads();
  }
  if (threadIdx.x < LANES) lanes[threadIdx.x] = squares;
  __syncthreads();
  float sum = sum_of_lanes(lanes);
  float inverse = is_finite(sum) ? 1.0f / sqrtf(sum / (float)n + eps) : float_of_bits(0x7fc00000u);
  for (int i = threadIdx.x; i < n; i += 128) y[first + i] = x[first + i] * inverse * weight[i];
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

// Rows of codes with a scale and a sum for each 32 inputs (kernels::activations::quantize). A block to a warp; grid
// [ceil(stride / 128), n_rows].
extern "C" __global__ void __launch_bounds__(128)
quantize(const float* x, i8* codes, float* scale, float* sum, int stride) {
  int block = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (block >= stride / BLOCK) return;
  long long place = (long long)blockIdx.y * (stride / BLOCK) + block;
  float value = x[place * BLOCK + lane];
  float largest = fabsf(value);
  int n_wrong = is_finite(value) ? 0 : 1;
  for (int o = 16; o; o >>= 1) {
    largest = larger(__shfl_xor_sync(~0u, largest, o), largest);
    n_wrong += __shfl_xor_sync(~0u, n_wrong, o);
  }
  bool is_zero = largest < 1e-30f;
  float inverse = is_zero ? 0.0f : 127.0f / largest;
  int code = n_wrong ? 0 : (int)rintf(value * inverse);
  codes[place * BLOCK + lane] = (i8)code;
  for (int o = 16; o; o >>= 1) code += __shfl_xor_sync(~0u, code, o);
  if (lane == 0) {
    scale[place] = n_wrong ? float_of_bits(0x7fc00000u) : is_zero ? 0.0f : largest / 127.0f;
    sum[place] = (float)code;
  }
}

// Turns the pairs (i, i + half) of each head by the angles of the row. Grid [n_rows].
extern "C" __global__ void __launch_bounds__(128)
rotate(float* x, const float* cos, const float* sin, int width, int stride, int head_dim, int half) {
  float* row = x + (long long)blockIdx.x * stride;
  const float *c = cos + (long long)blockIdx.x * half, *s = sin + (long long)blockIdx.x * half;
  for (int i = threadIdx.x; i < width / head_dim * half; i += 128) {
    float* low = row + i / half * head_dim + i % half;
    float a = low[0], b = low[half], cosine = c[i % half], sine = s[i % half];
    low[0] = a * cosine - b * sine;
    low[half] = b * cosine + a * sine;
  }
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

// gate = silu(gate) * up
extern "C" __global__ void __launch_bounds__(128) silu_mul(float* gate, const float* up, int n) {
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= n) return;
  float value = gate[i];
  gate[i] = value * (1.0f / (1.0f + exp_of(0.0f - value))) * up[i];
}

// gate = gelu(gate) * up, by the tanh formula
extern "C" __global__ void __launch_bounds__(128) gelu_mul(float* gate, const float* up, int n) {
  int i = blockIdx.x * 128 + threadIdx.x;
  if (i >= n) return;
  float value = gate[i];
  float cubic = fmaf(value * value, 0.044715f, 1.0f);
  float exponent = value * cubic * -1.595769f;
  gate[i] = value * (1.0f / (1.0f + exp_of(exponent))) * up[i];
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
