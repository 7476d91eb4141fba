// Products of matrices with any strides, tile by tile; ../cuda/gemm_tile.cuh has the main loop.
#include "../cuda/gemm_tile.cuh"

struct LinearSize {
  int m, c, k;
};

// Where a block's tile of a rows x columns result begins; the tiles of a line go side by side, so
// that blocks that run together read the same rows of the first operand.
struct Corner {
  unsigned row;  // the last of a tile may be beyond what an int holds
  int column;

  __device__ __forceinline__ explicit Corner(int columns) {
    const int across = tiles_of(columns, TILE_N);
    row = blockIdx.x / across * TILE_M;
    column = blockIdx.x % across * TILE_N;
  }
};

// Whether an operand's lines, `length` neighbours each, fall into packs.
__device__ __forceinline__ bool in_packs(const Storage* p, int length, long long step,
                                         long long pitch) {
  return step == 1 && pitch % PACK == 0 && in_packs(p, length);
}

template <int V, Line LINE_A, Line LINE_B>
__device__ __forceinline__ void multiply_matrices(const Matrix& a, const Matrix& b, Corner corner,
                                                  Share share, SharedTiles& tiles,
                                                  ThreadTile& result) {
  const int depth = share.first * TILE_DEPTH;
  const TileLoader<Matrix, TILE_M, LINE_A, V> load_a(a, corner.row, depth);
  const TileLoader<Matrix, TILE_N, LINE_B, V> load_b(b, corner.column, depth);
  multiply_tiles(load_a, load_b, share.count, tiles, result);
}

// The same by packs, where the lines of both operands allow it.
template <Line LINE_A, Line LINE_B>
__device__ __forceinline__ void multiply_matrices(bool packed, const Matrix& a, const Matrix& b,
                                                  Corner corner, Share share, SharedTiles& tiles,
                                                  ThreadTile& result) {
  if (packed)
    multiply_matrices<PACK, LINE_A, LINE_B>(a, b, corner, share, tiles, result);
  else
    multiply_matrices<1, LINE_A, LINE_B>(a, b, corner, share, tiles, result);
}

template <typename T>
__device__ __forceinline__ void store_tile(T* c, int rows, int columns, Corner corner,
                                           const ThreadTile& result) {
#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
    const unsigned row = corner.row + result.row(i);
    if (row < static_cast<unsigned>(rows))
      result.store_row(i, c + static_cast<long long>(row) * columns + corner.column,
                       columns - corner.column);
  }
}

// y[m,k] = bias[k] + sum over c of x[m,c] * w[k,c]
//
// Mapping   a block has a TILE_M x TILE_N tile of y, a thread 4 x 4 of it.
// Traffic   reads = STORAGE_BYTES * c * (m * ceil_div(k, TILE_N) + k * ceil_div(m, TILE_M))
//           writes = STORAGE_BYTES * m * k
//           dram_reads = STORAGE_BYTES * c * (m + k)
//           for contiguous rows of whole packs.
// Roofline  2 m c k operations for m c + k c + m k elements: bound by arithmetic from
//           sides of about 64.
// Limits    rows of x and w that are neither contiguous nor whole packs are read one by one.
// Source    Volkov and Demmel 2008; the shared-memory product of the CUDA C Programming Guide.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    linear_fprop_tiled(const Storage* __restrict__ x, const Storage* __restrict__ w,
                       const Storage* __restrict__ bias, Storage* __restrict__ y, LinearSize size,
                       Strides x_strides, Strides w_strides) {
  __shared__ SharedTiles tiles;
  const Corner corner(size.k);
  const Share all(size.c, TILE_DEPTH, 0, 1);
  const Matrix a(x, x_strides, size.m, size.c), b(w, w_strides, size.k, size.c);
  ThreadTile result;
  const bool packed = in_packs(x, size.c, x_strides.depth, x_strides.row) &&
                      in_packs(w, size.c, w_strides.depth, w_strides.row);
  multiply_matrices<ALONG_DEPTH, ALONG_DEPTH>(packed, a, b, corner, all, tiles, result);

  if (bias != nullptr) result.add_to_rows(bias + corner.column, size.k - corner.column);
  store_tile(y, size.m, size.k, corner, result);
}

