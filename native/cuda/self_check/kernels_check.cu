// SPDX-License-Identifier: Apache-2.0
// Stand-alone check of the scan, convolution and norm kernels: every output against float64 loops over many shapes and
// options, the same bits from two runs, then the times of the shapes that docs/performance.md quotes. Build and run:
//
//   cd native/cuda
//   nvcc -std=c++17 -O3 -gencode arch=compute_90,code=sm_90 -o /tmp/kernels_check self_check/kernels_check.cu selective_scan_*.cu causal_conv1d*.cu rms_norm.cu
//   /tmp/kernels_check [check|time]          without an argument: both
//   compute-sanitizer --tool memcheck|racecheck|initcheck /tmp/kernels_check check
#include "../cublas.h"
#include "../ops.cuh"
#include "harness.cuh"
#include "reference.h"

namespace mambatune {
namespace cuda {

inline MatmulPrecision precision = MatmulPrecision::kHigh;

MatmulPrecision matmul_precision() { return precision; }

}  // namespace cuda

namespace self_check {
namespace {

constexpr double kTolerance = 1e-5;
constexpr double kTf32Product = 0x1p-9;  // relative error of a product whose two factors are cut to TF32

struct Shape {
  int64_t batch, seqlen, d_inner, d_state;  // d_state: d_conv for the convolution
};

std::string describe(const Shape& s, unsigned options) {
  char text[96];
  snprintf(text, sizeof(text), "%lldx%lldx%lld, %lld, options 0x%x", static_cast<long long>(s.batch), static_cast<long long>(s.seqlen),
           static_cast<long long>(s.d_inner), static_cast<long long>(s.d_state), options);
  return text;
}

// Everything, nothing, and everything but one of `count` options.
std::vector<unsigned> option_sets(int count) {
  const unsigned all = (1u << count) - 1;
  std::vector<unsigned> sets = {all, 0};
  for (int i = 0; i < count; ++i) sets.push_back(all & ~(1u << i));
  return sets;
}

enum ScanOption { kZ = 1, kD = 2, kBias = 4, kSoftplus = 8, kPacked = 16, kH0 = 32, kStates = 64, kParameters = 128 };
constexpr int kScanOptions = 8;

struct ScanCase {
  Shape shape;
  unsigned options;
  TensorPtr u, delta, A, B, C, D, z, bias, h0, dout, dlast;
  TensorPtr out, last, checkpoints, du, ddelta, dB, dC, dz, dA, dD, dbias, dh0, out_again;
  std::vector<int32_t> ids;
  std::unique_ptr<DeviceInts> device_ids;

  ScanCase(const Shape& s, unsigned chosen, int64_t padding, int64_t state_padding) : shape(s), options(chosen) {
    const int64_t rows = s.batch * s.seqlen, E = s.d_inner, N = s.d_state;
    u = uniform(rows, E, -2, 2, padding);
    // A plain delta must be a step size; unpacked rows get raw deltas beyond the softplus threshold now and then.
    delta = options & kSoftplus ? uniform(rows, E, -7, 2, padding) : uniform(rows, E, 0.001f, 0.5f, padding);
    if (options & kSoftplus && !(options & kPacked)) {
      for (size_t i = 0; i < delta->host.size(); i += 61) delta->host[i] += 18.0f;
      delta->upload();
    }
    A = uniform(E, N, -1.5f, -0.5f);
    for (int64_t i = 0; i < E * N; ++i) A->host[i] *= static_cast<float>(1 + i % N % 16);
    A->upload();
    B = uniform(rows, N, -1, 1, state_padding), C = uniform(rows, N, -1, 1, state_padding), D = uniform(1, E, -1, 1);
    z = uniform(rows, E, -3, 3, 2 * padding), bias = uniform(1, E, -0.2f, 0.2f), h0 = uniform(s.batch * E, N, -1, 1);
    dout = uniform(rows, E, -1, 1), dlast = uniform(s.batch * E, N, -1, 1);
    out = output(rows, E), out_again = output(rows, E), last = output(s.batch * E, N);
    checkpoints = output(1, static_cast<int64_t>(cuda::selective_scan_checkpoint_size(s.batch, s.seqlen, E, N)));
    du = output(rows, E, padding), ddelta = output(rows, E, padding), dz = output(rows, E, padding);
    dB = output(rows, N, padding), dC = output(rows, N, padding);
    dA = output(E, N), dD = output(1, E), dbias = output(1, E), dh0 = output(s.batch * E, N);
    ids = documents(s.batch, s.seqlen);
    device_ids = std::make_unique<DeviceInts>(ids);
  }

