// Batch normalization of x (M,C), channels fastest: y = (x - mean) * inv_std * weight + bias, to
// which a residual (M,C) may be added, and of which what is below 0 may become 0 ("relu").
//
// Blocks form a grid of slabs and splits. A slab is `columns` packs of VECTOR channels side by
// side, at most 128 channels; a split is `rows` rows of x. The threads of a block are lines of
// `columns` threads: a thread keeps its channels and walks down the rows of its split, so that a
// warp moves neighbours in memory. What a block knows of a channel is in shared memory, prepared by
// the thread of that number. Sums of a split go to memory, one row a split, and a second kernel
// adds these rows up in order: results do not depend on scheduling.
//
// The sums are float64 and the values of a channel too; an element is computed with in Real.
#include "../cuda/normalized.cuh"

#ifndef PACKED
#define PACKED 1
#endif
#ifndef MOMENTS  // type of the moments: a convolution's are float
#define MOMENTS double
#endif
#ifndef SUMS  // type of a gradient's sums: a convolution's are float
#define SUMS double
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

// What a block knows of the channels of its slab, and this thread's part of it. All threads must
// take part; mean and bias may be null: zeros, inv_std and weight: ones.
struct SharedChannels {
  TwoReals centers[BLOCK];
  Real scales[BLOCK], shifts[BLOCK];

  __device__ __forceinline__ void set(int own, const double* mean, const double* inv_std,
                                      const Real* weight, const Real* bias) {
    const bool has = own >= 0;
    centers[threadIdx.x] = two_reals(has && mean ? mean[own] : 0);
    const double scale = has && inv_std ? inv_std[own] : 1;
    scales[threadIdx.x] = static_cast<Real>(has && weight ? scale * weight[own] : scale);
    shifts[threadIdx.x] = has && bias ? bias[own] : 0;
  }
};

struct Channels {
  TwoReals center[VECTOR];
  Real scale[VECTOR], shift[VECTOR];

  __device__ __forceinline__ Channels(const SharedChannels& shared, int in_slab) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      center[i] = shared.centers[in_slab + i];
      scale[i] = shared.scales[in_slab + i];
      shift[i] = shared.shifts[in_slab + i];
    }
  }

  __device__ __forceinline__ Real centered(int i, Storage x) const {
    return ::centered(to_real(x), center[i]);
  }
  __device__ __forceinline__ Real normalized(int i, Storage x) const {
    return ::normalized(centered(i, x), scale[i], shift[i]);
  }
};

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
// Traffic   reads = 3 * MOMENTS_BYTES * splits * c + 2 * max(STORAGE_BYTES, 4) * c + 32 * GRID
//           writes = 16 * c + 2 * max(STORAGE_BYTES, 4) * c
//           with running statistics.
// Roofline  5 flops a split and channel: bound by latency, a few microseconds.
// Limits    running_mean and running_var may be null, both, and momentum then too.
// Source    Chan, Golub, LeVeque 1983, equation 2.1, for many parts at once.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    batch_norm_forward_combine(const MOMENTS* __restrict__ means,
                               const MOMENTS* __restrict__ squares, Real* __restrict__ running_mean,
                               Real* __restrict__ running_var, const double* __restrict__ momentum,
                               double* __restrict__ mean, double* __restrict__ inv_std, double eps,
                               BatchNormSize size) {
  __shared__ double centers[CHANNELS];
  __shared__ double scratch[BLOCK];
  const double sum = sum_over_splits(
      size, scratch, [&](int i, int n) { return static_cast<double>(n) * means[i]; });
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

template <bool RESIDUAL>
__device__ __forceinline__ void normalize_rows(const Storage* x, const Storage* residual,
                                               const Channels& channels, bool relu, Storage* y,
                                               unsigned char* signs, const Walk& at, int c) {
#pragma unroll 4
  for (unsigned row = at.row; row < at.end; row += at.step) {
    const unsigned first = row * c + at.channel;
    const auto values = load_pack<VECTOR>(x + first);
    Pack<Storage, VECTOR> added, result;
    unsigned bits = 0;
    if (RESIDUAL) added = load_pack<VECTOR>(residual + first);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      Real v = channels.normalized(i, values.at[i]);
      if (RESIDUAL) v += to_real(added.at[i]);
      result.at[i] = to_storage<Storage>(relu && v < 0 ? Real(0) : v);
      bits |= (to_real(result.at[i]) > 0 ? 1u : 0u) << i;
    }
    if (PACKED && signs) signs[first / VECTOR] = static_cast<unsigned char>(bits);
    store_pack(y + first, result);
  }
}

