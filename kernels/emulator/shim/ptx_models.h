// What the wrappers of ../../cuda/ptx.cuh do, for the emulator: same names, same arguments.
//
// Asynchronous instructions become tasks, which the runtime runs between their issue and the wait for
// them. Not modelled: fences (they only let others run), the rounding inside a matrix instruction
// (products are summed in order, in float), clusters and multicast.
#pragma once

#include <algorithm>

// A model is no part of the kernel: it reaches memory by shared_load and its kin, which check. What
// accesses memory at once is inlined, so that a message names the kernel's line.
#define EMULATOR_MODEL __attribute__((no_sanitize("thread", "undefined"))) inline

template <int BYTES, typename T>
T* align_shared(T* p) {
  return p + ((0u - emulator::shared_offset(p)) % BYTES) / sizeof(T);
}

inline void keep(int&) {}

namespace emulator {

// An argument that knows where the call is, for functions with any number of them.
template <typename T>
struct At {
  T value;
  Place place;
  At(T value, Place place = Place::here()) : value(value), place(place) {}
};

inline void require(bool condition, Place place, const char* complaint) {
  if (!condition) fail("%s:%d: %s", place.file, place.line, complaint);
}
inline bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

// All lanes of the warp must execute this together.
inline void converge(const char* name, Place place) {
  warp_operation({name, true}, ~0u, nullptr, [](void**, unsigned) {}, place);
}

inline float bfloat16_of(unsigned word, int half) {
  return __uint_as_float(half ? word & 0xffff0000u : word << 16);
}
inline float tf32_of(unsigned word, int) { return __uint_as_float(word & 0xffffe000u); }

// ---- Matrix fragments ---------------------------------------------------------------------------

struct LdmatrixLane {
  unsigned short row[8];
  unsigned* result;
};

template <int MATRICES, bool TRANSPOSED>
__forceinline__ void load_matrices(unsigned (&result)[MATRICES], const void* row, Place place) {
  LdmatrixLane mine{{}, result};
  if (self->lane < 8 * MATRICES) {
    require(aligned(row, 16), place, "ldmatrix: the address of a row is no multiple of 16 bytes");
    shared_load(mine.row, row, sizeof mine.row, "ldmatrix");
  }
  const char* name = TRANSPOSED ? "ldmatrix.trans" : "ldmatrix";
  warp_operation(
      {name, true}, ~0u, &mine,
      [](void** lanes, unsigned) {
        const auto element = [lanes](int matrix, int row, int column) -> unsigned {
          if (TRANSPOSED) std::swap(row, column);
          return static_cast<LdmatrixLane*>(lanes[8 * matrix + row])->row[column];
        };
        for (int lane = 0; lane < 32; ++lane)
          for (int m = 0; m < MATRICES; ++m)
            static_cast<LdmatrixLane*>(lanes[lane])->result[m] =
                element(m, lane / 4, lane % 4 * 2) | element(m, lane / 4, lane % 4 * 2 + 1) << 16;
      },
      place);
}

struct MmaLane {
  float* d;
  const unsigned *a, *b;
};

// d += a b for a 16 x K, b K x 8; a register holds K / 8 neighbours in k.
template <int K, float (*element)(unsigned, int), Mma kind>
inline void multiply_fragments(void** lanes, unsigned) {
  constexpr int wide = K / 8;
  float a[16][K], b[8][K];
  for (int i = 0; i < 32; ++i) {
    const auto& lane = *static_cast<MmaLane*>(lanes[i]);
    const int g = i / 4, t = i % 4;
    for (int e = 0; e < wide; ++e) {
      for (int r = 0; r < 4; ++r)
        a[g + r % 2 * 8][t * wide + e + r / 2 * K / 2] = element(lane.a[r], e);
      for (int r = 0; r < 2; ++r) b[g][t * wide + e + r * K / 2] = element(lane.b[r], e);
    }
  }
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < 4; ++r) {
      const float* row = a[i / 4 + r / 2 * 8];
      const float* column = b[i % 4 * 2 + r % 2];
      float sum = 0;
      for (int k = 0; k < K; ++k) sum += row[k] * column[k];
      static_cast<MmaLane*>(lanes[i])->d[r] += sum;
    }
  count_mma(kind, 2 * 16 * 8 * K);
}

}  // namespace emulator

