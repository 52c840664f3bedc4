// SPDX-License-Identifier: Apache-2.0
// Splitting a factor reads it once and writes as many bytes: 8 rows inner bytes, 17 us for [8192, 768] at 3 TB/s. A block has a row. The
// transposed one is read twice: its largest elements are found first, by atomic maxima, which come out the same in any order.
#include "split_factors.cuh"

#include "launch.cuh"
#include "tensor_cores.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kRowThreads = 128;
constexpr int kHeld = 4;  // eights of a row that a thread keeps between finding the largest element and splitting
constexpr int kMaximumRows = 64;

// Elements of a row from `first` on, zeros from `inner` on.
__device__ __forceinline__ void load_eight(float (&x)[8], const float* row, int first, int inner) {
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    if (first + i + 4 <= inner) {
      const float4 quad = *reinterpret_cast<const float4*>(row + first + i);
      x[i] = quad.x, x[i + 1] = quad.y, x[i + 2] = quad.z, x[i + 3] = quad.w;
    } else {
#pragma unroll
      for (int j = i; j < i + 4; ++j) x[j] = first + j < inner ? row[first + j] : 0.0f;
    }
  }
}

// Eight parts of row `row` of a panel's step, the eight-th eight of its 32.
__device__ __forceinline__ void store_eight(char* step, int row, int eight, const float (&x)[8], float scale) {
  uint32_t high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float a = x[2 * i] * scale, b = x[2 * i + 1] * scale;
    high[i] = float16_pair(a, b);
    const float2 rounded = float16_pair_values(high[i]);
    low[i] = float16_pair(a - rounded.x, b - rounded.y);
  }
  char* to = step + row * kPanelRowBytes;
  const int chunk = eight / 2 * 4 + eight % 2;
  *reinterpret_cast<uint4*>(to + (chunk ^ row % 8) * 16) = make_uint4(high[0], high[1], high[2], high[3]);
  *reinterpret_cast<uint4*>(to + ((chunk + 2) ^ row % 8) * 16) = make_uint4(low[0], low[1], low[2], low[3]);
}

__device__ __forceinline__ float largest_of(const float (&x)[8], float largest) {
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
  return largest;
}

__device__ __forceinline__ float block_maximum(float x) {
  __shared__ float warps[kRowThreads / 32];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = warps[0];
#pragma unroll
  for (int i = 1; i < kRowThreads / 32; ++i) x = fmaxf(x, warps[i]);
  return x;
}

__global__ void __launch_bounds__(kRowThreads)
    split_kernel(const float* from, int64_t from_stride, int rows, int inner, int steps, char* panels, float* largest_of_rows) {
  const int row = static_cast<int>(blockIdx.x), end = row < rows ? inner : 0, eights = steps * (kStepInner / 8);
  const float* own = from + row * from_stride;
  char* panel = panels + static_cast<int64_t>(row / kPanelRows) * steps * kPanelBytes;
  const auto store = [&](int i, const float(&x)[8], float scale) {
    store_eight(panel + static_cast<int64_t>(i / 4) * kPanelBytes, row % kPanelRows, i % 4, x, scale);
  };
  let_next_start();
  wait_for_previous();
  float held[kHeld][8];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) load_eight(held[i], own, 8 * (static_cast<int>(threadIdx.x) + i * kRowThreads), end);
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) largest = largest_of(held[i], largest);
  for (int i = static_cast<int>(threadIdx.x) + kHeld * kRowThreads; i < eights; i += kRowThreads) {
    float x[8];
    load_eight(x, own, 8 * i, end);
    largest = largest_of(x, largest);
  }
  largest = block_maximum(largest);
  if (threadIdx.x == 0 && row < rows) largest_of_rows[row] = largest;
  const float scale = power_of_two(split_exponent(largest));
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int eight = static_cast<int>(threadIdx.x) + i * kRowThreads;
    if (eight < eights) store(eight, held[i], scale);
  }
  for (int i = static_cast<int>(threadIdx.x) + kHeld * kRowThreads; i < eights; i += kRowThreads) {
    float x[8];
    load_eight(x, own, 8 * i, end);
    store(i, x, scale);
  }
}

