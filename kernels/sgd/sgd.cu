// Stochastic gradient descent with momentum over flat buffers; __init__.py has the equations.
#include "../cuda/segments.cuh"

enum HyperColumn { LR, MOMENTUM, DAMPENING, WEIGHT_DECAY, NESTEROV, MAXIMIZE, HYPER_COLUMNS };

struct SgdNumbers {
  Real lr, momentum, gain, decay;
  bool has_momentum, decays, nesterov, maximize, first;

  static __device__ __forceinline__ SgdNumbers of(const double* hyper, long long steps) {
    SgdNumbers n;
    n.lr = static_cast<Real>(hyper[LR]);
    n.momentum = static_cast<Real>(hyper[MOMENTUM]);
    n.gain = static_cast<Real>(1 - hyper[DAMPENING]);
    n.decay = static_cast<Real>(hyper[WEIGHT_DECAY]);
    n.has_momentum = hyper[MOMENTUM] != 0;
    n.decays = hyper[WEIGHT_DECAY] != 0;
    n.nesterov = hyper[NESTEROV] != 0;
    n.maximize = hyper[MAXIMIZE] != 0;
    n.first = steps == 0;
    return n;
  }
};

// One element: param w, its gradient g, its momentum b (new on return).
__device__ __forceinline__ Real stepped(const SgdNumbers& n, Real w, Real g, Real& b) {
  Real d = n.maximize ? -g : g;
  if (n.decays) d += n.decay * w;
  if (n.has_momentum) {
    b = n.first ? d : n.momentum * b + n.gain * d;
    d = n.nesterov ? d + n.momentum * b : b;
  }
  return w - n.lr * d;
}

// d = -grad if maximize else grad;  d = d + weight_decay * param
// b = d at the first step, else momentum * b + (1 - dampening) * d     where momentum > 0
// d = d + momentum * b if nesterov else b                              where momentum > 0
// param = param - lr * d
//
// Mapping   a block steps one chunk of CHUNK_BYTES of each buffer: it looks up which parameters
//           lie there, then each thread steps packs of 16 bytes. One launch for all parameters.
// Traffic   reads = GRID * (3 * CHUNK_BYTES + 64 * rows + 32 * 9)
//           writes = GRID * 2 * CHUNK_BYTES
//           where every group has momentum and parameters fill the chunks; without momentum a
//           buffer less. 64 bytes a row are START and SIZE, 9 numbers those of a parameter.
// Roofline  at most 9 operations for 5 elements moved: bound by memory.
// Limits    parameters start on 256 bytes; gaps are not touched. Buffers at any address.
// Source    torch.optim.SGD; Sutskever et al. 2013 for Nesterov's momentum.
extern "C" __global__ void __launch_bounds__(BLOCK)
    sgd_step_flat(Storage* __restrict__ param, const Storage* __restrict__ grad,
                  Storage* __restrict__ momentum_buffer, const long long* __restrict__ segments,
                  int rows, const double* __restrict__ hyper) {
  __shared__ Chunk<SgdNumbers> chunk;
  find_parameters<HYPER_COLUMNS>(chunk, segments, rows, hyper);
  for (int at = threadIdx.x * PACK; at < CHUNK; at += BLOCK * PACK) {
    const int parameter = chunk.parameter[at / UNIT];
    if (parameter < 0 || at >= chunk.end[parameter]) continue;
    const int count = chunk.end[parameter] - at;
    const SgdNumbers numbers = chunk.numbers[parameter];
    const long long i = static_cast<long long>(blockIdx.x) * CHUNK + at;

    Pack<Storage, PACK> w = load_up_to<PACK>(param + i, count), b = {};
    const Pack<Storage, PACK> g = load_up_to<PACK>(grad + i, count);
    if (numbers.has_momentum && !numbers.first) b = load_up_to<PACK>(momentum_buffer + i, count);
#pragma unroll
    for (int j = 0; j < PACK; ++j) {
      Real momentum = to_real(b.at[j]);
      w.at[j] = to_storage<Storage>(stepped(numbers, to_real(w.at[j]), to_real(g.at[j]), momentum));
      b.at[j] = to_storage<Storage>(momentum);
    }
    store_up_to(param + i, w, count);
    if (numbers.has_momentum) store_up_to(momentum_buffer + i, b, count);
  }
}

// STEP = STEP + ACTIVE in each row of segments
//
// Mapping   a thread takes a row.
// Traffic   reads = 64 * rows
//           writes = 32 * rows
// Roofline  latency: a launch and two accesses.
// Limits    after sgd_step_flat, which reads STEP.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    sgd_count_steps(long long* __restrict__ segments, int rows) {
  count_step(segments, rows);
}
