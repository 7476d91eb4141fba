// The gradient with respect to x on tensor cores, as correlations of grad_y with rotated filters;
// conv2d.cuh has the index maps, ../cuda/mma_tile.cuh the main loop.
#include "../cuda/epilogue.cuh"
#include "../cuda/mma_tile.cuh"
#include "conv2d.cuh"

typedef StagedTile<Storage, TILE_M, TILE_N> Results;
static_assert(Results::BYTES <= RING_BYTES, "the results take the place of the ring");

// Rows of grad_x, which are pixels of a phase; they begin at channel `first`.
struct PhaseRows {
  const Phase& phase;
  const Conv2dSize& size;
  unsigned pixel;
  int first;

  __device__ __forceinline__ long long offset(int row) const {
    const long long offset = phase.offset(size, pixel + row);
    return offset < 0 ? NO_ROW : offset + first;
  }
};

// grad_x[n,h,w,c] = sum over k and over the r,s with h = p*stride_h + r*dilation_h - pad_top and
//                   w = q*stride_w + s*dilation_w - pad_left of grad_y[n,p,q,k] * w[k,r,s,c]
// and what becomes of them by epilogue.cuh, Below; sums and products have a row for each tile of
// rows, phase after phase.
//
// Mapping   as conv2d_dgrad_tiled: for each phase of the strides and each group, a block has a
//           TILE_M x TILE_N tile of the phase's pixels x channels, a warp WARP_M x 32 of it. Every
//           phase has as many blocks as the first, the largest; those too many end at once.
// Traffic   reads = STORAGE_BYTES * (k * r * s * (n * p * q * ceil_div(c // groups, TILE_N)
//                   + c // groups * ceil_div(n * ceil_div(h, stride_h) * ceil_div(w, stride_w),
//                                            TILE_M))
//                   + n * h * w * c * (has_addend + has_normalized + has_signs / 16))
//                   + 24 * has_normalized * c * min(stride_h, h) * min(stride_w, w) *
//                     ceil_div(n * ceil_div(h, stride_h) * ceil_div(w, stride_w), TILE_M)
//           writes = STORAGE_BYTES * n * h * w * c
//                    + 8 * has_sums * c * min(stride_h, h) * min(stride_w, w) *
//                      ceil_div(n * ceil_div(h, stride_h) * ceil_div(w, stride_w), TILE_M)
//           dram_reads = STORAGE_BYTES * (n * p * q * k + k * r * s * (c // groups)
//                        + n * h * w * c * (has_addend + has_normalized + has_signs / 16))
//                        + 24 * has_normalized * c
//           for whole packs of channels and filters, less the taps that fall on the padding.
// Roofline  size.flops / size.bytes: 1 x 1 filters are bound by memory, most others by arithmetic.
// Limits    sm_80, sm_90a, sm_100a. Channels and filters of a group are whole packs of
//           PACK_BYTES, grad_y and w begin on a multiple of that. A phase without taps is filled
//           with zeros. Sums in float; float operands are rounded to tf32.
// Source    the derivative of conv2d_fprop; Dumoulin and Visin 2016, sections 4.1 to 4.6.
extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT)
    conv2d_dgrad_mma(const Storage* __restrict__ grad_y, const Storage* __restrict__ w,
                     const Storage* __restrict__ addend, const Storage* __restrict__ normalized,
                     const unsigned char* __restrict__ signs, const double* __restrict__ mean,
                     const double* __restrict__ inv_std, const Real* __restrict__ weight,
                     const Real* __restrict__ bias, Storage* __restrict__ grad_x,
                     float* __restrict__ sums, float* __restrict__ products, int activation,
                     Conv2dSize size) {
  EXTERN_SHARED(unsigned char, ring);
  __shared__ __align__(16) NormalizedChannel channels[TILE_N];
  const int group_c = size.c / size.groups;
  const Corner corner(largest_phase(size), size.groups, group_c);
  const Phase phase(size, corner.part);
  if (phase.offset(size, corner.row) < 0 && sums == nullptr) return;
  const PixelsByTaps windows{phase.windows(grad_y, size, corner.group)};
  const RotatedFilters filters = phase.filters(w, size, corner.group);
  WarpTile result;
  if (phase.depth(size) > 0)
    multiply_tiles(TileLoader<PixelsByTaps, TILE_M, ALONG_DEPTH>(windows, corner.row, 0),
                   TileLoader<RotatedFilters, TILE_N, ALONG_ROWS>(filters, corner.column, 0),
                   Share(phase.depth(size), TILE_DEPTH, 0, 1).count, ring, result);

  const Results results(ring);
  result.put(results);
  __syncthreads();
  const PhaseRows to{phase, size, corner.row, corner.group * group_c + corner.column};
  const Below below{addend, normalized, signs,      mean, inv_std,
                    weight, bias,       activation, sums, products};
  const int part = corner.part * tiles_of(largest_phase(size), TILE_M) + corner.row / TILE_M;
  GradientTile<Block, Results>(results, below, channels)
      .store(grad_x, to, group_c - corner.column, corner.group * group_c + corner.column, size.c,
             part);
}
