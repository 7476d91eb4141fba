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
//   Element at(Row, Depth)         which its neighbours in a pack follow
#pragma once

#include "ptx.cuh"
#include "tiles.cuh"

#ifndef TILE_M
#define TILE_M 64
#endif
#ifndef TILE_N
#define TILE_N 64
#endif
#ifndef PACK_BYTES  // that lines of both operands are multiples of, on addresses that are: 8 or 16
#define PACK_BYTES 16
#endif

constexpr int ELEMENT = sizeof(Storage);
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
// Offsets are in bytes; where a line or a unit is the sum of numbers that have no bit in common, its
// offset is that of one number, exclusive-or the exchange and plus the line of the other.
template <int ROWS, Line LINE>
struct OperandTile {
  static constexpr bool DEEP = LINE == ALONG_DEPTH;
  static constexpr int LINES = DEEP ? ROWS : TILE_DEPTH, LENGTH = DEEP ? TILE_DEPTH : ROWS;
  static constexpr int LINE_BYTES = LENGTH * ELEMENT;

  // What is exchanged in a line: exclusive-or the offset of a unit in it.
  static __device__ __forceinline__ constexpr int exchange(int line) {
    return 16 * (DEEP ? line / 2 % 4 : ELEMENT == 2 ? line % 8 : line % 4 * 2);
  }
  static __device__ __forceinline__ constexpr int offset(int line, int byte) {
    return line * LINE_BYTES + (byte ^ exchange(line));
  }
};

// Brings an operand's tile, chunk by chunk, from global to shared memory, in packs; neighbouring
// threads go along a line of memory.
template <class Operand, int ROWS, Line LINE>
class TileLoader {
  typedef OperandTile<ROWS, LINE> Tile;
  static constexpr bool DEEP = Tile::DEEP;
  static constexpr int PACKS = Tile::LINE_BYTES / PACK_BYTES;  // of a line
  static constexpr int LINES = BLOCK / PACKS;                  // brought at a time
  static constexpr int COUNT = Tile::LINES / LINES;            // packs of a thread
  static_assert(COUNT > 0 && BLOCK % PACKS == 0, "every thread has as many packs");

  Operand operand_;
  typename Operand::Row row_[DEEP ? COUNT : 1];
  typename Operand::Depth depth_;  // of the next pack
  int offset_;                     // of the thread's first pack, in a tile

  __device__ __forceinline__ int offset(int i) const {
    return (offset_ ^ Tile::exchange(i * LINES)) + i * LINES * Tile::LINE_BYTES;
  }

 public:
  __device__ __forceinline__ TileLoader(const Operand& operand, unsigned first_row,
                                        unsigned first_depth)
      : operand_(operand) {
    const int line = threadIdx.x / PACKS, byte = threadIdx.x % PACKS * PACK_BYTES;
    const int along = byte / ELEMENT;
#pragma unroll
    for (int i = 0; i < (DEEP ? COUNT : 1); ++i)
      row_[i] = operand_.row(first_row + (DEEP ? line + i * LINES : along));
    depth_ = operand_.depth(first_depth + (DEEP ? along : line));
    offset_ = Tile::offset(line, byte);
    keep(offset_);
  }

  // Starts to bring the next chunk to `tile`.
  __device__ __forceinline__ void start(unsigned char* tile) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const Element element = operand_.at(row_[DEEP ? i : 0], depth_);
      cp_async<PACK_BYTES>(tile + offset(i), element.at, element.exists ? PACK_BYTES : 0);
      if (!DEEP) operand_.advance(depth_, LINES);
    }
    if (DEEP) operand_.advance(depth_, TILE_DEPTH);
  }
};

enum Side { LEFT, RIGHT };  // of the instruction: a or b

// Reads the fragments of a warp's rows of an operand, which begin at row `base` of its tiles, a
// multiple of 32.
template <Side SIDE, int ROWS, Line LINE>
class FragmentReader {
  typedef OperandTile<ROWS, LINE> Tile;
  static constexpr bool DEEP = Tile::DEEP, WORDS = !DEEP && ELEMENT == 4;

  int offset_;  // of what this lane reads, or whose row it names, of the first 16 rows

