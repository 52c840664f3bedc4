// SPDX-License-Identifier: Apache-2.0
// Head and loss in one pass over the vocabulary with a running maximum (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018): a chunk of W makes a block of logits that never leaves the cache, and while it is there
// the same chunk adds exp(logit - maximum) times itself to the gradient of the hidden states. A task is a block of rows times
// one of a few parts of the vocabulary; parts are merged in order, so the result does not depend on the threads.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "gemm.h"
#include "memory.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int64_t kBlockRows = 128;
constexpr int64_t kChunk = 64;                            // entries of the vocabulary at a time
constexpr int64_t kWantedTasks = 32;                      // to keep many threads busy
constexpr int64_t kMinPart = 1024;                        // entries of the vocabulary in a part
constexpr int64_t kMaxPartialFloats = int64_t{4} << 20;   // of gradients of parts

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// What is known of a row after a part of the vocabulary: sum of exp(logit - maximum) over it.
struct RowState {
  double sum;
  float maximum;
  float label_logit;  // where the label lies in the part
};

struct Plan {
  const LinearCrossEntropyParams& p;
  int64_t count;          // rows with a label
  const float* hidden;    // [count, d_model]: their hidden states
  const int32_t* labels;  // [count]
  int64_t row_blocks, parts, k_blocks;
  RowState* states;  // [parts, count]
  float* partials;   // [parts - 1, count, d_model]: gradients of the parts after the first, or null
  float* mean_W;     // [d_model]: the mean of W's rows, which gives the mean of a row's logits; null without label smoothing

  int64_t first_row(int64_t block) const { return block * count / row_blocks; }
  int64_t first_entry(int64_t part) const { return part * p.W.rows / parts; }
  int64_t first_k(int64_t block) const { return block * p.d_model / k_blocks; }
  int64_t block_rows() const { return round_up(ceil_div(count, row_blocks), kWidth); }
  float* gradient(int64_t part) const { return part == 0 ? p.dhidden : partials + (part - 1) * count * p.d_model; }
};

// A thread's scratch memory.
struct Blocks {
  float* hidden;         // packed as the right-hand side: [d_model, rows]
  float* chunk;          // packed as the left-hand side: [kChunk, a block of d_model]
  float* logits;         // [kChunk, rows]
  float* probabilities;  // logits, packed as the left-hand side
  float* weights;        // packed as the right-hand side

  static int64_t floats(const Plan& plan) {
    return packed_b_floats(plan.block_rows(), plan.p.d_model) + packed_a_floats(kChunk) + kChunk * plan.block_rows() +
           packed_a_floats(plan.block_rows()) + packed_b_floats(plan.p.d_model, kMaxBlockK) + 5 * 16;
  }

  Blocks(const Plan& plan, float* scratch) {
    hidden = scratch;
    chunk = hidden + round_up(packed_b_floats(plan.block_rows(), plan.p.d_model), 16);
    logits = chunk + round_up(packed_a_floats(kChunk), 16);
    probabilities = logits + round_up(kChunk * plan.block_rows(), 16);
    weights = probabilities + round_up(packed_a_floats(plan.block_rows()), 16);
  }
};

void pack_hidden(const Plan& plan, int64_t row, int64_t rows, float* packed) {
  const int64_t padded = round_up(rows, kWidth);
  for (int64_t b = 0; b < plan.k_blocks; ++b) {
    const int64_t k0 = plan.first_k(b), k = plan.first_k(b + 1) - k0;
    pack_b({plan.hidden, plan.p.d_model, true}, row, rows, k0, k, 0, k, packed + packed_b_floats(padded, 1) * k0);
  }
}

// logits[j, i] = W[entry + j] . hidden[row i], j < entries, for i up to the next multiple of the vector width: zero beyond
// the rows there are.
void compute_logits(const Plan& plan, int64_t entry, int64_t entries, int64_t rows, const Blocks& blocks) {
  const int64_t padded = round_up(rows, kWidth);
  for (int64_t b = 0; b < plan.k_blocks; ++b) {
    const int64_t k0 = plan.first_k(b), k = plan.first_k(b + 1) - k0;
    pack_a({plan.p.W.data, plan.p.d_model, false}, entry, entries, k0, k, 0, blocks.chunk);
    multiply_packed(entries, padded, k, blocks.chunk, false, blocks.hidden + packed_b_floats(padded, 1) * k0, blocks.logits, padded,
                    b > 0 ? blocks.logits : nullptr, padded);
  }
}

