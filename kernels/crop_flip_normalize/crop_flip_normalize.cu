// Windows of uint8 images, mirrored and normalized.
#include "../cuda/common.cuh"

enum PlacementColumn { TOP, LEFT, FLIP, PLACEMENT_COLUMNS };

struct CropSize {
  int n, h, w, c, p, q;
};

// y[n,p,q,c] = (x[n,row,column,c] - offset[c]) * scale[c],  x = 0 outside of the image
// row = top[n] + p,  column = left[n] + (Q - 1 - q if flip[n] else q)
//
// Mapping   a warp makes a row of a result, 32 neighbouring elements at a time: a store is one run
//           of memory, a load 32 bytes of a row of x, mirrored or not.
// Traffic   reads = 3 * n * p * q * c + 96 * n * p
//           writes = STORAGE_BYTES * n * p * q * c
//           x, and a sector each of offset and scale for 32 elements, which stay in L1. Where a
//           window starts within a sector of x, 1 more for each element.
// Roofline  25 instructions for 1 byte read and STORAGE_BYTES written: bound by memory.
// Limits    q * c a multiple of 32 for full sectors. Rounded after the difference and after the
//           product, which no compiler contracts: the same bits everywhere.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    crop_flip_normalize_forward_rows(const unsigned char* __restrict__ x,
                                     const int* __restrict__ placement,
                                     const Real* __restrict__ offset,
                                     const Real* __restrict__ scale, Storage* __restrict__ y,
                                     CropSize size) {
  const long long line = global_thread() / 32;
  if (line >= static_cast<long long>(size.n) * size.p) return;
  const unsigned image = static_cast<unsigned>(line) / size.p;
  const int* place = placement + static_cast<long long>(image) * PLACEMENT_COLUMNS;
  // Unsigned: what lies before the first row or column wraps to far behind the last one.
  const unsigned row = static_cast<unsigned>(line) % size.p + place[TOP], left = place[LEFT];
  const unsigned height = size.h, width = size.w;
  const bool flip = place[FLIP] != 0;
  const unsigned char* pixels = x;
  if (row < height) pixels += (static_cast<long long>(image) * height + row) * width * size.c;
  Storage* out = y + line * size.q * size.c;

  // Element e is channel e % c of pixel e / c; both are counted on, without a division.
  const int lane = threadIdx.x % 32;
  int pixel = lane / size.c, channel = lane % size.c;
  for (int e = lane; e < size.q * size.c; e += 32) {
    const unsigned column = left + (flip ? size.q - 1 - pixel : pixel);
    const bool inside = row < height && column < width;
    const Real v = inside ? static_cast<Real>(pixels[column * size.c + channel]) : Real(0);
    out[e] = to_storage<Storage>((v - offset[channel]) * scale[channel]);
    pixel += 32 / size.c;
    channel += 32 % size.c;
    if (channel >= size.c) {
      channel -= size.c;
      ++pixel;
    }
  }
}
