// Small kernels whose accesses, barriers and mistakes are known exactly.
#include "../../../kernels/cuda/common.cuh"

struct Line {
  int n;
  float a;
  double b;
};

extern "C" __global__ void axpb(const float* x, float* y, Line line) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < line.n) y[i] = line.a * x[i] + static_cast<float>(line.b);
}

// Each thread writes where it is: x fastest, then y, z; then blocks.
extern "C" __global__ void coordinates(int* out) {
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

extern "C" __global__ void reverse_in_shared(const float* x, float* y) {
  EXTERN_SHARED(float, tile);
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// A warp reads words `stride` apart.
extern "C" __global__ void strided_read(const float* x, float* y, int stride) {
  y[threadIdx.x] = x[threadIdx.x * stride];
}

extern "C" __global__ void packed_copy(const float* x, float* y) {
  store_pack(y + 4 * threadIdx.x, load_pack<4>(x + 4 * threadIdx.x));
}

extern "C" __global__ void strided_shared(float* y, int stride) {
  __shared__ float tile[1024];
  for (int i = threadIdx.x; i < 1024; i += 32) tile[i] = i;
  __syncwarp();
  y[threadIdx.x] = tile[threadIdx.x * stride];
}

extern "C" __global__ void warp_functions(const int* x, int* y) {
  const unsigned all = 0xffffffffu;
  const int lane = threadIdx.x, v = x[lane];
  int* out = y + 32 * 12;  // one row of 32 a function
  y[lane] = __shfl_sync(all, v, 5);
  y[32 + lane] = __shfl_up_sync(all, v, 3);
  y[64 + lane] = __shfl_down_sync(all, v, 3);
  y[96 + lane] = __shfl_xor_sync(all, v, 7);
  y[128 + lane] = __shfl_down_sync(all, v, 2, 8);
  y[160 + lane] = __shfl_sync(all, v, 1, 4);
  y[192 + lane] = static_cast<int>(__ballot_sync(all, v % 3 == 0));
  y[224 + lane] = __any_sync(all, v == 4) + 2 * __all_sync(all, v >= 0);
  y[256 + lane] = __reduce_add_sync(all, v);
  y[288 + lane] = __reduce_max_sync(all, v);
  y[320 + lane] = __popc(static_cast<unsigned>(v)) + __clz(v) + __ffs(v);
  y[352 + lane] = __syncthreads_count(v % 2) + 100 * __syncthreads_or(v == 3);
  out[lane] = 0;
}

extern "C" __global__ void histogram(const int* x, int* counts, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(&counts[x[i]], 1);
}

extern "C" __global__ void deadlock(float* y) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncwarp();
  __syncthreads();
  y[0] = 1;
}

extern "C" __global__ void never_ends(const float* x, float* y) {
  while (reinterpret_cast<const volatile float*>(x)[0] == 0) {
  }
  y[0] = 1;
}

extern "C" __global__ void past_the_end(const float* x, float* y, int n) {
  y[static_cast<int>(threadIdx.x) + n] = x[0];
}

extern "C" __global__ void special(const float* x, float* y) {
  y[threadIdx.x] = __expf(x[threadIdx.x]);
}

__device__ int variable[32];

extern "C" __global__ void writes_a_variable(int* y) { variable[threadIdx.x] = y[threadIdx.x]; }

extern "C" __global__ void traps(int* y) {
  if (y[threadIdx.x] == 5) __trap();
}

__device__ int descend(volatile int* y, int n) {
  volatile int frame[64];
  frame[n % 64] = n;
  return n ? descend(y, n - 1) + frame[n % 64] : 0;
}
extern "C" __global__ void recurses(int* y, int depth) { y[threadIdx.x] = descend(y, depth); }

// Each is a race, or an access, of which the thread that comes last sees nothing wrong.

extern "C" __global__ void reads_then_another_block_writes(float* x, float* y) {
  const float v = x[0];
  __syncthreads();
  if (blockIdx.x == 1 && threadIdx.x == 1) x[0] = 2;
  y[blockIdx.x * blockDim.x + threadIdx.x] = v;
}

extern "C" __global__ void syncs_a_warp_not_the_block(float* y) {
  __shared__ float word;
  if (threadIdx.x == 0) word = 1;
  __syncthreads();
  const float v = word;
  __syncwarp();
  if (threadIdx.x == 63) word = 2;
  y[threadIdx.x] = v;
}

extern "C" __global__ void bytes_of_a_word(unsigned char* y) {
  __shared__ unsigned char s[64];
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = 1;
  y[threadIdx.x] = s[63 - threadIdx.x];
}

extern "C" __global__ void reads_what_others_add_to(int* count, int* y) {
  if (atomicAdd(count, 1) == static_cast<int>(blockDim.x) - 1) y[0] = *count;
}

extern "C" __global__ void reads_anothers_variable(float* y) {
  __shared__ float* shown[2];
  float mine = threadIdx.x;
  shown[threadIdx.x] = &mine;
  __syncthreads();
  y[threadIdx.x] = *shown[1 - threadIdx.x];
  __syncthreads();
}