// A thread has one column of kMaximumRows rows.
__global__ void __launch_bounds__(kThreads)
    column_maxima_kernel(const float* from, int64_t from_stride, int64_t inner, int cols, float* largest_of_columns) {
  const int col = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (col >= cols) return;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kMaximumRows, end = min(first + kMaximumRows, inner);
  float largest = 0.0f;
#pragma unroll 8
  for (int64_t row = first; row < end; ++row) largest = fmaxf(largest, fabsf(from[row * from_stride + col]));
  // As unsigned numbers, floats that are not negative have the same order.
  atomicMax(reinterpret_cast<unsigned*>(largest_of_columns) + col, __float_as_uint(largest));
}

// One panel's step a block: 32 rows of `from`, 64 columns.
__global__ void __launch_bounds__(kThreads)
    split_transposed_kernel(const float* from, int64_t from_stride, int64_t inner, int cols, int steps, char* panels, const float* largest_of_columns) {
  static_assert(kThreads == kPanelRows * kStepInner / 8, "an eight a thread");
  __shared__ float tile[kStepInner][kPanelRows + 1];
  const int step = static_cast<int>(blockIdx.x), first_col = static_cast<int>(blockIdx.y) * kPanelRows;
  for (int i = threadIdx.x; i < kStepInner * kPanelRows; i += kThreads) {
    const int64_t row = static_cast<int64_t>(step) * kStepInner + i / kPanelRows;
    const int col = first_col + i % kPanelRows;
    tile[i / kPanelRows][i % kPanelRows] = row < inner && col < cols ? from[row * from_stride + col] : 0.0f;
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) / 4, eight = static_cast<int>(threadIdx.x) % 4;
  float x[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = tile[8 * eight + i][row];
  const float scale = power_of_two(split_exponent(first_col + row < cols ? largest_of_columns[first_col + row] : 0.0f));
  store_eight(panels + (static_cast<int64_t>(blockIdx.y) * steps + step) * kPanelBytes, row, eight, x, scale);
}

}  // namespace

Error SplitCopy::reserve(int64_t rows, int64_t inner) {
  const int64_t steps = ceil_div(inner, kStepInner);
  MAMBATUNE_TRY(panels_.reserve(ceil_div(rows, kPanelRows) * steps * (kPanelBytes / static_cast<int64_t>(sizeof(float)))));
  MAMBATUNE_TRY(largest_.reserve(rows));
  factor_ = {reinterpret_cast<const char*>(panels_.get()), largest_.get(), static_cast<int>(rows), static_cast<int>(steps)};
  return nullptr;
}

Error SplitCopy::split(const float* from, int64_t from_stride, int64_t rows, int64_t inner, const char* op) {
  MAMBATUNE_TRY(reserve(rows, inner));
  return launch_early(split_kernel, static_cast<unsigned>(ceil_div(rows, kPanelRows) * kPanelRows), kRowThreads, op, from, from_stride,
                      factor_.rows, static_cast<int>(inner), factor_.steps, reinterpret_cast<char*>(panels_.get()), largest_.get());
}

Error SplitCopy::split_transposed(const float* from, int64_t from_stride, int64_t rows, int64_t inner, const char* op) {
  MAMBATUNE_TRY(reserve(rows, inner));
  MAMBATUNE_TRY(describe_error(cudaMemsetAsync(largest_.get(), 0, static_cast<size_t>(rows) * sizeof(float), stream()), op));
  const dim3 maxima(static_cast<unsigned>(ceil_div(rows, kThreads)), static_cast<unsigned>(ceil_div(inner, kMaximumRows)));
  column_maxima_kernel<<<maxima, kThreads, 0, stream()>>>(from, from_stride, inner, factor_.rows, largest_.get());
  MAMBATUNE_CHECK_LAUNCH(op);
  const dim3 blocks(static_cast<unsigned>(factor_.steps), static_cast<unsigned>(ceil_div(rows, kPanelRows)));
  split_transposed_kernel<<<blocks, kThreads, 0, stream()>>>(from, from_stride, inner, factor_.rows, factor_.steps,
                                                             reinterpret_cast<char*>(panels_.get()), largest_.get());
  return describe_error(cudaGetLastError(), op);
}

}  // namespace cuda
}  // namespace mambatune
