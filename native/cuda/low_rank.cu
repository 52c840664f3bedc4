// SPDX-License-Identifier: Apache-2.0
// All of these are bound by reading or writing the large matrix once, 16 bytes a load; eight of the small one's rows or columns
// are worked on at a time, more by reading the large one again.
#include "low_rank.cuh"

#include <algorithm>
#include <type_traits>

#include "launch.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kChunk = 8;       // of the rank
constexpr int kWarpRows = 4;    // rows of x that a warp projects together: kWarpRows * kChunk sums, one a lane
constexpr int kWarps = 4;
constexpr int kSumRows = 8;     // rows of y that a thread adds to
constexpr int kGradientThreads = 128;
constexpr int64_t kGradientBlocks = 528;   // wanted: four for each of an H100's processors
constexpr int64_t kLeastSplitRows = 32;

// Four neighbouring elements of a row; beyond the row's end zero.
template <bool Vector>
__device__ __forceinline__ float4 load_quad(const float* row, int64_t col, int64_t cols) {
  if constexpr (Vector) return *reinterpret_cast<const float4*>(row + col);
  return make_float4(row[col], col + 1 < cols ? row[col + 1] : 0.0f, col + 2 < cols ? row[col + 2] : 0.0f,
                     col + 3 < cols ? row[col + 3] : 0.0f);
}

template <bool Vector>
__device__ __forceinline__ float4 dropout_quad(const Dropout& dropout, int64_t row, int64_t col) {
  const int64_t element = row * dropout.cols + col;
  if constexpr (Vector) return dropout.factors(element);
  return dropout.factors_from(element);
}

__device__ __forceinline__ float4 multiply(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }

__device__ __forceinline__ void store_widened(const Projection& p, int64_t row, int64_t col, float4 x) {
  const float values[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (col + j >= p.cols) return;
    if (p.widened) {
      p.widened[row * p.width + col + j] = values[j];
    } else {
      p.widened_half[row * p.width + col + j] = __float2bfloat16_rn(values[j]);
    }
  }
}

// Every lane comes with 2 * Half partial sums and leaves with the total of the one of its number.
template <int Half>
__device__ __forceinline__ float transposing_sum(float* sums) {
  const bool upper = threadIdx.x & Half;
#pragma unroll
  for (int i = 0; i < Half; ++i) {
    const float sent = upper ? sums[i] : sums[i + Half];
    const float kept = upper ? sums[i + Half] : sums[i];
    sums[i] = kept + __shfl_xor_sync(0xffffffffu, sent, Half);
  }
  if constexpr (Half > 1) return transposing_sum<Half / 2>(sums);
  return sums[0];
}

