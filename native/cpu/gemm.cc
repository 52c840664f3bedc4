// SPDX-License-Identifier: Apache-2.0
// The product is cut into blocks of c, one task each; a task packs the blocks of a and b that it needs into its thread's
// scratch memory (it stays in the second-level cache) and runs over them with a register-tiled kernel.
#include "gemm.h"

#include <cstring>

#include "memory.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a row-major tile of a lie an odd number of cache lines apart, so that they fall into different cache sets.
constexpr int64_t kTileRowStride = kMaxBlockK + 16;
constexpr int64_t kTileFloats = kTileRows * kTileRowStride;

// Part `i` of `parts` nearly equal parts of `total`, in whole units: the start of it.
inline int64_t part_start(int64_t total, int64_t parts, int64_t i) {
  const int64_t extra = total % parts;
  return total / parts * i + min(i, extra);
}

// ---- register tile

template <int kRows, int kVectors, bool kTransposed>
void tile(int64_t k, const float* a, const float* b, int64_t b_stride, float* c, int64_t c_stride, const float* init,
          int64_t init_stride) {
  Vec sum[kRows][kVectors];
  MAMBATUNE_UNROLL
  for (int i = 0; i < kRows; ++i) {
    MAMBATUNE_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = init ? load(init + i * init_stride + j * kWidth) : Vec{};
    }
  }
  for (int64_t p = 0; p < k; ++p) {
    Vec bv[kVectors];
    MAMBATUNE_UNROLL
    for (int j = 0; j < kVectors; ++j) bv[j] = load(b + j * kWidth);
    MAMBATUNE_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const float ai = kTransposed ? a[i] : a[i * kTileRowStride];
      MAMBATUNE_UNROLL
      for (int j = 0; j < kVectors; ++j) sum[i][j] += ai * bv[j];
    }
    a += kTransposed ? kRows : 1;
    b += b_stride;
  }
  MAMBATUNE_UNROLL
  for (int i = 0; i < kRows; ++i) {
    MAMBATUNE_UNROLL
    for (int j = 0; j < kVectors; ++j) store(c + i * c_stride + j * kWidth, sum[i][j]);
  }
}

using Tile = void (*)(int64_t, const float*, const float*, int64_t, float*, int64_t, const float*, int64_t);

template <int kRows, int kVectors, bool kTransposed>
Tile tile_for(int rows) {
  if constexpr (kRows > 1) {
    if (rows != kRows) return tile_for<kRows - 1, kVectors, kTransposed>(rows);
  }
  return tile<kRows, kVectors, kTransposed>;
}

Tile tile_for(int rows, bool wide, bool transposed) {
  if (transposed) return wide ? tile_for<kTileRows, 2, true>(rows) : tile_for<kTileRows, 1, true>(rows);
  return wide ? tile_for<kTileRows, 2, false>(rows) : tile_for<kTileRows, 1, false>(rows);
}

// A tile of which only `cols` columns exist.
void edge_tile(Tile kernel, int rows, int64_t cols, int64_t k, const float* a, const float* b, int64_t b_stride, float* c,
               int64_t c_stride, const float* init, int64_t init_stride) {
  alignas(64) float block[kTileRows * kTileCols] = {};
  if (init) {
    for (int i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) block[i * kTileCols + j] = init[i * init_stride + j];
    }
  }
  kernel(k, a, b, b_stride, block, kTileCols, init ? block : nullptr, kTileCols);
  for (int i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) c[i * c_stride + j] = block[i * kTileCols + j];
  }
}

// One panel of b (cols <= kTileCols) times all tiles of a.
void multiply_panel(int64_t m, int64_t cols, int64_t k, const float* a, bool a_transposed, const float* b, int64_t b_stride,
                    float* c, int64_t c_stride, const float* init, int64_t init_stride) {
  const int64_t tiles = ceil_div(m, kTileRows);
  const bool wide = cols > kWidth;
  const bool whole = cols == kTileCols || cols == kWidth;
  Tile kernel = nullptr;
  int kernel_rows = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t row = part_start(m, tiles, t);
    const int rows = static_cast<int>(part_start(m, tiles, t + 1) - row);
    if (rows != kernel_rows) {
      kernel = tile_for(rows, wide, a_transposed);
      kernel_rows = rows;
    }
    const float* tile_init = init ? init + row * init_stride : nullptr;
    if (whole) {
      kernel(k, a + t * kTileFloats, b, b_stride, c + row * c_stride, c_stride, tile_init, init_stride);
    } else {
      edge_tile(kernel, rows, cols, k, a + t * kTileFloats, b, b_stride, c + row * c_stride, c_stride, tile_init, init_stride);
    }
  }
}

// ---- packing

