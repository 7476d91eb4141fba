// Every access of an instrumented kernel: is it inside a buffer, initialised, ordered?
//
// g++ -fsanitize=thread calls __tsan_read4(p) and the like before each access. Linked without the
// sanitizer's own runtime, these calls come here: deterministic, and with CUDA's rules. Ordering is
// kept in vector clocks. A stamp numbers what a thread does between two synchronizations; a thread
// has seen another's access when its clock for the other has reached the stamp of the access. A full
// block barrier shows everything to everybody: it only raises `floor`.
#include <link.h>

#include <algorithm>
#include <cstring>

#include "state.h"

namespace emulator {

// ---- Clocks -----------------------------------------------------------------------------------------

#define CALLER __builtin_return_address(0)  // names the kernel's line where the caller is inlined

static size_t stride(const Worker* w) { return w->threads.size() + 1; }
static unsigned engine(const Worker* w) { return static_cast<unsigned>(w->threads.size()); }
static uint32_t* clock_of(Worker* w, unsigned thread) { return &w->clocks[thread * stride(w)]; }

static void join(std::vector<uint32_t>& into, const uint32_t* from) {
  for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void order_all(Worker* w) {
  w->floor = w->now;
  ++w->now;
  std::fill(w->epoch.begin(), w->epoch.end(), w->now);
}

void order_among(Worker* w, const std::vector<unsigned>& threads) {
  std::vector<uint32_t> all(stride(w), 0);
  for (unsigned thread : threads) {
    join(all, clock_of(w, thread));
    all[thread] = std::max(all[thread], w->epoch[thread]);
  }
  ++w->now;
  for (unsigned thread : threads) {
    std::copy(all.begin(), all.end(), clock_of(w, thread));
    w->epoch[thread] = w->now;
  }
}

static Worker::Object& object_of(Worker* w, const void* address) {
  auto& object = w->mbarriers[address];
  if (object.published.empty()) {
    object.published.assign(stride(w), 0);
    object.completed.assign(stride(w), 0);
  }
  return object;
}

void mbarrier_release(const void* address) {
  Worker* w = worker;
  if (!w->launch->options.check) return;
  const unsigned thread = number(current());
  auto& object = object_of(w, address);
  join(object.published, clock_of(w, thread));
  object.published[thread] = std::max(object.published[thread], w->epoch[thread]);
  w->epoch[thread] = ++w->now;
}

void mbarrier_complete(const void* address) {
  if (!worker->launch->options.check) return;
  auto& object = object_of(worker, address);
  join(object.completed, object.published.data());
}

void mbarrier_acquire(const void* address) {
  Worker* w = worker;
  if (!w->launch->options.check) return;
  uint32_t* clock = clock_of(w, number(current()));
  const auto& completed = object_of(w, address).completed;
  for (size_t i = 0; i < completed.size(); ++i) clock[i] = std::max(clock[i], completed[i]);
}

void mbarrier_forget(const void* address) { worker->mbarriers.erase(address); }

static bool seen(Worker* w, unsigned by, const Access& access) {
  return access.thread == by || access.stamp <= w->floor ||
         (by != engine(w) && clock_of(w, by)[access.thread] >= access.stamp);
}

// ---- Races --------------------------------------------------------------------------------------------

// An access that happens: who makes it, and as what it is remembered.
struct Touch {
  unsigned thread;
  Access mine;  // without its bytes
  bool write;
  const void* instruction;
};

static Touch touch_now(Worker* w, bool write, const void* instruction, bool atomic = false) {
  const unsigned thread = number(current());
  return {thread, {w->epoch[thread], static_cast<uint16_t>(thread), 0, atomic}, write, instruction};
}

// Blocks run one after the other, so that the stamp tells whose access it was.
static bool of_other_block(Worker* w, const Access& access) {
  return access.stamp <= w->block_starts.back().first;
}

static std::string named(Worker* w, const Access& access) {
  if (of_other_block(w, access)) {
    auto start = w->block_starts.end() - 1;
    while (access.stamp <= start->first) --start;
    return "block " + std::to_string(start->second);
  }
  if (access.thread == engine(w)) return "the asynchronous copy engine";
  return name_of(&w->threads[access.thread]);
}

[[noreturn]] static void race(Worker* w, const std::string& place, const Touch& t,
                              const Access& other, bool other_wrote) {
  const bool blocks = of_other_block(w, other);
  fail_with("data race on " + place + ": this " + (t.mine.atomic ? "atomic " : "") +
            (t.write ? "write" : "read") + (blocks ? " and the " : " is not ordered after the ") +
            (other_wrote ? "write" : "read") + " of " + named(w, other) +
            (blocks ? " in the same launch" : " by any barrier") + where(t.instruction));
}

// How much is lost when `mine` takes the place of `a`.
static int worth(Worker* w, const Access& a, const Access& mine) {
  if (!a.bytes) return 1;
  if (of_other_block(w, a)) return 4;
  if (a.thread == mine.thread &&
      (a.stamp == mine.stamp || (!(a.bytes & ~mine.bytes) && a.atomic == mine.atomic)))
    return 0;
  if (a.stamp <= w->floor) return 2;
  return a.thread / 32 == mine.thread / 32 ? 3 : 4;
}

static void remember(Worker* w, Access (&accesses)[4], Access mine) {
  Access* least = nullptr;
  int least_worth = 5;
  for (Access& a : accesses) {
    const int lost = worth(w, a, mine);
    if (lost < least_worth) least = &a, least_worth = lost;
    if (lost == 0) break;
  }
  if (least_worth == 0 && least->stamp == mine.stamp) {
    mine.bytes |= least->bytes;
    mine.atomic &= least->atomic;
  }
  *least = mine;
}

// `place` makes the name of the word, for messages.
template <typename Name>
static void touch_word(Worker* w, Cell& cell, uint8_t bytes, const Touch& t, const Name& place) {
  const auto conflicts = [&](const Access& a) {
    return (a.bytes & bytes) && (of_other_block(w, a) || !seen(w, t.thread, a));
  };
  for (const Access& a : cell.write)
    if (conflicts(a) && !(t.mine.atomic && a.atomic)) race(w, place(), t, a, true);
  Access mine = t.mine;
  mine.bytes = bytes;
  if (!t.write) return remember(w, cell.read, mine);
  for (const Access& a : cell.read)
    if (conflicts(a)) race(w, place(), t, a, false);
  if (!mine.atomic)  // whoever comes after this write comes after all before it
    for (auto* accesses : {cell.write, cell.read})
      for (int i = 0; i < 4; ++i) accesses[i].bytes &= ~bytes;
  remember(w, cell.write, mine);
  cell.initialised |= bytes;
}

template <typename F>
static void for_each_word(uintptr_t offset, size_t bytes, const F& visit) {
  for (uintptr_t word = offset / 4; word <= (offset + bytes - 1) / 4; ++word) {
    const uintptr_t from = std::max(offset, word * 4), to = std::min(offset + bytes, word * 4 + 4);
    visit(word, static_cast<uint8_t>(((1u << (to - from)) - 1) << (from - word * 4)));
  }
}

// ---- Shared memory ---------------------------------------------------------------------------------------

struct Shared {
  const char* name;
  uintptr_t offset;
  std::vector<Cell>* cells;
};

static bool find_shared(Worker* w, uintptr_t address, size_t bytes, Shared* found) {
  const uintptr_t dynamic = address - reinterpret_cast<uintptr_t>(w->dynamic);
  const size_t dynamic_bytes = w->launch->dynamic_bytes;
  if (dynamic < dynamic_bytes) {
    if (bytes > dynamic_bytes - dynamic)
      fail("access of %zu bytes at byte %zu runs past the end of dynamic shared memory, %zu bytes",
           bytes, static_cast<size_t>(dynamic), dynamic_bytes);
    *found = {"dynamic shared memory", dynamic, &w->dynamic_cells};
    return true;
  }
  const uintptr_t fixed = address - reinterpret_cast<uintptr_t>(w->fixed);
  if (fixed >= w->fixed_bytes) return false;
  *found = {"static shared memory", fixed, &w->fixed_cells};
  return true;
}

static void touch_shared(Worker* w, const Shared& s, size_t bytes, const Touch& t) {
  for_each_word(s.offset, bytes, [&](uintptr_t word, uint8_t mask) {
    Cell& cell = (*s.cells)[word];
    auto place = [&] { return std::string(s.name) + " at byte " + std::to_string(word * 4); };
    for (const Access& a : cell.write)
      if (a.bytes & cell.pending & mask)
        fail_with(std::string(t.write ? "write to " : "read of ") + place() +
                  ", where an asynchronous copy of " + named(w, a) + " has not been waited for" +
                  where(t.instruction));
    if (!t.write && mask & ~cell.initialised)
      fail_with("read of uninitialised " + place() + where(t.instruction));
    touch_word(w, cell, mask, t, place);
  });
}

static Shared need_shared(Worker* w, const void* p, size_t bytes, const char* what) {
  Shared s;
  if (!find_shared(w, reinterpret_cast<uintptr_t>(p), bytes, &s))
    fail("%s: %p is not in the shared memory of this block", what, p);
  return s;
}

bool is_shared(const void* p, size_t bytes) {
  Shared s;
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  return find_shared(worker, address, 1, &s) && find_shared(worker, address + bytes - 1, 1, &s);
}

void* dynamic_shared() {
  if (worker->launch->dynamic_bytes == 0)
    fail("the kernel uses dynamic shared memory but was launched with shared_bytes=0");
  return worker->dynamic;
}

constexpr uint32_t dynamic_window = 1u << 18;  // static shared memory comes first, as on a GPU

uint32_t shared_offset(const void* p) {
  const Shared s = need_shared(worker, p, 1, "address in shared memory");
  return static_cast<uint32_t>(s.offset) + (s.cells == &worker->dynamic_cells ? dynamic_window : 0);
}

void* shared_pointer(uint32_t offset) {
  Worker* w = worker;
  const bool dynamic = offset >= dynamic_window;
  if (dynamic) offset -= dynamic_window;
  if (offset >= (dynamic ? w->launch->dynamic_bytes : w->fixed_bytes))
    fail("offset %u lies outside shared memory", offset);
  return (dynamic ? w->dynamic : w->fixed) + offset;
}

static void access_shared(const void* p, size_t bytes, bool write, const char* what,
                          const void* instruction) {
  Worker* w = worker;
  const Shared s = need_shared(w, p, bytes, what);
  if (!w->launch->options.check) return;
  touch_shared(w, s, bytes, touch_now(w, write, instruction));
  count_by_model(w, true, reinterpret_cast<uintptr_t>(p), bytes, write, instruction);
}

void shared_load(void* to, const void* from, size_t bytes, const char* what) {
  access_shared(from, bytes, false, what, CALLER);
  memcpy(to, from, bytes);
}

void shared_store(void* to, const void* from, size_t bytes, const char* what) {
  access_shared(to, bytes, true, what, CALLER);
  memcpy(to, from, bytes);
}

static void set_pending(const Shared& s, size_t bytes, bool pending) {
  for_each_word(s.offset, bytes, [&](uintptr_t word, uint8_t mask) {
    Cell& cell = (*s.cells)[word];
    cell.pending = pending ? cell.pending | mask : cell.pending & ~mask;
  });
}

static void claim(void* shared, size_t bytes, const Touch& t) {
  const Shared s = need_shared(worker, shared, bytes, "asynchronous copy");
  touch_shared(worker, s, bytes, t);
  set_pending(s, bytes, true);
}

void mark_pending(void* shared, size_t bytes) {
  if (worker->launch->options.check) claim(shared, bytes, touch_now(worker, true, CALLER));
}

void clear_pending(void* shared, size_t bytes) {
  if (worker->launch->options.check)
    set_pending(need_shared(worker, shared, bytes, "cp.async"), bytes, false);
}

void engine_claim(void* shared, size_t bytes) {
  Worker* w = worker;
  if (!w->launch->options.check) return;
  Touch t = touch_now(w, true, CALLER);
  t.mine = {++w->now, static_cast<uint16_t>(engine(w)), 0, 0};  // seen by nobody yet
  claim(shared, bytes, t);
}

void engine_store(void* to, const void* from, size_t bytes, const char* what) {
  Worker* w = worker;
  const Shared s = need_shared(w, to, bytes, what);
  if (w->launch->options.check) {
    set_pending(s, bytes, false);
    w->counters.shared_write_bytes += bytes;
  }
  memcpy(to, from, bytes);
}

// A claim stamps its words one by one upwards; a copy that ends makes all claims so far known. That
// misses a thread that reads the tile of a second copy after waiting for a first one issued later.
void engine_completes(const void* mbarrier) {
  Worker* w = worker;
  if (!w->launch->options.check) return;
  object_of(w, mbarrier).published[engine(w)] = w->now;
}

// ---- Global memory ----------------------------------------------------------------------------------------

void merge_buffers(Launch* l) {
  std::vector<Buffer> sorted;
  for (const Buffer& b : l->buffers)
    if (b.begin < b.end) sorted.push_back(b);
  std::sort(sorted.begin(), sorted.end(),
            [](const Buffer& a, const Buffer& b) { return a.begin < b.begin; });
  for (const Buffer& b : sorted) {
    if (!l->regions.empty() && b.begin < l->regions.back().end)
      l->regions.back().end = std::max(l->regions.back().end, b.end);
    else
      l->regions.push_back({b.begin, b.end, {nullptr, free}, {}});
  }
  for (Region& region : l->regions) {
    region.cells.reset(static_cast<Cell*>(
        calloc((region.end - region.begin) / 4 + 1, sizeof(Cell))));  // pages come when touched
    region.touched.resize(region.end - region.begin);
  }
}

void count_distinct(Launch* l) {
  Counters& c = l->counters;
  for (const Region& region : l->regions)
    for (size_t sector = 0; sector < region.touched.size(); sector += 32) {
      unsigned read = 0, written = 0;
      for (size_t i = sector; i < std::min(sector + 32, region.touched.size()); ++i) {
        read += region.touched[i] & 1;
        written += region.touched[i] >> 1 & 1;
      }
      c.distinct_read_bytes += read;
      c.distinct_write_bytes += written;
      c.distinct_read_sectors += read != 0;
      c.distinct_write_sectors += written != 0;
    }
}

[[noreturn]] static void out_of_bounds(Worker* w, uintptr_t address, size_t bytes, bool write,
                                       const void* instruction) {
  const Launch* l = w->launch;
  const Buffer* nearest = nullptr;
  uintptr_t distance = uintptr_t{1} << 32;
  for (const Buffer& b : l->buffers) {
    const uintptr_t d = address < b.begin ? b.begin - address : address + bytes - b.end;
    if (d < distance) nearest = &b, distance = d;
  }
  const bool in_module = address - l->module_begin < l->module_end - l->module_begin;
  char message[400];
  int length = snprintf(message, sizeof message, "out of bounds: %s of %zu bytes",
                        write ? "write" : "read", bytes);
  char* rest = message + length;
  if (nearest && !in_module)
    snprintf(rest, sizeof message - length, ", %zu bytes %s '%s' (%zu bytes)",
             static_cast<size_t>(distance),
             address < nearest->begin ? "before the start of" : "past the end of", nearest->name,
             static_cast<size_t>(nearest->end - nearest->begin));
  else
    snprintf(rest, sizeof message - length, " at %p, %s", reinterpret_cast<void*>(address),
             address < 1 << 16 ? "a null pointer"
             : in_module       ? "a __device__ variable, which may only be read here: pass an array"
                               : "far from every array");
  fail_with(message + where(instruction));
}

// Returns the address as a GPU would have it, where buffers start on a sector; 0 for a constant of
// the kernel.
static uintptr_t touch_global(Worker* w, uintptr_t address, size_t bytes, bool write, bool atomic,
                              const void* instruction) {
  Launch* l = w->launch;
  const Buffer* inside = nullptr;
  for (const Buffer& b : l->buffers)
    if (address >= b.begin && address + bytes <= b.end && (!inside || b.writable)) inside = &b;
  if (!inside) {
    if (!write && address >= l->module_begin && address + bytes <= l->module_end) return 0;
    out_of_bounds(w, address, bytes, write, instruction);
  }
  if (write && !inside->writable)
    fail_with(std::string("write to '") + inside->name + "', which the kernel takes as const" +
              where(instruction));
  if (!l->options.check) return address;
  Region* region = l->regions.data();
  while (address < region->begin || address >= region->end) ++region;
  const uintptr_t offset = address - region->begin;
  for (size_t i = 0; i < bytes; ++i) region->touched[offset + i] |= write ? 2 : 1;
  if (atomic)
    for (size_t i = 0; i < bytes; ++i) region->touched[offset + i] |= 1;
  const Touch t = touch_now(w, write, instruction, atomic);
  for_each_word(offset, bytes, [&](uintptr_t word, uint8_t mask) {
    touch_word(w, region->cells.get()[word], mask, t, [&] {
      return std::string("'") + inside->name + "' at byte " +
             std::to_string(region->begin + word * 4 - inside->begin);
    });
  });
  return (static_cast<uintptr_t>(region - l->regions.data() + 1) << 48) + offset;
}

static void access_global(const void* p, size_t bytes, bool write, const void* instruction) {
  Worker* w = worker;
  const auto address = reinterpret_cast<uintptr_t>(p);
  const uintptr_t on_gpu = touch_global(w, address, bytes, write, false, instruction);
  if (w->launch->options.check) count_by_model(w, false, on_gpu, bytes, write, instruction);
}

void global_load(void* to, const void* from, size_t bytes) {
  access_global(from, bytes, false, CALLER);
  memcpy(to, from, bytes);
}

void global_store(void* to, const void* from, size_t bytes) {
  access_global(to, bytes, true, CALLER);
  memcpy(to, from, bytes);
}

// ---- Entries: atomics and instrumented accesses ---------------------------------------------------------

static bool on_stack(const Worker* w, uintptr_t address, const void* instruction) {
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(w->stacks);
  if (offset >= w->stack_stride * w->stack_count) return false;
  if (offset / w->stack_stride != number(current()))
    fail_with("access to a local variable of another thread" + where(instruction));
  return true;
}

void check_atomic(void* p, size_t bytes) {
  Worker* w = worker;
  ++w->counters.atomics;
  if (!w->launch->options.check) return;
  const auto address = reinterpret_cast<uintptr_t>(p);
  const void* instruction = CALLER;
  Shared s;
  if (find_shared(w, address, bytes, &s)) {
    for_each_word(s.offset, bytes, [&](uintptr_t word, uint8_t mask) {
      if (mask & ~(*s.cells)[word].initialised)
        fail_with(std::string("atomic on uninitialised ") + s.name + where(instruction));
    });
    touch_shared(w, s, bytes, touch_now(w, true, instruction, true));
    count_access(w, true, address, bytes, true, instruction);
  } else if (!on_stack(w, address, instruction)) {
    const uintptr_t on_gpu = touch_global(w, address, bytes, true, true, instruction);
    count_access(w, false, on_gpu, bytes, true, instruction);
  }
}

static void accessed(void* p, size_t bytes, bool write, const void* instruction) {
  if (!self) return;
  Worker* w = worker;
  if (timed_out()) fail_with("timeout at this point" + where(instruction));
  const auto address = reinterpret_cast<uintptr_t>(p);
  if (w->silent || on_stack(w, address, instruction)) return;
  const uintptr_t in_threads = address - reinterpret_cast<uintptr_t>(w->threads.data());
  if (in_threads < w->threads.size() * sizeof(Thread) || p == static_cast<void*>(&self)) return;
  Shared s;
  if (find_shared(w, address, bytes, &s)) {
    touch_shared(w, s, bytes, touch_now(w, write, instruction));
    count_access(w, true, address, bytes, write, instruction);
  } else {
    const uintptr_t on_gpu = touch_global(w, address, bytes, write, false, instruction);
    if (on_gpu) count_access(w, false, on_gpu, bytes, write, instruction);
  }
}

// ---- Blocks ------------------------------------------------------------------------------------------------

void reset_memory(Worker* w, uint32_t block) {
  const size_t n = w->threads.size();
  w->clocks.resize(n * (n + 1));  // what is older than the floor means nothing: no need to clear
  w->epoch.resize(n);
  w->mbarriers.clear();
  w->dynamic_cells.assign((w->launch->dynamic_bytes + 3) / 4, {});
  w->fixed_cells.assign((w->fixed_bytes + 3) / 4, {});
  w->traffic.assign(w->warps, {});
  order_all(w);
  w->block_starts.push_back({w->floor, block});
}

struct Search {
  uintptr_t address;
  Worker* w;
};

static int visit_library(dl_phdr_info* info, size_t, void* data) {
  const auto& search = *static_cast<Search*>(data);
  const auto tls = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
  if (!tls) return 0;
  uintptr_t begin = ~uintptr_t{0}, end = 0;
  size_t tls_bytes = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type == PT_TLS) tls_bytes = header.p_memsz;
    if (header.p_type != PT_LOAD) continue;
    begin = std::min<uintptr_t>(begin, info->dlpi_addr + header.p_vaddr);
    end = std::max<uintptr_t>(end, info->dlpi_addr + header.p_vaddr + header.p_memsz);
  }
  if (search.address - tls >= tls_bytes) return 0;
  search.w->fixed = reinterpret_cast<char*>(tls);
  search.w->fixed_bytes = tls_bytes;
  search.w->launch->module_begin = begin;
  search.w->launch->module_end = end;
  return 1;
}

