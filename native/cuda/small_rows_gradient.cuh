// SPDX-License-Identifier: Apache-2.0
// The gradient of one of an adapter's factors at up to some hundred rows, in one launch, which costs more than the bytes there.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int64_t kMostSmallRows = 512;  // whose factors a block keeps in shared memory

// out[k, j] = scale * col_scale[j] * sum_i row_scale[i] * small[i, k] * x[i, j]: [r, cols], or [cols, r] when `transposed`; x: [rows, cols]
// and small: [rows, r] with row strides, rows at most kMostSmallRows; row_scale: [rows] or null, col_scale: [cols] or null.
struct SmallRowsGradient {
  int64_t cols, r;
  const float* x;
  int64_t x_row_stride;
  const float* small;
  int64_t small_row_stride;
  float scale;
  float* out;
  bool transposed;
  const float* row_scale = nullptr;
  const float* col_scale = nullptr;
};
Error small_rows_gradient(int64_t rows, const SmallRowsGradient& p, const char* op);

}  // namespace cuda
}  // namespace mambatune
