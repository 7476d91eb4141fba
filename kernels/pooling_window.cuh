// The windows of 2-D pooling, as pooling_window.py has them, and how threads share the pixels out.
//
// A thread takes VECTOR channels of one pixel, 16 bytes where PACKED (the channels are then a
// multiple of VECTOR); the channels are fastest, so that a warp moves neighbours in memory.
#pragma once

#include "cuda/common.cuh"

#ifndef PACKED
#define PACKED 1
#endif

constexpr int VECTOR = PACKED ? 16 / sizeof(Storage) : 1;

struct PoolSize {
  int n, h, w, c, r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, p, q;
};

// `count` windows of `taps` taps along one axis of an image, `length` pixels long.
struct PoolAxis {
  int length, taps, stride, pad, dilation, count;
};

__device__ __forceinline__ PoolAxis vertical(const PoolSize& size) {
  return {size.h, size.r, size.stride_h, size.pad_h, size.dilation_h, size.p};
}

__device__ __forceinline__ PoolAxis horizontal(const PoolSize& size) {
  return {size.w, size.s, size.stride_w, size.pad_w, size.dilation_w, size.q};
}

// first, first + 1, ... end - 1
struct Range {
  int first, end;
};

// a / b, where b is mostly 1: a branch that all threads take alike saves the division.
__device__ __forceinline__ int quotient(int a, int b) { return b == 1 ? a : a / b; }

// The pixel of a window's first tap; negative on the padding.
__device__ __forceinline__ int begin(const PoolAxis& axis, int window) {
  return window * axis.stride - axis.pad;
}

// The taps on the image of a window that begins at this pixel.
__device__ __forceinline__ Range taps_inside(const PoolAxis& axis, int begin) {
  const int first = begin < 0 ? quotient(-begin - 1, axis.dilation) + 1 : 0;
  const int last = quotient(axis.length - 1 - begin, axis.dilation);
  return {first, min(last + 1, axis.taps)};
}

// The windows that reach over a pixel. With dilation, such a window need not have a tap on it.
__device__ __forceinline__ Range windows_over(const PoolAxis& axis, int pixel) {
  const int last = (pixel + axis.pad) / axis.stride;
  // Windows that begin here or later reach the pixel; a distance beyond int is no window's.
  const long long reach = static_cast<long long>(axis.taps - 1) * axis.dilation;
  const long long earliest = pixel + axis.pad - reach;
  const int first = earliest > 0 ? (static_cast<int>(earliest) - 1) / axis.stride + 1 : 0;
  return {first, min(last + 1, axis.count)};
}

// What a thread works on: channels channel .. channel + VECTOR - 1 of one pixel.
struct Place {
  int n, row, column, channel;
};

// Whether a thread has a place in an array (n, rows, columns, channels).
__device__ __forceinline__ bool has_place(long long thread, int n, int rows, int columns,
                                          int channels) {
  return thread * VECTOR < static_cast<long long>(n) * rows * columns * channels;
}

__device__ __forceinline__ Place place_of(long long thread, int rows, int columns, int channels) {
  const unsigned packs = channels / VECTOR;
  const unsigned pixel = static_cast<unsigned>(thread) / packs;
  const unsigned line = pixel / columns;
  const unsigned n = line / rows;
  return {static_cast<int>(n), static_cast<int>(line - n * rows),
          static_cast<int>(pixel - line * columns),
          static_cast<int>(static_cast<unsigned>(thread) - pixel * packs) * VECTOR};
}

// Where an array (..., rows, columns, channels) holds the first channel of a place moved to
// another pixel of its image.
__device__ __forceinline__ int offset_of(const Place& at, int row, int column, int rows,
                                         int columns, int channels) {
  return ((at.n * rows + row) * columns + column) * channels + at.channel;
}