 public:
  __device__ __forceinline__ explicit FragmentReader(int base) {
    const int lane = threadIdx.x % 32, part = lane / 8;
    const int h = SIDE == LEFT ? part % 2 : part / 2, k = SIDE == LEFT ? part / 2 : part % 2;
    if (WORDS)
      offset_ = Tile::offset(lane % 4, (base + lane / 4) * ELEMENT);
    else if (DEEP)
      offset_ = Tile::offset(base + lane % 8 + 8 * h, 16 * k);
    else
      offset_ = Tile::offset(lane % 8 + 8 * k, base * ELEMENT + 16 * h);
    if (!WORDS) keep(offset_);  // else no register is left for it
  }

  // Loads 16 rows from base + row on, x 32 bytes of depth, step `step` of a chunk. Of the four 8 x
  // 16-byte parts, f[h + 2 k] (LEFT) or f[2 h + k] (RIGHT) is half h of the rows and half k of the
  // depth; lane l has row l / 4 of it, and word l % 4.
  __device__ __forceinline__ void load(unsigned (&f)[4], const unsigned char* tile, int row,
                                       int step) const {
    if (WORDS) {  // which no instruction transposes
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int h = SIDE == LEFT ? i % 2 : i / 2, k = SIDE == LEFT ? i / 2 : i % 2;
        const int byte = (row + 8 * h) * ELEMENT, line = 8 * step + 4 * k;
        f[i] = *reinterpret_cast<const unsigned*>(tile + (offset_ ^ byte % 128) + byte / 128 * 128 +
                                                  line * Tile::LINE_BYTES);
      }
    } else if (DEEP) {
      ldmatrix(f, tile + (offset_ ^ 32 * step) + row * Tile::LINE_BYTES);
    } else {
      ldmatrix_trans(f, tile + (offset_ ^ row * ELEMENT) + 16 * step * Tile::LINE_BYTES);
    }
    if (ELEMENT == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) f[i] = to_tf32(__uint_as_float(f[i]));
    }
  }
};

// The WARP_M x WARP_N results of a warp.
class WarpTile {
  static constexpr int M = WARP_M / 16, N = WARP_N / 8;  // instructions

  float sum_[M][N][4];

 public:
  __device__ __forceinline__ WarpTile() {
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int j = 0; j < N; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum_[i][j][e] = 0;
  }

  // Where the warp's results are in the block's tile.
  static __device__ __forceinline__ int row() {
    return threadIdx.x / 32 / (TILE_N / WARP_N) * WARP_M;
  }
  static __device__ __forceinline__ int column() {
    return threadIdx.x / 32 % (TILE_N / WARP_N) * WARP_N;
  }

  // Adds the products of one chunk.
  template <Line LINE_A, Line LINE_B>
  __device__ __forceinline__ void multiply(const FragmentReader<LEFT, TILE_M, LINE_A>& read_a,
                                           const FragmentReader<RIGHT, TILE_N, LINE_B>& read_b,
                                           const unsigned char* a_tile,
                                           const unsigned char* b_tile) {
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      unsigned a[M][4], b[N / 2][4];
#pragma unroll
      for (int i = 0; i < M; ++i) read_a.load(a[i], a_tile, 16 * i, step);
#pragma unroll
      for (int j = 0; j < N / 2; ++j) read_b.load(b[j], b_tile, 16 * j, step);
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
        const int column = WarpTile::column() + 8 * j + threadIdx.x % 4 * 2 + e;
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
          staged.put(row() + 16 * i + 8 * h + lane / 4, column() + 8 * j + lane % 4 * 2,
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
  const FragmentReader<LEFT, TILE_M, LINE_A> read_a(WarpTile::row());
  const FragmentReader<RIGHT, TILE_N, LINE_B> read_b(WarpTile::column());
#pragma unroll
  for (int chunk = 0; chunk < STAGES - 1; ++chunk) {
    if (chunk < chunks) {
      unsigned char* const stage = ring + chunk * STAGE;
      a.start(stage);
      b.start(stage + A_BYTES);
    }
    cp_async_commit();
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // this chunk has come to all, and all are done with the one before it
    unsigned char* const next = ring + (chunk + STAGES - 1) % STAGES * STAGE;
    if (chunk + STAGES - 1 < chunks) {
      a.start(next);
      b.start(next + A_BYTES);
    }
    cp_async_commit();
    const unsigned char* const stage = ring + chunk % STAGES * STAGE;
    result.multiply(read_a, read_b, stage, stage + A_BYTES);
  }
  cp_async_wait<0>();
  __syncthreads();
}
