// Convolutions as products of matrices whose operands TMA brings: index maps and the way of the
// results into memory. wgmma.py makes the tensor maps and the structs.
//
// fprop and dgrad multiply pixels by filters, one tap and 64 channels in a step. The pixels of a
// tile are neighbours of the result, in the order of memory; TMA's im2col mode fetches what a tap
// meets, over the ends of lines and images, and zeros outside of the image.
#pragma once

#include "../cuda/epilogue.cuh"
#include "../cuda/wgmma_pipeline.cuh"

// One axis of the index map. Pixel i and tap j meet at i * walk + lower + j * reach of the operand;
// that is pixel first + i * step of the result, which is `length` long, and tap first_tap +
// j * tap_step of the filter.
struct WindowAxis {
  int count, walk, lower;
  int taps, reach, first_tap, tap_step;
  int first, step, length;
};

// A product whose rows are pixels.
struct PixelProduct {
  int gemm_m, gemm_n;  // pixels and channels of the result
  int depth, taps;     // channels summed over, for each tap
  int filter_s;        // taps in a line of a filter
  int tiles_m, tiles_n;
  WindowAxis rows, columns;
};

// Where pixel i of a product begins its window.
struct WindowStart {
  int image, h, w;

  __device__ __forceinline__ WindowStart(int i, const WindowAxis& rows, const WindowAxis& columns) {
    const int line = i / columns.count;
    image = line / rows.count;
    h = line % rows.count * rows.walk + rows.lower;
    w = i % columns.count * columns.walk + columns.lower;
  }
};

// A warpgroup, for epilogue.cuh. Barrier 0 is the block's.
struct Warpgroup {
  static constexpr int THREADS = WARPGROUP;
  static __device__ __forceinline__ int thread() { return threadIdx.x % WARPGROUP; }
  static __device__ __forceinline__ void sync() {
    named_barrier_sync(1 + threadIdx.x / WARPGROUP, WARPGROUP);
  }
};

// A warpgroup's results on their way out, for epilogue.cuh: boxes of 64 columns, as TMA stores them.
class BoxedTile {
  unsigned char* boxes_;

 public:
  typedef bfloat16 Number;
  static constexpr int HEIGHT = ::HEIGHT, WIDTH = TILE_N, BYTES = HEIGHT * WIDTH * 2;

  // `shared`: BYTES on a multiple of 1024.
  __device__ __forceinline__ explicit BoxedTile(unsigned char* shared) : boxes_(shared) {}

  __device__ __forceinline__ unsigned char* box(int column) const {
    return boxes_ + column / BOX * (HEIGHT * 128);
  }
  // Of an element and of those right of it in its run of 8.
  __device__ __forceinline__ bfloat16* at(int row, int column) const {
    const int run = (column / 8 % 8) ^ (row % 8);
    return reinterpret_cast<bfloat16*>(box(column) + row * 128 + run * 16) + column % 8;
  }
  __device__ __forceinline__ void put(int row, int column, float a, float b) const {
    *reinterpret_cast<unsigned*>(at(row, column)) = pack_bfloat16x2(a, b);
  }
};

constexpr int STAGES_BYTES = STAGES * STAGE_BYTES;

// The pixels that a warpgroup's rows are.
struct PixelRows {
  const PixelProduct& size;
  int first;

  // Of the first channel of row i, in elements.
  __device__ __forceinline__ long long offset(int i) const {
    const int m = first + i;
    if (m >= size.gemm_m) return NO_ROW;
    const int line = m / size.columns.count;
    const int h = size.rows.first + line % size.rows.count * size.rows.step;
    const int w = size.columns.first + m % size.columns.count * size.columns.step;
    const long long image = line / size.rows.count;
    return ((image * size.rows.length + h) * size.columns.length + w) * size.gemm_n;
  }
};