// batch_norm_forward_normalize: y = (x - mean) * (inv_std * weight) + bias + residual, and 0 where
//                               that is below 0 and relu is set; NaN stays NaN
// With signs, bit i of byte j is whether element i of pack j of y is more than 0.
//
// Mapping   slabs x splits, see above.
// Traffic   reads = STORAGE_BYTES * (1 + has_residual) * m * c
//                   + (8 * (has_mean + has_inv_std)
//                      + max(STORAGE_BYTES, 4) * (has_weight + has_bias)) * splits * c
//           writes = STORAGE_BYTES * m * c * (1 + has_signs / 16)
// Roofline  6 flops an element: memory bound.
// Limits    m * c < 2^31. mean, bias and residual may be null: zeros, inv_std and weight: ones.
//           signs may be null, and is without packs.
// Source    Ioffe, Szegedy 2015, algorithm 1.
extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_forward_normalize(const Storage* __restrict__ x, const double* __restrict__ mean,
                                 const double* __restrict__ inv_std,
                                 const Real* __restrict__ weight, const Real* __restrict__ bias,
                                 const Storage* __restrict__ residual, bool relu,
                                 Storage* __restrict__ y, unsigned char* __restrict__ signs,
                                 BatchNormSize size) {
  __shared__ SharedChannels shared;
  const Walk at = walk(size);
  shared.set(own_channel(size), mean, inv_std, weight, bias);
  __syncthreads();
  const Channels channels(shared, at.in_slab);
  if (residual)
    normalize_rows<true>(x, residual, channels, relu, y, signs, at, size.c);
  else
    normalize_rows<false>(x, residual, channels, relu, y, signs, at, size.c);
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

// Sums of g and of g * (x - mean) over the rows of a thread: ROWS of them in Real, all in double.
template <bool FROM_Y>
__device__ __forceinline__ void sum_rows(const Storage* grad_y, const Storage* x, const Storage* y,
                                         const Channels& channels, bool relu, Storage* g,
                                         const Walk& at, int c, double (&sum)[VECTOR],
                                         double (&product)[VECTOR]) {
  constexpr int ROWS = 4;
  for (unsigned begin = at.row; begin < at.end; begin += ROWS * at.step) {
    Real few[VECTOR] = {}, few_products[VECTOR] = {};
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
      const unsigned row = begin + j * at.step, first = row * c + at.channel;
      if (row >= at.end) continue;
      auto grads = load_pack<VECTOR>(grad_y + first);
      const auto values = load_pack<VECTOR>(x + first);
      Pack<Storage, VECTOR> results;
      if (FROM_Y) results = load_pack<VECTOR>(y + first);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) {
        const Real result = FROM_Y ? to_real(results.at[i]) : channels.normalized(i, values.at[i]);
        if (relu && !(result > 0)) grads.at[i] = Storage();
        const Real grad = to_real(grads.at[i]);
        few[i] += grad;
        few_products[i] += grad * channels.centered(i, values.at[i]);
      }
      if (FROM_Y) store_pack(g + first, grads);
    }
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      sum[i] += few[i];
      product[i] += few_products[i];
    }
  }
}

