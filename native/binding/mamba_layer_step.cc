// SPDX-License-Identifier: Apache-2.0
// One token of every row through one Mamba layer in a single call from JavaScript: as the device does it, or by the device's ops one
// after the other, on memory that is allocated once.
#include <iterator>

#include "arguments.h"
#include "exports.h"

namespace mambatune {
namespace {

// Rows that a product takes at once: with so few, every device adds a row's terms in an order that their number does not change.
constexpr int64_t kRowsAtOnce = 8;

// weight (two arguments), bias, r, lora_A, lora_B, scaling
StepLinear read_linear(Arguments& args, int64_t out, int64_t in) {
  StepLinear linear{};
  linear.W = args.weight(out, in);
  linear.bias = args.input<float>({out}, true);
  linear.r = args.size();
  linear.lora_A = args.input<float>({linear.r, in}, linear.r == 0);
  linear.lora_B = args.input<float>({out, linear.r}, linear.r == 0);
  linear.scaling = args.float32();
  return linear;
}

int64_t most_r(const MambaLayer& layer) {
  int64_t most = 0;
  for (const StepLinear* linear : {&layer.in_proj, &layer.x_proj, &layer.dt_proj, &layer.out_proj}) most = linear->r > most ? linear->r : most;
  return most;
}

// Of kRowsAtOnce rows each.
struct Scratch {
  float *normed, *xz, *u, *x_proj, *delta, *y, *xa;

  static int64_t floats(const MambaLayer& layer) {
    return kRowsAtOnce * (layer.d_model + 5 * layer.d_inner + layer.x_proj_width() + most_r(layer));
  }
  Scratch(const MambaLayer& layer, float* memory) {
    const auto take = [&memory](int64_t width) {
      float* taken = memory;
      memory += kRowsAtOnce * width;
      return taken;
    };
    normed = take(layer.d_model);
    xz = take(2 * layer.d_inner);
    u = take(layer.d_inner);
    delta = take(layer.d_inner);
    y = take(layer.d_inner);
    x_proj = take(layer.x_proj_width());
    xa = take(most_r(layer));
  }
};

class Step {
 public:
  Step(const DeviceApi* device, const MambaLayer& layer, const Scratch& scratch) : device_(device), layer_(layer), scratch_(scratch) {}

  Error run(const MambaLayerStepParams& part) const {
    Error error = normalise(part);
    if (!error) error = linear(layer_.in_proj, part.rows, scratch_.normed, layer_.d_model, scratch_.xz);
    if (!error) error = convolve(part);
    if (!error) error = linear(layer_.x_proj, part.rows, scratch_.u, layer_.d_inner, scratch_.x_proj);
    if (!error) error = step_size(part);
    if (!error) error = scan(part);
    if (!error) error = linear(layer_.out_proj, part.rows, scratch_.y, layer_.d_inner, part.out);
    return error;
  }

 private:
  Error normalise(const MambaLayerStepParams& part) const {
    RmsNormFwdParams p{};
    p.rows = part.rows, p.d_model = layer_.d_model;
    p.x = part.x, p.residual = part.residual, p.weight = layer_.norm, p.eps = layer_.eps;
    p.y = scratch_.normed, p.residual_out = part.residual ? part.residual_out : nullptr;
    return device_->rms_norm_fwd(p);
  }

  Error linear(const StepLinear& module, int64_t rows, const float* x, int64_t x_row_stride, float* y) const {
    LoraLinearFwdParams p{};
    p.rows = rows, p.x = x, p.x_row_stride = x_row_stride;
    p.W = module.W, p.bias = module.bias;
    p.r = module.r, p.lora_A = module.lora_A, p.lora_B = module.lora_B, p.scaling = module.scaling;
    p.y = y, p.y_row_stride = module.W.rows;
    p.xa = module.r > 0 ? scratch_.xa : nullptr, p.xa_row_stride = module.r;
    return device_->lora_linear_fwd(p);
  }

  Error convolve(const MambaLayerStepParams& part) const {
    CausalConv1dFwdParams p{};
    p.batch = part.rows, p.seqlen = 1, p.d_inner = layer_.d_inner, p.d_conv = layer_.d_conv;
    p.x = scratch_.xz, p.x_row_stride = 2 * layer_.d_inner;
    p.weight = layer_.conv_weight, p.bias = layer_.conv_bias;
    p.conv_state = p.last_conv_state = part.conv_state;
    p.silu = true;
    p.y = scratch_.u;
    return device_->causal_conv1d_fwd(p);
  }

