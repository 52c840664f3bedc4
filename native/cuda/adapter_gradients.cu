// SPDX-License-Identifier: Apache-2.0
// Every row gives kChunk dot products of x with lora_A and of dy with lora_B, and these times the row go into the gradients: both from
// the registers that hold the row, so that x and dy are read once. A warp owns 128 columns of x or of dy, a block all of them for
// a run of rows, four rows at a time while the next four are on their way; the warps' dots meet in shared memory. The blocks' sums
// are added in order by a second kernel.
//
// Count at 8192 rows, 1536 + 768 columns, r 8: x and dy 75 MB, the blocks' sums 9 MB out and in: 38 us at 2.5 TB/s. 256 products
// and sums of four elements for a thread's step, 420 instructions: 17 us of issue slots.
#include "adapter_gradients.cuh"

#include "low_rank_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kRows = 4;             // of a step
constexpr int kMostWarps = 18;       // of a block: more would leave too few registers
constexpr int64_t kBlocks = 132;     // wanted: one for each of an H100's processors

struct Memory {
  float dots[2][kMostWarps][32];  // of steps in turn: [row][k] of a warp's columns
  float factors[kMostWarps][32];  // what a warp multiplies its rows with, each warp for itself
};

// Parts of the gradients: [blocks][kChunk][128 * warps], x's columns before dy's.
__global__ void __launch_bounds__(32 * kMostWarps)
    adapter_gradients_kernel(const __grid_constant__ AdapterGradients p, int x_warps, int rows_of_block, float* parts) {
  extern __shared__ float4 raw_memory[];
  auto& memory = *reinterpret_cast<Memory*>(raw_memory);
  float* adapter = reinterpret_cast<float*>(raw_memory) + sizeof(Memory) / sizeof(float);  // [kChunk][128 * warps]
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, all_cols = 128 * warps;
  const bool is_x = warp < x_warps;
  const int col = (is_x ? warp : warp - x_warps) * 128 + lane * 4;
  const int64_t cols = is_x ? p.in : p.out, stride = is_x ? p.x_row_stride : p.out;
  const bool live = col < cols;
  const int64_t first_k = static_cast<int64_t>(blockIdx.y) * kChunk, begin = static_cast<int64_t>(blockIdx.x) * rows_of_block;
  const int rows = static_cast<int>(min(static_cast<int64_t>(rows_of_block), p.rows - begin));
  let_next_start();
  wait_for_previous();

  const float* from = (is_x ? p.x : p.dy) + begin * stride + col;
  float4 row[kRows], next[kRows];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      next[i] = live && first + i < rows ? *reinterpret_cast<const float4*>(from + (first + i) * stride) : make_float4(0, 0, 0, 0);
    }
  };
  fetch(0);
  float4 sums[kChunk] = {};
#pragma unroll
  for (int k = 0; k < kChunk; ++k) {
    const int64_t at_k = first_k + k;
    float value[4] = {};
    if (live && at_k < p.r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) value[j] = is_x ? p.lora_A[at_k * p.in + col + j] : p.lora_B[(col + j) * p.r + at_k];
    }
    *reinterpret_cast<float4*>(adapter + k * all_cols + threadIdx.x * 4) = make_float4(value[0], value[1], value[2], value[3]);
  }
  const float4* own_adapter = reinterpret_cast<const float4*>(adapter) + threadIdx.x;

  int step = 0;
  for (int first = 0; first < rows; first += kRows, step ^= 1) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) row[i] = next[i];
    fetch(first + kRows);
    // Lane 8 i + k is left with the dot of row i: two rows by each half of the warp.
    float dot[kRows / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float partial[2 * kChunk];
#pragma unroll
      for (int k = 0; k < kChunk; ++k) {
        const float4 factor = own_adapter[k * all_cols / 4];
        partial[k] = add_dot(0.0f, row[2 * half], factor);
        partial[kChunk + k] = add_dot(0.0f, row[2 * half + 1], factor);
      }
      const float sum = transposing_sum<kChunk>(partial);
      dot[half] = sum + __shfl_xor_sync(0xffffffffu, sum, 2 * kChunk);
    }
    memory.dots[step][warp][lane] = lane < 2 * kChunk ? dot[0] : dot[1];
    __syncthreads();
    float sum = 0.0f;
    for (int w = is_x ? x_warps : 0; w < (is_x ? warps : x_warps); ++w) sum += memory.dots[step][w][lane];
    memory.factors[warp][lane] = p.scaling * sum;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRows; ++i) add_row(sums, memory.factors[warp] + i * kChunk, row[i]);
  }
  float* to = parts + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * kChunk * all_cols + threadIdx.x * 4;
#pragma unroll
  for (int k = 0; k < kChunk; ++k) *reinterpret_cast<float4*>(to + k * all_cols) = sums[k];
}

__global__ void __launch_bounds__(kThreads)
    add_adapter_parts_kernel(const __grid_constant__ AdapterGradients p, int x_warps, int warps, int blocks, const float* parts) {
  constexpr int kPlaces = kThreads / kPartLanes;
  let_next_start();
  wait_for_previous();
  const int all_cols = 128 * warps, size = kChunk * all_cols;
  const int i = blockIdx.x * kPlaces + threadIdx.x % kPlaces;
  const float sum = add_parts(parts + static_cast<int64_t>(blockIdx.y) * blocks * size + i, blocks, size, true);
  if (threadIdx.x >= kPlaces) return;
  const int64_t k = static_cast<int64_t>(blockIdx.y) * kChunk + i / all_cols;
  const int col = i % all_cols, dy_col = col - 128 * x_warps;
  if (k >= p.r) return;
  if (col < p.in) {
    p.dlora_A[k * p.in + col] = sum;
  } else if (dy_col >= 0 && dy_col < p.out) {
    p.dlora_B[dy_col * p.r + k] = sum;
  }
}

int warps_for(int64_t cols) { return static_cast<int>(ceil_div(cols, 128)); }

}  // namespace

bool adapter_gradients_fit(int64_t in, int64_t out) {
  return in > 0 && out > 0 && in % 4 == 0 && out % 4 == 0 && ceil_div(in, 128) + ceil_div(out, 128) <= kMostWarps;
}

Error adapter_gradients(const AdapterGradients& p, const char* op) {
  const int x_warps = warps_for(p.in), warps = x_warps + warps_for(p.out);
  const int rows_of_block = static_cast<int>(ceil_div(ceil_div(p.rows, kBlocks), kRows) * kRows);
  const dim3 grid(static_cast<unsigned>(ceil_div(p.rows, rows_of_block)), static_cast<unsigned>(ceil_div(p.r, kChunk)));
  const size_t bytes = sizeof(Memory) + static_cast<size_t>(kChunk * 128 * warps) * sizeof(float);
  MAMBATUNE_TRY(describe_error(
      cudaFuncSetAttribute(adapter_gradients_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), op));
  Scratch parts;
  MAMBATUNE_TRY(parts.reserve(static_cast<int64_t>(grid.x) * grid.y * kChunk * 128 * warps));
  MAMBATUNE_TRY(launch_early_with_memory(adapter_gradients_kernel, grid, static_cast<unsigned>(32 * warps), bytes, op, p, x_warps,
                                         rows_of_block, parts.get()));
  const dim3 sum_grid(static_cast<unsigned>(kChunk * 128 * warps / (kThreads / kPartLanes)), grid.y);
  return launch_early(add_adapter_parts_kernel, sum_grid, kThreads, op, p, x_warps, warps, static_cast<int>(grid.x), parts.get());
}

}  // namespace cuda
}  // namespace mambatune
