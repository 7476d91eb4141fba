// Average pooling where a window is any rectangle of pixels: what avg_pool2d and
// adaptive_avg_pool2d share.
//
// `windows` says which: rows(p) and columns(q) are the pixels of a window on the image,
// rows_over(h) and columns_over(w) the windows over a pixel, divisor(p, q) what a window's sum is
// divided by.
#pragma once

#include "../pooling_window.cuh"

// y[n,p,q,c] = sum over the pixels h,w of window p,q of x[n,h,w,c] / divisor(p,q), by one thread
// for VECTOR channels of one window.
template <class Windows>
__device__ __forceinline__ void average(const Windows& windows, const Storage* __restrict__ x,
                                        Storage* __restrict__ y) {
  const auto& size = windows.size;
  const long long thread = global_thread();
  if (!has_place(thread, size.n, size.p, size.q, size.c)) return;
  const Place at = place_of(thread, size.p, size.q, size.c);
  const Range rows = windows.rows(at.row), columns = windows.columns(at.column);

  Real sum[VECTOR] = {};
  for (int h = rows.first; h < rows.end; ++h) {
    for (int w = columns.first; w < columns.end; ++w) {
      const auto pixel = load_pack<VECTOR>(x + offset_of(at, h, w, size.h, size.w, size.c));
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) sum[i] += to_real(pixel.at[i]);
    }
  }

  const Real divisor = windows.divisor(at.row, at.column);
  Pack<Storage, VECTOR> mean;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) mean.at[i] = to_storage<Storage>(sum[i] / divisor);
  store_pack(y + thread * VECTOR, mean);
}

// grad_x[n,h,w,c] = sum over the windows p,q over pixel h,w of grad_y[n,p,q,c] / divisor(p,q), by
// one thread for VECTOR channels of one pixel.
template <class Windows>
__device__ __forceinline__ void spread(const Windows& windows, const Storage* __restrict__ grad_y,
                                       Storage* __restrict__ grad_x) {
  const auto& size = windows.size;
  const long long thread = global_thread();
  if (!has_place(thread, size.n, size.h, size.w, size.c)) return;
  const Place at = place_of(thread, size.h, size.w, size.c);
  const Range rows = windows.rows_over(at.row), columns = windows.columns_over(at.column);

  Real sum[VECTOR] = {};
  for (int p = rows.first; p < rows.end; ++p) {
#pragma unroll 1  // few windows: more at once would only take registers
    for (int q = columns.first; q < columns.end; ++q) {
      const auto grad = load_pack<VECTOR>(grad_y + offset_of(at, p, q, size.p, size.q, size.c));
      const Real divisor = windows.divisor(p, q);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) sum[i] += to_real(grad.at[i]) / divisor;
    }
  }

  Pack<Storage, VECTOR> total;
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) total.at[i] = to_storage<Storage>(sum[i]);
  store_pack(grad_x + thread * VECTOR, total);
}

// Cells of a window as a divisor.
__device__ __forceinline__ Real product_of(int rows, int columns) {
  return static_cast<Real>(static_cast<long long>(rows) * columns);
}
