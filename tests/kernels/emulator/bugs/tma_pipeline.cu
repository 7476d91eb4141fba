// y = 2 x, (rows, 32) in float32, tiles of 32 rows: a warp that loads by TMA, a ring of two stages
// with full and empty mbarriers, four warps that compute, and TMA stores from a staging tile.
#include "../../../../kernels/cuda/ptx.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int CONSUMERS = 128, STAGES = 2, ROWS = 32, COLUMNS = 32, TILE = ROWS * COLUMNS;
constexpr unsigned TILE_BYTES = TILE * 4;

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32)
    twice(const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_y,
          int tiles) {
  EXTERN_SHARED(float, start);
  float* ring = align_shared<128>(start);
  float* staging = ring + STAGES * TILE;
  __shared__ Mbarrier full[STAGES], empty[STAGES];
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) {
      mbarrier_init(&full[i], 1);
#if PLANT == 8
      mbarrier_init(&empty[i], 1);
#else
      mbarrier_init(&empty[i], CONSUMERS / 32);
#endif
    }
    mbarrier_fence_init();
  }
  __syncthreads();
  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x > CONSUMERS) return;
    for (int i = 0; i < tiles; ++i) {
      const int slot = i % STAGES;
#if PLANT != 1
      mbarrier_wait(&empty[slot], (i / STAGES & 1) ^ 1);
#endif
#if PLANT == 4
      mbarrier_arrive_expect_tx(&full[slot], TILE_BYTES / 2);
#elif PLANT == 7
      mbarrier_arrive_expect_tx(&full[slot], TILE_BYTES + 128);
#else
      mbarrier_arrive_expect_tx(&full[slot], TILE_BYTES);
#endif
      // Two halves, so that a phase can end with one of them missing.
      for (int half = 0; half < 2; ++half)
        tma_load(ring + slot * TILE + half * TILE / 2, &map_x, &full[slot], 0,
                 i * ROWS + half * ROWS / 2);
    }
    return;
  }
  for (int i = 0; i < tiles; ++i) {
    const int slot = i % STAGES;
#if PLANT == 2
    mbarrier_wait(&full[slot], (i / STAGES & 1) ^ 1);
#else
    mbarrier_wait(&full[slot], i / STAGES & 1);
#endif
#if PLANT == 3
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[slot]);
    __syncwarp();
#endif
    float values[TILE / CONSUMERS];
#pragma unroll
    for (int j = 0; j < TILE / CONSUMERS; ++j)
      values[j] = 2 * ring[slot * TILE + j * CONSUMERS + threadIdx.x];
    __syncwarp();
#if PLANT != 3
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&empty[slot]);
#endif
#if PLANT != 5
    if (threadIdx.x == 0) tma_store_wait_read<0>();
#endif
    named_barrier_sync(1, CONSUMERS);
#pragma unroll
    for (int j = 0; j < TILE / CONSUMERS; ++j) staging[j * CONSUMERS + threadIdx.x] = values[j];
    fence_proxy_async();
#if PLANT != 6
    named_barrier_sync(1, CONSUMERS);
#endif
    if (threadIdx.x == 0) {
      for (int half = 0; half < 2; ++half)
        tma_store(&map_y, staging + half * TILE / 2, 0, i * ROWS + half * ROWS / 2);
      tma_store_commit();
    }
  }
#if PLANT != 9
  if (threadIdx.x == 0) tma_store_wait<0>();
#endif
}
