// SPDX-License-Identifier: Apache-2.0
// Contract of the selective scan (Mamba paper, section 3.2 and algorithm 2), forward and backward.
//
//   delta' = delta_softplus ? softplus(delta + delta_bias) : delta + delta_bias      (softplus(x) = x for x > 20)
//   h_t    = exp(delta'_t * A) * h_{t-1} + delta'_t * B_t * u_t                        h: [d_inner, d_state]
//   out_t  = (sum_n C_t[n] * h_t[., n] + D * u_t) * (z ? silu(z_t) : 1)
//
// h_{-1} is h0 (zero when null). Where seq_idx[t] != seq_idx[t - 1], t > 0, h_{t-1} is taken as zero: documents packed in
// one row do not see each other.
#pragma once
#include <cstdint>

namespace mambatune {

// Element (b, t, c) of a [batch, seqlen, channels] operand lies at base[(b * seqlen + t) * row_stride + c].
struct SelectiveScanInputs {
  int64_t batch, seqlen, d_inner, d_state;
  const float* u;           // [batch, seqlen, d_inner]
  int64_t u_row_stride;
  const float* delta;       // [batch, seqlen, d_inner]
  int64_t delta_row_stride;
  const float* A;           // [d_inner, d_state]
  const float* B;           // [batch, seqlen, d_state]
  int64_t B_row_stride;
  const float* C;           // [batch, seqlen, d_state]
  int64_t C_row_stride;
  const float* D;           // [d_inner] or null
  const float* z;           // [batch, seqlen, d_inner] or null
  int64_t z_row_stride;
  const float* delta_bias;  // [d_inner] or null
  const int32_t* seq_idx;   // [batch, seqlen] or null
  const float* h0;          // [batch, d_inner, d_state] or null
  bool delta_softplus;
};

struct SelectiveScanFwdParams : SelectiveScanInputs {
  float* out;          // [batch, seqlen, d_inner]
  float* last_state;   // [batch, d_inner, d_state] or null; may be the same memory as h0
  float* checkpoints;  // selective_scan_checkpoint_size() floats, or null when no backward will follow
};

// Every output is overwritten, never accumulated into; null means not wanted and costs no work.
struct SelectiveScanBwdParams : SelectiveScanInputs {
  const float* checkpoints;   // as written by the forward of the same inputs
  const float* dout;          // [batch, seqlen, d_inner], contiguous
  const float* dlast_state;   // [batch, d_inner, d_state] or null (zero)
  float* du;                  // [batch, seqlen, d_inner], row stride du_row_stride
  int64_t du_row_stride;
  float* ddelta;              // [batch, seqlen, d_inner], row stride ddelta_row_stride; gradient of the raw delta
  int64_t ddelta_row_stride;  // may be delta's memory, with its row stride
  float* dB;                  // [batch, seqlen, d_state], row stride dB_row_stride
  int64_t dB_row_stride;
  float* dC;                  // [batch, seqlen, d_state], row stride dC_row_stride
  int64_t dC_row_stride;
  float* dz;                  // [batch, seqlen, d_inner], row stride dz_row_stride; null iff z is null
  int64_t dz_row_stride;
  float* dA;                  // [d_inner, d_state] or null
  float* dD;                  // [d_inner] or null
  float* ddelta_bias;         // [d_inner] or null
  float* dh0;                 // [batch, d_inner, d_state] or null
  float* out;                 // [batch, seqlen, d_inner] or null: the forward's output again; may be dout's memory
};

}  // namespace mambatune
