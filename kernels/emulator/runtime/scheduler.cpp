// Fibers, the order in which they run, blocks, launches.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <thread>

#include "state.h"

namespace emulator {

__thread ThreadView* self __attribute__((tls_model("initial-exec")));
__thread Worker* worker __attribute__((tls_model("initial-exec")));

// ---- Switching stacks ---------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
// Saves the callee-saved registers on the stack in hand, stores its pointer in *from, and takes up
// `to` where it left off. The popped return address and a jump predict better than `ret`.
extern "C" void emulator_switch(void** from, void* to);
extern "C" void emulator_start();
asm(R"(
.text
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size emulator_switch,.-emulator_switch
.globl emulator_start
.type emulator_start,@function
emulator_start:
  xorl %ebp,%ebp
  call *%rbx
  ud2
.size emulator_start,.-emulator_start
)");

static void* new_stack(char* top, void (*run)()) {
  void** s = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
  *--s = nullptr;  // so that `call` leaves the alignment that the ABI asks for
  *--s = nullptr;
  *--s = reinterpret_cast<void*>(emulator_start);
  *--s = nullptr;                              // rbp
  *--s = reinterpret_cast<void*>(run);         // rbx
  for (int i = 0; i < 4; ++i) *--s = nullptr;  // r12 to r15
  return s;
}
#else
// Anywhere else: slower (two system calls a switch), the same meaning. A "stack pointer" is the
// address of a context, which lies at the top of its stack.
}  // namespace emulator
#include <ucontext.h>
namespace emulator {
static __thread ucontext_t worker_context;
static void emulator_switch(void** from, void* to) {
  if (*from == nullptr) *from = &worker_context;
  swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}
static void* new_stack(char* top, void (*run)()) {
  const uintptr_t address =
      (reinterpret_cast<uintptr_t>(top) - sizeof(ucontext_t)) & ~uintptr_t{63};
  auto* context = new (reinterpret_cast<void*>(address)) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = worker->stacks;  // only its end matters
  context->uc_stack.ss_size = address - reinterpret_cast<uintptr_t>(worker->stacks);
  context->uc_link = nullptr;
  makecontext(context, run, 0);
  return context;
}
#endif

// ---- Whose turn it is ---------------------------------------------------------------------------

void new_priorities(Worker* w) {
  for (auto& p : w->priority) p = static_cast<uint32_t>(random_number(w) >> 16);
}

void make_ready(Worker* w, unsigned thread) {
  w->threads[thread].state = State::ready;
  if (w->launch->options.order == unfair) {
    w->warp_ready[thread / 32].push_back(thread);
    ++w->warp_ready_count;
  } else {
    w->ready.push_back(thread);
  }
}

void release(Worker* w, std::vector<unsigned>& threads) {
  if (w->launch->options.order == reverse) std::reverse(threads.begin(), threads.end());
  for (unsigned thread : threads) make_ready(w, thread);
}

static bool poll(Worker* w) {
  std::vector<unsigned> woken;
  w->silent = true;
  for (size_t i = 0; i < w->polling.size();) {
    Thread& thread = w->threads[w->polling[i]];
    if (thread.ready(thread.ready_argument)) {
      woken.push_back(w->polling[i]);
      w->polling.erase(w->polling.begin() + i);
    } else {
      ++i;
    }
  }
  w->silent = false;
  release(w, woken);
  return !woken.empty();
}

[[noreturn]] static void deadlock(Worker* w) {
  std::map<std::string, std::pair<int, std::string>> groups;  // situation: threads, the first one
  for (const Thread& thread : w->threads) {
    std::string situation = "have exited";
    if (thread.state != State::done)
      situation = std::string("wait at ") + thread.waits_for + " " + thread.place.file + ":" +
                  std::to_string(thread.place.line);
    auto& group = groups[situation];
    if (group.first++ == 0) group.second = name_of(&thread);
  }
  std::string message = "deadlock: no thread can go on";
  for (const auto& [situation, group] : groups)
    message += "\n    " + std::to_string(group.first) + " thread(s) " + situation + ", first " +
               group.second;
  self = nullptr;
  fail_with(message);
}

// One warp runs as far as it can while others starve; priorities change at barriers and now and
// then. A fair shuffle of the threads hides most missing barriers, this does not.
static Thread* pick_unfairly(Worker* w) {
  if (!w->engine.empty() && w->launch->options.asynchronous != lazy && one_in(w, 16))
    run_engine_task(w);
  if (!w->polling.empty() && one_in(w, 16)) poll(w);
  if (w->warp_ready_count == 0) return nullptr;
  if (one_in(w, 2048)) new_priorities(w);
  int best = -1;
  for (unsigned warp = 0; warp < w->warps; ++warp)
    if (!w->warp_ready[warp].empty() && (best < 0 || w->priority[warp] > w->priority[best]))
      best = static_cast<int>(warp);
  auto& lanes = w->warp_ready[best];
  std::swap(lanes[random_number(w) % lanes.size()], lanes.back());
  const unsigned thread = lanes.back();
  lanes.pop_back();
  --w->warp_ready_count;
  return &w->threads[thread];
}

static Thread* pick(Worker* w) {
  for (;;) {
    if (w->launch->options.order == unfair) {
      if (Thread* thread = pick_unfairly(w)) return thread;
    } else if (!w->ready.empty()) {
      const unsigned thread = w->ready.front();
      w->ready.pop_front();
      return &w->threads[thread];
    }
    if (w->live == 0) return nullptr;
    if (poll(w)) continue;
    if (run_engine_task(w)) continue;
    deadlock(w);
  }
}

void switch_away() {
  Worker* w = worker;
  Thread* from = current();
  Thread* to = pick(w);
  if (to == from) return;
  if (timed_out()) fail("timeout at this point");
  self = to;
  emulator_switch(&from->stack_pointer, to ? to->stack_pointer : w->stack_pointer);
}

void preempt(bool always) {
  Worker* w = worker;
  if (!always && (w->launch->options.order != unfair || w->silent || !one_in(w, 16))) return;
  make_ready(w, number(current()));
  switch_away();
}

void wait_until(bool (*ready)(void*), void* argument, const char* what, Place place) {
  if (ready(argument)) return;
  Thread* thread = current();
  thread->state = State::polling;
  thread->ready = ready;
  thread->ready_argument = argument;
  thread->waits_for = what;
  thread->place = place;
  worker->polling.push_back(number(thread));
  switch_away();
}

// ---- Blocks ---------------------------------------------------------------------------------------

static void run_thread() {
  Worker* w = worker;
  w->launch->entry(w->launch->arguments);
  Thread* thread = current();
  check_queues_empty(thread);
  thread->state = State::done;
  --w->live;
  if (w->live) thread_exits(w, thread);
  switch_away();
  abort();  // nobody switches back
}

static void prepare_block(Worker* w, uint64_t block) {
  const Launch& l = *w->launch;
  w->random = (l.options.seed + 1) * 0x9E3779B97F4A7C15ull ^ (block + 1) * 0xD1B54A32D192ED03ull;
  if (w->random == 0) w->random = 1;
  for (int i = 0; i < 4; ++i) random_number(w);
  if (w->fixed_bytes) memset(w->fixed, 0xff, w->fixed_bytes);  // poison: NaN
  if (l.dynamic_bytes) memset(w->dynamic, 0xff, l.dynamic_bytes);
  w->live = l.threads;
  w->warps = (l.threads + 31) / 32;
  w->ready.clear();
  w->warp_ready.assign(w->warps, {});
  w->warp_ready_count = 0;
  w->priority.assign(w->warps, 0);
  if (l.options.order == unfair) new_priorities(w);
  w->polling.clear();
  w->engine.clear();
  w->silent = false;
  w->issued = nullptr;
  reset_barriers(w);
  if (l.options.check) reset_memory(w, static_cast<uint32_t>(block));
  const Index3 index = {static_cast<unsigned>(block % l.grid.x),
                        static_cast<unsigned>(block / l.grid.x % l.grid.y),
                        static_cast<unsigned>(block / l.grid.x / l.grid.y)};
  for (unsigned i = 0; i < l.threads; ++i) {
    Thread& t = w->threads[i];
    t.linear = i;
    t.warp = i / 32;
    t.lane = i % 32;
    t.thread = {i % l.block.x, i / l.block.x % l.block.y, i / l.block.x / l.block.y};
    t.block = index;
    t.block_dim = l.block;
    t.grid_dim = l.grid;
    for (auto& queue : t.queue) queue.tasks.clear(), queue.groups.clear();
    // Tops of stacks are staggered, or they would all fall into the same cache sets.
    char* top = w->stacks + w->stack_stride * (i + 1) - i % 48 * 64 - 256;
    t.stack_pointer = new_stack(top, run_thread);
  }
  for (unsigned i = 0; i < l.threads; ++i)
    make_ready(w, l.options.order == reverse ? l.threads - 1 - i : i);
}

static void run_block(Worker* w, uint64_t block) {
  prepare_block(w, block);
  Thread* first = pick(w);
  self = first;
  emulator_switch(&w->stack_pointer, first->stack_pointer);
  self = nullptr;
  if (w->launch->options.check)
    for (unsigned warp = 0; warp < w->warps; ++warp) flush_traffic(w, warp);
  ++w->counters.blocks;
}

// ---- Launches ---------------------------------------------------------------------------------------

// Stacks and shared memory are mapped once and kept: mapping costs more than a small launch.
struct Mapping {
  char* begin;
  size_t stride, count;
};
static std::mutex mappings_mutex;
static std::vector<Mapping> free_mappings;
constexpr size_t page = 4096;

static void take_stacks(Worker* w) {
  w->stack_stride = w->launch->options.stack_bytes + page;
  const size_t wanted = w->launch->threads;
  {
    std::lock_guard<std::mutex> lock(mappings_mutex);
    for (auto& mapping : free_mappings)
      if (mapping.stride == w->stack_stride && mapping.count >= wanted) {
        w->stacks = mapping.begin;
        w->stack_count = mapping.count;
        std::swap(mapping, free_mappings.back());
        free_mappings.pop_back();
        return;
      }
  }
  w->stack_count = wanted;
  w->stacks = static_cast<char*>(mmap(nullptr, w->stack_stride * wanted, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  for (size_t i = 0; i < wanted; ++i) mprotect(w->stacks + i * w->stack_stride, page, PROT_NONE);
}

// Dynamic shared memory ends at a page that may not be touched, and begins on 1,024 bytes.
static void take_shared(Worker* w) {
  const size_t bytes = w->launch->dynamic_bytes;
  if (bytes == 0) return;
  const size_t body = (bytes + page - 1) / page * page;
  w->dynamic_map_bytes = body + 2 * page;
  w->dynamic_map = static_cast<char*>(mmap(nullptr, w->dynamic_map_bytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  mprotect(w->dynamic_map, page, PROT_NONE);
  mprotect(w->dynamic_map + page + body, page, PROT_NONE);
  w->dynamic = w->dynamic_map + page + ((body - bytes) & ~size_t{1023});
}

static void add_counters(Counters& sum, const Counters& more) {
  auto* to = reinterpret_cast<uint64_t*>(&sum);
  auto* from = reinterpret_cast<const uint64_t*>(&more);
  for (size_t i = 0; i < sizeof(Counters) / sizeof(uint64_t); ++i) to[i] += from[i];
}

// Runs blocks until there are none. A failure comes back through w->out.
static void run_blocks(Worker* w) {
  Launch* l = w->launch;
  if (sigsetjmp(w->out, 1) != 0) {
    self = nullptr;
    return;
  }
  while (!l->failed) {
    const uint64_t i = l->next_block++;
    if (i >= l->blocks) break;
    run_block(w, l->options.order == reverse ? l->blocks - 1 - i : i);
  }
}

static void run_worker(Launch* l, void* (*touch)()) {
  auto* w = new Worker();
  Worker* const outer = worker;
  worker = w;
  w->launch = l;
  w->threads.resize(l->threads);
  take_stacks(w);
  take_shared(w);
  find_static_shared(w, touch());
  use_alternate_stack(w, true);
  watch_thread(true);
  run_blocks(w);
  watch_thread(false);
  use_alternate_stack(w, false);
  {
    std::lock_guard<std::mutex> lock(l->mutex);
    add_counters(l->counters, w->counters);
  }
  {
    std::lock_guard<std::mutex> lock(mappings_mutex);
    free_mappings.push_back({w->stacks, w->stack_stride, w->stack_count});
  }
  if (w->dynamic_map) munmap(w->dynamic_map, w->dynamic_map_bytes);
  worker = outer;
  delete w;
}

}  // namespace emulator

using namespace emulator;

// Runs a kernel; 0, or 1 with a message. The caller holds a lock: one launch at a time.
// `touch` is compiled into the kernel's library and returns the address of a thread-local of it.
extern "C" int emulator_launch(const char* kernel, void (*entry)(void**), void* (*touch)(),
                               void** arguments, const unsigned* grid, const unsigned* block,
                               size_t dynamic_bytes, const Options* options, const Buffer* buffers,
                               int buffer_count, Counters* counters, char* error,
                               size_t error_bytes) {
  Launch l;
  l.kernel = kernel;
  l.entry = entry;
  l.arguments = arguments;
  l.grid = {grid[0], grid[1], grid[2]};
  l.block = {block[0], block[1], block[2]};
  l.threads = block[0] * block[1] * block[2];
  l.blocks = static_cast<uint64_t>(grid[0]) * grid[1] * grid[2];
  l.dynamic_bytes = dynamic_bytes;
  l.options = *options;
  l.buffers.assign(buffers, buffers + buffer_count);
  if (options->check) merge_buffers(&l);
  install_handlers();
  watch(options->timeout_s);
  const uint64_t wanted = options->check ? 1 : std::max(1, options->os_threads);
  const unsigned workers = static_cast<unsigned>(std::min<uint64_t>(wanted, l.blocks));
  if (workers == 1) {
    run_worker(&l, touch);
  } else {
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < workers; ++i) threads.emplace_back(run_worker, &l, touch);
    for (auto& thread : threads) thread.join();
  }
  watch(0);
  restore_handlers();
  if (options->check) count_distinct(&l);
  *counters = l.counters;
  if (!l.failed) return 0;
  snprintf(error, error_bytes, "%s", l.error.c_str());
  return 1;
}
