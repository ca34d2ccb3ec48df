// Kernels for the tests of the layer over the driver.
#include "gpu.h"

// y[i] += factor * x[i]
extern "C" __global__ void __launch_bounds__(64)
axpy(const float* __restrict__ x, float* __restrict__ y, float factor, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += factor * x[i];
}

// sum[0] += the sum of x[0..n], by one warp, through shared memory
extern "C" __global__ void __launch_bounds__(32)
sum(const float* __restrict__ x, float* __restrict__ sum, int n) {
  DYN_SHARED(float, part);
  float s = 0;
  for (int i = threadIdx.x; i < n; i += 32) s += x[i];
  part[threadIdx.x] = s;
  __syncthreads();
  s = warp_sum(part[31 - threadIdx.x]);
  if (threadIdx.x == 0) sum[0] += s;
}
