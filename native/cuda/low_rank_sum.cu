// SPDX-License-Identifier: Apache-2.0
// Low-rank terms added to a large matrix, or merged with it: bound by reading and writing that once, 16 bytes a load where it can be.
#include <type_traits>

#include "low_rank.cuh"
#include "low_rank_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kManyRows = 8, kSomeRows = 4, kFewRows = 2;  // of y that a thread adds to: fewer where many would leave processors idle
constexpr int64_t kEnoughBlocks = 528;  // four for each of an H100's processors
constexpr int kMergeRows = 4;           // rows of W that a thread adds to
constexpr int kMergeColumns = 64;       // threads side by side

// Four columns of factor[k, .] from `col` on, k in [first, first + 4): f[k] holds the columns.
template <bool Vector>
__device__ __forceinline__ void load_factor(float4 (&f)[4], const LowRankSum& p, int64_t col, int64_t first) {
#pragma unroll
  for (int k = 0; k < 4; ++k) f[k] = load_quad<Vector>(p.factor + min(first + k, p.r - 1) * p.cols, col, p.cols);
}

// small_quads: rows of `small` can be read four elements at a time.
template <int Rows, bool Vector, bool Drop>
__global__ void __launch_bounds__(kThreads) add_low_rank_kernel(const __grid_constant__ LowRankSum p, bool small_quads) {
  let_next_start();
  wait_for_previous();
  const int64_t quads = ceil_div(p.cols, 4), groups = ceil_div(p.rows, Rows);
  for (int64_t index = first_index(); index < quads * groups; index += index_step()) {
    const int64_t col = index % quads * 4, first_row = index / quads * Rows;
    const float* small[Rows];
#pragma unroll
    for (int i = 0; i < Rows; ++i) small[i] = p.small + min(first_row + i, p.rows - 1) * p.small_row_stride;
    float4 sums[Rows] = {};
    for (int64_t k = 0; k < p.r; k += 4) {
      float4 f[4];
      load_factor<Vector>(f, p, col, k);
#pragma unroll
      for (int i = 0; i < Rows; ++i) {
        const float4 u = small_quads ? *reinterpret_cast<const float4*>(small[i] + k) : load_quad<false>(small[i], k, p.r);
        add_scaled(sums[i], u.x, f[0]);
        add_scaled(sums[i], u.y, f[1]);
        add_scaled(sums[i], u.z, f[2]);
        add_scaled(sums[i], u.w, f[3]);
      }
    }
    const float4 bias = p.bias ? load_quad<Vector>(p.bias, col, p.cols) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const int64_t row = first_row + i;
      if (row >= p.rows) break;
      float4 sum = sums[i];
      if constexpr (Drop) sum = multiply(sum, dropout_quad<Vector>(p.dropout, row, col));
      float* y = p.y + row * p.y_row_stride + col;
      float4 now = load_quad<Vector>(p.y + row * p.y_row_stride, col, p.cols);
      now = make_float4(now.x + bias.x, now.y + bias.y, now.z + bias.z, now.w + bias.w);
      add_scaled(now, p.scale, sum);
      if constexpr (Vector) {
        *reinterpret_cast<float4*>(y) = now;
      } else {
        const float values[4] = {now.x, now.y, now.z, now.w};
        for (int j = 0; j < 4 && col + j < p.cols; ++j) y[j] = values[j];
      }
    }
  }
}

// The same where the factor is [cols, r]: a warp takes 128 columns, every lane each 32nd, so that it reads the factor's rows side by side.
// quads: rows of the factor and of `small` can be read four elements at a time.
template <int Rows>
__global__ void __launch_bounds__(kThreads) add_low_rank_transposed_kernel(const __grid_constant__ LowRankSum p, bool quads) {
  constexpr int kCols = 4;
  const int64_t first_row = (static_cast<int64_t>(blockIdx.y) * (kThreads / 32) + threadIdx.x / 32) * Rows;
  const int64_t first_col = static_cast<int64_t>(blockIdx.x) * 32 * kCols + threadIdx.x % 32;
  let_next_start();
  wait_for_previous();
  if (first_row >= p.rows) return;
  const auto exists = [&](int i, int j) { return first_row + i < p.rows && first_col + 32 * j < p.cols; };
  float* y = p.y + first_row * p.y_row_stride + first_col;
  float now[Rows][kCols], sums[Rows][kCols] = {};
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
#pragma unroll
    for (int j = 0; j < kCols; ++j) now[i][j] = exists(i, j) ? y[i * p.y_row_stride + 32 * j] : 0.0f;
  }
  const auto load = [&](const float* row, int64_t k) { return quads ? *reinterpret_cast<const float4*>(row + k) : load_quad<false>(row, k, p.r); };
  for (int64_t k = 0; k < p.r; k += 4) {
    float4 f[kCols];
#pragma unroll
    for (int j = 0; j < kCols; ++j) f[j] = load(p.factor + min(first_col + 32 * j, p.cols - 1) * p.r, k);
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      const float4 u = load(p.small + min(first_row + i, p.rows - 1) * p.small_row_stride, k);
#pragma unroll
      for (int j = 0; j < kCols; ++j) sums[i][j] = add_dot(sums[i][j], u, f[j]);
    }
  }
  float bias[kCols];
#pragma unroll
  for (int j = 0; j < kCols; ++j) bias[j] = p.bias && first_col + 32 * j < p.cols ? p.bias[first_col + 32 * j] : 0.0f;
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
#pragma unroll
    for (int j = 0; j < kCols; ++j) {
      if (exists(i, j)) y[i * p.y_row_stride + 32 * j] = fmaf(p.scale, sums[i][j], now[i][j] + bias[j]);
    }
  }
}

