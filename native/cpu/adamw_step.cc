// SPDX-License-Identifier: Apache-2.0
// AdamW over all parameters at once, and the norm of all gradients. The arrays are cut into blocks of a fixed size, so the
// order of the norm's sum does not depend on the number of threads.
#include "../include/adamw_step.h"

#include <math.h>

#include "../include/device.h"
#include "simd.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int64_t kBlock = 16384;

int64_t blocks_of(int64_t size) { return (size + kBlock - 1) / kBlock; }

int64_t count_blocks(const int64_t* size, int64_t count) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) blocks += blocks_of(size[i]);
  return blocks;
}

// A run of one entry's elements.
struct Range {
  int64_t entry, begin, end;
};

// first_block[i] is the number of blocks before entry i.
void number_blocks(const int64_t* size, int64_t count, int64_t* first_block) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    first_block[i] = blocks;
    blocks += blocks_of(size[i]);
  }
}

Range find_block(const int64_t* size, const int64_t* first_block, int64_t count, int64_t block) {
  int64_t low = 0, high = count;  // the last entry that starts at or before `block`
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t begin = (block - first_block[low]) * kBlock;
  return {low, begin, begin + kBlock < size[low] ? begin + kBlock : size[low]};
}

double sum_of_squares(const float* x, int64_t size) {
  constexpr int kHalf = kWidth / 2;
  DoubleVec parts[4] = {};
  int64_t i = 0;
  for (; i + 4 * kHalf <= size; i += 4 * kHalf) {
    MAMBATUNE_UNROLL
    for (int j = 0; j < 4; ++j) {
      HalfVec half;
      memcpy(&half, x + i + j * kHalf, sizeof half);
      const DoubleVec wide = __builtin_convertvector(half, DoubleVec);
      parts[j] += wide * wide;
    }
  }
  const DoubleVec sums = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  double sum = 0;
  for (int j = 0; j < kHalf; ++j) sum += sums[j];
  for (; i < size; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

struct Factors {
  float clip, decay, step_size, inverse_sqrt_correction;
};

void update(const AdamwStepParams& p, const Range& range, const Factors& f) {
  float *param = p.param[range.entry], *m = p.exp_avg[range.entry], *v = p.exp_avg_sq[range.entry];
  const float* grad = p.grad[range.entry];
  const float beta1 = static_cast<float>(p.beta1), rest1 = static_cast<float>(1.0 - p.beta1);
  const float beta2 = static_cast<float>(p.beta2), rest2 = static_cast<float>(1.0 - p.beta2);
  for (int64_t i = range.begin; i < range.end; i += kWidth) {
    const int lanes = range.end - i < kWidth ? static_cast<int>(range.end - i) : kWidth;
    const Vec g = load_lanes(grad + i, lanes) * f.clip;
    const Vec m_i = beta1 * load_lanes(m + i, lanes) + rest1 * g;
    const Vec v_i = beta2 * load_lanes(v + i, lanes) + rest2 * g * g;
    const Vec root = sqrt(v_i) * f.inverse_sqrt_correction + p.eps;
    store_lanes(param + i, load_lanes(param + i, lanes) * f.decay - f.step_size * m_i / root, lanes);
    store_lanes(m + i, m_i, lanes);
    store_lanes(v + i, v_i, lanes);
  }
}

}  // namespace

Error global_norm(const GlobalNormParams& p) {
  const int64_t blocks = count_blocks(p.size, p.count);
  float* scratch = thread_scratch(static_cast<size_t>(2 * (p.count + blocks) + 1));
  if (!scratch) return "global_norm: out of memory for the sums of the blocks";
  int64_t* first_block = reinterpret_cast<int64_t*>(scratch);
  double* sums = reinterpret_cast<double*>(first_block + p.count);
  number_blocks(p.size, p.count, first_block);
  parallel_for(blocks, [&](int64_t block, int) {
    const Range range = find_block(p.size, first_block, p.count, block);
    sums[block] = sum_of_squares(p.grad[range.entry] + range.begin, range.end - range.begin);
  });
  double total = 0;
  for (int64_t block = 0; block < blocks; ++block) total += sums[block];
  *p.norm = static_cast<float>(::sqrt(total));
  return nullptr;
}

Error adamw_step(const AdamwStepParams& p) {
  float clip = 1.0f;
  if (p.grad_norm) {
    if (!isfinite(*p.grad_norm)) return nullptr;
    const float ratio = p.max_grad_norm / (*p.grad_norm + 1e-6f);
    if (p.max_grad_norm > 0.0f && ratio < 1.0f) clip = ratio;
  }
  const int64_t blocks = count_blocks(p.size, p.count);
  float* scratch = thread_scratch(static_cast<size_t>(2 * p.count + 1));
  if (!scratch) return "adamw_step: out of memory for the list of blocks";
  int64_t* first_block = reinterpret_cast<int64_t*>(scratch);
  number_blocks(p.size, p.count, first_block);
  const double steps = p.schedule ? static_cast<double>(p.schedule[1]) : static_cast<double>(p.step);
  const double correction1 = 1.0 - ::pow(p.beta1, steps);
  const double correction2 = 1.0 - ::pow(p.beta2, steps);
  parallel_for(blocks, [&](int64_t block, int) {
    const Range range = find_block(p.size, first_block, p.count, block);
    const float rate = p.schedule ? p.schedule[0] : p.learning_rate[range.entry];
    update(p, range, {clip, 1.0f - rate * p.weight_decay[range.entry], static_cast<float>(rate / correction1),
                      static_cast<float>(1.0 / ::sqrt(correction2))});
  });
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
