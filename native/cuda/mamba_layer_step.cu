// SPDX-License-Identifier: Apache-2.0
// One position of every row through a layer in four kernels where rows are few: norm, in_proj and convolution; x_proj; dt_proj and
// scan; out_proj. More rows, or what the first kernel does not take, have the norm, in_proj and the convolution one by one.
#include "../include/mamba_layer_step.h"

#include "allocator.cuh"
#include "cublas.h"
#include "few_rows.cuh"
#include "mamba_layer_step.cuh"
#include "ops.cuh"
#include "weight_cache.cuh"

namespace mambatune {
namespace cuda {
namespace {

// What in_proj and the convolution leave: u [rows, d_inner], and z with a row stride.
struct Mixed {
  const float *u, *z;
  int64_t z_row_stride;
};

Error linear(const StepLinear& module, int64_t rows, const float* x, float* y, float* xa) {
  LoraLinearFwdParams p{};
  p.rows = rows, p.x = x, p.x_row_stride = module.W.cols;
  p.W = module.W, p.bias = module.bias;
  p.r = module.r, p.lora_A = module.lora_A, p.lora_B = module.lora_B, p.scaling = module.scaling;
  p.y = y, p.y_row_stride = module.W.rows;
  p.xa = module.r > 0 ? xa : nullptr, p.xa_row_stride = module.r;
  return lora_linear_fwd(p);
}

// A recorded step's frozen parameters are older than the recording, so that no kernel of it writes them.
bool is_frozen(const Weight& W) { return W.cache && is_recording(); }

// The norm, in_proj and the convolution in one kernel, where `done` says that it took them. `memory` has 2 d_inner floats a row.
Error mix_at_once(const MambaLayerStepParams& p, float* memory, Mixed* mixed, bool* done) {
  *done = false;
  if (p.rows > kMostFewRows) return nullptr;
  const Weight& W = p.in_proj.W;
  float *u = memory, *z = memory + p.rows * p.d_inner;
  InProjStep step{};
  step.rows = p.rows, step.d_model = p.d_model, step.d_inner = p.d_inner, step.d_conv = p.d_conv;
  step.x = p.x, step.residual = p.residual, step.norm = p.norm, step.eps = p.eps;
  step.residual_out = p.residual ? p.residual_out : nullptr;
  step.W = W.data, step.bias = p.in_proj.bias;
  step.r = p.in_proj.r, step.lora_A = p.in_proj.lora_A, step.lora_B = p.in_proj.lora_B, step.scaling = p.in_proj.scaling;
  step.conv_weight = p.conv_weight, step.conv_bias = p.conv_bias, step.conv_state = p.conv_state;
  step.u = u, step.z = z;
  step.frozen = is_frozen(W);
  Scratch copy;
  if (matmul_precision() == MatmulPrecision::kMedium && W.cache) {
    step.frozen = step.frozen && *W.cache;
    MAMBATUNE_TRY(bfloat16_weight(W, &copy, &step.half));
  }
  if (!in_proj_step_fits(step)) return nullptr;
  *done = true;
  *mixed = {u, z, p.d_inner};
  return in_proj_step(step);
}

// `memory` has d_model + 3 d_inner floats a row.
Error mix(const MambaLayerStepParams& p, float* memory, float* xa, Mixed* mixed) {
  float *normed = memory, *xz = normed + p.rows * p.d_model, *u = xz + 2 * p.rows * p.d_inner;
  RmsNormFwdParams norm{};
  norm.rows = p.rows, norm.d_model = p.d_model;
  norm.x = p.x, norm.residual = p.residual, norm.weight = p.norm, norm.eps = p.eps;
  norm.y = normed, norm.residual_out = p.residual ? p.residual_out : nullptr;
  MAMBATUNE_TRY(rms_norm_fwd(norm));
  MAMBATUNE_TRY(linear(p.in_proj, p.rows, normed, xz, xa));
  CausalConv1dFwdParams conv{};
  conv.batch = p.rows, conv.seqlen = 1, conv.d_inner = p.d_inner, conv.d_conv = p.d_conv;
  conv.x = xz, conv.x_row_stride = 2 * p.d_inner;
  conv.weight = p.conv_weight, conv.bias = p.conv_bias;
  conv.conv_state = conv.last_conv_state = p.conv_state;
  conv.silu = true;
  conv.y = u;
  *mixed = {u, xz + p.d_inner, 2 * p.d_inner};
  return causal_conv1d_fwd(conv);
}

Error scan(const MambaLayerStepParams& p, const Mixed& mixed, const float* projected, float* y) {
  ScanStep step{};
  step.rows = p.rows, step.d_inner = p.d_inner, step.d_state = p.d_state, step.dt_rank = p.dt_rank;
  step.projected = projected, step.u = mixed.u, step.z = mixed.z, step.z_row_stride = mixed.z_row_stride;
  step.W = p.dt_proj.W.data, step.delta_bias = p.dt_proj.bias;
  step.r = p.dt_proj.r, step.lora_A = p.dt_proj.lora_A, step.lora_B = p.dt_proj.lora_B, step.scaling = p.dt_proj.scaling;
  step.A = p.A, step.D = p.D, step.h = p.ssm_state, step.y = y;
  step.frozen = is_frozen(p.dt_proj.W);
  return scan_step(step);
}

}  // namespace

Error mamba_layer_step(const MambaLayerStepParams& p) {
  if (p.rows == 0) return nullptr;
  const int64_t width = p.x_proj_width();
  int64_t most_r = 0;
  for (const StepLinear* module : {&p.in_proj, &p.x_proj, &p.out_proj}) most_r = module->r > most_r ? module->r : most_r;
  Scratch memory;
  MAMBATUNE_TRY(memory.reserve(p.rows * (ceil_div(width, 4) * 4 + p.d_model + 4 * p.d_inner + most_r)));
  float *projected = memory.get(), *y = projected + p.rows * ceil_div(width, 4) * 4, *rest = y + p.rows * p.d_inner;
  float* xa = rest + p.rows * (p.d_model + 3 * p.d_inner);
  Mixed mixed{};
  bool done = false;
  MAMBATUNE_TRY(mix_at_once(p, rest, &mixed, &done));
  if (!done) MAMBATUNE_TRY(mix(p, rest, xa, &mixed));
  MAMBATUNE_TRY(linear(p.x_proj, p.rows, mixed.u, projected, xa));
  MAMBATUNE_TRY(scan(p, mixed, projected, y));
  return linear(p.out_proj, p.rows, y, p.out, xa);
}

}  // namespace cuda
}  // namespace mambatune
