// Arithmetic and comparisons over arrays of any strides; strided.cuh says how they are walked.
//
// At most one operation for two elements moved: every kernel is bound by memory on every GPU. The
// formulas under Traffic are for operands of full shape; broadcast ones are read less. An operand
// that is null stands for a number, which has not been rounded to a bfloat16.
#include "../cuda/strided.cuh"

// Small whole powers are products: exact for small integers, as a GPU's powf, which may be a few
// units in the last place off, need not be.
template <typename T>
__device__ __forceinline__ bool is_small(T n) {
  return n == 1 || n == 2 || n == 3 || n == 4;
}
template <typename T>
__device__ __forceinline__ T small_power(T a, T n) {
  return n == 1 ? a : n == 2 ? a * a : n == 3 ? a * a * a : a * a * (a * a);
}
__device__ __forceinline__ float power(float a, float b) {
  return is_small(b) ? small_power(a, b) : powf(a, b);
}
__device__ __forceinline__ double power(double a, double b) {
  return is_small(b) ? small_power(a, b) : pow(a, b);
}
// An integer to a negative power is rounded towards 0: not 0 for the bases 1 and -1 only.
template <typename T>
__device__ __forceinline__ T power(T base, T exponent) {
  if (exponent < 0) return base == 1 || (base == -1 && exponent % 2 == 0) ? 1 : base == -1 ? -1 : 0;
  T result = 1;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 != 0) result *= base;
    base *= base;
  }
  return result;
}

__device__ __forceinline__ float magnitude(float v) { return fabsf(v); }
__device__ __forceinline__ double magnitude(double v) { return fabs(v); }
template <typename T>
__device__ __forceinline__ T magnitude(T v) {
  return v < 0 ? -v : v;
}

// elementwise_add: y = a + b, of bools: a or b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.add
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_add(const Storage* a, const Storage* b, Storage* y, Strided size, double number) {
  for_each(size, [](Real a, Real b) { return a + b; }, y, a, b, number);
}

// elementwise_subtract: y = a - b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.subtract
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_subtract(const Storage* a, const Storage* b, Storage* y, Strided size,
                         double number) {
  for_each(size, [](Real a, Real b) { return a - b; }, y, a, b, number);
}

// elementwise_multiply: y = a * b, of bools: a and b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.multiply
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_multiply(const Storage* a, const Storage* b, Storage* y, Strided size,
                         double number) {
  for_each(size, [](Real a, Real b) { return a * b; }, y, a, b, number);
}

// elementwise_power: y = a ** b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.power
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_power(const Storage* a, const Storage* b, Storage* y, Strided size, double number) {
  for_each(size, [](Real a, Real b) { return power(a, b); }, y, a, b, number);
}

// elementwise_maximum: y = the larger of a and b; NaN where either is
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.maximum
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_maximum(const Storage* a, const Storage* b, Storage* y, Strided size,
                        double number) {
  for_each(size, [](Real a, Real b) { return a > b || a != a ? a : b; }, y, a, b, number);
}

// elementwise_minimum: y = the smaller of a and b; NaN where either is
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.minimum
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_minimum(const Storage* a, const Storage* b, Storage* y, Strided size,
                        double number) {
  for_each(size, [](Real a, Real b) { return a < b || a != a ? a : b; }, y, a, b, number);
}

// elementwise_equal: y = a == b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.equal
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_equal(const Storage* a, const Storage* b, bool* y, Strided size, double number) {
  for_each(size, [](Real a, Real b) { return a == b; }, y, a, b, number);
}

// elementwise_not_equal: y = a != b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.not_equal
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_not_equal(const Storage* a, const Storage* b, bool* y, Strided size,
                          double number) {
  for_each(size, [](Real a, Real b) { return a != b; }, y, a, b, number);
}

// elementwise_less: y = a < b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.less
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_less(const Storage* a, const Storage* b, bool* y, Strided size, double number) {
  for_each(size, [](Real a, Real b) { return a < b; }, y, a, b, number);
}

// elementwise_less_equal: y = a <= b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.less_equal
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_less_equal(const Storage* a, const Storage* b, bool* y, Strided size,
                           double number) {
  for_each(size, [](Real a, Real b) { return a <= b; }, y, a, b, number);
}

// elementwise_where: y = a where the condition holds, else b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = (1 + 2 * STORAGE_BYTES) * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.where
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_where(const bool* condition, const Storage* a, const Storage* b, Storage* y,
                      Strided size, double a_number, double b_number) {
  for_each(
      size, [](bool condition, Real a, Real b) { return condition ? a : b; }, y, condition, a, b,
      a_number, b_number);
}

// elementwise_negative: y = -x
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.negative
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_negative(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return -x; }, y, x);
}

// elementwise_absolute: y = |x|
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.absolute
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_absolute(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return magnitude(x); }, y, x);
}

// elementwise_sign: y = 1 where x > 0, -1 where x < 0, else 0; of NaN 0
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.sign
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_sign(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return (x > 0) - (x < 0); }, y, x);
}