__device__ __forceinline__ void store(float* to, float4 x) { *reinterpret_cast<float4*>(to) = x; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float4 x) {
  const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
  *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pair);
}
__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// kMergeRows rows and four columns a thread; lora_A's rows, where they are to follow, are copied as they are. B_quads: rows of B can be
// read four elements at a time. What no kernel of a recording writes is read before the kernels ahead have ended.
template <bool Vector, class T>
__global__ void __launch_bounds__(kThreads) merge_low_rank_kernel(const __grid_constant__ LowRankMerge p, bool B_quads, T* out) {
  let_next_start();
  if (!p.constant) wait_for_previous();
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * kMergeColumns + threadIdx.x % kMergeColumns) * 4;
  const int64_t first_row = (static_cast<int64_t>(blockIdx.y) * (kThreads / kMergeColumns) + threadIdx.x / kMergeColumns) * kMergeRows;
  const int64_t rows = p.append ? p.rows + p.r : p.rows;
  if (col >= p.cols || first_row >= rows) return;
  const auto row_of = [&](int i) { return min(first_row + i, rows - 1); };
  float4 W[kMergeRows];
#pragma unroll
  for (int i = 0; i < kMergeRows; ++i) {
    const int64_t row = row_of(i);
    W[i] = load_quad<Vector>(row < p.rows ? p.W + row * p.cols : p.A + (row - p.rows) * p.cols, col, p.cols);
  }
#pragma unroll 2
  for (int64_t k = 0; k < p.r; k += 4) {
    float4 a[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) a[j] = load_quad<Vector>(p.A + min(k + j, p.r - 1) * p.cols, col, p.cols);
#pragma unroll
    for (int i = 0; i < kMergeRows; ++i) {
      const int64_t row = row_of(i);
      const float* B = p.B + min(row, p.rows - 1) * p.r;
      const float4 b = B_quads ? __ldg(reinterpret_cast<const float4*>(B + k)) : load_quad<false>(B, k, p.r);
      const float scale = row < p.rows ? p.scale : 0.0f;
      add_scaled(W[i], scale * b.x, a[0]);
      add_scaled(W[i], scale * b.y, a[1]);
      add_scaled(W[i], scale * b.z, a[2]);
      add_scaled(W[i], scale * b.w, a[3]);
    }
  }
  if (p.constant) wait_for_previous();
#pragma unroll
  for (int i = 0; i < kMergeRows; ++i) {
    if (first_row + i >= rows) return;
    T* to = out + (first_row + i) * p.cols + col;
    if constexpr (Vector) {
      store(to, W[i]);
    } else {
      const float values[4] = {W[i].x, W[i].y, W[i].z, W[i].w};
      for (int j = 0; j < 4 && col + j < p.cols; ++j) store(to + j, values[j]);
    }
  }
}

}  // namespace

Error add_low_rank(const LowRankSum& p, const char* op) {
  if (p.rows == 0 || p.cols == 0) return nullptr;
  const bool small_quads = is_vector(p.r, p.small_row_stride, p.small);
  if (p.transposed) {
    const auto grid = [&](int64_t rows) {
      return dim3(static_cast<unsigned>(ceil_div(p.cols, 128)), static_cast<unsigned>(ceil_div(p.rows, rows * (kThreads / 32))));
    };
    const bool quads = small_quads && aligned_to(p.factor, 16), many = grid(kManyRows).x * static_cast<int64_t>(grid(kManyRows).y) >= kEnoughBlocks;
    return many ? launch_early(add_low_rank_transposed_kernel<kManyRows>, grid(kManyRows), kThreads, op, p, quads)
                : launch_early(add_low_rank_transposed_kernel<kSomeRows>, grid(kSomeRows), kThreads, op, p, quads);
  }
  const bool vector = is_vector(p.cols, p.y_row_stride, p.y) && aligned_to(p.factor, 16) && aligned_to(p.bias, 16);
  const int64_t quads = ceil_div(p.cols, 4), many = quads * ceil_div(p.rows, kManyRows), few = quads * ceil_div(p.rows, kFewRows);
  Error error = nullptr;
  with_flags(
      [&](auto v, auto d) {
        constexpr bool kVector = decltype(v)::value, kDrop = decltype(d)::value;
        error = many < kThreads * kEnoughBlocks
                    ? launch_early(add_low_rank_kernel<kFewRows, kVector, kDrop>, blocks_for(few), kThreads, op, p, small_quads)
                    : launch_early(add_low_rank_kernel<kManyRows, kVector, kDrop>, blocks_for(many), kThreads, op, p, small_quads);
      },
      vector, p.dropout.threshold > 0);
  return error;
}

Error merge_low_rank(const LowRankMerge& p, const char* op) {
  if (p.rows == 0 || p.cols == 0) return nullptr;
  const bool vector = is_vector(p.cols, p.cols, p.W) && aligned_to(p.A, 16) && aligned_to(p.out, 16) && aligned_to(p.half, 8);
  const bool B_quads = p.r % 4 == 0 && aligned_to(p.B, 16);
  const int64_t rows = p.append ? p.rows + p.r : p.rows;
  const dim3 grid(static_cast<unsigned>(ceil_div(p.cols, 4 * kMergeColumns)),
                  static_cast<unsigned>(ceil_div(rows, kMergeRows * (kThreads / kMergeColumns))));
  Error error = nullptr;
  with_flags(
      [&](auto v) {
        constexpr bool kVector = decltype(v)::value;
        error = p.half ? launch_early(merge_low_rank_kernel<kVector, __nv_bfloat16>, grid, kThreads, op, p, B_quads, p.half)
                       : launch_early(merge_low_rank_kernel<kVector, float>, grid, kThreads, op, p, B_quads, p.out);
      },
      vector);
  return error;
}

}  // namespace cuda
}  // namespace mambatune
