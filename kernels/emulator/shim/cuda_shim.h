// CUDA C for g++: the built-in types, variables, functions and keywords. Included before every .cu.
//
// Three things cannot be mapped and are asked of the kernels instead: dynamic shared memory is
// EXTERN_SHARED(Type, name); inline PTX lives in ptx.cuh alone, which has models; textures,
// clusters, cooperative groups and device-side launches do not exist here.
#pragma once

#define __assert_fail emulator_assert_fail  // what a failed assert calls

#include <math.h>  // not <cmath>: the overloads must be global

#include <cassert>
#include <cfloat>
#include <climits>
#include <cstdio>
#include <type_traits>
#include <utility>

#include "emulator.h"

#define CONVOLT_EMULATOR 1

// ---- Vector types -----------------------------------------------------------------------------

#define EMULATOR_VECTORS(T, name)                                               \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                            \
  struct name##3 { T x, y, z; };                                                \
  struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                    \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
EMULATOR_VECTORS(signed char, char)
EMULATOR_VECTORS(unsigned char, uchar)
EMULATOR_VECTORS(short, short)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- Warp intrinsics --------------------------------------------------------------------------

namespace emulator {

template <typename T>
struct Shuffle {
  T value;
  int source;
  T result;
};

// Lane i gets the value of lane `source`; its own when that is outside the segment (the caller says
// so by source == lane); all ones, like poison, when that lane does not take part.
template <typename T>
T shuffle(unsigned mask, T value, int source, Place place) {
  Shuffle<T> mine{value, source, value};
  warp_operation(
      {"shuffle"}, mask, &mine,
      [](void** lanes, unsigned active) {
        for (int i = 0; i < 32; ++i) {
          if (!(active >> i & 1)) continue;
          auto& lane = *static_cast<Shuffle<T>*>(lanes[i]);
          if (lane.source == i) continue;
          if (active >> lane.source & 1)
            lane.result = static_cast<Shuffle<T>*>(lanes[lane.source])->value;
          else
            std::memset(static_cast<void*>(&lane.result), 0xff, sizeof(T));
        }
      },
      place);
  return mine.result;
}

// __reduce_add_sync and its relatives: integers, in any order.
template <typename T>
T reduce(const char* name, unsigned mask, T value, T (*combine)(T, T), Place place) {
  struct Lane {
    T value, result;
    T (*combine)(T, T);
  } mine{value, value, combine};
  warp_operation(
      {name}, mask, &mine,
      [](void** lanes, unsigned active) {
        const int first = __builtin_ctz(active);
        const auto combine = static_cast<Lane*>(lanes[first])->combine;
        T all = static_cast<Lane*>(lanes[first])->value;
        for (int i = first + 1; i < 32; ++i)
          if (active >> i & 1) all = combine(all, static_cast<Lane*>(lanes[i])->value);
        for (int i = 0; i < 32; ++i)
          if (active >> i & 1) static_cast<Lane*>(lanes[i])->result = all;
      },
      place);
  return mine.result;
}

inline unsigned ballot(unsigned mask, bool predicate, Place place) {
  const auto either = [](unsigned a, unsigned b) { return a | b; };
  return reduce<unsigned>("ballot", mask, predicate ? 1u << self->lane : 0, either, place);
}

inline int segment(int width) { return static_cast<int>(self->lane) & ~(width - 1); }

}  // namespace emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_PLACE) {
  return emulator::shuffle(mask, value, emulator::segment(width) + (source & (width - 1)), place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_PLACE) {
  const int lane = emulator::self->lane, source = lane - static_cast<int>(delta);
  return emulator::shuffle(mask, value, source < emulator::segment(width) ? lane : source, place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_PLACE) {
  const int lane = emulator::self->lane, source = lane + static_cast<int>(delta);
  const bool inside = source < emulator::segment(width) + width;
  return emulator::shuffle(mask, value, inside ? source : lane, place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_PLACE) {
  const int lane = emulator::self->lane, source = lane ^ lanes;
  const bool inside = source < emulator::segment(width) + width;
  return emulator::shuffle(mask, value, inside ? source : lane, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  return emulator::ballot(mask, predicate != 0, place);
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  return emulator::ballot(mask, predicate != 0, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_PLACE) {
  return emulator::ballot(mask, predicate == 0, place) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_PLACE) {
  emulator::warp_operation(
      {"__syncwarp", false, true}, mask, nullptr, [](void**, unsigned) {}, place);
}
#define EMULATOR_REDUCE(name, T, expression)                                  \
  inline T name(unsigned mask, T value, EMULATOR_PLACE) {                     \
    return emulator::reduce<T>(                                               \
        #name, mask, value, [](T a, T b) -> T { return expression; }, place); \
  }
EMULATOR_REDUCE(__reduce_add_sync, unsigned, a + b)
EMULATOR_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATOR_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATOR_REDUCE(__reduce_add_sync, int, a + b)
EMULATOR_REDUCE(__reduce_min_sync, int, a < b ? a : b)
EMULATOR_REDUCE(__reduce_max_sync, int, a > b ? a : b)
EMULATOR_REDUCE(__reduce_and_sync, unsigned, a& b)
EMULATOR_REDUCE(__reduce_or_sync, unsigned, a | b)
inline unsigned __activemask() { return 1u << emulator::self->lane; }  // the least that is true

// ---- Block barriers and fences ----------------------------------------------------------------

inline void __syncthreads(EMULATOR_PLACE) {
  emulator::block_barrier(emulator::Vote::none, 0, place);
}
inline int __syncthreads_count(int p, EMULATOR_PLACE) {
  return emulator::block_barrier(emulator::Vote::count, p, place);
}
inline int __syncthreads_and(int p, EMULATOR_PLACE) {
  return emulator::block_barrier(emulator::Vote::all, p, place);
}
inline int __syncthreads_or(int p, EMULATOR_PLACE) {
  return emulator::block_barrier(emulator::Vote::any, p, place);
}
// Weak memory order is not modelled: a fence only lets others run.
inline void __threadfence_block() { emulator::preempt(); }
inline void __threadfence() { emulator::preempt(); }
inline void __threadfence_system() { emulator::preempt(); }

// ---- Atomics ----------------------------------------------------------------------------------

namespace emulator {
// Between check_atomic and the end of the function no other thread of the block runs; other blocks
// may, on other OS threads.
// Inline, so that messages name the kernel's line.
#define __forceinline__ inline __attribute__((always_inline))
template <typename T, typename F>
__forceinline__ T atomic(T* p, F change) {
  check_atomic(p, sizeof(T));
  T before, after;
  __atomic_load(p, &before, __ATOMIC_SEQ_CST);
  do {
    after = change(before);
  } while (
      !__atomic_compare_exchange(p, &before, &after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
  preempt();
  return before;
}
template <typename T>
struct Same {
  typedef T type;
};
}  // namespace emulator

#define EMULATOR_ATOMIC(name, expression)                                          \
  template <typename T>                                                            \
  __forceinline__ T name(T* p, typename emulator::Same<T>::type v) {               \
    return emulator::atomic(p, [v](T old) { return static_cast<T>(expression); }); \
  }
EMULATOR_ATOMIC(atomicAdd, old + v)
EMULATOR_ATOMIC(atomicSub, old - v)
EMULATOR_ATOMIC(atomicExch, (static_cast<void>(old), v))
EMULATOR_ATOMIC(atomicMin, v < old ? v : old)
EMULATOR_ATOMIC(atomicMax, old < v ? v : old)
EMULATOR_ATOMIC(atomicAnd, old& v)
EMULATOR_ATOMIC(atomicOr, old | v)
EMULATOR_ATOMIC(atomicXor, old ^ v)
EMULATOR_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1)
template <typename T>
__forceinline__ T atomicCAS(T* p, typename emulator::Same<T>::type expected,
                            typename emulator::Same<T>::type v) {
  return emulator::atomic(p, [=](T old) { return old == expected ? v : old; });
}

// ---- Loads and stores with a cache hint, which the emulator ignores ----------------------------

#define EMULATOR_LOAD(name)            \
  template <typename T>                \
  __forceinline__ T name(const T* p) { \
    return *p;                         \
  }
#define EMULATOR_STORE(name)                                            \
  template <typename T>                                                 \
  __forceinline__ void name(T* p, typename emulator::Same<T>::type v) { \
    *p = v;                                                             \
  }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcg)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stcs)
template <typename T>
size_t __cvta_generic_to_shared(T* p) {
  return emulator::shared_offset(p);
}

// ---- Arithmetic -------------------------------------------------------------------------------

#define EMULATOR_MIN_MAX(T)                        \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

template <typename To, typename From>
inline To emulator_bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline int __float_as_int(float v) { return emulator_bits<int>(v); }
inline unsigned __float_as_uint(float v) { return emulator_bits<unsigned>(v); }
inline float __int_as_float(int v) { return emulator_bits<float>(v); }
inline float __uint_as_float(unsigned v) { return emulator_bits<float>(v); }
inline long long __double_as_longlong(double v) { return emulator_bits<long long>(v); }
inline double __longlong_as_double(long long v) { return emulator_bits<double>(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll(v) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline int __float2int_rn(float v) { return static_cast<int>(lrintf(v)); }
inline int __float2int_rz(float v) { return static_cast<int>(v); }
inline int __float2int_rd(float v) { return static_cast<int>(floorf(v)); }
inline int __float2int_ru(float v) { return static_cast<int>(ceilf(v)); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __saturatef(float v) { return v > 0 ? (v < 1 ? v : 1) : 0; }  // NaN: 0
inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline void sincospif(float v, float* s, float* c) {
  *s = static_cast<float>(sin(M_PI * static_cast<double>(v)));
  *c = static_cast<float>(cos(M_PI * static_cast<double>(v)));
}
inline void sincospi(double v, double* s, double* c) {
  *s = sin(M_PI * v);
  *c = cos(M_PI * v);
}
inline float sinpif(float v) { return static_cast<float>(sin(M_PI * static_cast<double>(v))); }
inline float cospif(float v) { return static_cast<float>(cos(M_PI * static_cast<double>(v))); }
inline double sinpi(double v) { return sin(M_PI * v); }
inline double cospi(double v) { return cos(M_PI * v); }
inline void __nanosleep(unsigned) { emulator::preempt(true); }
inline long long clock64() { return 0; }
inline long long clock() { return 0; }

// The special-function unit: exact here, counted.
#define EMULATOR_SPECIAL(name, expression) \
  inline float name(float v) {             \
    emulator::count_special_function();    \
    return expression;                     \
  }
EMULATOR_SPECIAL(__expf, expf(v))
EMULATOR_SPECIAL(__exp10f, exp10f(v))
EMULATOR_SPECIAL(__logf, logf(v))
EMULATOR_SPECIAL(__log2f, log2f(v))
EMULATOR_SPECIAL(__sinf, sinf(v))
EMULATOR_SPECIAL(__cosf, cosf(v))
EMULATOR_SPECIAL(__tanf, tanf(v))
EMULATOR_SPECIAL(__frcp_rn, 1.0f / v)
EMULATOR_SPECIAL(__frsqrt_rn, 1.0f / sqrtf(v))
inline float __fdividef(float a, float b) {
  emulator::count_special_function();
  return a / b;
}
inline float __powf(float a, float b) {
  emulator::count_special_function();
  return powf(a, b);
}

// ---- Keywords; last, because they would break the headers above ---------------------------------

#define __trap() emulator::fail("__trap")
#define memcpy emulator_memcpy
#define memset emulator_memset
#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __grid_constant__
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __align__(n) __attribute__((aligned(n)))
#undef __noinline__
#define __noinline__ __attribute__((noinline))
// One copy for each OS thread, which runs one block at a time; the runtime finds and poisons it.
#define __shared__ static thread_local
#define EXTERN_SHARED(T, name) T* const name = static_cast<T*>(emulator::dynamic_shared())
#define threadIdx (emulator::self->thread)
#define blockIdx (emulator::self->block)
#define blockDim (emulator::self->block_dim)
#define gridDim (emulator::self->grid_dim)
#define warpSize 32

// How the runtime calls a kernel: its arguments behind pointers.
namespace emulator {
template <typename... Parameters, size_t... i>
__attribute__((no_sanitize("thread", "undefined"))) void call(void (*kernel)(Parameters...),
                                                              void** arguments,
                                                              std::index_sequence<i...>) {
  kernel(*static_cast<std::decay_t<Parameters>*>(arguments[i])...);
}
template <typename... Parameters>
void call(void (*kernel)(Parameters...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<Parameters...>{});
}
}  // namespace emulator
#define EMULATOR_EXPORT(kernel) \
  extern "C" void emulator_entry_##kernel(void** arguments) { emulator::call(&kernel, arguments); }
