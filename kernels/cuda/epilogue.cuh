// The way of a tile of results from the registers of a matrix product into memory, for every family
// of kernels that uses tensor cores: registers -> shared memory -> rows of 16 bytes.
//
//   StagedTile<Storage, TILE_M, TILE_N> tile(shared);
//   Team::sync();                                  shared memory is no longer in use
//   tile.put(row, column, sum, next_sum);          by all threads, for all their pairs of results
//   Team::sync();
//   store_moments<Team>(tile, ...);                where asked for
//   store_tile<Team>(tile, y, rows, columns, fused);
//
// with y = activation(rounded(sums + bias) + residual): what the separate ops would give, bit by
// bit. The bias is added before put(). The moments are those of rounded(sums + bias), which is what
// a batch-norm would see.
//
// The results of a dgrad may go on through GradientTile instead, see Below.
#pragma once

#include "normalized.cuh"
#include "ptx.cuh"

// The threads that finish a tile together: those of the block. Another team has the same members.
struct Block {
  static constexpr int THREADS = BLOCK;
  static __device__ __forceinline__ int thread() { return threadIdx.x; }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
};

// Rounds and stores two results side by side.
__device__ __forceinline__ void store_pair(float* p, float a, float b) {
  store_pack<2>(p, Pack<float, 2>{{a, b}});
}
__device__ __forceinline__ void store_pair(bfloat16* p, float a, float b) {
  *reinterpret_cast<unsigned*>(p) = pack_bfloat16x2(a, b);
}

// A tile of results in shared memory, without bank conflicts when a warp stores the pairs of a
// matrix fragment (8 rows x 8 columns) and when it reads rows: the runs of 8 columns of a 128-byte
// line are exchanged by the row's number.
template <typename T, int ROWS, int COLUMNS>
class StagedTile {
  static constexpr int RUN = 8, RUNS = 128 / (RUN * sizeof(T));
  static_assert(COLUMNS % (RUN * RUNS) == 0, "rows are whole lines of 128 bytes");

  T* numbers_;

 public:
  typedef T Number;
  static constexpr int HEIGHT = ROWS, WIDTH = COLUMNS;
  static constexpr int BYTES = ROWS * COLUMNS * sizeof(T);

  // `shared`: BYTES of shared memory on a multiple of 128.
  __device__ __forceinline__ explicit StagedTile(void* shared)
      : numbers_(static_cast<T*>(shared)) {}

  // Of an element and of those right of it in its run of 8.
  __device__ __forceinline__ T* at(int row, int column) const {
    return numbers_ + row * COLUMNS + ((column / RUN) ^ (row % RUNS)) * RUN + column % RUN;
  }
  // Rounds two results side by side; `column` is even.
  __device__ __forceinline__ void put(int row, int column, float a, float b) const {
    store_pair(at(row, column), a, b);
  }
};

enum Activation { NO_ACTIVATION, RELU };

// What is done to results on their way out. `residual` lies as the result does; null: none.
struct Fused {
  const Storage* residual;
  int activation;

  template <typename T, int N>
  __device__ __forceinline__ void apply(Pack<T, N>& results, long long offset, int count) const {
    if (residual != nullptr) {
      const Pack<Storage, N> added = load_up_to<N>(residual + offset, count);
#pragma unroll
      for (int i = 0; i < N; ++i)
        results.at[i] = to_storage<T>(to_real(results.at[i]) + to_real(added.at[i]));
    }
    if (activation == RELU) {
#pragma unroll
      for (int i = 0; i < N; ++i)
        if (to_real(results.at[i]) < 0) results.at[i] = to_storage<T>(0.0f);
    }
  }
};

constexpr long long NO_ROW = -1;

// Rows that are evenly spaced in memory; `first` is the place of the first one.
struct EvenRows {
  long long first;
  int count, pitch;

  __device__ __forceinline__ long long offset(int row) const {
    return row < count ? first + static_cast<long long>(row) * pitch : NO_ROW;
  }
};

