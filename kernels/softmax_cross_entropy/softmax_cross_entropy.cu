// Softmax and cross entropy in one; __init__.py has the equations. As in the definition, all is
// computed in float64. LANES threads share a row: a warp, or the whole block.
//
// Four blocks on a multiprocessor are asked for, and loops with an exponential are not unrolled:
// left alone, the compiler spills registers in order to fit more blocks.
#include "../cuda/common.cuh"

#ifndef LANES
#define LANES 32
#endif

constexpr int WARPS = BLOCK / 32;
constexpr int ROWS = BLOCK / LANES;  // that a block works on at a time

struct CrossEntropySize {
  int m, c;
};

__device__ __forceinline__ double wide(Storage v) { return static_cast<double>(to_real(v)); }

// The weight of class c; without weights, a null pointer, it is 1.
__device__ __forceinline__ double weight_of(const Storage* weight, long long c) {
  return weight ? wide(weight[c]) : 1.0;
}

struct Sum {
  static __device__ __forceinline__ double of(double a, double b) { return a + b; }
};
struct Largest {  // may lose a NaN, which the sum of the exponentials then has
  static __device__ __forceinline__ double of(double a, double b) { return a > b ? a : b; }
};

// Combine v over the threads of a row, in every one of them, in a fixed order.
template <typename Combine>
__device__ __forceinline__ double over_row(double v, double* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1)
    v = Combine::of(v, __shfl_xor_sync(0xffffffffu, v, offset));
  if (LANES == 32) return v;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  v = scratch[0];
  for (int warp = 1; warp < WARPS; ++warp) v = Combine::of(v, scratch[warp]);
  __syncthreads();
  return v;
}

__device__ __forceinline__ double log_sum_exp(const Storage* x, int c, double* scratch) {
  const int lane = threadIdx.x % LANES;
  double largest = lane < c ? wide(x[lane]) : wide(x[0]), total = 0;
#pragma unroll 1
  for (int i = lane + LANES; i < c; i += LANES) largest = Largest::of(largest, wide(x[i]));
  largest = over_row<Largest>(largest, scratch);
#pragma unroll 1
  for (int i = lane; i < c; i += LANES) total += exp(wide(x[i]) - largest);
  return largest + log(over_row<Sum>(total, scratch));
}

// What a block has added up over its rows: thread 0 writes (losses, weights).
__device__ __forceinline__ void write_part(double losses, double weights, double* part,
                                           double* scratch) {
  losses = block_sum(losses, scratch);
  weights = block_sum(weights, scratch);
  if (threadIdx.x != 0) return;
  part[2 * blockIdx.x] = losses;
  part[2 * blockIdx.x + 1] = weights;
}

__device__ __forceinline__ double not_a_number() { return __longlong_as_double(-1); }

// lse[m] = log(sum over c of exp(logits[m,c]));  t = target[m]
// loss[m] = -(1 - epsilon) * weight[t] * (logits[m,t] - lse[m])
//           - epsilon / C * sum over c of weight[c] * (logits[m,c] - lse[m]);  0 if t is ignored
//
// Mapping   LANES threads a row; a block takes every GRID-th group of rows and adds up their losses
//           and weights, which softmax_cross_entropy_forward_reduce brings together.
// Traffic   reads = 2 * STORAGE_BYTES * m * c + (32 + LANES) * m
//           writes = 32 * m + 64 * GRID
//           dram_reads = STORAGE_BYTES * m * c
//           dram_writes = 24 * m
//           without weight; with smoothing logits are read once more. A row is read twice, from
//           L2 or L1 the second time: from memory STORAGE_BYTES * m * c.
// Roofline  30 operations in float64 for each logit: arithmetic where float64 is slow.
// Limits    a class outside 0 .. C-1 that is not ignored gives NaN. loss or part may be null.
// Source    the definition; Szegedy et al. 2016, section 7.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) softmax_cross_entropy_forward_classes(
    const Storage* __restrict__ logits, const long long* __restrict__ target,
    const Storage* __restrict__ weight, double* __restrict__ lse, Storage* __restrict__ loss,
    double* __restrict__ part, CrossEntropySize size, long long ignore_index, double epsilon) {
  __shared__ double scratch[WARPS];
  const int lane = threadIdx.x % LANES;
  double losses = 0, weights = 0;
  for (long long m = static_cast<long long>(blockIdx.x) * ROWS + threadIdx.x / LANES; m < size.m;
       m += static_cast<long long>(gridDim.x) * ROWS) {
    const Storage* x = logits + m * size.c;
    const double z = log_sum_exp(x, size.c, scratch);
    const long long t = target[m];
    const bool kept = t != ignore_index;
    double rest = 0;
    if (kept && epsilon != 0) {
#pragma unroll 1
      for (int i = lane; i < size.c; i += LANES) rest += weight_of(weight, i) * (wide(x[i]) - z);
      rest = epsilon / size.c * over_row<Sum>(rest, scratch);
    }
    if (lane != 0) continue;
    double w = 0, l = 0;
    if (kept) {
      const bool known = 0 <= t && t < size.c;
      w = known ? weight_of(weight, t) : not_a_number();
      l = -(1 - epsilon) * w * (known ? wide(x[t]) - z : 0) - rest;
    }
    lse[m] = z;
    if (loss) loss[m] = to_storage<Storage>(l);
    losses += l;
    weights += w;
  }
  if (part) write_part(losses, weights, part, scratch);
}

