// SPDX-License-Identifier: Apache-2.0
// Contract of the depthwise causal convolution along time, with the SiLU that follows it fused.
//
//   pre_t[c] = bias[c] + sum_{k < d_conv} weight[c, k] * x_{t - (d_conv - 1) + k}[c]
//   y_t      = silu ? silu(pre_t) : pre_t
//
// x_{t < 0} is conv_state (zero when null). A tap that lies in another document (seq_idx differs from t's) is zero; the
// rows of conv_state belong to the document of t = 0.
#pragma once
#include <cstdint>

namespace mambatune {

struct CausalConv1dInputs {
  int64_t batch, seqlen, d_inner, d_conv;  // 1 <= d_conv <= 8
  const float* x;           // [batch, seqlen, d_inner], element (b, t, c) at x[(b * seqlen + t) * x_row_stride + c]
  int64_t x_row_stride;
  const float* weight;      // [d_inner, d_conv]
  const float* bias;        // [d_inner] or null
  const int32_t* seq_idx;   // [batch, seqlen] or null
  const float* conv_state;  // [batch, d_conv - 1, d_inner], oldest first, or null
  bool silu;
};

struct CausalConv1dFwdParams : CausalConv1dInputs {
  float* y;                // [batch, seqlen, d_inner]
  float* last_conv_state;  // [batch, d_conv - 1, d_inner] or null: the last d_conv - 1 inputs; may be conv_state's memory
};

// The backward of the layer y W^T + its adapter that reads the convolution's output, to be done along with the convolution's.
struct XProjBackward {
  int64_t n;            // rows of W; 0: there is no such layer, and all else here is 0 and null
  const float* dout;    // [batch, seqlen, n], contiguous: the gradient of the layer's output
  const float* W;       // [n, d_inner]
  int64_t r;            // 0: no adapter
  const float* dxa;     // [batch, seqlen, r], contiguous: scaling * dout lora_B
  const float* lora_A;  // [r, d_inner]
  float* dlora_A;       // [r, d_inner] or null
};

// Every output is overwritten; null means not wanted.
struct CausalConv1dBwdParams : CausalConv1dInputs {
  const float* dy;  // [batch, seqlen, d_inner], contiguous
  float* dx;        // [batch, seqlen, d_inner], row stride dx_row_stride
  int64_t dx_row_stride;
  float* dweight;  // [d_inner, d_conv] or null
  float* dbias;    // [d_inner] or null

  // With it, dy + dout W + dxa lora_A stands for dy, its products in TF32. Asks for silu and for neither conv_state, dweight nor dbias, on
  // a device whose causal_conv1d_bwd_takes_x_proj says yes.
  XProjBackward x_proj;
};

}  // namespace mambatune
