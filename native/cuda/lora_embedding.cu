// SPDX-License-Identifier: Apache-2.0
// Embedding lookup with a low-rank adapter. The gradients that scatter over the vocabulary sort the rows by id; a warp or a
// block then sums each id's rows in a fixed order. Forward: W's rows read once, out written once.
#include "launch.cuh"
#include "low_rank.cuh"
#include "sorted_rows.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr const char* kForwardOp = "lora_embedding forward";
constexpr const char* kBackwardOp = "lora_embedding backward";
constexpr int kRowsTogether = 4;
constexpr int64_t kGroupColumns = 128;  // threads that sum an id's rows of dout

// lora_B: scaled and transposed, [r, d_model]. Four rows a thread, one column (Width 1) or four.
template <int Width>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const __grid_constant__ LoraEmbeddingFwdParams p, const float* lora_B) {
  let_next_start();
  wait_for_previous();
  const int64_t columns = p.d_model / Width, groups = ceil_div(p.rows, kRowsTogether);
  for (int64_t index = first_index(); index < columns * groups; index += index_step()) {
    const int64_t col = index % columns * Width, first_row = index / columns * kRowsTogether;
    int32_t ids[kRowsTogether];
    float sums[kRowsTogether][Width];
#pragma unroll
    for (int i = 0; i < kRowsTogether; ++i) {
      ids[i] = p.ids[min(first_row + i, p.rows - 1)];
      const float* W = p.W + ids[i] * p.d_model + col;
      if constexpr (Width == 4) {
        *reinterpret_cast<float4*>(sums[i]) = *reinterpret_cast<const float4*>(W);
      } else {
        sums[i][0] = *W;
      }
    }
    for (int64_t k = 0; k < p.r; ++k) {
      float factor[Width];
#pragma unroll
      for (int j = 0; j < Width; ++j) factor[j] = lora_B[k * p.d_model + col + j];
#pragma unroll
      for (int i = 0; i < kRowsTogether; ++i) {
        const float a = p.lora_A[k * p.vocab_size + ids[i]];
#pragma unroll
        for (int j = 0; j < Width; ++j) sums[i][j] = fmaf(a, factor[j], sums[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsTogether; ++i) {
      if (first_row + i >= p.rows) break;
      float* out = p.out + (first_row + i) * p.d_model + col;
      if constexpr (Width == 4) {
        *reinterpret_cast<float4*>(out) = *reinterpret_cast<const float4*>(sums[i]);
      } else {
        *out = sums[i][0];
      }
    }
  }
}

// columns[i, k] = lora_A[k, ids[i]]
__global__ void __launch_bounds__(kThreads) gather_columns_kernel(LoraEmbeddingInputs p, float* columns) {
  for (int64_t i = first_index(); i < p.rows * p.r; i += index_step()) {
    columns[i] = p.lora_A[i % p.r * p.vocab_size + p.ids[i / p.r]];
  }
}

// One warp for each sorted position that starts an id's rows: dlora_A[k, id] = sum of columns[row, k]. The warp takes 8
// columns at a time, with four lanes for each that take every fourth row.
__global__ void __launch_bounds__(kThreads)
    sum_columns_kernel(const int32_t* ids, const int32_t* rows, const float* columns, int64_t count, int64_t r, int64_t vocab_size,
                       float* dlora_A) {
  const int64_t position = first_index() / 32;
  const int lane = threadIdx.x % 32;
  if (position >= count || !starts_group(ids, position)) return;
  const int32_t id = ids[position];
  for (int64_t first = 0; first < r; first += 8) {
    const int64_t k = first + lane % 8;
    float sum = 0.0f;
    for (int64_t at = position + lane / 8; at < count && ids[at] == id; at += 4) sum += k < r ? columns[rows[at] * r + k] : 0.0f;
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    if (lane < 8 && k < r) dlora_A[k * vocab_size + id] = sum;
  }
}

// One block for each sorted position that starts an id's rows: dW[id] = sum of dout[row], in row order.
__global__ void __launch_bounds__(kGroupColumns)
    sum_rows_kernel(const int32_t* ids, const int32_t* rows, const float* dout, int64_t count, int64_t d_model, float* dW) {
  const int64_t position = blockIdx.x;
  if (!starts_group(ids, position)) return;
  const int32_t id = ids[position];
  for (int64_t col = threadIdx.x; col < d_model; col += kGroupColumns) {
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t at = position; at < count && ids[at] == id; ++at) sum += dout[rows[at] * d_model + col];
    dW[id * d_model + col] = sum;
  }
}

Error zero(float* memory, int64_t floats) {
  return describe_error(cudaMemsetAsync(memory, 0, static_cast<size_t>(floats) * sizeof(float), stream()), kBackwardOp);
}

// to[k, j] = scaling lora_B[j, k]
__global__ void __launch_bounds__(kThreads) scaled_transpose_kernel(LoraEmbeddingInputs p, float* to) {
  for (int64_t i = first_index(); i < p.r * p.d_model; i += index_step()) to[i] = p.scaling * p.lora_B[i % p.d_model * p.r + i / p.d_model];
}

// dlora_B = scaling dout^T lora_A[:, ids]^T and dlora_A[:, ids[i]] += scaling lora_B^T dout[i], in one pass over dout.
Error adapter_gradients(const LoraEmbeddingBwdParams& p, const SortedRows& sorted) {
  Scratch gathered, columns;
  if (p.dlora_B) {
    MAMBATUNE_TRY(gathered.reserve(p.rows * p.r));
    gather_columns_kernel<<<blocks_for(p.rows * p.r), kThreads, 0, stream()>>>(p, gathered.get());
    MAMBATUNE_CHECK_LAUNCH(kBackwardOp);
  }
  if (p.dlora_A) MAMBATUNE_TRY(columns.reserve(p.rows * p.r));
  MAMBATUNE_TRY(row_pass({p.rows, p.d_model, p.r, p.dout, p.d_model, p.scaling, gathered.get(), p.r, p.dlora_B, true, p.lora_B, columns.get(),
                          Dropout()},
                         kBackwardOp));
  if (!p.dlora_A) return nullptr;
  const unsigned blocks = static_cast<unsigned>(ceil_div(p.rows * 32, kThreads));
  sum_columns_kernel<<<blocks, kThreads, 0, stream()>>>(sorted.ids, sorted.rows, columns.get(), p.rows, p.r, p.vocab_size, p.dlora_A);
  return describe_error(cudaGetLastError(), kBackwardOp);
}

}  // namespace

Error lora_embedding_fwd(const LoraEmbeddingFwdParams& p) {
  if (p.rows == 0 || p.d_model == 0) return nullptr;
  Scratch lora_B;
  if (p.r > 0) {
    MAMBATUNE_TRY(lora_B.reserve(p.r * p.d_model));
    scaled_transpose_kernel<<<blocks_for(p.r * p.d_model), kThreads, 0, stream()>>>(p, lora_B.get());
    MAMBATUNE_CHECK_LAUNCH(kForwardOp);
  }
  const int64_t groups = ceil_div(p.rows, kRowsTogether);
  if (p.d_model % 4 == 0 && aligned_to(p.W, 16) && aligned_to(p.out, 16)) {
    return launch_early(embedding_kernel<4>, blocks_for(groups * p.d_model / 4), kThreads, kForwardOp, p, lora_B.get());
  }
  return launch_early(embedding_kernel<1>, blocks_for(groups * p.d_model), kThreads, kForwardOp, p, lora_B.get());
}

Error lora_embedding_bwd(const LoraEmbeddingBwdParams& p) {
  const bool wants_A = p.r > 0 && p.dlora_A, wants_B = p.r > 0 && p.dlora_B;
  if (wants_A) MAMBATUNE_TRY(zero(p.dlora_A, p.r * p.vocab_size));
  if (p.dW) MAMBATUNE_TRY(zero(p.dW, p.vocab_size * p.d_model));
  if (p.rows == 0 || p.d_model == 0) return wants_B ? zero(p.dlora_B, p.d_model * p.r) : nullptr;
  SortedRows sorted;
  if (wants_A || p.dW) MAMBATUNE_TRY(sort_rows(p.ids, p.rows, p.vocab_size, &sorted, kBackwardOp));
  if (wants_A || wants_B) MAMBATUNE_TRY(adapter_gradients(p, sorted));
  if (!p.dW) return nullptr;
  sum_rows_kernel<<<static_cast<unsigned>(p.rows), kGroupColumns, 0, stream()>>>(sorted.ids, sorted.rows, p.dout, p.rows, p.d_model, p.dW);
  return describe_error(cudaGetLastError(), kBackwardOp);
}

}  // namespace cuda
}  // namespace mambatune
