// SPDX-License-Identifier: Apache-2.0
// c = a b as high high + high low + low high of the factors' parts; low low is below 2^-22 of a product. The tensor cores cut a sum where
// float32 rounds it, so that they only ever add up 16 of the inner length, starting from zero and the small products first; these sums are
// rounded into float32.
//
// Here is the kernel for cards without wgmma: 128 x 128 a block, 64 x 64 a warp. Of a warp and 16 of the inner length: 96 mma, 128
// additions, 16 ldmatrix of four wavefronts each.
#include "split_product.cuh"

#include <cuda_pipeline_primitives.h>

#include <algorithm>

#include "launch.cuh"
#include "split_product_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kTile = 128, kTilePanels = kTile / kPanelRows;
constexpr int kWarpTile = 64, kDown = kWarpTile / 16, kAcross = kWarpTile / 8;
constexpr int kTileThreads = 32 * kTilePanels * kTilePanels;
constexpr int kStages = 3;
constexpr int kStageBytes = 2 * kTilePanels * kPanelBytes;

__device__ __forceinline__ void stage_panel(char* to, const char* from) {
#pragma unroll
  for (int i = 0; i < kPanelBytes; i += 16 * kTileThreads) {
    __pipeline_memcpy_async(to + i + threadIdx.x * 16, from + i + threadIdx.x * 16, 16);
  }
}

// sums += rows of a times rows of b, of sixteen of the inner side
__device__ __forceinline__ void multiply_sixteen(const char* a, const char* b, int sixteen, float (&sums)[kDown][kAcross][4]) {
  constexpr int kSixteenRows = 16 * kPanelRowBytes;
  const int left = left_offset(), right = right_offset();
  uint32_t high[kDown][4], low[kDown][4];
#pragma unroll
  for (int i = 0; i < kDown; ++i) {
    load_four_8x8(high[i], chunk_at(a + i * kSixteenRows, left, sixteen, 0));
    load_four_8x8(low[i], chunk_at(a + i * kSixteenRows, left, sixteen, 1));
  }
  uint32_t b_high[4], b_low[4];
#pragma unroll
  for (int j = 0; j < kAcross; ++j) {
    if (j % 2 == 0) {
      load_four_8x8(b_high, chunk_at(b + j / 2 * kSixteenRows, right, sixteen, 0));
      load_four_8x8(b_low, chunk_at(b + j / 2 * kSixteenRows, right, sixteen, 1));
    }
    const int eight = j % 2 * 2;
    float own[kDown][4];
#pragma unroll
    for (int i = 0; i < kDown; ++i) mma_16x8x16_float16_from_zero(own[i], low[i], b_high[eight], b_high[eight + 1]);
#pragma unroll
    for (int i = 0; i < kDown; ++i) mma_16x8x16_float16(own[i], high[i], b_low[eight], b_low[eight + 1]);
#pragma unroll
    for (int i = 0; i < kDown; ++i) mma_16x8x16_float16(own[i], high[i], b_high[eight], b_high[eight + 1]);
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] += own[i][e];
    }
  }
}

__global__ void __launch_bounds__(kTileThreads, 2) split_product_kernel(const __grid_constant__ SplitProduct p) {
  extern __shared__ float4 memory[];
  const SplitTile tile = split_tile<kTile, kTile>(p, static_cast<int>(blockIdx.x));
  const int warp = threadIdx.x / 32, warp_row = warp / kTilePanels * kWarpTile, warp_col = warp % kTilePanels * kWarpTile;
  const auto stage_at = [&](int step) { return reinterpret_cast<char*>(memory) + step % kStages * kStageBytes; };
  const auto stage = [&](int step) {
    if (step < tile.steps) {
#pragma unroll
      for (int i = 0; i < kTilePanels; ++i) {
        char* to = stage_at(step) + i * kPanelBytes;
        stage_panel(to, split_panel(p.a, tile.first_row, i, tile.first_step + step));
        stage_panel(to + kTilePanels * kPanelBytes, split_panel(p.b, tile.first_col, i, tile.first_step + step));
      }
    }
    __pipeline_commit();
  };
  let_next_start();
  wait_for_previous();
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) stage(step);
  for (int round = 0; round < tile.steps; round += p.steps_of_round) {
    float sums[kDown][kAcross][4] = {};
    for (int step = round; step < min(round + p.steps_of_round, tile.steps); ++step) {
      __pipeline_wait_prior(kStages - 2);
      __syncthreads();
      stage(step + kStages - 1);
      const char* a = stage_at(step) + warp_row * kPanelRowBytes;
      const char* b = stage_at(step) + (kTile + warp_col) * kPanelRowBytes;
#pragma unroll
      for (int sixteen = 0; sixteen < kStepInner / 16; ++sixteen) multiply_sixteen(a, b, sixteen, sums);
    }
    store_sums(p, tile, tile.first_row + warp_row, tile.first_col + warp_col, sums, round == 0 ? p.beta : 1.0f);
  }
}

