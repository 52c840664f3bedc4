// SPDX-License-Identifier: Apache-2.0
// Sums over the rows or columns of a large matrix: bound by reading it once, 16 bytes a load; kChunk of the small one's rows or columns are
// worked on at a time, more by reading the large one again.
#include "low_rank.cuh"

#include <algorithm>

#include "low_rank_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kGroupRows = 4;   // rows that a warp sums together: kGroupRows * kChunk sums, one a lane
constexpr int kWarps = 4;
constexpr int kPassThreads = 32 * kWarps;
constexpr int64_t kPassBlocks = 528;   // wanted: four for each of an H100's processors
constexpr int64_t kLeastSplitRows = 16, kMostSplitRows = 256;

// Adds up a lane's value over the block's warps, in order, for the first of them; false in the others.
__device__ __forceinline__ bool sum_warps(float& value) {
  __shared__ float parts[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  parts[warp][lane] = value;
  __syncthreads();
  if (warp > 0) return false;
#pragma unroll
  for (int i = 1; i < kWarps; ++i) value += parts[i][lane];
  return true;
}

// A group of `splits` warps (1 or kWarps) projects kGroupRows rows, each warp every splits-th part of them.
template <bool Vector, bool Drop>
__global__ void __launch_bounds__(32 * kWarps) project_kernel(Projection p, int splits) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int part = warp % splits;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kWarps / splits) + warp / splits;
  const int64_t first_k = static_cast<int64_t>(blockIdx.y) * kChunk;
  const int64_t first_row = group * kGroupRows;
  const float *x[kGroupRows], *factor[kChunk];
#pragma unroll
  for (int i = 0; i < kGroupRows; ++i) x[i] = p.x + min(first_row + i, p.rows - 1) * p.x_row_stride;
#pragma unroll
  for (int k = 0; k < kChunk; ++k) factor[k] = p.factor + min(first_k + k, p.r - 1) * p.cols;
  let_next_start();
  wait_for_previous();
  float sums[kGroupRows * kChunk] = {};
#pragma unroll 2
  for (int64_t col = (part * 32 + lane) * 4; col < p.cols; col += 128 * splits) {
    float4 values[kGroupRows];
#pragma unroll
    for (int i = 0; i < kGroupRows; ++i) values[i] = load_quad<Vector>(x[i], col, p.cols);
    if constexpr (Drop) {
#pragma unroll
      for (int i = 0; i < kGroupRows; ++i) values[i] = multiply(values[i], dropout_quad<Vector>(p.dropout, first_row + i, col));
    }
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      const float4 f = load_quad<Vector>(factor[k], col, p.cols);
#pragma unroll
      for (int i = 0; i < kGroupRows; ++i) sums[i * kChunk + k] = add_dot(sums[i * kChunk + k], values[i], f);
    }
  }
  float total = transposing_sum<16>(sums);
  if (splits > 1 && !sum_warps(total)) return;
  const int64_t row = first_row + lane / kChunk, k = first_k + lane % kChunk;
  if (row < p.rows && k < p.r) p.out[row * p.out_row_stride + k] = total;
}

// over_cols of a row pass, a group of `splits` warps for kGroupRows rows as in project_kernel. quads: the factor's rows can be read four
// elements at a time.
__global__ void __launch_bounds__(32 * kWarps) sum_over_columns_kernel(const __grid_constant__ RowPass p, int splits, bool quads) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_row = (static_cast<int64_t>(blockIdx.x) * (kWarps / splits) + warp / splits) * kGroupRows;
  const int64_t first_k = static_cast<int64_t>(blockIdx.y) * kChunk;
  let_next_start();
  wait_for_previous();
  float sums[kGroupRows * kChunk] = {};
