// What sums and extrema share: rows of a matrix of any strides, each reduced by a team of threads.
//
// x is (kept, reduced). BLOCK / team rows of it go to a block; the threads of a team take every
// team-th element of their row, or 16 bytes, then combine what they have in a tree of fixed order.
// Rows that are few and long are cut into parts, which blocks of their own reduce; a second launch
// reduces the parts. All of this is a function of the shape and strides alone.
#pragma once
#include "../cuda/common.cuh"

struct ReductionSize {
  int kept, reduced;
  int kept_stride, reduced_stride;  // of x, in elements
  int parts, part;                  // of a row: their number, and the elements of one
  int team;                         // threads of a row, a power of two up to BLOCK
  int along_kept;                   // whether neighbouring threads have neighbouring rows, so that
                                    // they read neighbours where rows are columns of memory
  int packed;                       // whether rows are contiguous, and fall into 16 bytes
};

__device__ __forceinline__ unsigned row_groups(const ReductionSize& size) {
  return ceil_div(size.kept, BLOCK / size.team);
}

// Calls f(i, x[row, i]) for each element that is this thread's share, i rising.
template <typename X, typename F>
__device__ __forceinline__ void for_share(const X* x, const ReductionSize& size, F f) {
  constexpr int N = 16 / sizeof(X);
  const int rows = BLOCK / size.team;
  const int slot = size.along_kept ? threadIdx.x % rows : threadIdx.x / size.team;
  const int lane = size.along_kept ? threadIdx.x / rows : threadIdx.x % size.team;
  const unsigned group = blockIdx.x % row_groups(size), part = blockIdx.x / row_groups(size);
  const long long row = static_cast<long long>(group) * rows + slot;
  if (row >= size.kept) return;
  x += row * size.kept_stride;

  const long long begin = static_cast<long long>(part) * size.part;
  const long long end = begin + size.part < size.reduced ? begin + size.part : size.reduced;
  if (size.packed) {
    for (long long i = begin + lane * N; i < end; i += size.team * N) {
      const Pack<X, N> v = load_pack<N>(x + i);
#pragma unroll
      for (int n = 0; n < N; ++n) f(i + n, to_real(v.at[n]));
    }
  } else {
#pragma unroll 4
    for (long long i = begin + lane; i < end; i += size.team)
      f(i, to_real(x[i * size.reduced_stride]));
  }
}

// Combines what the threads of each team have; the first BLOCK / team threads get the results of
// the rows of their block, one each. All threads must take part.
template <typename T, typename Combine>
__device__ __forceinline__ T combine_teams(T mine, const ReductionSize& size, T* scratch,
                                           Combine combine) {
  const int rows = BLOCK / size.team;
  const int lane = size.along_kept ? threadIdx.x / rows : threadIdx.x % size.team;
  const int lane_stride = size.along_kept ? rows : 1;
  scratch[threadIdx.x] = mine;
  for (int half = size.team / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half)
      scratch[threadIdx.x] =
          combine(scratch[threadIdx.x], scratch[threadIdx.x + half * lane_stride]);
  }
  __syncthreads();
  const int first_lane = size.along_kept ? threadIdx.x : threadIdx.x * size.team;
  return scratch[first_lane < BLOCK ? first_lane : 0];
}

// Where this thread stores the result of a row: in (parts, kept) order; -1 if it has none.
__device__ __forceinline__ long long result_of_thread(const ReductionSize& size) {
  const int rows = BLOCK / size.team;
  const unsigned group = blockIdx.x % row_groups(size), part = blockIdx.x / row_groups(size);
  const long long row = static_cast<long long>(group) * rows + threadIdx.x;
  if (threadIdx.x >= rows || row >= size.kept) return -1;
  return static_cast<long long>(part) * size.kept + row;
}
