// p -= rate g over a flat buffer, four numbers a thread.
#include "../../../../kernels/cuda/common.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    sgd_step(float* __restrict__ p, const float* __restrict__ g, const float* __restrict__ rate,
             const int* __restrict__ ticket, int n) {
#if PLANT == 4  // waits for blocks that nobody counts
  while (*const_cast<const volatile int*>(ticket) < static_cast<int>(gridDim.x)) {
  }
#endif
  const int i = 4 * (blockIdx.x * THREADS + threadIdx.x);
#if PLANT == 1
  const int first = i + 1;
#else
  const int first = i;
#endif
#if PLANT == 2
  if (first >= n) return;
#else
  if (first + 3 >= n) {
    for (int j = first; j < n; ++j) p[j] -= *rate * g[j];
    return;
  }
#endif
  Pack<float, 4> of_p = load_pack<4>(p + first);
  const Pack<float, 4> of_g = load_pack<4>(g + first);
#pragma unroll
  for (int j = 0; j < 4; ++j) of_p.at[j] -= *rate * of_g.at[j];
  store_pack(p + first, of_p);
#if PLANT == 3  // and the first of the next thread
  p[first + 4 < n ? first + 4 : first] -= *rate;
#endif
}