// A group of `splits` warps (1 or kWarps) projects kWarpRows rows, each warp every splits-th part of them.
template <bool Vector, bool Drop>
__global__ void __launch_bounds__(32 * kWarps) project_kernel(Projection p, int splits) {
  __shared__ float parts[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int part = warp % splits;
  const int64_t group = static_cast<int64_t>(blockIdx.x) * (kWarps / splits) + warp / splits;
  const int64_t first_k = static_cast<int64_t>(blockIdx.y) * kChunk;
  const int64_t first_row = group * kWarpRows;
  const float *x[kWarpRows], *factor[kChunk];
#pragma unroll
  for (int i = 0; i < kWarpRows; ++i) x[i] = p.x + min(first_row + i, p.rows - 1) * p.x_row_stride;
#pragma unroll
  for (int k = 0; k < kChunk; ++k) factor[k] = p.factor + min(first_k + k, p.r - 1) * p.cols;
  const bool widens = (p.widened || p.widened_half) && blockIdx.y == 0;
  float sums[kWarpRows * kChunk] = {};
  for (int64_t col = (part * 32 + lane) * 4; col < p.cols; col += 128 * splits) {
    float4 values[kWarpRows];
#pragma unroll
    for (int i = 0; i < kWarpRows; ++i) values[i] = load_quad<Vector>(x[i], col, p.cols);
    if (widens) {
#pragma unroll
      for (int i = 0; i < kWarpRows; ++i) {
        if (first_row + i >= p.rows) continue;
        if (Vector && p.widened) {
          *reinterpret_cast<float4*>(p.widened + (first_row + i) * p.width + col) = values[i];
        } else if (Vector) {
          const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(values[i].x, values[i].y), __floats2bfloat162_rn(values[i].z, values[i].w)};
          *reinterpret_cast<uint2*>(p.widened_half + (first_row + i) * p.width + col) = *reinterpret_cast<const uint2*>(pair);
        } else {
          store_widened(p, first_row + i, col, values[i]);
        }
      }
    }
    if constexpr (Drop) {
#pragma unroll
      for (int i = 0; i < kWarpRows; ++i) values[i] = multiply(values[i], dropout_quad<Vector>(p.dropout, first_row + i, col));
    }
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      const float4 f = load_quad<Vector>(factor[k], col, p.cols);
#pragma unroll
      for (int i = 0; i < kWarpRows; ++i) {
        float& sum = sums[i * kChunk + k];
        sum = fmaf(values[i].x, f.x, sum);
        sum = fmaf(values[i].y, f.y, sum);
        sum = fmaf(values[i].z, f.z, sum);
        sum = fmaf(values[i].w, f.w, sum);
      }
    }
  }
  float total = transposing_sum<16>(sums);
  if (splits > 1) {
    parts[warp][lane] = total;
    __syncthreads();
    if (warp > 0) return;
    total = parts[0][lane];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) total += parts[i][lane];
  }
  const int64_t row = first_row + lane / kChunk, k = first_k + lane % kChunk;
  if (row >= p.rows) return;
  if (k < p.r) p.out[row * p.r + k] = total;
  const int64_t col = p.cols + k;
  if (col >= p.width) return;
  const float appended = k < p.r ? p.widened_scale * total : 0.0f;
  if (p.widened) p.widened[row * p.width + col] = appended;
  if (p.widened_half) p.widened_half[row * p.width + col] = __float2bfloat16_rn(appended);
}

// One block for 4 * kGradientThreads columns, `split_rows` rows and kChunk of the rank: partial[split, k, col].
template <bool Vector, bool Drop>
__global__ void __launch_bounds__(kGradientThreads) project_gradient_kernel(ProjectionGradient p, int64_t split_rows, float* partial) {
  const int64_t col = (static_cast<int64_t>(blockIdx.x) * kGradientThreads + threadIdx.x) * 4;
  if (col >= p.cols) return;
  const int64_t first_k = static_cast<int64_t>(blockIdx.z) * kChunk;
  const int64_t begin = blockIdx.y * split_rows, end = min(begin + split_rows, p.rows);
  const bool whole = p.r % 4 == 0 && first_k + kChunk <= p.r;
  float4 sums[kChunk] = {};
#pragma unroll 4
  for (int64_t row = begin; row < end; ++row) {
    float4 x = load_quad<Vector>(p.x + row * p.x_row_stride, col, p.cols);
    if constexpr (Drop) x = multiply(x, dropout_quad<Vector>(p.dropout, row, col));
    const float* small = p.small + row * p.r + first_k;
    alignas(16) float factors[kChunk];
    if (whole) {
#pragma unroll
      for (int k = 0; k < kChunk; k += 4) *reinterpret_cast<float4*>(factors + k) = __ldg(reinterpret_cast<const float4*>(small + k));
    } else {
#pragma unroll
      for (int k = 0; k < kChunk; ++k) factors[k] = first_k + k < p.r ? __ldg(small + k) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      sums[k].x = fmaf(factors[k], x.x, sums[k].x);
      sums[k].y = fmaf(factors[k], x.y, sums[k].y);
      sums[k].z = fmaf(factors[k], x.z, sums[k].z);
      sums[k].w = fmaf(factors[k], x.w, sums[k].w);
    }
  }
#pragma unroll
  for (int k = 0; k < kChunk; ++k) {
    if (first_k + k >= p.r) break;
    float* to = partial + (blockIdx.y * p.r + first_k + k) * p.cols + col;
    const float values[4] = {sums[k].x, sums[k].y, sums[k].z, sums[k].w};
    for (int j = 0; j < 4 && col + j < p.cols; ++j) to[j] = values[j];
  }
}