// Turns the block of logits into exp(logit - maximum) with the rows' new maxima, adds it to their sums and scales what was
// gathered with an older maximum.
void exponentiate(const Plan& plan, int64_t entries, int64_t rows, bool first, float* logits, RowState* states, float* gradient) {
  const int64_t padded = round_up(rows, kWidth);
  for (int64_t i = 0; i < rows; i += kWidth) {
    const int lanes = static_cast<int>(min(kWidth, rows - i));
    alignas(64) float old_maximum[kWidth], new_maximum[kWidth], sum[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) old_maximum[lane] = first || lane >= lanes ? -FLT_MAX : states[i + lane].maximum;
    Vec maximum = load(old_maximum);
    for (int64_t j = 0; j < entries; ++j) {
      const Vec logit = load(logits + j * padded + i);
      maximum = logit > maximum ? logit : maximum;
    }
    store(new_maximum, maximum);
    Vec total = {};
    for (int64_t j = 0; j < entries; ++j) {
      const Vec e = exp(load(logits + j * padded + i) - maximum);
      total += e;
      store(logits + j * padded + i, e);
    }
    store(sum, total);
    for (int lane = 0; lane < lanes; ++lane) {
      RowState& state = states[i + lane];
      if (first) {
        state.sum = 0;
      } else if (new_maximum[lane] != old_maximum[lane]) {
        const float scale = expf(old_maximum[lane] - new_maximum[lane]);
        state.sum *= static_cast<double>(scale);
        if (gradient) {
          float* row = gradient + (i + lane) * plan.p.d_model;
          for (int64_t c = 0; c < plan.p.d_model; ++c) row[c] *= scale;
        }
      }
      state.maximum = new_maximum[lane];
      state.sum += static_cast<double>(sum[lane]);
    }
  }
}

// gradient[rows, d_model] (+)= probabilities^T W[entry : entry + entries]
void add_gradient(const Plan& plan, int64_t entry, int64_t entries, int64_t rows, bool first, const Blocks& blocks, float* gradient) {
  const int64_t d_model = plan.p.d_model;
  pack_a({blocks.logits, round_up(rows, kWidth), true}, 0, rows, 0, entries, 0, blocks.probabilities);
  pack_b({plan.p.W.data, d_model, false}, 0, d_model, entry, entries, 0, entries, blocks.weights);
  multiply_packed(rows, d_model, entries, blocks.probabilities, true, blocks.weights, gradient, d_model, first ? nullptr : gradient,
                  d_model);
}

void run_part(const Plan& plan, int64_t block, int64_t part, float* scratch) {
  const Blocks blocks(plan, scratch);
  const int64_t row = plan.first_row(block), rows = plan.first_row(block + 1) - row;
  const int64_t begin = plan.first_entry(part), end = plan.first_entry(part + 1);
  RowState* states = plan.states + part * plan.count + row;
  float* gradient = plan.p.dhidden ? plan.gradient(part) + row * plan.p.d_model : nullptr;
  pack_hidden(plan, row, rows, blocks.hidden);
  for (int64_t entry = begin; entry < end; entry += kChunk) {
    const int64_t entries = min(kChunk, end - entry);
    compute_logits(plan, entry, entries, rows, blocks);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t label = plan.labels[row + i] - entry;
      if (label >= 0 && label < entries) states[i].label_logit = blocks.logits[label * round_up(rows, kWidth) + i];
    }
    exponentiate(plan, entries, rows, entry == begin, blocks.logits, states, gradient);
    if (gradient) add_gradient(plan, entry, entries, rows, entry == begin, blocks, gradient);
  }
}

double log_sum(const RowState& state) { return static_cast<double>(state.maximum) + std::log(state.sum); }

// What the gradient of z_loss logsumexp^2 multiplies the probabilities with.
double z_factor(const LinearCrossEntropyParams& p, const RowState& state) { return 1.0 + 2.0 * p.z_loss * log_sum(state); }