  SelectiveScanInputs inputs(bool device) const {
    const auto of = [&](const TensorPtr& tensor) -> const float* { return device ? tensor->device : tensor->host.data(); };
    SelectiveScanInputs p = {};
    p.batch = shape.batch, p.seqlen = shape.seqlen, p.d_inner = shape.d_inner, p.d_state = shape.d_state;
    p.u = of(u), p.u_row_stride = u->stride, p.delta = of(delta), p.delta_row_stride = delta->stride, p.A = of(A);
    p.B = of(B), p.B_row_stride = B->stride, p.C = of(C), p.C_row_stride = C->stride;
    if (options & kZ) p.z = of(z), p.z_row_stride = z->stride;
    if (options & kD) p.D = of(D);
    if (options & kBias) p.delta_bias = of(bias);
    if (options & kPacked) p.seq_idx = device ? device_ids->data : ids.data();
    if (options & kH0) p.h0 = of(h0);
    p.delta_softplus = options & kSoftplus;
    return p;
  }

  Error forward() const {
    SelectiveScanFwdParams p = {};
    static_cast<SelectiveScanInputs&>(p) = inputs(true);
    p.out = out->device, p.checkpoints = checkpoints->device;
    if (options & kStates) p.last_state = last->device;
    return cuda::selective_scan_fwd(p);
  }

  SelectiveScanBwdParams gradients() const {
    SelectiveScanBwdParams p = {};
    static_cast<SelectiveScanInputs&>(p) = inputs(true);
    p.checkpoints = checkpoints->device, p.dout = dout->device;
    p.du = du->device, p.du_row_stride = du->stride, p.ddelta = ddelta->device, p.ddelta_row_stride = ddelta->stride;
    p.dB = dB->device, p.dB_row_stride = dB->stride, p.dC = dC->device, p.dC_row_stride = dC->stride;
    p.out = out_again->device;
    if (options & kZ) p.dz = dz->device, p.dz_row_stride = dz->stride;
    if (options & kStates) p.dlast_state = dlast->device, p.dh0 = dh0->device;
    if (options & kParameters) p.dA = dA->device, p.dD = dD->device, p.ddelta_bias = dbias->device;
    return p;
  }

  Error backward() const { return cuda::selective_scan_bwd(gradients()); }
};

double largest(const Doubles& values) {
  double most = 1e-30;
  for (const double value : values) most = std::max(most, std::fabs(value));
  return most;
}

void check_scan(Report& report, const Shape& shape, unsigned options) {
  const bool tf32 = cuda::matmul_precision() != MatmulPrecision::kHighest;
  const int64_t padding = options & kD ? 4 : 3;  // rows of B and C aligned for quads or not
  ScanCase c(shape, options, tf32 && options & kZ ? 4 : padding, padding);
  const std::string where = describe(shape, options);
  const ScanReference want = reference_scan(c.inputs(false), c.dout->host.data(), options & kStates ? c.dlast->host.data() : nullptr);
  std::vector<Tensor*> outputs = {c.out.get(), c.out_again.get(), c.du.get(), c.ddelta.get(), c.dB.get(), c.dC.get()};
  if (options & kZ) outputs.push_back(c.dz.get());
  if (options & kStates) outputs.insert(outputs.end(), {c.last.get(), c.dh0.get()});
  if (options & kParameters) outputs.insert(outputs.end(), {c.dA.get(), c.dD.get(), c.dbias.get()});
  report.run_twice(where, outputs, [&] {
    const Error error = c.forward();
    return error ? error : c.backward();
  });
  const auto compare = [&](const char* name, const TensorPtr& got, const Doubles& wanted, const Doubles& terms = {}) {
    const double sums = terms.empty() ? 0.0 : kTf32Product * largest(terms) / largest(wanted);
    report.compare(std::string(tf32 ? "selective_scan, TF32, " : "selective_scan ") + name, where, *got, wanted, kTolerance + sums);
  };
  compare("out", c.out, want.out), compare("out again", c.out_again, want.out), compare("du", c.du, want.du), compare("ddelta", c.ddelta, want.ddelta);
  compare("dB", c.dB, want.dB, tf32 ? want.dB_terms : Doubles()), compare("dC", c.dC, want.dC, tf32 ? want.dC_terms : Doubles());
  if (options & kZ) compare("dz", c.dz, want.dz);
  if (options & kStates) compare("last_state", c.last, want.last_state), compare("dh0", c.dh0, want.dh0);
  if (options & kParameters) compare("dA", c.dA, want.dA), compare("dD", c.dD, want.dD), compare("ddelta_bias", c.dbias, want.ddelta_bias);
}

enum ConvOption { kConvBias = 1, kConvPacked = 2, kConvState = 4, kConvSilu = 8, kConvParameters = 16 };
constexpr int kConvOptions = 5;

struct ConvCase {
  Shape shape;
  unsigned options;
  TensorPtr x, weight, bias, state, dy, y, last, dx, dweight, dbias;
  std::vector<int32_t> ids;
  std::unique_ptr<DeviceInts> device_ids;