#pragma unroll 4
  for (int64_t col = warp % splits * 32 + lane; col < p.cols; col += 32 * splits) {
    float x[kGroupRows];
#pragma unroll
    for (int i = 0; i < kGroupRows; ++i) x[i] = p.x[min(first_row + i, p.rows - 1) * p.x_row_stride + col];
#pragma unroll
    for (int half = 0; half < kChunk; half += 4) {
      const int64_t k = min(first_k + half, p.r - 1);
      const float* at = p.factor + col * p.r;
      const float4 f = quads ? *reinterpret_cast<const float4*>(at + min(k, p.r - 4)) : load_quad<false>(at, k, p.r);
#pragma unroll
      for (int i = 0; i < kGroupRows; ++i) {
        float* sum = sums + i * kChunk + half;
        sum[0] = fmaf(x[i], f.x, sum[0]);
        sum[1] = fmaf(x[i], f.y, sum[1]);
        sum[2] = fmaf(x[i], f.z, sum[2]);
        sum[3] = fmaf(x[i], f.w, sum[3]);
      }
    }
  }
  float total = transposing_sum<16>(sums);
  if (splits > 1 && !sum_warps(total)) return;
  const int64_t row = first_row + lane / kChunk, k = first_k + lane % kChunk;
  if (row < p.rows && k < p.r) p.over_cols[row * p.r + k] = p.scale * total;
}

__global__ void __launch_bounds__(kThreads)
    scale_matrix_kernel(const float* from, int64_t rows, int64_t cols, const float* row_scale, const float* col_scale, float* to) {
  let_next_start();
  wait_for_previous();
  for (int64_t i = first_index(); i < rows * cols; i += index_step()) {
    to[i] = from[i] * (row_scale ? row_scale[i / cols] : 1.0f) * (col_scale ? col_scale[i % cols] : 1.0f);
  }
}

// Parts of a row pass: `splits` parts of the rows, `column_blocks` of the columns.
struct PassParts {
  int64_t splits, column_blocks;
  int split_rows;
  float* over_rows;  // [splits, r, cols] or null
  float* over_cols;  // [column_blocks, rows, r] or null
};

// How the warps of a block lie over its rows and columns, and what they share.
template <int Across, bool OverCols>
struct PassMemory {
  static constexpr int kDown = kWarps / Across;  // groups of rows side by side
  static constexpr int kCols = 128 * Across;
  float small[kMostSplitRows * kChunk];
  float factor[OverCols ? kChunk * kCols : 1];
  float row_sums[OverCols ? Across * kMostSplitRows * kChunk : 1];
  float4 down[kDown > 1 ? (kDown - 1) * Across * 32 : 1];  // sums over rows, of one k at a time
};

