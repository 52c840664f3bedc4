// SPDX-License-Identifier: Apache-2.0
// The contracts of native/include in float64, element by element, on host pointers.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "../../include/causal_conv1d.h"
#include "../../include/rms_norm.h"
#include "../../include/selective_scan.h"

namespace mambatune {
namespace self_check {

using Doubles = std::vector<double>;

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

struct ScanReference {
  Doubles out, last_state, du, ddelta, dB, dC, dz, dA, dD, ddelta_bias, dh0;
  Doubles dB_terms, dC_terms;  // sums of the magnitudes of what dB and dC sum over channels
};

// Forward and backward in one; dlast_state may be null.
inline ScanReference reference_scan(const SelectiveScanInputs& p, const float* dout, const float* dlast_state) {
  const int64_t rows = p.batch * p.seqlen, N = p.d_state, E = p.d_inner;
  ScanReference r;
  for (Doubles* v : {&r.out, &r.du, &r.ddelta, &r.dz}) v->assign(rows * E, 0.0);
  for (Doubles* v : {&r.dB, &r.dC, &r.dB_terms, &r.dC_terms}) v->assign(rows * N, 0.0);
  for (Doubles* v : {&r.last_state, &r.dh0}) v->assign(p.batch * E * N, 0.0);
  r.dA.assign(E * N, 0.0), r.dD.assign(E, 0.0), r.ddelta_bias.assign(E, 0.0);
  Doubles h((p.seqlen + 1) * N), g(N);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t c = 0; c < E; ++c) {
      const int64_t states = (b * E + c) * N;
      const auto step = [&](int64_t t, double& slope) {
        const double raw = p.delta[(b * p.seqlen + t) * p.delta_row_stride + c] + (p.delta_bias ? static_cast<double>(p.delta_bias[c]) : 0.0);
        slope = p.delta_softplus && raw <= 20.0 ? sigmoid(raw) : 1.0;
        return p.delta_softplus && raw <= 20.0 ? std::log1p(std::exp(raw)) : raw;
      };
      const auto resets = [&](int64_t t) { return p.seq_idx && t > 0 && p.seq_idx[b * p.seqlen + t] != p.seq_idx[b * p.seqlen + t - 1]; };
      for (int64_t n = 0; n < N; ++n) h[n] = p.h0 ? p.h0[states + n] : 0.0;
      for (int64_t t = 0; t < p.seqlen; ++t) {
        const int64_t row = b * p.seqlen + t;
        double slope;
        const double delta = step(t, slope), u = p.u[row * p.u_row_stride + c];
        double y = p.D ? p.D[c] * u : 0.0;
        for (int64_t n = 0; n < N; ++n) {
          const double before = resets(t) ? 0.0 : h[t * N + n];
          h[(t + 1) * N + n] = std::exp(delta * p.A[c * N + n]) * before + delta * u * p.B[row * p.B_row_stride + n];
          y += p.C[row * p.C_row_stride + n] * h[(t + 1) * N + n];
        }
        const double z = p.z ? p.z[row * p.z_row_stride + c] : 0.0;
        r.out[row * E + c] = p.z ? y * z * sigmoid(z) : y;
        if (p.z) r.dz[row * E + c] = dout[row * E + c] * y * sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z)));
      }
      for (int64_t n = 0; n < N; ++n) {
        r.last_state[states + n] = h[p.seqlen * N + n];
        g[n] = dlast_state ? dlast_state[states + n] : 0.0;
      }
      for (int64_t t = p.seqlen - 1; t >= 0; --t) {
        const int64_t row = b * p.seqlen + t;
        double slope;
        const double delta = step(t, slope), u = p.u[row * p.u_row_stride + c];
        const double z = p.z ? p.z[row * p.z_row_stride + c] : 0.0;
        const double dy = dout[row * E + c] * (p.z ? z * sigmoid(z) : 1.0);
        double grad_input = 0.0, grad_delta = 0.0;
        for (int64_t n = 0; n < N; ++n) {
          const double A = p.A[c * N + n], B = p.B[row * p.B_row_stride + n];
          const double before = resets(t) ? 0.0 : h[t * N + n], decay = std::exp(delta * A);
          g[n] += p.C[row * p.C_row_stride + n] * dy;
          r.dC[row * N + n] += dy * h[(t + 1) * N + n];
          r.dB[row * N + n] += delta * u * g[n];
          r.dC_terms[row * N + n] += std::fabs(dy * h[(t + 1) * N + n]);
          r.dB_terms[row * N + n] += std::fabs(delta * u * g[n]);
          grad_input += g[n] * B;
          grad_delta += g[n] * decay * before * A;
          r.dA[c * N + n] += g[n] * decay * before * delta;
          g[n] = resets(t) ? 0.0 : g[n] * decay;
        }
        r.du[row * E + c] = delta * grad_input + (p.D ? p.D[c] * dy : 0.0);
        r.ddelta[row * E + c] = (u * grad_input + grad_delta) * slope;
        r.dD[c] += dy * u;
        r.ddelta_bias[c] += r.ddelta[row * E + c];
      }
      for (int64_t n = 0; n < N; ++n) r.dh0[states + n] = g[n];
    }
  }
  return r;
}

