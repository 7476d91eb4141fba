// What the kernels share: types in memory and in registers, vector accesses, reductions.
//
// A kernel is compiled once for each type in memory: -DSTORAGE=float, double or bfloat16, and for
// some integers and bool. Arithmetic is done in Real: float for bfloat16, else the type itself.
#pragma once

#ifndef STORAGE
#define STORAGE float
#endif
#ifndef BLOCK  // threads of a block; the launcher sets it
#define BLOCK 256
#endif

#ifndef CONVOLT_EMULATOR
// Dynamic shared memory, an array of T on a 16-byte boundary. (No macro can give the emulator a
// meaning for the plain declaration.)
#define EXTERN_SHARED(T, name)                                  \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)
#endif

// The upper half of a float. Numbers are rounded to nearest, ties to even; every NaN becomes the
// quiet one. On our own, because NVRTC then needs no header of the CUDA toolkit.
struct bfloat16 {
  unsigned short bits;
};

// A number as arithmetic takes it; integers and bools are what they are.
template <typename T>
__device__ __forceinline__ T to_real(T v) {
  return v;
}
__device__ __forceinline__ float to_real(bfloat16 v) {
  return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}

template <typename T, typename R>
struct Stored {
  static __device__ __forceinline__ T from(R v) { return static_cast<T>(v); }
};
template <typename R>
struct Stored<bfloat16, R> {
  static __device__ __forceinline__ bfloat16 from(R wide) {
    const float v = static_cast<float>(wide);
    const unsigned u = __float_as_uint(v);
    bfloat16 s;
    s.bits = v != v ? 0x7fffu : static_cast<unsigned short>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    return s;
  }
};
// A number as memory holds it: to_storage<bfloat16>(1.0f).
template <typename T, typename R>
__device__ __forceinline__ T to_storage(R v) {
  return Stored<T, R>::from(v);
}

typedef STORAGE Storage;
typedef decltype(to_real(Storage())) Real;

// N neighbours in memory, moved by one instruction when sizeof(T) * N is 4, 8 or 16; the address
// must be a multiple of that.
template <typename T, int N>
struct __align__(sizeof(T) * N) Pack {
  T at[N];
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}

template <int N, typename T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& v) {
  *reinterpret_cast<Pack<T, N>*>(p) = v;
}

// The first `count` of N neighbours, which the end of an array may cut off (the rest: 0), at any
// address: one access where all are there and lie on a multiple of their size.
template <int N, typename T>
__device__ __forceinline__ bool is_whole(const T* p, long long count) {
  return count >= N && reinterpret_cast<unsigned long long>(p) % sizeof(Pack<T, N>) == 0;
}

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_up_to(const T* p, long long count) {
  if (is_whole<N>(p, count)) return load_pack<N>(p);
  Pack<T, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) v.at[i] = i < count ? p[i] : T();
  return v;
}

template <int N, typename T>
__device__ __forceinline__ void store_up_to(T* p, const Pack<T, N>& v, long long count) {
  if (is_whole<N>(p, count)) return store_pack<N>(p, v);
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < count) p[i] = v.at[i];
}

__host__ __device__ __forceinline__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// This thread's number in a 1-D grid, which may exceed what an int holds.
__device__ __forceinline__ long long global_thread() {
  return static_cast<long long>(blockIdx.x) * BLOCK + threadIdx.x;
}

// Sum over the 32 lanes of a warp, the same bits in every lane: a tree of fixed order. All lanes
// must take part.
template <typename T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

// Sum over the BLOCK threads of a block, in every thread: the warps, then their sums in order. All
// threads must take part; `scratch` is BLOCK / 32 elements of shared memory, free again on return.
template <typename T>
__device__ __forceinline__ T block_sum(T v, T* scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  T sum = scratch[0];
  for (int warp = 1; warp < BLOCK / 32; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}
