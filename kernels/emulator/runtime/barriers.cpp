// Warp operations, block barriers, named barriers, mbarriers.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace emulator {

static bool same(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

// ---- Warp operations ------------------------------------------------------------------------------

static unsigned alive(const Worker* w, unsigned warp) {
  unsigned mask = 0;
  for (unsigned lane = 0; lane < 32 && warp * 32 + lane < w->threads.size(); ++lane)
    if (w->threads[warp * 32 + lane].state != State::done) mask |= 1u << lane;
  return mask;
}

static void finish(Worker* w, unsigned warp, size_t index, WarpFunction function) {
  WarpMeeting meeting = w->meetings[warp][index];
  w->meetings[warp].erase(w->meetings[warp].begin() + index);
  ++w->counters.warp_operations;
  static thread_local std::vector<unsigned> lanes;
  lanes.clear();
  for (unsigned lane = 0; lane < 32; ++lane)
    if (meeting.arrived >> lane & 1) lanes.push_back(warp * 32 + lane);
  const bool silent = w->silent;
  w->silent = true;
  function(meeting.lanes, meeting.arrived);
  w->silent = silent;
  if (w->launch->options.check) {
    if (meeting.operation.orders_memory) order_among(w, lanes);
    if (meeting.arrived == ~0u) flush_traffic(w, warp);
  }
  release(w, lanes);
}

void warp_operation(const WarpOperation& operation, unsigned mask, void* argument,
                    WarpFunction function, Place place) {
  Worker* w = worker;
  Thread* thread = current();
  const unsigned warp = thread->warp, lane = thread->lane;
  const char* name = operation.name;
  if (!(mask >> lane & 1))
    fail("%s:%d: %s by lane %u with mask %08x, which does not name it", place.file, place.line,
         name, lane, mask);
  // Lanes of other masks may wait elsewhere at the same time: that is divergence, and legal.
  auto& meetings = w->meetings[warp];
  size_t index = 0;
  while (index < meetings.size() && meetings[index].mask != mask) ++index;
  if (index == meetings.size()) {
    const unsigned lanes = alive(w, warp);
    if (operation.aligned && lanes != ~0u)
      fail("%s:%d: %s needs all 32 lanes of the warp, but only %08x are there", place.file,
           place.line, name, lanes);
    if (w->launch->options.strict && mask & ~lanes)
      fail("%s:%d: mask %08x of %s names lanes that have exited or do not exist (there are %08x)",
           place.file, place.line, mask, name, lanes);
    meetings.push_back({operation, mask, 0, place, {}});
  }
  WarpMeeting& meeting = meetings[index];
  const bool elsewhere = std::strcmp(meeting.operation.name, name) != 0 ||
                         (w->launch->options.strict && !same(meeting.place, place));
  if (meeting.arrived && elsewhere)
    fail("divergent warp: lane %u is at %s %s:%d but lane %d waits at %s %s:%d (mask %08x)", lane,
         name, place.file, place.line, __builtin_ctz(meeting.arrived), meeting.operation.name,
         meeting.place.file, meeting.place.line, mask);
  meeting.arrived |= 1u << lane;
  meeting.lanes[lane] = argument;
  thread->state = State::at_warp_operation;
  thread->waits_for = name;
  thread->place = place;
  if (meeting.arrived == mask || meeting.arrived == (mask & alive(w, warp)))
    finish(w, warp, index, function);
  switch_away();
}

// ---- Block and named barriers ------------------------------------------------------------------------

static void open(Worker* w, int id) {
  Barrier& b = w->barriers[id];
  const int outcome = b.vote == Vote::all   ? b.votes == b.arrived
                      : b.vote == Vote::any ? b.votes != 0
                                            : b.votes;
  static thread_local std::vector<unsigned> waiting;
  waiting.clear();
  for (Thread& thread : w->threads)
    if (thread.state == State::at_barrier && thread.barrier == id) {
      thread.vote = outcome;
      waiting.push_back(number(&thread));
    }
  ++w->counters.barriers;
  if (w->launch->options.order == unfair) new_priorities(w);
  if (w->launch->options.check) {
    if (b.expected < 0) {
      order_all(w);
      for (unsigned warp = 0; warp < w->warps; ++warp) flush_traffic(w, warp);
    } else {
      mbarrier_complete(&b);  // arrivals, with or without waiting, were published to it
      for (unsigned thread : waiting) {
        self = &w->threads[thread];
        mbarrier_acquire(&b);
      }
    }
  }
  b = Barrier{};
  release(w, waiting);
}

static void arrive(int id, int expected, Vote vote, int predicate, Place place) {
  Worker* w = worker;
  Thread* thread = current();
  Barrier& b = w->barriers[id];
  if (b.arrived == 0) {
    b.expected = expected;
    b.vote = vote;
    b.first = number(thread);
    b.place = place;
  } else if (b.expected != expected) {
    fail("%s:%d: barrier %d is used with %d threads here and %d at %s:%d (-1: __syncthreads)",
         place.file, place.line, id, expected, b.expected, b.place.file, b.place.line);
  } else if (expected < 0 && !same(b.place, place)) {
    fail("divergent barrier: this thread is at %s:%d but %s waits at %s:%d", place.file, place.line,
         name_of(&w->threads[b.first]).c_str(), b.place.file, b.place.line);
  }
  if (expected < 0 && w->launch->options.strict && w->live != w->threads.size())
    for (const Thread& other : w->threads)
      if (other.state == State::done)
        fail("__syncthreads at %s:%d after %s has exited; options(strict=False) allows it",
             place.file, place.line, name_of(&other).c_str());
  ++b.arrived;
  b.votes += predicate != 0;
}

static bool complete(const Worker* w, int id) {
  const Barrier& b = w->barriers[id];
  return b.arrived == (b.expected < 0 ? static_cast<int>(w->live) : b.expected);
}

static void waits_at(Thread* thread, int barrier, const char* what, Place place) {
  thread->state = State::at_barrier;
  thread->waits_for = what;
  thread->place = place;
  thread->barrier = barrier;
}

int block_barrier(Vote vote, int predicate, Place place) {
  Worker* w = worker;
  Thread* thread = current();
  arrive(0, -1, vote, predicate, place);
  waits_at(thread, 0, "__syncthreads", place);
  if (complete(w, 0)) open(w, 0);
  switch_away();
  return thread->vote;
}

static void named_barrier(int id, int threads, Place place, bool wait) {
  if (id < 0 || id > 15 || threads <= 0 || threads % 32)
    fail("%s:%d: barrier %d of %d threads: ids are 0 to 15, threads a multiple of 32", place.file,
         place.line, id, threads);
  Worker* w = worker;
  Thread* thread = current();
  arrive(id, threads, Vote::none, 0, place);
  if (w->launch->options.check) mbarrier_release(&w->barriers[id]);
  if (wait) waits_at(thread, id, "named barrier", place);
  if (complete(w, id)) {
    open(w, id);
    self = thread;
  }
  wait ? switch_away() : preempt();
}

void named_barrier_sync(int id, int threads, Place place) {
  named_barrier(id, threads, place, true);
}

void named_barrier_arrive(int id, int threads, Place place) {
  named_barrier(id, threads, place, false);
}

void thread_exits(Worker* w, Thread* thread) {
  Barrier& b = w->barriers[0];
  if (b.arrived && b.expected < 0) {
    if (w->launch->options.strict)
      fail(
          "this thread exits while %d thread(s) wait at __syncthreads %s:%d; options(strict=False) "
          "allows it",
          b.arrived, b.place.file, b.place.line);
    if (complete(w, 0)) open(w, 0);
  }
  for (const auto& meeting : w->meetings[thread->warp])
    if (meeting.mask >> thread->lane & 1)
      fail("this lane exits while lanes of its warp wait for it at %s %s:%d (mask %08x)",
           meeting.operation.name, meeting.place.file, meeting.place.line, meeting.mask);
}

void reset_barriers(Worker* w) {
  w->meetings.assign(w->warps, {});
  for (auto& barrier : w->barriers) barrier = Barrier{};
}

}  // namespace emulator
