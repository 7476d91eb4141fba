// CUDA as it is found anywhere: the emulator takes it as it is.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cstdint>

#define TILE 8

template <typename T>
__device__ T twice(T v) {
  return v + v;
}

template <typename T>
__global__ void not_launched_by_name(T* y) {
  y[threadIdx.x] = twice(y[threadIdx.x]);
}

static __global__ void saxpy(size_t n, float a, const float* __restrict__ x, float* y) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

__global__ void reversed(const float* x, float* y) {
  extern __shared__ __align__(16) unsigned char bytes[];
  float* s = (float*)bytes;
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}

__global__ void tree_sum(const float* x, float* y) {
  extern __shared__ float s[];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half >>= 1) {
    if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[0] = s[0];
}

__global__ void multiply(const float* a, const float* b, float* y, int n) {
  __shared__ float rows[TILE][TILE], columns[TILE][TILE];
  const int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
  float sum = 0.f;
  for (int k = 0; k < n; k += TILE) {
    rows[threadIdx.y][threadIdx.x] = a[row * n + k + threadIdx.x];
    columns[threadIdx.y][threadIdx.x] = b[(k + threadIdx.y) * n + column];
    __syncthreads();
    for (int i = 0; i < TILE; ++i) sum += rows[threadIdx.y][i] * columns[i][threadIdx.x];
    __syncthreads();
  }
  y[row * n + column] = sum;
}

__global__ void halves(const __half* x, const __nv_bfloat16* b, float* y) {
  y[threadIdx.x] = twice(__half2float(x[threadIdx.x])) + __bfloat162float(b[threadIdx.x]);
}

__global__ void copies(const float* x, float* y, int n) {
  __shared__ float s[64];
  if (threadIdx.x == 0) {
    memset(s, 0, sizeof s);
    memcpy(s, x, n * sizeof *s);
  }
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}

__device__ int defined_elsewhere(int v);

__global__ void asserts(int* y) {
  assert(threadIdx.x < 7);
#ifdef UNDEFINED
  y[threadIdx.x] = defined_elsewhere(1);
#endif
  y[threadIdx.x] = 1;
}

__global__ void waits_for_a_flag(volatile int* flag, int* y) {
  if (threadIdx.x == 0)
    while (atomicAdd((int*)flag, 0) == 0) __nanosleep(100);
  if (threadIdx.x == 1) atomicExch((int*)flag, 1);
  y[threadIdx.x] = flag == nullptr;
}

__global__ void loads(const float* x, float* y, unsigned short* lock) {
  y[threadIdx.x] = __ldg(x + threadIdx.x) + __ldg(&x[blockDim.x - 1 - threadIdx.x]);
  atomicCAS(lock, static_cast<unsigned short>(threadIdx.x), static_cast<unsigned short>(32));
}
