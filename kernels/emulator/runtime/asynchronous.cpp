// Work that ends later than it was issued: cp.async, TMA, wgmma.
//
// When it ends is up to the hardware, so it must be tried early, late and at random: a missing wait
// hides from `eager`, an operand released too early hides from `lazy`.
#include <algorithm>

#include "state.h"

namespace emulator {

static const char* const queue_names[queues] = {"cp.async copies", "bulk stores",
                                                "wgmma operations"};

void run_task(Worker* w, Task& task, bool of_lane) {
  if (!task.run) return;
  const bool silent = w->silent;
  w->silent = true;
  w->issued = &task.place;
  w->of_lane = of_lane;
  w->last_sector = 0;
  task.run(task.data);
  w->issued = nullptr;
  task.run = nullptr;
  w->silent = silent;
}

static bool now(Worker* w) {
  const int when = w->launch->options.asynchronous;
  return when == eager || (when == random_time && one_in(w, 2));
}

void enqueue(Queue queue, const Task& task) {
  Worker* w = worker;
  ++w->counters.asynchronous_copies;
  auto& tasks = current()->queue[static_cast<int>(queue)].tasks;
  tasks.push_back(task);
  // Stores of one thread may overtake nothing; loads are independent of each other.
  if (queue == Queue::cp_async && now(w)) run_task(w, tasks.back(), true);
}

void commit_group(Queue queue) {
  GroupQueue& q = current()->queue[static_cast<int>(queue)];
  int uncommitted = static_cast<int>(q.tasks.size());
  for (int size : q.groups) uncommitted -= size;
  q.groups.push_back(uncommitted);
  if (queue != Queue::cp_async && now(worker))
    for (Task& task : q.tasks) run_task(worker, task);
}

void wait_group_of(ThreadView* thread, Queue queue, int pending) {
  GroupQueue& q = static_cast<Thread*>(thread)->queue[static_cast<int>(queue)];
  ThreadView* const caller = self;
  self = thread;
  while (static_cast<int>(q.groups.size()) > pending) {
    const int size = q.groups.front();
    for (int i = 0; i < size; ++i) run_task(worker, q.tasks[i], queue == Queue::cp_async);
    q.tasks.erase(q.tasks.begin(), q.tasks.begin() + size);
    q.groups.erase(q.groups.begin());
  }
  self = caller;
}

void wait_group(Queue queue, int pending) { wait_group_of(self, queue, pending); }

void launch_engine(const Task& task) {
  Worker* w = worker;
  ++w->counters.asynchronous_copies;
  w->engine.push_back(task);
  if (now(w)) {
    Task first = w->engine.back();
    w->engine.pop_back();
    run_task(w, first);
  }
}

bool run_engine_task(Worker* w) {
  if (w->engine.empty()) return false;
  const bool any = w->launch->options.asynchronous == random_time;
  const size_t i = any ? random_number(w) % w->engine.size() : 0;
  Task task = w->engine[i];
  w->engine.erase(w->engine.begin() + i);
  ThreadView* const caller = self;
  self = &w->threads[0];  // messages and clocks need a thread; the engine has none
  run_task(w, task);
  self = caller;
  return true;
}

void check_queues_empty(Thread* thread) {
  for (int i = 0; i < queues; ++i)
    if (!thread->queue[i].tasks.empty())
      fail("this thread exits with %zu %s that it never waited for", thread->queue[i].tasks.size(),
           queue_names[i]);
}

}  // namespace emulator
