// SPDX-License-Identifier: Apache-2.0
// Every function of the device's table, by the name it has there.
#pragma once
#include "../include/device.h"

#define MAMBATUNE_CUDA_OPS(X)                      \
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
  X(mamba_layer_step, MambaLayerStepParams)        \
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
  X(choose_likeliest, ChooseLikeliestParams)       \
  X(sample_token, SampleTokenParams)

namespace mambatune {
namespace cuda {

#define MAMBATUNE_DECLARE(op, Params) Error op(const Params&);
MAMBATUNE_CUDA_OPS(MAMBATUNE_DECLARE)
#undef MAMBATUNE_DECLARE

bool causal_conv1d_bwd_takes_x_proj(const CausalConv1dBwdParams& p);
size_t selective_scan_checkpoint_size(int64_t batch, int64_t seqlen, int64_t d_inner, int64_t d_state);
bool lora_linear_keeps_xa(const LoraLinearInputs& in);

// graphs.cu
Error graph_begin();
Error graph_end(uint32_t* graph);
Error graph_launch(uint32_t graph);
void graph_release(uint32_t graph);

// transfers.cu
Error upload(void* device, const void* host, size_t bytes);
Error download(void* host, const void* device, size_t bytes);
Error copy(void* to, const void* from, size_t bytes);
Error synchronize();

}  // namespace cuda
}  // namespace mambatune
