// A convolution as a product of matrices that exist only as index maps; __init__.py has the
// equation. Rows are pixels, the depth is the taps of their windows (fprop, dgrad), or the other
// way round (wgrad). The operands are those of ../cuda/gemm_tile.cuh and ../cuda/mma_tile.cuh.
//
// Zeros outside the image are multiplied like other numbers, as the definition does for fprop and
// wgrad; so an infinite weight makes NaN of them, in dgrad too.
#pragma once

#include "../cuda/tiles.cuh"

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
    return pixel * pixel_step + (tap * tap_step + origin);
  }
};

// One axis of a phase: its taps r = first + j * step, and the place in grad_y where the first meets
// the first pixel; each tap meets a pixel `back` before the one before.
struct PhaseAxis {
  int phase, stride, pixels;
  int first, step, taps;
  unsigned origin, back;

  __device__ __forceinline__ PhaseAxis(int phase, int length, int all_taps, int stride, int pad,
                                       int dilation)
      : phase(phase), stride(stride), pixels((length - 1 - phase) / stride + 1) {
    first = taps = 0, step = 1;
    origin = back = 0;
    // phase + pad - r * dilation = at * stride + rest, for r = 0, 1, ...
    unsigned at = (unsigned(phase) + pad) / stride, rest = (unsigned(phase) + pad) % stride;
    const unsigned fewer = dilation / stride, fewer_rest = dilation % stride;
#pragma unroll 1
    for (int r = 0; r < all_taps; ++r) {
      if (rest == 0) {
        if (taps == 0) first = r, origin = at;
        if (taps == 1) step = r - first, back = origin - at;
        ++taps;
      }
      at -= fewer + (rest < fewer_rest);
      rest += (rest < fewer_rest ? stride : 0) - fewer_rest;
    }
  }

  __device__ __forceinline__ Axis axis(int length) const {
    return {1u, 0u - back, origin, static_cast<unsigned>(length)};
  }
};

// All windows of a batch of images with their channels innermost, of one group of channels.
struct Windows {
  const Storage* images;
  unsigned first, channels;  // the first one of the group, all of an image
  unsigned batch, taps;      // ends of the high digits of pixels and of taps
  Axis rows, columns;
  Radix pixel_radix, tap_radix;

  // Of the first channel of a pixel, in elements; modulo 2^32 where there is no such pixel.
  __device__ __forceinline__ unsigned offset(unsigned image, unsigned row, unsigned column) const {
    return ((image * rows.length + row) * columns.length + column) * channels;
  }
};

// The operand whose rows are pixels and whose depth is taps.
struct PixelsByTaps {
  typedef Position Depth;
  // Where tap (0, 0) meets a pixel, if that is in the batch; else beyond every image.
  struct Row {
    unsigned row, column, offset;
  };
  Windows windows;