// One block for 128 * Across columns, split_rows rows and kChunk of the rank. The next rows are on their way while the last are
// summed.
template <int Across, bool Vector, bool Drop, bool OverCols>
__global__ void __launch_bounds__(kPassThreads, 4) row_pass_kernel(const __grid_constant__ RowPass p, const __grid_constant__ PassParts parts) {
  using Memory = PassMemory<Across, OverCols>;
  constexpr int kStep = kGroupRows * Memory::kDown;
  extern __shared__ float4 raw_memory[];
  auto& memory = *reinterpret_cast<Memory*>(raw_memory);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, across = warp % Across, down = warp / Across;
  const int local = (across * 32 + lane) * 4;
  const int64_t first_col = static_cast<int64_t>(blockIdx.x) * Memory::kCols, col = first_col + local;
  const bool live = col < p.cols;
  const int64_t first_k = static_cast<int64_t>(blockIdx.z) * kChunk;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * parts.split_rows;
  const int rows = static_cast<int>(min(static_cast<int64_t>(parts.split_rows), p.rows - begin));
  const float* x_rows = p.x + begin * p.x_row_stride;

  const auto fetch = [&](float4 (&x)[kGroupRows], int row) {
#pragma unroll
    for (int i = 0; i < kGroupRows; ++i) {
      x[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (live && row + i < rows) x[i] = load_quad<Vector>(x_rows + (row + i) * p.x_row_stride, col, p.cols);
    }
  };
  let_next_start();
  wait_for_previous();
  float4 next[kGroupRows];
  fetch(next, down * kGroupRows);
  if (parts.over_rows) {
    for (int i = threadIdx.x; i < parts.split_rows * kChunk; i += kPassThreads) {
      const int64_t k = first_k + i % kChunk, row = begin + i / kChunk;
      const bool exists = i / kChunk < rows && k < p.r;
      memory.small[i] = exists ? p.small[row * p.small_row_stride + k] * (p.row_scale ? p.row_scale[row] : 1.0f) : 0.0f;
    }
  }
  if constexpr (OverCols) {
    for (int i = threadIdx.x; i < Memory::kCols * kChunk; i += kPassThreads) {
      const int64_t j = first_col + i / kChunk, k = first_k + i % kChunk;
      memory.factor[i % kChunk * Memory::kCols + i / kChunk] = j < p.cols && k < p.r ? p.factor[j * p.r + k] : 0.0f;
    }
  }
  __syncthreads();

  float4 sums[kChunk] = {};
  for (int row = down * kGroupRows; row < parts.split_rows; row += kStep) {
    float4 x[kGroupRows];
#pragma unroll
    for (int i = 0; i < kGroupRows; ++i) x[i] = next[i];
    fetch(next, row + kStep);
    if constexpr (Drop) {
#pragma unroll
      for (int i = 0; i < kGroupRows; ++i) x[i] = multiply(x[i], dropout_quad<Vector>(p.dropout, begin + row + i, col));
    }
    if (parts.over_rows) {
#pragma unroll
      for (int i = 0; i < kGroupRows; ++i) add_row(sums, memory.small + (row + i) * kChunk, x[i]);
    }
    if constexpr (OverCols) {
      float dots[kGroupRows * kChunk];
#pragma unroll
      for (int k = 0; k < kChunk; ++k) {
        const float4 f = *reinterpret_cast<const float4*>(memory.factor + k * Memory::kCols + local);
#pragma unroll
        for (int i = 0; i < kGroupRows; ++i) dots[i * kChunk + k] = add_dot(0.0f, x[i], f);
      }
      memory.row_sums[(across * parts.split_rows + row) * kChunk + lane] = transposing_sum<16>(dots);
    }
  }
  if (parts.over_rows) {
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      if constexpr (Memory::kDown > 1) {
        __syncthreads();
        if (down > 0) memory.down[((down - 1) * Across + across) * 32 + lane] = sums[k];
        __syncthreads();
        if (down > 0) continue;
#pragma unroll
        for (int other = 0; other + 1 < Memory::kDown; ++other) add_scaled(sums[k], 1.0f, memory.down[(other * Across + across) * 32 + lane]);
      }
      if (!live || first_k + k >= p.r) continue;
      float* to = parts.over_rows + (blockIdx.y * p.r + first_k + k) * p.cols + col;
      if constexpr (Vector) {
        *reinterpret_cast<float4*>(to) = sums[k];
      } else {
        const float values[4] = {sums[k].x, sums[k].y, sums[k].z, sums[k].w};
        for (int j = 0; j < 4 && col + j < p.cols; ++j) to[j] = values[j];
      }
    }
  }
  if constexpr (OverCols) {
    __syncthreads();
    for (int i = threadIdx.x; i < rows * kChunk; i += kPassThreads) {
      float sum = memory.row_sums[i];
#pragma unroll
      for (int w = 1; w < Across; ++w) sum += memory.row_sums[w * parts.split_rows * kChunk + i];
      const int64_t k = first_k + i % kChunk;
      if (k < p.r) parts.over_cols[(blockIdx.x * p.rows + begin + i / kChunk) * p.r + k] = sum;
    }
  }
}

// Elements of over_rows by the first `row_blocks` blocks, of over_cols by the others.
__global__ void __launch_bounds__(kThreads) add_pass_parts_kernel(const __grid_constant__ RowPass p, const PassParts parts, int64_t row_blocks) {
  constexpr int kPlaces = kThreads / kPartLanes;
  let_next_start();
  wait_for_previous();
  const bool is_row = blockIdx.x < row_blocks;
  const int64_t block = is_row ? blockIdx.x : blockIdx.x - row_blocks;
  const int64_t i = block * kPlaces + threadIdx.x % kPlaces;
  const int64_t size = is_row ? p.r * p.cols : p.rows * p.r;
  const float* from = is_row ? parts.over_rows : parts.over_cols;
  float sum = p.scale * add_parts(from + i, is_row ? parts.splits : parts.column_blocks, size, i < size);
  if (threadIdx.x >= kPlaces || i >= size) return;
  if (is_row) {
    if (p.col_scale) sum *= p.col_scale[i % p.cols];
    p.over_rows[p.transposed ? i % p.cols * p.r + i / p.cols : i] = sum;
  } else {
    p.over_cols[i] = sum;
  }
}

// over_cols alone.
Error sum_over_columns(const RowPass& p, const char* op) {
  const int64_t groups = ceil_div(p.rows, kGroupRows);
  const int splits = groups < 1024 && p.cols > 128 ? kWarps : 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(groups * splits, kWarps)), static_cast<unsigned>(ceil_div(p.r, kChunk)));
  return launch_early(sum_over_columns_kernel, grid, 32 * kWarps, op, p, splits, p.r % 4 == 0 && aligned_to(p.factor, 16));
}

