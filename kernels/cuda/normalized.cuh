// How batch normalization computes one element, the same forward and backward, and in the kernels
// of convolutions that take a step of it: all find the same elements positive.
//
// An element is computed with in Real. Where that is float, the mean is a sum of two floats, high +
// low: x - high is exact near the mean, so that a mean much larger than the deviation costs no
// digits.
#pragma once

#include "common.cuh"

// A number of a channel as float + float, or as double + 0; an infinite one + 0.
struct TwoReals {
  Real high, low;
};

__device__ __forceinline__ TwoReals two_reals(double v) {
  const Real high = static_cast<Real>(v);
  const double rest = v - high;
  return {high, rest == rest ? static_cast<Real>(rest) : Real(0)};
}

__device__ __forceinline__ Real centered(Real x, const TwoReals& mean) {
  return x - mean.high - mean.low;
}
__device__ __forceinline__ Real normalized(Real centered, Real scale, Real shift) {
  return centered * scale + shift;
}
