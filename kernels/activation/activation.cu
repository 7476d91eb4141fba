// Activation functions and their gradients over arrays of any strides; strided.cuh says how they
// are walked. The result may take the memory of any operand, so the kernels also work in place.
//
// Some tens of instructions for 8 to 12 bytes: bound by memory, but for float64 on GPUs with few
// float64 units. Strides that do not pack move single elements: the same bytes, more instructions.
#include "../cuda/strided.cuh"

// activation_relu: y = max(x, 0), NaN where x is
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be x, not overlap with it in another way
// Source    Nair and Hinton 2010
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_relu(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return x < 0 ? Real(0) : x; }, y, x);
}

// activation_relu_backward: grad_x = grad_y where y > 0, else 0, whatever grad_y is
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    grad_x may be grad_y or y, not overlap with them in another way
// Source    the derivative, 0 at 0 as in PyTorch
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_relu_backward(const Storage* grad_y, const Storage* y, Storage* grad_x,
                             Strided size) {
  for_each(size, [](Real grad_y, Real y) { return y <= 0 ? Real(0) : grad_y; }, grad_x, grad_y, y);
}

// activation_leaky_relu: y = x where x > 0, else negative_slope * x
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be x, not overlap with it in another way
// Source    Maas et al. 2013, section 2
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_leaky_relu(const Storage* x, Storage* y, Strided size, Real negative_slope) {
  for_each(size, [=](Real x) { return x > 0 ? x : negative_slope * x; }, y, x);
}

// activation_leaky_relu_backward: grad_x = grad_y where x > 0, else negative_slope * grad_y
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    grad_x may be grad_y or x, not overlap with them in another way
// Source    the derivative, negative_slope at 0 as in PyTorch
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_leaky_relu_backward(const Storage* grad_y, const Storage* x, Storage* grad_x,
                                   Strided size, Real negative_slope) {
  for_each(
      size, [=](Real grad_y, Real x) { return x > 0 ? grad_y : negative_slope * grad_y; }, grad_x,
      grad_y, x);
}

// activation_sigmoid: y = 1 / (1 + exp(-x)) = exp(x) / (1 + exp(x))
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be x, not overlap with it in another way
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_sigmoid(const Storage* x, Storage* y, Strided size) {
  for_each(
      size,
      [](Real x) {
        const Real small = exp(-fabs(x));  // at most 1: nothing overflows
        return (x < 0 ? small : Real(1)) / (1 + small);
      },
      y, x);
}

// activation_sigmoid_backward: grad_x = grad_y * y * (1 - y)
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    grad_x may be grad_y or y, not overlap with them in another way
// Source    the derivative
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_sigmoid_backward(const Storage* grad_y, const Storage* y, Storage* grad_x,
                                Strided size) {
  for_each(size, [](Real grad_y, Real y) { return grad_y * (y * (1 - y)); }, grad_x, grad_y, y);
}

// activation_tanh: y = tanh(x)
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    y may be x, not overlap with it in another way
// Source    the definition
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_tanh(const Storage* x, Storage* y, Strided size) {
  for_each(size, [](Real x) { return tanh(x); }, y, x);
}

// activation_tanh_backward: grad_x = grad_y * (1 - y^2)
//
// Mapping   one thread for 16 bytes of each array where packed, else for one element
// Traffic   reads = 2 * STORAGE_BYTES * count
//           writes = STORAGE_BYTES * count
// Roofline  memory bound
// Limits    grad_x may be grad_y or y, not overlap with them in another way
// Source    the derivative
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    activation_tanh_backward(const Storage* grad_y, const Storage* y, Storage* grad_x,
                             Strided size) {
  for_each(
      size, [](Real grad_y, Real y) { return grad_y * ((1 - y) * (1 + y)); }, grad_x, grad_y, y);
}
