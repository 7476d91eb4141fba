// y (columns, rows) = transpose of x (rows, columns), by tiles of 32 x 32 through shared memory.
#include "../../../../kernels/cuda/common.cuh"

#ifndef PLANT
#define PLANT 0
#endif
#if PLANT == 2  // a column of the tile lies in one bank
constexpr int PAD = 0;
#else
constexpr int PAD = 1;
#endif
constexpr int THREADS = 256, TILE = 32;

extern "C" __global__ void __launch_bounds__(THREADS)
    transpose(const float* __restrict__ x, float* __restrict__ y, int rows, int columns) {
  __shared__ float tile[TILE][TILE + PAD];
#if PLANT == 5
  const int tiles_a_row = columns / TILE;
#else
  const int tiles_a_row = ceil_div(columns, TILE);
#endif
  const int row0 = blockIdx.x / tiles_a_row * TILE, column0 = blockIdx.x % tiles_a_row * TILE;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#if PLANT == 1  // the warp's writes are `rows` apart
  for (int i = warp; i < TILE; i += THREADS / 32)
    if (row0 + i < rows && column0 + lane < columns)
      y[(column0 + lane) * rows + row0 + i] = x[(row0 + i) * columns + column0 + lane];
#else
  for (int i = warp; i < TILE; i += THREADS / 32)
#if PLANT == 4
    if (row0 + i < rows && column0 + lane <= columns)
#else
    if (row0 + i < rows && column0 + lane < columns)
#endif
      tile[i][lane] = x[(row0 + i) * columns + column0 + lane];
#if PLANT != 3
  __syncthreads();
#endif
  for (int i = warp; i < TILE; i += THREADS / 32)
    if (column0 + i < columns && row0 + lane < rows)
      y[(column0 + i) * rows + row0 + lane] = tile[lane][i];
#endif
}
