// How a launch fails: messages, signals, the watchdog, the checks that g++ compiles in.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstring>
#include <thread>

#include "state.h"

namespace emulator {

std::string name_of(const Thread* thread) {
  char name[100];
  const Index3 b = thread->block, t = thread->thread;
  snprintf(name, sizeof name, "block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
  return name;
}

std::string where(const void* instruction) {
  if (const Place* place = worker->issued)
    return std::string(" at ") + place->file + ":" + std::to_string(place->line);
  Dl_info info;
  if (!instruction || !dladdr(instruction, &info)) return "";
  char text[600];
  // A return address: one byte earlier is still inside the call.
  const auto offset =
      static_cast<const char*>(instruction) - static_cast<char*>(info.dli_fbase) - 1;
  snprintf(text, sizeof text, " [pc %s+0x%lx]", info.dli_fname, static_cast<unsigned long>(offset));
  return text;
}

void fail_with(const std::string& message) {
  Worker* w = worker;
  Launch* l = w->launch;
  {
    std::lock_guard<std::mutex> lock(l->mutex);
    if (!l->failed) {
      l->error = std::string("kernel ") + l->kernel + ": ";
      if (self) l->error += name_of(current()) + ": ";
      l->error += message;
      l->failed = true;
    }
  }
  siglongjmp(w->out, 1);
}

void fail(const char* format, ...) {
  char message[2000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  fail_with(message + where(__builtin_return_address(0)));
}

// ---- Signals ----------------------------------------------------------------------------------------

static const int signals[] = {SIGSEGV, SIGBUS,  SIGFPE,
                              SIGILL,  SIGTRAP, SIGURG};  // SIGURG: watchdog
constexpr int signal_count = sizeof signals / sizeof *signals;
static struct sigaction previous[signal_count];

static const char* meaning(int signal, const siginfo_t* info, bool on_guard) {
  switch (signal) {
    case SIGSEGV:
      if (info->si_code == SI_KERNEL) return "misaligned vector access, or no valid address";
      return on_guard ? "stack overflow of a thread" : "invalid memory access";
    case SIGBUS:
      return "bus error";
    case SIGFPE:
      return "integer division by zero";
    case SIGURG:
      return "timeout: this thread was running";
    default:
      return "trap";
  }
}

// Runs on the alternate stack; leaves by a jump to the worker's own.
static void on_signal(int signal, siginfo_t* info, void*) {
  Worker* w = worker;
  if (!w || !self) {  // not ours
    if (signal == SIGURG) return;
    for (int i = 0; i < signal_count; ++i)
      if (signals[i] == signal) sigaction(signal, &previous[i], nullptr);
    return;
  }
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const bool on_guard =
      address - reinterpret_cast<uintptr_t>(w->stacks) < w->stack_stride * w->stack_count;
  std::string message = meaning(signal, info, on_guard);
  if (signal == SIGSEGV && info->si_code != SI_KERNEL && !on_guard) {
    constexpr uintptr_t near = 1 << 20;
    for (const Buffer& b : w->launch->buffers) {
      if (address < b.begin && b.begin - address < near)
        message += ", " + std::to_string(b.begin - address) + " bytes before '" + b.name + "'";
      if (address >= b.end && address - b.end < near)
        message +=
            ", " + std::to_string(address - b.end) + " bytes past the end of '" + b.name + "'";
    }
  }
  fail_with(message);
}

static std::atomic<bool> late{false};

// Ctrl-C ends the launch like a timeout; then Python raises KeyboardInterrupt.
static struct sigaction interrupt_of_python;

static void on_interrupt(int signal) {
  late = true;
  interrupt_of_python.sa_handler(signal);
}

void install_handlers() {
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  for (int i = 0; i < signal_count; ++i) sigaction(signals[i], &action, &previous[i]);
  sigaction(SIGINT, nullptr, &interrupt_of_python);
  const auto handler = interrupt_of_python.sa_handler;
  if (interrupt_of_python.sa_flags & SA_SIGINFO || handler == SIG_DFL || handler == SIG_IGN) return;
  struct sigaction interrupt = interrupt_of_python;
  interrupt.sa_handler = on_interrupt;
  sigaction(SIGINT, &interrupt, nullptr);
}

void restore_handlers() {
  sigaction(SIGINT, &interrupt_of_python, nullptr);
  for (int i = 0; i < signal_count; ++i) sigaction(signals[i], &previous[i], nullptr);
}

static __thread stack_t previous_stack;

void use_alternate_stack(Worker* w, bool on) {
  stack_t stack{};
  stack.ss_sp = w->alternate_stack;
  stack.ss_size = sizeof w->alternate_stack;
  if (on)
    sigaltstack(&stack, &previous_stack);
  else
    sigaltstack(&previous_stack, nullptr);
}

// ---- The watchdog -----------------------------------------------------------------------------------

// One thread for the whole process looks at the clock now and then. A launch that has run too long
// sees timed_out() where threads switch; a loop that never switches is interrupted a little later.
static std::mutex watch_mutex;
static std::vector<pthread_t> watched;
static int64_t deadline_ns = 0;            // 0: nothing to watch
static std::atomic<pid_t> watchdog_of{0};  // the process: a fork has no watchdog yet

bool timed_out() { return late; }

static int64_t clock_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

static void look() {
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::lock_guard<std::mutex> lock(watch_mutex);
    if (!deadline_ns || (!late && clock_ns() < deadline_ns)) continue;
    if (late)
      for (pthread_t thread : watched) pthread_kill(thread, SIGURG);
    late = true;
  }
}

void watch(double timeout_s) {
  std::lock_guard<std::mutex> lock(watch_mutex);
  late = false;
  deadline_ns = timeout_s > 0 ? clock_ns() + static_cast<int64_t>(timeout_s * 1e9) : 0;
  if (deadline_ns && watchdog_of != getpid()) {
    watchdog_of = getpid();
    std::thread(look).detach();
  }
}

void watch_thread(bool on) {
  std::lock_guard<std::mutex> lock(watch_mutex);
  if (on)
    watched.push_back(pthread_self());
  else
    watched.erase(std::remove(watched.begin(), watched.end(), pthread_self()), watched.end());
}

}  // namespace emulator

// ---- -fsanitize=bounds,alignment,shift,integer-divide-by-zero, without its library -------------------

namespace {
struct SourceLocation {
  const char* file;
  unsigned line, column;
};
struct TypeName {
  unsigned short kind, info;
  char name[1];
};
struct OutOfBounds {
  SourceLocation at;
  TypeName* array;
  TypeName* index;
};
struct TypeMismatch {
  SourceLocation at;
  TypeName* type;
  unsigned char log_alignment, kind;
};
}  // namespace

extern "C" {
void emulator_assert_fail(const char* condition, const char* file, unsigned line, const char*) {
  emulator::fail("assert(%s) at %s:%u", condition, file, line);
}
void __ubsan_handle_out_of_bounds_abort(OutOfBounds* d, size_t index) {
  emulator::fail("index %ld is out of bounds of %s at %s:%u", static_cast<long>(index),
                 d->array->name, d->at.file, d->at.line);
}
void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* d, size_t pointer) {
  if (!pointer) emulator::fail("access through a null pointer at %s:%u", d->at.file, d->at.line);
  emulator::fail("misaligned access: the address of this %s is not a multiple of %u, at %s:%u",
                 d->type->name, 1u << d->log_alignment, d->at.file, d->at.line);
}
void __ubsan_handle_shift_out_of_bounds_abort(SourceLocation* at, size_t, size_t by) {
  emulator::fail("shift by %ld bits at %s:%u", static_cast<long>(by), at->file, at->line);
}
void __ubsan_handle_divrem_overflow_abort(SourceLocation* at, size_t, size_t) {
  emulator::fail("integer division by zero at %s:%u", at->file, at->line);
}
}
