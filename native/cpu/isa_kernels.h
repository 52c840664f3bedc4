// SPDX-License-Identifier: Apache-2.0
// The ops that are compiled once for each instruction set, as a table.
#pragma once
#include "../include/device.h"

// X(op, its parameters)
#define MAMBATUNE_KERNELS(X)                       \
  X(selective_scan_fwd, SelectiveScanFwdParams)    \
  X(selective_scan_bwd, SelectiveScanBwdParams)    \
  X(causal_conv1d_fwd, CausalConv1dFwdParams)      \
  X(causal_conv1d_bwd, CausalConv1dBwdParams)      \
  X(rms_norm_fwd, RmsNormFwdParams)                \
  X(rms_norm_bwd, RmsNormBwdParams)                \
  X(lora_linear_fwd, LoraLinearFwdParams)          \
  X(lora_linear_bwd, LoraLinearBwdParams)          \
  X(lora_embedding_fwd, LoraEmbeddingFwdParams)    \
  X(lora_embedding_bwd, LoraEmbeddingBwdParams)    \
  X(linear_cross_entropy, LinearCrossEntropyParams) \
  X(global_norm, GlobalNormParams)                 \
  X(adamw_step, AdamwStepParams)                   \
  X(unary, UnaryParams)                            \
  X(binary, BinaryParams)                          \
  X(select, SelectParams)                          \
  X(reduce, ReduceParams)                          \
  X(cumsum, CumsumParams)                          \
  X(matmul, MatmulParams)                          \
  X(strided_copy, StridedCopyParams)               \
  X(gather, GatherParams)                          \
  X(cast, CastParams)                              \
  X(fill, FillParams)                              \
  X(softmax, SoftmaxParams)                        \
  X(choose_likeliest, ChooseLikeliestParams)

namespace mambatune {

// Names the instruction set to use instead of the best one.
constexpr const char* kIsaVariable = "MAMBATUNE_ISA_LEVEL";

struct IsaKernels {
  size_t (*selective_scan_checkpoint_size)(int64_t batch, int64_t seqlen, int64_t d_inner, int64_t d_state);
#define MAMBATUNE_FIELD(op, Params) Error (*op)(const Params&);
  MAMBATUNE_KERNELS(MAMBATUNE_FIELD)
#undef MAMBATUNE_FIELD
};

#if defined(__x86_64__)
namespace avx512 {
extern const IsaKernels kernels;
}
namespace avx2 {
extern const IsaKernels kernels;
}
#endif
namespace portable {
extern const IsaKernels kernels;
}

}  // namespace mambatune