#define EMULATOR_LDMATRIX(matrices)                                                              \
  __forceinline__ void ldmatrix(unsigned(&r)[matrices], const void* row, EMULATOR_PLACE) {       \
    emulator::load_matrices<matrices, false>(r, row, place);                                     \
  }                                                                                              \
  __forceinline__ void ldmatrix_trans(unsigned(&r)[matrices], const void* row, EMULATOR_PLACE) { \
    emulator::load_matrices<matrices, true>(r, row, place);                                      \
  }
EMULATOR_LDMATRIX(1)
EMULATOR_LDMATRIX(2)
EMULATOR_LDMATRIX(4)

inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              EMULATOR_PLACE) {
  using namespace emulator;
  MmaLane mine{d, a, b};
  warp_operation({"mma.m16n8k16", true}, ~0u, &mine,
                 multiply_fragments<16, bfloat16_of, Mma::m16n8k16_bf16>, place);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             EMULATOR_PLACE) {
  using namespace emulator;
  MmaLane mine{d, a, b};
  warp_operation({"mma.m16n8k8", true}, ~0u, &mine,
                 multiply_fragments<8, tf32_of, Mma::m16n8k8_tf32>, place);
}

inline unsigned pack_bfloat16x2(float low, float high) {
  return to_storage<bfloat16>(low).bits | static_cast<unsigned>(to_storage<bfloat16>(high).bits)
                                              << 16;
}

