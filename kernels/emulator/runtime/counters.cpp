// What the memory system would see: a warp's accesses in one instruction are one request.
//
// Lanes run one after the other here, so a request is put together from the k-th execution of the
// same instruction by each lane since they last met (at a barrier or a full-warp operation).
#include <algorithm>

#include "state.h"

namespace emulator {

static void count_global(Counters& c, const Request& request, const Instruction& i) {
  static thread_local std::vector<uintptr_t> sectors;
  sectors.clear();
  uint64_t bytes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (!(request.lanes >> lane & 1)) continue;
    bytes += i.bytes;
    const uintptr_t last = (request.address[lane] + i.bytes - 1) / 32;
    for (uintptr_t sector = request.address[lane] / 32; sector <= last; ++sector)
      if (sectors.empty() || sectors.back() != sector) sectors.push_back(sector);
  }
  std::sort(sectors.begin(), sectors.end());
  const uint64_t distinct = std::unique(sectors.begin(), sectors.end()) - sectors.begin();
  (i.write ? c.global_write_bytes : c.global_read_bytes) += bytes;
  (i.write ? c.global_write_sectors : c.global_read_sectors) += distinct;
}

// One pass moves a 4-byte word from each of 32 banks, the same word to any number of lanes.
static uint64_t passes(const uintptr_t* words, size_t count) {
  uintptr_t by_bank[32][128];
  size_t of_bank[32] = {}, most = 1;
  for (size_t i = 0; i < count; ++i) {
    const size_t bank = words[i] % 32;
    uintptr_t* begin = by_bank[bank];
    if (std::find(begin, begin + of_bank[bank], words[i]) == begin + of_bank[bank])
      begin[of_bank[bank]++] = words[i];
    most = std::max(most, of_bank[bank]);
  }
  return most;
}

// Wide accesses go 128 bytes at a time: half a warp of 8 bytes, a quarter of 16.
static void count_shared(Counters& c, const Request& request, const Instruction& i) {
  const int together = static_cast<int>(std::max<size_t>(1, 32 / std::max<size_t>(1, i.bytes / 4)));
  ++c.shared_requests;
  for (int first = 0; first < 32; first += together) {
    uintptr_t words[128];
    size_t count = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if (!(request.lanes >> lane & 1)) continue;
      (i.write ? c.shared_write_bytes : c.shared_read_bytes) += i.bytes;
      const uintptr_t last = (request.address[lane] + i.bytes - 1) / 4;
      for (uintptr_t word = request.address[lane] / 4; word <= last && count < 128; ++word)
        words[count++] = word;
    }
    c.bank_conflicts += passes(words, count) - 1;
  }
}

void count_access(Worker* w, bool shared, uintptr_t address, size_t bytes, bool write,
                  const void* instruction) {
  const Thread* thread = current();
  Traffic& traffic = w->traffic[thread->warp];
  Instruction& i = (shared ? traffic.shared : traffic.global)[instruction];
  i.bytes = static_cast<uint32_t>(bytes);
  i.write = write;
  const uint32_t k = i.executed[thread->lane]++;
  while (i.requests.size() <= k) i.requests.push_back({{}, 0});
  Request& request = i.requests[k];
  request.address[thread->lane] = address;
  request.lanes |= 1u << thread->lane;
}

void flush_traffic(Worker* w, unsigned warp) {
  Traffic& traffic = w->traffic[warp];
  for (auto& [_, i] : traffic.global)
    for (const Request& request : i.requests) count_global(w->counters, request, i);
  for (auto& [_, i] : traffic.shared)
    for (const Request& request : i.requests) count_shared(w->counters, request, i);
  traffic.global.clear();
  traffic.shared.clear();
}

// A model's accesses that a lane makes for itself are requests like others. Those of TMA and wgmma
// come in units of 16 bytes, and are no bank conflicts; a box asks once for the sector of two units.
void count_by_model(Worker* w, bool shared, uintptr_t address, size_t bytes, bool write,
                    const void* instruction) {
  if (!w->issued || w->of_lane) return count_access(w, shared, address, bytes, write, instruction);
  Counters& c = w->counters;
  if (shared) {
    (write ? c.shared_write_bytes : c.shared_read_bytes) += bytes;
    return;
  }
  const uintptr_t first = address / 32, last = (address + bytes - 1) / 32;
  const uint64_t sectors = last - first + (first != w->last_sector);
  w->last_sector = last;
  (write ? c.global_write_bytes : c.global_read_bytes) += bytes;
  (write ? c.global_write_sectors : c.global_read_sectors) += sectors;
}

void count_mma(Mma kind, uint64_t flops) {
  worker->counters.mma_flops[static_cast<int>(kind)] += flops;
}

void count_special_function() { ++worker->counters.special_functions; }

}  // namespace emulator