// Merges the parts of a row into the first: its maximum and sum over the whole vocabulary, and the gradient in dhidden
// (row `row` of the rows with a label). With label smoothing, its label_logit is that of the smoothed target.
void merge_row(const Plan& plan, int64_t row) {
  const int64_t d_model = plan.p.d_model;
  RowState merged = plan.states[row];
  for (int64_t part = 0; part < plan.parts; ++part) {
    const RowState& state = plan.states[part * plan.count + row];
    if (state.maximum > merged.maximum) merged.maximum = state.maximum;
    if (plan.labels[row] >= plan.first_entry(part) && plan.labels[row] < plan.first_entry(part + 1)) {
      merged.label_logit = state.label_logit;
    }
  }
  merged.sum = 0;
  for (int64_t part = 0; part < plan.parts; ++part) {
    const RowState& state = plan.states[part * plan.count + row];
    merged.sum += state.sum * std::exp(static_cast<double>(state.maximum) - static_cast<double>(merged.maximum));
  }
  if (plan.p.dhidden) {
    float* gradient = plan.p.dhidden + row * d_model;
    for (int64_t part = 0; part < plan.parts; ++part) {
      const double shift = static_cast<double>(plan.states[part * plan.count + row].maximum) - static_cast<double>(merged.maximum);
      const float scale = static_cast<float>(std::exp(shift) / merged.sum * z_factor(plan.p, merged));
      const float* from = plan.gradient(part) + row * d_model;
      for (int64_t c = 0; c < d_model; ++c) gradient[c] = part > 0 ? gradient[c] + scale * from[c] : scale * from[c];
    }
    const float* target = plan.p.W.data + plan.labels[row] * d_model;
    const float smoothing = static_cast<float>(plan.p.label_smoothing), rest = static_cast<float>(1.0 - plan.p.label_smoothing);
    for (int64_t c = 0; c < d_model; ++c) gradient[c] -= rest * target[c];
    if (plan.mean_W) {
      for (int64_t c = 0; c < d_model; ++c) gradient[c] -= smoothing * plan.mean_W[c];
    }
  }
  if (plan.mean_W) {
    const float* hidden = plan.hidden + row * d_model;
    double mean = 0;
    for (int64_t c = 0; c < d_model; ++c) mean += static_cast<double>(hidden[c]) * static_cast<double>(plan.mean_W[c]);
    const double rest = 1.0 - plan.p.label_smoothing;
    merged.label_logit = static_cast<float>(rest * static_cast<double>(merged.label_logit) + plan.p.label_smoothing * mean);
  }
  plan.states[row] = merged;
}

// dW[entry : entry + entries] = (softmax - target)^T hidden, from logits computed again.
void weight_gradient_chunk(const Plan& plan, int64_t entry, int64_t entries, float* scratch) {
  const Blocks blocks(plan, scratch);
  const int64_t d_model = plan.p.d_model;
  float* dW = plan.p.dW + entry * d_model;
  const float share = static_cast<float>(plan.p.label_smoothing / static_cast<double>(plan.p.W.rows));
  const float rest = static_cast<float>(1.0 - plan.p.label_smoothing);
  for (int64_t block = 0; block < plan.row_blocks; ++block) {
    const int64_t row = plan.first_row(block), rows = plan.first_row(block + 1) - row, padded = round_up(rows, kWidth);
    pack_hidden(plan, row, rows, blocks.hidden);
    compute_logits(plan, entry, entries, rows, blocks);
    for (int64_t i = 0; i < rows; i += kWidth) {
      alignas(64) float shift[kWidth] = {}, factor[kWidth] = {};
      for (int64_t lane = 0; lane < min(kWidth, rows - i); ++lane) {
        const RowState& state = plan.states[row + i + lane];
        shift[lane] = static_cast<float>(log_sum(state));
        factor[lane] = static_cast<float>(z_factor(plan.p, state));
      }
      for (int64_t j = 0; j < entries; ++j) {
        float* at = blocks.logits + j * padded + i;
        store(at, exp(load(at) - load(shift)) * load(factor) - share);
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t label = plan.labels[row + i] - entry;
      if (label >= 0 && label < entries) blocks.logits[label * padded + i] -= rest;
    }
    pack_a({blocks.logits, padded, false}, 0, entries, 0, rows, 0, blocks.chunk);
    pack_b({plan.hidden, d_model, false}, 0, d_model, row, rows, 0, rows, blocks.weights);
    multiply_packed(entries, d_model, rows, blocks.chunk, false, blocks.weights, dW, d_model, block > 0 ? dW : nullptr, d_model);
  }
}

// Moves the gradients, which lie one after another, to the rows they belong to, and sets the others to zero.
void spread_rows(const LinearCrossEntropyParams& p, int64_t count) {
  const size_t row_bytes = static_cast<size_t>(p.d_model) * sizeof(float);
  for (int64_t i = p.rows - 1; i >= 0; --i) {
    if (p.labels[i] < 0) {
      std::memset(p.dhidden + i * p.d_model, 0, row_bytes);
    } else if (--count != i) {
      std::memcpy(p.dhidden + i * p.d_model, p.dhidden + count * p.d_model, row_bytes);
    }
  }
}

void zero_outputs(const LinearCrossEntropyParams& p) {
  *p.loss_sum = 0;
  *p.count = 0;
  if (p.dhidden) std::memset(p.dhidden, 0, static_cast<size_t>(p.rows * p.d_model) * sizeof(float));
  if (p.dW) std::memset(p.dW, 0, static_cast<size_t>(p.W.rows * p.d_model) * sizeof(float));
}

// Summed in float64, each column in the order of the rows.
void mean_of_rows(const Weight& W, int64_t d_model, float* mean) {
  constexpr int64_t kTile = 64;
  parallel_for(ceil_div(d_model, kTile), [&](int64_t tile, int) {
    const int64_t first = tile * kTile, columns = min(kTile, d_model - first);
    double sums[kTile] = {};
    for (int64_t row = 0; row < W.rows; ++row) {
      const float* from = W.data + row * d_model + first;
      for (int64_t c = 0; c < columns; ++c) sums[c] += static_cast<double>(from[c]);
    }
    for (int64_t c = 0; c < columns; ++c) mean[first + c] = static_cast<float>(sums[c] / static_cast<double>(W.rows));
  });
}

// The hidden states and labels of the rows that have one, one after another. Both fit in `memory`.
void gather_rows(const LinearCrossEntropyParams& p, float* memory, Plan* plan) {
  float* hidden = memory;
  int32_t* labels = reinterpret_cast<int32_t*>(memory + plan->count * p.d_model);
  plan->hidden = hidden;
  plan->labels = labels;
  for (int64_t i = 0; i < p.rows; ++i) {
    if (p.labels[i] < 0) continue;
    std::memcpy(hidden, p.hidden + i * p.d_model, static_cast<size_t>(p.d_model) * sizeof(float));
    hidden += p.d_model;
    *labels++ = p.labels[i];
  }
}

}  // namespace