__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const float* parts, int count, int64_t rows, int64_t cols, float* c, int64_t c_stride, float alpha, float beta) {
  const int64_t size = rows * cols;
  for (int64_t i = first_index(); i < size; i += index_step()) {
    float sum = 0.0f;
#pragma unroll 4
    for (int part = 0; part < count; ++part) sum += parts[part * size + i];
    float* to = c + i / cols * c_stride + i % cols;
    *to = beta == 0.0f ? alpha * sum : alpha * sum + beta * *to;
  }
}

Error multiply(const SplitProduct& p, int tiles, const char* op) {
  if (has_wgmma()) return split_product_wgmma(p, tiles, op);
  constexpr int kBytes = kStages * kStageBytes;
  MAMBATUNE_TRY(describe_error(cudaFuncSetAttribute(split_product_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), op));
  return launch_early_with_memory(split_product_kernel, static_cast<unsigned>(tiles), kTileThreads, kBytes, op, p);
}

// Of a round, where one is to end before the product does.
constexpr int kLongSteps = 256, kRoundSteps = 32;

constexpr int64_t kPlaces = 132;  // blocks that an H100 computes at once

int64_t tiles_of(const Gemm& g) {
  return has_wgmma() ? ceil_div(g.m, kWgmmaRows) * ceil_div(g.n, kWgmmaCols) : ceil_div(g.m, kTile) * ceil_div(g.n, kTile);
}

// Steps of a part of the inner side, so that as many parts as there is room for are computed at once.
int64_t steps_of_part(const Gemm& g) {
  constexpr int64_t kLeastSteps = 32;
  const int64_t steps = ceil_div(g.k, kStepInner);
  return ceil_div(steps, std::max<int64_t>(1, std::min(kPlaces / tiles_of(g), steps / kLeastSteps)));
}

// Whether an H100 takes less time than for the IEEE product, in microseconds.
bool is_faster(const Gemm& g) {
  constexpr double kIeeeFlops = 48e6, kStep = 1.13, kTileEnds = 7.5, kBytes = 2.7e6, kStarts = 5.0;
  const double rows = static_cast<double>(g.m), cols = static_cast<double>(g.n), inner = static_cast<double>(g.k);
  const int64_t part = steps_of_part(g), blocks = tiles_of(g) * ceil_div(ceil_div(g.k, kStepInner), part);
  const double product = static_cast<double>(ceil_div(blocks, kPlaces)) * (static_cast<double>(part) * kStep + kTileEnds);
  return product + 8.0 * (rows + cols) * inner / kBytes + kStarts < 2.0 * rows * cols * inner / kIeeeFlops;
}

}  // namespace

bool split_product_fits(const Gemm& g) {
  constexpr int64_t kMostSide = int64_t{1} << 21;
  const auto fits = [](const GemmOperand& x) { return aligned_to(x.data, 16) && x.row_stride % 4 == 0; };
  return !g.bfloat16 && g.batch == 1 && !g.a.transposed && std::max({g.m, g.n, g.k}) <= kMostSide && std::min({g.m, g.n, g.k}) > 0 &&
         fits(g.a) && fits(g.b) && is_faster(g);
}

Error multiply_split(const SplitFactor& a, const SplitFactor& b, const Gemm& g, const char* op) {
  const int part = static_cast<int>(steps_of_part(g));
  SplitProduct p = {a, b, g.c, g.c_row_stride, 0, part, part > kLongSteps ? kRoundSteps : part, g.alpha, g.beta};
  const int64_t parts = ceil_div(a.steps, part);
  const int all = static_cast<int>(tiles_of(g) * parts);
  if (parts == 1) return multiply(p, all, op);
  Scratch memory;
  MAMBATUNE_TRY(memory.reserve(parts * g.m * g.n));
  p.c = memory.get(), p.c_stride = g.n, p.part_size = g.m * g.n, p.alpha = 1.0f, p.beta = 0.0f;
  MAMBATUNE_TRY(multiply(p, all, op));
  add_parts_kernel<<<blocks_for(g.m * g.n), kThreads, 0, stream()>>>(memory.get(), static_cast<int>(parts), g.m, g.n, g.c, g.c_row_stride,
                                                                     g.alpha, g.beta);
  return describe_error(cudaGetLastError(), op);
}

Error split_left(const Gemm& g, SplitCopy* copy, const char* op) {
  return copy->split(static_cast<const float*>(g.a.data), g.a.row_stride, g.m, g.k, op);
}

Error split_right(const Gemm& g, SplitCopy* copy, const char* op) {
  const float* b = static_cast<const float*>(g.b.data);
  return g.b.transposed ? copy->split(b, g.b.row_stride, g.n, g.k, op) : copy->split_transposed(b, g.b.row_stride, g.n, g.k, op);
}

Error split_product(const Gemm& g, const char* op) {
  SplitCopy a, b;
  MAMBATUNE_TRY(split_left(g, &a, op));
  MAMBATUNE_TRY(split_right(g, &b, op));
  return multiply_split(a.factor(), b.factor(), g, op);
}

}  // namespace cuda
}  // namespace mambatune