inline unsigned to_tf32(float v) {
  const unsigned bits = __float_as_uint(v);
  if (v != v) return 0x7fffffffu;
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

// ---- Named barriers -----------------------------------------------------------------------------

inline void named_barrier_sync(int id, int threads, EMULATOR_PLACE) {
  emulator::named_barrier_sync(id, threads, place);
}
inline void named_barrier_arrive(int id, int threads, EMULATOR_PLACE) {
  emulator::named_barrier_arrive(id, threads, place);
}

// ---- Asynchronous copies of a thread ------------------------------------------------------------

template <int BYTES>
__forceinline__ void cp_async(void* shared, const void* global, int valid = BYTES, EMULATOR_PLACE) {
  using namespace emulator;
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  require(valid >= 0 && valid <= BYTES, place, "cp.async: bytes to read outside 0..size");
  require(aligned(shared, BYTES) && aligned(global, BYTES), place,
          "cp.async: an address is no multiple of the size");
  require(is_shared(shared, BYTES), place, "cp.async: the destination is not in shared memory");
  mark_pending(shared, BYTES);
  enqueue(Queue::cp_async, make_task(place, [=] {
            unsigned char bytes[BYTES] = {};
            if (valid) global_load(bytes, global, valid);
            clear_pending(shared, BYTES);
            shared_store(shared, bytes, BYTES, "cp.async");
          }));
}
inline void cp_async_commit() {
  emulator::commit_group(emulator::Queue::cp_async);
  emulator::preempt();
}
template <int GROUPS>
inline void cp_async_wait() {
  emulator::wait_group(emulator::Queue::cp_async, GROUPS);
}

// ---- mbarrier -----------------------------------------------------------------------------------

namespace emulator {

struct MbarrierState {
  unsigned arrivals : 14, missing : 14, phase : 1, tag : 3;
  int bytes;  // expected and not here yet
  static constexpr unsigned valid_tag = 5;
};
static_assert(sizeof(MbarrierState) == sizeof(Mbarrier));

EMULATOR_MODEL MbarrierState read_mbarrier(const void* barrier) {
  if (!is_shared(barrier, 8)) fail("mbarrier: not in shared memory");
  MbarrierState state;
  __builtin_memcpy(&state, barrier, sizeof state);
  if (state.tag != state.valid_tag) fail("mbarrier: used before mbarrier_init or after inval");
  return state;
}

EMULATOR_MODEL void write_mbarrier(void* barrier, MbarrierState state) {
  if (state.missing == 0 && state.bytes == 0) {
    state.phase ^= 1;
    state.missing = state.arrivals;
    mbarrier_complete(barrier);
  }
  __builtin_memcpy(barrier, &state, sizeof state);
}

EMULATOR_MODEL void arrive(Mbarrier* barrier, int bytes, Place place) {
  MbarrierState state = read_mbarrier(barrier);
  require(state.missing > 0, place,
          "mbarrier: more arrivals in a phase than it was initialised for");
  mbarrier_release(barrier);
  state.bytes += bytes;
  --state.missing;
  write_mbarrier(barrier, state);
  preempt();
}

inline void bytes_have_come(Mbarrier* barrier, int bytes) {
  engine_completes(barrier);
  MbarrierState state = read_mbarrier(barrier);
  state.bytes -= bytes;
  write_mbarrier(barrier, state);
}

}  // namespace emulator

EMULATOR_MODEL void mbarrier_init(Mbarrier* barrier, int arrivals, EMULATOR_PLACE) {
  using namespace emulator;
  require(is_shared(barrier, 8) && aligned(barrier, 8), place,
          "mbarrier: not 8 bytes of shared memory on a multiple of 8");
  require(arrivals > 0 && arrivals < 1 << 14, place, "mbarrier: arrivals outside 1..16383");
  MbarrierState state{};
  state.arrivals = state.missing = arrivals;
  state.tag = state.valid_tag;
  __builtin_memcpy(static_cast<void*>(barrier), &state, sizeof state);
  mbarrier_forget(barrier);
}
inline void mbarrier_fence_init() { emulator::preempt(); }
EMULATOR_MODEL void mbarrier_inval(Mbarrier* barrier) {
  emulator::read_mbarrier(barrier);
  __builtin_memset(static_cast<void*>(barrier), 0, sizeof *barrier);
  emulator::mbarrier_forget(barrier);
}
inline void mbarrier_arrive(Mbarrier* barrier, EMULATOR_PLACE) {
  emulator::arrive(barrier, 0, place);
}
inline void mbarrier_arrive_expect_tx(Mbarrier* barrier, unsigned bytes, EMULATOR_PLACE) {
  emulator::arrive(barrier, static_cast<int>(bytes), place);
}
EMULATOR_MODEL void mbarrier_wait(Mbarrier* barrier, unsigned parity, EMULATOR_PLACE) {
  using namespace emulator;
  struct Wait {
    Mbarrier* barrier;
    unsigned parity;
  } wait{barrier, parity};
  wait_until(
      [](void* argument) {
        const auto& wait = *static_cast<Wait*>(argument);
        return read_mbarrier(wait.barrier).phase != (wait.parity & 1);
      },
      &wait, "mbarrier", place);
  mbarrier_acquire(barrier);
}

// ---- TMA ----------------------------------------------------------------------------------------

namespace emulator {

// The 128 bytes of a TensorMap as kernels/cuda/tensor_map.py writes them for the emulator. Dimension
// 0 is the innermost; stride[d - 1] is that of dimension d, in bytes.
struct TensorMapFields {
  uint64_t base;
  uint32_t tag;
  uint8_t rank, element_bytes, swizzle_bytes, is_im2col;
  uint32_t size[5], box[5];
  uint32_t step[5];  // im2col: of the walk
  uint32_t padding;
  uint64_t stride[4];
  int32_t lower[2], upper[2];  // im2col: corners of the pixel box, (w, h)
  static constexpr uint32_t valid_tag = 0x544d4150;
};
static_assert(sizeof(TensorMapFields) == sizeof(TensorMap));

EMULATOR_MODEL TensorMapFields read_map(const TensorMap* map, const void* shared, int rank,
                                        bool im2col, Place place) {
  TensorMapFields fields;
  __builtin_memcpy(&fields, map, sizeof fields);
  require(fields.tag == fields.valid_tag, place, "TMA: this is no tensor map");
  require(fields.rank == rank, place, "TMA: the tensor map has another number of dimensions");
  require(fields.is_im2col == im2col, place, "TMA: the tensor map is of the other mode");
  const unsigned alignment = fields.swizzle_bytes ? 8 * fields.swizzle_bytes : 128;
  require(shared_offset(shared) % alignment == 0, place,
          "TMA: the shared address is no multiple of 128 bytes, or of 8 swizzled rows");
  return fields;
}

inline size_t box_bytes(const TensorMapFields& map) {
  size_t bytes = map.element_bytes;
  for (int d = 0; d < (map.is_im2col ? 2 : map.rank); ++d) bytes *= map.box[d];
  return bytes;
}

// The place of byte `offset` of a box: 16-byte units of a row are exchanged by the row's number.
inline unsigned char* swizzled(void* shared, size_t offset, unsigned swizzle_bytes) {
  uint32_t address = shared_offset(shared) + offset;
  if (swizzle_bytes) address ^= ((address >> 7) % (swizzle_bytes / 16)) << 4;
  return static_cast<unsigned char*>(shared_pointer(address));
}

// Of the 16 bytes at coordinates `at`, those inside of the array: bytes first..end - 1, at `address`.
struct Inside {
  unsigned char* address;
  int64_t first, end;
};

inline Inside inside(const TensorMapFields& map, const int64_t* at) {
  const int64_t row_bytes = static_cast<int64_t>(map.size[0]) * map.element_bytes;
  const int64_t start = at[0] * map.element_bytes;
  Inside part{nullptr, std::max<int64_t>(0, -start), std::min<int64_t>(16, row_bytes - start)};
  uint64_t address = map.base + start + part.first;
  for (int d = 1; d < map.rank; ++d) {
    if (at[d] < 0 || at[d] >= map.size[d]) part.end = 0;
    address += at[d] * map.stride[d - 1];
  }
  part.address = reinterpret_cast<unsigned char*>(address);
  return part;
}

inline void load_unit(const TensorMapFields& map, const int64_t* at, unsigned char* shared) {
  unsigned char bytes[16] = {};
  const Inside part = inside(map, at);
  if (part.first < part.end) global_load(bytes + part.first, part.address, part.end - part.first);
  engine_store(shared, bytes, sizeof bytes, "TMA load");
}

inline void store_unit(const TensorMapFields& map, const int64_t* at, unsigned char* shared) {
  unsigned char bytes[16];
  const Inside part = inside(map, at);
  shared_load(bytes, shared, sizeof bytes, "TMA store");
  if (part.first < part.end) global_store(part.address, bytes + part.first, part.end - part.first);
}

struct Box {
  TensorMapFields map;
  void* shared;
  int corner[5];
};

// Every 16-byte unit of a box in tile mode, in the order of shared memory.
template <void (*move)(const TensorMapFields&, const int64_t*, unsigned char*)>
inline void each_unit(const Box& box) {
  const TensorMapFields& map = box.map;
  const unsigned unit = 16 / map.element_bytes, units_a_row = map.box[0] / unit;
  for (size_t i = 0; i < box_bytes(map) / 16; ++i) {
    int64_t at[5] = {box.corner[0] + static_cast<int64_t>(i % units_a_row) * unit};
    size_t rest = i / units_a_row;
    for (int d = 1; d < map.rank; rest /= map.box[d++])
      at[d] = box.corner[d] + static_cast<int64_t>(rest % map.box[d]);
    move(map, at, swizzled(box.shared, 16 * i, map.swizzle_bytes));
  }
}

// im2col mode: the box has channels and pixels; pixels walk w, then h, then n.
inline void each_unit_im2col(const Box& box, int tap_w, int tap_h) {
  const TensorMapFields& map = box.map;
  const unsigned unit = 16 / map.element_bytes;
  int64_t w = box.corner[1], h = box.corner[2], n = box.corner[3];
  size_t offset = 0;
  for (unsigned pixel = 0; pixel < map.box[1]; ++pixel) {
    for (unsigned c = 0; c < map.box[0]; c += unit, offset += 16) {
      const int64_t at[5] = {box.corner[0] + static_cast<int64_t>(c), w + tap_w, h + tap_h, n};
      load_unit(map, at, swizzled(box.shared, offset, map.swizzle_bytes));
    }
    w += map.step[1];
    if (w < static_cast<int64_t>(map.size[1]) + map.upper[0]) continue;
    w = map.lower[0];
    h += map.step[2];
    if (h < static_cast<int64_t>(map.size[2]) + map.upper[1]) continue;
    h = map.lower[1];
    ++n;
  }
}

__forceinline__ void load_box(void* shared, const TensorMap* map, Mbarrier* barrier, int rank,
                              const int (&corner)[5], Place place) {
  Box box{read_map(map, shared, rank, false, place), shared, {}};
  std::copy(corner, corner + 5, box.corner);
  engine_claim(shared, box_bytes(box.map));
  launch_engine(make_task(place, [=] {
    each_unit<load_unit>(box);
    bytes_have_come(barrier, box_bytes(box.map));
  }));
  preempt();
}

inline void store_box(const TensorMap* map, const void* shared, int rank, const int (&corner)[5],
                      Place place) {
  Box box{read_map(map, shared, rank, false, place), const_cast<void*>(shared), {}};
  std::copy(corner, corner + 5, box.corner);
  enqueue(Queue::bulk_store, make_task(place, [=] { each_unit<store_unit>(box); }));
  preempt();
}

}  // namespace emulator

template <typename... Coordinates>
__forceinline__ void tma_load(void* shared, emulator::At<const TensorMap*> map, Mbarrier* barrier,
                              Coordinates... corner) {
  emulator::load_box(shared, map.value, barrier, sizeof...(corner), {corner...}, map.place);
}
template <typename... Coordinates>
inline void tma_store(emulator::At<const TensorMap*> map, const void* shared,
                      Coordinates... corner) {
  emulator::store_box(map.value, shared, sizeof...(corner), {corner...}, map.place);
}
__forceinline__ void tma_load_im2col(void* shared, const TensorMap* map, Mbarrier* barrier, int c,
                                     int w, int h, int n, int tap_w, int tap_h, EMULATOR_PLACE) {
  using namespace emulator;
  require(tap_w >= 0 && tap_w < 256 && tap_h >= 0 && tap_h < 256, place,
          "TMA: an im2col offset outside 0..255");
  const Box box{read_map(map, shared, 4, true, place), shared, {c, w, h, n}};
  engine_claim(shared, box_bytes(box.map));
  launch_engine(make_task(place, [=] {
    each_unit_im2col(box, tap_w, tap_h);
    bytes_have_come(barrier, box_bytes(box.map));
  }));
  preempt();
}
inline void tma_store_commit() {
  emulator::commit_group(emulator::Queue::bulk_store);
  emulator::preempt();
}
template <int GROUPS>
inline void tma_store_wait() {
  emulator::wait_group(emulator::Queue::bulk_store, GROUPS);
}
template <int GROUPS>
inline void tma_store_wait_read() {
  emulator::wait_group(emulator::Queue::bulk_store, GROUPS);
}
inline void fence_proxy_async() { emulator::preempt(); }

// ---- Registers and wgmma ------------------------------------------------------------------------

template <int COUNT>
inline void registers_grow(EMULATOR_PLACE) {
  static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256);
  emulator::converge("setmaxnreg", place);
}
template <int COUNT>
inline void registers_shrink(EMULATOR_PLACE) {
  registers_grow<COUNT>(place);
}

