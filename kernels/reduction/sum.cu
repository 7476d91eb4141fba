// Sums over rows: floats in float64, integers and bools in int64; see reduction.cuh.
//
// One addition an element, in float64 for floats: bound by memory, but on sm_75, which has few
// float64 units: near the balance in float, bound by arithmetic in bfloat16.
#include "reduction.cuh"

#ifndef ACCUMULATOR
#define ACCUMULATOR double
#endif
typedef ACCUMULATOR Accumulator;

template <typename X, typename Y>
__device__ __forceinline__ void sum_rows(const X* x, Y* y, const ReductionSize& size) {
  __shared__ Accumulator scratch[BLOCK];
  Accumulator sum = 0;
  typedef decltype(to_real(X())) Value;  // not auto: NVRTC 13.0 takes no generic lambda
  for_share(x, size, [&](long long, Value v) { sum += static_cast<Accumulator>(v); });
  sum = combine_teams(sum, size, scratch, [](Accumulator a, Accumulator b) { return a + b; });
  const long long result = result_of_thread(size);
  if (result >= 0) y[result] = to_storage<Y>(sum);
}

// reduction_sum: y[i] = sum over j of x[i, j], rounded once to the type of x
//
// Mapping   a team of threads for each row
// Traffic   reads = STORAGE_BYTES * kept * reduced
//           writes = max(32, STORAGE_BYTES * BLOCK // team) * GRID
// Roofline  memory bound
// Limits    floats; one part
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    reduction_sum(const Storage* __restrict__ x, Storage* __restrict__ y, ReductionSize size) {
  sum_rows(x, y, size);
}

// reduction_sum_parts: y[part, i] = sum of x[i, j] over the j of a part
//
// Mapping   a team of threads for each part of a row
// Traffic   reads = STORAGE_BYTES * kept * reduced
//           writes = max(32, ACCUMULATOR_BYTES * BLOCK // team) * GRID
// Roofline  memory bound
// Limits    none
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    reduction_sum_parts(const Storage* __restrict__ x, Accumulator* __restrict__ y,
                        ReductionSize size) {
  sum_rows(x, y, size);
}

// reduction_sum_finish: y[i] = sum over j of x[i, j], x being the sums of parts
//
// Mapping   a team of threads for each row
// Traffic   reads = ACCUMULATOR_BYTES * kept * reduced
//           writes = max(32, STORAGE_BYTES * BLOCK // team) * GRID
// Roofline  memory bound
// Limits    floats; one part
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    reduction_sum_finish(const Accumulator* __restrict__ x, Storage* __restrict__ y,
                         ReductionSize size) {
  sum_rows(x, y, size);
}