// Stores a staged tile. rows.offset(i) is where row i goes, at the tile's first column, counted in
// elements from `to`, or NO_ROW; the first `columns` columns of the tile are there.
template <class Team, class Tile, class Rows>
__device__ __forceinline__ void store_tile(const Tile& tile, typename Tile::Number* to,
                                           const Rows& rows, int columns, const Fused& fused) {
  constexpr int N = 16 / sizeof(typename Tile::Number), PACKS = Tile::WIDTH / N;
  static_assert(Tile::HEIGHT * PACKS % Team::THREADS == 0, "every thread has as many packs");
#pragma unroll 4
  for (int i = Team::thread(); i < Tile::HEIGHT * PACKS; i += Team::THREADS) {
    const int row = i / PACKS, column = i % PACKS * N, count = columns - column;
    const long long offset = rows.offset(row);
    if (offset == NO_ROW || count <= 0) continue;
    auto results = load_pack<N>(tile.at(row, column));
    fused.apply(results, offset + column, count);
    store_up_to<N>(to + offset + column, results, count);
  }
}

// The mean of each column of a staged tile, and the sum of the squared deviations from it, over its
// first `rows` rows: to means[column], squares[column] for the first `columns` columns.
template <class Team, class Tile>
class Moments {
  static constexpr int PAIRS = Tile::WIDTH / 2, PARTS = Team::THREADS / PAIRS;
  static_assert(PARTS >= 1 && Team::THREADS % PAIRS == 0, "a thread has two columns at a time");

  const Tile& tile_;
  int rows_, column_, part_;
  float* scratch_;

  // The sums of f(number, i) over the rows, of both columns i, the same in all their threads.
  template <class F>
  __device__ __forceinline__ Pack<float, 2> sum(F f) const {
    Pack<float, 2> sums = {{0, 0}};
#pragma unroll 4
    for (int row = part_; row < rows_; row += PARTS) {
      const auto numbers = load_pack<2>(tile_.at(row, column_));
#pragma unroll
      for (int i = 0; i < 2; ++i) sums.at[i] += f(to_real(numbers.at[i]), i);
    }
    if (PARTS == 1) return sums;
    Team::sync();  // the last sums have been read
    store_pack<2>(scratch_ + part_ * Tile::WIDTH + column_, sums);
    Team::sync();
    sums = load_pack<2>(scratch_ + column_);
#pragma unroll
    for (int part = 1; part < PARTS; ++part) {
      const auto more = load_pack<2>(scratch_ + part * Tile::WIDTH + column_);
#pragma unroll
      for (int i = 0; i < 2; ++i) sums.at[i] += more.at[i];
    }
    return sums;
  }

 public:
  static constexpr int SCRATCH = 2 * Team::THREADS;  // floats of shared memory

  __device__ __forceinline__ Moments(const Tile& tile, int rows, float* scratch)
      : tile_(tile),
        rows_(min(rows, Tile::HEIGHT)),
        column_(Team::thread() % PAIRS * 2),
        part_(Team::thread() / PAIRS),
        scratch_(scratch) {}

  __device__ __forceinline__ void store(float* means, float* squares, int columns) const {
    Pack<float, 2> mean = sum([](float v, int) { return v; });
#pragma unroll
    for (int i = 0; i < 2; ++i) mean.at[i] /= rows_;
    const Pack<float, 2> square = sum([&](float v, int i) {
      const float deviation = v - mean.at[i];
      return deviation * deviation;
    });
    if (part_ != 0) return;
    store_up_to<2>(means + column_, mean, columns - column_);
    store_up_to<2>(squares + column_, square, columns - column_);
  }
};

// What becomes of a dgrad's results, gradients of x: the addend is added, which x has for a gradient
// from elsewhere. Where x is activation(batch_norm(normalized) + residual), they go back through the
// activation too, which gives g, and the sums of g and g * (normalized - mean) are taken of each
// tile of rows and channel. All that the separate ops would give, bit by bit, but for the sums'
// order. Images lie as x does, signs as batch_norm.cu says; null: there is none.
struct Below {
  const Storage *addend, *normalized;
  const unsigned char* signs;  // of x, where a residual keeps it from being computed again
  const double *mean, *inv_std;
  const Real *weight, *bias;
  int activation;
  float *sums, *products;

  __device__ __forceinline__ bool given() const {
    return addend != nullptr || normalized != nullptr;
  }
};

struct NormalizedChannel {
  TwoReals mean;
  Real scale, shift;

  __device__ __forceinline__ static NormalizedChannel of(const Below& below, int channel) {
    const double scale = below.inv_std[channel] * below.weight[channel];
    return {two_reals(below.mean[channel]), static_cast<Real>(scale), below.bias[channel]};
  }
};

