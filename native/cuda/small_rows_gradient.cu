// SPDX-License-Identifier: Apache-2.0
// A block owns 32 columns of x and eight of the rank, walks all rows, and adds its threads' sums in order: no parts that a second launch
// would add.
#include "small_rows_gradient.cuh"

#include "launch.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kCols = 32, kChunk = 8;  // of the rank
constexpr int kQuads = kCols / 4, kLanes = kThreads / kQuads, kWarps = kThreads / 32;
constexpr int kAhead = 8;              // rows of a thread on their way: all of 256

__device__ __forceinline__ float4 load_quad(const float* row, int64_t col, int64_t cols, bool vector) {
  if (vector) return *reinterpret_cast<const float4*>(row + col);
  return make_float4(row[col], col + 1 < cols ? row[col + 1] : 0.0f, col + 2 < cols ? row[col + 2] : 0.0f,
                     col + 3 < cols ? row[col + 3] : 0.0f);
}

// Rows of x go to the threads by turns; a group of eight threads covers the block's columns.
__global__ void __launch_bounds__(kThreads)
    small_rows_gradient_kernel(int64_t rows, const __grid_constant__ SmallRowsGradient p) {
  __shared__ __align__(16) float small[kMostSmallRows][kChunk];
  __shared__ float4 parts[kWarps][kChunk][kQuads];
  const int64_t first_col = static_cast<int64_t>(blockIdx.x) * kCols;
  const int64_t first_k = static_cast<int64_t>(blockIdx.y) * kChunk;
  const int quad = threadIdx.x % kQuads, lane = threadIdx.x / kQuads;
  const int64_t col = first_col + 4 * quad;
  const bool vector = p.cols % 4 == 0 && p.x_row_stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0;
  let_next_start();
  wait_for_previous();

  for (int i = threadIdx.x; i < rows * kChunk; i += kThreads) {
    const int64_t row = i / kChunk, k = first_k + i % kChunk;
    const float value = k < p.r ? p.small[row * p.small_row_stride + k] : 0.0f;
    small[row][i % kChunk] = p.row_scale ? p.row_scale[row] * value : value;
  }
  float4 x[kAhead];
  const auto fetch = [&](int64_t row) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      x[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (row + i * kLanes < rows && col < p.cols) x[i] = load_quad(p.x + (row + i * kLanes) * p.x_row_stride, col, p.cols, vector);
    }
  };
  fetch(lane);
  __syncthreads();
  float sums[kChunk][4] = {};
  for (int64_t row = lane; row < rows; row += kAhead * kLanes) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (row + i * kLanes >= rows) break;
#pragma unroll
      for (int k = 0; k < kChunk; ++k) {
        const float factor = small[row + i * kLanes][k];
        sums[k][0] = fmaf(factor, x[i].x, sums[k][0]);
        sums[k][1] = fmaf(factor, x[i].y, sums[k][1]);
        sums[k][2] = fmaf(factor, x[i].z, sums[k][2]);
        sums[k][3] = fmaf(factor, x[i].w, sums[k][3]);
      }
    }
    fetch(row + kAhead * kLanes);
  }
#pragma unroll
  for (int k = 0; k < kChunk; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[k][i] += __shfl_xor_sync(0xffffffffu, sums[k][i], 8);
      sums[k][i] += __shfl_xor_sync(0xffffffffu, sums[k][i], 16);
    }
    if (threadIdx.x % 32 < kQuads) parts[threadIdx.x / 32][k][quad] = make_float4(sums[k][0], sums[k][1], sums[k][2], sums[k][3]);
  }
  __syncthreads();
  const int place_k = p.transposed ? threadIdx.x % kChunk : threadIdx.x / kCols, place = p.transposed ? threadIdx.x / kChunk : threadIdx.x % kCols;
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += reinterpret_cast<const float*>(parts[warp][place_k])[place];
  const int64_t k = first_k + place_k, out_col = first_col + place;
  if (p.col_scale && out_col < p.cols) sum *= p.col_scale[out_col];
  if (k < p.r && out_col < p.cols) p.out[p.transposed ? out_col * p.r + k : k * p.cols + out_col] = p.scale * sum;
}

}  // namespace

Error small_rows_gradient(int64_t rows, const SmallRowsGradient& p, const char* op) {
  if (p.cols == 0 || p.r == 0) return nullptr;
  const dim3 blocks(static_cast<unsigned>(ceil_div(p.cols, kCols)), static_cast<unsigned>(ceil_div(p.r, kChunk)));
  return launch_early(small_rows_gradient_kernel, blocks, kThreads, op, rows, p);
}

}  // namespace cuda
}  // namespace mambatune
