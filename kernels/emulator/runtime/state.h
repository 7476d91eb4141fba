// What a launch, an OS thread that runs blocks, and a fiber are.
#pragma once

#include <atomic>
#include <csetjmp>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "../shim/emulator.h"

namespace emulator {

// ---- Shared with run.py: the same fields in the same order -------------------------------------

enum Order : int { forward, reverse, unfair };
enum Asynchronous : int { lazy, eager, random_time };

struct Options {
  int order;
  int asynchronous;
  int os_threads;
  int check;   // the kernel is instrumented: races, bounds, uninitialised reads, counters
  int strict;  // a barrier that exited threads do not reach is an error
  int stack_bytes;
  uint64_t seed;
  double timeout_s;
};

// A range of global memory that the kernel may touch.
struct Buffer {
  uintptr_t begin, end;
  const char* name;
  int writable;
};

struct Counters {
  uint64_t global_read_bytes, global_read_sectors;  // all requests
  uint64_t global_write_bytes, global_write_sectors;
  uint64_t distinct_read_bytes, distinct_read_sectors;  // each byte and sector once
  uint64_t distinct_write_bytes, distinct_write_sectors;
  uint64_t shared_read_bytes, shared_write_bytes;
  uint64_t shared_requests, bank_conflicts;  // conflicts: passes beyond the least number
  uint64_t barriers, warp_operations, special_functions;
  uint64_t asynchronous_copies, atomics;
  uint64_t mma_flops[mma_kinds];
  uint64_t blocks;
};

// ---- Fibers -----------------------------------------------------------------------------------

enum class State : uint8_t { ready, at_barrier, at_warp_operation, polling, done };

struct GroupQueue {
  std::vector<Task> tasks;  // in order of issue; run already where run is null
  std::vector<int> groups;  // sizes of the committed groups
};

struct Thread : ThreadView {
  void* stack_pointer;
  State state;
  Place place;  // where it waits
  const char* waits_for;
  int barrier, vote;  // the barrier it waits at, and the vote's outcome
  bool (*ready)(void*);
  void* ready_argument;
  GroupQueue queue[queues];
};

// Lanes of one warp that have arrived at an operation.
struct WarpMeeting {
  WarpOperation operation;
  unsigned mask, arrived;
  Place place;
  void* lanes[32];
};

struct Barrier {
  int expected;  // threads; -1: all of the block
  int arrived, votes;
  unsigned first;  // the thread that came first
  Vote vote;
  Place place;
};

// ---- Race detection: vector clocks (memory.cpp) -------------------------------------------------

// Stamps grow; those up to Worker::floor are seen by everybody in the block.
struct Access {
  uint32_t stamp;
  uint16_t thread;
  uint8_t bytes;  // mask; 0: none
  uint8_t atomic;
};
// A word of 4 bytes: who wrote it last (up to one thread a byte; any number by atomics, of which some
// are known) and who has read it since (some of them, from different warps).
struct Cell {
  Access write[4], read[4];
  uint8_t initialised;  // mask of bytes, shared memory only
  uint8_t pending;      // mask of bytes that an asynchronous copy has yet to deliver
};

// Global buffers that overlap are one region.
struct Region {
  uintptr_t begin, end;
  std::unique_ptr<Cell, void (*)(void*)> cells;
  std::vector<uint8_t> touched;  // a byte's bit 0: read, bit 1: written
};

// ---- Coalescing (counters.cpp) ------------------------------------------------------------------

// What the lanes of a warp asked for when they executed one instruction for the k-th time.
struct Request {
  uintptr_t address[32];
  unsigned lanes;  // mask
};
struct Instruction {
  uint32_t bytes = 0;
  bool write = false;
  uint32_t executed[32] = {};  // by each lane, since the last flush
  std::deque<Request> requests;
};
struct Traffic {  // of one warp
  std::unordered_map<const void*, Instruction> global, shared;
};

// ---- A launch, and an OS thread that runs its blocks ---------------------------------------------

struct Launch {
  const char* kernel;
  void (*entry)(void**);
  void** arguments;
  Index3 grid, block;
  unsigned threads;  // of a block
  size_t dynamic_bytes;
  Options options;
  std::vector<Buffer> buffers;
  std::vector<Region> regions;
  uintptr_t module_begin = 0, module_end = 0;  // the compiled kernel: its constants
  std::atomic<uint64_t> next_block{0};
  uint64_t blocks;
  std::atomic<bool> failed{false};
  std::mutex mutex;  // of what follows
  std::string error;
  Counters counters{};
};

struct Worker {
  Launch* launch;
  sigjmp_buf out;       // back to the worker's own stack
  void* stack_pointer;  // of that stack
  std::vector<Thread> threads;
  char* stacks = nullptr;
  size_t stack_stride = 0, stack_count = 0;

