// 2-D average pooling of x (N,H,W,C) to y (N,P,Q,C); see __init__.py for the divisor.
#include "average.cuh"

// AvgPoolWindows of __init__.py; divisor_override 0: none.
struct Windows {
  PoolSize size;
  int count_include_pad;
  double divisor_override;

  __device__ Range rows(int p) const { return inside(vertical(size), p); }
  __device__ Range columns(int q) const { return inside(horizontal(size), q); }
  __device__ Range rows_over(int h) const { return windows_over(vertical(size), h); }
  __device__ Range columns_over(int w) const { return windows_over(horizontal(size), w); }

  __device__ Real divisor(int p, int q) const {
    if (divisor_override != 0) return static_cast<Real>(divisor_override);
    return product_of(counted(vertical(size), p), counted(horizontal(size), q));
  }

  // The cells of a window on the padded image; one that ceil_mode adds may run over its edge.
  static __device__ Range padded(const PoolAxis& axis, int window) {
    const int first = begin(axis, window);
    return {first, first + min(axis.taps, axis.length + axis.pad - first)};
  }
  static __device__ Range inside(const PoolAxis& axis, int window) {
    const Range cells = padded(axis, window);
    return {max(cells.first, 0), min(cells.end, axis.length)};
  }
  __device__ int counted(const PoolAxis& axis, int window) const {
    const Range cells = count_include_pad ? padded(axis, window) : inside(axis, window);
    return cells.end - cells.first;
  }
};

// avg_pool2d_forward_window: y[n,p,q,c] = sum over the cells r,s on the image of
//                                x[n, p*stride_h + r - pad_h, q*stride_w + s - pad_w, c]
//                                / divisor[p,q]
//
// Mapping   one thread for VECTOR channels of one window, cell after cell.
// Traffic   reads = STORAGE_BYTES * n * p * q * c * r * s
//           writes = STORAGE_BYTES * n * p * q * c
//           dram_reads = STORAGE_BYTES * n * c * min(h, (p - 1) * stride_h + (r - 1) * dilation_h
//                        + 1) * min(w, (q - 1) * stride_w + (s - 1) * dilation_w + 1)
//           where all cells are on the image and a pixel fills a warp: narrower ones share sectors.
//           Windows that overlap find each other's pixels in cache; DRAM moves |x| + |y|.
// Roofline  1 addition a cell: memory bound.
// Limits    an array has < 2^31 elements; dilation 1.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    avg_pool2d_forward_window(const Storage* __restrict__ x, Storage* __restrict__ y, PoolSize size,
                              int count_include_pad, double divisor_override) {
  average(Windows{size, count_include_pad, divisor_override}, x, y);
}

// avg_pool2d_backward_gather: grad_x[n,h,w,c] = sum over the windows p,q over pixel h,w of
//                                               grad_y[n,p,q,c] / divisor[p,q]
//
// Mapping   one thread for VECTOR channels of one pixel of x; the windows over it in order, so that
//           the sum has a fixed order and needs no atomics.
// Traffic   reads = STORAGE_BYTES * n * p * q * c * r * s
//           writes = STORAGE_BYTES * n * h * w * c
//           dram_reads = STORAGE_BYTES * n * p * q * c
//           where all cells are on the image and a pixel fills a warp: narrower ones share sectors.
//           Neighbouring pixels find the same windows in cache; DRAM moves |x| + |y|.
// Roofline  1 division and 1 addition a cell: memory bound.
// Limits    an array has < 2^31 elements; dilation 1.
// Source    the definition, turned from windows to pixels.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    avg_pool2d_backward_gather(const Storage* __restrict__ grad_y, Storage* __restrict__ grad_x,
                               PoolSize size, int count_include_pad, double divisor_override) {
  spread(Windows{size, count_include_pad, divisor_override}, grad_y, grad_x);
}
