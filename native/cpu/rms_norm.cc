// SPDX-License-Identifier: Apache-2.0
// RMSNorm with the residual addition before it fused, forward and backward; a task works on a run of rows.
#include "../include/rms_norm.h"

#include <math.h>

#include "../include/device.h"
#include "simd.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int64_t kTaskElements = 16384;
constexpr int64_t kMaxRowBlocks = 64;  // whose sums for dweight wait to be added

// body(vector offset, lanes) over a row; the last vector may be short.
template <class Body>
MAMBATUNE_INLINE void for_each_vector(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) body(i, kWidth);
  if (i < size) body(i, static_cast<int>(size - i));
}

struct Sum {
  Vec parts[4] = {};

  MAMBATUNE_INLINE float total() const { return sum_lanes((parts[0] + parts[1]) + (parts[2] + parts[3])); }
};

float sum_of_products(const float* a, const float* b, const float* c, int64_t size) {
  Sum sum;
  int64_t i = 0;
  for (; i + 4 * kWidth <= size; i += 4 * kWidth) {
    MAMBATUNE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t at = i + j * kWidth;
      const Vec product = load(a + at) * load(b + at);
      sum.parts[j] += c ? product * load(c + at) : product;
    }
  }
  for_each_vector(size - i, [&](int64_t offset, int lanes) {
    const int64_t at = i + offset;
    const Vec product = load_lanes(a + at, lanes) * load_lanes(b + at, lanes);
    sum.parts[0] += c ? product * load_lanes(c + at, lanes) : product;
  });
  return sum.total();
}

void forward_row(const RmsNormFwdParams& p, int64_t row) {
  const int64_t at = row * p.d_model;
  const float* s = p.x + at;
  if (p.residual) {
    for_each_vector(p.d_model, [&](int64_t i, int lanes) {
      store_lanes(p.residual_out + at + i, load_lanes(s + i, lanes) + load_lanes(p.residual + at + i, lanes), lanes);
    });
    s = p.residual_out + at;
  }
  const float mean = sum_of_products(s, s, nullptr, p.d_model) / static_cast<float>(p.d_model);
  const float scale = 1.0f / sqrtf(mean + p.eps);
  if (p.scales) p.scales[row] = scale;
  for_each_vector(p.d_model, [&](int64_t i, int lanes) {
    Vec y = load_lanes(s + i, lanes) * scale;
    if (p.weight) y *= load_lanes(p.weight + i, lanes);
    store_lanes(p.y + at + i, y, lanes);
  });
}

// ds = r (dy w - s (r^2 / d_model) sum(dy w s)) + dresidual_out, r = rsqrt(mean(s^2) + eps). Adds dy s r to grad_weight.
void backward_row(const RmsNormBwdParams& p, int64_t row, float* grad_weight) {
  const int64_t at = row * p.d_model;
  const float *s = p.s + at, *dy = p.dy + at;
  const float size = static_cast<float>(p.d_model);
  const float scale = 1.0f / sqrtf(sum_of_products(s, s, nullptr, p.d_model) / size + p.eps);
  const float along = scale * scale / size * sum_of_products(dy, s, p.weight, p.d_model);
  for_each_vector(p.d_model, [&](int64_t i, int lanes) {
    const Vec s_i = load_lanes(s + i, lanes), dy_i = load_lanes(dy + i, lanes);
    const Vec g = p.weight ? dy_i * load_lanes(p.weight + i, lanes) : dy_i;
    Vec ds = scale * (g - along * s_i);
    if (p.dresidual_out) ds += load_lanes(p.dresidual_out + at + i, lanes);
    store_lanes(p.ds + at + i, ds, lanes);
    if (grad_weight) store_lanes(grad_weight + i, load_lanes(grad_weight + i, lanes) + dy_i * s_i * scale, lanes);
  });
}

int64_t rows_per_task(int64_t d_model) { return d_model < kTaskElements ? kTaskElements / d_model : 1; }

}  // namespace

Error rms_norm_fwd(const RmsNormFwdParams& p) {
  if (p.rows == 0 || p.d_model == 0) return nullptr;
  const int64_t rows = rows_per_task(p.d_model);
  parallel_for((p.rows + rows - 1) / rows, [&](int64_t task, int) {
    const int64_t end = (task + 1) * rows < p.rows ? (task + 1) * rows : p.rows;
    for (int64_t row = task * rows; row < end; ++row) forward_row(p, row);
  });
  return nullptr;
}

Error rms_norm_bwd(const RmsNormBwdParams& p) {
  if (p.d_model == 0) return nullptr;
  const size_t row_bytes = static_cast<size_t>(p.d_model) * sizeof(float);
  int64_t rows = rows_per_task(p.d_model);
  if (p.dweight && rows * kMaxRowBlocks < p.rows) rows = (p.rows + kMaxRowBlocks - 1) / kMaxRowBlocks;
  const int64_t blocks = (p.rows + rows - 1) / rows;
  float* sums = nullptr;
  if (p.dweight) {
    sums = thread_scratch(static_cast<size_t>(blocks * p.d_model + 1));
    if (!sums) return "rms_norm backward: out of memory for the sums over rows";
  }
  parallel_for(blocks, [&](int64_t block, int) {
    float* grad_weight = sums ? sums + block * p.d_model : nullptr;
    if (grad_weight) memset(grad_weight, 0, row_bytes);
    const int64_t end = (block + 1) * rows < p.rows ? (block + 1) * rows : p.rows;
    for (int64_t row = block * rows; row < end; ++row) backward_row(p, row, grad_weight);
  });
  if (!p.dweight) return nullptr;
  memset(p.dweight, 0, row_bytes);
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t i = 0; i < p.d_model; ++i) p.dweight[i] += sums[block * p.d_model + i];
  }
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
