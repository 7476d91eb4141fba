// One small kernel for each wrapper of ptx.cuh: it moves data through the wrapper, test_ptx.py
// compares with NumPy. Fragments travel as they are, thread by thread, so that the test itself
// holds the lane layouts of the PTX ISA.
#include "../../../kernels/cuda/ptx.cuh"

#ifndef COPY_BYTES
#define COPY_BYTES 16
#endif
#ifndef TILE_N
#define TILE_N 64
#endif
#ifndef MN_MAJOR_A
#define MN_MAJOR_A 0
#endif
#ifndef MN_MAJOR_B
#define MN_MAJOR_B 0
#endif
#ifdef __CUDA_ARCH__
#define SM __CUDA_ARCH__
#else
#define SM 10000
#endif

// r[variant][lane][4]: x1, x2, x4, then the same transposed.
extern "C" __global__ void __launch_bounds__(BLOCK)
    ldmatrix_all(const unsigned* __restrict__ x, unsigned* __restrict__ r) {
  __shared__ __align__(16) unsigned tile[4 * 8 * 4];
  const int lane = threadIdx.x;
  for (int i = lane; i < 128; i += 32) tile[i] = x[i];
  __syncwarp();
  const unsigned* row = tile + lane * 4;
  unsigned one[1], two[2], four[4];
  for (int transposed = 0; transposed < 2; ++transposed) {
    if (transposed) {
      ldmatrix_trans(one, row);
      ldmatrix_trans(two, row);
      ldmatrix_trans(four, row);
    } else {
      ldmatrix(one, row);
      ldmatrix(two, row);
      ldmatrix(four, row);
    }
    unsigned* mine = r + transposed * 3 * 128 + lane * 4;
    mine[0] = one[0];
    mine[128] = two[0];
    mine[128 + 1] = two[1];
    for (int i = 0; i < 4; ++i) mine[256 + i] = four[i];
  }
}

// Warps 0, 1 write and arrive, warps 2, 3 wait and read; then everybody meets at another barrier.
extern "C" __global__ void __launch_bounds__(BLOCK)
    named_barriers(const float* __restrict__ x, float* __restrict__ y) {
  __shared__ float box[BLOCK];
  const int t = threadIdx.x, half = BLOCK / 2;
  if (t < half) {
    box[t] = x[t];
    named_barrier_arrive(1, BLOCK);
  } else {
    named_barrier_sync(1, BLOCK);
    y[t] = box[BLOCK - 1 - t];
  }
  named_barrier_sync(2, BLOCK);
  if (t >= half) box[t] = y[t];
  named_barrier_sync(1, BLOCK);
  if (t < half) y[t] = box[t + half] + 1;
}

