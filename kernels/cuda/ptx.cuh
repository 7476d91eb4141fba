// PTX instructions that CUDA C has no name for: the only inline assembly of the project.
//
// Each wrapper says what it does, its instruction and the first architecture that has it (older
// ones do not declare it); headings name the chapter of the PTX ISA that describes the instruction.
// The emulator takes the same functions from ptx_models.h, where lane layouts are written out as
// loops. Pointers to shared memory are ordinary pointers here and 32-bit addresses of the shared
// window in the instruction.
#pragma once

#include "common.cuh"

// An mbarrier object, in shared memory.
struct __align__(8) Mbarrier {
  unsigned long long state;
};

// How TMA sees an array in global memory (CUtensorMap); made by kernels/cuda/tensor_map.py. A
// kernel takes it as `const __grid_constant__ TensorMap map`. (cuda.h does not compile under
// NVRTC.)
struct __align__(64) TensorMap {
  unsigned long long opaque[16];
};

#ifdef CONVOLT_EMULATOR
#include <ptx_models.h>  // in kernels/emulator/shim
#else

#define PTX __device__ __forceinline__

PTX unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// `p` rounded up to a multiple of BYTES in the shared window. Ask for BYTES - 16 bytes more.
template <int BYTES, typename T>
PTX T* align_shared(T* p) {
  return p + ((0u - shared_address(p)) % BYTES) / sizeof(T);
}

// Keeps the compiler from finding `v` anew at each use, which it does to save a register. No
// instruction.
PTX void keep(int& v) { asm volatile("" : "+r"(v)); }

// ---- Matrix fragments (9.7.14, Warp Level Matrix Instructions) ----------------------------------

