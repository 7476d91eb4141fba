// A block multiplies a TILE_M x TILE_N tile of a matrix product, c[m,n] = sum over d of
// a[m,d] * b[n,d], on tensor cores (mma.sync): bfloat16 operands, or float rounded to tf32; sums in
// float.
//
// The block walks along the depth d in chunks of TILE_DEPTH, 64 bytes. Chunks lie in a ring of STAGES
// stages of shared memory, which asynchronous copies fill STAGES - 1 chunks ahead. A warp has
// WARP_M x WARP_N results in registers.
//
// An operand is a class that knows where a[m,d] lies:
//   Row, Depth                     what it keeps for a row m and for a place d
//   Row row(unsigned m), Depth depth(unsigned d)
//   void advance(Depth&, int step)
//   const Storage* at(Row, Depth)  of the element and its PACK - 1 neighbours; null: they are zeros
#pragma once

#include "ptx.cuh"
#include "tiles.cuh"

#ifndef TILE_M
#define TILE_M 64
#endif
#ifndef TILE_N
#define TILE_N 64
#endif
#ifndef PACKED  // whether lines of both operands are whole packs of 16 bytes
#define PACKED 1
#endif

constexpr int ELEMENT = sizeof(Storage);
constexpr int PACK = PACKED ? 16 / ELEMENT : 1;  // elements of a copy
constexpr int STAGES = 4;
constexpr int TILE_DEPTH = 64 / ELEMENT;
constexpr int STEPS = 2;  // of a chunk: instructions' depths, 32 bytes
constexpr int WARP_N = 32, WARP_M = TILE_M * TILE_N / BLOCK;
constexpr int RING_BYTES = STAGES * (TILE_M + TILE_N) * 64;
static_assert(WARP_M % 16 == 0 && TILE_N % WARP_N == 0 && TILE_M % WARP_M == 0, "whole warps");

// Blocks that are to fit on a multiprocessor at a time, which sets the registers of a thread.
constexpr int RESIDENT = BLOCK == 256 ? 2 : 3;

enum Line { ALONG_DEPTH, ALONG_ROWS };  // what neighbours in memory differ in

// An operand's tile of one chunk in shared memory: lines as they lie in global memory. Units of 16
// bytes are exchanged by the line's number, so that copies and reads of fragments meet no bank twice.
template <int ROWS, Line LINE>
struct OperandTile {
  static constexpr bool DEEP = LINE == ALONG_DEPTH;
  static constexpr int LINES = DEEP ? ROWS : TILE_DEPTH, LENGTH = DEEP ? TILE_DEPTH : ROWS;
  static constexpr int BYTES = ROWS * 64;

  // In bytes, of a unit of a line.
  static __device__ __forceinline__ int unit(int line, int number) {
    const int exchange = DEEP ? line / 2 % 4 : ELEMENT == 2 ? line % 8 : line % 4 * 2;
    return line * (LENGTH * ELEMENT) + (number ^ exchange) * 16;
  }
  // For words along rows, which no instruction transposes: the lane's word of the 8 rows x 4 places
  // of the depth from (base + row, d) on, where unit() has it; `base` is a multiple of 32, and
  // row < 32. Written so that few addresses depend on the lane.
  static __device__ __forceinline__ unsigned word(const unsigned char* tile, int base, int row,
                                                  int d) {
    const int lane = threadIdx.x % 32, line = d + lane % 4;
    const int place = base + lane / 4 + (row ^ (lane % 4 * 8));
    return *reinterpret_cast<const unsigned*>(tile + (line * LENGTH + place) * ELEMENT);
  }
};

// Brings an operand's tile, chunk by chunk, from global to shared memory; neighbouring threads go
// along a line of memory. What is narrower than a copy of 4 bytes, the least, passes through
// registers, two elements at a time.
template <class Operand, int ROWS, Line LINE>
class TileLoader {
 public:
  typedef OperandTile<ROWS, LINE> Tile;

  __device__ __forceinline__ TileLoader(const Operand& operand, unsigned first_row,
                                        unsigned first_depth)
      : operand_(operand) {
#pragma unroll
    for (int i = 0; i < ROW_COUNT; ++i)
      row_[i] = operand_.row(first_row + (DEEP ? line(i) : along() + i));
    depth_ = operand_.depth(first_depth + (DEEP ? along() : line(0)));
  }

