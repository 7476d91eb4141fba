// y = 2 x in chunks of 64: two warps write a double buffer, two warps read it, named barriers
// between.
#include "../../../../kernels/cuda/ptx.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int SIDE = 64, ALL = 2 * SIDE;  // threads
constexpr int FULL = 1, EMPTY = 3;        // barriers of buffer 0; those of buffer 1 follow

extern "C" __global__ void __launch_bounds__(ALL)
    twice(const float* __restrict__ x, float* __restrict__ y, int chunks) {
  __shared__ float buffer[2][SIDE];
  const int i = threadIdx.x % SIDE;
  if (threadIdx.x < SIDE) {
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int b = chunk % 2;
#if PLANT != 2
      named_barrier_sync(EMPTY + b, ALL);
#endif
      buffer[b][i] = 2 * x[chunk * SIDE + i];
#if PLANT == 3
      named_barrier_arrive(FULL + b, SIDE);
#else
      named_barrier_arrive(FULL + b, ALL);
#endif
    }
  } else {
#if PLANT != 2
    for (int b = 0; b < 2 && b < chunks; ++b) named_barrier_arrive(EMPTY + b, ALL);
#endif
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int b = chunk % 2;
#if PLANT == 1
      named_barrier_arrive(FULL + b, ALL);
#else
      named_barrier_sync(FULL + b, ALL);
#endif
      y[chunk * SIDE + i] = buffer[b][SIDE - 1 - i];
#if PLANT != 2
      if (chunk + 2 < chunks) named_barrier_arrive(EMPTY + b, ALL);
#endif
    }
  }
}
