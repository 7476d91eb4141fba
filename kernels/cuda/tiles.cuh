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

// A matrix with any strides, in elements: rows or columns may be neighbours in memory.
struct Strides {
  long long row, depth;
};

class Matrix {
  const Storage* data_;
  Strides strides_;
  unsigned rows_, depth_;

 public:
  typedef unsigned Row;
  typedef unsigned Depth;

  __device__ __forceinline__ Matrix(const Storage* data, Strides strides, int rows, int depth)
      : data_(data), strides_(strides), rows_(rows), depth_(depth) {}
  __device__ __forceinline__ Row row(unsigned m) const { return m; }
  __device__ __forceinline__ Depth depth(unsigned d) const { return d; }
  __device__ __forceinline__ void advance(Depth& d, int step) const { d += step; }
  __device__ __forceinline__ const Storage* at(Row m, Depth d) const {
    return m < rows_ && d < depth_ ? data_ + m * strides_.row + d * strides_.depth : nullptr;
  }
};
