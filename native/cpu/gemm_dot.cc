// SPDX-License-Identifier: Apache-2.0
// Products of few rows as dot products: what generation, prompts of a few tokens and low-rank adapters need. The rows of b
// are read once, straight from memory.
#include "gemm.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// B: float, or uint16_t for bfloat16.
template <int kRows, int kCols, class B>
inline void dot_sums(int64_t k, const float* a, int64_t a_stride, const B* b, int64_t b_stride, Vec (&sum)[kRows][kCols]) {
  const auto step = [&](auto load_lanes) {
    Vec av[kRows];
    MAMBATUNE_UNROLL
    for (int i = 0; i < kRows; ++i) av[i] = load_lanes(a + i * a_stride);
    MAMBATUNE_UNROLL
    for (int j = 0; j < kCols; ++j) {
      const Vec bv = load_lanes(b + j * b_stride);
      MAMBATUNE_UNROLL
      for (int i = 0; i < kRows; ++i) sum[i][j] += av[i] * bv;
    }
  };
  for (; k >= kWidth; k -= kWidth) {
    step([](const auto* p) { return load(p); });
    a += kWidth;
    b += kWidth;
  }
  if (k > 0) step([k](const auto* p) { return load_partial(p, static_cast<int>(k)); });
}

template <int kRows, int kCols, class B>
void dot_tile(const DotParams& d, const B* b, int64_t row, int64_t col) {
  Vec sum[kRows][kCols] = {};
  dot_sums<kRows, kCols>(d.k, d.a + row * d.a_row_stride, d.a_row_stride, b + col * d.b_row_stride, d.b_row_stride, sum);
  if (d.k2 > 0) {
    dot_sums<kRows, kCols>(d.k2, d.a2 + row * d.a2_row_stride, d.a2_row_stride, d.b2 + col * d.b2_row_stride, d.b2_row_stride, sum);
  }
  MAMBATUNE_UNROLL
  for (int i = 0; i < kRows; ++i) {
    MAMBATUNE_UNROLL
    for (int j = 0; j < kCols; ++j) {
      float* c = d.c + (row + i) * d.c_row_stride + (col + j) * d.c_col_stride;
      const float base = d.accumulate ? *c : d.bias ? d.bias[col + j] : 0;
      *c = base + sum_lanes(sum[i][j]);
    }
  }
}

// All rows of a against the columns [begin, end), kCols at once: those rows of b stay in the first-level cache meanwhile.
template <int kMaxRows, int kCols, class B>
void dot_columns(const DotParams& d, const B* b, int64_t begin, int64_t end) {
  int64_t j = begin;
  for (; j + kCols <= end; j += kCols) {
    for (int64_t i = 0; i < d.m; i += kMaxRows) {
      const int64_t rows = min(kMaxRows, d.m - i);
      if constexpr (kMaxRows == 4) {
        if (rows == 4) dot_tile<4, kCols>(d, b, i, j);
        if (rows == 3) dot_tile<3, kCols>(d, b, i, j);
      }
      if constexpr (kMaxRows >= 2) {
        if (rows == 2) dot_tile<2, kCols>(d, b, i, j);
      }
      if (rows == 1) dot_tile<1, kCols>(d, b, i, j);
    }
  }
  if constexpr (kCols > 1) {
    if (j < end) dot_columns<kMaxRows, 1>(d, b, j, end);
  }
}

// As many sums at once as there are registers for.
template <class B>
void dot_columns(const DotParams& d, const B* b, int64_t begin, int64_t end) {
#if defined(__AVX512F__)
  constexpr int kColsOfTwo = 8, kColsOfFour = 6;
#else
  constexpr int kColsOfTwo = 4, kColsOfFour = 2;
#endif
  if (d.m == 1) {
    dot_columns<1, 8>(d, b, begin, end);
  } else if (d.m == 2) {
    dot_columns<2, kColsOfTwo>(d, b, begin, end);
  } else {
    dot_columns<4, kColsOfFour>(d, b, begin, end);
  }
}

constexpr int64_t kDotTaskFloats = 16384;  // of b: 64 KiB
constexpr double kMinDotTaskFlops = 2e5;

}  // namespace

void gemm_dot(const DotParams& d) {
  const double flops = 2.0 * static_cast<double>(d.m) * static_cast<double>(d.n) * static_cast<double>(d.k + d.k2);
  const int64_t cols = flops < kMinDotTaskFlops ? d.n : ceil_div(kDotTaskFloats / (d.k + d.k2 + 1), 24) * 24 + 24;
  parallel_for(ceil_div(d.n, cols), [&](int64_t task, int) {
    const int64_t begin = task * cols, end = min(d.n, begin + cols);
    d.b_bfloat16 ? dot_columns(d, d.b_bfloat16, begin, end) : dot_columns(d, d.b, begin, end);
  });
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
