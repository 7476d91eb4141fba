// The gradient with respect to w: the correlation of x with grad_y; conv2d.cuh has the index maps.
//
// The sum over all pixels is cut into parts, whose number is a function of the size. Each is summed
// by blocks of its own, and a second kernel adds the parts in ascending order.
#include "../cuda/gemm_tile.cuh"
#include "conv2d.cuh"

template <int V>
__device__ __forceinline__ void correlate(const Matrix& grad_y, const TapsByPixels& windows,
                                          const Corner& corner, Share share, SharedTiles& tiles,
                                          ThreadTile& result) {
  const int first = share.first * TILE_DEPTH;
  const TileLoader<Matrix, TILE_M, ALONG_ROWS, V> a(grad_y, corner.row, first);
  const TileLoader<TapsByPixels, TILE_N, ALONG_ROWS, V> b(windows, corner.column, first);
  multiply_tiles(a, b, share.count, tiles, result);
}

template <typename T>
__device__ __forceinline__ void store_tile(T* to, int filters, int taps, const Corner& corner,
                                           const ThreadTile& result) {
#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
    const unsigned filter = corner.row + result.row(i);
    if (filter >= static_cast<unsigned>(filters)) continue;
    const long long first = (static_cast<long long>(corner.group) * filters + filter) * taps;
    result.store_row(i, to + first + corner.column, taps - corner.column);
  }
}

// grad_w[k,r,s,c] = sum over n,p,q of grad_y[n,p,q,k] *
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left, c]
// or, with several splits, partial[split][k,r,s,c], the same over a part of the (n, p, q).
//
// Mapping   for each group and each split, a product of k x (n, p, q) with (r, s, c) x (n, p, q):
//           a block has a TILE_M x TILE_N tile of it, a thread 4 x 4. The splits are blockIdx.y.
// Traffic   reads = STORAGE_BYTES * n * p * q * (k * ceil_div(r * s * (c // groups), TILE_N)
//                   + r * s * c * ceil_div(k // groups, TILE_M))
//           writes = (STORAGE_BYTES + min(splits - 1, 1) * (max(4, STORAGE_BYTES) -
//                    STORAGE_BYTES)) * splits * k * r * s * (c // groups)
//           dram_reads = STORAGE_BYTES * (n * h * w * c + n * p * q * k)
//           for whole packs of channels and filters, less the taps that fall on the padding.
//           Several splits are written as float or double.
// Roofline  size.flops / size.bytes: bound by arithmetic but for 1 x 1 filters of few channels.
// Limits    the channels of a group that are no whole packs are read one by one. An empty batch
//           gives zeros.
// Source    the derivative of conv2d_fprop; Chetlur et al. 2014 (cuDNN), section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    conv2d_wgrad_tiled(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                       Storage* __restrict__ grad_w, Real* __restrict__ partial, Conv2dSize size,
                       int splits) {
  __shared__ SharedTiles tiles;
  const int pixels = size.n * size.p * size.q;
  const int group_c = size.c / size.groups, group_k = size.k / size.groups;
  const int taps = size.r * size.s * group_c;
  const Corner corner(group_k, size.groups, taps);
  const Share share(pixels, TILE_DEPTH, blockIdx.y, splits);
  const Matrix a(grad_y + corner.group * group_k, {1, size.k}, group_k, pixels);
  const TapsByPixels b{windows_of_x(x, size, corner.group)};
  ThreadTile result;
  if (in_packs(grad_y, group_k) && in_packs(x, group_c))
    correlate<PACK>(a, b, corner, share, tiles, result);
  else
    correlate<1>(a, b, corner, share, tiles, result);
  if (splits == 1)
    store_tile(grad_w, group_k, taps, corner, result);
  else
    store_tile(partial + static_cast<long long>(blockIdx.y) * size.k * taps, group_k, taps, corner,
               result);
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
    conv2d_wgrad_sum(const Real* __restrict__ partial, Storage* __restrict__ grad_w, int count,
                     int splits) {
  sum_splits(partial, grad_w, count, splits);
}
