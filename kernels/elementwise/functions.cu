// Functions of floating-point numbers over arrays of any strides; strided.cuh says how they are
// walked. Some tens of instructions an element: bound by memory, but for float64 on GPUs with few
// float64 units. The formulas under Traffic are for operands of full shape.
#include "../cuda/strided.cuh"

// elementwise_divide: y = a / b
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.divide
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_divide(const Storage* a, const Storage* b, Storage* y, Strided size,
                       double number) {
  for_each(size, [](Real a, Real b) { return a / b; }, y, a, b, number);
}

// elementwise_exp: y = e ** x
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.exp
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_exp(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return exp(x); }, y, x);
}

// elementwise_log: y = the natural logarithm of x; NaN where x < 0
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.log
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_log(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return log(x); }, y, x);
}

// elementwise_sqrt: y = the square root of x; NaN where x < 0
//
// Mapping   one thread for 16 bytes of the widest operand where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be one of the operands, not overlap with one in another way
// Source    numpy.sqrt
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    elementwise_sqrt(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return sqrt(x); }, y, x);
}