#if SM >= 800
extern "C" __global__ void __launch_bounds__(BLOCK)
    conversions(const float* __restrict__ low, const float* __restrict__ high,
                unsigned* __restrict__ packed, unsigned* __restrict__ tf32, int n) {
  const long long i = global_thread();
  if (i >= n) return;
  packed[i] = pack_bfloat16x2(low[i], high[i]);
  tf32[i] = to_tf32(low[i]);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    mma_bf16(const unsigned* __restrict__ a, const unsigned* __restrict__ b,
             float* __restrict__ d) {
  const int lane = threadIdx.x;
  unsigned fragment_a[4], fragment_b[2];
  float fragment_d[4];
  for (int i = 0; i < 4; ++i) fragment_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fragment_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) fragment_d[i] = d[lane * 4 + i];
  mma_m16n8k16_bf16(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = fragment_d[i];
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    mma_tf32(const unsigned* __restrict__ a, const unsigned* __restrict__ b,
             float* __restrict__ d) {
  const int lane = threadIdx.x;
  unsigned fragment_a[4], fragment_b[2];
  float fragment_d[4];
  for (int i = 0; i < 4; ++i) fragment_a[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fragment_b[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) fragment_d[i] = d[lane * 4 + i];
  mma_m16n8k8_tf32(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = fragment_d[i];
}

// Thread t copies min(t, COPY_BYTES) bytes, twice, in two groups; y[group][t] as soon as it is
// there.
extern "C" __global__ void __launch_bounds__(BLOCK)
    cp_async_groups(const unsigned char* __restrict__ x, unsigned char* __restrict__ y) {
  __shared__ __align__(16) unsigned char box[2][BLOCK * COPY_BYTES];
  const int t = threadIdx.x, valid = min(t, COPY_BYTES);
  for (int i = 0; i < 2 * COPY_BYTES; ++i)
    box[i / COPY_BYTES][t * COPY_BYTES + i % COPY_BYTES] = 0xaa;
  for (int group = 0; group < 2; ++group) {
    cp_async<COPY_BYTES>(&box[group][t * COPY_BYTES], x + (group * BLOCK + t) * COPY_BYTES, valid);
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  const int other = BLOCK - 1 - t;
  for (int i = 0; i < COPY_BYTES; ++i) y[other * COPY_BYTES + i] = box[0][other * COPY_BYTES + i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < COPY_BYTES; ++i)
    y[(BLOCK + other) * COPY_BYTES + i] = box[1][other * COPY_BYTES + i];
}
#endif

#if SM >= 900
// Half of the block hands numbers to the other half over one slot, `rounds` times.
extern "C" __global__ void __launch_bounds__(BLOCK)
    mbarrier_ring(const float* __restrict__ x, float* __restrict__ y, int rounds) {
  __shared__ Mbarrier full, empty;
  __shared__ float slot[BLOCK / 2];
  const int t = threadIdx.x, half = BLOCK / 2;
  if (t == 0) {
    mbarrier_init(&full, half);
    mbarrier_init(&empty, half);
    mbarrier_fence_init();
  }
  __syncthreads();
  for (int i = 0; i < rounds; ++i) {
    if (t < half) {
      mbarrier_wait(&empty, (i & 1) ^ 1);
      slot[t] = x[i * half + t];
      mbarrier_arrive(&full);
    } else {
      mbarrier_wait(&full, i & 1);
      y[i * half + t - half] = slot[BLOCK - 1 - t];
      mbarrier_arrive(&empty);
    }
  }
  __syncthreads();
  if (t == 0) {
    mbarrier_inval(&full);
    mbarrier_inval(&empty);
    mbarrier_init(&full, 1);
    mbarrier_arrive(&full);
    mbarrier_wait(&full, 0);
  }
}

// The box at (c0, c1, ...), as shared memory holds it.
extern "C" __global__ void __launch_bounds__(BLOCK)
    tma_load_box(const __grid_constant__ TensorMap map, unsigned char* __restrict__ y, int rank,
                 int bytes, int c0, int c1, int c2, int c3) {
  __shared__ Mbarrier full;
  EXTERN_SHARED(unsigned char, start);
  unsigned char* box = align_shared<1024>(start);
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(&full, bytes);
    if (rank == 2) tma_load(box, &map, &full, c0, c1);
    if (rank == 3) tma_load(box, &map, &full, c0, c1, c2);
    if (rank == 4) tma_load(box, &map, &full, c0, c1, c2, c3);
  }
  mbarrier_wait(&full, 0);
  for (int i = threadIdx.x; i < bytes; i += BLOCK) y[i] = box[i];
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    tma_load_pixels(const __grid_constant__ TensorMap map, unsigned char* __restrict__ y, int bytes,
                    int c, int w, int h, int n, int tap_w, int tap_h) {
  __shared__ Mbarrier full;
  EXTERN_SHARED(unsigned char, start);
  unsigned char* box = align_shared<1024>(start);
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_fence_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(&full, bytes);
    tma_load_im2col(box, &map, &full, c, w, h, n, tap_w, tap_h);
  }
  mbarrier_wait(&full, 0);
  for (int i = threadIdx.x; i < bytes; i += BLOCK) y[i] = box[i];
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    tma_store_box(const unsigned char* __restrict__ x, const __grid_constant__ TensorMap map,
                  int rank, int bytes, int c0, int c1, int c2, int c3) {
  EXTERN_SHARED(unsigned char, start);
  unsigned char* box = align_shared<1024>(start);
  for (int i = threadIdx.x; i < bytes; i += BLOCK) box[i] = x[i];
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    if (rank == 2) tma_store(&map, box, c0, c1);
    if (rank == 3) tma_store(&map, box, c0, c1, c2);
    if (rank == 4) tma_store(&map, box, c0, c1, c2, c3);
    tma_store_commit();
    tma_store_wait_read<0>();
    box[0] = 0;  // read already
    tma_store_wait<0>();
  }
}
#endif

#if SM == 10000 || defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Byte of element (mn, k) of an operand with 32 of k, in boxes with the 128-byte swizzle: K-major
// 8 rows x 64 of k, half of them used; MN-major 64 of mn x 8 rows.
__device__ __forceinline__ int operand_offset(bool mn_major, int mn, int k) {
  const int row = mn_major ? k : mn, column = mn_major ? mn % 64 : k;
  const int box = mn_major ? mn / 64 * 4096 : 0;
  return box + row * 128 + ((column / 8) ^ (row % 8)) * 16 + column % 8 * 2;
}

// d[thread][TILE_N / 2] = a b over 32 of k, in two steps; a (64, 32), b (TILE_N, 32).
extern "C" __global__ void __launch_bounds__(BLOCK)
    wgmma_tile(const unsigned short* __restrict__ a, const unsigned short* __restrict__ b,
               float* __restrict__ d) {
  EXTERN_SHARED(unsigned char, start);
  unsigned char* tile_a = align_shared<1024>(start);
  unsigned char* tile_b = tile_a + 8192;
  for (int i = threadIdx.x; i < 64 * 32; i += BLOCK)
    *reinterpret_cast<unsigned short*>(tile_a + operand_offset(MN_MAJOR_A, i / 32, i % 32)) = a[i];
  for (int i = threadIdx.x; i < TILE_N * 32; i += BLOCK)
    *reinterpret_cast<unsigned short*>(tile_b + operand_offset(MN_MAJOR_B, i / 32, i % 32)) = b[i];
  fence_proxy_async();
  __syncthreads();
  // 16 of k further: 32 bytes of a K-major row, 16 rows of an MN-major box.
  const unsigned long long from_a = wgmma_descriptor(tile_a, 4096, 1024);
  const unsigned long long from_b = wgmma_descriptor(tile_b, 4096, 1024);
  const unsigned step_a = (MN_MAJOR_A ? 2048 : 32) / 16, step_b = (MN_MAJOR_B ? 2048 : 32) / 16;
  float result[TILE_N / 2];
#pragma unroll
  for (int i = 0; i < TILE_N / 2; ++i) result[i] = 1e30f;  // overwritten
  wgmma_fence();
  wgmma_bf16<MN_MAJOR_A, MN_MAJOR_B>(result, from_a, from_b, false);
  wgmma_bf16<MN_MAJOR_A, MN_MAJOR_B>(result, from_a + step_a, from_b + step_b);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_results(result);
#pragma unroll
  for (int i = 0; i < TILE_N / 2; ++i) d[threadIdx.x * (TILE_N / 2) + i] = result[i];
}
#endif

#if SM == 10000 || defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(__CUDA_ARCH_FEAT_SM100_ALL)
// Three warpgroups; with a number of blocks per SM in the bounds, the compiler knows what they
// start with.
extern "C" __global__ void __launch_bounds__(384, 1)
    registers_moved(const float* __restrict__ x, float* __restrict__ y) {
  if (threadIdx.x < 128)
    registers_shrink<40>();
  else
    registers_grow<232>();
  y[threadIdx.x] = x[threadIdx.x];
}
#endif
