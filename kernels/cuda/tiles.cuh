// How blocks share out the tiles and the depth of a product of matrices.
#pragma once

#include "common.cuh"

// Number of tiles along an axis that is not empty.
__device__ __forceinline__ int tiles_of(int extent, int tile) { return (extent - 1) / tile + 1; }

// The share of block `split` of `splits` in the chunks of a sum over `depth`.
struct Share {
  int first, count;

  __device__ __forceinline__ Share(int depth, int chunk, int split, int splits) {
    const int chunks = depth / chunk + (depth % chunk != 0);
    const int each = chunks / splits + (chunks % splits != 0);
    first = min(split * each, chunks);
    count = min(each, chunks - first);
  }
};

// What an operand says of a place: where the element lies, and whether it exists; else it is zero,
// and the address is none.
struct Element {
  const Storage* at;
  bool exists;
};

// A matrix with any strides, in elements: rows or columns may be neighbours in memory. Offsets are
// counted in Index.
struct Strides {
  long long row, depth;
};

template <typename Index>
class MatrixOf {
  const Storage* data_;
  Index first_, row_, depth_;  // of element (0, 0); strides
  unsigned rows_, depths_;

 public:
  typedef unsigned Row;
  typedef unsigned Depth;

  __device__ __forceinline__ MatrixOf(const Storage* data, Strides strides, int rows, int depth,
                                      Index first = 0)
      : data_(data),
        first_(first),
        row_(static_cast<Index>(strides.row)),
        depth_(static_cast<Index>(strides.depth)),
        rows_(rows),
        depths_(depth) {}
  __device__ __forceinline__ Row row(unsigned m) const { return m; }
  __device__ __forceinline__ Depth depth(unsigned d) const { return d; }
  __device__ __forceinline__ void advance(Depth& d, int step) const { d += step; }
  __device__ __forceinline__ Element at(Row m, Depth d) const {
    return {data_ + (first_ + m * row_ + d * depth_), m < rows_ && d < depths_};
  }
};

typedef MatrixOf<long long> Matrix;
typedef MatrixOf<unsigned> SmallMatrix;  // of an array of less than 2^32 elements
