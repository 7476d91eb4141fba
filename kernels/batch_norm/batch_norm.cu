// Batch normalization of x (M,C), channels fastest: y = (x - mean) * inv_std * weight + bias.
//
// Blocks form a grid of slabs and splits. A slab is `columns` packs of VECTOR channels side by
// side, at most 128 channels; a split is `rows` rows of x. The threads of a block are lines of
// `columns` threads: a thread keeps its channels and walks down the rows of its split, so that a
// warp moves neighbours in memory. What a block knows of a channel is in shared memory, prepared by
// the thread of that number. Sums of a split go to memory, one row a split, and a second kernel
// adds these rows up in order: results do not depend on scheduling.
//
// The sums are float64 and the values of a channel too; an element is computed with in Real. Where
// it is float, the mean is a sum of two floats, high + low: x - high is exact near the mean, so
// that a mean much larger than the deviation costs no digits.
#include "../cuda/common.cuh"

#ifndef PACKED
#define PACKED 1
#endif

constexpr int VECTOR = PACKED ? 16 / sizeof(Storage) : 1;
constexpr int CHANNELS = 8;  // of a block that adds splits up

struct BatchNormSize {
  int m, c, columns, rows, splits;
};

// A thread of a block of a slab: its channels, in x and in the slab, and its rows row, row + step,
// ... below end (none where the slab has no such channel, or the block no such line).
struct Walk {
  int channel, in_slab;
  unsigned row, end, step;
};

__device__ __forceinline__ unsigned slab_begin(const BatchNormSize& size) {
  return blockIdx.x * static_cast<unsigned>(size.columns * VECTOR);
}

__device__ __forceinline__ int split_rows(const BatchNormSize& size, int split) {
  return min(size.rows, size.m - split * size.rows);
}

__device__ __forceinline__ Walk walk(const BatchNormSize& size) {
  const int lines = BLOCK / size.columns, line = threadIdx.x / size.columns;
  const int in_slab = (threadIdx.x - line * size.columns) * VECTOR;
  const unsigned channel = slab_begin(size) + in_slab;
  const unsigned begin = blockIdx.y * static_cast<unsigned>(size.rows);
  const unsigned end = begin + split_rows(size, blockIdx.y);
  const bool idle = line >= lines || channel >= static_cast<unsigned>(size.c);
  return {static_cast<int>(channel), in_slab, idle ? end : begin + line, end,
          static_cast<unsigned>(lines)};
}

// The channel of x that this thread prepares or finishes for its block; -1: none.
__device__ __forceinline__ int own_channel(const BatchNormSize& size) {
  const unsigned channel = slab_begin(size) + threadIdx.x;
  const bool none = threadIdx.x >= static_cast<unsigned>(size.columns * VECTOR) ||
                    channel >= static_cast<unsigned>(size.c);
  return none ? -1 : static_cast<int>(channel);
}

// The sum of all lines of `columns` threads with N channels each: that of channel t to thread t, by
// a tree of fixed order. `scratch`: N * BLOCK elements, free again on return.
template <int N>
__device__ __forceinline__ double sum_over_lines(const double (&sum)[N], double* scratch,
                                                 int columns) {
  const int t = threadIdx.x, lines = BLOCK / columns, line = t / columns;
#pragma unroll
  for (int i = 0; i < N; ++i) scratch[i * BLOCK + t] = sum[i];
  for (int step = 1; step < lines; step *= 2) {
    __syncthreads();
    if (line % (2 * step) == 0 && line + step < lines) {
#pragma unroll
      for (int i = 0; i < N; ++i) scratch[i * BLOCK + t] += scratch[i * BLOCK + t + step * columns];
    }
  }
  __syncthreads();
  const double total = scratch[t % N * BLOCK + t / N];
  __syncthreads();
  return total;
}

// The sum of one column of `parts` (splits, C), weighted, where lines of CHANNELS threads take
// splits in turn: to the first CHANNELS threads, each its channel's.
template <class Weighted>
__device__ __forceinline__ double sum_over_splits(const BatchNormSize& size, double* scratch,
                                                  Weighted weighted) {
  const int channel = blockIdx.x * CHANNELS + threadIdx.x % CHANNELS;
  double sum[1] = {0};
  if (channel < size.c) {
    for (int split = threadIdx.x / CHANNELS; split < size.splits; split += BLOCK / CHANNELS)
      sum[0] += weighted(split * size.c + channel, split_rows(size, split));
  }
  return sum_over_lines<1>(sum, scratch, CHANNELS);
}

// A number of a channel as float + float, or as double + 0; an infinite one + 0.
struct TwoReals {
  Real high, low;
};

