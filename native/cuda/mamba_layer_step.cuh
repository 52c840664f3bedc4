// SPDX-License-Identifier: Apache-2.0
// The kernels of one position of a layer that are no op by themselves.
#pragma once
#include <cuda_bf16.h>

#include "../include/mamba_layer_step.h"
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr int64_t kMostStepRank = 16;  // of an adapter whose projection every block makes for itself

// The norm with the residual addition, in_proj, and the convolution with its state, of up to kMostFewRows rows:
//   s = x + residual       x, z = in_proj(norm(s))       u = silu(conv(conv_state, x))
struct InProjStep {
  int64_t rows, d_model, d_inner, d_conv;
  const float *x, *residual;  // [rows, d_model]; residual may be null
  const float* norm;          // [d_model]
  float eps;
  float* residual_out;        // [rows, d_model]: s, where there is a residual
  const float* W;             // [2 d_inner, d_model]
  const __nv_bfloat16* half;  // W in bfloat16, or null
  const float* bias;          // [2 d_inner] or null
  int64_t r;                  // up to kMostStepRank
  const float *lora_A, *lora_B;
  float scaling;
  const float* conv_weight;  // [d_inner, d_conv]
  const float* conv_bias;    // [d_inner] or null
  float* conv_state;         // [rows, d_conv - 1, d_inner]
  float *u, *z;              // [rows, d_inner]
  bool frozen;               // the kernel just before this one writes no parameter
};

bool in_proj_step_fits(const InProjStep& p);
Error in_proj_step(const InProjStep& p);

// dt_proj and the scan, of any number of rows:
//   delta = softplus(dt_proj(dt) + delta_bias)      h = exp(delta A) h + delta u B      y = (C h + D u) silu(z)
struct ScanStep {
  int64_t rows, d_inner, d_state, dt_rank;
  const float* projected;  // [rows, dt_rank + 2 d_state]: dt, B, C
  const float* u;          // [rows, d_inner]
  const float* z;          // [rows, d_inner], row stride z_row_stride
  int64_t z_row_stride;
  const float* W;           // [d_inner, dt_rank]
  const float* delta_bias;  // [d_inner] or null
  int64_t r;
  const float *lora_A, *lora_B;
  float scaling;
  const float* A;  // [d_inner, d_state]
  const float* D;  // [d_inner]
  float* h;        // [rows, d_inner, d_state]
  float* y;        // [rows, d_inner]
  bool frozen;     // the kernel just before this one writes no parameter
};

Error scan_step(const ScanStep& p);

}  // namespace cuda
}  // namespace mambatune