inline unsigned long long wgmma_descriptor(const void* tile, int leading_bytes, int stride_bytes) {
  const unsigned long long address = emulator::shared_offset(tile) >> 4;  // two bits more than real
  return address | static_cast<unsigned long long>(leading_bytes >> 4) << 16 |
         static_cast<unsigned long long>(stride_bytes >> 4) << 32 | 1ull << 62;
}

namespace emulator {

// Elements (mn, 0..15) of an operand; a row of 16 bytes is 8 neighbours in k, or in mn.
template <bool MN_MAJOR>
inline void read_operand(unsigned long long descriptor, int mn, float (&values)[16]) {
  const auto field = [descriptor](int bit) -> uint32_t {
    return (descriptor >> bit & 0xffff) << 4;
  };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  const auto place_of = [](uint32_t address) {
    return shared_pointer(address ^ ((address >> 7) % 8) << 4);
  };
  for (int k = 0; k < 16; k += MN_MAJOR ? 1 : 8) {
    unsigned short bits[8];
    if (MN_MAJOR) {
      const uint32_t offset = mn / 64 * leading + k / 8 * stride + k % 8 * 128 + mn % 64 * 2;
      shared_load(bits, place_of(start + offset), 2, "wgmma");
    } else {
      const uint32_t offset = mn / 8 * stride + mn % 8 * 128 + k * 2;
      shared_load(bits, place_of(start + offset), 16, "wgmma");
    }
    for (int i = 0; i < (MN_MAJOR ? 1 : 8); ++i) values[k + i] = bfloat16_of(bits[i], 0);
  }
}

template <int N, bool A_MN_MAJOR, bool B_MN_MAJOR>
inline void multiply_tile(float* d, unsigned long long a, unsigned long long b, bool accumulate,
                          int warp, int lane) {
  float rows[2][16], column[16];
  for (int h = 0; h < 2; ++h) read_operand<A_MN_MAJOR>(a, 16 * warp + lane / 4 + 8 * h, rows[h]);
  for (int i = 0; i < N / 4; ++i) {  // this lane's columns: pairs, 8 apart
    read_operand<B_MN_MAJOR>(b, i / 2 * 8 + lane % 4 * 2 + i % 2, column);
    for (int h = 0; h < 2; ++h) {
      float& result = d[i / 2 * 4 + 2 * h + i % 2];
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += rows[h][k] * column[k];
      result = accumulate ? result + sum : sum;
    }
  }
  count_mma(Mma::wgmma_k16_bf16, 2 * 64 * N * 16 / 128);
}

}  // namespace emulator

