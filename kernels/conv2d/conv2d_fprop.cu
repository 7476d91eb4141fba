// Forward convolution as an implicit product of matrices; conv2d.cuh has the index maps.
#include "../cuda/gemm_tile.cuh"
#include "conv2d.cuh"

// In float64 a thread needs a few registers more than two large blocks leave it.
constexpr int FPROP_RESIDENT = sizeof(Real) == 8 ? 1 : RESIDENT;

template <int V>
__device__ __forceinline__ void convolve(const PixelsByTaps& windows, const Matrix& filters,
                                         const Corner& corner, int depth, SharedTiles& tiles,
                                         ThreadTile& result) {
  const TileLoader<PixelsByTaps, TILE_M, ALONG_DEPTH, V> a(windows, corner.row, 0);
  const TileLoader<Matrix, TILE_N, ALONG_DEPTH, V> b(filters, corner.column, 0);
  multiply_tiles(a, b, Share(depth, TILE_DEPTH, 0, 1).count, tiles, result);
}

// y[n,p,q,k] = bias[k] + sum over r,s,c of
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left, c]
//              * w[k,r,s,c]                          with c over the channels of the group of k
//
// Mapping   a product of n p q pixels x (r, s, c) windows with k x (r, s, c) filters, for each
//           group: a block has a TILE_M x TILE_N tile of it, a thread 4 x 4.
// Traffic   reads = STORAGE_BYTES * r * s * (c // groups) * (n * p * q * groups *
//                   ceil_div(k // groups, TILE_N) + k * ceil_div(n * p * q, TILE_M))
//           writes = STORAGE_BYTES * n * p * q * k
//           dram_reads = STORAGE_BYTES * (n * h * w * c + k * r * s * (c // groups))
//           for whole packs of channels, less the taps that fall on the padding.
// Roofline  size.flops / size.bytes: bound by arithmetic but for 1 x 1 filters of few channels.
// Limits    the channels of a group that are no whole packs are read one by one.
// Source    Chetlur et al. 2014 (cuDNN), section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, FPROP_RESIDENT)
    conv2d_fprop_tiled(const Storage* __restrict__ x, const Storage* __restrict__ w,
                       const Storage* __restrict__ bias, Storage* __restrict__ y, Conv2dSize size) {
  __shared__ SharedTiles tiles;
  const int pixels = size.n * size.p * size.q;
  const int group_c = size.c / size.groups, group_k = size.k / size.groups;
  const int depth = size.r * size.s * group_c;
  const Corner corner(pixels, size.groups, group_k);
  const PixelsByTaps windows{windows_of_x(x, size, corner.group)};
  const long long first_filter = static_cast<long long>(corner.group) * group_k;
  const Matrix filters(w + first_filter * depth, {depth, 1}, group_k, depth);
  ThreadTile result;
  if (in_packs(x, group_c) && in_packs(w, group_c))
    convolve<PACK>(windows, filters, corner, depth, tiles, result);
  else
    convolve<1>(windows, filters, corner, depth, tiles, result);

  const long long first = first_filter + corner.column;
  const int count = group_k - corner.column;
  if (bias != nullptr) result.add_to_rows(bias + first, count);
#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
    const unsigned pixel = corner.row + result.row(i);
    if (pixel < static_cast<unsigned>(pixels))
      result.store_row(i, y + static_cast<long long>(pixel) * size.k + first, count);
  }
}
