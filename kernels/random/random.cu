// Philox4x32-10: tickets, words, uniform and normal numbers. One counter gives four words: four
// numbers of float32, two of float64.
#include "../cuda/philox.cuh"

constexpr int NUMBERS = 16 / sizeof(Storage);  // that one counter gives

typedef Pack<Storage, NUMBERS> Numbers;

__device__ __forceinline__ void uniforms(const PhiloxWords& words, Pack<float, 4>& u) {
#pragma unroll
  for (int i = 0; i < 4; ++i) u.at[i] = uniform(words.at[i]);
}
__device__ __forceinline__ void uniforms(const PhiloxWords& words, Pack<double, 2>& u) {
#pragma unroll
  for (int i = 0; i < 2; ++i) u.at[i] = uniform(words.at[2 * i], words.at[2 * i + 1]);
}

// r cos(2 pi v) and r sin(2 pi v), r = sqrt(-2 ln(1 - u)).
__device__ __forceinline__ void box_muller(float u, float v, float& first, float& second) {
  const float radius = sqrtf(-2 * logf(1 - u));
  float sine, cosine;
  sincospif(2 * v, &sine, &cosine);
  first = radius * cosine;
  second = radius * sine;
}
__device__ __forceinline__ void box_muller(double u, double v, double& first, double& second) {
  const double radius = sqrt(-2 * log(1 - u));
  double sine, cosine;
  sincospi(2 * v, &sine, &cosine);
  first = radius * cosine;
  second = radius * sine;
}

// drawn = state; state[1] += blocks
//
// Mapping   lane i of the one warp does element i of the two.
// Traffic   reads = 32
//           writes = 64
// Roofline  latency: one launch, one access to memory and back.
// Limits    the elements of state lie `stride` apart.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    random_ticket_advance(unsigned long long* __restrict__ state, int stride,
                          unsigned long long blocks, unsigned long long* __restrict__ drawn) {
  const int i = threadIdx.x;
  if (i >= 2) return;
  const unsigned long long before = state[i * stride];
  drawn[i] = before;
  if (i == 1) state[i * stride] = before + blocks;
}

// out[4 b + i] = word i of the block of counter (low + b, high) under key, b < blocks
//
// Mapping   a thread makes one block, 16 bytes.
// Traffic   reads = 0
//           writes = 16 * blocks
// Roofline  10 rounds, 60 integer instructions, for 16 bytes: bound by memory on every arch.
// Limits    the address of out may be any multiple of 4.
// Source    Salmon, Moraes, Dror, Shaw 2011.
extern "C" __global__ void __launch_bounds__(BLOCK)
    random_philox_words(unsigned long long key, unsigned long long low, unsigned long long high,
                        unsigned* __restrict__ out, int blocks) {
  const long long b = global_thread();
  if (b >= blocks) return;
  store_up_to(out + 4 * b, philox(key, low + static_cast<unsigned long long>(b), high), 4);
}

// out[i] = the upper 24 bits of word i * 2^-24; float64: the upper 53 bits of words 2i and 2i+1
//
// Mapping   a thread makes the 16 bytes that one counter gives.
// Traffic   reads = 32 * GRID * ceil_div(BLOCK, 32) * 2
//           writes = STORAGE_BYTES * count
//           the reads are the ticket's: two words, the same address for a warp.
// Roofline  70 integer instructions for 16 bytes: bound by memory on every arch.
// Limits    float32, float64.
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    random_uniform_blocks(const unsigned long long* __restrict__ ticket, Storage* __restrict__ out,
                          int count) {
  const long long b = global_thread(), first = b * NUMBERS;
  if (first >= count) return;
  Numbers u;
  uniforms(philox(ticket[0], ticket[1] + static_cast<unsigned long long>(b)), u);
  store_up_to(out + first, u, count - first);
}

// out[2j], out[2j+1] = r cos(2 pi v), r sin(2 pi v),  r = sqrt(-2 ln(1 - u)),
//                      u and v elements 2j and 2j+1 of random_uniform
//
// Mapping   a thread makes the 16 bytes that one counter gives: two pairs, of float64 one.
// Traffic   reads = 32 * GRID * ceil_div(BLOCK, 32) * 2
//           writes = STORAGE_BYTES * count
// Roofline  about 200 instructions for 16 bytes: arithmetic on a T4, memory on later archs;
//           float64 arithmetic where that is slow.
// Limits    float32, float64. Within 8 u r of the definition: log, sqrt, sincospi, a product.
// Source    Box and Muller 1958.
extern "C" __global__ void __launch_bounds__(BLOCK)
    random_normal_box_muller(const unsigned long long* __restrict__ ticket,
                             Storage* __restrict__ out, int count) {
  const long long b = global_thread(), first = b * NUMBERS;
  if (first >= count) return;
  Numbers u, z;
  uniforms(philox(ticket[0], ticket[1] + static_cast<unsigned long long>(b)), u);
#pragma unroll
  for (int i = 0; i < NUMBERS; i += 2) box_muller(u.at[i], u.at[i + 1], z.at[i], z.at[i + 1]);
  store_up_to(out + first, z, count - first);
}
