// SPDX-License-Identifier: Apache-2.0
// Contract of one position of every row through a Mamba layer, its state updated in place (src/model/mixer.ts has the formulas).
//
//   s = x + residual, x where there is none         xz = in_proj(norm(s))                u = silu(conv(conv_state, x of xz))
//   dt, B, C = x_proj(u)                             y = scan(ssm_state, u, dt_proj(dt), B, C, z of xz)
//   out = out_proj(y)
#pragma once
#include <cstdint>

#include "weight.h"

namespace mambatune {

// A projection with its adapter, as in lora_linear.h.
struct StepLinear {
  Weight W;
  const float* bias;  // [out] or null
  int64_t r;
  const float *lora_A, *lora_B;
  float scaling;
};

struct MambaLayer {
  int64_t d_model, d_inner, d_state, d_conv, dt_rank;  // 1 <= d_conv <= 8
  float eps;
  const float* norm;         // [d_model]
  StepLinear in_proj;        // [2 d_inner, d_model]
  const float* conv_weight;  // [d_inner, d_conv]
  const float* conv_bias;    // [d_inner] or null
  StepLinear x_proj;         // [dt_rank + 2 d_state, d_inner]
  StepLinear dt_proj;        // [d_inner, dt_rank]; its bias is the scan's
  const float* A;            // [d_inner, d_state]: -exp(A_log)
  const float* D;            // [d_inner]
  StepLinear out_proj;       // [d_model, d_inner]

  int64_t x_proj_width() const { return dt_rank + 2 * d_state; }
};

struct MambaLayerStepParams : MambaLayer {
  int64_t rows;
  const float *x, *residual;  // [rows, d_model]; residual may be null
  float* residual_out;        // [rows, d_model]: s; not written when residual is null
  float* out;                 // [rows, d_model]: the mixer's output, not yet added to s
  float* conv_state;          // [rows, d_conv - 1, d_inner]
  float* ssm_state;           // [rows, d_inner, d_state]
};

}  // namespace mambatune
