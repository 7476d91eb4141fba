// y[i] = x[i] * m[i], m[i] = scale where bits(i) >= threshold, else 0: forward and backward of
// dropout. i counts the elements in C order of the public shape; bits(i) is the upper 24 bits of
// word i of the ticket's stream. A product with 0, so that a NaN stays visible where it is dropped.
#include "../cuda/philox.cuh"

constexpr int PACK = sizeof(Storage) == 8 ? 2 : 4;  // neighbours that a thread moves at once

__device__ __forceinline__ Storage masked(Storage x, unsigned word, unsigned threshold,
                                          Real scale) {
  return to_storage<Storage>(to_real(x) * (word >> 8 >= threshold ? scale : Real(0)));
}

// The above, where x and y are C-contiguous.
//
// Mapping   a thread takes the 4 neighbours of one counter; in float64 half of them, 16 bytes.
// Traffic   reads = STORAGE_BYTES * count + 64 * GRID * (BLOCK // 32)
//           writes = STORAGE_BYTES * count
//           64 bytes a warp are the ticket: two words, one address for all lanes.
// Roofline  70 integer instructions for 4 elements read and written: bound by memory.
// Limits    x and y may lie at any address; on multiples of 16 bytes they move in packs.
// Source    Srivastava et al. 2014; the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    dropout_apply_contiguous(const Storage* __restrict__ x,
                             const unsigned long long* __restrict__ ticket, Storage* __restrict__ y,
                             int count, unsigned threshold, Real scale) {
  const long long first = global_thread() * PACK;
  if (first >= count) return;
  const unsigned long long counter = ticket[1] + static_cast<unsigned long long>(first / 4);
  const PhiloxWords words = philox(ticket[0], counter);
  Pack<Storage, PACK> v = load_up_to<PACK>(x + first, count - first);
#pragma unroll
  for (int i = 0; i < PACK; ++i) {
    const unsigned word = words.at[first % 4 == 0 ? i : (i + PACK) % 4];
    v.at[i] = masked(v.at[i], word, threshold, scale);
  }
  store_up_to(y + first, v, count - first);
}

struct ChannelsLast {
  int n, pixels, c;
};

// Words first, ..., first + 3 of the stream: of one counter, or of two where they straddle it.
__device__ __forceinline__ PhiloxWords four_words(unsigned long long key, unsigned long long offset,
                                                  unsigned first) {
  const unsigned long long counter = offset + first / 4;
  const unsigned skipped = first % 4;
  const PhiloxWords here = philox(key, counter);
  if (skipped == 0) return here;
  const PhiloxWords next = philox(key, counter + 1);
  PhiloxWords words;
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // word skipped + i of the eight, without an indexed array
    words.at[i] = next.at[i];
#pragma unroll
    for (int s = 1; s < 4; ++s)
      if (skipped == s) words.at[i] = i + s < 4 ? here.at[(i + s) % 4] : next.at[(i + s) % 4];
  }
  return words;
}

// The above, where memory is (n, pixels, c), the public shape (n, c, pixels): i = (image * c +
// channel) * pixels + pixel.
//
// Mapping   a thread takes 4 pixels of one channel, whose words follow each other; neighbouring
//           threads take neighbouring channels, so that a warp reads a run of memory for each.
// Traffic   reads = STORAGE_BYTES * n * pixels * c + 64 * GRID * (BLOCK // 32)
//           writes = STORAGE_BYTES * n * pixels * c
// Roofline  150 integer instructions for 4 elements where pixels is no multiple of 4 (words of two
//           counters), else 80: bound by memory, in bfloat16 near the balance.
// Limits    full sectors where c is a multiple of 8 (of 16 in bfloat16).
// Source    the definition.
extern "C" __global__ void __launch_bounds__(BLOCK)
    dropout_apply_channels_last(const Storage* __restrict__ x,
                                const unsigned long long* __restrict__ ticket,
                                Storage* __restrict__ y, ChannelsLast size, unsigned threshold,
                                Real scale) {
  const unsigned c = size.c, pixels = size.pixels, runs = ceil_div(size.pixels, 4);
  const unsigned thread = static_cast<unsigned>(global_thread());  // below 2^31 + BLOCK
  const unsigned channel = thread % c, column = thread / c;
  const unsigned image = column / runs, pixel = column % runs * 4;
  if (image >= static_cast<unsigned>(size.n)) return;
  const unsigned first = (image * c + channel) * pixels + pixel;
  const PhiloxWords words = four_words(ticket[0], ticket[1], first);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (pixel + i >= pixels) break;
    const unsigned at = (image * pixels + pixel + i) * c + channel;
    y[at] = masked(x[at], words.at[i], threshold, scale);
  }
}