__global__ void __launch_bounds__(kThreads) add_splits_kernel(ProjectionGradient p, int64_t splits, const float* partial) {
  const int64_t size = p.r * p.cols;
  for (int64_t i = first_index(); i < size; i += index_step()) {
    float sum = 0.0f;
#pragma unroll 8
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * size + i];
    p.out[p.transposed ? i % p.cols * p.r + i / p.cols : i] = p.scale * sum;
  }
}

template <bool Vector, bool Drop>
__global__ void __launch_bounds__(kThreads) add_low_rank_kernel(LowRankSum p) {
  const int64_t quads = ceil_div(p.cols, 4), groups = ceil_div(p.rows, kSumRows);
  for (int64_t index = first_index(); index < quads * groups; index += index_step()) {
    const int64_t col = index % quads * 4, first_row = index / quads * kSumRows;
    const float* small[kSumRows];
#pragma unroll
    for (int i = 0; i < kSumRows; ++i) small[i] = p.small + min(first_row + i, p.rows - 1) * p.r;
    float4 sums[kSumRows] = {};
    for (int64_t k = 0; k < p.r; k += 4) {
      float4 u[kSumRows];
      const bool whole = p.r % 4 == 0;
#pragma unroll
      for (int i = 0; i < kSumRows; ++i) u[i] = whole ? *reinterpret_cast<const float4*>(small[i] + k) : load_quad<false>(small[i], k, p.r);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (k + j >= p.r) break;
        const float4 f = load_quad<Vector>(p.factor + (k + j) * p.cols, col, p.cols);
#pragma unroll
        for (int i = 0; i < kSumRows; ++i) {
          const float s = j == 0 ? u[i].x : j == 1 ? u[i].y : j == 2 ? u[i].z : u[i].w;
          sums[i].x = fmaf(s, f.x, sums[i].x);
          sums[i].y = fmaf(s, f.y, sums[i].y);
          sums[i].z = fmaf(s, f.z, sums[i].z);
          sums[i].w = fmaf(s, f.w, sums[i].w);
        }
      }
    }
    const float4 bias = p.bias ? load_quad<Vector>(p.bias, col, p.cols) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kSumRows; ++i) {
      const int64_t row = first_row + i;
      if (row >= p.rows) break;
      float4 sum = sums[i];
      if constexpr (Drop) sum = multiply(sum, dropout_quad<Vector>(p.dropout, row, col));
      float* y = p.y + row * p.cols + col;
      const float4 old = load_quad<Vector>(p.y + row * p.cols, col, p.cols);
      const float4 now = make_float4(old.x + bias.x + sum.x, old.y + bias.y + sum.y, old.z + bias.z + sum.z, old.w + bias.w + sum.w);
      if constexpr (Vector) {
        *reinterpret_cast<float4*>(y) = now;
      } else {
        const float values[4] = {now.x, now.y, now.z, now.w};
        for (int j = 0; j < 4 && col + j < p.cols; ++j) y[j] = values[j];
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) scaled_transpose_kernel(const float* from, int64_t rows, int64_t cols, float scale, float* to) {
  for (int64_t i = first_index(); i < rows * cols; i += index_step()) to[i] = scale * from[i % rows * cols + i / rows];
}

// Calls with the two flags as types.
template <class Use>
void with_flags(bool vector, bool drop, Use use) {
  using Yes = std::integral_constant<bool, true>;
  using No = std::integral_constant<bool, false>;
  if (vector) {
    drop ? use(Yes(), Yes()) : use(Yes(), No());
  } else {
    drop ? use(No(), Yes()) : use(No(), No());
  }
}

}  // namespace

