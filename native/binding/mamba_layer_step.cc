// SPDX-License-Identifier: Apache-2.0
// One token of every row through one Mamba layer in a single call from JavaScript: the device's own ops, one after the other on
// memory that is allocated once, with the state updated in place. src/model/mixer.ts has the formulas.
#include <iterator>

#include "arguments.h"
#include "exports.h"

namespace mambatune {
namespace {

// Rows that a product takes at once: with so few, every device adds a row's terms in an order that their number does not change.
constexpr int64_t kRowsAtOnce = 8;

struct Linear {
  Weight W;
  const float* bias;
  int64_t r;
  const float *lora_A, *lora_B;
  float scaling;
};

// weight (two arguments), bias, r, lora_A, lora_B, scaling
Linear read_linear(Arguments& args, int64_t out, int64_t in) {
  Linear linear{};
  linear.W = args.weight(out, in);
  linear.bias = args.input<float>({out}, true);
  linear.r = args.size();
  linear.lora_A = args.input<float>({linear.r, in}, linear.r == 0);
  linear.lora_B = args.input<float>({out, linear.r}, linear.r == 0);
  linear.scaling = args.float32();
  return linear;
}

struct Layer {
  int64_t d_model, d_inner, d_state, d_conv, dt_rank;
  float eps;
  const float* norm;         // [d_model]
  Linear in_proj;            // [2 d_inner, d_model]
  const float* conv_weight;  // [d_inner, d_conv]
  const float* conv_bias;    // [d_inner] or null
  Linear x_proj;             // [dt_rank + 2 d_state, d_inner]
  Linear dt_proj;            // [d_inner, dt_rank]; its bias is the scan's
  const float* A;            // [d_inner, d_state]: -exp(A_log)
  const float* D;            // [d_inner]
  Linear out_proj;           // [d_model, d_inner]

  int64_t x_proj_width() const { return dt_rank + 2 * d_state; }
  int64_t most_r() const {
    int64_t most = 0;
    for (const Linear* linear : {&in_proj, &x_proj, &dt_proj, &out_proj}) most = linear->r > most ? linear->r : most;
    return most;
  }
};

// Of kRowsAtOnce rows each.
struct Scratch {
  float *normed, *xz, *u, *x_proj, *delta, *y, *xa;

  static int64_t floats(const Layer& layer) {
    return kRowsAtOnce * (layer.d_model + 5 * layer.d_inner + layer.x_proj_width() + layer.most_r());
  }
  Scratch(const Layer& layer, float* memory) {
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
    xa = take(layer.most_r());
  }
};

// What a call works on, from one row on.
struct Rows {
  int64_t count;
  const float *x, *residual;  // [count, d_model]; residual may be null
  float *residual_out, *out;  // [count, d_model]
  float* conv_state;          // [count, d_conv - 1, d_inner]
  float* ssm_state;           // [count, d_inner, d_state]
};

class Step {
 public:
  Step(const DeviceApi* device, const Layer& layer, const Scratch& scratch) : device_(device), layer_(layer), scratch_(scratch) {}

  Error run(const Rows& rows) const {
    Error error = normalise(rows);
    if (!error) error = linear(layer_.in_proj, rows.count, scratch_.normed, layer_.d_model, scratch_.xz);
    if (!error) error = convolve(rows);
    if (!error) error = linear(layer_.x_proj, rows.count, scratch_.u, layer_.d_inner, scratch_.x_proj);
    if (!error) error = step_size(rows);
    if (!error) error = scan(rows);
    if (!error) error = linear(layer_.out_proj, rows.count, scratch_.y, layer_.d_inner, rows.out);
    return error;
  }

 private:
  Error normalise(const Rows& rows) const {
    RmsNormFwdParams p{};
    p.rows = rows.count, p.d_model = layer_.d_model;
    p.x = rows.x, p.residual = rows.residual, p.weight = layer_.norm, p.eps = layer_.eps;
    p.y = scratch_.normed, p.residual_out = rows.residual ? rows.residual_out : nullptr;
    return device_->rms_norm_fwd(p);
  }

  Error linear(const Linear& module, int64_t rows, const float* x, int64_t x_row_stride, float* y) const {
    LoraLinearFwdParams p{};
    p.rows = rows, p.x = x, p.x_row_stride = x_row_stride;
    p.W = module.W, p.bias = module.bias;
    p.r = module.r, p.lora_A = module.lora_A, p.lora_B = module.lora_B, p.scaling = module.scaling;
    p.y = y, p.y_row_stride = module.W.rows;
    p.xa = module.r > 0 ? scratch_.xa : nullptr, p.xa_row_stride = module.r;
    return device_->lora_linear_fwd(p);
  }