struct ConvReference {
  Doubles y, last_conv_state, dx, dweight, dbias;
};

inline ConvReference reference_conv(const CausalConv1dInputs& p, const float* dy) {
  const int64_t rows = p.batch * p.seqlen, E = p.d_inner, K = p.d_conv;
  ConvReference r;
  r.y.assign(rows * E, 0.0), r.dx.assign(rows * E, 0.0), r.last_conv_state.assign(p.batch * (K - 1) * E, 0.0);
  r.dweight.assign(E * K, 0.0), r.dbias.assign(E, 0.0);
  for (int64_t b = 0; b < p.batch; ++b) {
    const auto input = [&](int64_t t, int64_t c) -> double {
      if (t >= 0) return p.x[(b * p.seqlen + t) * p.x_row_stride + c];
      return p.conv_state ? p.conv_state[(b * (K - 1) + K - 1 + t) * E + c] : 0.0;
    };
    const auto same = [&](int64_t t, int64_t s) {
      return !p.seq_idx || p.seq_idx[b * p.seqlen + t] == p.seq_idx[b * p.seqlen + (s < 0 ? 0 : s)];
    };
    for (int64_t c = 0; c < E; ++c) {
      for (int64_t t = 0; t < p.seqlen; ++t) {
        const int64_t row = b * p.seqlen + t;
        double pre = p.bias ? p.bias[c] : 0.0;
        for (int64_t k = 0; k < K; ++k) {
          const int64_t s = t - (K - 1) + k;
          if (same(t, s)) pre += p.weight[c * K + k] * input(s, c);
        }
        r.y[row * E + c] = p.silu ? pre * sigmoid(pre) : pre;
        const double grad = dy[row * E + c] * (p.silu ? sigmoid(pre) * (1.0 + pre * (1.0 - sigmoid(pre))) : 1.0);
        r.dbias[c] += grad;
        for (int64_t k = 0; k < K; ++k) {
          const int64_t s = t - (K - 1) + k;
          if (!same(t, s)) continue;
          r.dweight[c * K + k] += grad * input(s, c);
          if (s >= 0) r.dx[(b * p.seqlen + s) * E + c] += grad * p.weight[c * K + k];
        }
      }
      for (int64_t k = 0; k + 1 < K; ++k) r.last_conv_state[(b * (K - 1) + k) * E + c] = input(p.seqlen - (K - 1) + k, c);
    }
  }
  return r;
}

struct RmsNormReference {
  Doubles y, s, ds, dweight;
};

// ds and dweight are those of a backward whose s is x + residual rounded to float, as the forward stores it.
inline RmsNormReference reference_rms_norm(const RmsNormFwdParams& p, const float* dy, const float* dresidual_out) {
  const int64_t d = p.d_model;
  RmsNormReference r;
  for (Doubles* v : {&r.y, &r.s, &r.ds}) v->assign(p.rows * d, 0.0);
  r.dweight.assign(d, 0.0);
  for (int64_t row = 0; row < p.rows; ++row) {
    double squares = 0.0, products = 0.0;
    const auto weight = [&](int64_t i) { return p.weight ? static_cast<double>(p.weight[i]) : 1.0; };
    for (int64_t i = 0; i < d; ++i) {
      const float s = p.residual ? p.x[row * d + i] + p.residual[row * d + i] : p.x[row * d + i];
      r.s[row * d + i] = s;
      squares += static_cast<double>(s) * s;
      products += static_cast<double>(s) * dy[row * d + i] * weight(i);
    }
    const double scale = 1.0 / std::sqrt(squares / d + p.eps);
    for (int64_t i = 0; i < d; ++i) {
      const double s = r.s[row * d + i], grad = dy[row * d + i];
      r.y[row * d + i] = s * scale * weight(i);
      r.ds[row * d + i] = scale * (grad * weight(i) - s * scale * scale / d * products) +
                          (dresidual_out ? static_cast<double>(dresidual_out[row * d + i]) : 0.0);
      r.dweight[i] += grad * s * scale;
    }
  }
  return r;
}

}  // namespace self_check
}  // namespace mambatune
