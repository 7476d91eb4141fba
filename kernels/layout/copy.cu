// Copies of strided arrays, bit by bit: of any type, as words of its size.
#include "../cuda/strided.cuh"

#ifndef WORD
#define WORD unsigned
#endif
typedef WORD Word;

// layout_copy_direct: y = x
//
// Mapping   one thread for 16 bytes where packed, else for one element, in the order of y
// Traffic   reads = WORD_BYTES * count * max(min(a[0], 1), 1 / 16)
//           writes = WORD_BYTES * count
//           packed; of one element repeated, a warp that writes 512 bytes reads a sector
// Roofline  memory bound
// Limits    x and y do not overlap; where x is transposed, a warp reads a sector for each element
// Source    numpy.copyto
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_copy_direct(const Word* __restrict__ x, Word* __restrict__ y, Strided size) {
  for_each(size, [](Word v) { return v; }, y, x);
}

// Elements of a tile in shared memory, rows padded; on_cuda.py chooses tiles that fit.
#define TILE_WORDS 3104

// Arrays of a matrix (p, q) for each element of a space `rest`: x is contiguous, or nearest to it,
// along p, y along q.
struct Transposed {
  int p, q;            // lengths
  int p_tile, q_tile;  // of a tile
  int pitch;           // of its rows of p_tile in shared memory
  int x_p, x_q;        // strides in elements
  int y_p, y_q;
};

// layout_copy_tiled: y = x where their orders of memory differ, as N C H W and N H W C do
//
// Mapping   a block moves one tile through shared memory: it reads along p and writes along q, with
//           all threads in line, so that tiles of few long rows, as of 3 channels, coalesce too
// Traffic   reads = WORD_BYTES * p * q * count
//           writes = WORD_BYTES * p * q * count
//           where p and q, or the tiles, are multiples of 32 bytes
// Roofline  memory bound
// Limits    x and y do not overlap; q_tile * pitch <= TILE_WORDS
// Source    Ruetsch and Micikevicius 2009, Optimizing matrix transpose in CUDA
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layout_copy_tiled(const Word* __restrict__ x, Word* __restrict__ y, Transposed matrix,
                      Strided rest) {
  __shared__ Word tile[TILE_WORDS];
  const unsigned q_tiles = ceil_div(matrix.q, matrix.q_tile);
  const unsigned p_tiles = ceil_div(matrix.p, matrix.p_tile);
  const unsigned block = blockIdx.x;
  const int q_first = block % q_tiles * matrix.q_tile;
  const int p_first = block / q_tiles % p_tiles * matrix.p_tile;
  const int q_count = min(matrix.q_tile, matrix.q - q_first);
  const int p_count = min(matrix.p_tile, matrix.p - p_first);

  Operand<const Word> from{x, rest.a};
  Operand<Word> to{y, rest.y};
  move_to(block / q_tiles / p_tiles, rest, from, to);

  for (int i = threadIdx.x; i < p_count * q_count; i += BLOCK) {
    const int p = i % p_count, q = i / p_count;
    tile[q * matrix.pitch + p] = from.at[static_cast<long long>(p_first + p) * matrix.x_p +
                                         static_cast<long long>(q_first + q) * matrix.x_q];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p_count * q_count; i += BLOCK) {
    const int p = i / q_count, q = i % q_count;
    to.at[static_cast<long long>(p_first + p) * matrix.y_p +
          static_cast<long long>(q_first + q) * matrix.y_q] = tile[q * matrix.pitch + p];
  }
}