__device__ __forceinline__ TwoReals two_reals(double v) {
  const Real high = static_cast<Real>(v);
  const double rest = v - high;
  return {high, rest == rest ? static_cast<Real>(rest) : Real(0)};
}

// batch_norm_forward_moments: of each split and channel the mean and the sum of squared deviations
//                             from it, by sums of x - shift:
//                             mean = shift + sum(x - shift) / n
//                             square = sum((x - shift)^2) - sum(x - shift)^2 / n
//
// The shift is the split's first value. As one of the values itself it is at most sqrt(n) standard
// deviations from the mean: the difference loses log2(n) of double's 53 bits at the very worst.
//
// Mapping   slabs x splits, see above.
// Traffic   reads = STORAGE_BYTES * (m + splits) * c
//           writes = 16 * splits * c
// Roofline  4 flops an element in double: memory bound where double runs at half the rate of float,
//           else (1/32 on sm_75) bound by double.
// Limits    m * c < 2^31.
// Source    Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance, section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, 3)
    batch_norm_forward_moments(const Storage* __restrict__ x, double* __restrict__ means,
                               double* __restrict__ squares, BatchNormSize size) {
  __shared__ double shifts[BLOCK];
  __shared__ double scratch[VECTOR * BLOCK];
  const Walk at = walk(size);
  const int own = own_channel(size), first_row = blockIdx.y * size.rows;
  double own_shift = 0;
  if (own >= 0) {
    const double first = to_real(x[first_row * size.c + own]);
    own_shift = first - first == 0 ? first : 0;  // not NaN, not infinite
  }
  shifts[threadIdx.x] = own_shift;
  __syncthreads();

  double shift[VECTOR], sum[VECTOR] = {}, square[VECTOR] = {};
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) shift[i] = shifts[at.in_slab + i];
#pragma unroll 4
  for (unsigned row = at.row; row < at.end; row += at.step) {
    const auto values = load_pack<VECTOR>(x + row * size.c + at.channel);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      const double difference = to_real(values.at[i]) - shift[i];
      sum[i] += difference;
      square[i] += difference * difference;
    }
  }

  const double own_sum = sum_over_lines(sum, scratch, size.columns);
  const double own_square = sum_over_lines(square, scratch, size.columns);
  if (own < 0) return;
  const int n = split_rows(size, blockIdx.y), i = blockIdx.y * size.c + own;
  means[i] = own_shift + own_sum / n;
  squares[i] = own_square - own_sum * own_sum / n;
}

// batch_norm_forward_combine: mean = sum over splits of n * means / M
//                             var = sum over splits of squares + n * (means - mean)^2, / M
//                             inv_std = 1 / sqrt(var + eps)
//                             running_mean += momentum * (mean - running_mean)
//                             running_var += momentum * (var * M / (M - 1) - running_var)
//
// Mapping   one block for CHANNELS channels, BLOCK / CHANNELS splits at a time.
// Traffic   reads = 24 * splits * c + 2 * max(STORAGE_BYTES, 4) * c + 32 * GRID
//           writes = 16 * c + 2 * max(STORAGE_BYTES, 4) * c
//           with running statistics.
// Roofline  5 flops a split and channel: bound by latency, a few microseconds.
// Limits    running_mean and running_var may be null, both, and momentum then too.
// Source    Chan, Golub, LeVeque 1983, equation 2.1, for many parts at once.
extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_forward_combine(const double* __restrict__ means, const double* __restrict__ squares,
                               Real* __restrict__ running_mean, Real* __restrict__ running_var,
                               const double* __restrict__ momentum, double* __restrict__ mean,
                               double* __restrict__ inv_std, double eps, BatchNormSize size) {
  __shared__ double centers[CHANNELS];
  __shared__ double scratch[BLOCK];
  const double sum = sum_over_splits(size, scratch, [&](int i, int n) { return n * means[i]; });
  if (threadIdx.x < CHANNELS) centers[threadIdx.x] = sum / size.m;
  __syncthreads();
  const double center = centers[threadIdx.x % CHANNELS];
  const double square = sum_over_splits(size, scratch, [&](int i, int n) {
    const double deviation = means[i] - center;
    return squares[i] + n * deviation * deviation;
  });

  const int channel = blockIdx.x * CHANNELS + threadIdx.x;
  if (threadIdx.x >= CHANNELS || channel >= size.c) return;
  const double var = square / size.m;
  mean[channel] = center;
  inv_std[channel] = 1 / sqrt(var + eps);
  if (!running_mean) return;
  const double share = *momentum, unbiased = var * (size.m / (size.m - 1.0));
  running_mean[channel] = static_cast<Real>((1 - share) * running_mean[channel] + share * center);
  running_var[channel] = static_cast<Real>((1 - share) * running_var[channel] + share * unbiased);
}

