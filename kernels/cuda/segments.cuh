// The table of parameters in flat buffers (kernels/segments.py), as the block that steps a chunk
// of CHUNK_BYTES of each buffer needs it.
#pragma once

#include "common.cuh"

#ifndef CHUNK_BYTES
#define CHUNK_BYTES 16384
#endif

enum SegmentColumn { START, SIZE, GROUP, ACTIVE, STEP, SEGMENT_COLUMNS };

constexpr int UNIT_BYTES = 256;  // parameters start on multiples: a unit belongs to one at most
constexpr int UNITS = CHUNK_BYTES / UNIT_BYTES;
constexpr int UNIT = UNIT_BYTES / sizeof(Storage);
constexpr int CHUNK = CHUNK_BYTES / sizeof(Storage);
constexpr int PACK = 16 / sizeof(Storage);  // elements that a thread moves at once

// The parameters in one chunk, in shared memory. Each is known by its first unit in the chunk.
template <typename Numbers>
struct Chunk {
  int parameter[UNITS];    // of a unit; -1: none that is active
  int end[UNITS];          // of a parameter: the element after its last, from the chunk's start
  Numbers numbers[UNITS];  // of a parameter: what its elements are stepped with
};

// Read the table into `chunk`. Numbers::of(a group's hyper-parameters, steps taken) makes the
// numbers of a parameter, `hyper` has HYPER_COLUMNS of these a group. All threads must take part.
template <int HYPER_COLUMNS, typename Numbers>
__device__ __forceinline__ void find_parameters(Chunk<Numbers>& chunk, const long long* segments,
                                                int rows, const double* hyper) {
  for (int unit = threadIdx.x; unit < UNITS; unit += BLOCK) chunk.parameter[unit] = -1;
  __syncthreads();
  const long long chunk_start = static_cast<long long>(blockIdx.x) * CHUNK;
  for (int row = threadIdx.x; row < rows; row += BLOCK) {
    const long long* segment = segments + static_cast<long long>(row) * SEGMENT_COLUMNS;
    const long long start = segment[START] - chunk_start, end = start + segment[SIZE];
    if (end <= 0 || start >= CHUNK || start == end || segment[ACTIVE] == 0) continue;
    const int parameter = start > 0 ? static_cast<int>(start) / UNIT : 0;
    chunk.end[parameter] = end < CHUNK ? static_cast<int>(end) : CHUNK;
    chunk.numbers[parameter] = Numbers::of(hyper + segment[GROUP] * HYPER_COLUMNS, segment[STEP]);
    for (int unit = parameter; unit < UNITS && unit * UNIT < end; ++unit)
      chunk.parameter[unit] = parameter;
  }
  __syncthreads();
}

// Count the step of this thread's parameter. A launch of its own, after the others: all blocks of
// the step read the count before.
__device__ __forceinline__ void count_step(long long* segments, int rows) {
  const long long row = global_thread();
  if (row >= rows) return;
  long long* segment = segments + row * SEGMENT_COLUMNS;
  segment[STEP] += segment[ACTIVE];
}
