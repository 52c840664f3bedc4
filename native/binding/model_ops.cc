// SPDX-License-Identifier: Apache-2.0
// Bindings of the model's ops and of the optimizer. Arguments in the order in which they are read here; an operand marked
// `rows` is three arguments (handle, offset, row stride), a weight two (handle, frozen); handle 0 stands for an absent operand.
#include <iterator>
#include <vector>

#include "arguments.h"
#include "exports.h"

namespace mambatune {
namespace {

void read_selective_scan_inputs(Arguments& args, SelectiveScanInputs& p) {
  p.batch = args.size();
  p.seqlen = args.size();
  p.d_inner = args.size();
  p.d_state = args.size();
  const int64_t rows = product_of({p.batch, p.seqlen});
  p.u = args.input_rows(rows, p.d_inner, &p.u_row_stride);
  p.delta = args.input_rows(rows, p.d_inner, &p.delta_row_stride);
  p.A = args.input<float>({p.d_inner, p.d_state});
  p.B = args.input_rows(rows, p.d_state, &p.B_row_stride);
  p.C = args.input_rows(rows, p.d_state, &p.C_row_stride);
  p.D = args.input<float>({p.d_inner}, true);
  p.z = args.input_rows(rows, p.d_inner, &p.z_row_stride, true);
  p.delta_bias = args.input<float>({p.d_inner}, true);
  p.seq_idx = args.input<int32_t>({rows}, true);
  p.h0 = args.input<float>({p.batch, p.d_inner, p.d_state}, true);
  p.delta_softplus = args.boolean();
}

napi_value selective_scan_fwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  SelectiveScanFwdParams p{};
  read_selective_scan_inputs(args, p);
  p.out = args.output<float>({p.batch, p.seqlen, p.d_inner});
  p.last_state = args.output<float>({p.batch, p.d_inner, p.d_state}, true);
  if (!args.ok()) return nullptr;
  p.checkpoints = args.output<float>(
      {static_cast<int64_t>(device->selective_scan_checkpoint_size(p.batch, p.seqlen, p.d_inner, p.d_state))}, true);
  return args.ok() ? args.finish(device->selective_scan_fwd(p)) : nullptr;
}

napi_value selective_scan_bwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  SelectiveScanBwdParams p{};
  read_selective_scan_inputs(args, p);
  if (!args.ok()) return nullptr;
  const int64_t rows = product_of({p.batch, p.seqlen}), states = product_of({p.batch, p.d_inner, p.d_state});
  p.checkpoints = args.input<float>(
      {static_cast<int64_t>(device->selective_scan_checkpoint_size(p.batch, p.seqlen, p.d_inner, p.d_state))});
  p.dout = args.input<float>({rows, p.d_inner});
  p.dlast_state = args.input<float>({states}, true);
  p.du = args.output_rows(rows, p.d_inner, &p.du_row_stride);
  p.ddelta = args.output_rows(rows, p.d_inner, &p.ddelta_row_stride);
  p.dB = args.output_rows(rows, p.d_state, &p.dB_row_stride);
  p.dC = args.output_rows(rows, p.d_state, &p.dC_row_stride);
  p.dz = args.output_rows(rows, p.d_inner, &p.dz_row_stride, true);
  p.dA = args.output<float>({p.d_inner, p.d_state}, true);
  p.dD = args.output<float>({p.d_inner}, true);
  p.ddelta_bias = args.output<float>({p.d_inner}, true);
  p.dh0 = args.output<float>({states}, true);
  p.out = args.output<float>({rows, p.d_inner}, true);
  return args.ok() ? args.finish(device->selective_scan_bwd(p)) : nullptr;
}

// selectiveScanCheckpointSize(device, batch, seqlen, dInner, dState): floats
napi_value selective_scan_checkpoint_size(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  const int64_t batch = args.size(), seqlen = args.size(), d_inner = args.size(), d_state = args.size();
  if (!args.ok()) return nullptr;
  napi_value result;
  napi_create_double(env, static_cast<double>(device->selective_scan_checkpoint_size(batch, seqlen, d_inner, d_state)), &result);
  return result;
}

