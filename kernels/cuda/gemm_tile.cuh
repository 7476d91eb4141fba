// A block multiplies a TILE_M x TILE_N tile of a matrix product, c[m,n] = sum over d of
// a[m,d] * b[n,d], through shared memory; a convolution is such a product of windows and filters.
//
// The block walks along the depth d in chunks of TILE_DEPTH. While it multiplies one chunk, which
// lies in shared memory, the loads of the next one are under way to registers. A thread sums 4 x 4
// results, so that 8 numbers read from shared memory serve 16 multiply-adds.
//
// An operand is a class that knows where a[m,d] lies:
//   Row, Depth                     what it keeps for a row m and for a place d
//   Row row(unsigned m), Depth depth(unsigned d)
//   void advance(Depth&, int step)
//   Element at(Row, Depth)         which its V - 1 neighbours follow
#pragma once

#include "tiles.cuh"

#ifndef TILE_M
#define TILE_M 64
#endif
#ifndef TILE_N
#define TILE_N 64
#endif

constexpr int TILE_DEPTH = 16;
constexpr int PACK = sizeof(Storage) == 8 ? 2 : 4;  // elements that one instruction loads
constexpr int SIDE = 4;                             // a thread sums SIDE x SIDE results

// Blocks that are to fit on a multiprocessor at a time, which sets the registers that a thread may
// take: left alone, the compiler spills a few for the sake of one block more.
constexpr int RESIDENT = BLOCK == 256 ? 2 : 4;

// Where shared memory has the numbers of a tile: those of one d side by side. Each d lies a little
// further round the 32 banks than the one before, so that threads that write packs along d, each
// pack to PACK places, meet few others in a bank.
template <int ROWS>
struct __align__(16) SharedTile {
  static constexpr int PITCH = ROWS + SIDE;
  static constexpr bool WIDE = sizeof(Real) == 8;

  Real numbers[TILE_DEPTH * PITCH + 2 * TILE_DEPTH];

  __device__ __forceinline__ Real* at(int d, int row) {
    return numbers + d * PITCH + (WIDE ? d / 4 * 2 : d / 8 * 8) + row;
  }
};

struct SharedTiles {
  SharedTile<TILE_M> a;
  SharedTile<TILE_N> b;
};

enum Line { ALONG_DEPTH, ALONG_ROWS };  // what neighbours in memory differ in

// Brings an operand's tile, chunk by chunk, from global to shared memory: packs of V neighbours,
// neighbouring threads along a line of memory.
template <class Operand, int ROWS, Line LINE, int V>
class TileLoader {
  static constexpr bool DEEP = LINE == ALONG_DEPTH;
  static constexpr int PACKS = (DEEP ? TILE_DEPTH : ROWS) / V;      // of a line
  static constexpr int LINES = BLOCK / PACKS;                       // loaded at a time
  static constexpr int COUNT = (DEEP ? ROWS : TILE_DEPTH) / LINES;  // of packs, of a thread
  static_assert(COUNT > 0, "the block has more threads than the tile has packs");

  Operand operand_;
  typename Operand::Row row_[DEEP ? COUNT : 1];
  typename Operand::Depth depth_;  // of the next pack to be loaded
  Pack<Storage, V> staged_[COUNT];

  static __device__ __forceinline__ int along() { return threadIdx.x % PACKS * V; }
  static __device__ __forceinline__ int line(int i) { return threadIdx.x / PACKS + i * LINES; }

 public:
  __device__ __forceinline__ TileLoader(const Operand& operand, unsigned first_row,
                                        unsigned first_depth)
      : operand_(operand) {
#pragma unroll
    for (int i = 0; i < (DEEP ? COUNT : 1); ++i)
      row_[i] = operand_.row(first_row + (DEEP ? line(i) : along()));
    depth_ = operand_.depth(first_depth + (DEEP ? along() : line(0)));
  }

  // Starts the loads of the next chunk.
  __device__ __forceinline__ void load() {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const Element element = operand_.at(row_[DEEP ? i : 0], depth_);
      staged_[i] = Pack<Storage, V>();
      if (element.exists) staged_[i] = load_pack<V>(element.at);
      if (!DEEP) operand_.advance(depth_, LINES);
    }
    if (DEEP) operand_.advance(depth_, TILE_DEPTH);
  }

  __device__ __forceinline__ void store(SharedTile<ROWS>& tile) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      Pack<Real, V> numbers;
#pragma unroll
      for (int v = 0; v < V; ++v) numbers.at[v] = to_real(staged_[i].at[v]);
      if (DEEP) {
#pragma unroll
        for (int v = 0; v < V; ++v) *tile.at(along() + v, line(i)) = numbers.at[v];
      } else {
        store_pack<V>(tile.at(line(i), along()), numbers);
      }
    }
  }
};