  ConvCase(const Shape& s, unsigned chosen, int64_t padding) : shape(s), options(chosen) {
    const int64_t rows = s.batch * s.seqlen, E = s.d_inner, K = s.d_state;
    x = uniform(rows, E, -2, 2, padding), weight = uniform(E, K, -1, 1), bias = uniform(1, E, -1, 1), dy = uniform(rows, E, -1, 1);
    state = uniform(s.batch * (K - 1), E, -2, 2), last = output(s.batch * (K - 1), E), y = output(rows, E);
    dx = output(rows, E, padding), dweight = output(E, K), dbias = output(1, E);
    ids = documents(s.batch, s.seqlen);
    device_ids = std::make_unique<DeviceInts>(ids);
  }

  CausalConv1dInputs inputs(bool device) const {
    const auto of = [&](const TensorPtr& tensor) -> const float* { return device ? tensor->device : tensor->host.data(); };
    CausalConv1dInputs p = {};
    p.batch = shape.batch, p.seqlen = shape.seqlen, p.d_inner = shape.d_inner, p.d_conv = shape.d_state;
    p.x = of(x), p.x_row_stride = x->stride, p.weight = of(weight);
    if (options & kConvBias) p.bias = of(bias);
    if (options & kConvPacked) p.seq_idx = device ? device_ids->data : ids.data();
    if (options & kConvState) p.conv_state = of(state);
    p.silu = options & kConvSilu;
    return p;
  }

  Error forward() const {
    CausalConv1dFwdParams p = {};
    static_cast<CausalConv1dInputs&>(p) = inputs(true);
    p.y = y->device;
    if (options & kConvState) p.last_conv_state = last->device;
    return cuda::causal_conv1d_fwd(p);
  }

  Error backward() const {
    CausalConv1dBwdParams p = {};
    static_cast<CausalConv1dInputs&>(p) = inputs(true);
    p.dy = dy->device, p.dx = dx->device, p.dx_row_stride = dx->stride;
    if (options & kConvParameters) p.dweight = dweight->device, p.dbias = dbias->device;
    return cuda::causal_conv1d_bwd(p);
  }
};

void check_conv(Report& report, const Shape& shape, unsigned options, int64_t padding) {
  ConvCase c(shape, options, padding);
  const std::string where = describe(shape, options);
  const ConvReference want = reference_conv(c.inputs(false), c.dy->host.data());
  std::vector<Tensor*> outputs = {c.y.get(), c.dx.get()};
  if (options & kConvState) outputs.push_back(c.last.get());
  if (options & kConvParameters) outputs.insert(outputs.end(), {c.dweight.get(), c.dbias.get()});
  report.run_twice(where, outputs, [&] {
    const Error error = c.forward();
    return error ? error : c.backward();
  });
  const auto compare = [&](const char* name, const TensorPtr& got, const Doubles& wanted) {
    report.compare(std::string("causal_conv1d ") + name, where, *got, wanted, kTolerance);
  };
  compare("y", c.y, want.y), compare("dx", c.dx, want.dx);
  if (options & kConvState) compare("last_conv_state", c.last, want.last_conv_state);
  if (options & kConvParameters) compare("dweight", c.dweight, want.dweight), compare("dbias", c.dbias, want.dbias);
}

// Elements whose mantissa has the ten bits of TF32, so that products of them lose nothing.
TensorPtr uniform_tf32(int64_t rows, int64_t cols, float low, float high) {
  TensorPtr tensor = uniform(rows, cols, low, high);
  for (float& value : tensor->host) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits &= 0xffffe000u;
    memcpy(&value, &bits, sizeof(bits));
  }
  tensor->upload();
  return tensor;
}

struct XProjShape {
  int64_t n, r;
};

// The convolution's backward with that of the layer behind it.
struct XProjCase {
  ConvCase conv;
  XProjShape shape;
  TensorPtr dout, W, dxa, lora_A, dlora_A;

