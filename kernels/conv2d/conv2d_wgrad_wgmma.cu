// The gradient with respect to w by wgmma: the correlation of x with grad_y. The sum over all
// pixels is cut into parts, as in conv2d_wgrad.cu, which has the kernel that adds them.
#include "conv2d_wgmma.cuh"

// A product whose rows are filters and whose columns are taps: of each (r, s) whole boxes of 64
// channels, the last filled up with zeros.
struct TapProduct {
  int gemm_m, channels, all_taps, filter_s;
  int pixels, splits;
  int tiles_m, tiles_n;
  int pixels_read;  // of x: for the formulas of Traffic
  WindowAxis rows, columns;
};

class TapTiles {
  static constexpr int BOXES = TILE_N / BOX;

  const TapProduct& size_;
  const TensorMap *grad_y_, *x_;
  bfloat16* grad_w_;
  float* partial_;

  // The columns of a box: 64 channels of a tap. Behind the last tap there is nothing.
  struct Columns {
    int tap, channel;
    bool exist;

    __device__ __forceinline__ Columns(const TapProduct& size, int box) {
      const int boxes = ceil_div(size.channels, BOX);
      exist = box < size.all_taps * boxes;
      tap = exist ? box / boxes : 0;
      channel = exist ? box % boxes * BOX : boxes * BOX;
    }
  };

  __device__ __forceinline__ int tiles_of_a_split() const { return size_.tiles_m * size_.tiles_n; }
  __device__ __forceinline__ int first_row(int tile) const {
    return tile % tiles_of_a_split() % size_.tiles_m * TILE_M;
  }
  __device__ __forceinline__ int first_box(int tile) const {
    return tile % tiles_of_a_split() / size_.tiles_m * BOXES;
  }
  __device__ __forceinline__ int split(int tile) const { return tile / tiles_of_a_split(); }
  __device__ __forceinline__ int first_step(int split) const {
    return static_cast<long long>(ceil_div(size_.pixels, DEPTH)) * split / size_.splits;
  }

  __device__ __forceinline__ void load_stage(const Stage& stage, int pixel, int row,
                                             int first_box) const {
    const WindowStart start(pixel, size_.rows, size_.columns);
#pragma unroll
    for (int i = 0; i < TILE_M; i += BOX)
      tma_load(stage.a + i * 128, grad_y_, stage.full, row + i, pixel);
#pragma unroll
    for (int i = 0; i < BOXES; ++i) {
      const Columns columns(size_, first_box + i);
      tma_load_im2col(stage.b + i * BOX_BYTES, x_, stage.full, columns.channel, start.w, start.h,
                      start.image, columns.tap % size_.filter_s * size_.columns.reach,
                      columns.tap / size_.filter_s * size_.rows.reach);
    }
  }

  template <typename T>
  __device__ __forceinline__ void store(T* to, const Sums& sums, int first_row,
                                        int first_box) const {
    each_line(sums, [&](const Line& line) {
      const int filter = first_row + line.row;
      const Columns columns(size_, first_box + line.box);
      const int channel = columns.channel + line.column, count = size_.channels - channel;
      if (filter >= size_.gemm_m) return;
      const long long tap = static_cast<long long>(filter) * size_.all_taps + columns.tap;
      T* const at = to + tap * size_.channels + channel;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (8 * j < count) store_pair(at + 8 * j, line.pairs[j][0], line.pairs[j][1]);
    });
  }

 public:
  __device__ __forceinline__ TapTiles(const TapProduct& size, const TensorMap* grad_y,
                                      const TensorMap* x, bfloat16* grad_w, float* partial)
      : size_(size), grad_y_(grad_y), x_(x), grad_w_(grad_w), partial_(partial) {}

  __device__ __forceinline__ int tiles() const { return tiles_of_a_split() * size_.splits; }
  __device__ __forceinline__ int steps(int tile) const {
    return first_step(split(tile) + 1) - first_step(split(tile));
  }
  __device__ __forceinline__ void load(int tile, Ring& ring) const {
    const int row = first_row(tile), box = first_box(tile), end = first_step(split(tile) + 1);
    for (int step = first_step(split(tile)); step < end; ++step)
      load_stage(ring.next_to_fill(), step * DEPTH, row, box);
  }
  __device__ __forceinline__ void finish(int tile, int row, const Sums& sums) const {
    const int filter = first_row(tile) + row, box = first_box(tile);
    const long long count = static_cast<long long>(size_.gemm_m) * size_.all_taps * size_.channels;
    if (size_.splits == 1)
      store(grad_w_, sums, filter, box);
    else
      store(partial_ + split(tile) * count, sums, filter, box);
  }
  __device__ __forceinline__ void end() const {}
};

// grad_w[k,r,s,c] = sum over n,p,q of grad_y[n,p,q,k] *
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left, c]
// or, with several splits, partial[split][k,r,s,c], the same over a part of the (n, p, q).
//
// Mapping   for each split, a product of filters x pixels with (r, s, c) x pixels. A block has
//           TILE_M x TILE_N of it at a time and goes on GRID tiles further; the tiles of a split
//           run together, so that its pixels leave DRAM once.
// Traffic   reads = 2 * pixels * (gemm_m * tiles_n + all_taps * channels * tiles_m)
//           dram_reads = 2 * (pixels * gemm_m + pixels_read * channels)
//           writes = 4 * splits * gemm_m * all_taps * channels
//           dram_writes = (2 + 2 * has_partial) * splits * gemm_m * all_taps * channels
//           less the taps that fall on the padding. One split is written as bfloat16, half a sector
//           at a time.
// Roofline  size.flops / size.bytes.
// Limits    sm_90a. One group; channels in multiples of 8; what TMA's im2col mode reaches.
// Source    the derivative of conv2d_fprop; Chetlur et al. 2014 (cuDNN), section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv2d_wgrad_wgmma(const __grid_constant__ TensorMap map_grad_y,
                       const __grid_constant__ TensorMap map_x, bfloat16* __restrict__ grad_w,
                       float* __restrict__ partial, const __grid_constant__ TapProduct size) {
  EXTERN_SHARED(unsigned char, start);
  __shared__ Barriers barriers;
  run<true, true>(TapTiles(size, &map_grad_y, &map_x, grad_w, partial),
                  Ring(align_shared<1024>(start), barriers));
}
