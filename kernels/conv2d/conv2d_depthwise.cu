// Depthwise convolution, one input channel to a group, where a tile of a matrix product would be
// empty for the most part. Neighbouring threads have neighbouring channels; the filters of a block
// wait in shared memory. __init__.py has the equation.
#include "../cuda/gemm_tile.cuh"
#include "conv2d.cuh"

constexpr int LANES = 32;  // channels of a block, one for each lane of a warp
constexpr int PIXELS = 4;  // of a thread
constexpr int BLOCK_PIXELS = BLOCK / LANES * PIXELS;
constexpr int FILTER_TAPS = 32;  // of each filter, in shared memory at a time
constexpr int WGRAD_TAPS = 4;    // of a filter, summed by a thread at a time

// A place along an axis of the source, in steps of 1 / stride: taps meet pixels where rest is 0.
struct Place {
  unsigned at;
  int rest;
};

// How the place that meets a pixel moves from tap to tap: in fprop on by the dilation, in dgrad
// back by dilation / stride.
struct Walk {
  unsigned step, length;
  int rest_step, stride;

  static __device__ __forceinline__ Walk over_x(int dilation, int length) {
    return {unsigned(dilation), unsigned(length), 0, 1};
  }
  static __device__ __forceinline__ Walk over_grad_y(int stride, int dilation, int length) {
    return {0u - dilation / stride, unsigned(length), dilation % stride, stride};
  }
  __device__ __forceinline__ void advance(Place& place) const {
    place.at += step;
    place.rest -= rest_step;
    if (place.rest < 0) {
      place.rest += stride;
      --place.at;
    }
  }
  __device__ __forceinline__ bool meets(const Place& place) const {
    return place.rest == 0 && place.at < length;
  }
};

// A pixel of the result: its image in the source, and where its first tap meets the source.
struct Reach {
  unsigned image;  // number of pixels before it
  bool inside;
  Place row, first_column, column;
};

struct FilterTile {
  Real taps[LANES][FILTER_TAPS + 1];
};

// Copies taps first to first + count of the filters stride * (channel + i) + offset.
__device__ __forceinline__ void load_filters(FilterTile& tile, const Storage* w, int filter_taps,
                                             int first, int count, int channel, int channels,
                                             int stride, int offset) {
  for (int i = threadIdx.x; i < LANES * count; i += BLOCK) {
    const int lane = i / count, tap = i % count;
    if (channel + lane >= channels) break;
    const long long filter = static_cast<long long>(channel + lane) * stride + offset;
    tile.taps[lane][tap] = to_real(w[filter * filter_taps + first + tap]);
  }
}

// Adds to sum[i] the taps of a filter on the source, a channel of images `channels` deep. Zeros
// outside the image are multiplied where PADDED.
template <bool PADDED>
__device__ __forceinline__ void add_taps(Real (&sum)[PIXELS], Reach (&reach)[PIXELS],
                                         const Real* taps, int count, int& column, int columns,
                                         const Storage* source, int channels, const Walk& rows,
                                         const Walk& cols) {
  for (int tap = 0; tap < count; ++tap) {
    const Real weight = taps[tap];
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
      Reach& pixel = reach[i];
      const bool meets = pixel.inside && rows.meets(pixel.row) && cols.meets(pixel.column);
      const unsigned at = pixel.image + pixel.row.at * cols.length + pixel.column.at;
      if (meets) sum[i] += to_real(source[static_cast<long long>(at) * channels]) * weight;
      if (PADDED && !meets) sum[i] += 0 * weight;
      cols.advance(pixel.column);
    }
    if (++column == columns) {
      column = 0;
#pragma unroll
      for (int i = 0; i < PIXELS; ++i) {
        rows.advance(reach[i].row);
        reach[i].column = reach[i].first_column;
      }
    }
  }
}

// This thread's first pixel and its channel; blocks that run together have the same pixels.
struct Spot {
  unsigned pixel;
  int first_channel, lane, channel;

  __device__ __forceinline__ explicit Spot(int channels) {
    const int across = tiles_of(channels, LANES);
    lane = threadIdx.x % LANES;
    first_channel = blockIdx.x % across * LANES;
    channel = first_channel + lane;
    pixel = blockIdx.x / across * BLOCK_PIXELS + threadIdx.x / LANES * PIXELS;
  }
};