  XProjCase(const Shape& s, const XProjShape& layer, unsigned options, int64_t padding) : conv(s, options | kConvSilu, padding), shape(layer) {
    const int64_t rows = s.batch * s.seqlen;
    dout = uniform_tf32(rows, layer.n, -1, 1), W = uniform_tf32(layer.n, s.d_inner, -1, 1);
    dxa = uniform_tf32(rows, layer.r, -1, 1), lora_A = uniform_tf32(layer.r, s.d_inner, -1, 1), dlora_A = output(layer.r, s.d_inner);
  }

  Error backward() const {
    CausalConv1dBwdParams p = {};
    static_cast<CausalConv1dInputs&>(p) = conv.inputs(true);
    p.dy = conv.dy->device, p.dx = conv.dx->device, p.dx_row_stride = conv.dx->stride;
    p.x_proj.n = shape.n, p.x_proj.dout = dout->device, p.x_proj.W = W->device;
    if (shape.r > 0) p.x_proj.r = shape.r, p.x_proj.dxa = dxa->device, p.x_proj.lora_A = lora_A->device, p.x_proj.dlora_A = dlora_A->device;
    return cuda::causal_conv1d_bwd(p);
  }
};

void check_x_proj(Report& report, const Shape& shape, const XProjShape& layer, unsigned options, int64_t padding) {
  XProjCase c(shape, layer, options, padding);
  const std::string where = describe(shape, options) + ", n " + std::to_string(layer.n) + ", r " + std::to_string(layer.r);
  const int64_t rows = shape.batch * shape.seqlen, E = shape.d_inner;
  std::vector<float> dy = c.conv.dy->host;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t e = 0; e < E; ++e) {
      double sum = dy[row * E + e];
      for (int64_t k = 0; k < layer.n; ++k) sum += static_cast<double>(c.dout->host[row * layer.n + k]) * c.W->host[k * E + e];
      for (int64_t k = 0; k < layer.r; ++k) sum += static_cast<double>(c.dxa->host[row * layer.r + k]) * c.lora_A->host[k * E + e];
      dy[row * E + e] = static_cast<float>(sum);
    }
  }
  const ConvReference want = reference_conv(c.conv.inputs(false), dy.data());
  Doubles dlora_A(layer.r * E, 0.0);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < layer.r; ++k) {
      for (int64_t e = 0; e < E; ++e) dlora_A[k * E + e] += c.dxa->host[row * layer.r + k] * want.y[row * E + e];
    }
  }
  std::vector<Tensor*> outputs = {c.conv.dx.get()};
  if (layer.r > 0) outputs.push_back(c.dlora_A.get());
  report.run_twice(where, outputs, [&] { return c.backward(); });
  report.compare("causal_conv1d x_proj dx", where, *c.conv.dx, want.dx, kTolerance);
  if (layer.r > 0) report.compare("causal_conv1d x_proj dA", where, *c.dlora_A, dlora_A, kTolerance);
}

enum NormOption { kResidual = 1, kWeight = 2, kDweight = 4 };
constexpr int kNormOptions = 3;

struct NormCase {
  int64_t rows, d_model;
  unsigned options;
  TensorPtr x, residual, weight, dy, dresidual, y, s, ds, dweight;

  NormCase(int64_t rows, int64_t d, unsigned chosen) : rows(rows), d_model(d), options(chosen) {
    x = uniform(rows, d, -2, 2), residual = uniform(rows, d, -2, 2), weight = uniform(1, d, -1, 1), dy = uniform(rows, d, -1, 1);
    dresidual = uniform(rows, d, -1, 1), y = output(rows, d), s = output(rows, d), ds = output(rows, d), dweight = output(1, d);
  }

  RmsNormFwdParams inputs(bool device) const {
    const auto of = [&](const TensorPtr& tensor) { return device ? tensor->device : tensor->host.data(); };
    RmsNormFwdParams p = {rows, d_model, of(x), nullptr, options & kWeight ? of(weight) : nullptr, 1e-5f, y->device, nullptr};
    if (options & kResidual) p.residual = of(residual), p.residual_out = s->device;
    return p;
  }
  Error forward() const { return cuda::rms_norm_fwd(inputs(true)); }
  Error backward() const {
    const bool residual_on = options & kResidual;
    return cuda::rms_norm_bwd({rows, d_model, residual_on ? s->device : x->device, options & kWeight ? weight->device : nullptr, 1e-5f,
                               dy->device, residual_on ? dresidual->device : nullptr, ds->device,
                               options & kDweight ? dweight->device : nullptr});
  }
};