// loss[m] = -sum over c of weight[c] * q[m,c] * (logits[m,c] - lse[m]),
// q[m,c] = (1 - epsilon) * target[m,c] + epsilon / C
//
// Mapping   as softmax_cross_entropy_forward_classes.
// Traffic   reads = 4 * STORAGE_BYTES * m * c
//           writes = 32 * m + 64 * GRID
//           dram_reads = 2 * STORAGE_BYTES * m * c
//           dram_writes = 24 * m
//           without weight; a row is read three times: from memory 2 * STORAGE_BYTES * m * c.
// Roofline  40 operations in float64 for each logit: arithmetic where float64 is slow.
// Limits    loss or part may be null.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) softmax_cross_entropy_forward_probabilities(
    const Storage* __restrict__ logits, const Storage* __restrict__ target,
    const Storage* __restrict__ weight, double* __restrict__ lse, Storage* __restrict__ loss,
    double* __restrict__ part, CrossEntropySize size, double epsilon) {
  __shared__ double scratch[WARPS];
  const int lane = threadIdx.x % LANES;
  double losses = 0, rows = 0;
  for (long long m = static_cast<long long>(blockIdx.x) * ROWS + threadIdx.x / LANES; m < size.m;
       m += static_cast<long long>(gridDim.x) * ROWS) {
    const Storage *x = logits + m * size.c, *p = target + m * size.c;
    const double z = log_sum_exp(x, size.c, scratch);
    double total = 0;
#pragma unroll 1
    for (int i = lane; i < size.c; i += LANES) {
      const double q = (1 - epsilon) * wide(p[i]) + epsilon / size.c;
      total += weight_of(weight, i) * q * (wide(x[i]) - z);
    }
    total = over_row<Sum>(total, scratch);
    if (lane != 0) continue;
    lse[m] = z;
    if (loss) loss[m] = to_storage<Storage>(-total);
    losses -= total;
    rows += 1;
  }
  if (part) write_part(losses, rows, part, scratch);
}

// loss = (sum over parts of losses) / divisor,  divisor = sum over parts of weights
//
// Mapping   one block: thread i adds parts i, i + BLOCK, ... in order, then a tree over the
//           threads.
// Traffic   reads = 32 * parts
//           writes = 64
// Roofline  latency.
// Limits    without divisor, a null pointer, loss is the sum.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    softmax_cross_entropy_forward_reduce(const double* __restrict__ part, int parts,
                                         Storage* __restrict__ loss, double* __restrict__ divisor) {
  __shared__ double scratch[WARPS];
  double losses = 0, weights = 0;
  for (int i = threadIdx.x; i < parts; i += BLOCK) {
    losses += part[2 * i];
    weights += part[2 * i + 1];
  }
  losses = block_sum(losses, scratch);
  weights = block_sum(weights, scratch);
  if (threadIdx.x != 0) return;
  *loss = to_storage<Storage>(divisor ? losses / weights : losses);
  if (divisor) *divisor = weights;
}

// a[c] of a row of classes or probabilities:
// grad = scale * (softmax * (sum over k of a[k]) - a[c]).
struct ClassRow {
  const Storage* weight;
  long long t;
  double epsilon, rest;  // epsilon / C

  __device__ __forceinline__ double a(int c) const {
    return weight_of(weight, c) * ((1 - epsilon) * (c == t) + rest);
  }
};
struct ProbabilityRow {
  const Storage *weight, *target;
  double epsilon, rest;

  __device__ __forceinline__ double a(int c) const {
    return weight_of(weight, c) * ((1 - epsilon) * wide(target[c]) + rest);
  }
};

