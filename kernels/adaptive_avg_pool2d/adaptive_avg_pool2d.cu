// 2-D adaptive average pooling of x (N,H,W,C) to y (N,P,Q,C).
#include "../avg_pool2d/average.cuh"

struct AdaptivePoolSize {
  int n, h, w, c, p, q;
};

// The windows that share the image out evenly. i * length / count <= pixel is the same as
// i < (pixel + 1) * count / length: so the windows over a pixel follow from the same formula, with
// the two numbers exchanged.
struct Windows {
  AdaptivePoolSize size;

  __device__ Range rows(int p) const { return share(p, size.h, size.p); }
  __device__ Range columns(int q) const { return share(q, size.w, size.q); }
  __device__ Range rows_over(int h) const { return share(h, size.p, size.h); }
  __device__ Range columns_over(int w) const { return share(w, size.q, size.w); }

  __device__ Real divisor(int p, int q) const {
    const Range r = rows(p), c = columns(q);
    return product_of(r.end - r.first, c.end - c.first);
  }

  // floor(i * length / count) <= j < ceil((i + 1) * length / count)
  static __device__ Range share(int i, int length, int count) {
    const unsigned long long begin = static_cast<unsigned long long>(i) * length;
    return {static_cast<int>(begin / count),
            static_cast<int>((begin + length + count - 1) / count)};
  }
};

// adaptive_avg_pool2d_forward_window: y[n,p,q,c] = mean of x[n,h,w,c] over
//                                                  floor(p*H/P) <= h < ceil((p+1)*H/P),
//                                                  floor(q*W/Q) <= w < ceil((q+1)*W/Q)
//
// Mapping   one thread for VECTOR channels of one window, pixel after pixel.
// Traffic   reads = STORAGE_BYTES * n * h * w * c
//           writes = STORAGE_BYTES * n * p * q * c
//           where P divides H, Q divides W and a pixel fills a warp.
// Roofline  1 addition a pixel: memory bound.
// Limits    an array has < 2^31 elements. Few windows of many pixels leave a GPU idle: N*P*Q*C /
//           VECTOR threads.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    adaptive_avg_pool2d_forward_window(const Storage* __restrict__ x, Storage* __restrict__ y,
                                       AdaptivePoolSize size) {
  average(Windows{size}, x, y);
}

// adaptive_avg_pool2d_backward_gather: grad_x[n,h,w,c] = sum over the windows p,q over pixel h,w of
//                                                        grad_y[n,p,q,c] / cells of the window
//
// Mapping   one thread for VECTOR channels of one pixel of x; the windows over it in order, so that
//           the sum has a fixed order and needs no atomics.
// Traffic   reads = STORAGE_BYTES * n * h * w * c
//           writes = STORAGE_BYTES * n * h * w * c
//           dram_reads = STORAGE_BYTES * n * p * q * c
//           where P divides H, Q divides W and a pixel fills a warp. Pixels of one window find its
//           grad_y in cache; DRAM moves |x| + |y|.
// Roofline  1 division and 1 addition a pixel: memory bound.
// Limits    an array has < 2^31 elements.
// Source    the definition, turned from windows to pixels.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    adaptive_avg_pool2d_backward_gather(const Storage* __restrict__ grad_y,
                                        Storage* __restrict__ grad_x, AdaptivePoolSize size) {
  spread(Windows{size}, grad_y, grad_x);
}