  // Starts to bring the next chunk to `tile`.
  __device__ __forceinline__ void start(unsigned char* tile) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      if (COPIED) {
        const Storage* const p = operand_.at(row_[DEEP ? i : 0], depth_);
        cp_async<BYTES>(tile + unit(i), p, p != nullptr ? BYTES : 0);
      } else {
        typename Operand::Depth next = depth_;
        if (DEEP) operand_.advance(next, 1);
        const unsigned low = bits(operand_.at(row_[DEEP ? i : 0], depth_));
        staged_[COPIED ? 0 : i] = low | bits(operand_.at(row_[DEEP ? i : ROW_COUNT - 1], next))
                                            << 16;
      }
      if (!DEEP) operand_.advance(depth_, LINES);
    }
    if (DEEP) operand_.advance(depth_, TILE_DEPTH);
  }

  // Ends what start() began and no cp_async_wait ends.
  __device__ __forceinline__ void finish(unsigned char* tile) const {
    if (COPIED) return;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      *reinterpret_cast<unsigned*>(tile + unit(i)) = staged_[COPIED ? 0 : i];
  }

 private:
  static constexpr bool DEEP = Tile::DEEP, COPIED = PACK * ELEMENT >= 4;
  static constexpr int BYTES = COPIED ? PACK * ELEMENT : 4;        // moved at a time
  static constexpr int PARTS = Tile::LENGTH * ELEMENT / BYTES;     // of a line
  static constexpr int LINES = BLOCK / PARTS;                      // moved at a time
  static constexpr int COUNT = Tile::LINES / LINES;                // parts of a thread
  static constexpr int ROW_COUNT = DEEP ? COUNT : COPIED ? 1 : 2;  // that a thread meets
  static_assert(COUNT > 0 && BLOCK % PARTS == 0, "every thread has as many parts");

  Operand operand_;
  typename Operand::Row row_[ROW_COUNT];
  typename Operand::Depth depth_;  // of the next part
  unsigned staged_[COPIED ? 1 : COUNT];

  static __device__ __forceinline__ int along() { return threadIdx.x % PARTS * (BYTES / ELEMENT); }
  static __device__ __forceinline__ int line(int i) { return threadIdx.x / PARTS + i * LINES; }
  static __device__ __forceinline__ int unit(int i) {
    const int byte = threadIdx.x % PARTS * BYTES;
    return Tile::unit(line(i), byte / 16) + byte % 16;
  }
  // Of an element of 2 bytes.
  static __device__ __forceinline__ unsigned bits(const Storage* p) {
    return p != nullptr ? *reinterpret_cast<const unsigned short*>(p) : 0u;
  }
};

enum Side { LEFT, RIGHT };  // of the instruction: a or b

// Loads 16 rows x 32 bytes of depth: step `step` of a chunk, from row base + row on; `base` is a
// multiple of 32 and `row` of 16. Of the four 8 x 16-byte parts, f[h + 2 k] (LEFT) or f[2 h + k]
// (RIGHT) is half h of the rows and half k of the depth; lane l has row l / 4 of it, and word l % 4.
template <Side SIDE, int ROWS, Line LINE>
__device__ __forceinline__ void load_fragments(unsigned (&f)[4], const unsigned char* tile,
                                               int base, int row, int step) {
  typedef OperandTile<ROWS, LINE> Tile;
  const int lane = threadIdx.x % 32, part = lane / 8;
  const int h = SIDE == LEFT ? part % 2 : part / 2, k = SIDE == LEFT ? part / 2 : part % 2;
  if (LINE == ALONG_DEPTH) {
    ldmatrix(f, tile + Tile::unit(base + row + lane % 8 + 8 * h, 2 * step + k));
  } else if (ELEMENT == 2) {
    ldmatrix_trans(f, tile + Tile::unit(16 * step + lane % 8 + 8 * k, (base + row) / 8 + h));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int half = SIDE == LEFT ? i % 2 : i / 2, deep = SIDE == LEFT ? i / 2 : i % 2;
      f[i] = Tile::word(tile, base + row / 32 * 32, row % 32 + 8 * half, 8 * step + 4 * deep);
    }
  }
  if (ELEMENT == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) f[i] = to_tf32(__uint_as_float(f[i]));
  }
}

