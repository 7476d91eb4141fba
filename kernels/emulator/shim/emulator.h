// What the shim and the models of PTX instructions ask of the runtime (../runtime).
//
// A thread block is a set of fibers on one OS thread. Fibers switch only inside the functions
// below, so that everything between two of them is one indivisible step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace emulator {

struct Index3 {
  unsigned x, y, z;
};

// What a thread knows of itself; the front of every fiber.
struct ThreadView {
  Index3 thread, block, block_dim, grid_dim;
  unsigned linear;  // number in its block
  unsigned warp, lane;
};
extern __thread ThreadView* self __attribute__((tls_model("initial-exec")));

// A line of a kernel, for messages. As a default argument it is the caller's.
struct Place {
  const char* file;
  int line;
  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

#define EMULATOR_PLACE emulator::Place place = emulator::Place::here()

// Ends the launch: the message names kernel, block and thread, and reaches Python.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- Scheduling -------------------------------------------------------------------------------

// Lets other threads run, if not `always` then in the unfair order only, now and then. Call it where
// a bug could hide behind luck.
void preempt(bool always = false);

// Blocks the thread until ready(argument); `what` is for the deadlock report.
void wait_until(bool (*ready)(void*), void* argument, const char* what, Place place);

// ---- Warps ------------------------------------------------------------------------------------

// A warp-wide operation. Lanes of `mask` meet here; the last one to arrive runs function(lanes,
// mask), lanes[i] being the `argument` of lane i, and all go on. `name` must be the same in all.
struct WarpOperation {
  const char* name;
  bool aligned = false;        // PTX .aligned: all 32 lanes of the warp must be there
  bool orders_memory = false;  // as __syncwarp does; a shuffle does not
};
using WarpFunction = void (*)(void** lanes, unsigned mask);
void warp_operation(const WarpOperation& operation, unsigned mask, void* argument,
                    WarpFunction function, Place place);

// ---- Barriers ---------------------------------------------------------------------------------

enum class Vote { none, count, all, any };
// __syncthreads and its voting relatives.
int block_barrier(Vote vote, int predicate, Place place);
// PTX bar.sync and bar.arrive: barrier `id` (0..15) of `threads` threads, a multiple of 32.
void named_barrier_sync(int id, int threads, Place place);
void named_barrier_arrive(int id, int threads, Place place);

// What an mbarrier object orders. `object` is its address in shared memory; what it counts is the
// model's business.
void mbarrier_release(const void* object);   // arrive: what this thread did is published
void mbarrier_complete(const void* object);  // the phase ends: ... for all who wait
void mbarrier_acquire(const void* object);   // wait: this thread sees what was published
void mbarrier_forget(const void* object);    // init or inval

// ---- Memory -----------------------------------------------------------------------------------

// Start of the dynamic shared memory of the block.
void* dynamic_shared();
bool is_shared(const void* p, size_t bytes);
// Address in the block's shared window, as descriptors hold it, and back. Static and dynamic
// shared memory have different windows.
uint32_t shared_offset(const void* p);
void* shared_pointer(uint32_t offset);

// Accesses made by a model on behalf of the running thread: checked, counted, then done.
void shared_load(void* to, const void* from, size_t bytes, const char* what);
void shared_store(void* to, const void* from, size_t bytes, const char* what);
void global_load(void* to, const void* from, size_t bytes);
void global_store(void* to, const void* from, size_t bytes);
// Before a model touches the operand of an atomic operation.
void check_atomic(void* p, size_t bytes);

// ---- Asynchronous work ------------------------------------------------------------------------

// A closure that runs later, on behalf of the thread that issued it at `place`.
struct Task {
  void (*run)(void*);
  Place place;
  alignas(16) unsigned char data[368];
};
template <typename F>
Task make_task(Place place, const F& f) {
  static_assert(sizeof(F) <= sizeof(Task::data) && std::is_trivially_copyable_v<F>);
  Task task;
  task.place = place;
  task.run = [](void* data) { (*static_cast<F*>(data))(); };
  std::memcpy(task.data, &f, sizeof(F));
  return task;
}

// In-order queues of one thread, each with commit groups: work runs at the latest when its group
// is waited for (lazy), at the earliest when it is issued (eager), or at random.
enum class Queue { cp_async, bulk_store, wgmma };
constexpr int queues = 3;
void enqueue(Queue queue, const Task& task);
void commit_group(Queue queue);
void wait_group(Queue queue, int pending);                         // at most `pending` groups left
void wait_group_of(ThreadView* thread, Queue queue, int pending);  // for a warp-wide wait
// The block's asynchronous copy engine (TMA): no order; ends by itself, at a time of its choice.
void launch_engine(const Task& task);

// A cp.async destination: may not be touched before its group was waited for.
void mark_pending(void* shared, size_t bytes);
void clear_pending(void* shared, size_t bytes);
// The engine is no thread. The thread that starts a copy claims its destination (everybody else must
// be done with it); the Task stores there, and tells which mbarrier makes it known to others.
void engine_claim(void* shared, size_t bytes);
void engine_store(void* to, const void* from, size_t bytes, const char* what);
void engine_completes(const void* mbarrier);  // before the model counts the bytes

// ---- Counters ---------------------------------------------------------------------------------

enum class Mma { m16n8k16_bf16, m16n8k8_tf32, wgmma_k16_bf16 };
constexpr int mma_kinds = 3;
void count_mma(Mma kind, uint64_t flops);
void count_special_function();

}  // namespace emulator

// Calls of these, which no compiler instruments.
extern "C" void* emulator_memcpy(void* to, const void* from, size_t n);
extern "C" void* emulator_memset(void* to, int value, size_t n);
