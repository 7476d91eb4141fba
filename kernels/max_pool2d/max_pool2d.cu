// 2-D max pooling of x (N,H,W,C) to y, argmax (N,P,Q,C); see __init__.py for the rules.
#include "../pooling_window.cuh"

#ifndef ARGMAX  // of a window of at most 256 cells; else int
#define ARGMAX unsigned char
#endif

// max_pool2d_forward_window: y[n,p,q,c] = max over the taps r,s on the image of
//                                x[n, p*stride_h + r*dilation_h - pad_h,
//                                     q*stride_w + s*dilation_w - pad_w, c]
//                            argmax[n,p,q,c] = r*S + s of the first largest, or of the last NaN
//
// Mapping   one thread for VECTOR channels of one window, tap after tap.
// Traffic   reads = STORAGE_BYTES * n * p * q * c * r * s
//           writes = (STORAGE_BYTES + ARGMAX_BYTES) * n * p * q * c
//           dram_reads = STORAGE_BYTES * n * c * min(h, (p - 1) * stride_h + (r - 1) * dilation_h
//                        + 1) * min(w, (q - 1) * stride_w + (s - 1) * dilation_w + 1)
//           where all taps are on the image and a pixel fills a warp: narrower ones share sectors.
//           Windows that overlap find each other's pixels in cache; DRAM moves |x| + |y| +
//           |argmax|.
// Roofline  1 comparison a tap: memory bound.
// Limits    an array has < 2^31 elements.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    max_pool2d_forward_window(const Storage* __restrict__ x, Storage* __restrict__ y,
                              ARGMAX* __restrict__ argmax, PoolSize size) {
  const long long thread = global_thread();
  if (!has_place(thread, size.n, size.p, size.q, size.c)) return;
  const Place at = place_of(thread, size.p, size.q, size.c);
  const int top = begin(vertical(size), at.row);
  const int left = begin(horizontal(size), at.column);
  const Range rows = taps_inside(vertical(size), top);
  const Range columns = taps_inside(horizontal(size), left);

  // A window of nothing but -inf is won by its first cell on the image.
  Real best[VECTOR];
  int winner[VECTOR];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    best[i] = -__uint_as_float(0x7f800000u);
    winner[i] = rows.first * size.s + columns.first;
  }
  for (int r = rows.first; r < rows.end; ++r) {
    const int row = top + r * size.dilation_h;
    for (int s = columns.first; s < columns.end; ++s) {
      const int column = left + s * size.dilation_w;
      const auto pixel = load_pack<VECTOR>(x + offset_of(at, row, column, size.h, size.w, size.c));
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const Real value = to_real(pixel.at[i]);
        const bool wins = value > best[i] || value != value;
        best[i] = wins ? value : best[i];
        winner[i] = wins ? r * size.s + s : winner[i];
      }
    }
  }

  Pack<Storage, VECTOR> largest;
  Pack<ARGMAX, VECTOR> taps;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    largest.at[i] = to_storage<Storage>(best[i]);
    taps.at[i] = static_cast<ARGMAX>(winner[i]);
  }
  store_pack(y + thread * VECTOR, largest);
  store_pack(argmax + thread * VECTOR, taps);
}

// max_pool2d_backward_gather: grad_x[n,h,w,c] = sum over the windows p,q with a tap r,s on pixel
//                             h,w of grad_y[n,p,q,c] where argmax[n,p,q,c] = r*S + s
//
// Mapping   one thread for VECTOR channels of one pixel of x; the windows over it in order, so that
//           the sum has a fixed order and needs no atomics.
// Traffic   reads = (STORAGE_BYTES + ARGMAX_BYTES) * n * p * q * c * r * s
//           writes = STORAGE_BYTES * n * h * w * c
//           dram_reads = (STORAGE_BYTES + ARGMAX_BYTES) * n * p * q * c
//           where all taps are on the image and a pixel fills a warp: narrower ones share sectors.
//           Neighbouring pixels find the same windows in cache; DRAM moves |x| + |y| + |argmax|.
// Roofline  1 addition a tap: memory bound.
// Limits    an array has < 2^31 elements.
// Source    the definition, turned from windows to pixels.
extern "C" __global__ void __launch_bounds__(BLOCK)
    max_pool2d_backward_gather(const Storage* __restrict__ grad_y,
                               const ARGMAX* __restrict__ argmax, Storage* __restrict__ grad_x,
                               PoolSize size) {
  const long long thread = global_thread();
  if (!has_place(thread, size.n, size.h, size.w, size.c)) return;
  const Place at = place_of(thread, size.h, size.w, size.c);
  const Range rows = windows_over(vertical(size), at.row);
  const Range columns = windows_over(horizontal(size), at.column);

  Real sum[VECTOR] = {};
  for (int p = rows.first; p < rows.end; ++p) {
    const int below = at.row - begin(vertical(size), p);
    const int r = quotient(below, size.dilation_h);
    if (r * size.dilation_h != below) continue;
    for (int q = columns.first; q < columns.end; ++q) {
      const int right = at.column - begin(horizontal(size), q);
      const int s = quotient(right, size.dilation_w);
      if (s * size.dilation_w != right) continue;
      const int window = offset_of(at, p, q, size.p, size.q, size.c);
      const auto grad = load_pack<VECTOR>(grad_y + window);
      const auto winner = load_pack<VECTOR>(argmax + window);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i)
        if (winner.at[i] == r * size.s + s) sum[i] += to_real(grad.at[i]);
    }
  }

  Pack<Storage, VECTOR> total;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) total.at[i] = to_storage<Storage>(sum[i]);
  store_pack(grad_x + thread * VECTOR, total);
}

// max_pool2d_indices_window: positions[n,p,q,c] = h*W + w of the winner argmax[n,p,q,c] = r*S + s
//
// Mapping   one thread an element.
// Traffic   reads = ARGMAX_BYTES * n * p * q * c
//           writes = 8 * n * p * q * c
// Roofline  memory bound.
// Limits    an array has < 2^31 elements.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    max_pool2d_indices_window(const ARGMAX* __restrict__ argmax, long long* __restrict__ positions,
                              PoolSize size) {
  const long long thread = global_thread();
  if (thread >= static_cast<long long>(size.n) * size.p * size.q * size.c) return;
  const unsigned pixel = static_cast<unsigned>(thread) / size.c;
  const unsigned line = pixel / size.q;
  const int q = pixel - line * size.q, p = line % size.p;
  const int r = argmax[thread] / size.s, s = argmax[thread] - r * size.s;
  const int row = begin(vertical(size), p) + r * size.dilation_h;
  const int column = begin(horizontal(size), q) + s * size.dilation_w;
  positions[thread] = static_cast<long long>(row) * size.w + column;
}
