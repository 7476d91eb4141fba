// Forward convolution by wgmma; conv2d_wgmma.cuh has the index maps.
#include "conv2d_wgmma.cuh"

typedef Moments<Team, BoxedTile> TileMoments;

// null: nothing of the kind is asked for.
struct ForwardResults {
  const PixelProduct& size;
  bfloat16* y;
  const bfloat16* bias;
  Fused fused;
  float *means, *squares;
  float* scratch;  // TileMoments::SCRATCH for each team

  __device__ __forceinline__ bool unchanged() const {
    return fused.residual == nullptr && fused.activation == NO_ACTIVATION;
  }
  __device__ __forceinline__ void add_to(Sums& sums, const PixelTile& at) const {
    if (bias != nullptr) add_to_rows(sums, bias + at.column, size.gemm_n - at.column);
  }
  __device__ __forceinline__ void store(const BoxedTile& staged, const Places& places,
                                        const PixelTile& at) const {
    store_tile<Team>(staged, y, places, size.gemm_n - at.column, fused);
  }
  __device__ __forceinline__ void examine(const BoxedTile& staged, const PixelTile& at) const {
    if (means == nullptr) return;
    const long long to = static_cast<long long>(at.row / TILE_M) * size.gemm_n + at.column;
    float* const own = scratch + Team::number() * TileMoments::SCRATCH;
    TileMoments(staged, size.phase[0].gemm_m - at.row, own)
        .store(means + to, squares + to, size.gemm_n - at.column);
  }
};

// y[n,p,q,k] = activation(residual[n,p,q,k] + rounded(bias[k] + sum over r,s,c of
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left, c]
//              * w[k,r,s,c]))
// and, where `means` is given, of each part of TILE_M pixels and each k, the mean of what is
// rounded and, in `squares`, the sum of the squared deviations from it.
//
// Mapping   a product of pixels x (r, s, c) windows with filters x (r, s, c). A block has TILE_M x
//           TILE_N of it at a time and goes on GRID tiles further; neighbouring blocks have the
//           same pixels and other filters, so that x leaves DRAM once.
// Traffic   reads = 2 * (depth * all_taps[0] * (gemm_m[0] * tiles_n + gemm_n * tiles_m)
//                        + has_residual * gemm_m[0] * gemm_n)
//           dram_reads = 2 * (depth * (pixels_read + all_taps[0] * gemm_n)
//                             + has_residual * gemm_m[0] * gemm_n)
//           writes = 2 * gemm_m[0] * gemm_n + 8 * has_means * tiles_m * gemm_n
//           less the taps that fall on the padding.
// Roofline  size.flops / size.bytes.
// Limits    sm_90a. One group; channels in multiples of 8; what TMA's im2col mode reaches.
// Source    NVIDIA, PTX ISA, "im2col mode" and "wgmma"; Chetlur et al. 2014 (cuDNN), section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv2d_fprop_wgmma(const __grid_constant__ TensorMap map_x,
                       const __grid_constant__ TensorMap map_w,
                       const __grid_constant__ TensorMap map_y, const bfloat16* __restrict__ bias,
                       const bfloat16* __restrict__ residual, bfloat16* __restrict__ y,
                       float* __restrict__ means, float* __restrict__ squares, int activation,
                       const __grid_constant__ PixelProduct size) {
  EXTERN_SHARED(unsigned char, start);
  __shared__ Barriers barriers;
  __shared__ Places places[TEAMS];
  __shared__ __align__(16) float scratch[TEAMS * TileMoments::SCRATCH];
  unsigned char* const memory = align_shared<1024>(start);
  const ForwardResults results{size, y, bias, {residual, activation}, means, squares, scratch};
  const PixelTiles<false, ForwardResults> tiles(size, &map_x, &map_w, &map_y, results, memory,
                                                places);
  run<false, false>(tiles, Ring(memory, barriers));
}
