// SPDX-License-Identifier: Apache-2.0
// Products with a matrix of few rows or columns, in float32 whatever the precision of the large ones.
#pragma once
#include <cuda_bf16.h>

#include "dropout.cuh"

namespace mambatune {
namespace cuda {

// out[i, k] = sum_j dropout(x)[i, j] * factor[k, j]; x: [rows, cols] and out: [rows, r] with row strides, factor: [r, cols].
struct Projection {
  int64_t rows, cols, r;
  const float* x;
  int64_t x_row_stride;
  const float* factor;
  float* out;
  int64_t out_row_stride;
  Dropout dropout;
};
Error project(const Projection& p, const char* op);

// Both sums over x in one pass: over its rows and, when `factor` is given, over its columns.
//   over_rows[k, j] = scale * sum_i small[i, k] * dropout(x)[i, j]    [r, cols], or [cols, r] when `transposed`; x[i, j] stands for
//                                                                     row_scale[i] * col_scale[j] * x[i, j] where these are given
//   over_cols[i, k] = scale * sum_j x[i, j] * factor[j, k]            [rows, r]
// small: [rows, r] with a row stride, null when over_rows is; factor: [cols, r], without dropout. Sums run in parts that are added
// in order.
struct RowPass {
  int64_t rows, cols, r;
  const float* x;
  int64_t x_row_stride;
  float scale;
  const float* small;
  int64_t small_row_stride;
  float* over_rows;
  bool transposed;
  const float* factor;
  float* over_cols;
  Dropout dropout;
  const float* row_scale;  // [rows]
  const float* col_scale;  // [cols]
};
Error row_pass(const RowPass& p, const char* op);

// to[i, j] = row_scale[i] * col_scale[j] * from[i, j]; either scale may be null. All are contiguous; to may be from.
Error scale_matrix(const float* from, int64_t rows, int64_t cols, const float* row_scale, const float* col_scale, float* to, const char* op);

// y[i, j] += bias[j] + scale * dropout mask * sum_k small[i, k] * factor[k, j], or, without dropout, factor[j, k] when
// `transposed`; bias may be null.
struct LowRankSum {
  int64_t rows, cols, r;
  const float* small;
  int64_t small_row_stride;
  const float* factor;
  bool transposed;
  float scale;
  const float* bias;
  float* y;
  int64_t y_row_stride;
  Dropout dropout;
};
Error add_low_rank(const LowRankSum& p, const char* op);

// W + scale * B A, into floats or rounded to bfloat16. W: [rows, cols], B: [rows, r], A: [r, cols]. `append`: with A's rows behind
// it. `constant`: no kernel that may still run writes W, A or B.
struct LowRankMerge {
  int64_t rows, cols, r;
  const float* W;
  const float* A;
  const float* B;
  float scale;
  bool append;
  float* out;
  __nv_bfloat16* half;
  bool constant;
};
Error merge_low_rank(const LowRankMerge& p, const char* op);

}  // namespace cuda
}  // namespace mambatune
