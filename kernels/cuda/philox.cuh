// The counter-based generator Philox4x32-10; kernels/random has the equations and the source.
#pragma once

#include "common.cuh"

typedef Pack<unsigned, 4> PhiloxWords;

// Four random words: the block of counter (low, high), 64 bits each, under `key`.
__device__ __forceinline__ PhiloxWords philox(unsigned long long key, unsigned long long low,
                                              unsigned long long high = 0) {
  typedef unsigned long long Wide;
  unsigned k0 = static_cast<unsigned>(key), k1 = static_cast<unsigned>(key >> 32);
  unsigned c0 = static_cast<unsigned>(low), c1 = static_cast<unsigned>(low >> 32);
  unsigned c2 = static_cast<unsigned>(high), c3 = static_cast<unsigned>(high >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const Wide left = static_cast<Wide>(0xD2511F53u) * c0;
    const Wide right = static_cast<Wide>(0xCD9E8D57u) * c2;
    c0 = static_cast<unsigned>(right >> 32) ^ c1 ^ k0;
    c1 = static_cast<unsigned>(right);
    c2 = static_cast<unsigned>(left >> 32) ^ c3 ^ k1;
    c3 = static_cast<unsigned>(left);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  PhiloxWords words;
  words.at[0] = c0;
  words.at[1] = c1;
  words.at[2] = c2;
  words.at[3] = c3;
  return words;
}

// A number of [0, 1): 24 bits of a word, or 53 bits of two, first the lower one.
__device__ __forceinline__ float uniform(unsigned word) {
  return static_cast<float>(word >> 8) * (1.0f / (1 << 24));
}
__device__ __forceinline__ double uniform(unsigned low, unsigned high) {
  const unsigned long long bits = static_cast<unsigned long long>(high) << 32 | low;
  return static_cast<double>(bits >> 11) * (1.0 / (1LL << 53));
}