// y[n,p,q,k] = bias[k] + sum over r,s of
//              x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left,
//                k // (k/groups)] * w[k,r,s]
//
// Mapping   a warp has 32 filters, each lane PIXELS neighbouring pixels of its filter's result; a
//           block has 8 warps, whose filters it shares.
// Traffic   reads = STORAGE_BYTES * r * s * (n * p * q * c + k * ceil_div(n * p * q, 32))
//           writes = STORAGE_BYTES * n * p * q * k
//           dram_reads = STORAGE_BYTES * (n * h * w * c + k * r * s)
//           less the taps that fall on the padding.
// Roofline  2 r s operations for two elements moved: bound by memory, by L1 in practice.
// Limits    one channel to a group.
// Source    Howard et al. 2017 (MobileNets), section 3.1.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    conv2d_fprop_depthwise(const Storage* __restrict__ x, const Storage* __restrict__ w,
                           const Storage* __restrict__ bias, Storage* __restrict__ y,
                           Conv2dSize size) {
  __shared__ FilterTile filters;
  const Spot spot(size.k);
  const Radix radix{unsigned(size.p), unsigned(size.q)};
  const Walk rows = Walk::over_x(size.dilation_h, size.h);
  const Walk columns = Walk::over_x(size.dilation_w, size.w);
  Real sum[PIXELS];
  Reach reach[PIXELS];
#pragma unroll
  for (int i = 0; i < PIXELS; ++i) {
    const Position at = radix.position(spot.pixel + i);
    const Place row{at.middle * size.stride_h - size.pad_top, 0};
    const Place column{at.low * size.stride_w - size.pad_left, 0};
    const bool inside = at.high < unsigned(size.n) && spot.channel < size.k;
    reach[i] = {at.high * size.h * size.w, inside, row, column, column};
    sum[i] = 0;
  }

  const int taps = size.r * size.s;
  const Storage* source = x + spot.channel / (size.k / size.groups);
  int column = 0;
  for (int first = 0; first < taps; first += FILTER_TAPS) {
    const int count = min(FILTER_TAPS, taps - first);
    load_filters(filters, w, taps, first, count, spot.first_channel, size.k, 1, 0);
    __syncthreads();
    if (spot.channel < size.k)
      add_taps<true>(sum, reach, filters.taps[spot.lane], count, column, size.s, source, size.c,
                     rows, columns);
    __syncthreads();
  }

  const Real added =
      bias != nullptr && spot.channel < size.k ? to_real(bias[spot.channel]) : Real(0);
#pragma unroll
  for (int i = 0; i < PIXELS; ++i)
    if (reach[i].inside)
      y[static_cast<long long>(spot.pixel + i) * size.k + spot.channel] =
          to_storage<Storage>(sum[i] + added);
}

// grad_x[n,h,w,c] = sum over the k of channel c and over the r,s with h = p*stride_h +
//                   r*dilation_h - pad_top and w = q*stride_w + s*dilation_w - pad_left of
//                   grad_y[n,p,q,k] * w[k,r,s]
//
// Mapping   a warp has 32 channels, each lane PIXELS neighbouring pixels of its channel; a block
//           has 8 warps, whose filters it shares. Taps that a stride skips cost a comparison.
// Traffic   reads = STORAGE_BYTES * k * r * s * (n * p * q + ceil_div(n * h * w, 32))
//           writes = STORAGE_BYTES * n * h * w * c
//           dram_reads = STORAGE_BYTES * (n * p * q * k + k * r * s)
//           for one filter to a channel, less the taps that fall on the padding.
// Roofline  2 r s operations for two elements moved: bound by memory, by L1 in practice.
// Limits    one channel to a group.
// Source    the derivative of conv2d_fprop_depthwise.
extern "C" __global__ void __launch_bounds__(BLOCK, 3)
    conv2d_dgrad_depthwise(const Storage* __restrict__ grad_y, const Storage* __restrict__ w,
                           Storage* __restrict__ grad_x, Conv2dSize size) {
  __shared__ FilterTile filters;
  const Spot spot(size.c);
  const Radix radix{unsigned(size.h), unsigned(size.w)};
  const Walk rows = Walk::over_grad_y(size.stride_h, size.dilation_h, size.p);
  const Walk columns = Walk::over_grad_y(size.stride_w, size.dilation_w, size.q);
  const int taps = size.r * size.s, multiplier = size.k / size.groups;
  Real sum[PIXELS] = {};
  bool inside[PIXELS];
  for (int m = 0; m < multiplier; ++m) {
    Reach reach[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
      const Position at = radix.position(spot.pixel + i);
      const unsigned down = at.middle + size.pad_top, right = at.low + size.pad_left;
      const Place row{down / size.stride_h, int(down % size.stride_h)};
      const Place column{right / size.stride_w, int(right % size.stride_w)};
      inside[i] = at.high < unsigned(size.n) && spot.channel < size.c;
      reach[i] = {at.high * size.p * size.q, inside[i], row, column, column};
    }
    const Storage* source = grad_y + spot.channel * multiplier + m;
    int column = 0;
    for (int first = 0; first < taps; first += FILTER_TAPS) {
      const int count = min(FILTER_TAPS, taps - first);
      load_filters(filters, w, taps, first, count, spot.first_channel, size.c, multiplier, m);
      __syncthreads();
      if (spot.channel < size.c)
        add_taps<false>(sum, reach, filters.taps[spot.lane], count, column, size.s, source, size.k,
                        rows, columns);
      __syncthreads();
    }
  }

#pragma unroll
  for (int i = 0; i < PIXELS; ++i)
    if (inside[i])
      grad_x[static_cast<long long>(spot.pixel + i) * size.c + spot.channel] =
          to_storage<Storage>(sum[i]);
}

