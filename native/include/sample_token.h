// SPDX-License-Identifier: Apache-2.0
// Contract of the choice by chance: src/generation/sampling.ts on a device, row by row, with src/random.ts's numbers.
//
//   score  = logit, divided by the penalty (multiplied where negative) if the row has seen the token, then divided by the
//            temperature; each result is computed in float64 and rounded to float32
//   top_k  keeps the scores from the k-th largest on, ties with it too
//   top_p  of those, removes the least likely as long as what is removed sums to at most 1 - top_p, never the last one; of equal
//            scores at the edge the lower positions stay
//   min_p  keeps the scores from the largest + log_min_p on
//   choice = the first kept token at which the running sum of weights exceeds uniform * their total
//
// A weight is exp(score - largest), computed in float64 and rounded to a multiple of 2^-sample_weight_bits: sums of such integers do
// not depend on their order, and no total overflows.
#pragma once
#include <cstdint>

namespace mambatune {

inline int sample_weight_bits(int64_t cols) {
  int bits = 62;
  for (int64_t most = 1; most < cols; most *= 2) --bits;
  return bits;
}

// What a row without a choice leaves in choices; tokens gets 0 then.
constexpr int32_t kNotANumberChoice = -1;  // a logit is NaN
constexpr int32_t kNoChoice = -2;          // no score is above -infinity

struct SampleTokenParams {
  int64_t rows, cols, slots;  // 0 < cols < 2^31
  bool do_sample;             // false: the first of the largest scores, without a number drawn; top_k, top_p and log_min_p do nothing
  double temperature;
  int64_t top_k;              // 0: all
  double top_p;               // from 1 on: all
  double log_min_p;           // -infinity: all
  double penalty;
  uint64_t seed;
  uint32_t stream;
  const float* logits;         // [rows, cols]
  const int32_t* substreams;   // [rows]: the number drawn is word positions[row] of (seed, stream, substreams[row])
  int32_t* positions;          // [rows]: each goes up by one
  uint32_t* seen;              // [rows, ceil(cols / 32)]: bit t % 32 of word t / 32 for token t; the choice is added. Null: no penalty
  int32_t* tokens;             // [rows]: the choice
  int32_t* choices;            // [slots, rows]: the choice goes into the slot of counts[row] % slots
  int32_t* counts;             // [rows]: each goes up by one
};

}  // namespace mambatune