// The WARP_M x WARP_N results of a warp.
class WarpTile {
  static constexpr int M = WARP_M / 16, N = WARP_N / 8;  // instructions

  int row_, column_;
  float sum_[M][N][4];

 public:
  __device__ __forceinline__ WarpTile() {
    const int warp = threadIdx.x / 32;
    row_ = warp / (TILE_N / WARP_N) * WARP_M;
    column_ = warp % (TILE_N / WARP_N) * WARP_N;
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int j = 0; j < N; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum_[i][j][e] = 0;
  }

  // Adds the products of one chunk.
  template <Line LINE_A, Line LINE_B>
  __device__ __forceinline__ void multiply(const unsigned char* a_tile,
                                           const unsigned char* b_tile) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      unsigned a[M][4], b[N / 2][4];
#pragma unroll
      for (int i = 0; i < M; ++i)
        load_fragments<LEFT, TILE_M, LINE_A>(a[i], a_tile, row_, 16 * i, step);
#pragma unroll
      for (int j = 0; j < N / 2; ++j)
        load_fragments<RIGHT, TILE_N, LINE_B>(b[j], b_tile, column_, 16 * j, step);
#pragma unroll
      for (int i = 0; i < M; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
          const unsigned half[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          if (ELEMENT == 2)
            mma_m16n8k16_bf16(sum_[i][j], a[i], half);
          else
            mma_m16n8k8_tf32(sum_[i][j], a[i], half);
        }
    }
  }

  // Adds an array to each row; `p` is at the tile's first column, and `count` elements are there.
  __device__ __forceinline__ void add_to_rows(const Storage* p, int count) {
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = column_ + 8 * j + threadIdx.x % 4 * 2 + e;
        const float added = column < count ? to_real(p[column]) : 0.0f;
#pragma unroll
        for (int i = 0; i < M; ++i) {
          sum_[i][j][e] += added;
          sum_[i][j][2 + e] += added;
        }
      }
  }

  // Puts the results into a StagedTile of the whole block.
  template <class Staged>
  __device__ __forceinline__ void put(const Staged& staged) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int j = 0; j < N; ++j)
          staged.put(row_ + 16 * i + 8 * h + lane / 4, column_ + 8 * j + lane % 4 * 2,
                     sum_[i][j][2 * h], sum_[i][j][2 * h + 1]);
  }
};

// Sums `chunks` chunks of both operands. `ring`: RING_BYTES of shared memory on a multiple of 128,
// free again on return.
template <class A, Line LINE_A, class B, Line LINE_B>
__device__ __forceinline__ void multiply_tiles(TileLoader<A, TILE_M, LINE_A> a,
                                               TileLoader<B, TILE_N, LINE_B> b, int chunks,
                                               unsigned char* ring, WarpTile& result) {
  constexpr int A_BYTES = TILE_M * 64, STAGE = RING_BYTES / STAGES;
#pragma unroll
  for (int chunk = 0; chunk < STAGES - 1; ++chunk) {
    if (chunk < chunks) {
      unsigned char* const stage = ring + chunk * STAGE;
      a.start(stage);
      b.start(stage + A_BYTES);
      a.finish(stage);
      b.finish(stage + A_BYTES);
    }
    cp_async_commit();
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // this chunk has come to all, and all are done with the one before it
    unsigned char* const next = ring + (chunk + STAGES - 1) % STAGES * STAGE;
    const bool more = chunk + STAGES - 1 < chunks;
    if (more) {
      a.start(next);
      b.start(next + A_BYTES);
    }
    cp_async_commit();
    const unsigned char* const stage = ring + chunk % STAGES * STAGE;
    result.multiply<LINE_A, LINE_B>(stage, stage + A_BYTES);
    if (more) {
      a.finish(next);
      b.finish(next + A_BYTES);
    }
  }
  cp_async_wait<0>();
  __syncthreads();
}
