// A convolution as a product of matrices that exist only as index maps; __init__.py has the
// equation. Rows are pixels, the depth is the taps of their windows (fprop, dgrad), or the other
// way round (wgrad).
//
// Zeros outside the image are multiplied like other numbers, as the definition does for fprop and
// wgrad; so an infinite weight makes NaN of them, in dgrad too.
#pragma once

#include "../cuda/gemm_tile.cuh"

struct Conv2dSize {
  int n, h, w, c, k, r, s, p, q;
  int stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
};

// A number written with three digits, (high * middles + middle) * lows + low: a pixel (n, p, q) or
// a tap (r, s, c). The high digit has no end.
struct Position {
  unsigned high, middle, low;
};

struct Radix {
  unsigned middles, lows;

  __device__ __forceinline__ Position position(unsigned i) const {
    const unsigned line = i / lows;
    return {line / middles, line % middles, i % lows};
  }
  __device__ __forceinline__ void advance(Position& at, unsigned step) const {
    at.low += step;
    while (at.low >= lows) {
      at.low -= lows;
      if (++at.middle == middles) {
        at.middle = 0;
        ++at.high;
      }
    }
  }
};

// One axis of the index map: pixel i and tap j meet at i * pixel_step + j * tap_step + origin of an
// image of `length`. Unsigned: what lies before the image wraps around to beyond its end.
struct Axis {
  unsigned pixel_step, tap_step, origin, length;

  __device__ __forceinline__ unsigned at(unsigned pixel, unsigned tap) const {
    return pixel * pixel_step + tap * tap_step + origin;
  }
};

// All windows of a batch of images with their channels innermost, of one group of channels.
struct Windows {
  const Storage* images;  // at the first channel of the group
  int channels;           // of an image, all groups
  unsigned batch, taps;   // ends of the high digits of pixels and of taps
  Axis rows, columns;
  Radix pixel_radix, tap_radix;

  __device__ __forceinline__ const Storage* at(const Position& pixel, const Position& tap) const {
    const unsigned row = rows.at(pixel.middle, tap.high);
    const unsigned column = columns.at(pixel.low, tap.middle);
    const bool inside =
        pixel.high < batch && tap.high < taps && row < rows.length && column < columns.length;
    const unsigned image_row = pixel.high * rows.length + row;
    return inside ? images + (image_row * columns.length + column) * channels + tap.low : nullptr;
  }
};

// The operand whose rows are pixels and whose depth is taps.
struct PixelsByTaps {
  typedef Position Row;
  typedef Position Depth;
  Windows windows;

  __device__ __forceinline__ Row row(unsigned i) const { return windows.pixel_radix.position(i); }
  __device__ __forceinline__ Depth depth(unsigned i) const { return windows.tap_radix.position(i); }
  __device__ __forceinline__ void advance(Depth& tap, int step) const {
    windows.tap_radix.advance(tap, step);
  }
  __device__ __forceinline__ const Storage* at(const Row& pixel, const Depth& tap) const {
    return windows.at(pixel, tap);
  }
};

// The operand whose rows are taps and whose depth is pixels.
struct TapsByPixels {
  typedef Position Row;
  typedef Position Depth;
  Windows windows;

  __device__ __forceinline__ Row row(unsigned i) const { return windows.tap_radix.position(i); }
  __device__ __forceinline__ Depth depth(unsigned i) const {
    return windows.pixel_radix.position(i);
  }
  __device__ __forceinline__ void advance(Depth& pixel, int step) const {
    windows.pixel_radix.advance(pixel, step);
  }
  __device__ __forceinline__ const Storage* at(const Row& tap, const Depth& pixel) const {
    return windows.at(pixel, tap);
  }
};

// The windows of x that fprop correlates with the filters of a group.
__device__ __forceinline__ Windows windows_of_x(const Storage* x, const Conv2dSize& size,
                                                int group) {
  const unsigned group_c = size.c / size.groups;
  Windows windows;
  windows.images = x + group * group_c;
  windows.channels = size.c;
  windows.batch = size.n;
  windows.taps = size.r;
  windows.rows = {unsigned(size.stride_h), unsigned(size.dilation_h), 0u - size.pad_top,
                  unsigned(size.h)};
  windows.columns = {unsigned(size.stride_w), unsigned(size.dilation_w), 0u - size.pad_left,
                     unsigned(size.w)};
  windows.pixel_radix = {unsigned(size.p), unsigned(size.q)};
  windows.tap_radix = {unsigned(size.s), group_c};
  return windows;
}

// Where a block's tile of a group's result begins. Blocks that run together have the columns of the
// same rows.
struct Corner {
  unsigned row;  // the last of a tile may be beyond what an int holds
  int column, group, part;

  // Blocks: part x rows / TILE_M x group x columns / TILE_N, the last fastest.
  __device__ __forceinline__ Corner(int rows, int groups, int columns) {
    const int across = tiles_of(columns, TILE_N), down = tiles_of(rows, TILE_M);
    const int line = blockIdx.x / across;
    column = blockIdx.x % across * TILE_N;
    group = line % groups;
    row = line / groups % down * TILE_M;
    part = line / groups / down;
  }
};
