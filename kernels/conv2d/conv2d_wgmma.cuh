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

// Pixels of the result that meet the same taps: all of them in fprop, in dgrad those whose
// coordinates have the same remainders by the strides.
struct PixelPhase {
  int gemm_m, all_taps;
  WindowAxis rows, columns;
};

// Products whose rows are pixels, one for each phase.
struct PixelProduct {
  int gemm_n, depth;     // channels of the result; summed over, for each tap
  int filter_s;          // taps in a line of a filter
  int tiles_m, tiles_n;  // of the largest phase
  int phases;
  int pixels_read;  // of the operand: for the formulas of Traffic
  PixelPhase phase[4];
};

// Which part of a product a tile is. Tiles that run together have the same pixels: first come the
// columns, then the phases, whose windows are nearly the same. Phases have more taps or less, so a
// block gets another one each time.
struct PixelTile {
  int row, column, phase;

  __device__ __forceinline__ PixelTile(const PixelProduct& size, int tile) {
    const int line = tile / size.tiles_n, m = line / size.phases;
    const int blocks_of_m = max(1, static_cast<int>(gridDim.x) / (size.tiles_n * size.phases));
    row = m * TILE_M;
    column = tile % size.tiles_n * TILE_N;
    phase = (line + m / blocks_of_m) % size.phases;
  }
};

// Where pixel i begins its window.
struct WindowStart {
  int image, h, w;

  __device__ __forceinline__ WindowStart(int i, const WindowAxis& rows, const WindowAxis& columns) {
    const int line = i / columns.count;
    image = line / rows.count;
    h = line % rows.count * rows.walk + rows.lower;
    w = i % columns.count * columns.walk + columns.lower;
  }
};

// Where pixel m of a phase is in the result, in elements, at a channel.
__device__ __forceinline__ int place_of(const PixelPhase& phase, int m, int channels, int channel) {
  const WindowAxis &rows = phase.rows, &columns = phase.columns;
  if (m >= phase.gemm_m) return NO_ROW;
  const int line = m / columns.count, image = line / rows.count;
  const int h = rows.first + line % rows.count * rows.step;
  const int w = columns.first + m % columns.count * columns.step;
  return ((image * rows.length + h) * columns.length + w) * channels + channel;
}

// This thread's results in one row of the warpgroup's and one box of 64 columns, in pairs: pair j is
// in columns `column` + 8 j and the next.
struct Line {
  int row, box, column;
  float pairs[8][2];
};

// f(Line) for all of this thread's results.
template <class F>
__device__ __forceinline__ void each_line(const Sums& sums, F f) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32;
#pragma unroll
  for (int box = 0; box < TILE_N / BOX; ++box)
#pragma unroll
    for (int i = 0; i < SLICES; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Line line{i * BOX + warp * 16 + lane / 4 + h * 8, box, lane % 4 * 2, {}};
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) line.pairs[j][e] = sums[i][4 * (8 * box + j) + 2 * h + e];
        f(line);
      }
}

// The threads that finish a tile together, for epilogue.cuh. Barrier 0 is the block's.
struct Team {
  static constexpr int THREADS = PING_PONG ? WARPGROUP : CONSUMERS;
  static __device__ __forceinline__ int number() { return threadIdx.x / THREADS; }
  static __device__ __forceinline__ int thread() { return threadIdx.x % THREADS; }
  static __device__ __forceinline__ void sync() { named_barrier_sync(1 + number(), THREADS); }
};

// A team's results on their way out, for epilogue.cuh: boxes of 64 columns, as TMA stores them.
class BoxedTile {
  unsigned char* boxes_;

 public:
  typedef bfloat16 Number;
  static constexpr int HEIGHT = TILE_M, WIDTH = TILE_N, BYTES = HEIGHT * WIDTH * 2;

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
  // `row` is the warpgroup's first.
  __device__ __forceinline__ void put(int row, const Line& line) const {
    const int column = line.box * BOX + line.column;
#pragma unroll
    for (int j = 0; j < 8; ++j)
      store_pair(at(row + line.row, column + 8 * j), line.pairs[j][0], line.pairs[j][1]);
  }
};

constexpr int TEAMS = CONSUMERS / Team::THREADS;

// Where the rows of a team's tile are in the result, in shared memory; for epilogue.cuh.
struct Places {
  int of[TILE_M];

  __device__ __forceinline__ long long offset(int row) const { return of[row]; }
};

