// SPDX-License-Identifier: Apache-2.0
// Contract of a linear layer with an optional low-rank adapter (LoRA paper, section 4.1; PEFT's scaling and dropout).
//
//   y = x W^T + bias + scaling * (dropout(x) lora_A^T) lora_B^T
//
// dropout(x)[i, j] = keep(i * in + j) ? x[i, j] / (1 - p) : 0, keep(e) = word(e) >= ceil(p * 2^32), word(e) = lane e % 4 of
// Philox4x32-10(key = seed, counter = {e / 4 (64 bit), offset (64 bit)}).
#pragma once
#include <cstdint>

#include "weight.h"

namespace mambatune {

struct LoraLinearInputs {
  int64_t rows;          // of x
  const float* x;        // [rows, in], row stride x_row_stride; may be null in a backward that wants neither dlora_A nor dW
  int64_t x_row_stride;
  Weight W;              // [out, in]
  const float* bias;     // [out] or null
  int64_t r;             // 0: no adapter; lora_A and lora_B are null then
  const float* lora_A;   // [r, in]
  const float* lora_B;   // [out, r]
  float scaling;
  float dropout;         // p in [0, 1)
  uint64_t seed, offset;
  const uint32_t* dropout_step;  // device scalar: offset + dropout_step * 2^20 stands for offset; null: none
};

struct LoraLinearFwdParams : LoraLinearInputs {
  float* y;              // [rows, out], row stride y_row_stride
  int64_t y_row_stride;
  float* xa;             // [rows, r], row stride xa_row_stride: dropout(x) lora_A^T, kept for the backward; null when r is 0 or the
  int64_t xa_row_stride;  // device does not keep it. May lie behind y in the same rows, where a device can compute both in one product
};

// Every output but an accumulated dx is overwritten; null means not wanted and costs no work.
struct LoraLinearBwdParams : LoraLinearInputs {
  // [rows] and [in], together or both null: x[i, j] stands for x_row_scale[i] * x_col_scale[j] * x[i, j], as a normed x does; dW is null
  const float* x_row_scale;
  const float* x_col_scale;
  const float* xa;  // [rows, r], row stride xa_row_stride: as written by the forward; null when r is 0 or the device does not keep it: x is needed then
  int64_t xa_row_stride;
  const float* dy;  // [rows, out], contiguous; null: dxa holds what an earlier call wrote there, and only dlora_A is computed
  float* dxa;       // [rows, r] or null: scaling * dy lora_B, written when there is a dy
  float* dx;        // [rows, in], row stride dx_row_stride; or null
  int64_t dx_row_stride;
  bool accumulate;  // add to what dx holds
  float* dlora_A;   // [r, in] or null
  float* dlora_B;   // [out, r] or null
  float* dW;        // [out, in] or null
  float* dbias;     // [out] or null
};

}  // namespace mambatune