  Error step_size(const MambaLayerStepParams& part) const {
    StepLinear dt_proj = layer_.dt_proj;
    dt_proj.bias = nullptr;
    return linear(dt_proj, part.rows, scratch_.x_proj, layer_.x_proj_width(), scratch_.delta);
  }

  Error scan(const MambaLayerStepParams& part) const {
    SelectiveScanFwdParams p{};
    p.batch = part.rows, p.seqlen = 1, p.d_inner = layer_.d_inner, p.d_state = layer_.d_state;
    p.u = scratch_.u, p.u_row_stride = layer_.d_inner;
    p.delta = scratch_.delta, p.delta_row_stride = layer_.d_inner;
    p.B = scratch_.x_proj + layer_.dt_rank, p.C = p.B + layer_.d_state;
    p.B_row_stride = p.C_row_stride = layer_.x_proj_width();
    p.z = scratch_.xz + layer_.d_inner, p.z_row_stride = 2 * layer_.d_inner;
    p.A = layer_.A, p.D = layer_.D, p.delta_bias = layer_.dt_proj.bias, p.delta_softplus = true;
    p.h0 = p.last_state = part.ssm_state;
    p.out = scratch_.y;
    return device_->selective_scan_fwd(p);
  }

  const DeviceApi* device_;
  const MambaLayer& layer_;
  const Scratch& scratch_;
};

// mambaLayerStep(device, batch, dModel, dInner, dState, dConv, dtRank, eps, norm, inProj, convWeight, convBias, xProj, dtProj, A, D,
// outProj, convState, ssmState, x, residual, residualOut, out, scratch): scratch may be absent where the device needs none
napi_value mamba_layer_step(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  MambaLayerStepParams all{};
  all.rows = args.size();
  all.d_model = args.size();
  all.d_inner = args.size();
  all.d_state = args.size();
  all.d_conv = args.size();
  all.dt_rank = args.size();
  if (args.ok() && (all.d_conv < 1 || all.d_conv > 8)) args.fail("mamba_layer_step: d_conv must lie in 1..8");
  all.eps = args.float32();
  all.norm = args.input<float>({all.d_model});
  all.in_proj = read_linear(args, 2 * all.d_inner, all.d_model);
  all.conv_weight = args.input<float>({all.d_inner, all.d_conv});
  all.conv_bias = args.input<float>({all.d_inner}, true);
  all.x_proj = read_linear(args, all.x_proj_width(), all.d_inner);
  all.dt_proj = read_linear(args, all.d_inner, all.dt_rank);
  all.A = args.input<float>({all.d_inner, all.d_state});
  all.D = args.input<float>({all.d_inner});
  all.out_proj = read_linear(args, all.d_model, all.d_inner);
  all.conv_state = args.output<float>({all.rows, all.d_conv - 1, all.d_inner});
  all.ssm_state = args.output<float>({all.rows, all.d_inner, all.d_state});
  all.x = args.input<float>({all.rows, all.d_model});
  all.residual = args.input<float>({all.rows, all.d_model}, true);
  all.residual_out = args.output<float>({all.rows, all.d_model}, true);
  all.out = args.output<float>({all.rows, all.d_model});
  if (args.ok() && all.residual && !all.residual_out) args.fail("mamba_layer_step: a residual needs residualOut");
  const bool own = args.ok() && device->mamba_layer_step;
  float* memory = args.ok() ? args.output<float>({Scratch::floats(all)}, own) : nullptr;
  if (!args.ok()) return nullptr;
  if (own) return args.finish(device->mamba_layer_step(all));

  const Scratch scratch(all, memory);
  const Step step(device, all, scratch);
  for (int64_t row = 0; row < all.rows; row += kRowsAtOnce) {
    MambaLayerStepParams part = all;
    part.rows = all.rows - row < kRowsAtOnce ? all.rows - row : kRowsAtOnce;
    part.x += row * all.d_model;
    part.out += row * all.d_model;
    if (part.residual) part.residual += row * all.d_model, part.residual_out += row * all.d_model;
    part.conv_state += row * (all.d_conv - 1) * all.d_inner;
    part.ssm_state += row * all.d_inner * all.d_state;
    if (Error error = step.run(part)) return args.finish(error);
  }
  return args.finish(nullptr);
}

const Export kExports[] = {{"mambaLayerStep", mamba_layer_step}};

}  // namespace

void export_mamba_layer_step(napi_env env, napi_value exports) { export_functions(env, exports, kExports, std::size(kExports)); }

}  // namespace mambatune
