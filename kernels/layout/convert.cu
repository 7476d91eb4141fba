// Conversions between types, of strided arrays: to Storage, from the type in the name.
//
// To bool: whether a number is not 0. To bfloat16 by way of float. From a float to an integer:
// rounded towards 0, and undefined where the integer cannot hold it.
#include "../cuda/strided.cuh"

// layout_convert_from_bool: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 1 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_bool(const bool* __restrict__ x, Storage* __restrict__ y, Strided size) {
  for_each(size, [](bool v) { return v; }, y, x);
}

// layout_convert_from_uint8: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 1 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_uint8(const unsigned char* __restrict__ x, Storage* __restrict__ y,
                              Strided size) {
  for_each(size, [](unsigned char v) { return v; }, y, x);
}

// layout_convert_from_int32: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 4 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_int32(const int* __restrict__ x, Storage* __restrict__ y, Strided size) {
  for_each(size, [](int v) { return v; }, y, x);
}

// layout_convert_from_int64: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 8 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_int64(const long long* __restrict__ x, Storage* __restrict__ y,
                              Strided size) {
  for_each(size, [](long long v) { return v; }, y, x);
}

// layout_convert_from_float32: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 4 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_float32(const float* __restrict__ x, Storage* __restrict__ y,
                                Strided size) {
  for_each(size, [](float v) { return v; }, y, x);
}

// layout_convert_from_float64: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 8 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_float64(const double* __restrict__ x, Storage* __restrict__ y,
                                Strided size) {
  for_each(size, [](double v) { return v; }, y, x);
}

// layout_convert_from_bfloat16: y = x
//
// Mapping   one thread for 16 bytes of the wider type where packed, else for one element
// Traffic   reads = 2 * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_convert_from_bfloat16(const bfloat16* __restrict__ x, Storage* __restrict__ y,
                                 Strided size) {
  for_each(size, [](float v) { return v; }, y, x);
}
