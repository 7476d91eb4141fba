// Forward convolution on tensor cores; conv2d.cuh has the index maps, ../cuda/mma_tile.cuh the main
// loop and ../cuda/epilogue.cuh what becomes of the results.
#include "../cuda/epilogue.cuh"
#include "../cuda/mma_tile.cuh"
#include "conv2d.cuh"

typedef StagedTile<Storage, TILE_M, TILE_N> Results;
static_assert(Results::BYTES <= RING_BYTES, "the results take the place of the ring");

// y[n,p,q,k] = activation(residual[n,p,q,k] + bias[k] + sum over r,s,c of
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left, c]
//              * w[k,r,s,c])                         with c over the channels of the group of k
// and for each TILE_M pixels in turn means[i,k], the mean of what y would be without residual and
// activation, and squares[i,k], the sum of its squared deviations from that mean.
//
// Mapping   as conv2d_fprop_tiled: a block has a TILE_M x TILE_N tile of n p q pixels x the filters
//           of a group, a warp WARP_M x 32 of it.
// Traffic   reads = STORAGE_BYTES * (r * s * (c // groups) * (n * p * q * groups *
//                   ceil_div(k // groups, TILE_N) + k * ceil_div(n * p * q, TILE_M))
//                   + has_residual * n * p * q * k)
//           writes = (STORAGE_BYTES * n * p * q + 8 * has_means * ceil_div(n * p * q, TILE_M)) * k
//           dram_reads = STORAGE_BYTES * (n * h * w * c + k * r * s * (c // groups)
//                        + has_residual * n * p * q * k)
//           for whole packs of channels, less the taps that fall on the padding.
// Roofline  size.flops / size.bytes: 1 x 1 filters are bound by memory, most others by arithmetic.
// Limits    sm_80, sm_90a, sm_100a. The channels of a group are whole packs of PACK_BYTES, x
//           and w begin on a multiple of that. Sums in float; float operands are rounded to tf32.
// Source    Chetlur et al. 2014 (cuDNN), section 3; the CUTLASS documentation, "Implicit GEMM".
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    conv2d_fprop_mma(const Storage* __restrict__ x, const Storage* __restrict__ w,
                     const Storage* __restrict__ bias, const Storage* __restrict__ residual,
                     Storage* __restrict__ y, float* __restrict__ means,
                     float* __restrict__ squares, int activation, Conv2dSize size) {
  EXTERN_SHARED(unsigned char, ring);
  const int pixels = size.n * size.p * size.q;
  const int group_c = size.c / size.groups, group_k = size.k / size.groups;
  const int depth = size.r * size.s * group_c;
  const Corner corner(pixels, size.groups, group_k);
  const long long first_filter = static_cast<long long>(corner.group) * group_k;
  const PixelsByTaps windows{windows_of_x(x, size, corner.group)};
  const SmallMatrix filters(w, {depth, 1}, group_k, depth, first_filter * depth);
  WarpTile result;
  multiply_tiles(TileLoader<PixelsByTaps, TILE_M, ALONG_DEPTH>(windows, corner.row, 0),
                 TileLoader<SmallMatrix, TILE_N, ALONG_DEPTH>(filters, corner.column, 0),
                 Share(depth, TILE_DEPTH, 0, 1).count, ring, result);

  const long long first = first_filter + corner.column;
  const int columns = group_k - corner.column;
  if (bias != nullptr) result.add_to_rows(bias + first, columns);
  const Results results(ring);
  result.put(results);
  __syncthreads();
  const int rows = min(static_cast<unsigned>(TILE_M), pixels - corner.row);
  if (means != nullptr) {
    __shared__ __align__(8) float scratch[Moments<Block, Results>::SCRATCH];
    const long long at = static_cast<long long>(corner.row / TILE_M) * size.k + first;
    Moments<Block, Results>(results, rows, scratch).store(means + at, squares + at, columns);
  }
  const EvenRows to{static_cast<long long>(corner.row) * size.k + first, rows, size.k};
  store_tile<Block>(results, y, to, columns, Fused{residual, activation});
}
