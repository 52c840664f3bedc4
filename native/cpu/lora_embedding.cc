// SPDX-License-Identifier: Apache-2.0
// Embedding lookup with a low-rank adapter. Sums over rows run in row order, split over columns, never over rows.
#include <cstring>

#include "gemm.h"
#include "memory.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int64_t kRowsPerTask = 16;

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

// to[r, d_model] = scaling * lora_B^T
Error scaled_transposed_lora_B(const LoraEmbeddingInputs& in, Workspace* to) {
  if (Error error = to->reserve(in.r * in.d_model)) return error;
  for (int64_t c = 0; c < in.d_model; ++c) {
    for (int64_t j = 0; j < in.r; ++j) to->data[j * in.d_model + c] = in.scaling * in.lora_B[c * in.r + j];
  }
  return nullptr;
}

void fill_zero(float* memory, int64_t count) {
  constexpr int64_t kFloats = int64_t{1} << 18;
  parallel_for((count + kFloats - 1) / kFloats, [&](int64_t task, int) {
    std::memset(memory + task * kFloats, 0, static_cast<size_t>(min(kFloats, count - task * kFloats)) * sizeof(float));
  });
}

// dlora_A[:, ids[i]] += scaling * lora_B^T dout[i]
Error lora_A_gradient(const LoraEmbeddingBwdParams& p) {
  fill_zero(p.dlora_A, p.r * p.vocab_size);
  Workspace lora_B, columns;
  if (Error error = scaled_transposed_lora_B(p, &lora_B)) return error;
  if (Error error = columns.reserve(p.rows * p.r)) return error;
  GemmParams g{};
  g.m = p.rows, g.n = p.r, g.k = p.d_model;
  g.a = {p.dout, p.d_model, false};
  g.b = {lora_B.data, p.d_model, true};
  g.c = columns.data, g.c_row_stride = p.r;
  if (Error error = gemm(g)) return error;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t j = 0; j < p.r; ++j) p.dlora_A[j * p.vocab_size + p.ids[i]] += columns.data[i * p.r + j];
  }
  return nullptr;
}

// dlora_B = scaling * dout^T lora_A[:, ids]^T, computed as its transpose.
Error lora_B_gradient(const LoraEmbeddingBwdParams& p) {
  Workspace columns, transposed;
  if (Error error = columns.reserve(p.rows * p.r)) return error;
  if (Error error = transposed.reserve(p.r * p.d_model)) return error;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t j = 0; j < p.r; ++j) columns.data[i * p.r + j] = p.scaling * p.lora_A[j * p.vocab_size + p.ids[i]];
  }
  GemmParams g{};
  g.m = p.r, g.n = p.d_model, g.k = p.rows;
  g.a = {columns.data, p.r, true};
  g.b = {p.dout, p.d_model, false};
  g.c = transposed.data, g.c_row_stride = p.d_model;
  if (Error error = gemm(g)) return error;
  for (int64_t j = 0; j < p.r; ++j) {
    for (int64_t c = 0; c < p.d_model; ++c) p.dlora_B[c * p.r + j] = transposed.data[j * p.d_model + c];
  }
  return nullptr;
}

void weight_gradient(const LoraEmbeddingBwdParams& p) {
  constexpr int64_t kCols = 64;
  fill_zero(p.dW, p.vocab_size * p.d_model);
  parallel_for((p.d_model + kCols - 1) / kCols, [&](int64_t task, int) {
    const int64_t begin = task * kCols, end = min(p.d_model, begin + kCols);
    for (int64_t i = 0; i < p.rows; ++i) {
      float* to = p.dW + p.ids[i] * p.d_model;
      const float* from = p.dout + i * p.d_model;
      for (int64_t c = begin; c < end; ++c) to[c] += from[c];
    }
  });
}

}  // namespace

Error lora_embedding_fwd(const LoraEmbeddingFwdParams& p) {
  Workspace lora_B;
  if (p.r > 0) {
    if (Error error = scaled_transposed_lora_B(p, &lora_B)) return error;
  }
  parallel_for((p.rows + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    for (int64_t i = task * kRowsPerTask; i < min(p.rows, (task + 1) * kRowsPerTask); ++i) {
      float* out = p.out + i * p.d_model;
      std::memcpy(out, p.W + p.ids[i] * p.d_model, static_cast<size_t>(p.d_model) * sizeof(float));
      for (int64_t j = 0; j < p.r; ++j) {
        const float a = p.lora_A[j * p.vocab_size + p.ids[i]];
        const float* b = lora_B.data + j * p.d_model;
        for (int64_t c = 0; c < p.d_model; ++c) out[c] += a * b[c];
      }
    }
  });
  return nullptr;
}

Error lora_embedding_bwd(const LoraEmbeddingBwdParams& p) {
  if (p.r > 0 && p.dlora_A) {
    if (Error error = lora_A_gradient(p)) return error;
  }
  if (p.r > 0 && p.dlora_B) {
    if (Error error = lora_B_gradient(p)) return error;
  }
  if (p.dW) weight_gradient(p);
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