// grad_w[k,r,s] = sum over n,p,q of grad_y[n,p,q,k] *
//                 x[n, p*stride_h + r*dilation_h - pad_top, q*stride_w + s*dilation_w - pad_left,
//                   k // (k/groups)]
// or, with several splits, partial[split][k,r,s], the same over a part of the (n, p, q).
//
// Mapping   a warp has 32 filters and every eighth pixel of a split; a lane sums WGRAD_TAPS taps of
//           its filter. The sums of the block's 8 warps are added in order. The splits are
//           blockIdx.y.
// Traffic   reads = STORAGE_BYTES * n * p * q * (k * ceil_div(r * s, 4) + c * r * s)
//           writes = 32 * splits * k * r * s
//           dram_reads = STORAGE_BYTES * (n * h * w * c + n * p * q * k)
//           dram_writes = max(4, STORAGE_BYTES) * splits * k * r * s
//           less the taps that fall on the padding; a number is written to a sector.
// Roofline  2 r s operations for two elements moved: bound by memory, by L1 in practice.
// Limits    one channel to a group. An empty batch gives zeros.
// Source    the derivative of conv2d_fprop_depthwise.
extern "C" __global__ void __launch_bounds__(BLOCK)
    conv2d_wgrad_depthwise(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                           Storage* __restrict__ grad_w, Real* __restrict__ partial,
                           Conv2dSize size, int splits) {
  constexpr int WARPS = BLOCK / LANES;
  __shared__ Real sums[WARPS][WGRAD_TAPS][LANES];
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  const int taps = size.r * size.s, tap_tiles = tiles_of(taps, WGRAD_TAPS);
  const int first_tap = blockIdx.x % tap_tiles * WGRAD_TAPS;
  const int k = blockIdx.x / tap_tiles * LANES + lane;
  const Share share(size.n * size.p * size.q, TILE_DEPTH, blockIdx.y, splits);
  const TapsByPixels windows{windows_of_x(x, size, 0)};

  Real sum[WGRAD_TAPS] = {};
  if (k < size.k) {
    const unsigned c = k / (size.k / size.groups);
    Position tap[WGRAD_TAPS];
#pragma unroll
    for (int j = 0; j < WGRAD_TAPS; ++j) {
      const unsigned t = first_tap + j;
      tap[j] = {t / size.s, t % size.s, c};
    }
    unsigned i = share.first * TILE_DEPTH + warp;
    const unsigned end = (share.first + share.count) * TILE_DEPTH;
    Position pixel = windows.depth(i);
    for (; i < end && pixel.high < unsigned(size.n); i += WARPS) {
      const Real g = to_real(grad_y[static_cast<long long>(i) * size.k + k]);
#pragma unroll
      for (int j = 0; j < WGRAD_TAPS; ++j) {
        const Element element = windows.at(tap[j], pixel);
        sum[j] += g * (element.exists ? to_real(*element.at) : Real(0));
      }
      windows.advance(pixel, WARPS);
    }
  }
#pragma unroll
  for (int j = 0; j < WGRAD_TAPS; ++j) sums[warp][j][lane] = sum[j];
  __syncthreads();

  if (warp < WGRAD_TAPS && first_tap + warp < taps && k < size.k) {
    Real total = sums[0][warp][lane];
    for (int other = 1; other < WARPS; ++other) total += sums[other][warp][lane];
    const long long at = static_cast<long long>(k) * taps + first_tap + warp;
    if (splits == 1)
      grad_w[at] = to_storage<Storage>(total);
    else
      partial[static_cast<long long>(blockIdx.y) * size.k * taps + at] = total;
  }
}
