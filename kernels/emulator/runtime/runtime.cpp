// The emulator's runtime, compiled as one: see state.h for what is where.
#include "scheduler.cpp"
#include "barriers.cpp"
#include "memory.cpp"
#include "counters.cpp"
#include "asynchronous.cpp"
#include "faults.cpp"