Error linear_cross_entropy(const LinearCrossEntropyParams& p) {
  int64_t count = 0;
  for (int64_t i = 0; i < p.rows; ++i) count += p.labels[i] >= 0;
  if (count == 0 || p.d_model == 0) {
    zero_outputs(p);
    return nullptr;
  }
  Plan plan{p, count, p.hidden, p.labels, ceil_div(count, kBlockRows), 1, ceil_div(p.d_model, kMaxBlockK), nullptr, nullptr, nullptr};
  plan.parts = min(ceil_div(kWantedTasks, plan.row_blocks), ceil_div(p.W.rows, kMinPart));
  if (p.dhidden) plan.parts = min(plan.parts, 1 + kMaxPartialFloats / (count * p.d_model));

  Workspace rows, states, partials, mean_W;
  if (count < p.rows) {
    if (Error error = rows.reserve(count * (p.d_model + 1))) return error;
    gather_rows(p, rows.data, &plan);
  }
  if (Error error = states.reserve(plan.parts * count * static_cast<int64_t>(sizeof(RowState) / sizeof(float)))) return error;
  plan.states = reinterpret_cast<RowState*>(states.data);
  if (p.dhidden && plan.parts > 1) {
    if (Error error = partials.reserve((plan.parts - 1) * count * p.d_model)) return error;
    plan.partials = partials.data;
  }
  if (p.label_smoothing > 0) {
    if (Error error = mean_W.reserve(p.d_model)) return error;
    plan.mean_W = mean_W.data;
    mean_of_rows(p.W, p.d_model, plan.mean_W);
  }

  const size_t scratch_floats = static_cast<size_t>(Blocks::floats(plan));
  bool out_of_memory = false;
  const auto with_scratch = [&](int64_t tasks, auto run) {
    parallel_for(tasks, [&](int64_t task, int) {
      if (float* scratch = thread_scratch(scratch_floats)) {
        run(task, scratch);
      } else {
        __atomic_store_n(&out_of_memory, true, __ATOMIC_RELAXED);
      }
    });
  };
  with_scratch(plan.parts * plan.row_blocks, [&](int64_t task, float* scratch) {
    run_part(plan, task % plan.row_blocks, task / plan.row_blocks, scratch);
  });
  if (out_of_memory) return out_of_memory_error(scratch_floats * sizeof(float));
  parallel_for(count, [&](int64_t row, int) { merge_row(plan, row); });

  double loss = 0;
  for (int64_t i = 0; i < count; ++i) {
    const RowState& state = plan.states[i];
    const double z = log_sum(state);
    loss += z - static_cast<double>(state.label_logit) + p.z_loss * z * z;
  }
  *p.loss_sum = static_cast<float>(loss);
  *p.count = static_cast<float>(count);
  if (p.dW) {
    with_scratch(ceil_div(p.W.rows, kChunk), [&](int64_t task, float* scratch) {
      weight_gradient_chunk(plan, task * kChunk, min(kChunk, p.W.rows - task * kChunk), scratch);
    });
    if (out_of_memory) return out_of_memory_error(scratch_floats * sizeof(float));
  }
  if (p.dhidden && count < p.rows) spread_rows(p, count);
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