void find_static_shared(Worker* w, const void* in_module) {
  Search search{reinterpret_cast<uintptr_t>(in_module), w};
  dl_iterate_phdr(visit_library, &search);
}

}  // namespace emulator

#define EMULATOR_HOOKS(n)                                                             \
  void __tsan_read##n(void* p) { emulator::accessed(p, n, false, CALLER); }           \
  void __tsan_write##n(void* p) { emulator::accessed(p, n, true, CALLER); }           \
  void __tsan_unaligned_read##n(void* p) { emulator::accessed(p, n, false, CALLER); } \
  void __tsan_unaligned_write##n(void* p) { emulator::accessed(p, n, true, CALLER); } \
  void __tsan_volatile_read##n(void* p) { emulator::accessed(p, n, false, CALLER); }  \
  void __tsan_volatile_write##n(void* p) { emulator::accessed(p, n, true, CALLER); }
extern "C" {
EMULATOR_HOOKS(1)
EMULATOR_HOOKS(2)
EMULATOR_HOOKS(4)
EMULATOR_HOOKS(8)
EMULATOR_HOOKS(16)
// check_atomic has looked at these.
#define EMULATOR_ATOMIC_HOOKS(bits)                                                                \
  uint##bits##_t __tsan_atomic##bits##_load(const uint##bits##_t* p, int) {                        \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(uint##bits##_t* p, uint##bits##_t* expected,   \
                                                    uint##bits##_t v, int, int) {                  \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
EMULATOR_ATOMIC_HOOKS(16)
EMULATOR_ATOMIC_HOOKS(32)
EMULATOR_ATOMIC_HOOKS(64)
void* emulator_memcpy(void* to, const void* from, size_t n) {
  if (n && emulator::worker->launch->options.check) {
    emulator::accessed(const_cast<void*>(from), n, false, CALLER);
    emulator::accessed(to, n, true, CALLER);
  }
  return memcpy(to, from, n);
}
void* emulator_memset(void* to, int value, size_t n) {
  if (n && emulator::worker->launch->options.check) emulator::accessed(to, n, true, CALLER);
  return memset(to, value, n);
}
void __tsan_read_range(void* p, size_t n) { emulator::accessed(p, n, false, CALLER); }
void __tsan_write_range(void* p, size_t n) { emulator::accessed(p, n, true, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
