// Largest and smallest elements of rows, and their indices; see reduction.cuh.
//
// A NaN is more extreme than any number; of equals the first counts. Indices break ties, so any
// order of combination gives the same result.
#include "reduction.cuh"

struct Extremum {
  Real value;
  int index;  // in the row; -1: of nothing
};

template <bool LARGEST>
__device__ __forceinline__ bool exceeds(Real a, Real b) {
  return (LARGEST ? a > b : a < b) || (a != a && b == b);
}

template <bool LARGEST>
__device__ __forceinline__ Extremum more_extreme(Extremum a, Extremum b) {
  if (a.index < 0 || b.index < 0) return a.index < 0 ? b : a;
  if (exceeds<LARGEST>(a.value, b.value)) return a;
  if (exceeds<LARGEST>(b.value, a.value)) return b;
  return a.index < b.index ? a : b;
}

// Stores the values and indices that are asked for. `origins` are the indices that the elements of
// x had before parts of rows became elements; null: their own.
template <bool LARGEST>
__device__ __forceinline__ void extrema_of_rows(const Storage* x, const long long* origins,
                                                Storage* values, long long* indices,
                                                const ReductionSize& size) {
  __shared__ Extremum scratch[BLOCK];
  Extremum found = {Real(), -1};
  for_share(x, size, [&](long long i, Real value) {
    if (found.index < 0 || exceeds<LARGEST>(value, found.value))
      found = {value, static_cast<int>(i)};
  });
  found = combine_teams(found, size, scratch, more_extreme<LARGEST>);
  const long long result = result_of_thread(size);
  if (result < 0) return;
  if (values != nullptr) values[result] = to_storage<Storage>(found.value);
  if (indices == nullptr) return;
  const long long row = result % size.kept;
  const long long at = row * size.kept_stride + 1ll * found.index * size.reduced_stride;
  indices[result] = origins == nullptr ? found.index : origins[at];
}

// reduction_max: values[part, i] = the largest x[i, j] of a part, indices[part, i] = its first j
//
// Mapping   a team of threads for each part of a row
// Traffic   reads = STORAGE_BYTES * kept * reduced
//           writes = max(32, STORAGE_BYTES * BLOCK // team) * GRID
//           where only values are asked for
// Roofline  memory bound
// Limits    no part is empty; origins, values, indices may be null
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    reduction_max(const Storage* __restrict__ x, const long long* __restrict__ origins,
                  Storage* __restrict__ values, long long* __restrict__ indices,
                  ReductionSize size) {
  extrema_of_rows<true>(x, origins, values, indices, size);
}

// reduction_min: values[part, i] = the smallest x[i, j] of a part, indices[part, i] = its first j
//
// Mapping   a team of threads for each part of a row
// Traffic   reads = STORAGE_BYTES * kept * reduced
//           writes = max(32, STORAGE_BYTES * BLOCK // team) * GRID
//           where only values are asked for
// Roofline  memory bound
// Limits    no part is empty; origins, values, indices may be null
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    reduction_min(const Storage* __restrict__ x, const long long* __restrict__ origins,
                  Storage* __restrict__ values, long long* __restrict__ indices,
                  ReductionSize size) {
  extrema_of_rows<false>(x, origins, values, indices, size);
}