  Error convolve(const Rows& rows) const {
    CausalConv1dFwdParams p{};
    p.batch = rows.count, p.seqlen = 1, p.d_inner = layer_.d_inner, p.d_conv = layer_.d_conv;
    p.x = scratch_.xz, p.x_row_stride = 2 * layer_.d_inner;
    p.weight = layer_.conv_weight, p.bias = layer_.conv_bias;
    p.conv_state = p.last_conv_state = rows.conv_state;
    p.silu = true;
    p.y = scratch_.u;
    return device_->causal_conv1d_fwd(p);
  }

  Error step_size(const Rows& rows) const {
    Linear dt_proj = layer_.dt_proj;
    dt_proj.bias = nullptr;
    return linear(dt_proj, rows.count, scratch_.x_proj, layer_.x_proj_width(), scratch_.delta);
  }

  Error scan(const Rows& rows) const {
    SelectiveScanFwdParams p{};
    p.batch = rows.count, p.seqlen = 1, p.d_inner = layer_.d_inner, p.d_state = layer_.d_state;
    p.u = scratch_.u, p.u_row_stride = layer_.d_inner;
    p.delta = scratch_.delta, p.delta_row_stride = layer_.d_inner;
    p.B = scratch_.x_proj + layer_.dt_rank, p.C = p.B + layer_.d_state;
    p.B_row_stride = p.C_row_stride = layer_.x_proj_width();
    p.z = scratch_.xz + layer_.d_inner, p.z_row_stride = 2 * layer_.d_inner;
    p.A = layer_.A, p.D = layer_.D, p.delta_bias = layer_.dt_proj.bias, p.delta_softplus = true;
    p.h0 = p.last_state = rows.ssm_state;
    p.out = scratch_.y;
    return device_->selective_scan_fwd(p);
  }

  const DeviceApi* device_;
  const Layer& layer_;
  const Scratch& scratch_;
};

// mambaLayerStep(device, batch, dModel, dInner, dState, dConv, dtRank, eps, norm, inProj, convWeight, convBias, xProj, dtProj, A, D,
// outProj, convState, ssmState, x, residual, residualOut, out, scratch)
napi_value mamba_layer_step(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  Layer layer{};
  const int64_t batch = args.size();
  layer.d_model = args.size();
  layer.d_inner = args.size();
  layer.d_state = args.size();
  layer.d_conv = args.size();
  layer.dt_rank = args.size();
  if (args.ok() && (layer.d_conv < 1 || layer.d_conv > 8)) args.fail("mamba_layer_step: d_conv must lie in 1..8");
  layer.eps = args.float32();
  layer.norm = args.input<float>({layer.d_model});
  layer.in_proj = read_linear(args, 2 * layer.d_inner, layer.d_model);
  layer.conv_weight = args.input<float>({layer.d_inner, layer.d_conv});
  layer.conv_bias = args.input<float>({layer.d_inner}, true);
  layer.x_proj = read_linear(args, layer.x_proj_width(), layer.d_inner);
  layer.dt_proj = read_linear(args, layer.d_inner, layer.dt_rank);
  layer.A = args.input<float>({layer.d_inner, layer.d_state});
  layer.D = args.input<float>({layer.d_inner});
  layer.out_proj = read_linear(args, layer.d_model, layer.d_inner);
  Rows all{};
  all.conv_state = args.output<float>({batch, layer.d_conv - 1, layer.d_inner});
  all.ssm_state = args.output<float>({batch, layer.d_inner, layer.d_state});
  all.x = args.input<float>({batch, layer.d_model});
  all.residual = args.input<float>({batch, layer.d_model}, true);
  all.residual_out = args.output<float>({batch, layer.d_model}, true);
  all.out = args.output<float>({batch, layer.d_model});
  if (args.ok() && all.residual && !all.residual_out) args.fail("mamba_layer_step: a residual needs residualOut");
  float* memory = args.ok() ? args.output<float>({Scratch::floats(layer)}) : nullptr;
  if (!args.ok()) return nullptr;

  const Scratch scratch(layer, memory);
  const Step step(device, layer, scratch);
  for (int64_t row = 0; row < batch; row += kRowsAtOnce) {
    Rows rows = all;
    rows.count = batch - row < kRowsAtOnce ? batch - row : kRowsAtOnce;
    rows.x += row * layer.d_model;
    rows.out += row * layer.d_model;
    if (rows.residual) rows.residual += row * layer.d_model, rows.residual_out += row * layer.d_model;
    rows.conv_state += row * (layer.d_conv - 1) * layer.d_inner;
    rows.ssm_state += row * layer.d_inner * layer.d_state;
    if (Error error = step.run(rows)) return args.finish(error);
  }
  return args.finish(nullptr);
}

const Export kExports[] = {{"mambaLayerStep", mamba_layer_step}};

}  // namespace

void export_mamba_layer_step(napi_env env, napi_value exports) { export_functions(env, exports, kExports, std::size(kExports)); }

}  // namespace mambatune
