// SPDX-License-Identifier: Apache-2.0
// Contract of RMSNorm with the residual addition before it fused.
//
//   s = residual ? x + residual : x         y = s * rsqrt(mean(s^2) + eps) * weight
#pragma once
#include <cstdint>

namespace mambatune {

struct RmsNormFwdParams {
  int64_t rows, d_model;
  const float* x;         // [rows, d_model]
  const float* residual;  // [rows, d_model] or null
  const float* weight;    // [d_model] or null (all ones)
  float eps;
  float* y;             // [rows, d_model]
  float* residual_out;  // [rows, d_model]: s; null when residual is null
  float* scales;        // [rows] or null: rsqrt(mean(s^2) + eps) of each row
};

struct RmsNormBwdParams {
  int64_t rows, d_model;
  const float* s;       // [rows, d_model]: x + residual of the forward
  const float* weight;  // [d_model] or null
  float eps;
  const float* dy;             // [rows, d_model]
  const float* dresidual_out;  // [rows, d_model] or null (zero): added to ds
  float* ds;                   // [rows, d_model]: the gradient of x and of residual alike
  float* dweight;              // [d_model] or null (not wanted)
};

}  // namespace mambatune
