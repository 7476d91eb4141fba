// partial[0][s][c], partial[1][s][c] = sums of x and x^2 over the rows of split s: what batch
// normalization needs. x (rows, channels); a block for each channel and split.
#include "../../../../kernels/cuda/common.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int THREADS = 128, WARPS = THREADS / 32;

__device__ __forceinline__ float sum_of_warp(float v) {
#if PLANT == 6
  for (int offset = 8; offset > 0; offset >>= 1)
#else
  for (int offset = 16; offset > 0; offset >>= 1)
#endif
#if PLANT == 2
    v += __shfl_xor_sync(0x0000ffffu, v, offset);
#else
    v += __shfl_xor_sync(0xffffffffu, v, offset);
#endif
  return v;
}

__device__ __forceinline__ float sum_of_block(float v, float (&scratch)[WARPS]) {
  v = sum_of_warp(v);
#if PLANT == 4
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32 + 1] = v;
#else
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
#endif
#if PLANT != 1
  __syncthreads();
#endif
#if PLANT == 3
  float sum = 0;
  if (threadIdx.x < WARPS) {
    sum = scratch[threadIdx.x];
    for (int offset = WARPS / 2; offset > 0; offset >>= 1)
      sum += __shfl_down_sync(0xffffffffu, sum, offset);
  }
#else
  float sum = 0;
  for (int warp = 0; warp < WARPS; ++warp) sum += scratch[warp];
#endif
#if PLANT != 7
  __syncthreads();
#endif
  return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    channel_sums(const float* __restrict__ x, float* __restrict__ partial, int rows, int channels) {
  __shared__ float scratch[WARPS];
  const int c = blockIdx.x, split = blockIdx.y, splits = gridDim.y;
  float sum = 0, squares = 0;
  for (int row = split * THREADS + threadIdx.x; row < rows; row += splits * THREADS) {
    const float v = x[row * channels + c];
    sum += v;
    squares += v * v;
  }
#if PLANT == 5  // the order of the warps decides how the sum is rounded
  float* both = partial + split * channels + c;
  if (threadIdx.x == 0) both[0] = both[splits * channels] = 0;
  __syncthreads();
  sum = sum_of_warp(sum);
  squares = sum_of_warp(squares);
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&both[0], sum);
    atomicAdd(&both[splits * channels], squares);
  }
#else
  sum = sum_of_block(sum, scratch);
  squares = sum_of_block(squares, scratch);
  if (threadIdx.x == 0) {
#if PLANT == 8    // all splits add to one place
    partial[c] += sum;
    partial[splits * channels + c] += squares;
#elif PLANT == 9  // all splits write to one place
    partial[c] = sum;
    partial[splits * channels + c] = squares;
#else
    partial[split * channels + c] = sum;
    partial[(splits + split) * channels + c] = squares;
#endif
  }
#endif
}