// With Across warps of a block side by side.
template <int Across>
Error row_pass_across(const RowPass& p, const char* op) {
  using Both = PassMemory<Across, true>;
  using RowsAlone = PassMemory<Across, false>;
  constexpr int64_t kStep = kGroupRows * Both::kDown;
  const bool vector = is_vector(p.cols, p.x_row_stride, p.x);
  const int64_t chunks = ceil_div(p.r, kChunk);
  PassParts parts{};
  parts.column_blocks = ceil_div(p.cols, Both::kCols);
  const int64_t wanted = std::max<int64_t>(1, kPassBlocks / (parts.column_blocks * chunks));
  const int64_t split_rows = std::min(kMostSplitRows, std::max(kLeastSplitRows, ceil_div(ceil_div(p.rows, wanted), kStep) * kStep));
  parts.split_rows = static_cast<int>(split_rows);
  parts.splits = ceil_div(p.rows, split_rows);
  Scratch rows, cols;
  if (p.over_rows) MAMBATUNE_TRY(rows.reserve(parts.splits * p.r * p.cols));
  if (p.over_cols) MAMBATUNE_TRY(cols.reserve(parts.column_blocks * p.rows * p.r));
  parts.over_rows = rows.get();
  parts.over_cols = cols.get();
  const dim3 grid(static_cast<unsigned>(parts.column_blocks), static_cast<unsigned>(parts.splits), static_cast<unsigned>(chunks));
  Error error = nullptr;
  with_flags(
      [&](auto v, auto d) {
        constexpr bool kVector = decltype(v)::value, kDrop = decltype(d)::value;
        error = p.over_cols
                    ? launch_early_with_memory(row_pass_kernel<Across, kVector, false, true>, grid, kPassThreads, sizeof(Both), op, p, parts)
                    : launch_early_with_memory(row_pass_kernel<Across, kVector, kDrop, false>, grid, kPassThreads, sizeof(RowsAlone), op, p, parts);
      },
      vector, p.dropout.threshold > 0);
  MAMBATUNE_TRY(error);
  constexpr int64_t kPlaces = kThreads / kPartLanes;
  const int64_t row_blocks = p.over_rows ? ceil_div(p.r * p.cols, kPlaces) : 0, col_blocks = p.over_cols ? ceil_div(p.rows * p.r, kPlaces) : 0;
  return launch_early(add_pass_parts_kernel, static_cast<unsigned>(row_blocks + col_blocks), kThreads, op, p, parts, row_blocks);
}

}  // namespace

Error project(const Projection& p, const char* op) {
  if (p.rows == 0 || p.r == 0) return nullptr;
  const bool vector = is_vector(p.cols, p.x_row_stride, p.x) && aligned_to(p.factor, 16);
  const int64_t groups = ceil_div(p.rows, kGroupRows);
  const int splits = groups < 1024 ? kWarps : 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(groups * splits, kWarps)), static_cast<unsigned>(ceil_div(p.r, kChunk)));
  Error error = nullptr;
  with_flags(
      [&](auto v, auto d) {
        error = launch_early(project_kernel<decltype(v)::value, decltype(d)::value>, grid, 32 * kWarps, op, p, splits);
      },
      vector, p.dropout.threshold > 0);
  return error;
}

Error scale_matrix(const float* from, int64_t rows, int64_t cols, const float* row_scale, const float* col_scale, float* to, const char* op) {
  if (rows == 0 || cols == 0) return nullptr;
  return launch_early(scale_matrix_kernel, blocks_for(rows * cols), kThreads, op, from, rows, cols, row_scale, col_scale, to);
}

Error row_pass(const RowPass& p, const char* op) {
  if (p.r == 0 || p.cols == 0) return nullptr;
  if (!p.over_rows && p.rows > 0) return sum_over_columns(p, op);
  if (p.rows == 0) {
    return p.over_rows ? describe_error(cudaMemsetAsync(p.over_rows, 0, static_cast<size_t>(p.r * p.cols) * sizeof(float), stream()), op) : nullptr;
  }
  return p.cols <= 128 ? row_pass_across<1>(p, op) : row_pass_across<2>(p, op);
}

}  // namespace cuda
}  // namespace mambatune