Error project(const Projection& p, const char* op) {
  if (p.rows == 0) return nullptr;
  const bool vector = p.cols % 4 == 0 && p.x_row_stride % 4 == 0 && aligned_to(p.x, 16) && aligned_to(p.factor, 16) &&
                      (!p.widened || (aligned_to(p.widened, 16) && p.width % 4 == 0)) &&
                      (!p.widened_half || (aligned_to(p.widened_half, 8) && p.width % 4 == 0));
  const int64_t groups = ceil_div(p.rows, kWarpRows);
  const int splits = groups < 1024 ? kWarps : 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(groups * splits, kWarps)), static_cast<unsigned>(ceil_div(p.r, kChunk)));
  with_flags(vector, p.dropout.threshold > 0, [&](auto v, auto d) {
    project_kernel<decltype(v)::value, decltype(d)::value><<<grid, 32 * kWarps, 0, stream()>>>(p, splits);
  });
  return describe_error(cudaGetLastError(), op);
}

Error project_gradient(const ProjectionGradient& p, const char* op) {
  if (p.r == 0 || p.cols == 0) return nullptr;
  if (p.rows == 0) return describe_error(cudaMemsetAsync(p.out, 0, static_cast<size_t>(p.r * p.cols) * sizeof(float), stream()), op);
  const bool vector = p.cols % 4 == 0 && p.x_row_stride % 4 == 0 && aligned_to(p.x, 16);
  const int64_t column_blocks = ceil_div(p.cols, 4 * kGradientThreads), chunks = ceil_div(p.r, kChunk);
  const int64_t wanted = std::max<int64_t>(1, kGradientBlocks / (column_blocks * chunks));
  const int64_t split_rows = std::max(kLeastSplitRows, ceil_div(p.rows, wanted)), splits = ceil_div(p.rows, split_rows);
  Scratch partial;
  MAMBATUNE_TRY(partial.reserve(splits * p.r * p.cols));
  const dim3 grid(static_cast<unsigned>(column_blocks), static_cast<unsigned>(splits), static_cast<unsigned>(chunks));
  with_flags(vector, p.dropout.threshold > 0, [&](auto v, auto d) {
    project_gradient_kernel<decltype(v)::value, decltype(d)::value><<<grid, kGradientThreads, 0, stream()>>>(p, split_rows, partial.get());
  });
  MAMBATUNE_CHECK_LAUNCH(op);
  add_splits_kernel<<<blocks_for(p.r * p.cols), kThreads, 0, stream()>>>(p, splits, partial.get());
  return describe_error(cudaGetLastError(), op);
}

Error add_low_rank(const LowRankSum& p, const char* op) {
  if (p.rows == 0 || p.cols == 0) return nullptr;
  const bool vector = p.cols % 4 == 0 && aligned_to(p.y, 16) && aligned_to(p.factor, 16) && aligned_to(p.bias, 16);
  const unsigned blocks = blocks_for(ceil_div(p.cols, 4) * ceil_div(p.rows, kSumRows));
  with_flags(vector, p.dropout.threshold > 0, [&](auto v, auto d) {
    add_low_rank_kernel<decltype(v)::value, decltype(d)::value><<<blocks, kThreads, 0, stream()>>>(p);
  });
  return describe_error(cudaGetLastError(), op);
}

Error scaled_transpose(const float* from, int64_t rows, int64_t cols, float scale, float* to, const char* op) {
  if (rows * cols == 0) return nullptr;
  scaled_transpose_kernel<<<blocks_for(rows * cols), kThreads, 0, stream()>>>(from, rows, cols, scale, to);
  return describe_error(cudaGetLastError(), op);
}

}  // namespace cuda
}  // namespace mambatune