  unsigned live = 0, warps = 0;
  std::deque<uint32_t> ready;                     // orders forward and reverse
  std::vector<std::vector<uint32_t>> warp_ready;  // order unfair
  std::vector<uint32_t> priority;                 // of each warp
  size_t warp_ready_count = 0;
  std::vector<uint32_t> polling;
  std::vector<std::vector<WarpMeeting>> meetings;  // of each warp
  Barrier barriers[16];
  std::vector<Task> engine;  // asynchronous copies of the block
  uint64_t random = 1;

  char* dynamic = nullptr;  // shared memory
  char* dynamic_map = nullptr;
  size_t dynamic_map_bytes = 0;
  char* fixed = nullptr;  // static shared memory: the kernel's thread-local storage
  size_t fixed_bytes = 0;

  // Check mode only.
  uint32_t now = 0, floor = 0;   // stamps
  std::vector<uint32_t> clocks;  // [thread][thread or engine]: the newest stamp seen
  std::vector<uint32_t> epoch;   // stamp of what each thread does now
  std::vector<std::pair<uint32_t, uint32_t>> block_starts;  // the floor then, the block's number
  struct Object {
    std::vector<uint32_t> published, completed;
  };
  std::unordered_map<const void*, Object> mbarriers;
  std::vector<Cell> dynamic_cells, fixed_cells;
  std::vector<Traffic> traffic;
  const Place* issued = nullptr;  // where the kernel issued the task that runs
  bool of_lane = false;           // that task is a copy by a single lane
  uintptr_t last_sector = 0;      // of global memory, that the task asked for
  bool silent = false;            // a model runs: its plain accesses are no kernel's

  Counters counters{};
  char alternate_stack[65536];
};

extern __thread Worker* worker __attribute__((tls_model("initial-exec")));
inline Thread* current() { return static_cast<Thread*>(self); }
inline unsigned number(const Thread* thread) { return thread->linear; }

inline uint64_t random_number(Worker* w) {  // xorshift64
  uint64_t x = w->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return w->random = x;
}
inline bool one_in(Worker* w, unsigned n) { return (random_number(w) >> 20) % n == 0; }

// scheduler.cpp
void make_ready(Worker* w, unsigned thread);
void release(Worker* w, std::vector<unsigned>& threads);
void switch_away();  // the current thread waits already
void new_priorities(Worker* w);

// barriers.cpp
void thread_exits(Worker* w, Thread* thread);
void reset_barriers(Worker* w);

// memory.cpp
void reset_memory(Worker* w, uint32_t block);
void find_static_shared(Worker* w, const void* in_module);
void merge_buffers(Launch* launch);
void count_distinct(Launch* launch);
void order_all(Worker* w);                                          // a full barrier
void order_among(Worker* w, const std::vector<unsigned>& threads);  // of some threads

// counters.cpp
void count_access(Worker* w, bool shared, uintptr_t address, size_t bytes, bool write,
                  const void* instruction);
void count_by_model(Worker* w, bool shared, uintptr_t address, size_t bytes, bool write,
                    const void* instruction);
void flush_traffic(Worker* w, unsigned warp);

// asynchronous.cpp
void run_task(Worker* w, Task& task, bool of_lane = false);
bool run_engine_task(Worker* w);  // false: there is none
void check_queues_empty(Thread* thread);

// faults.cpp
std::string where(const void* instruction);  // " [pc FILE+OFFSET]", which Python turns into a line
std::string name_of(const Thread* thread);
[[noreturn]] void fail_with(const std::string& message);
void install_handlers();
void restore_handlers();
void watch(double timeout_s);  // 0: stop watching
void watch_thread(bool on);    // the calling OS thread runs blocks
bool timed_out();
void use_alternate_stack(Worker* w, bool on);

}  // namespace emulator