  __device__ __forceinline__ Row row(unsigned i) const {
    const Position pixel = windows.pixel_radix.position(i);
    const bool exists = pixel.high < windows.batch;
    const unsigned row = exists ? windows.rows.at(pixel.middle, 0) : 1u << 31;
    const unsigned column = windows.columns.at(pixel.low, 0);
    return {row, column, windows.first + windows.offset(exists ? pixel.high : 0, row, column)};
  }
  __device__ __forceinline__ Depth depth(unsigned i) const { return windows.tap_radix.position(i); }
  __device__ __forceinline__ void advance(Depth& tap, int step) const {
    windows.tap_radix.advance(tap, step);
  }
  __device__ __forceinline__ Element at(const Row& pixel, const Depth& tap) const {
    const unsigned down = tap.high * windows.rows.tap_step;
    const unsigned right = tap.middle * windows.columns.tap_step;
    const unsigned offset = pixel.offset + (windows.offset(0, down, right) + tap.low);
    const bool inside = tap.high < windows.taps && pixel.row + down < windows.rows.length &&
                        pixel.column + right < windows.columns.length;
    return {windows.images + offset, inside};
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
  __device__ __forceinline__ Element at(const Row& tap, const Depth& pixel) const {
    const unsigned row = windows.rows.at(pixel.middle, tap.high);
    const unsigned column = windows.columns.at(pixel.low, tap.middle);
    const bool inside = pixel.high < windows.batch && tap.high < windows.taps &&
                        row < windows.rows.length && column < windows.columns.length;
    const unsigned offset = windows.offset(pixel.high, row, column) + windows.first + tap.low;
    return {windows.images + offset, inside};
  }
};

// The windows of x that fprop correlates with the filters of a group.
__device__ __forceinline__ Windows windows_of_x(const Storage* x, const Conv2dSize& size,
                                                int group) {
  const unsigned group_c = size.c / size.groups;
  Windows windows;
  windows.images = x;
  windows.first = group * group_c;
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

// The operand whose rows are input channels and whose depth is (tap, filter), taps of a phase.
struct RotatedFilters {
  typedef unsigned Row;
  typedef Position Depth;
  const Storage* filters;
  unsigned first;  // the place of the phase's first tap of the first filter of the group
  unsigned channels, taps;
  unsigned places;                 // of a filter: r * s
  unsigned row_step, column_step;  // in places
  Radix tap_radix;

  __device__ __forceinline__ Row row(unsigned c) const { return c; }
  __device__ __forceinline__ Depth depth(unsigned i) const { return tap_radix.position(i); }
  __device__ __forceinline__ void advance(Depth& tap, int step) const {
    tap_radix.advance(tap, step);
  }
  __device__ __forceinline__ Element at(Row c, const Depth& tap) const {
    const unsigned place = tap.low * places + tap.high * row_step + tap.middle * column_step;
    return {filters + ((first + place) * channels + c), c < channels && tap.high < taps};
  }
};

// What dgrad computes at a time: with a stride, only some taps have touched a pixel h, those with
// h + pad - r * dilation a multiple of the stride. They are the same for all pixels of a phase,
// h = phase + i * stride; so each phase is a correlation of grad_y with stride 1 and its own taps,
// and no product with a zero is made.
struct Phase {
  PhaseAxis rows, columns;

  // Phases are numbered (row, column).
  __device__ __forceinline__ Phase(const Conv2dSize& size, int number)
      : rows(number / min(size.stride_w, size.w), size.h, size.r, size.stride_h, size.pad_top,
             size.dilation_h),
        columns(number % min(size.stride_w, size.w), size.w, size.s, size.stride_w, size.pad_left,
                size.dilation_w) {}

  __device__ __forceinline__ Radix tap_radix(const Conv2dSize& size) const {
    return {unsigned(columns.taps), unsigned(size.k / size.groups)};
  }
  __device__ __forceinline__ int depth(const Conv2dSize& size) const {
    return rows.taps * columns.taps * (size.k / size.groups);
  }
  // The windows of grad_y that are correlated with the rotated filters of a group.
  __device__ __forceinline__ Windows windows(const Storage* grad_y, const Conv2dSize& size,
                                             int group) const {
    Windows windows;
    windows.images = grad_y;
    windows.first = group * (size.k / size.groups);
    windows.channels = size.k;
    windows.batch = size.n;
    windows.taps = rows.taps;
    windows.rows = rows.axis(size.p);
    windows.columns = columns.axis(size.q);
    windows.pixel_radix = {unsigned(rows.pixels), unsigned(columns.pixels)};
    windows.tap_radix = tap_radix(size);
    return windows;
  }
  __device__ __forceinline__ RotatedFilters filters(const Storage* w, const Conv2dSize& size,
                                                    int group) const {
    const unsigned group_c = size.c / size.groups, first_k = group * (size.k / size.groups);
    RotatedFilters filters;
    filters.filters = w;
    filters.first = (first_k * size.r + rows.first) * size.s + columns.first;
    filters.channels = group_c;
    filters.taps = rows.taps;
    filters.places = size.r * size.s;
    filters.row_step = rows.step * size.s;
    filters.column_step = columns.step;
    filters.tap_radix = tap_radix(size);
    return filters;
  }
  // Where pixel i of the phase is in grad_x, in elements; -1 behind the last image.
  __device__ __forceinline__ long long offset(const Conv2dSize& size, unsigned i) const {
    const Position pixel = Radix{unsigned(rows.pixels), unsigned(columns.pixels)}.position(i);
    if (pixel.high >= static_cast<unsigned>(size.n)) return -1;
    const unsigned row = rows.phase + pixel.middle * size.stride_h;
    const unsigned column = columns.phase + pixel.low * size.stride_w;
    return static_cast<long long>((pixel.high * size.h + row) * size.w + column) * size.c;
  }
};

// Blocks that dgrad has for the rows of each phase: the first one is the largest.
__device__ __forceinline__ int largest_phase(const Conv2dSize& size) {
  return size.n * tiles_of(size.h, size.stride_h) * tiles_of(size.w, size.stride_w);
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
