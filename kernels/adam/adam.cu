// Adam and AdamW over flat buffers; __init__.py has the equations.
#include "../cuda/segments.cuh"

enum HyperColumn {
  LR,
  BETA1,
  BETA2,
  EPS,
  WEIGHT_DECAY,
  DECOUPLED,
  AMSGRAD,
  MAXIMIZE,
  HYPER_COLUMNS
};

struct AdamNumbers {
  Real beta1, gain1, beta2, gain2;
  Real rate, root, eps;  // lr / (1 - beta1^t), sqrt(1 - beta2^t)
  Real shrink, decay;
  bool decays, amsgrad, maximize;

  static __device__ __forceinline__ AdamNumbers of(const double* hyper, long long steps) {
    const double t = static_cast<double>(steps + 1);
    const bool decoupled = hyper[DECOUPLED] != 0;
    AdamNumbers n;
    n.beta1 = static_cast<Real>(hyper[BETA1]);
    n.gain1 = static_cast<Real>(1 - hyper[BETA1]);
    n.beta2 = static_cast<Real>(hyper[BETA2]);
    n.gain2 = static_cast<Real>(1 - hyper[BETA2]);
    n.rate = static_cast<Real>(hyper[LR] / (1 - pow(hyper[BETA1], t)));
    n.root = static_cast<Real>(sqrt(1 - pow(hyper[BETA2], t)));
    n.eps = static_cast<Real>(hyper[EPS]);
    n.shrink = static_cast<Real>(decoupled ? 1 - hyper[LR] * hyper[WEIGHT_DECAY] : 1.0);
    n.decay = static_cast<Real>(hyper[WEIGHT_DECAY]);
    n.decays = hyper[WEIGHT_DECAY] != 0 && !decoupled;
    n.amsgrad = hyper[AMSGRAD] != 0;
    n.maximize = hyper[MAXIMIZE] != 0;
    return n;
  }
};

// The larger one; NaN where one is NaN.
__device__ __forceinline__ Real maximum(Real a, Real b) { return a > b || a != a ? a : b; }

// One element: param w, its gradient g; m, v and the maximum of v are new on return.
__device__ __forceinline__ Real stepped(const AdamNumbers& n, Real w, Real g, Real& m, Real& v,
                                        Real& largest) {
  Real d = n.maximize ? -g : g;
  w *= n.shrink;
  if (n.decays) d += n.decay * w;
  m = n.beta1 * m + n.gain1 * d;
  v = n.beta2 * v + n.gain2 * d * d;
  largest = n.amsgrad ? maximum(largest, v) : v;
  return w - n.rate * m / (sqrt(largest) / n.root + n.eps);
}

// d = -grad if maximize else grad;  Adam: d = d + weight_decay * param
//                                   AdamW: param = param * (1 - lr * weight_decay)
// m = beta1 * m + (1 - beta1) * d;  v = beta2 * v + (1 - beta2) * d * d
// s = running maximum of v if amsgrad else v
// param = param - lr / (1 - beta1^t) * m / (sqrt(s / (1 - beta2^t)) + eps),  t = STEP + 1
//
// Mapping   a block steps one chunk of CHUNK_BYTES of each buffer: it looks up which parameters
//           lie there, then each thread steps packs of 16 bytes. One launch for all parameters.
// Traffic   reads = GRID * (4 * CHUNK_BYTES + 64 * rows + 32 * 19)
//           writes = GRID * 3 * CHUNK_BYTES
//           where parameters fill the chunks; amsgrad reads and writes one buffer more. 64 bytes
//           a row are START and SIZE, 19 numbers those of a parameter.
// Roofline  20 operations for 7 elements moved: bound by memory. beta^t is computed in float64,
//           once for each parameter in a chunk.
// Limits    parameters start on 256 bytes; gaps are not touched. Buffers at any address.
// Source    Kingma and Ba 2015; Loshchilov and Hutter 2019; Reddi, Kale, Kumar 2018.
extern "C" __global__ void __launch_bounds__(BLOCK)
    adam_step_flat(Storage* __restrict__ param, const Storage* __restrict__ grad,
                   Storage* __restrict__ exp_avg, Storage* __restrict__ exp_avg_sq,
                   Storage* __restrict__ max_exp_avg_sq, const long long* __restrict__ segments,
                   int rows, const double* __restrict__ hyper) {
  __shared__ Chunk<AdamNumbers> chunk;
  find_parameters<HYPER_COLUMNS>(chunk, segments, rows, hyper);
  for (int at = threadIdx.x * PACK; at < CHUNK; at += BLOCK * PACK) {
    const int parameter = chunk.parameter[at / UNIT];
    if (parameter < 0 || at >= chunk.end[parameter]) continue;
    const int count = chunk.end[parameter] - at;
    const AdamNumbers numbers = chunk.numbers[parameter];
    const long long i = static_cast<long long>(blockIdx.x) * CHUNK + at;

    const Pack<Storage, PACK> g = load_up_to<PACK>(grad + i, count);
    Pack<Storage, PACK> w = load_up_to<PACK>(param + i, count), largest = {};
    Pack<Storage, PACK> m = load_up_to<PACK>(exp_avg + i, count);
    Pack<Storage, PACK> v = load_up_to<PACK>(exp_avg_sq + i, count);
    if (numbers.amsgrad) largest = load_up_to<PACK>(max_exp_avg_sq + i, count);
#pragma unroll
    for (int j = 0; j < PACK; ++j) {
      Real first = to_real(m.at[j]), second = to_real(v.at[j]), most = to_real(largest.at[j]);
      w.at[j] = to_storage<Storage>(
          stepped(numbers, to_real(w.at[j]), to_real(g.at[j]), first, second, most));
      m.at[j] = to_storage<Storage>(first);
      v.at[j] = to_storage<Storage>(second);
      largest.at[j] = to_storage<Storage>(most);
    }
    store_up_to(param + i, w, count);
    store_up_to(exp_avg + i, m, count);
    store_up_to(exp_avg_sq + i, v, count);
    if (numbers.amsgrad) store_up_to(max_exp_avg_sq + i, largest, count);
  }
}

// STEP = STEP + ACTIVE in each row of segments
//
// Mapping   a thread takes a row.
// Traffic   reads = 64 * rows
//           writes = 32 * rows
// Roofline  latency: a launch and two accesses.
// Limits    after adam_step_flat, which reads STEP.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    adam_count_steps(long long* __restrict__ segments, int rows) {
  count_step(segments, rows);
}