// grad_x[m,c] = sum over k of grad_y[m,k] * w[k,c]
//
// Mapping   a block has a TILE_M x TILE_N tile of grad_x, a thread 4 x 4 of it.
// Traffic   reads = STORAGE_BYTES * k * (m * ceil_div(c, TILE_N) + c * ceil_div(m, TILE_M))
//           writes = STORAGE_BYTES * m * c
//           dram_reads = STORAGE_BYTES * k * (m + c)
//           for contiguous rows of whole packs.
// Roofline  as linear_fprop_tiled.
// Limits    as linear_fprop_tiled.
// Source    the derivative of the above; Edinburgh MLP, lecture 3.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    linear_dgrad_tiled(const Storage* __restrict__ grad_y, const Storage* __restrict__ w,
                       Storage* __restrict__ grad_x, LinearSize size, Strides grad_y_strides,
                       Strides w_strides) {
  __shared__ SharedTiles tiles;
  const Corner corner(size.c);
  const Share all(size.k, TILE_DEPTH, 0, 1);
  const Matrix a(grad_y, grad_y_strides, size.m, size.k);
  const Matrix b(w, {w_strides.depth, w_strides.row}, size.c, size.k);
  ThreadTile result;
  const bool packed = in_packs(grad_y, size.k, grad_y_strides.depth, grad_y_strides.row) &&
                      in_packs(w, size.c, w_strides.depth, w_strides.row);
  multiply_matrices<ALONG_DEPTH, ALONG_ROWS>(packed, a, b, corner, all, tiles, result);
  store_tile(grad_x, size.m, size.c, corner, result);
}

// grad_w[k,c] = sum over m of grad_y[m,k] * x[m,c]
// or, with several splits, partial[split][k,c], the same over a part of m.
//
// Mapping   a block has a TILE_M x TILE_N tile of one part of the sum, a thread 4 x 4 of it.
// Traffic   reads = STORAGE_BYTES * m * (k * ceil_div(c, TILE_N) + c * ceil_div(k, TILE_M))
//           writes = (STORAGE_BYTES + min(splits - 1, 1) * (max(4, STORAGE_BYTES) -
//                    STORAGE_BYTES)) * splits * k * c
//           dram_reads = STORAGE_BYTES * m * (k + c)
//           for contiguous rows of whole packs. Several splits are written as float or double.
// Roofline  as linear_fprop_tiled.
// Limits    as linear_fprop_tiled. An empty batch gives zeros.
// Source    the derivative of the above; Edinburgh MLP, lecture 3.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    linear_wgrad_tiled(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                       Storage* __restrict__ grad_w, Real* __restrict__ partial, LinearSize size,
                       Strides grad_y_strides, Strides x_strides, int splits) {
  __shared__ SharedTiles tiles;
  const Corner corner(size.c);
  const Share share(size.m, TILE_DEPTH, blockIdx.y, splits);
  const Matrix a(grad_y, {grad_y_strides.depth, grad_y_strides.row}, size.k, size.m);
  const Matrix b(x, {x_strides.depth, x_strides.row}, size.c, size.m);
  ThreadTile result;
  const bool packed = in_packs(grad_y, size.k, grad_y_strides.depth, grad_y_strides.row) &&
                      in_packs(x, size.c, x_strides.depth, x_strides.row);
  multiply_matrices<ALONG_ROWS, ALONG_ROWS>(packed, a, b, corner, share, tiles, result);
  if (splits == 1)
    store_tile(grad_w, size.k, size.c, corner, result);
  else
    store_tile(partial + static_cast<long long>(blockIdx.y) * size.k * size.c, size.k, size.c,
               corner, result);
}

// grad_w[i] = sum over splits of partial[split][i], in ascending order
//
// Mapping   a thread has one element.
// Traffic   reads = max(4, STORAGE_BYTES) * splits * count
//           writes = STORAGE_BYTES * count
// Roofline  one addition for each number read: bound by memory.
// Limits    none.
// Source    the equation.
extern "C" __global__ void __launch_bounds__(BLOCK)
    linear_wgrad_sum(const Real* __restrict__ partial, Storage* __restrict__ grad_w, int count,
                     int splits) {
  sum_splits(partial, grad_w, count, splits);
}