// For each result of this thread's sums, in pairs: f(row, column, sum, next_sum).
template <class F>
__device__ __forceinline__ void each_pair(const Sums& sums, F f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32;
#pragma unroll
  for (int i = 0; i < SLICES; ++i)
#pragma unroll
    for (int j = 0; j < TILE_N / 8; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        f(i * BOX + warp * 16 + lane / 4 + h * 8, j * 8 + lane % 4 * 2, sums[i][4 * j + 2 * h],
          sums[i][4 * j + 2 * h + 1]);
}

// fprop, and dgrad for one phase of the strides. CHANNELS_ACROSS: the tile's columns are
// neighbours in memory of the filters (dgrad), else what is summed over.
template <bool CHANNELS_ACROSS>
class PixelTiles {
  const PixelProduct& size_;
  const TensorMap *image_, *filters_, *result_;
  const bfloat16* bias_;
  bfloat16* to_;
  BoxedTile staged_;

  __device__ __forceinline__ int first_row(int tile) const { return tile / size_.tiles_n * TILE_M; }
  __device__ __forceinline__ int first_column(int tile) const {
    return tile % size_.tiles_n * TILE_N;
  }

  __device__ __forceinline__ void load_filters(const Stage& stage, int tap, int channel,
                                               int column) const {
    if (CHANNELS_ACROSS) {
#pragma unroll
      for (int i = 0; i < TILE_N; i += BOX)
        tma_load(stage.b + i * 128, filters_, stage.full, column + i, tap, channel);
    } else {
      tma_load(stage.b, filters_, stage.full, channel, tap, column);
    }
  }

  // To rows that lie one after the other.
  __device__ __forceinline__ void store_boxes(int row, int column) const {
    if (Warpgroup::thread() != 0) return;
    for (int i = 0; i < TILE_N && column + i < size_.gemm_n; i += BOX)
      tma_store(result_, staged_.box(i), column + i, row);
    tma_store_commit();
  }

 public:
  __device__ __forceinline__ PixelTiles(const PixelProduct& size, const TensorMap* image,
                                        const TensorMap* filters, const TensorMap* result,
                                        const bfloat16* bias, bfloat16* to, unsigned char* memory)
      : size_(size),
        image_(image),
        filters_(filters),
        result_(result),
        bias_(bias),
        to_(to),
        staged_(memory + STAGES_BYTES + threadIdx.x / WARPGROUP * BoxedTile::BYTES) {}

  __device__ __forceinline__ int tiles() const { return size_.tiles_m * size_.tiles_n; }
  __device__ __forceinline__ int steps(int) const {
    return size_.taps * ceil_div(size_.depth, DEPTH);
  }

  __device__ __forceinline__ void load(int tile, Ring& ring) const {
    const WindowAxis &rows = size_.rows, &columns = size_.columns;
    const WindowStart start(first_row(tile), rows, columns);
    for (int i = 0; i < rows.taps; ++i)
      for (int j = 0; j < columns.taps; ++j) {
        const int line = rows.first_tap + i * rows.tap_step;
        const int tap = line * size_.filter_s + columns.first_tap + j * columns.tap_step;
        for (int c = 0; c < size_.depth; c += DEPTH) {
          const Stage stage = ring.next_to_fill();
          tma_load_im2col(stage.a, image_, stage.full, c, start.w, start.h, start.image,
                          j * columns.reach, i * rows.reach);
          load_filters(stage, tap, c, first_column(tile));
        }
      }
  }

  __device__ __forceinline__ void finish(int tile, int row, const Sums& sums) const {
    const PixelRows rows{size_, first_row(tile) + row};
    const int column = first_column(tile), columns = size_.gemm_n - column;
    const bfloat16* const bias = bias_ == nullptr ? nullptr : bias_ + column;
    if (Warpgroup::thread() == 0) tma_store_wait_read<0>();  // of the tile before
    Warpgroup::sync();
    each_pair(sums, [&](int i, int j, float a, float b) {
      if (bias != nullptr && j < columns) {
        a += to_real(bias[j]);
        b += to_real(bias[j + 1]);
      }
      staged_.put(i, j, a, b);
    });
    fence_proxy_async();
    Warpgroup::sync();
    if (size_.rows.step == 1 && size_.columns.step == 1)
      store_boxes(rows.first, column);
    else
      store_tile<Warpgroup>(staged_, to_ + column, rows, columns, Fused{nullptr, NO_ACTIVATION});
  }

  __device__ __forceinline__ void end() const {
    if (Warpgroup::thread() == 0) tma_store_wait_read<0>();
  }
};