#if defined(__clang__)
#define MAMBATUNE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MAMBATUNE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (IntVec){__VA_ARGS__})
#endif

inline Vec zip_low(Vec a, Vec b) {
#if defined(__AVX512F__)
  return MAMBATUNE_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(__AVX2__)
  return MAMBATUNE_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return MAMBATUNE_SHUFFLE(a, b, 0, 4, 1, 5);
#endif
}

inline Vec zip_high(Vec a, Vec b) {
#if defined(__AVX512F__)
  return MAMBATUNE_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  return MAMBATUNE_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return MAMBATUNE_SHUFFLE(a, b, 2, 6, 3, 7);
#endif
}

// Zipping row i with row i + half, log2(lanes) times, transposes the square block.
inline void transpose(Vec (&v)[kWidth]) {
  constexpr int half = kWidth / 2;
  MAMBATUNE_UNROLL
  for (int stage = 1; stage < kWidth; stage *= 2) {
    Vec next[kWidth];
    MAMBATUNE_UNROLL
    for (int i = 0; i < half; ++i) {
      next[2 * i] = zip_low(v[i], v[i + half]);
      next[2 * i + 1] = zip_high(v[i], v[i + half]);
    }
    MAMBATUNE_UNROLL
    for (int i = 0; i < kWidth; ++i) v[i] = next[i];
  }
}

// packed[p * width + j] = b[j * row_stride + p] for j < cols, 0 for the other lanes of the vector.
void pack_transposed_lanes(const float* b, int64_t row_stride, int64_t cols, int64_t k, float* packed, int64_t width) {
  int64_t p = 0;
  if (cols == kWidth) {
    for (; p + kWidth <= k; p += kWidth) {
      Vec v[kWidth];
      MAMBATUNE_UNROLL
      for (int j = 0; j < kWidth; ++j) v[j] = load(b + j * row_stride + p);
      transpose(v);
      MAMBATUNE_UNROLL
      for (int j = 0; j < kWidth; ++j) store(packed + (p + j) * width, v[j]);
    }
  }
  for (; p < k; p += kWidth) {
    const int count = static_cast<int>(min(kWidth, k - p));
    Vec v[kWidth];
    for (int j = 0; j < kWidth; ++j) v[j] = j < cols ? load_partial(b + j * row_stride + p, count) : Vec{};
    transpose(v);
    for (int j = 0; j < count; ++j) store(packed + (p + j) * width, v[j]);
  }
}

inline int64_t panel_width(int64_t cols) { return cols > kWidth ? kTileCols : kWidth; }

}  // namespace

int64_t packed_a_floats(int64_t rows) { return ceil_div(rows, kTileRows) * kTileFloats; }

int64_t packed_b_floats(int64_t cols, int64_t k) { return ceil_div(cols, kTileCols) * kTileCols * k; }

void pack_a(const Operand& a, int64_t row, int64_t rows, int64_t k0, int64_t k, int64_t at, float* packed) {
  const int64_t tiles = ceil_div(rows, kTileRows);
  if (!a.transposed) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t start = part_start(rows, tiles, t), end = part_start(rows, tiles, t + 1);
      for (int64_t i = start; i < end; ++i) {
        std::memcpy(packed + t * kTileFloats + (i - start) * kTileRowStride + at, a.data + (row + i) * a.row_stride + k0,
                    static_cast<size_t>(k) * sizeof(float));
      }
    }
    return;
  }
  for (int64_t p = 0; p < k; ++p) {
    const float* from = a.data + (k0 + p) * a.row_stride + row;
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t start = part_start(rows, tiles, t), count = part_start(rows, tiles, t + 1) - start;
      float* to = packed + t * kTileFloats + (at + p) * count;
      for (int64_t i = 0; i < count; ++i) to[i] = from[start + i];
    }
  }
}

void pack_b(const Operand& b, int64_t col, int64_t cols, int64_t k0, int64_t k, int64_t at, int64_t block_k, float* packed) {
  if (b.transposed) {
    for (int64_t j = 0; j < cols; j += kTileCols) {
      const int64_t width = panel_width(cols - j);
      float* panel = packed + j * block_k + at * width;
      for (int64_t lane = 0; lane < width; lane += kWidth) {
        pack_transposed_lanes(b.data + (col + j + lane) * b.row_stride + k0, b.row_stride, min(kWidth, cols - j - lane), k,
                              panel + lane, width);
      }
    }
    return;
  }
  const int64_t whole = cols / kTileCols * kTileCols;
  const int64_t width = panel_width(cols - whole);
  for (int64_t p = 0; p < k; ++p) {
    const float* from = b.data + (k0 + p) * b.row_stride + col;
    float* to = packed + (at + p) * kTileCols;
    for (int64_t j = 0; j < whole; j += kTileCols) {
      store(to + j * block_k, load(from + j));
      store(to + j * block_k + kWidth, load(from + j + kWidth));
    }
    if (whole < cols) {
      float* last = packed + whole * block_k + (at + p) * width;
      for (int64_t j = 0; j < width; ++j) last[j] = whole + j < cols ? from[whole + j] : 0;
    }
  }
}