// Adds an array to each row of the sums; `count` elements are there.
__device__ __forceinline__ void add_to_rows(Sums& sums, const bfloat16* added, int count) {
#pragma unroll
  for (int j = 0; j < TILE_N / 8; ++j) {
    const int column = j * 8 + threadIdx.x % 4 * 2;
    const auto pair = load_up_to<2>(added + column, count - column);
#pragma unroll
    for (int i = 0; i < SLICES; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[i][4 * j + k] += to_real(pair.at[k % 2]);
  }
}

// fprop and dgrad. CHANNELS_ACROSS: the filters' channels are the columns of the tile (dgrad), not
// what is summed over. Results is what becomes of the results:
//   bool unchanged()                         they are stored as they are
//   void add_to(Sums&, PixelTile)            before they are rounded
//   void store(BoxedTile, Places, PixelTile) when they are not unchanged, or not in line
//   void examine(BoxedTile, PixelTile)       then
template <bool CHANNELS_ACROSS, class Results>
class PixelTiles {
  const PixelProduct& size_;
  const TensorMap *images_, *filters_, *stores_;  // images_: of each phase
  const Results results_;
  const BoxedTile staged_;
  Places& places_;

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

  // Whether rows lie one after the other.
  static __device__ __forceinline__ bool in_line(const PixelPhase& phase) {
    return phase.rows.step == 1 && phase.columns.step == 1;
  }

  __device__ __forceinline__ void find_places(const PixelTile& at) const {
    const int row = Team::thread();
    if (row < TILE_M)
      places_.of[row] = place_of(size_.phase[at.phase], at.row + row, size_.gemm_n, at.column);
  }

  __device__ __forceinline__ void store_boxes(const PixelTile& at) const {
    if (Team::thread() != 0) return;
    for (int i = 0; i < TILE_N && at.column + i < size_.gemm_n; i += BOX)
      tma_store(stores_, staged_.box(i), at.column + i, at.row);
    tma_store_commit();
  }

 public:
  // `memory` is that of the stages, behind which comes that of the results; `places` has TEAMS.
  __device__ __forceinline__ PixelTiles(const PixelProduct& size, const TensorMap* images,
                                        const TensorMap* filters, const TensorMap* stores,
                                        const Results& results, unsigned char* memory,
                                        Places* places)
      : size_(size),
        images_(images),
        filters_(filters),
        stores_(stores),
        results_(results),
        staged_(memory + STAGES * STAGE_BYTES + Team::number() * BoxedTile::BYTES),
        places_(places[Team::number()]) {}

  __device__ __forceinline__ int tiles() const {
    return size_.tiles_m * size_.tiles_n * size_.phases;
  }
  __device__ __forceinline__ int steps(int tile) const {
    const PixelTile at(size_, tile);
    const PixelPhase& phase = size_.phase[at.phase];
    return at.row < phase.gemm_m ? phase.all_taps * ceil_div(size_.depth, DEPTH) : 0;
  }

  __device__ __forceinline__ void load(int tile, Ring& ring) const {
    const PixelTile at(size_, tile);
    const WindowAxis& rows = size_.phase[at.phase].rows;
    const WindowAxis& columns = size_.phase[at.phase].columns;
    if (at.row >= size_.phase[at.phase].gemm_m) return;
    const WindowStart start(at.row, rows, columns);
    for (int i = 0; i < rows.taps; ++i)
      for (int j = 0; j < columns.taps; ++j) {
        const int line = rows.first_tap + i * rows.tap_step;
        const int tap = line * size_.filter_s + columns.first_tap + j * columns.tap_step;
        for (int c = 0; c < size_.depth; c += DEPTH) {
          const Stage stage = ring.next_to_fill();
          tma_load_im2col(stage.a, images_ + at.phase, stage.full, c, start.w, start.h, start.image,
                          j * columns.reach, i * rows.reach);
          load_filters(stage, tap, c, at.column);
        }
      }
  }

  __device__ __forceinline__ void finish(int tile, int row, Sums& sums) const {
    const PixelTile at(size_, tile);
    const bool by_tma = results_.unchanged() && in_line(size_.phase[at.phase]);
    results_.add_to(sums, at);
    if (Team::thread() == 0) tma_store_wait_read<0>();  // of the tile before
    Team::sync();
    each_line(sums, [&](const Line& line) { staged_.put(row, line); });
    if (!by_tma) find_places(at);
    fence_proxy_async();
    Team::sync();
    if (by_tma)
      store_boxes(at);
    else
      results_.store(staged_, places_, at);
    results_.examine(staged_, at);
  }

  __device__ __forceinline__ void end() const {
    if (Team::thread() == 0) tma_store_wait_read<0>();
  }
};
