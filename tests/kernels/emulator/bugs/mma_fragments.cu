// y (16, 16) = a (16, 32) b (32, 16), bfloat16 in, float out: one warp, ldmatrix and mma.sync.
#include "../../../../kernels/cuda/ptx.cuh"

#ifndef PLANT
#define PLANT 0
#endif
#if PLANT == 5  // rows start in the same banks
constexpr int PAD = 0;
#else
constexpr int PAD = 8;
#endif
constexpr int DEPTH = 32, SIDE = 16;

extern "C" __global__ void __launch_bounds__(32)
    multiply(const bfloat16* __restrict__ a, const bfloat16* __restrict__ b,
             float* __restrict__ y) {
  __shared__ __align__(16) bfloat16 tile_a[SIDE][DEPTH + PAD];
  __shared__ __align__(16) bfloat16 tile_b[DEPTH][SIDE + PAD];
  const int lane = threadIdx.x;
  for (int i = lane * 8; i < SIDE * DEPTH; i += 32 * 8) {
    store_pack(&tile_a[i / DEPTH][i % DEPTH], load_pack<8>(a + i));
    store_pack(&tile_b[i / SIDE][i % SIDE], load_pack<8>(b + i));
  }
#if PLANT != 4
  __syncwarp();
#endif
#if PLANT == 6
  float sum[2][4];
#else
  float sum[2][4] = {};
#endif
  for (int k = 0; k < DEPTH; k += 16) {
    unsigned from_a[4], from_b[4];
#if PLANT == 2  // matrices 1 and 2 exchanged
    ldmatrix(from_a, &tile_a[lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
#else
    ldmatrix(from_a, &tile_a[lane % 16][k + lane / 16 * 8]);
#endif
#if PLANT == 3
    ldmatrix(from_b, &tile_b[k + lane % 16][lane / 16 * 8]);
#else
    ldmatrix_trans(from_b, &tile_b[k + lane % 16][lane / 16 * 8]);
#endif
    for (int half = 0; half < 2; ++half) {
      const unsigned pair[2] = {from_b[2 * half], from_b[2 * half + 1]};
      mma_m16n8k16_bf16(sum[half], from_a, pair);
    }
  }
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 4; ++i) {
#if PLANT == 1  // rows and columns of a fragment exchanged
      const int row = lane / 4 + i % 2 * 8, column = lane % 4 * 2 + i / 2;
#else
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
#endif
      y[row * SIDE + half * 8 + column] = sum[half][i];
    }
}
