// SPDX-License-Identifier: Apache-2.0
// Both gradients of a linear layer's adapter without what the forward projected.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

// dlora_A = dxa^T x and dlora_B = scaling dy^T xa, with xa = x lora_A^T and dxa = scaling dy lora_B computed on the way.
struct AdapterGradients {
  int64_t rows, in, out, r;
  const float* x;  // [rows, in], row stride x_row_stride
  int64_t x_row_stride;
  const float* dy;      // [rows, out]
  const float* lora_A;  // [r, in]
  const float* lora_B;  // [out, r]
  float scaling;
  float* dlora_A;  // [r, in]
  float* dlora_B;  // [out, r]
};

// Whether a block of threads can hold a row of x and of dy; they must be aligned to 16 bytes then.
bool adapter_gradients_fit(int64_t in, int64_t out);
Error adapter_gradients(const AdapterGradients& p, const char* op);

}  // namespace cuda
}  // namespace mambatune
