// y[i] = x[0] + ... + x[i] over the 32 numbers of each warp, through shared memory.
#include "../../../../kernels/cuda/common.cuh"

#ifndef PLANT
#define PLANT 0
#endif

extern "C" __global__ void __launch_bounds__(64)
    scan(const float* __restrict__ x, float* __restrict__ y) {
  __shared__ float sums[64];
  const int i = threadIdx.x, lane = i % 32;
  sums[i] = x[i];
  for (int offset = 1; offset < 32; offset <<= 1) {
#if PLANT == 2  // lanes meet, but a shuffle orders no memory
    __shfl_sync(0xffffffffu, 0, 0);
#elif PLANT != 1
    __syncwarp();
#endif
    const float before = lane >= offset ? sums[i - offset] : 0;
#if PLANT != 3
    __syncwarp();
#endif
    sums[i] += before;
  }
  y[i] = sums[i];
}
