// SPDX-License-Identifier: Apache-2.0
// The backward of the convolution with that of x_proj in it.
#pragma once
#include "common.cuh"

namespace mambatune {
namespace cuda {

constexpr const char* kConvBackwardOp = "causal_conv1d backward";

// Of a call with an x_proj.
Error causal_conv1d_x_proj_bwd(const CausalConv1dBwdParams& p);

}  // namespace cuda
}  // namespace mambatune
