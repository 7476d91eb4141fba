// Element by element over arrays of any strides: y[i] = f(a[i], b[i], c[i]).
//
// strided.py makes the struct. It drops axes of length 1, sorts the others by the strides of y, and
// merges neighbours that are one axis in every array: contiguous arrays have one axis, whatever
// their shape. A broadcast axis has stride 0.
//
// Where along axis 0 each array is contiguous or repeats one element, it is `packed`: a thread
// moves as many neighbours as 16 bytes hold of the widest type, up to 8. Else it moves one element.
//
// Entry points say __launch_bounds__(BLOCK, 4): ptxas else spills to reach full occupancy, which
// kernels with 16-byte accesses do not need.
#pragma once
#include "common.cuh"

#define AXES 8

// Axis 0 is the innermost one. Strides are in elements, those of absent operands 0.
struct Strided {
  int count;  // elements of y
  int axes;   // 1 to AXES
  int packed;
  int shape[AXES];
  int y[AXES];
  int a[AXES];
  int b[AXES];
  int c[AXES];
};

// An array, or a number where `at` is null.
template <typename T>
struct Operand {
  T* at;
  const int* stride;
  double number = 0;
};

// Moves the operands from their first element to element i of the space.
template <typename... T>
__device__ __forceinline__ void move_to(unsigned i, const Strided& size, Operand<T>&... x) {
#pragma unroll
  for (int axis = 0; axis < AXES; ++axis) {
    if (axis >= size.axes) break;
    const unsigned length = size.shape[axis];
    const unsigned rest = axis + 1 < size.axes ? i / length : 0;  // no division for one axis
    const long long index = i - rest * length;
    ((x.at += index * x.stride[axis]), ...);
    i = rest;
  }
}

// N neighbours along axis 0, or one element or number N times, as arithmetic takes them.
template <int N, typename T>
__device__ __forceinline__ auto load_along(const Operand<const T>& x) {
  typedef decltype(to_real(T())) R;
  Pack<R, N> v;
  if (x.at != nullptr && x.stride[0] == 1) {
    const Pack<T, N> stored = load_pack<N>(x.at);
#pragma unroll
    for (int i = 0; i < N; ++i) v.at[i] = to_real(stored.at[i]);
  } else {
    const R repeated = x.at != nullptr ? to_real(*x.at) : static_cast<R>(x.number);
#pragma unroll
    for (int i = 0; i < N; ++i) v.at[i] = repeated;
  }
  return v;
}

template <int N, typename Y, typename F, typename... R>
__device__ __forceinline__ void store_each(Y* y, F f, const Pack<R, N>&... x) {
  Pack<Y, N> v;
#pragma unroll
  for (int i = 0; i < N; ++i) v.at[i] = to_storage<Y>(f(x.at[i]...));
  store_pack<N>(y, v);
}

// Elements i to i + N - 1, neighbours along axis 0 when N > 1.
template <int N, typename F, typename Y, typename... X>
__device__ __forceinline__ void neighbours(unsigned i, const Strided& size, F f, Operand<Y> y,
                                           Operand<const X>... x) {
  move_to(i, size, y, x...);
  store_each<N>(y.at, f, load_along<N>(x)...);
}

// Neighbours that a thread moves when packed.
template <typename... T>
__host__ __device__ constexpr int pack_length() {
  int widest = 2;
  ((widest = sizeof(T) > widest ? sizeof(T) : widest), ...);
  return 16 / widest;
}

template <typename F, typename Y, typename... X>
__device__ __forceinline__ void all_elements(const Strided& size, F f, Operand<Y> y,
                                             Operand<const X>... x) {
  constexpr int N = pack_length<Y, X...>();
  const int mine = size.packed ? N : 1;
  long long i = global_thread() * mine;
  if (size.packed && i + N <= size.count) {
    neighbours<N>(i, size, f, y, x...);
  } else {  // one element, or the end of a packed array
    const long long end = i + mine < size.count ? i + mine : size.count;
    for (; i < end; ++i) neighbours<1>(i, size, f, y, x...);
  }
}

// y = f(a), y = f(a, b), y = f(a, b, c), f taking and giving Reals. y may be one of the operands.
// Operands that are null stand for a number.
template <typename F, typename Y, typename A>
__device__ __forceinline__ void for_each(const Strided& size, F f, Y* y, const A* a) {
  all_elements(size, f, Operand<Y>{y, size.y}, Operand<const A>{a, size.a});
}
template <typename F, typename Y, typename A, typename B>
__device__ __forceinline__ void for_each(const Strided& size, F f, Y* y, const A* a, const B* b,
                                         double number = 0) {
  all_elements(size, f, Operand<Y>{y, size.y}, Operand<const A>{a, size.a, number},
               Operand<const B>{b, size.b, number});
}
template <typename F, typename Y, typename A, typename B, typename C>
__device__ __forceinline__ void for_each(const Strided& size, F f, Y* y, const A* a, const B* b,
                                         const C* c, double b_number, double c_number) {
  all_elements(size, f, Operand<Y>{y, size.y}, Operand<const A>{a, size.a},
               Operand<const B>{b, size.b, b_number}, Operand<const C>{c, size.c, c_number});
}