// Loads 1, 2 or 4 matrices of 8 x 8 16-bit elements; lane 8 m + i holds the address of row i of
// matrix m, lane l receives elements (l / 4, l % 4 * 2 + {0, 1}) of matrix m in r[m].
// ldmatrix.m8n8 [.trans: the matrices transposed], sm_75
#define PTX_LDMATRIX(name, suffix)                                                            \
  PTX void name(unsigned(&r)[1], const void* row) {                                           \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1" suffix ".shared.b16 {%0}, [%1];"             \
                 : "=r"(r[0])                                                                 \
                 : "r"(shared_address(row))                                                   \
                 : "memory");                                                                 \
  }                                                                                           \
  PTX void name(unsigned(&r)[2], const void* row) {                                           \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" suffix ".shared.b16 {%0, %1}, [%2];"         \
                 : "=r"(r[0]), "=r"(r[1])                                                     \
                 : "r"(shared_address(row))                                                   \
                 : "memory");                                                                 \
  }                                                                                           \
  PTX void name(unsigned(&r)[4], const void* row) {                                           \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" suffix ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                             \
                 : "r"(shared_address(row))                                                   \
                 : "memory");                                                                 \
  }
PTX_LDMATRIX(ldmatrix, "")
PTX_LDMATRIX(ldmatrix_trans, ".trans")
#undef PTX_LDMATRIX

// ---- Named barriers (9.7.13, Parallel Synchronization and Communication) ------------------------

// Waits until `threads` threads (a multiple of 32) have come to barrier `id` (1..15; __syncthreads
// is 0). barrier.sync, sm_70 for warps that have diverged
PTX void named_barrier_sync(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts as one of them and goes on. barrier.arrive, sm_70
PTX void named_barrier_arrive(int id, int threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// ---- Conversions (9.7.9, Data Movement and Conversion) ------------------------------------------

// Two floats as bfloat16 in one register, `low` in the lower half. cvt.rn.bf16x2.f32, sm_80
PTX unsigned pack_bfloat16x2(float low, float high) {
  unsigned packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Rounds to the 10 bits of a tf32 mantissa, ties away from zero. cvt.rna.tf32.f32, sm_80
PTX unsigned to_tf32(float v) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}

// ---- mma (9.7.14) -------------------------------------------------------------------------------
// With g = lane / 4, t = lane % 4, d[2 h + e] is element (g + 8 h, 2 t + e) of the 16 x 8 result.

// d += a b. Elements (row, column) in halves e of a[h + 2 k]: (g + 8 h, 2 t + e + 8 k);
// of b[k]: (2 t + e + 8 k, g). mma.m16n8k16 .bf16, sm_80
PTX void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a b. a[h + 2 k]: (g + 8 h, t + 4 k); b[k]: (t + 4 k, g). The lower 13 bits of an operand are
// ignored: round by to_tf32. mma.m16n8k8 .tf32, sm_80
PTX void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Asynchronous copies of a thread (9.7.9) ----------------------------------------------------

// Starts to copy `valid` bytes from global to shared memory and to fill the rest of BYTES (4, 8 or
// 16) with zeros; both addresses are multiples of BYTES. cp.async .ca, .cg (past L1) for 16, sm_80
template <int BYTES>
PTX void cp_async(void* shared, const void* global, int valid = BYTES) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  if (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid), "n"(BYTES == 16 ? 4 : BYTES)
                 : "memory");
}

// This thread's copies since the last commit become a group. cp.async.commit_group, sm_80
PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most GROUPS of this thread's groups are under way; other threads see the data
// after a barrier. cp.async.wait_group, sm_80
template <int GROUPS>
PTX void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

#endif  // sm_80
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// ---- mbarrier (9.7.13) --------------------------------------------------------------------------
// A phase ends when `arrivals` threads have arrived and all expected bytes have come; then the next
// one begins. The first has parity 0.

// mbarrier.init, sm_80
PTX void mbarrier_init(Mbarrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes initialised mbarriers visible to the TMA engine; a __syncthreads must follow for the
// threads. fence.mbarrier_init, sm_90
PTX void mbarrier_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The memory may be used for something else. mbarrier.inval, sm_80
PTX void mbarrier_inval(Mbarrier* barrier) {
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// One arrival. mbarrier.arrive, sm_80
PTX void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// One arrival, and `bytes` more that copies will bring in this phase. mbarrier.arrive.expect_tx,
// sm_90
PTX void mbarrier_arrive_expect_tx(Mbarrier* barrier, unsigned bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits for the end of the phase of that parity (of the one before, which passes at once, where the
// phase has the other parity). mbarrier.try_wait.parity, sm_90
PTX void mbarrier_wait(Mbarrier* barrier, unsigned parity) {
  unsigned over;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!over);
}

// ---- TMA: copies of whole tiles (9.7.9) ---------------------------------------------------------
// One thread starts them. Coordinates count elements, the innermost dimension first. What lies
// outside of the array is read as zero and not written.

// Starts to load the box at (c0, c1, ...); its bytes count at `barrier`. `shared` is a multiple of
// 128 bytes, of 1024 with the 128-byte swizzle. cp.async.bulk.tensor .tile, sm_90
#define PTX_TMA_LOAD "shared::cluster.global.tile.mbarrier::complete_tx::bytes"
PTX void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d." PTX_TMA_LOAD
               " [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
               "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
               : "memory");
}
PTX void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d." PTX_TMA_LOAD
               " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
               "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
PTX void tma_load(void* shared, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2,
                  int c3) {
  asm volatile("cp.async.bulk.tensor.4d." PTX_TMA_LOAD
               " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
               "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
#undef PTX_TMA_LOAD

// The rows of an implicit GEMM from an array (N, H, W, C): pixels (n, h, w) and those that follow
// it, walking w, h, n by the map's strides inside the map's pixel box; filter tap (tap_h, tap_w) is
// added to each. C channels from c. cp.async.bulk.tensor .im2col, sm_90
PTX void tma_load_im2col(void* shared, const TensorMap* map, Mbarrier* barrier, int c, int w, int h,
                         int n, int tap_w, int tap_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n),
      "h"(static_cast<unsigned short>(tap_w)), "h"(static_cast<unsigned short>(tap_h))
      : "memory");
}

// Starts to store a box, clipped at the array's edges. cp.async.bulk.tensor .bulk_group, sm_90
#define PTX_TMA_STORE "global.shared::cta.tile.bulk_group"
PTX void tma_store(const TensorMap* map, const void* shared, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d." PTX_TMA_STORE " [%0, {%2, %3}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(c0), "r"(c1)
               : "memory");
}
PTX void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2) {
  asm volatile("cp.async.bulk.tensor.3d." PTX_TMA_STORE " [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
PTX void tma_store(const TensorMap* map, const void* shared, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d." PTX_TMA_STORE " [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
               "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
#undef PTX_TMA_STORE

// This thread's stores since the last commit become a group. cp.async.bulk.commit_group, sm_90
PTX void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until at most GROUPS groups still read shared memory. cp.async.bulk.wait_group.read, sm_90
template <int GROUPS>
PTX void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(GROUPS) : "memory");
}

// Waits until at most GROUPS groups are under way. cp.async.bulk.wait_group, sm_90
template <int GROUPS>
PTX void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Between this thread's own accesses to shared memory and those of TMA or wgmma to the same place.
// fence.proxy.async, sm_90
PTX void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#endif  // sm_90
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || \
    defined(__CUDA_ARCH_FEAT_SM100_ALL)

// All warps of a warpgroup ask for more, or give back, registers: COUNT of each thread, a multiple
// of 8 in 24..256. setmaxnreg, sm_90a
template <int COUNT>
PTX void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
PTX void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

#endif  // sm_90a, sm_100a
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// ---- wgmma (9.7.15, Asynchronous Warpgroup Level Matrix), sm_90a only ---------------------------
//
// The matrix instruction of a warpgroup: four warps, the first one's number a multiple of 4.

// Where an operand lies in shared memory, with the 128-byte swizzle: boxes of 64 bfloat16 (128
// bytes) x 8 rows on 1024-byte boundaries. Adding n to a descriptor moves it by 16 n bytes.
//   K-major    a row holds 64 of k; stride_bytes to the next 8 of mn; 16 further in k are 32 bytes
//   MN-major   a row holds 64 of mn; leading_bytes to the next 64 of mn, stride_bytes to the next 8
//              of k
PTX unsigned long long wgmma_descriptor(const void* tile, int leading_bytes, int stride_bytes) {
  const unsigned long long address = (shared_address(tile) & 0x3ffffu) >> 4;
  return address | static_cast<unsigned long long>(leading_bytes >> 4) << 16 |
         static_cast<unsigned long long>(stride_bytes >> 4) << 32 | 1ull << 62;
}

// Before the first wgmma, and where registers that it reads were written. wgmma.fence
PTX void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// wgmma.commit_group
PTX void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most GROUPS groups are under way; until then the results may not be touched.
// wgmma.wait_group
template <int GROUPS>
PTX void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

// After wgmma_wait: keeps the compiler from moving uses of `d` before it. No instruction.
template <int REGISTERS>
PTX void wgmma_results(float (&d)[REGISTERS]) {
#pragma unroll
  for (int i = 0; i < REGISTERS; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Starts d = a b, or d += a b: a 64 x 16, b 16 x N, both bfloat16 behind descriptors, MN-major
// where the template says so. With w = warp % 4, g = lane / 4, t = lane % 4, d[4 j + 2 h + e] is
// element (16 w + g + 8 h, 8 j + 2 t + e); N = 2 x the size of d. wgmma.mma_async.m64nNk16 .bf16
#define PTX_TEN(t)                                                                                 \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t \
  "9, "
#define PTX_THREE_TENS PTX_TEN() PTX_TEN(1) PTX_TEN(2)
#define PTX_SIX_TENS PTX_THREE_TENS PTX_TEN(3) PTX_TEN(4) PTX_TEN(5)
#define PTX_NINE_TENS PTX_SIX_TENS PTX_TEN(6) PTX_TEN(7) PTX_TEN(8)
#define PTX_IN_OUT_8(i)                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define PTX_IN_OUT_32(i) \
  PTX_IN_OUT_8(i), PTX_IN_OUT_8(i + 8), PTX_IN_OUT_8(i + 16), PTX_IN_OUT_8(i + 24)
// `registers` lists all of d; a, b, add, ta, tb are the numbers of the operands that follow.
#define PTX_WGMMA(n, registers, a_, b_, add, ta, tb, ...)                                          \
  template <bool A_MN_MAJOR, bool B_MN_MAJOR>                                                      \
  PTX void wgmma_bf16(float(&d)[n / 2], unsigned long long a, unsigned long long b,                \
                      bool accumulate = true) {                                                    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #add                                         \
                 ", 0;\n"                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" registers "}, %" #a_ \
                 ", %" #b_ ", p, 1, 1, %" #ta ", %" #tb ";\n}"                                     \
                 : __VA_ARGS__                                                                     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(A_MN_MAJOR ? 1 : 0),     \
                   "n"(B_MN_MAJOR ? 1 : 0));                                                       \
  }
PTX_WGMMA(64, PTX_THREE_TENS "%30, %31", 32, 33, 34, 35, 36, PTX_IN_OUT_32(0))
PTX_WGMMA(128, PTX_SIX_TENS "%60, %61, %62, %63", 64, 65, 66, 67, 68, PTX_IN_OUT_32(0),
          PTX_IN_OUT_32(32))
PTX_WGMMA(192, PTX_NINE_TENS "%90, %91, %92, %93, %94, %95", 96, 97, 98, 99, 100, PTX_IN_OUT_32(0),
          PTX_IN_OUT_32(32), PTX_IN_OUT_32(64))
PTX_WGMMA(256,
          PTX_NINE_TENS PTX_TEN(9) PTX_TEN(10)
              PTX_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127",
          128, 129, 130, 131, 132, PTX_IN_OUT_32(0), PTX_IN_OUT_32(32), PTX_IN_OUT_32(64),
          PTX_IN_OUT_32(96))
#undef PTX_WGMMA
#undef PTX_TEN
#undef PTX_THREE_TENS
#undef PTX_SIX_TENS
#undef PTX_NINE_TENS
#undef PTX_IN_OUT_8
#undef PTX_IN_OUT_32

#endif  // sm_90a
#undef PTX
#endif  // CONVOLT_EMULATOR
