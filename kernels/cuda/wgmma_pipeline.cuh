// The frame of the kernels for Hopper, sm_90a: tiles of a product of bfloat16 matrices, sums in
// float, operands brought by TMA.
//
// A block has three warpgroups and stays for many tiles. One thread of the third, the producer,
// fills a ring of stages in shared memory and runs ahead, into the next tile too. The other two,
// the consumers, multiply what a stage holds by wgmma and give it back:
//
//   cooperative   both have one half of the rows of each tile
//   PING_PONG     they take turns at whole tiles: one stores its results while the other multiplies
//
// What is multiplied is a class:
//   int tiles()                              of the whole launch
//   int steps(int tile)                      stages that a tile takes
//   void load(int tile, Ring&)               producer: fills as many
//   void finish(int tile, int row, Sums&)    warpgroup: its sums begin at a row of the tile
//   void end()                               warpgroup: all tiles are finished
#pragma once

#include "ptx.cuh"

#ifndef TILE_M
#define TILE_M 128
#endif
#ifndef TILE_N
#define TILE_N 128
#endif
#ifndef STAGES
#define STAGES 4
#endif
#ifndef PING_PONG
#define PING_PONG 1
#endif

constexpr int WARPGROUP = 128;            // threads
constexpr int CONSUMERS = 2 * WARPGROUP;  // threads; then comes the producer's warpgroup
static_assert(BLOCK == 3 * WARPGROUP, "two consumers and the producer");
// A thread starts with 168 registers, as many as 384 threads can have; consumers take over what the
// producer does not need.
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;

// Operands consist of boxes: 64 rows of 64 bfloat16 (128 bytes), swizzled. A K-major operand has 64
// rows of the tile in a box, an MN-major one 64 of the depth.
constexpr int BOX = 64, BOX_BYTES = BOX * BOX * 2;
constexpr int DEPTH = BOX;  // of the sums, in a stage
constexpr int A_BYTES = TILE_M / BOX * BOX_BYTES, B_BYTES = TILE_N / BOX * BOX_BYTES;
constexpr int STAGE_BYTES = A_BYTES + B_BYTES;

constexpr int HEIGHT = PING_PONG ? TILE_M : TILE_M / 2;  // rows of a tile of one warpgroup
constexpr int SLICES = HEIGHT / BOX;                     // a wgmma has 64 rows
// Result (64 i + 16 w + g + 8 h, 8 j + 2 t + e) of a warpgroup's rows is sums[i][4 j + 2 h + e] of
// its warp w, lane 4 g + t.
typedef float Sums[SLICES][TILE_N / 2];

struct Barriers {
  Mbarrier full[STAGES], empty[STAGES];
  Mbarrier turn[2];  // of each consumer
};

struct Stage {
  unsigned char *a, *b;
  Mbarrier* full;  // counts the bytes that come
};

// The stages as one side sees them: it has come to one of them, in one of its rounds.
class Ring {
  unsigned char* stages_;
  Barriers& barriers_;
  int slot_ = 0;
  unsigned parity_ = 0;  // of the round

  __device__ __forceinline__ void advance() {
    if (++slot_ < STAGES) return;
    slot_ = 0;
    parity_ ^= 1;
  }

 public:
  // By all threads of the block; `memory` is STAGES * STAGE_BYTES of shared memory on a multiple of
  // 1024.
  __device__ __forceinline__ Ring(unsigned char* memory, Barriers& barriers)
      : stages_(memory), barriers_(barriers) {
    constexpr int consumer_warps = (PING_PONG ? WARPGROUP : CONSUMERS) / 32;
    if (threadIdx.x == 0) {
      for (int i = 0; i < STAGES; ++i) {
        mbarrier_init(&barriers_.full[i], 1);
        mbarrier_init(&barriers_.empty[i], consumer_warps);
      }
      for (Mbarrier& turn : barriers_.turn) mbarrier_init(&turn, WARPGROUP / 32);
      mbarrier_fence_init();
    }
    __syncthreads();
  }

  __device__ __forceinline__ Stage stage() const {
    unsigned char* const a = stages_ + slot_ * STAGE_BYTES;
    return {a, a + A_BYTES, &barriers_.full[slot_]};
  }

  // Producer: the next stage, which must get all its STAGE_BYTES.
  __device__ __forceinline__ Stage next_to_fill() {
    mbarrier_wait(&barriers_.empty[slot_], parity_ ^ 1);
    const Stage next = stage();
    mbarrier_arrive_expect_tx(next.full, STAGE_BYTES);
    advance();
    return next;
  }