// The SIDE x SIDE results of a thread. The threads of a warp form a rectangle, so that they read
// few different numbers; each has neighbouring rows, and its columns in groups of 16 bytes, so that
// the groups of neighbouring threads are neighbours in memory.
class ThreadTile {
  static constexpr int GROUP = 16 / sizeof(Real);  // neighbouring columns
  static constexpr int THREADS_N = TILE_N / SIDE;
  static constexpr int WARP_N = THREADS_N < 8 ? THREADS_N : 8;
  static constexpr int WARPS_N = THREADS_N / WARP_N;
  static_assert(BLOCK == THREADS_N * (TILE_M / SIDE) && BLOCK % 32 == 0, "one thread, 16 results");

  int row_, column_;
  Real sum_[SIDE][SIDE];

 public:
  __device__ __forceinline__ ThreadTile() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    row_ = (warp / WARPS_N * (32 / WARP_N) + lane / WARP_N) * SIDE;
    column_ = warp % WARPS_N * WARP_N * SIDE + lane % WARP_N * GROUP;
#pragma unroll
    for (int i = 0; i < SIDE; ++i)
#pragma unroll
      for (int j = 0; j < SIDE; ++j) sum_[i][j] = 0;
  }

  // Where result (i, j) is in the tile.
  __device__ __forceinline__ int row(int i) const { return row_ + i; }
  __device__ __forceinline__ int column(int j) const {
    return column_ + j / GROUP * WARP_N * GROUP + j % GROUP;
  }

  // Adds the products of one chunk.
  __device__ __forceinline__ void multiply(SharedTiles& tiles) {
#pragma unroll
    for (int d = 0; d < TILE_DEPTH; ++d) {
      Real a[SIDE], b[SIDE];
#pragma unroll
      for (int i = 0; i < SIDE; i += GROUP) {
        read(tiles.a.at(d, row(i)), &a[i]);
        read(tiles.b.at(d, column(i)), &b[i]);
      }
#pragma unroll
      for (int i = 0; i < SIDE; ++i)
#pragma unroll
        for (int j = 0; j < SIDE; ++j) sum_[i][j] += a[i] * b[j];
    }
  }

  // Adds an array to each row; `p` is at the tile's first column, and `count` elements are there.
  __device__ __forceinline__ void add_to_rows(const Storage* p, int count) {
#pragma unroll
    for (int j = 0; j < SIDE; j += GROUP) {
      const Pack<Storage, GROUP> added = load_up_to<GROUP>(p + column(j), count - column(j));
#pragma unroll
      for (int v = 0; v < GROUP; ++v)
#pragma unroll
        for (int i = 0; i < SIDE; ++i) sum_[i][j + v] += to_real(added.at[v]);
    }
  }

  // Stores row i; `p` is at the tile's first column, of which and its neighbours `count` are there.
  template <typename T>
  __device__ __forceinline__ void store_row(int i, T* p, int count) const {
#pragma unroll
    for (int j = 0; j < SIDE; j += GROUP) {
      Pack<T, GROUP> pack;
#pragma unroll
      for (int v = 0; v < GROUP; ++v) pack.at[v] = to_storage<T>(sum_[i][j + v]);
      store_up_to<GROUP>(p + column(j), pack, count - column(j));
    }
  }

 private:
  static __device__ __forceinline__ void read(const Real* shared, Real* numbers) {
    const Pack<Real, GROUP> pack = load_pack<GROUP>(shared);
#pragma unroll
    for (int v = 0; v < GROUP; ++v) numbers[v] = pack.at[v];
  }
};

// Sums the next `chunks` chunks of both operands.
template <class LoaderA, class LoaderB>
__device__ __forceinline__ void multiply_tiles(LoaderA a, LoaderB b, int chunks, SharedTiles& tiles,
                                               ThreadTile& result) {
  if (chunks > 0) {
    a.load();
    b.load();
  }
  for (int chunk = 0; chunk < chunks; ++chunk) {
    a.store(tiles.a);
    b.store(tiles.b);
    __syncthreads();
    if (chunk + 1 < chunks) {
      a.load();
      b.load();
    }
    result.multiply(tiles);
    __syncthreads();
  }
}

// Whether lines of `length` elements fall into packs, from an array that begins at `p`.
__device__ __forceinline__ bool in_packs(const Storage* p, int length) {
  return length % PACK == 0 &&
         reinterpret_cast<unsigned long long>(p) % sizeof(Pack<Storage, PACK>) == 0;
}

// total[i] = sum over splits of partial[split][i], in ascending order, for this thread's i.
__device__ __forceinline__ void sum_splits(const Real* partial, Storage* total, int count,
                                           int splits) {
  const long long i = global_thread();
  if (i >= count) return;
  Real sum = partial[i];
#pragma unroll 4
  for (int split = 1; split < splits; ++split)
    sum += partial[static_cast<long long>(split) * count + i];
  total[i] = to_storage<Storage>(sum);
}