void check_norm(Report& report, int64_t rows, int64_t d_model, unsigned options) {
  NormCase c(rows, d_model, options);
  const std::string where = describe({1, rows, d_model, 0}, options);
  const RmsNormReference want =
      reference_rms_norm(c.inputs(false), c.dy->host.data(), options & kResidual ? c.dresidual->host.data() : nullptr);
  std::vector<Tensor*> outputs = {c.y.get(), c.ds.get()};
  if (options & kResidual) outputs.push_back(c.s.get());
  if (options & kDweight) outputs.push_back(c.dweight.get());
  report.run_twice(where, outputs, [&] {
    const Error error = c.forward();
    return error ? error : c.backward();
  });
  report.compare("rms_norm y", where, *c.y, want.y, kTolerance), report.compare("rms_norm ds", where, *c.ds, want.ds, kTolerance);
  if (options & kResidual) report.compare("rms_norm residual_out", where, *c.s, want.s, kTolerance);
  if (options & kDweight) report.compare("rms_norm dweight", where, *c.dweight, want.dweight, kTolerance);
}

bool check() {
  Report report;
  for (const Shape& shape : std::vector<Shape>{{1, 1, 1, 1},    {3, 1, 33, 16},  {2, 2, 5, 3},    {2, 3, 31, 16},   {1, 31, 32, 16},
                                               {2, 32, 33, 16}, {1, 33, 64, 8},  {2, 129, 40, 16}, {1, 1000, 48, 16}, {2, 2048, 35, 16},
                                               {2, 70, 20, 32}, {1, 100, 12, 64}, {2, 70, 6, 100}, {1, 70, 5, 256},  {1, 700, 7, 200},
                                               {60, 65, 33, 16}, {110, 5, 20, 12}, {2, 70, 20, 16}, {1, 7, 4, 16}}) {
    for (const unsigned options : option_sets(kScanOptions)) {
      cuda::precision = MatmulPrecision::kHighest;
      check_scan(report, shape, options);
      cuda::precision = MatmulPrecision::kHigh;
      if (shape.d_state == 16) check_scan(report, shape, options & ~kParameters);
    }
  }
  for (const Shape& shape : std::vector<Shape>{{1, 1, 1, 4}, {2, 1, 64, 4}, {2, 2, 33, 4}, {2, 16, 64, 4}, {1, 17, 36, 4}, {2, 33, 20, 3},
                                               {1, 129, 5, 2}, {2, 100, 516, 4}, {1, 50, 12, 1}, {2, 40, 24, 8}, {1, 1000, 64, 4}, {1, 5, 8, 7},
                                               {1, 40, 4, 5}, {1, 40, 4, 6}}) {
    for (const unsigned options : option_sets(kConvOptions)) {
      check_conv(report, shape, options, 4);
      check_conv(report, shape, options, 3);
    }
  }
  for (const Shape& shape : std::vector<Shape>{{1, 1, 4, 4}, {2, 2, 64, 4}, {1, 29, 20, 4}, {3, 30, 68, 4}, {2, 61, 128, 4}, {1, 67, 132, 4},
                                               {2, 129, 40, 4}, {1, 1000, 64, 4}, {1536, 70, 4, 4}, {500, 131, 4, 4}}) {
    for (const XProjShape& layer : std::vector<XProjShape>{{80, 8}, {12, 4}, {20, 0}, {4, 4}, {96, 8}, {72, 16}, {92, 12}, {128, 8}, {120, 16}}) {
      for (const unsigned options : option_sets(2)) check_x_proj(report, shape, layer, options, layer.n % 8 == 0 ? 4 : 8);
    }
  }
  for (const auto& [rows, d_model] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 3}, {3, 7}, {9, 64}, {130, 768}, {5, 1024}, {33, 1028}, {7, 2560}, {2, 8192}, {3, 8196}, {300, 5}}) {
    for (const unsigned options : option_sets(kNormOptions)) check_norm(report, rows, d_model, options);
  }
  printf("worst error of each output, relative to its tensor's largest element\n");
  report.print();
  return report.failures == 0;
}