void multiply_packed(int64_t m, int64_t n, int64_t k, const float* a, bool a_transposed, const float* b, float* c,
                     int64_t c_row_stride, const float* init, int64_t init_row_stride) {
  for (int64_t j = 0; j < n; j += kTileCols) {
    const int64_t cols = min(kTileCols, n - j);
    multiply_panel(m, cols, k, a, a_transposed, b + j * k, panel_width(cols), c + j, c_row_stride, init ? init + j : nullptr,
                   init_row_stride);
  }
}

namespace {

// ---- the product by blocks

constexpr int64_t kMaxBlockRows = 20 * kTileRows;
constexpr int64_t kMaxBlockCols = 256;
constexpr double kMinTaskFlops = 1e6;

struct Blocking {
  int64_t row_blocks, col_blocks;  // of c; cut in whole tiles of columns
  int64_t k_blocks;
  bool second_in_last;  // the second product fits behind the last block of the first
};

Blocking choose_blocking(const GemmParams& g) {
  Blocking blocking;
  blocking.row_blocks = ceil_div(g.m, kMaxBlockRows);
  blocking.col_blocks = ceil_div(g.n, kMaxBlockCols);
  const double flops = 2.0 * static_cast<double>(g.batch * g.m) * static_cast<double>(g.n) * static_cast<double>(g.k + g.k2);
  const int64_t wanted = min(2 * thread_count(), static_cast<int64_t>(flops / kMinTaskFlops));
  const int64_t row_tiles = ceil_div(g.m, kTileRows), col_tiles = ceil_div(g.n, kTileCols);
  while (g.batch * blocking.row_blocks * blocking.col_blocks < wanted) {
    if (blocking.col_blocks * 2 <= col_tiles) {
      blocking.col_blocks *= 2;
    } else if (blocking.row_blocks * 4 <= row_tiles) {
      blocking.row_blocks *= 2;
    } else {
      break;
    }
  }
  blocking.k_blocks = ceil_div(g.k, kMaxBlockK);
  const int64_t last = blocking.k_blocks ? g.k - part_start(g.k, blocking.k_blocks, blocking.k_blocks - 1) : kMaxBlockK;
  blocking.second_in_last = g.k2 > 0 && last + g.k2 <= kMaxBlockK && g.a.transposed == g.a2.transposed;
  return blocking;
}

struct Block {
  int64_t row, rows, col, cols;
};

// c block (+)= a[:, k0 : k0 + k] b[k0 : k0 + k, :] (then the whole second product, when `with_second`).
void multiply_block(const GemmParams& g, const Block& block, const Operand& a, const Operand& b, int64_t k0, int64_t k,
                    bool with_second, float* c, const float* init, int64_t init_stride, float* scratch) {
  const int64_t block_k = k + (with_second ? g.k2 : 0);
  float* packed_a = scratch;
  float* packed_b = scratch + packed_a_floats(block.rows);
  pack_a(a, block.row, block.rows, k0, k, 0, packed_a);
  if (with_second) pack_a(g.a2, block.row, block.rows, 0, g.k2, k, packed_a);
  // A panel that is used once or twice is read where it lies.
  const bool direct = !b.transposed && !with_second && block.rows <= 2 * kTileRows;
  const int64_t direct_cols = direct ? block.cols / kTileCols * kTileCols : 0;
  for (int64_t j = 0; j < direct_cols; j += kTileCols) {
    multiply_panel(block.rows, kTileCols, k, packed_a, a.transposed, b.data + k0 * b.row_stride + block.col + j, b.row_stride,
                   c + j, g.c_row_stride, init ? init + j : nullptr, init_stride);
  }
  if (direct_cols == block.cols) return;
  const int64_t col = block.col + direct_cols, cols = block.cols - direct_cols;
  pack_b(b, col, cols, k0, k, 0, block_k, packed_b);
  if (with_second) pack_b(g.b2, col, cols, 0, g.k2, k, block_k, packed_b);
  multiply_packed(block.rows, cols, block_k, packed_a, a.transposed, packed_b, c + direct_cols, g.c_row_stride,
                  init ? init + direct_cols : nullptr, init_stride);
}

void run_block(const GemmParams& g, const Blocking& blocking, int64_t batch, const Block& block, float* scratch) {
  Operand a = g.a, b = g.b;
  a.data += batch * g.a_batch_stride;
  b.data += batch * g.b_batch_stride;
  float* c = g.c + batch * g.c_batch_stride + block.row * g.c_row_stride + block.col;
  const float* init = g.accumulate ? c : g.bias ? g.bias + block.col : nullptr;
  int64_t init_stride = g.accumulate ? g.c_row_stride : 0;
  const int64_t second_blocks = g.k2 > 0 && !blocking.second_in_last ? ceil_div(g.k2, kMaxBlockK) : 0;
  for (int64_t i = 0; i < blocking.k_blocks + second_blocks; ++i) {
    if (i < blocking.k_blocks) {
      const int64_t k0 = part_start(g.k, blocking.k_blocks, i), k = part_start(g.k, blocking.k_blocks, i + 1) - k0;
      const bool with_second = blocking.second_in_last && i + 1 == blocking.k_blocks;
      multiply_block(g, block, a, b, k0, k, with_second, c, init, init_stride, scratch);
    } else {
      const int64_t s = i - blocking.k_blocks, k0 = part_start(g.k2, second_blocks, s);
      const int64_t k = part_start(g.k2, second_blocks, s + 1) - k0;
      multiply_block(g, block, g.a2, g.b2, k0, k, false, c, init, init_stride, scratch);
    }
    init = c;
    init_stride = g.c_row_stride;
  }
}

void set_without_product(const GemmParams& g) {
  if (g.accumulate) return;
  for (int64_t s = 0; s < g.batch; ++s) {
    for (int64_t i = 0; i < g.m; ++i) {
      for (int64_t j = 0; j < g.n; ++j) g.c[s * g.c_batch_stride + i * g.c_row_stride + j] = g.bias ? g.bias[j] : 0;
    }
  }
}

// Takes the product as dot products where one side has few rows and both have their k contiguous. True when it did.
bool run_as_dots(const GemmParams& g) {
  const bool contiguous = !g.a.transposed && g.b.transposed && (g.k2 == 0 || (!g.a2.transposed && g.b2.transposed));
  if (!contiguous || g.batch != 1) return false;
  if (g.m <= kMaxDotRows) {
    gemm_dot({g.m, g.n, g.k, g.a.data, g.a.row_stride, g.b.data, g.b.row_stride, g.c, g.c_row_stride, 1, g.accumulate, g.bias,
              g.k2, g.a2.data, g.a2.row_stride, g.b2.data, g.b2.row_stride, g.b_bfloat16});
    return true;
  }
  if (g.n <= kWidth && !g.bias) {
    gemm_dot({g.n, g.m, g.k, g.b.data, g.b.row_stride, g.a.data, g.a.row_stride, g.c, 1, g.c_row_stride, g.accumulate, nullptr,
              g.k2, g.b2.data, g.b2.row_stride, g.a2.data, g.a2.row_stride});
    return true;
  }
  return false;
}

}  // namespace

