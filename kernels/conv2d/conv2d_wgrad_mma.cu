// The gradient with respect to w on tensor cores: the correlation of x with grad_y; conv2d.cuh has
// the index maps, ../cuda/mma_tile.cuh the main loop.
//
// The sum over all pixels is cut into parts, whose number is a function of the size. Each is summed
// by blocks of its own, and conv2d_wgrad_sum adds the parts in ascending order.
#include "../cuda/epilogue.cuh"
#include "../cuda/mma_tile.cuh"
#include "conv2d.cuh"

template <typename T>
__device__ __forceinline__ void store(const WarpTile& result, unsigned char* ring, T* to,
                                      const EvenRows& rows, int columns) {
  const StagedTile<T, TILE_M, TILE_N> results(ring);
  static_assert(results.BYTES <= RING_BYTES, "the results take the place of the ring");
  result.put(results);
  __syncthreads();
  store_tile<Block>(results, to, rows, columns, Fused{nullptr, NO_ACTIVATION});
}

// grad_w[k,r,s,c] = sum over n,p,q of grad_y[n,p,q,k] *
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left, c]
// or, with several splits, partial[split][k,r,s,c], the same over a part of the (n, p, q).
//
// Mapping   as conv2d_wgrad_tiled: for each group and each split, a block has a TILE_M x TILE_N tile
//           of filters x (r, s, c), a warp WARP_M x 32 of it. The splits are blockIdx.y.
// Traffic   reads = STORAGE_BYTES * n * p * q * (k * ceil_div(r * s * (c // groups), TILE_N)
//                   + r * s * c * ceil_div(k // groups, TILE_M))
//           writes = (STORAGE_BYTES + min(splits - 1, 1) * (4 - STORAGE_BYTES)) * (splits
//                    * k * r * s * (c // groups))
//           dram_reads = STORAGE_BYTES * n * (p * q * k + min(h, p * r) * min(w, q * s) * c)
//           for whole packs of channels and filters, less the taps that fall on the padding.
//           Several splits are written as float.
// Roofline  size.flops / size.bytes: 1 x 1 filters are bound by memory, most others by arithmetic.
// Limits    sm_80, sm_90a, sm_100a. Channels and filters of a group are whole packs of
//           PACK_BYTES, grad_y and x begin on a multiple of that. An empty batch gives zeros. Sums
//           in float; float operands are rounded to tf32.
// Source    the derivative of conv2d_fprop; Chetlur et al. 2014 (cuDNN), section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    conv2d_wgrad_mma(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                     Storage* __restrict__ grad_w, float* __restrict__ partial, Conv2dSize size,
                     int splits) {
  EXTERN_SHARED(unsigned char, ring);
  const int pixels = size.n * size.p * size.q;
  const int group_c = size.c / size.groups, group_k = size.k / size.groups;
  const int taps = size.r * size.s * group_c;
  const Corner corner(group_k, size.groups, taps);
  const Share share(pixels, TILE_DEPTH, blockIdx.y, splits);
  const unsigned first_pixel = share.first * TILE_DEPTH;
  const SmallMatrix filters(grad_y, {1, size.k}, group_k, pixels, corner.group * group_k);
  const TapsByPixels windows{windows_of_x(x, size, corner.group)};
  WarpTile result;
  multiply_tiles(TileLoader<SmallMatrix, TILE_M, ALONG_ROWS>(filters, corner.row, first_pixel),
                 TileLoader<TapsByPixels, TILE_N, ALONG_ROWS>(windows, corner.column, first_pixel),
                 share.count, ring, result);

  const long long first = static_cast<long long>(corner.group * group_k + corner.row) * taps;
  const EvenRows rows{first + corner.column, group_k - static_cast<int>(corner.row), taps};
  const int columns = taps - corner.column;
  if (splits == 1)
    store(result, ring, grad_w, rows, columns);
  else
    store(result, ring, partial + static_cast<long long>(blockIdx.y) * size.k * taps, rows,
          columns);
}