// batch_norm_forward_normalize: y = (x - mean) * (inv_std * weight) + bias
//
// Mapping   slabs x splits, see above.
// Traffic   reads = STORAGE_BYTES * m * c + (16 + 2 * max(STORAGE_BYTES, 4)) * splits * c
//           writes = STORAGE_BYTES * m * c
//           with a mean and a bias.
// Roofline  4 flops an element: memory bound.
// Limits    m * c < 2^31. mean and bias may be null: zeros.
// Source    Ioffe, Szegedy 2015, algorithm 1.
extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_forward_normalize(const Storage* __restrict__ x, const double* __restrict__ mean,
                                 const double* __restrict__ inv_std,
                                 const Real* __restrict__ weight, const Real* __restrict__ bias,
                                 Storage* __restrict__ y, BatchNormSize size) {
  __shared__ TwoReals means[BLOCK];
  __shared__ Real scales[BLOCK], biases[BLOCK];
  const Walk at = walk(size);
  const int own = own_channel(size);
  const bool has = own >= 0;
  means[threadIdx.x] = two_reals(has && mean ? mean[own] : 0);
  scales[threadIdx.x] = has ? static_cast<Real>(inv_std[own] * weight[own]) : 0;
  biases[threadIdx.x] = has && bias ? bias[own] : 0;
  __syncthreads();

  TwoReals center[VECTOR];
  Real scale[VECTOR], shift[VECTOR];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const int channel = at.in_slab + i;
    center[i] = means[channel];
    scale[i] = scales[channel];
    shift[i] = biases[channel];
  }
#pragma unroll 4
  for (unsigned row = at.row; row < at.end; row += at.step) {
    const auto values = load_pack<VECTOR>(x + row * size.c + at.channel);
    Pack<Storage, VECTOR> result;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      const Real centered = to_real(values.at[i]) - center[i].high - center[i].low;
      result.at[i] = to_storage<Storage>(centered * scale[i] + shift[i]);
    }
    store_pack(y + row * size.c + at.channel, result);
  }
}

// batch_norm_forward_eval_statistics: mean = running_mean, inv_std = 1 / sqrt(running_var + eps)
//
// Mapping   one thread a channel.
// Traffic   reads = 2 * max(STORAGE_BYTES, 4) * c
//           writes = 16 * c
// Roofline  bound by latency, a few microseconds.
// Limits    none.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_forward_eval_statistics(const Real* __restrict__ running_mean,
                                       const Real* __restrict__ running_var,
                                       double* __restrict__ mean, double* __restrict__ inv_std,
                                       double eps, int c) {
  const long long channel = global_thread();
  if (channel >= c) return;
  mean[channel] = running_mean[channel];
  inv_std[channel] = 1 / sqrt(running_var[channel] + eps);
}

// batch_norm_backward_sums: of each split and channel sum(grad_y) and sum(grad_y * (x - mean)),
//                           over a few rows in Real, all these in double
//
// Mapping   slabs x splits, see above.
// Traffic   reads = 2 * STORAGE_BYTES * m * c + 8 * splits * c
//           writes = 16 * splits * c
// Roofline  5 flops an element: memory bound.
// Limits    m * c < 2^31.
// Source    Ioffe, Szegedy 2015, section 3, rearranged as in __init__.py.
extern "C" __global__ void __launch_bounds__(BLOCK, 2)
    batch_norm_backward_sums(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                             const double* __restrict__ mean, double* __restrict__ sums,
                             double* __restrict__ products, BatchNormSize size) {
  constexpr int ROWS = 4;
  __shared__ TwoReals means[BLOCK];
  __shared__ double scratch[VECTOR * BLOCK];
  const Walk at = walk(size);
  const int own = own_channel(size);
  means[threadIdx.x] = two_reals(own >= 0 ? mean[own] : 0);
  __syncthreads();

  TwoReals center[VECTOR];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) center[i] = means[at.in_slab + i];
  double sum[VECTOR] = {}, product[VECTOR] = {};
  for (unsigned begin = at.row; begin < at.end; begin += ROWS * at.step) {
    Real few[VECTOR] = {}, few_products[VECTOR] = {};
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
      const unsigned row = begin + j * at.step;
      if (row >= at.end) continue;
      const auto grads = load_pack<VECTOR>(grad_y + row * size.c + at.channel);
      const auto values = load_pack<VECTOR>(x + row * size.c + at.channel);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const Real grad = to_real(grads.at[i]);
        few[i] += grad;
        few_products[i] += grad * (to_real(values.at[i]) - center[i].high - center[i].low);
      }
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      sum[i] += few[i];
      product[i] += few_products[i];
    }
  }

  const double own_sum = sum_over_lines(sum, scratch, size.columns);
  const double own_product = sum_over_lines(product, scratch, size.columns);
  if (own < 0) return;
  sums[blockIdx.y * size.c + own] = own_sum;
  products[blockIdx.y * size.c + own] = own_product;
}

