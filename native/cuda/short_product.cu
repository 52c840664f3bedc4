// SPDX-License-Identifier: Apache-2.0
// A block computes 64 rows and 128 columns; both factors of a tile lie in shared memory whole, inner index first, and a thread
// multiplies four rows with twice four columns.
//
// Count at [8192, 48] x [1536, 48]^T: 1.2 GFLOP, 25 us at 48.5 TFLOP/s; 52 MB, most of them the result, 21 us at 2.5 TB/s.
#include "short_product.cuh"

#include "common.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 64, kTileCols = 128;
constexpr int kMostInner = 64;
constexpr int64_t kLeastTiles = 132;  // fewer leave processors of an H100 idle

// to[k][i] = from[first + i][k]; a thread moves four k of one row, zeros beyond the last row.
template <int Rows>
__device__ __forceinline__ void stage(float (*to)[Rows], const float* from, int64_t stride, int64_t first, int64_t rows, int inner) {
  for (int i = threadIdx.x; i < Rows * (inner / 4); i += kThreads) {
    const int row = i % Rows, k = i / Rows * 4;
    const float4 quad = first + row < rows ? *reinterpret_cast<const float4*>(from + (first + row) * stride + k) : make_float4(0, 0, 0, 0);
    to[k][row] = quad.x, to[k + 1][row] = quad.y, to[k + 2][row] = quad.z, to[k + 3][row] = quad.w;
  }
}

__global__ void __launch_bounds__(kThreads) short_product_kernel(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c,
                                                                 int64_t c_stride, int64_t rows, int64_t cols, int inner) {
  __shared__ __align__(16) float a_tile[kMostInner][kTileRows];
  __shared__ __align__(16) float b_tile[kMostInner][kTileCols];
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTileRows, first_col = static_cast<int64_t>(blockIdx.x) * kTileCols;
  const int across = threadIdx.x % 16 * 4, down = threadIdx.x / 16 * 4;  // columns `across` and across + 64
  let_next_start();
  wait_for_previous();
  stage<kTileRows>(a_tile, a, a_stride, first_row, rows, inner);
  stage<kTileCols>(b_tile, b, b_stride, first_col, cols, inner);
  __syncthreads();
  float sums[4][8] = {};
#pragma unroll 4
  for (int k = 0; k < inner; ++k) {
    const float4 x = *reinterpret_cast<const float4*>(&a_tile[k][down]);
    const float4 low = *reinterpret_cast<const float4*>(&b_tile[k][across]);
    const float4 high = *reinterpret_cast<const float4*>(&b_tile[k][across + 64]);
    const float left[4] = {x.x, x.y, x.z, x.w}, right[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = first_row + down + i;
    if (row >= rows) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t col = first_col + across + 64 * half;
      const float* sum = sums[i] + 4 * half;
      if (col < cols) *reinterpret_cast<float4*>(c + row * c_stride + col) = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
  }
}

}  // namespace

bool short_product_fits(const Gemm& g) {
  const auto fits = [](const void* data, int64_t stride) { return aligned_to(data, 16) && stride % 4 == 0; };
  return !g.bfloat16 && g.batch == 1 && g.alpha == 1.0f && g.beta == 0.0f && !g.a.transposed && g.b.transposed && g.k > 0 &&
         g.k <= kMostInner && g.k % 4 == 0 && g.n % 4 == 0 && fits(g.a.data, g.a.row_stride) && fits(g.b.data, g.b.row_stride) &&
         fits(g.c, g.c_row_stride) && ceil_div(g.m, kTileRows) * ceil_div(g.n, kTileCols) >= kLeastTiles;
}

Error short_product(const Gemm& g, const char* op) {
  const dim3 grid(static_cast<unsigned>(ceil_div(g.n, kTileCols)), static_cast<unsigned>(ceil_div(g.m, kTileRows)));
  return launch_early(short_product_kernel, grid, kThreads, op, static_cast<const float*>(g.a.data), g.a.row_stride,
                      static_cast<const float*>(g.b.data), g.b.row_stride, g.c, g.c_row_stride, g.m, g.n, static_cast<int>(g.k));
}

}  // namespace cuda
}  // namespace mambatune
