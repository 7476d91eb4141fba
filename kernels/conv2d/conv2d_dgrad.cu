// The gradient with respect to x as correlations of grad_y with rotated filters; conv2d.cuh has the
// index maps.
#include "../cuda/gemm_tile.cuh"
#include "conv2d.cuh"

// In float64 a thread needs a few registers more than two large blocks leave it.
constexpr int DGRAD_RESIDENT = sizeof(Real) == 8 ? 1 : RESIDENT;

template <int V>
__device__ __forceinline__ void correlate(const PixelsByTaps& windows,
                                          const RotatedFilters& filters, const Corner& corner,
                                          int depth, SharedTiles& tiles, ThreadTile& result) {
  const TileLoader<PixelsByTaps, TILE_M, ALONG_DEPTH, V> a(windows, corner.row, 0);
  const TileLoader<RotatedFilters, TILE_N, ALONG_ROWS, V> b(filters, corner.column, 0);
  multiply_tiles(a, b, Share(depth, TILE_DEPTH, 0, 1).count, tiles, result);
}

// grad_x[n,h,w,c] = sum over k and over the r,s with h = p*stride_h + r*dilation_h - pad_top and
//                   w = q*stride_w + s*dilation_w - pad_left of grad_y[n,p,q,k] * w[k,r,s,c]
//
// Mapping   for each phase of the strides and each group, a product of the phase's pixels x
//           (r, s, k) with channels x (r, s, k): a block has a TILE_M x TILE_N tile of it, a thread
//           4 x 4. Every phase has as many blocks as the first, the largest.
// Traffic   reads = STORAGE_BYTES * k * r * s * (n * p * q * ceil_div(c // groups, TILE_N)
//                   + c // groups * ceil_div(n * ceil_div(h, stride_h) * ceil_div(w, stride_w),
//                                            TILE_M))
//           writes = STORAGE_BYTES * n * h * w * c
//           dram_reads = STORAGE_BYTES * (n * p * q * k + k * r * s * (c // groups))
//           for whole packs of channels and filters, less the taps that fall on the padding.
// Roofline  size.flops / size.bytes: bound by arithmetic but for 1 x 1 filters of few channels.
// Limits    the channels of a group that are no whole packs are read one by one. A phase without
//           taps is filled with zeros.
// Source    the derivative of conv2d_fprop; Dumoulin and Visin 2016, sections 4.1 to 4.6.
extern "C" __global__ void __launch_bounds__(BLOCK, DGRAD_RESIDENT)
    conv2d_dgrad_tiled(const Storage* __restrict__ grad_y, const Storage* __restrict__ w,
                       Storage* __restrict__ grad_x, Conv2dSize size) {
  __shared__ SharedTiles tiles;
  const int group_c = size.c / size.groups, group_k = size.k / size.groups;
  const Corner corner(largest_phase(size), size.groups, group_c);
  const Phase phase(size, corner.part);
  ThreadTile result;
  if (phase.depth(size) > 0) {
    const PixelsByTaps windows{phase.windows(grad_y, size, corner.group)};
    const RotatedFilters filters = phase.filters(w, size, corner.group);
    if (in_packs(grad_y, group_k) && in_packs(w, group_c))
      correlate<PACK>(windows, filters, corner, phase.depth(size), tiles, result);
    else
      correlate<1>(windows, filters, corner, phase.depth(size), tiles, result);
  }

  const int first = corner.group * group_c + corner.column;
#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
    const long long offset = phase.offset(size, corner.row + result.row(i));
    if (offset >= 0) result.store_row(i, grad_x + offset + first, group_c - corner.column);
  }
}
