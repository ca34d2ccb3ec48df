// What kernels use beyond plain CUDA C++, on the processor.
#pragma once
#include "cucpu.h"

__device__ __forceinline__ float warp_sum(float v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