// batch_norm_backward_sums: of each split and channel sum(g) and sum(g * (x - mean)), where
//                           g = grad_y, or with relu, where forward gave more than 0, else 0
//
// What forward gave is read from y, and g is then written, for a residual's gradient and the second
// pass; without y it is computed again from x, which costs no memory traffic.
//
// Mapping   slabs x splits, see above.
// Traffic   reads = STORAGE_BYTES * (2 + has_y) * m * c
//                   + (16 + max(STORAGE_BYTES, 4) * (1 + has_bias)) * splits * c
//           writes = STORAGE_BYTES * has_y * m * c + 16 * splits * c
// Roofline  9 flops an element: memory bound.
// Limits    m * c < 2^31. bias may be null: zeros. y and g may be null, both.
// Source    Ioffe, Szegedy 2015, section 3, rearranged as in __init__.py.
extern "C" __global__ void __launch_bounds__(BLOCK, 2)
    batch_norm_backward_sums(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                             const double* __restrict__ mean, const double* __restrict__ inv_std,
                             const Real* __restrict__ weight, const Real* __restrict__ bias,
                             const Storage* __restrict__ y, bool relu, Storage* __restrict__ g,
                             double* __restrict__ sums, double* __restrict__ products,
                             BatchNormSize size) {
  __shared__ SharedChannels shared;
  __shared__ double scratch[VECTOR * BLOCK];
  const Walk at = walk(size);
  const int own = own_channel(size);
  shared.set(own, mean, inv_std, weight, bias);
  __syncthreads();
  const Channels channels(shared, at.in_slab);
  double sum[VECTOR] = {}, product[VECTOR] = {};
  if (y)
    sum_rows<true>(grad_y, x, y, channels, relu, g, at, size.c, sum, product);
  else
    sum_rows<false>(grad_y, x, y, channels, relu, g, at, size.c, sum, product);

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
// Traffic   reads = 2 * SUMS_BYTES * splits * c + 8 * c
//           writes = 16 * c + 2 * max(STORAGE_BYTES, 4) * c
// Roofline  1 flop a number: bound by latency, a few microseconds.
// Limits    none.
// Source    Ioffe, Szegedy 2015, section 3.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    batch_norm_backward_combine(const SUMS* __restrict__ sums, const SUMS* __restrict__ products,
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

// batch_norm_backward_gradient: grad_x = weight * inv_std * (g - sum_g / M
//                                        - (x - mean) * inv_std * sum_gx / M), where
//                               g = grad_y, or with relu, where forward gave more than 0, else 0
//
// Mapping   slabs x splits, see above.
// Traffic   reads = 2 * STORAGE_BYTES * m * c + (16 + 16 * has_sum_g
//                   + max(STORAGE_BYTES, 4) * (1 + has_bias)) * splits * c
//           writes = STORAGE_BYTES * m * c
// Roofline  8 flops an element: memory bound.
// Limits    m * c < 2^31. bias may be null: zeros. sum_g and sum_gx may be null, both: zeros, as
//           in evaluation.
// Source    Ioffe, Szegedy 2015, section 3, rearranged as in __init__.py.
extern "C" __global__ void __launch_bounds__(BLOCK)
    batch_norm_backward_gradient(const Storage* __restrict__ grad_y, const Storage* __restrict__ x,
                                 const double* __restrict__ mean,
                                 const double* __restrict__ inv_std,
                                 const Real* __restrict__ weight, const Real* __restrict__ bias,
                                 bool relu, const double* __restrict__ sum_g,
                                 const double* __restrict__ sum_gx, Storage* __restrict__ grad_x,
                                 BatchNormSize size) {
  __shared__ SharedChannels shared;
  __shared__ Real offsets[BLOCK], slopes[BLOCK];
  const Walk at = walk(size);
  const int own = own_channel(size);
  const bool summed = own >= 0 && sum_g;
  shared.set(own, mean, inv_std, weight, bias);
  offsets[threadIdx.x] = summed ? static_cast<Real>(sum_g[own] / size.m) : 0;
  slopes[threadIdx.x] = summed ? static_cast<Real>(inv_std[own] * (sum_gx[own] / size.m)) : 0;
  __syncthreads();

  const Channels channels(shared, at.in_slab);
  Real offset[VECTOR], slope[VECTOR];
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    offset[i] = offsets[at.in_slab + i];
    slope[i] = slopes[at.in_slab + i];
  }
#pragma unroll 2
  for (unsigned row = at.row; row < at.end; row += at.step) {
    const unsigned first = row * size.c + at.channel;
    const auto grads = load_pack<VECTOR>(grad_y + first);
    const auto values = load_pack<VECTOR>(x + first);
    Pack<Storage, VECTOR> result;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
      const bool positive = channels.normalized(i, values.at[i]) > 0;
      const Real grad = relu && !positive ? Real(0) : to_real(grads.at[i]);
      const Real rest = grad - offset[i] - channels.centered(i, values.at[i]) * slope[i];
      result.at[i] = to_storage<Storage>(channels.scale[i] * rest);
    }
    store_pack(grad_x + first, result);
  }
}
