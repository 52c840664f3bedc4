// SPDX-License-Identifier: Apache-2.0
// Contract of the language-model head and its loss in one op; the [rows, vocab_size] logits never exist, only a block of
// them (tens of rows) at a time.
//
//   logits = hidden W^T      loss_sum = sum over rows with labels[i] >= 0 of
//       logsumexp(logits[i]) - (1 - label_smoothing) logits[i, labels[i]] - label_smoothing mean(logits[i]) + z_loss logsumexp(logits[i])^2
//
// Rows whose label is negative (-100, the ignore index) cost no work. The gradients of loss_sum are computed in the same
// pass, where the block of logits is at hand, when dhidden or dW is wanted.
#pragma once
#include <cstdint>

#include "weight.h"

namespace mambatune {

struct LinearCrossEntropyParams {
  int64_t rows, d_model;
  const float* hidden;    // [rows, d_model]
  Weight W;               // [vocab_size, d_model]
  const int32_t* labels;  // [rows], < vocab_size: the caller has checked
  double label_smoothing; // share of the target that is spread evenly over the vocabulary; 0: none
  double z_loss;          // 0: none
  float* loss_sum;        // one float (accumulated in float64)
  float* count;           // one float: rows with a label
  float* dhidden;         // [rows, d_model] or null: d loss_sum / d hidden, zero in ignored rows
  float* dW;              // [vocab_size, d_model] or null
};

}  // namespace mambatune