void read_causal_conv1d_inputs(Arguments& args, CausalConv1dInputs& p) {
  p.batch = args.size();
  p.seqlen = args.size();
  p.d_inner = args.size();
  p.d_conv = args.size();
  if (args.ok() && (p.d_conv < 1 || p.d_conv > 8)) args.fail("causal_conv1d: d_conv must lie in 1..8");
  p.x = args.input_rows(product_of({p.batch, p.seqlen}), p.d_inner, &p.x_row_stride);
  p.weight = args.input<float>({p.d_inner, p.d_conv});
  p.bias = args.input<float>({p.d_inner}, true);
  p.seq_idx = args.input<int32_t>({p.batch, p.seqlen}, true);
  p.conv_state = args.input<float>({p.batch, p.d_conv - 1, p.d_inner}, true);
  p.silu = args.boolean();
}

napi_value causal_conv1d_fwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  CausalConv1dFwdParams p{};
  read_causal_conv1d_inputs(args, p);
  p.y = args.output<float>({p.batch, p.seqlen, p.d_inner});
  p.last_conv_state = args.output<float>({p.batch, p.d_conv - 1, p.d_inner}, true);
  return args.ok() ? args.finish(device->causal_conv1d_fwd(p)) : nullptr;
}

// Without an x_proj always; with one, every operand of it must be there and the device able.
bool fits_x_proj(const DeviceApi& device, const CausalConv1dBwdParams& p) {
  const XProjBackward& x_proj = p.x_proj;
  if (x_proj.n == 0) return true;
  const bool whole = x_proj.dout && x_proj.W && (x_proj.r == 0 ? !x_proj.dlora_A : x_proj.dxa && x_proj.lora_A);
  const bool alone = p.silu && !p.conv_state && !p.dweight && !p.dbias;
  return whole && alone && device.causal_conv1d_bwd_takes_x_proj && device.causal_conv1d_bwd_takes_x_proj(p);
}

napi_value causal_conv1d_bwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  CausalConv1dBwdParams p{};
  read_causal_conv1d_inputs(args, p);
  p.dy = args.input<float>({p.batch, p.seqlen, p.d_inner});
  p.dx = args.output_rows(product_of({p.batch, p.seqlen}), p.d_inner, &p.dx_row_stride);
  p.dweight = args.output<float>({p.d_inner, p.d_conv}, true);
  p.dbias = args.output<float>({p.d_inner}, true);
  XProjBackward& x_proj = p.x_proj;
  x_proj.n = args.size();
  x_proj.r = args.size();
  const int64_t rows = product_of({p.batch, p.seqlen});
  x_proj.dout = args.input<float>({rows, x_proj.n}, true);
  x_proj.W = args.input<float>({x_proj.n, p.d_inner}, true);
  x_proj.dxa = args.input<float>({rows, x_proj.r}, true);
  x_proj.lora_A = args.input<float>({x_proj.r, p.d_inner}, true);
  x_proj.dlora_A = args.output<float>({x_proj.r, p.d_inner}, true);
  if (args.ok() && !fits_x_proj(*device, p)) args.fail("causal_conv1d backward: the device does not do it with such an x_proj");
  return args.ok() ? args.finish(device->causal_conv1d_bwd(p)) : nullptr;
}

// causalConv1dBwdTakesXProj(device, dInner, dConv, row stride of x, row stride of dx, n, r): whether causalConv1dBwd may be given one
napi_value causal_conv1d_bwd_takes_x_proj(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  CausalConv1dBwdParams p{};
  p.d_inner = args.size();
  p.d_conv = args.size();
  p.x_row_stride = args.size();
  p.dx_row_stride = args.size();
  p.x_proj.n = args.size();
  p.x_proj.r = args.size();
  if (!args.ok()) return nullptr;
  napi_value result;
  napi_get_boolean(env, device->causal_conv1d_bwd_takes_x_proj && device->causal_conv1d_bwd_takes_x_proj(p), &result);
  return result;
}

