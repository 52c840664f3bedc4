// SPDX-License-Identifier: Apache-2.0
// Contract of an embedding lookup with an optional low-rank adapter, PEFT's form:
//
//   out[i] = W[ids[i]] + scaling * lora_embedding_B lora_embedding_A[:, ids[i]]
#pragma once
#include <cstdint>

namespace mambatune {

struct LoraEmbeddingInputs {
  int64_t rows, vocab_size, d_model;
  const int32_t* ids;  // [rows], each in [0, vocab_size): the caller has checked
  const float* W;      // [vocab_size, d_model]
  int64_t r;           // 0: no adapter
  const float* lora_A; // [r, vocab_size]
  const float* lora_B; // [d_model, r]
  float scaling;
};

struct LoraEmbeddingFwdParams : LoraEmbeddingInputs {
  float* out;  // [rows, d_model]
};

// Every output is overwritten; null means not wanted. Sums over rows run in row order: two runs give the same bits.
struct LoraEmbeddingBwdParams : LoraEmbeddingInputs {
  const float* dout;  // [rows, d_model]
  float* dlora_A;     // [r, vocab_size] or null
  float* dlora_B;     // [d_model, r] or null
  float* dW;          // [vocab_size, d_model] or null
};

}  // namespace mambatune