inline void wgmma_fence(EMULATOR_PLACE) { emulator::converge("wgmma.fence", place); }
inline void wgmma_commit() {
  emulator::commit_group(emulator::Queue::wgmma);
  emulator::preempt();
}
template <int GROUPS>
inline void wgmma_wait(EMULATOR_PLACE) {
  emulator::warp_operation(
      {"wgmma.wait_group", true}, ~0u, emulator::self,
      [](void** lanes, unsigned) {
        for (int i = 0; i < 32; ++i)
          emulator::wait_group_of(static_cast<emulator::ThreadView*>(lanes[i]),
                                  emulator::Queue::wgmma, GROUPS);
      },
      place);
}
template <int REGISTERS>
inline void wgmma_results(float (&)[REGISTERS]) {}
template <bool A_MN_MAJOR, bool B_MN_MAJOR, int REGISTERS>
inline void wgmma_bf16(float (&d)[REGISTERS], unsigned long long a, unsigned long long b,
                       bool accumulate = true, EMULATOR_PLACE) {
  using namespace emulator;
  constexpr int n = 2 * REGISTERS;
  static_assert(n == 64 || n == 128 || n == 192 || n == 256);
  float* const result = d;
  const int warp = self->warp % 4, lane = self->lane;
  enqueue(Queue::wgmma, make_task(place, [=] {
            multiply_tile<n, A_MN_MAJOR, B_MN_MAJOR>(result, a, b, accumulate, warp, lane);
          }));
}