void print_time(const char* op, const Shape& s, double microseconds, double megabytes, const char* target) {
  printf("  %-22s %lldx%lldx%-6lld %8.1f us   at most %-9s %7.0f GB/s\n", op, static_cast<long long>(s.batch),
         static_cast<long long>(s.d_inner), static_cast<long long>(s.seqlen), microseconds, target, 1e3 * megabytes / microseconds);
}

void measure() {
  printf("medians of 50 graph replays, cold cache; bytes are the operands' alone; TF32\n");
  struct Row {
    Shape shape;
    const char* targets[4];  // scan and convolution, forward and backward
  };
  for (const Row& row : {Row{{4, 64, 1536, 16}, {"-", "-", "-", "-"}}, Row{{8, 512, 1536, 16}, {"-", "-", "-", "-"}},
                         Row{{8, 1024, 1536, 16}, {"130 (100)", "400 (300)", "40", "100"}}, Row{{4, 2048, 1536, 16}, {"-", "-", "-", "-"}},
                         Row{{2, 4096, 1536, 16}, {"-", "-", "-", "-"}}, Row{{1, 8192, 1536, 16}, {"-", "-", "-", "-"}}, Row{{4, 2048, 5120, 16}, {"-", "-", "-", "-"}}}) {
    const Shape& s = row.shape;
    const double array = 4e-6 * static_cast<double>(s.batch * s.seqlen * s.d_inner);  // MB
    {
      const ScanCase scan(s, kZ | kD | kBias | kSoftplus, 0, 0);
      print_time("selective_scan fwd", s, time_graph([&] { return scan.forward(); }), 4 * array, row.targets[0]);
      print_time("selective_scan bwd", s, time_graph([&] { return scan.backward(); }), 7 * array, row.targets[1]);
      ScanCase trained(s, kZ | kD | kBias | kSoftplus | kParameters, 0, 0);
      require(trained.forward());
      print_time("  with dA, dD, dbias", s, time_graph([&] { return trained.backward(); }), 7 * array, "-");
    }
    const Shape taps = {s.batch, s.seqlen, s.d_inner, 4};
    const ConvCase conv(taps, kConvBias | kConvSilu, 0);
    print_time("causal_conv1d fwd", s, time_graph([&] { return conv.forward(); }), 2 * array, row.targets[2]);
    print_time("causal_conv1d bwd", s, time_graph([&] { return conv.backward(); }), 3 * array, row.targets[3]);
    if (s.d_inner == 1536) {
      const XProjCase projected(taps, {80, 8}, kConvBias, s.d_inner + 8);
      print_time("  with x_proj's", s, time_graph([&] { return projected.backward(); }), 3 * array, "-");
    }
    const ConvCase conv_trained(taps, kConvBias | kConvSilu | kConvParameters, 0);
    print_time("  with dweight, dbias", s, time_graph([&] { return conv_trained.backward(); }), 3 * array, "-");
    const NormCase norm(s.batch * s.seqlen, s.d_inner / 2, kResidual | kWeight);
    print_time("rms_norm fwd (half)", s, time_graph([&] { return norm.forward(); }), 2 * array, "-");
    print_time("rms_norm bwd (half)", s, time_graph([&] { return norm.backward(); }), 2 * array, "-");
  }
  for (const int64_t batch : {1, 64}) {
    const Shape step = {batch, 1, 1536, 16};
    const ScanCase scan(step, kZ | kD | kBias | kSoftplus | kH0 | kStates, 0, 0);
    print_time("selective_scan step", step, time_graph([&] { return scan.forward(); }), 8e-6 * batch * 1536 * 16, "-");
    const ConvCase conv({batch, 1, 1536, 4}, kConvBias | kConvSilu | kConvState, 0);
    print_time("causal_conv1d step", step, time_graph([&] { return conv.forward(); }), 4e-6 * batch * 1536 * 8, "-");
  }
}

}  // namespace
}  // namespace self_check
}  // namespace mambatune

int main(int argc, char** argv) {
  using namespace mambatune;
  const std::string what = argc > 1 ? argv[1] : "both";
  self_check::require(cudaStreamCreateWithFlags(&cuda::the_stream, cudaStreamNonBlocking));
  bool ok = true;
  if (what != "time") ok = self_check::check();
  if (what != "check") self_check::measure();
  return ok ? 0 : 1;
}