template <typename Row>
__device__ __forceinline__ double sum_of_a(const Row& row, int c, double* scratch) {
  double total = 0;
#pragma unroll 1
  for (int i = threadIdx.x % LANES; i < c; i += LANES) total += row.a(i);
  return over_row<Sum>(total, scratch);
}

template <typename Row>
__device__ __forceinline__ void write_gradient(const Row& row, double total, double scale, double z,
                                               const Storage* x, Storage* grad, int c) {
#pragma unroll 1
  for (int i = threadIdx.x % LANES; i < c; i += LANES)
    grad[i] = to_storage<Storage>(scale * (exp(wide(x[i]) - z) * total - row.a(i)));
}

// grad_logits[m,c] = grad_loss[m] / divisor * (softmax[m,c] * (sum over k of a[m,k]) - a[m,c]),
// a[m,c] = weight[c] * ((1 - epsilon) * (c = target[m]) + epsilon / C);  0 in ignored rows
//
// Mapping   LANES threads a row.
// Traffic   reads = STORAGE_BYTES * m * c + 4 * LANES * m
//           writes = STORAGE_BYTES * m * c
//           dram_reads = STORAGE_BYTES * m * c
//           for the mean without weight; weight, which stays in L1, is read once a row, and with
//           smoothing once more.
// Roofline  25 operations in float64 for each logit: arithmetic where float64 is slow.
// Limits    grad_loss has one element (stride 0) or one a row (stride 1); a null divisor is 1. A
//           class outside 0 .. C-1 that is not ignored gives NaN.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) softmax_cross_entropy_backward_classes(
    const Storage* __restrict__ grad_loss, int grad_stride, const Storage* __restrict__ logits,
    const long long* __restrict__ target, const Storage* __restrict__ weight,
    const double* __restrict__ lse, const double* __restrict__ divisor,
    Storage* __restrict__ grad_logits, CrossEntropySize size, long long ignore_index,
    double epsilon) {
  __shared__ double scratch[WARPS];
  const long long m = static_cast<long long>(blockIdx.x) * ROWS + threadIdx.x / LANES;
  if (m >= size.m) return;  // a whole warp, or the whole block
  const long long t = target[m];
  Storage* grad = grad_logits + m * size.c;
  if (t == ignore_index) {
#pragma unroll 1
    for (int i = threadIdx.x % LANES; i < size.c; i += LANES)
      grad[i] = to_storage<Storage>(Real(0));
    return;
  }
  const ClassRow row = {weight, t, epsilon, epsilon / size.c};
  double total = not_a_number();
  if (0 <= t && t < size.c)
    total = epsilon == 0 ? weight_of(weight, t) : sum_of_a(row, size.c, scratch);
  const double scale = wide(grad_loss[m * grad_stride]) / (divisor ? *divisor : 1);
  write_gradient(row, total, scale, lse[m], logits + m * size.c, grad, size.c);
}

// grad_logits[m,c] = grad_loss[m] / divisor * (softmax[m,c] * (sum over k of a[m,k]) - a[m,c]),
// a[m,c] = weight[c] * ((1 - epsilon) * target[m,c] + epsilon / C)
//
// Mapping   LANES threads a row.
// Traffic   reads = 3 * STORAGE_BYTES * m * c + 3 * LANES * m
//           writes = STORAGE_BYTES * m * c
//           dram_reads = 2 * STORAGE_BYTES * m * c
//           for the mean without weight; target twice: from memory 2 * STORAGE_BYTES * m * c.
// Roofline  30 operations in float64 for each logit: arithmetic where float64 is slow.
// Limits    grad_loss has one element (stride 0) or one a row (stride 1); a null divisor is 1.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) softmax_cross_entropy_backward_probabilities(
    const Storage* __restrict__ grad_loss, int grad_stride, const Storage* __restrict__ logits,
    const Storage* __restrict__ target, const Storage* __restrict__ weight,
    const double* __restrict__ lse, const double* __restrict__ divisor,
    Storage* __restrict__ grad_logits, CrossEntropySize size, double epsilon) {
  __shared__ double scratch[WARPS];
  const long long m = static_cast<long long>(blockIdx.x) * ROWS + threadIdx.x / LANES;
  if (m >= size.m) return;  // a whole warp, or the whole block
  const ProbabilityRow row = {weight, target + m * size.c, epsilon, epsilon / size.c};
  const double total = sum_of_a(row, size.c, scratch);
  const double scale = wide(grad_loss[m * grad_stride]) / (divisor ? *divisor : 1);
  Storage* grad = grad_logits + m * size.c;
  write_gradient(row, total, scale, lse[m], logits + m * size.c, grad, size.c);
}