Error gemm(const GemmParams& g) {
  if (g.m <= 0 || g.n <= 0 || g.batch <= 0) return nullptr;
  if (g.k <= 0 && g.k2 <= 0) {
    set_without_product(g);
    return nullptr;
  }
  if (run_as_dots(g)) return nullptr;
  const Blocking blocking = choose_blocking(g);
  const int64_t col_tiles = ceil_div(g.n, kTileCols);
  const int64_t most_rows = ceil_div(g.m, blocking.row_blocks), most_cols = ceil_div(col_tiles, blocking.col_blocks) * kTileCols;
  const size_t scratch_floats = static_cast<size_t>(packed_a_floats(most_rows) + packed_b_floats(most_cols, kMaxBlockK));
  bool out_of_memory = false;
  const int64_t blocks = blocking.row_blocks * blocking.col_blocks;
  parallel_for(g.batch * blocks, [&](int64_t task, int) {
    float* scratch = thread_scratch(scratch_floats);
    if (!scratch) {
      __atomic_store_n(&out_of_memory, true, __ATOMIC_RELAXED);
      return;
    }
    const int64_t i = task % blocks % blocking.row_blocks, j = task % blocks / blocking.row_blocks;
    Block block;
    block.row = part_start(g.m, blocking.row_blocks, i);
    block.rows = part_start(g.m, blocking.row_blocks, i + 1) - block.row;
    block.col = part_start(col_tiles, blocking.col_blocks, j) * kTileCols;
    block.cols = min(g.n, part_start(col_tiles, blocking.col_blocks, j + 1) * kTileCols) - block.col;
    run_block(g, blocking, task / blocks, block, scratch);
  });
  return out_of_memory ? out_of_memory_error(scratch_floats * sizeof(float)) : nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
