// counts[bin] += number of bytes of x in that bin; 2^log2_bins bins of equal width.
#include "../../../../kernels/cuda/common.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int THREADS = 128, MOST_BINS = 512;

extern "C" __global__ void __launch_bounds__(THREADS)
    histogram(const unsigned char* __restrict__ x, int* __restrict__ counts, int n, int log2_bins) {
  __shared__ int local[MOST_BINS];
  const int i = blockIdx.x * THREADS + threadIdx.x, bins = 1 << log2_bins;
#if PLANT == 5
  if (i >= n) return;
#endif
#if PLANT != 2
  for (int bin = threadIdx.x; bin < bins; bin += THREADS) local[bin] = 0;
#endif
#if PLANT == 6
  if (threadIdx.x < 64) __syncthreads();
#elif PLANT != 3
  __syncthreads();
#endif
  if (i < n) {
#if PLANT == 7
    const int bin = x[i] >> (8 - log2_bins);
#elif PLANT == 8
    const int bin = x[i] / (256 / bins);
#else
    const int bin = x[i] >> max(0, 8 - log2_bins);
#endif
#if PLANT == 1
    ++local[bin];
#else
    atomicAdd(&local[bin], 1);
#endif
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < bins; bin += THREADS)
#if PLANT == 4  // two threads of this block, one place
    counts[bin & ~1] += local[bin];
#else
    if (local[bin]) atomicAdd(&counts[bin], local[bin]);
#endif
}
