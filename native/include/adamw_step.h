// SPDX-License-Identifier: Apache-2.0
// Contract of the optimizer: one call for all parameters. Decoupled weight decay as in torch.optim.AdamW:
//
//   g = grad * clip          clip = max_grad_norm > 0 ? min(1, max_grad_norm / (norm + 1e-6)) : 1
//   p -= lr * weight_decay * p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p -= lr * (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)
#pragma once
#include <cstdint>

namespace mambatune {

// The groups are parallel arrays of `count` entries in host memory; the pointers in them are device memory.
struct AdamwStepParams {
  int64_t count;
  float* const* param;
  const float* const* grad;
  float* const* exp_avg;
  float* const* exp_avg_sq;
  const int64_t* size;           // elements of each
  const float* learning_rate;    // of each entry
  const float* weight_decay;     // of each entry
  double beta1, beta2;           // 1 - beta is taken before it is rounded to float32, as torch does
  float eps;
  int64_t step;                  // 1 for the first
  const float* schedule;         // device: {learning rate of every entry, step}, in place of the two above; null: those count
  const float* grad_norm;        // device scalar from global_norm; null: no clipping. Not finite: nothing is updated
  float max_grad_norm;           // <= 0: no clipping
};

// norm = sqrt(sum of squares of all gradients), accumulated in float64 in a fixed order.
struct GlobalNormParams {
  int64_t count;
  const float* const* grad;
  const int64_t* size;
  float* norm;  // device scalar
};

}  // namespace mambatune