napi_value rms_norm_fwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  RmsNormFwdParams p{};
  p.rows = args.size();
  p.d_model = args.size();
  p.x = args.input<float>({p.rows, p.d_model});
  p.residual = args.input<float>({p.rows, p.d_model}, true);
  p.weight = args.input<float>({p.d_model}, true);
  p.eps = args.float32();
  p.y = args.output<float>({p.rows, p.d_model});
  p.residual_out = args.output<float>({p.rows, p.d_model}, true);
  p.scales = args.output<float>({p.rows}, true);
  return args.ok() ? args.finish(device->rms_norm_fwd(p)) : nullptr;
}

napi_value rms_norm_bwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  RmsNormBwdParams p{};
  p.rows = args.size();
  p.d_model = args.size();
  p.s = args.input<float>({p.rows, p.d_model});
  p.weight = args.input<float>({p.d_model}, true);
  p.eps = args.float32();
  p.dy = args.input<float>({p.rows, p.d_model});
  p.dresidual_out = args.input<float>({p.rows, p.d_model}, true);
  p.ds = args.output<float>({p.rows, p.d_model});
  p.dweight = args.output<float>({p.d_model}, true);
  return args.ok() ? args.finish(device->rms_norm_bwd(p)) : nullptr;
}

void read_lora_linear_inputs(Arguments& args, LoraLinearInputs& p, bool x_optional) {
  p.rows = args.size();
  const int64_t out = args.size(), in = args.size();
  p.r = args.size();
  p.x = args.input_rows(p.rows, in, &p.x_row_stride, x_optional);
  p.W = args.weight(out, in);
  p.bias = args.input<float>({out}, true);
  p.lora_A = args.input<float>({p.r, in}, p.r == 0);
  p.lora_B = args.input<float>({out, p.r}, p.r == 0);
  p.scaling = args.float32();
  p.dropout = args.float32();
  p.seed = args.uint64();
  p.offset = args.uint64();
  p.dropout_step = args.input<uint32_t>({1}, true);
}

bool keeps_xa(const DeviceApi* device, const LoraLinearInputs& p) {
  return p.r > 0 && (!device->lora_linear_keeps_xa || device->lora_linear_keeps_xa(p));
}

// loraLinearKeepsXa(device, the forward's operands): boolean
napi_value lora_linear_keeps_xa(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  LoraLinearInputs p{};
  read_lora_linear_inputs(args, p, true);
  if (!args.ok()) return nullptr;
  napi_value result;
  napi_get_boolean(env, keeps_xa(device, p), &result);
  return result;
}

napi_value lora_linear_fwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  LoraLinearFwdParams p{};
  read_lora_linear_inputs(args, p, false);
  p.y = args.output_rows(p.rows, p.W.rows, &p.y_row_stride);
  p.xa = args.output_rows(p.rows, p.r, &p.xa_row_stride, !args.ok() || !keeps_xa(device, p));
  return args.ok() ? args.finish(device->lora_linear_fwd(p)) : nullptr;
}

