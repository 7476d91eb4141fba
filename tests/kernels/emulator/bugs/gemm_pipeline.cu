// y (m, n) = a (m, k) b (n, k)^T in float32: tiles of 32 x 32, cp.async through a ring of stages.
// k is a multiple of 4. PLANT chooses a bug; test_planted_bugs.py says which.
#include "../../../../kernels/cuda/ptx.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int THREADS = 64, TILE = 32, DEPTH = 16, STAGES = 3;
constexpr int OPERAND = TILE * DEPTH;  // floats
#if PLANT == 9                         // the two tiles of a stage overlap by a row
constexpr int SECOND = OPERAND - DEPTH;
#else
constexpr int SECOND = OPERAND;
#endif
#if PLANT == 8  // one stage more than the launch has memory for
constexpr int SLOTS = STAGES + 1;
#else
constexpr int SLOTS = STAGES;
#endif

struct Size {
  int m, n, k;
};

// Rows row0.. and columns k0.. of a row-major matrix; zeros outside.
__device__ __forceinline__ void load_tile(float* tile, const float* matrix, int rows, int k,
                                          int row0, int k0) {
  for (int i = threadIdx.x; i < OPERAND / 4; i += THREADS) {
    const int row = i / (DEPTH / 4), column = i % (DEPTH / 4) * 4;
#if PLANT == 5
    const bool inside = row0 + row <= rows && k0 + column < k;
#else
    const bool inside = row0 + row < rows && k0 + column < k;
#endif
    const float* from = inside ? matrix + (row0 + row) * k + k0 + column : matrix;
    cp_async<16>(tile + row * DEPTH + column, from, inside ? 16 : 0);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    gemm(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y,
         Size size) {
  EXTERN_SHARED(float, ring);
  const int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
  const int row0 = threadIdx.x / 8 * 4, column0 = threadIdx.x % 8 * 4;
  const int steps = ceil_div(size.k, DEPTH);
  const auto refill = [&](int step) {
    float* stage = ring + step % SLOTS * 2 * OPERAND;
    if (step < steps) {
      load_tile(stage, a, size.m, size.k, m0, step * DEPTH);
      load_tile(stage + SECOND, b, size.n, size.k, n0, step * DEPTH);
    }
    cp_async_commit();
  };
  for (int step = 0; step < STAGES - 1; ++step) refill(step);
  float sum[4][4] = {};
  for (int step = 0; step < steps; ++step) {
#if PLANT == 4
    refill(step + STAGES - 1);  // somebody may still read this stage
    cp_async_wait<STAGES - 1>();
#elif PLANT == 3
    cp_async_wait<STAGES - 1>();
#elif PLANT != 2
    cp_async_wait<STAGES - 2>();
#endif
#if PLANT != 1
    __syncthreads();
#endif
#if PLANT != 4
    refill(step + STAGES - 1);
#endif
    const float* stage = ring + step % SLOTS * 2 * OPERAND;
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      float from_a[4], from_b[4];
      for (int i = 0; i < 4; ++i) {
        from_a[i] = stage[(row0 + i) * DEPTH + k];
        from_b[i] = stage[SECOND + (column0 + i) * DEPTH + k];
      }
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sum[i][j] += from_a[i] * from_b[j];
    }
  }
#if PLANT != 2
  cp_async_wait<0>();
#endif
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int row = m0 + row0 + i, column = n0 + column0 + j;
#if PLANT == 6
      if (row < size.m && column <= size.n) y[row * size.n + column] = sum[i][j];
#elif PLANT == 10
      if (row < size.m && column < size.n && row0 + i < TILE - 1)
        y[row * size.n + column] = sum[i][j];
#else
      if (row < size.m && column < size.n) y[row * size.n + column] = sum[i][j];
#endif
    }
}