  // Consumer: waits until the stage has come.
  __device__ __forceinline__ Stage next_to_multiply() {
    const Stage next = stage();
    mbarrier_wait(next.full, parity_);
    advance();
    return next;
  }

  // Consumer: the stage `before` the last one that it got may be filled again. By whole warps.
  __device__ __forceinline__ void give_back(int before) {
    const int slot = slot_ - 1 - before;
    __syncwarp();  // one lane speaks for all
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&barriers_.empty[slot < 0 ? slot + STAGES : slot]);
  }

  // Consumer: the other one gets the next `count` stages.
  __device__ __forceinline__ void skip(int count) {
    const int slots = slot_ + count;
    slot_ = slots % STAGES;
    parity_ ^= slots / STAGES & 1;
  }

  // Ping-pong: a consumer multiplies only after the other one has ended its tile. Not for speed
  // alone: a barrier knows the parity of a round, so nobody may wait for the round after the next.
  __device__ __forceinline__ void take_turn(int consumer, int nth) {
    if (PING_PONG) mbarrier_wait(&barriers_.turn[consumer], (nth & 1) ^ (consumer == 0));
  }
  __device__ __forceinline__ void pass_turn(int consumer) {
    if (PING_PONG && threadIdx.x % 32 == 0) mbarrier_arrive(&barriers_.turn[consumer ^ 1]);
  }
};

// Starts the products of a stage, for a warpgroup's rows from box `first` on.
template <bool A_MN_MAJOR, bool B_MN_MAJOR>
__device__ __forceinline__ void multiply_stage(Sums& sums, const Stage& stage, int first) {
  constexpr int eight_rows = 8 * 128;
  // 16 of the depth: 32 bytes of a K-major row, 16 rows of an MN-major box; descriptors count in 16.
  constexpr int step_a = (A_MN_MAJOR ? 16 * 128 : 32) / 16;
  constexpr int step_b = (B_MN_MAJOR ? 16 * 128 : 32) / 16;
  const auto a = wgmma_descriptor(stage.a + first * BOX_BYTES, BOX_BYTES, eight_rows);
  const auto b = wgmma_descriptor(stage.b, BOX_BYTES, eight_rows);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < DEPTH / 16; ++k)
#pragma unroll
    for (int i = 0; i < SLICES; ++i)
      wgmma_bf16<A_MN_MAJOR, B_MN_MAJOR>(sums[i], a + i * (BOX_BYTES / 16) + k * step_a,
                                         b + k * step_b);
  wgmma_commit();
}

// Sums the next `steps` stages. The products of one stage are under way while the next is awaited,
// so a stage is given back one step late.
template <bool A_MN_MAJOR, bool B_MN_MAJOR>
__device__ __forceinline__ void multiply(Sums& sums, Ring& ring, int first, int steps) {
#pragma unroll
  for (int i = 0; i < SLICES; ++i)
#pragma unroll
    for (int j = 0; j < TILE_N / 2; ++j) sums[i][j] = 0;
  for (int step = 0; step < steps; ++step) {
    const Stage stage = ring.next_to_multiply();
    multiply_stage<A_MN_MAJOR, B_MN_MAJOR>(sums, stage, first);
    wgmma_wait<1>();
    if (step > 0) ring.give_back(1);
  }
  wgmma_wait<0>();
  if (steps > 0) ring.give_back(0);
#pragma unroll
  for (int i = 0; i < SLICES; ++i) wgmma_results(sums[i]);
}

// By all threads of the block: all tiles, the blocks taking turns.
template <bool A_MN_MAJOR, bool B_MN_MAJOR, class Product>
__device__ __forceinline__ void run(const Product& product, Ring ring) {
  const int tiles = product.tiles();
  if (threadIdx.x >= CONSUMERS) {
    registers_shrink<PRODUCER_REGISTERS>();
    if (threadIdx.x == CONSUMERS)
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) product.load(tile, ring);
    return;
  }
  registers_grow<CONSUMER_REGISTERS>();
  // The shuffle tells the compiler that it is the same in the whole warp.
  const int consumer = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
  const int first = PING_PONG ? 0 : consumer * SLICES;
  Sums sums;
  for (int tile = blockIdx.x, nth = 0; tile < tiles; tile += gridDim.x, ++nth) {
    const int steps = product.steps(tile);
    if (PING_PONG && nth % 2 != consumer) {
      ring.skip(steps);
      continue;
    }
    ring.take_turn(consumer, nth / 2);
    multiply<A_MN_MAJOR, B_MN_MAJOR>(sums, ring, first, steps);
    ring.pass_turn(consumer);
    product.finish(tile, first * BOX, sums);
  }
  product.end();
}
