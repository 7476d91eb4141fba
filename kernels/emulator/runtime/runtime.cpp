// The emulator's runtime, compiled as one: see state.h for what is where.
#include "asynchronous.cpp"
#include "barriers.cpp"
#include "counters.cpp"
#include "faults.cpp"
#include "memory.cpp"
#include "scheduler.cpp"