napi_value lora_linear_bwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  LoraLinearBwdParams p{};
  read_lora_linear_inputs(args, p, true);
  const int64_t out = p.W.rows, in = p.W.cols;
  p.xa = args.input_rows(p.rows, p.r, &p.xa_row_stride, !args.ok() || !keeps_xa(device, p));
  p.dy = args.input<float>({p.rows, out}, true);
  p.dxa = args.output<float>({p.rows, p.r}, true);
  p.dx = args.output_rows(p.rows, in, &p.dx_row_stride, true);
  p.accumulate = args.boolean();
  p.x_row_scale = args.input<float>({p.rows}, true);
  p.x_col_scale = args.input<float>({in}, true);
  p.dlora_A = args.output<float>({p.r, in}, true);
  p.dlora_B = args.output<float>({out, p.r}, true);
  p.dW = args.output<float>({out, in}, true);
  p.dbias = args.output<float>({out}, true);
  if (args.ok() && !p.x && (p.dlora_A || p.dW)) args.fail("lora_linear: x is needed for the gradients of lora_A and W");
  if (args.ok() && p.r > 0 && !p.x && !p.xa && p.dlora_B) args.fail("lora_linear: x or xa is needed for the gradient of lora_B");
  if (args.ok() && (!p.x_row_scale != !p.x_col_scale || (p.x_row_scale && p.dW))) {
    args.fail("lora_linear: the scales of x's rows and columns come together, and without the gradient of W");
  }
  if (args.ok() && !p.dy && (!p.dxa || !p.dlora_A || p.dx || p.dlora_B || p.dW || p.dbias)) {
    args.fail("lora_linear: without dy, dxa must be given and only the gradient of lora_A can be had");
  }
  return args.ok() ? args.finish(device->lora_linear_bwd(p)) : nullptr;
}

void read_lora_embedding_inputs(Arguments& args, LoraEmbeddingInputs& p) {
  p.rows = args.size();
  p.vocab_size = args.size();
  p.d_model = args.size();
  p.r = args.size();
  p.ids = args.input<int32_t>({p.rows});
  p.W = args.input<float>({p.vocab_size, p.d_model});
  p.lora_A = args.input<float>({p.r, p.vocab_size}, p.r == 0);
  p.lora_B = args.input<float>({p.d_model, p.r}, p.r == 0);
  p.scaling = args.float32();
}

napi_value lora_embedding_fwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  LoraEmbeddingFwdParams p{};
  read_lora_embedding_inputs(args, p);
  p.out = args.output<float>({p.rows, p.d_model});
  return args.ok() ? args.finish(device->lora_embedding_fwd(p)) : nullptr;
}

napi_value lora_embedding_bwd(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  LoraEmbeddingBwdParams p{};
  read_lora_embedding_inputs(args, p);
  p.dout = args.input<float>({p.rows, p.d_model});
  p.dlora_A = args.output<float>({p.r, p.vocab_size}, true);
  p.dlora_B = args.output<float>({p.d_model, p.r}, true);
  p.dW = args.output<float>({p.vocab_size, p.d_model}, true);
  return args.ok() ? args.finish(device->lora_embedding_bwd(p)) : nullptr;
}

napi_value linear_cross_entropy(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  LinearCrossEntropyParams p{};
  p.rows = args.size();
  p.d_model = args.size();
  const int64_t vocab_size = args.size();
  p.hidden = args.input<float>({p.rows, p.d_model});
  p.W = args.weight(vocab_size, p.d_model);
  p.labels = args.input<int32_t>({p.rows});
  p.label_smoothing = args.number();
  p.z_loss = args.number();
  p.loss_sum = args.output<float>({1});
  p.count = args.output<float>({1});
  p.dhidden = args.output<float>({p.rows, p.d_model}, true);
  p.dW = args.output<float>({vocab_size, p.d_model}, true);
  return args.ok() ? args.finish(device->linear_cross_entropy(p)) : nullptr;
}

// The float32 buffers named by a Uint32Array of handles, each to be read or written whole.
std::vector<float*> float_buffers(Arguments& args, const DeviceApi* device, const uint32_t* handles, int64_t count, const int64_t* sizes,
                                  bool written) {
  std::vector<float*> result(static_cast<size_t>(count), nullptr);
  for (int64_t i = 0; i < count && args.ok(); i++) {
    Buffer* buffer = buffer_at(handles[i]);
    if (!buffer || buffer->device != device || buffer->bytes / sizeof(float) < static_cast<uint64_t>(sizes[i])) {
      args.fail("native call with a list that names a dead, foreign or too small buffer");
      break;
    }
    if (written) drop_weight_cache(*buffer);
    result[static_cast<size_t>(i)] = static_cast<float*>(buffer->memory);
  }
  return result;
}

