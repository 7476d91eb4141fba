// The gradient with respect to x as correlations of grad_y with rotated filters; conv2d.cuh has the
// index maps.
//
// With a stride, only some taps have touched a pixel h: those with h + pad - r * dilation a
// multiple of the stride. They are the same for all pixels of a phase, h = phase + i * stride; so
// each phase is a correlation with stride 1 and its own taps, and no product with a zero is made.
#include "conv2d.cuh"

// In float64 a thread needs a few registers more than two large blocks leave it.
constexpr int DGRAD_RESIDENT = sizeof(Real) == 8 ? 1 : RESIDENT;

// One axis of a phase: its taps r = first + j * step, and the place in grad_y where the first meets
// the first pixel; each tap meets a pixel `back` before the one before.
struct PhaseAxis {
  int phase, stride, pixels;
  int first, step, taps;
  unsigned origin, back;

  __device__ __forceinline__ PhaseAxis(int phase, int length, int all_taps, int stride, int pad,
                                       int dilation)
      : phase(phase), stride(stride), pixels((length - 1 - phase) / stride + 1) {
    first = 0, step = 1, taps = all_taps;
    if (stride > 1) {
      taps = 0;
      for (int r = 0; r < all_taps; ++r) {
        if (distance(pad, dilation, r) % stride != 0) continue;
        if (taps == 0) first = r;
        if (taps == 1) step = r - first;
        ++taps;
      }
    }
    origin = static_cast<unsigned>(distance(pad, dilation, first) / stride);
    back = static_cast<unsigned>(static_cast<long long>(step) * dilation / stride);
  }

  __device__ __forceinline__ long long distance(int pad, int dilation, int r) const {
    return static_cast<long long>(phase) + pad - static_cast<long long>(r) * dilation;
  }
  __device__ __forceinline__ Axis axis(int length) const {
    return {1u, 0u - back, origin, static_cast<unsigned>(length)};
  }
};

// The operand whose rows are input channels and whose depth is (tap, filter), taps of a phase.
struct RotatedFilters {
  typedef unsigned Row;
  typedef Position Depth;
  const Storage* filters;  // at the phase's first tap of the first filter of the group
  unsigned channels, taps;
  unsigned places;                 // of a filter: r * s
  unsigned row_step, column_step;  // in places
  Radix tap_radix;

  __device__ __forceinline__ Row row(unsigned c) const { return c; }
  __device__ __forceinline__ Depth depth(unsigned i) const { return tap_radix.position(i); }
  __device__ __forceinline__ void advance(Depth& tap, int step) const {
    tap_radix.advance(tap, step);
  }
  __device__ __forceinline__ const Storage* at(Row c, const Depth& tap) const {
    const unsigned place = tap.low * places + tap.high * row_step + tap.middle * column_step;
    return c < channels && tap.high < taps ? filters + place * channels + c : nullptr;
  }
};

template <int V>
__device__ __forceinline__ void correlate(const PixelsByTaps& windows,
                                          const RotatedFilters& filters, const Corner& corner,
                                          int depth, SharedTiles& tiles, ThreadTile& result) {
  const TileLoader<PixelsByTaps, TILE_M, ALONG_DEPTH, V> a(windows, corner.row, 0);
  const TileLoader<RotatedFilters, TILE_N, ALONG_ROWS, V> b(filters, corner.column, 0);
  multiply_tiles(a, b, Share(depth, 0, 1).count, tiles, result);
}

// grad_x[n,h,w,c] = sum over k and over the r,s with h = p*stride_h + r*dilation_h - pad_top and
//                   w = q*stride_w + s*dilation_w - pad_left of grad_y[n,p,q,k] * w[k,r,s,c]
//
// Mapping   for each phase of the strides and each group, a product of the phase's pixels x
//           (r, s, k) with channels x (r, s, k): a block has a TILE_M x TILE_N tile of it, a thread
//           4 x 4. Every phase has as many blocks as the first, the largest.
// Traffic   reads = STORAGE_BYTES * k * r * s * (n * p * q * ceil_div(c // groups, TILE_N)
//                   + c // groups * ceil_div(n * ceil_div(h, stride_h) * ceil_div(w, stride_w),
//                                            TILE_M))
//           writes = STORAGE_BYTES * n * h * w * c
//           for whole packs of channels and filters, less the taps that fall on the padding.
// Roofline  size.flops / size.bytes: bound by arithmetic but for 1 x 1 filters of few channels.
// Limits    the channels of a group that are no whole packs are read one by one. A phase without
//           taps is filled with zeros.
// Source    the derivative of conv2d_fprop; Dumoulin and Visin 2016, sections 4.1 to 4.6.
extern "C" __global__ void __launch_bounds__(BLOCK, DGRAD_RESIDENT)
    conv2d_dgrad_tiled(const Storage* __restrict__ grad_y, const Storage* __restrict__ w,
                       Storage* __restrict__ grad_x, Conv2dSize size) {
  __shared__ SharedTiles tiles;
  const int group_c = size.c / size.groups, group_k = size.k / size.groups;
  const int phases_w = min(size.stride_w, size.w);
  const int most = size.n * tiles_of(size.h, size.stride_h) * tiles_of(size.w, size.stride_w);
  const Corner corner(most, size.groups, group_c);
  const PhaseAxis rows(corner.part / phases_w, size.h, size.r, size.stride_h, size.pad_top,
                       size.dilation_h);
  const PhaseAxis columns(corner.part % phases_w, size.w, size.s, size.stride_w, size.pad_left,
                          size.dilation_w);
  const int first_c = corner.group * group_c, first_k = corner.group * group_k;

  Windows windows;
  windows.images = grad_y + first_k;
  windows.channels = size.k;
  windows.batch = size.n;
  windows.taps = rows.taps;
  windows.rows = rows.axis(size.p);
  windows.columns = columns.axis(size.q);
  windows.pixel_radix = {unsigned(rows.pixels), unsigned(columns.pixels)};
  windows.tap_radix = {unsigned(columns.taps), unsigned(group_k)};

  RotatedFilters filters;
  const unsigned first_place = (first_k * size.r + rows.first) * size.s + columns.first;
  filters.filters = w + first_place * group_c;
  filters.channels = group_c;
  filters.taps = rows.taps;
  filters.places = size.r * size.s;
  filters.row_step = rows.step * size.s;
  filters.column_step = columns.step;
  filters.tap_radix = windows.tap_radix;

  ThreadTile result;
  const int depth = rows.taps * columns.taps * group_k;
  if (depth > 0) {
    const PixelsByTaps pixels{windows};
    if (in_packs(grad_y, group_k) && in_packs(w, group_c))
      correlate<PACK>(pixels, filters, corner, depth, tiles, result);
    else
      correlate<1>(pixels, filters, corner, depth, tiles, result);
  }

#pragma unroll
  for (int i = 0; i < SIDE; ++i) {
    const Position pixel = windows.pixel_radix.position(corner.row + result.row(i));
    if (pixel.high >= static_cast<unsigned>(size.n)) continue;
    const unsigned row = rows.phase + pixel.middle * size.stride_h;
    const unsigned column = columns.phase + pixel.low * size.stride_w;
    const long long at = (pixel.high * size.h + row) * size.w + column;
    result.store_row(i, grad_x + at * size.c + first_c + corner.column, group_c - corner.column);
  }
}
