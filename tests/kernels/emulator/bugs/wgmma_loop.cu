// y (64, 64) = a (64, k) b (64, k)^T, bfloat16 in, float out: one warpgroup, TMA into two stages,
// wgmma. k is a multiple of 64.
#include "../../../../kernels/cuda/ptx.cuh"

#ifndef PLANT
#define PLANT 0
#endif

constexpr int THREADS = 128, STAGES = 2, OPERAND_BYTES = 64 * 128;

extern "C" __global__ void __launch_bounds__(THREADS)
    multiply(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
             float* __restrict__ y, int steps) {
  EXTERN_SHARED(unsigned char, start);
  unsigned char* ring = align_shared<1024>(start);
  __shared__ Mbarrier full[STAGES];
  const auto refill = [&](int step) {
    unsigned char* stage = ring + step % STAGES * 2 * OPERAND_BYTES;
    Mbarrier* barrier = &full[step % STAGES];
    mbarrier_arrive_expect_tx(barrier, 2 * OPERAND_BYTES);
    tma_load(stage, &map_a, barrier, step * 64, 0);
    tma_load(stage + OPERAND_BYTES, &map_b, barrier, step * 64, 0);
  };
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; ++i) mbarrier_init(&full[i], 1);
    mbarrier_fence_init();
    for (int step = 0; step < STAGES && step < steps; ++step) refill(step);
  }
  __syncthreads();
  float sum[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) sum[i] = 0;
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(&full[step % STAGES], step / STAGES & 1);
    const unsigned char* stage = ring + step % STAGES * 2 * OPERAND_BYTES;
    const unsigned long long a = wgmma_descriptor(stage, 16, 1024);
    const unsigned long long b = wgmma_descriptor(stage + OPERAND_BYTES, 16, 1024);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
#if PLANT == 3  // 8 of k further instead of 16
      wgmma_bf16<false, false>(sum, a + k, b + k);
#else
      wgmma_bf16<false, false>(sum, a + 2 * k, b + 2 * k);
#endif
    wgmma_commit();
#if PLANT == 1
    wgmma_wait<1>();  // enough for the stage before, not for the result
    if (step + 1 < steps) wgmma_wait<0>();
#elif PLANT == 2
    wgmma_wait<1>();
#else
    wgmma_wait<0>();
#endif
    __syncthreads();
    if (threadIdx.x == 0 && step + STAGES < steps) refill(step + STAGES);
  }
#if PLANT == 2
  wgmma_wait<0>();
#endif
  wgmma_results(sum);
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; ++i) y[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + column + i % 2] = sum[i];
#if PLANT == 1
  wgmma_wait<0>();
#endif
}