// A Uint32Array of element counts.
std::vector<int64_t> size_list(Arguments& args, int64_t* count) {
  const uint32_t* sizes = args.uint32_array(count);
  return args.ok() ? std::vector<int64_t>(sizes, sizes + *count) : std::vector<int64_t>();
}

const uint32_t* handle_list(Arguments& args, int64_t count) {
  int64_t length = 0;
  const uint32_t* handles = args.uint32_array(&length);
  if (args.ok() && length != count) args.fail("native call with lists of different lengths");
  return handles;
}

// globalNorm(device, sizes, gradients, norm)
napi_value global_norm(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  GlobalNormParams p{};
  const std::vector<int64_t> sizes = size_list(args, &p.count);
  const uint32_t* gradients = handle_list(args, p.count);
  p.norm = args.output<float>({1});
  if (!args.ok()) return nullptr;
  const std::vector<float*> grad = float_buffers(args, device, gradients, p.count, sizes.data(), false);
  p.grad = grad.data();
  p.size = sizes.data();
  return args.ok() ? args.finish(device->global_norm(p)) : nullptr;
}

// adamwStep(device, sizes, parameters, gradients, expAvg, expAvgSq, learningRates, weightDecays, beta1, beta2, eps, step, schedule, norm, maxGradNorm)
napi_value adamw_step(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  AdamwStepParams p{};
  const std::vector<int64_t> sizes = size_list(args, &p.count);
  const uint32_t* lists[4];
  for (const uint32_t*& list : lists) list = handle_list(args, p.count);
  p.learning_rate = args.float32_array(p.count);
  p.weight_decay = args.float32_array(p.count);
  p.beta1 = args.number();
  p.beta2 = args.number();
  p.eps = args.float32();
  p.step = args.size();
  p.schedule = args.input<float>({2}, true);
  p.grad_norm = args.input<float>({1}, true);
  p.max_grad_norm = args.float32();
  if (!args.ok()) return nullptr;
  const std::vector<float*> param = float_buffers(args, device, lists[0], p.count, sizes.data(), true);
  const std::vector<float*> grad = float_buffers(args, device, lists[1], p.count, sizes.data(), false);
  const std::vector<float*> exp_avg = float_buffers(args, device, lists[2], p.count, sizes.data(), true);
  const std::vector<float*> exp_avg_sq = float_buffers(args, device, lists[3], p.count, sizes.data(), true);
  p.param = param.data();
  p.grad = grad.data();
  p.exp_avg = exp_avg.data();
  p.exp_avg_sq = exp_avg_sq.data();
  p.size = sizes.data();
  return args.ok() ? args.finish(device->adamw_step(p)) : nullptr;
}

const Export kExports[] = {
    {"selectiveScanFwd", selective_scan_fwd},
    {"selectiveScanBwd", selective_scan_bwd},
    {"selectiveScanCheckpointSize", selective_scan_checkpoint_size},
    {"causalConv1dFwd", causal_conv1d_fwd},
    {"causalConv1dBwd", causal_conv1d_bwd},
    {"causalConv1dBwdTakesXProj", causal_conv1d_bwd_takes_x_proj},
    {"rmsNormFwd", rms_norm_fwd},
    {"rmsNormBwd", rms_norm_bwd},
    {"loraLinearKeepsXa", lora_linear_keeps_xa},
    {"loraLinearFwd", lora_linear_fwd},
    {"loraLinearBwd", lora_linear_bwd},
    {"loraEmbeddingFwd", lora_embedding_fwd},
    {"loraEmbeddingBwd", lora_embedding_bwd},
    {"linearCrossEntropy", linear_cross_entropy},
    {"globalNorm", global_norm},
    {"adamwStep", adamw_step},
};

}  // namespace

void export_model_ops(napi_env env, napi_value exports) { export_functions(env, exports, kExports, std::size(kExports)); }

}  // namespace mambatune