// batch_norm_backward_combine: grad_bias = sum over splits of sums
//                              grad_weight = sum over splits of products, * inv_std
//
// Mapping   one block for CHANNELS channels, BLOCK / CHANNELS splits at a time.
// Traffic   reads = 16 * splits * c + 8 * c
//           writes = 16 * c + 2 * max(STORAGE_BYTES, 4) * c
// Roofline  1 flop a number: bound by latency, a few microseconds.
// Limits    none.
// Source    Ioffe, Szegedy 2015, section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    batch_norm_backward_combine(const double* __restrict__ sums,
                                const double* __restrict__ products,
                                const double* __restrict__ inv_std, double* __restrict__ sum_g,
                                double* __restrict__ sum_gx, Real* __restrict__ grad_weight,
                                Real* __restrict__ grad_bias, BatchNormSize size) {
  __shared__ double scratch[BLOCK];
  const double sum = sum_over_splits(size, scratch, [&](int i, int) { return sums[i]; });
  const double product = sum_over_splits(size, scratch, [&](int i, int) { return products[i]; });
  const int channel = blockIdx.x * CHANNELS + threadIdx.x;
  if (threadIdx.x >= CHANNELS || channel >= size.c) return;
  const double sum_gx_hat = product * inv_std[channel];
  sum_g[channel] = sum;
  sum_gx[channel] = sum_gx_hat;
  grad_bias[channel] = static_cast<Real>(sum);
  grad_weight[channel] = static_cast<Real>(sum_gx_hat);
}

// batch_norm_backward_gradient: grad_x = weight * inv_std * (grad_y - sum_g / M
//                                        - (x - mean) * inv_std * sum_gx / M)
//
// Mapping   slabs x splits, see above.
// Traffic   reads = 2 * STORAGE_BYTES * m * c + (32 + max(STORAGE_BYTES, 4)) * splits * c
//           writes = STORAGE_BYTES * m * c
// Roofline  6 flops an element: memory bound.
// Limits    m * c < 2^31.
// Source    Ioffe, Szegedy 2015, section 3, rearranged as in __init__.py.
extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_backward_gradient(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                                 const double* __restrict__ mean,
                                 const double* __restrict__ inv_std,
                                 const Real* __restrict__ weight, const double* __restrict__ sum_g,
                                 const double* __restrict__ sum_gx, Storage* __restrict__ grad_x,
                                 BatchNormSize size) {
  __shared__ TwoReals means[BLOCK];
  __shared__ Real scales[BLOCK], offsets[BLOCK], slopes[BLOCK];
  const Walk at = walk(size);
  const int own = own_channel(size);
  const bool has = own >= 0;
  const double own_inv_std = has ? inv_std[own] : 0;
  means[threadIdx.x] = two_reals(has ? mean[own] : 0);
  scales[threadIdx.x] = has ? static_cast<Real>(own_inv_std * weight[own]) : 0;
  offsets[threadIdx.x] = has ? static_cast<Real>(sum_g[own] / size.m) : 0;
  slopes[threadIdx.x] = has ? static_cast<Real>(own_inv_std * (sum_gx[own] / size.m)) : 0;
  __syncthreads();

  TwoReals center[VECTOR];
  Real scale[VECTOR], offset[VECTOR], slope[VECTOR];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    const int channel = at.in_slab + i;
    center[i] = means[channel];
    scale[i] = scales[channel];
    offset[i] = offsets[channel];
    slope[i] = slopes[channel];
  }
#pragma unroll 2
  for (unsigned row = at.row; row < at.end; row += at.step) {
    const auto grads = load_pack<VECTOR>(grad_y + row * size.c + at.channel);
    const auto values = load_pack<VECTOR>(x + row * size.c + at.channel);
    Pack<Storage, VECTOR> result;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      const Real centered = to_real(values.at[i]) - center[i].high - center[i].low;
      const Real rest = to_real(grads.at[i]) - offset[i] - centered * slope[i];
      result.at[i] = to_storage<Storage>(scale[i] * rest);
    }
    store_pack(grad_x + row * size.c + at.channel, result);
  }
}
