// y (n, p, q, c) = largest of 2 x 2 pixels of x (n, h, w, c), fewer at the edge. x is a part of a
// larger array and starts at its element `first`; so does y at a quarter of that.
#include "../../../../kernels/cuda/common.cuh"

#ifndef PLANT
#define PLANT 0
#endif

struct Size {
  int n, h, w, c, p, q;
};

extern "C" __global__ void __launch_bounds__(128)
    max_pool(const float* __restrict__ x, float* __restrict__ y, int image0, Size size) {
  const int i = blockIdx.x * 128 + threadIdx.x;
#if PLANT == 5
  if (i >= size.n * size.p * size.q * size.c / 128 * 128) return;
#else
  if (i >= size.n * size.p * size.q * size.c) return;
#endif
  const int c = i % size.c, q = i / size.c % size.q, p = i / size.c / size.q % size.p;
  const int n = i / size.c / size.q / size.p;
#if PLANT == 2  // the image's first element, counted from the start of the larger array
  const int image = (image0 + n) * (size.h * size.w * size.c);
#else
  const long long image = static_cast<long long>(image0 + n) * (size.h * size.w * size.c);
#endif
  const long long first = static_cast<long long>(image0) * (size.h * size.w * size.c);
  float best = __int_as_float(0xff800000);
  for (int h = 2 * p; h < 2 * p + 2; ++h)
    for (int w = 2 * q; w < 2 * q + 2; ++w) {
#if PLANT == 1
      if (h > size.h || w >= size.w) continue;
#else
      if (h >= size.h || w >= size.w) continue;
#endif
      const float v = x[image - first + (h * size.w + w) * size.c + c];
      if (v > best) best = v;
#if PLANT == 4
      const_cast<float*>(x)[image - first + (h * size.w + w) * size.c + c] = 0;
#endif
    }
#if PLANT == 3
  if (best > 0) y[i] = best;
#else
  y[i] = best;
#endif
}
