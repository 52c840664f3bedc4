// SPDX-License-Identifier: Apache-2.0
// Products with a matrix of few rows or columns, in float32 whatever the precision of the large ones.
#pragma once
#include <cuda_bf16.h>

#include "dropout.cuh"

namespace mambatune {
namespace cuda {

// out[i, k] = sum_j dropout(x)[i, j] * factor[k, j]; x: [rows, cols] with a row stride, factor: [r, cols], out: [rows, r].
// With `widened` (float) or `widened_half`, of `width` columns, also: widened[i] = [x[i], widened_scale * out[i], 0 ...].
struct Projection {
  int64_t rows, cols, r;
  const float* x;
  int64_t x_row_stride;
  const float* factor;
  float* out;
  Dropout dropout;
  float* widened = nullptr;
  __nv_bfloat16* widened_half = nullptr;
  int64_t width = 0;
  float widened_scale = 1.0f;
};
Error project(const Projection& p, const char* op);

// out = scale * small^T dropout(x), [r, cols], or [cols, r] when `transposed`; small: [rows, r]. Sums over rows run in blocks of
// rows, added in order.
struct ProjectionGradient {
  int64_t rows, cols, r;
  const float* small;
  const float* x;
  int64_t x_row_stride;
  float scale;
  bool transposed;
  float* out;
  Dropout dropout;
};
Error project_gradient(const ProjectionGradient& p, const char* op);

// y[i, j] += bias[j] + dropout(i, j) * sum_k small[i, k] * factor[k, j]; y: [rows, cols], small: [rows, r], factor: [r, cols].
struct LowRankSum {
  int64_t rows, cols, r;
  const float* small;
  const float* factor;
  const float* bias;  // or null
  float* y;
  Dropout dropout;
};
Error add_low_rank(const LowRankSum& p, const char* op);

// to[cols, rows] = scale * from[rows, cols]^T, for a matrix of few columns.
Error scaled_transpose(const float* from, int64_t rows, int64_t cols, float scale, float* to, const char* op);

}  // namespace cuda
}  // namespace mambatune