// Stores a staged tile of a dgrad's results, whose memory it then uses otherwise; see Below.
template <class Team, class Tile>
class GradientTile {
  typedef typename Tile::Number Number;
  static constexpr int N = 16 / sizeof(Number), PACKS = Tile::WIDTH / N;
  static constexpr int LINES = Team::THREADS / PACKS;  // rows at a time
  static_assert(Team::THREADS % PACKS == 0, "a thread keeps its columns");
  static_assert(2 * LINES * Tile::WIDTH * sizeof(float) <= Tile::BYTES, "sums take its place");

  const Tile& tile_;
  const Below& below_;
  NormalizedChannel* const shared_;
  int line_, column_;

  // Turns results into g and adds it up.
  __device__ __forceinline__ void step_back(Pack<Number, N>& results, long long offset, int count,
                                            const NormalizedChannel (&channels)[N], float (&sum)[N],
                                            float (&product)[N]) const {
    const Pack<Storage, N> values = load_up_to<N>(below_.normalized + offset, count);
    const unsigned bits = below_.signs != nullptr ? below_.signs[offset / N] : 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const NormalizedChannel& channel = channels[i];
      const Real value = centered(to_real(values.at[i]), channel.mean);
      const bool positive = below_.signs != nullptr
                                ? bits >> i & 1
                                : normalized(value, channel.scale, channel.shift) > 0;
      if (below_.activation == RELU && !positive) results.at[i] = Number();
      const Real g = to_real(results.at[i]);
      sum[i] += g;
      product[i] += g * value;
    }
  }

  // Of all rows, by the sums of each line.
  __device__ __forceinline__ void store_sums(const float (&sum)[N], const float (&product)[N],
                                             long long to, int columns) const {
    constexpr int SUMS = LINES * Tile::WIDTH;
    float* const scratch = reinterpret_cast<float*>(tile_.at(0, 0));
    Team::sync();  // the tile has been read
#pragma unroll
    for (int i = 0; i < N; ++i) {
      scratch[line_ * Tile::WIDTH + column_ + i] = sum[i];
      scratch[SUMS + line_ * Tile::WIDTH + column_ + i] = product[i];
    }
    Team::sync();
    for (int i = Team::thread(); i < 2 * Tile::WIDTH; i += Team::THREADS) {
      const bool first = i < Tile::WIDTH;
      const int column = i % Tile::WIDTH;
      if (column >= columns) continue;
      float total = 0;
#pragma unroll
      for (int line = 0; line < LINES; ++line)
        total += scratch[(first ? 0 : SUMS) + line * Tile::WIDTH + column];
      (first ? below_.sums : below_.products)[to + column] = total;
    }
  }

 public:
  // `shared` is shared memory for WIDTH channels.
  __device__ __forceinline__ GradientTile(const Tile& tile, const Below& below,
                                          NormalizedChannel* shared)
      : tile_(tile),
        below_(below),
        shared_(shared),
        line_(Team::thread() / PACKS),
        column_(Team::thread() % PACKS * N) {}

  // As store_tile. The first column of the tile is `channel` of `channels`; its rows are part `part`
  // of all.
  template <class Rows>
  __device__ __forceinline__ void store(Number* to, const Rows& rows, int columns, int channel,
                                        int channels, long long part) const {
    NormalizedChannel own[N] = {};
    if (below_.normalized != nullptr) {
      for (int i = Team::thread(); i < Tile::WIDTH; i += Team::THREADS)
        shared_[i] = i < columns ? NormalizedChannel::of(below_, channel + i) : NormalizedChannel();
      Team::sync();
#pragma unroll
      for (int i = 0; i < N; ++i) own[i] = shared_[column_ + i];
    }
    float sum[N] = {}, product[N] = {};
    const int count = columns - column_;
#pragma unroll 2
    for (int row = line_; row < Tile::HEIGHT; row += LINES) {
      const long long first = rows.offset(row), offset = first + column_;
      if (first == NO_ROW || count <= 0) continue;
      auto results = load_pack<N>(tile_.at(row, column_));
      Fused{below_.addend, NO_ACTIVATION}.apply(results, offset, count);
      if (below_.normalized != nullptr) step_back(results, offset, count, own, sum, product);
      store_up_to<N>(to + offset, results, count);
    }
    if (below_.normalized != nullptr) store_sums(sum, product, part * channels + channel, columns);
  }
};
