// The gradient with respect to x by wgmma; phases.py says what the phases of the strides are,
// conv2d_wgmma.cuh has the index maps.
#include "conv2d_wgmma.cuh"

struct PhaseMaps {
  TensorMap of[4];
};

struct GradientResults {
  const PixelProduct& size;
  bfloat16* grad_x;
  Below below;
  NormalizedChannel* channels;  // TILE_N for each team

  __device__ __forceinline__ bool unchanged() const { return !below.given(); }
  __device__ __forceinline__ void add_to(Sums&, const PixelTile&) const {}
  __device__ __forceinline__ void store(const BoxedTile& staged, const Places& places,
                                        const PixelTile& at) const {
    const int columns = size.gemm_n - at.column;
    if (unchanged())
      return store_tile<Team>(staged, grad_x, places, columns, Fused{nullptr, NO_ACTIVATION});
    const int part = at.phase * size.tiles_m + at.row / TILE_M;
    GradientTile<Team, BoxedTile>(staged, below, channels + Team::number() * TILE_N)
        .store(grad_x, places, columns, at.column, size.gemm_n, part);
  }
  __device__ __forceinline__ void examine(const BoxedTile&, const PixelTile&) const {}
};

// grad_x[n,h,w,c] = sum over k and over the r,s with h = p*stride_h + r*dilation_h - pad_top and
//                   w = q*stride_w + s*dilation_w - pad_left of grad_y[n,p,q,k] * w[k,r,s,c]
//                   for the pixels h, w of up to four phases
// and what becomes of them by epilogue.cuh, Below; sums and products have a row for each tile of
// rows, phase after phase.
//
// Mapping   for each phase, a product of its pixels x (r, s, k) with channels x (r, s, k). A block
//           has TILE_M x TILE_N of one at a time and goes on GRID tiles further; the phases take
//           turns, so that grad_y leaves DRAM once.
// Traffic   reads = (2 * depth * (tiles_n * (all_taps[0] * gemm_m[0] + all_taps[1] * gemm_m[1]
//                                           + all_taps[2] * gemm_m[2] + all_taps[3] * gemm_m[3])
//                   + gemm_n * tiles_m * (all_taps[0] + all_taps[1] + all_taps[2] + all_taps[3]))
//                   + 2 * gemm_n * (has_addend + has_normalized + has_signs / 16) *
//                     (gemm_m[0] + gemm_m[1] + gemm_m[2] + gemm_m[3]))
//           dram_reads = 2 * (depth * (pixels_read + gemm_n *
//                             (all_taps[0] + all_taps[1] + all_taps[2] + all_taps[3]))
//                             + gemm_n * (has_addend + has_normalized + has_signs / 16) *
//                               (gemm_m[0] + gemm_m[1] + gemm_m[2] + gemm_m[3]))
//           writes = 2 * gemm_n * (gemm_m[0] + gemm_m[1] + gemm_m[2] + gemm_m[3]
//                                  + 4 * has_sums * phases * tiles_m)
//           less the taps that fall on the padding.
// Roofline  size.flops / size.bytes.
// Limits    sm_90a. One group; channels in multiples of 8; what TMA's im2col mode reaches. A phase
//           without taps is filled with zeros.
// Source    the derivative of conv2d_fprop; Dumoulin and Visin 2016, sections 4.1 to 4.6.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv2d_dgrad_wgmma(const __grid_constant__ PhaseMaps maps_grad_y,
                       const __grid_constant__ TensorMap map_w,
                       const __grid_constant__ TensorMap map_grad_x,
                       const bfloat16* __restrict__ addend, const bfloat16* __restrict__ normalized,
                       const unsigned char* __restrict__ signs, const double* __restrict__ mean,
                       const double* __restrict__ inv_std, const float* __restrict__ weight,
                       const float* __restrict__ bias, bfloat16* __restrict__ grad_x,
                       float* __restrict__ sums, float* __restrict__ products, int activation,
                       const __grid_constant__ PixelProduct size) {
  EXTERN_SHARED(unsigned char, start);
  __shared__ Barriers barriers;
  __shared__ Places places[TEAMS];
  __shared__ __align__(16) NormalizedChannel channels[TEAMS * TILE_N];
  unsigned char* const memory = align_shared<1024>(start);
  const Below below{addend, normalized, signs,      mean, inv_std,
                    weight, bias,       activation, sums, products};
  const GradientResults results{size, grad_x, below, channels};
  const PixelTiles<true, GradientResults> tiles(size, maps_grad_y.of, &map_w, &map_grad_x, results,
                                                memory, places);
  run<false, true>(tiles, Ring(memory, barriers));
}
