// Two ways to transpose a matrix, y[j, i] = x[i, j], and a mistake to find (-DMISTAKE=1).
//
// In `transpose_direct` a warp reads 32 neighbours but writes 32 rows: one sector of 32 bytes for
// each 4 that it wants. `transpose_tiled` goes through shared memory, so that both are neighbours;
// the column more than the tile needs keeps 32 rows of it on 32 banks.
#ifndef MISTAKE
#define MISTAKE 0
#endif
#define TILE 32

extern "C" __global__ void transpose_direct(const float* __restrict__ x, float* __restrict__ y,
                                            int rows, int columns) {
  const int j = blockIdx.x * TILE + threadIdx.x, i = blockIdx.y * TILE + threadIdx.y;
  if (i < rows && j < columns) y[j * rows + i] = x[i * columns + j];
}

extern "C" __global__ void transpose_tiled(const float* __restrict__ x, float* __restrict__ y,
                                           int rows, int columns) {
  __shared__ float tile[TILE][TILE + 1];
  const int j = blockIdx.x * TILE + threadIdx.x, i = blockIdx.y * TILE + threadIdx.y;
  if (i < rows && j < columns) tile[threadIdx.y][threadIdx.x] = x[i * columns + j];
#if MISTAKE != 1
  __syncthreads();
#endif
  const int row = blockIdx.x * TILE + threadIdx.y, column = blockIdx.y * TILE + threadIdx.x;
  if (row < columns && column < rows) y[row * rows + column] = tile[threadIdx.x][threadIdx.y];
}
