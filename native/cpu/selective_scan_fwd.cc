// SPDX-License-Identifier: Apache-2.0
// Selective scan, forward. A task walks a few vectors of channels of one batch row through time, chunk by chunk: first what
// depends on the channel alone (softplus of delta, delta * u, D * u), then the recurrence, then the gate. A single step, as
// in generation, has its own path whose vectors run over states, as the operands lie in memory.
#include "selective_scan_detail.h"

#include "../include/device.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {

size_t selective_scan_checkpoint_size(int64_t batch, int64_t seqlen, int64_t d_inner, int64_t d_state) {
  SelectiveScanInputs p = {};
  p.batch = batch;
  p.seqlen = seqlen;
  p.d_inner = d_inner;
  p.d_state = d_state;
  const ScanShape shape(p);
  if (shape.chunks < 2) return 0;
  return static_cast<size_t>(batch * (shape.chunks - 1) * shape.stored_vectors * shape.state_floats());
}

namespace {

constexpr int kMaxGroup = 8;  // vectors of channels a task walks side by side, so that it reads whole runs of a row
constexpr int kWideBlock = kWidth == 16 ? 16 : 8;
constexpr int64_t kStepGrain = 32768;  // states a task of the single-step path is worth

struct Group {
  const SelectiveScanFwdParams& p;
  const ScanShape shape;
  int64_t batch, first_vector;
  int vectors;
  float *A, *state, *delta, *input, *y, *bias, *skip, *B_padded, *C_padded;

  static int64_t scratch(const ScanShape& shape) {
    return kMaxGroup * (2 * shape.state_floats() + (3 * kChunk + 2) * kWidth) + 2 * kChunk * shape.states;
  }

  Group(const SelectiveScanFwdParams& params, const ScanShape& scan_shape, int64_t b, int64_t first, int count, float* memory)
      : p(params), shape(scan_shape), batch(b), first_vector(first), vectors(count) {
    A = memory;
    state = A + kMaxGroup * shape.state_floats();
    delta = state + kMaxGroup * shape.state_floats();
    input = delta + kMaxGroup * kChunk * kWidth;
    y = input + kMaxGroup * kChunk * kWidth;
    bias = y + kMaxGroup * kChunk * kWidth;
    skip = bias + kMaxGroup * kWidth;
    B_padded = skip + kMaxGroup * kWidth;
    C_padded = B_padded + kChunk * shape.states;
  }

  int lanes(int v) const { return lanes_of(p.d_inner, first_vector + v); }
  int64_t channel(int v) const { return (first_vector + v) * kWidth; }
  int64_t state_row(int v) const { return (batch * p.d_inner + channel(v)) * p.d_state; }

  void begin() {
    for (int v = 0; v < vectors; ++v) {
      float* h = state + v * shape.state_floats();
      store(bias + v * kWidth, p.delta_bias ? load_lanes(p.delta_bias + channel(v), lanes(v)) : Vec{});
      store(skip + v * kWidth, p.D ? load_lanes(p.D + channel(v), lanes(v)) : Vec{});
      pack_states(p.A + channel(v) * p.d_state, lanes(v), p.d_state, shape.states, kLog2E, A + v * shape.state_floats());
      if (p.h0) {
        pack_states(p.h0 + state_row(v), lanes(v), p.d_state, shape.states, 1.0f, h);
      } else {
        memset(h, 0, static_cast<size_t>(shape.state_floats()) * sizeof(float));
      }
    }
  }

  void prepare(int64_t row, int64_t steps) {
    const SelectiveScanFwdParams in = p;
    const int64_t first = channel(0);
    const int last_lanes = lanes(vectors - 1);
    for (int64_t t = 0; t < steps; ++t) {
      const float* u_row = in.u + (row + t) * in.u_row_stride + first;
      const float* delta_row = in.delta + (row + t) * in.delta_row_stride + first;
      for (int v = 0; v < vectors; ++v) {
        const int count = v + 1 < vectors ? kWidth : last_lanes;
        const int64_t at = (v * kChunk + t) * kWidth;
        prefetch_read(u_row + kAhead * in.u_row_stride + v * kWidth);
        prefetch_read(delta_row + kAhead * in.delta_row_stride + v * kWidth);
        const Vec raw = load_lanes(delta_row + v * kWidth, count) + load(bias + v * kWidth);
        const Vec u = load_lanes(u_row + v * kWidth, count);
        const Vec step = in.delta_softplus ? softplus(raw) : raw;
        store(delta + at, step);
        store(input + at, step * u);
        store(y + at, load(skip + v * kWidth) * u);
      }
    }
  }

  void finish(int64_t row, int64_t steps) {
    const SelectiveScanFwdParams in = p;
    const int64_t first = channel(0);
    const int last_lanes = lanes(vectors - 1);
    for (int64_t t = 0; t < steps; ++t) {
      const float* z_row = in.z ? in.z + (row + t) * in.z_row_stride + first : nullptr;
      float* out_row = in.out + (row + t) * in.d_inner + first;
      for (int v = 0; v < vectors; ++v) {
        const int count = v + 1 < vectors ? kWidth : last_lanes;
        Vec value = load(y + (v * kChunk + t) * kWidth);
        prefetch_write(out_row + kAhead * in.d_inner + v * kWidth);
        if (z_row) {
          prefetch_read(z_row + kAhead * in.z_row_stride + v * kWidth);
          const Vec z = load_lanes(z_row + v * kWidth, count);
          value *= z * sigmoid(z);
        }
        store_lanes(out_row + v * kWidth, value, count);
      }
    }
  }
};

// Walks Block states of one vector of channels through `steps` steps and adds C . h to y.
template <int Block>
void advance(const float* A, float* state, const float* delta, const float* input, float* y, const float* B,
             int64_t B_stride, const float* C, int64_t C_stride, int64_t steps, const bool* resets) {
  Vec h[Block];
  MAMBATUNE_UNROLL
  for (int n = 0; n < Block; ++n) h[n] = load(state + n * kWidth);
  for (int64_t t = 0; t < steps; ++t) {
    if (resets && resets[t]) {
      MAMBATUNE_UNROLL
      for (int n = 0; n < Block; ++n) h[n] = Vec{};
    }
    const Vec step = load(delta + t * kWidth), x = load(input + t * kWidth);
    const float *B_t = B + t * B_stride, *C_t = C + t * C_stride;
    Vec even = load(y + t * kWidth), odd = {};
    MAMBATUNE_UNROLL
    for (int n = 0; n < Block; ++n) {
      h[n] = exp2(step * load(A + n * kWidth)) * h[n] + x * B_t[n];
      if (n % 2 == 0) {
        even += h[n] * C_t[n];
      } else {
        odd += h[n] * C_t[n];
      }
    }
    store(y + t * kWidth, even + odd);
  }
  MAMBATUNE_UNROLL
  for (int n = 0; n < Block; ++n) store(state + n * kWidth, h[n]);
}

void scan_group(Group& group) {
  const SelectiveScanFwdParams& p = group.p;
  const ScanShape& shape = group.shape;
  group.begin();
  bool reset_flags[kChunk];
  for (int64_t chunk = 0; chunk < shape.chunks; ++chunk) {
    const int64_t first = chunk * kChunk, row = group.batch * p.seqlen + first;
    const int64_t steps = p.seqlen - first < kChunk ? p.seqlen - first : kChunk;
    if (chunk > 0 && p.checkpoints) {
      memcpy(p.checkpoints + shape.checkpoint(group.batch, chunk, group.first_vector), group.state,
             static_cast<size_t>(group.vectors * shape.state_floats()) * sizeof(float));
    }
    const bool* resets = find_resets(p.seq_idx ? p.seq_idx + group.batch * p.seqlen : nullptr, first, steps, reset_flags);
    const StateRows B(p.B, p.B_row_stride, row, steps, p.d_state, shape.states, group.B_padded);
    const StateRows C(p.C, p.C_row_stride, row, steps, p.d_state, shape.states, group.C_padded);
    group.prepare(row, steps);
    for (int v = 0; v < group.vectors; ++v) {
      const float *A = group.A + v * shape.state_floats(), *delta = group.delta + v * kChunk * kWidth;
      const float* input = group.input + v * kChunk * kWidth;
      float *state = group.state + v * shape.state_floats(), *y = group.y + v * kChunk * kWidth;
      int64_t n = 0;
      for (; n + kWideBlock <= shape.states; n += kWideBlock) {
        advance<kWideBlock>(A + n * kWidth, state + n * kWidth, delta, input, y, B.rows + n, B.stride, C.rows + n, C.stride,
                            steps, resets);
      }
      for (; n < shape.states; n += kStateBlock) {
        advance<kStateBlock>(A + n * kWidth, state + n * kWidth, delta, input, y, B.rows + n, B.stride, C.rows + n, C.stride,
                             steps, resets);
      }
    }
    group.finish(row, steps);
  }
  if (!p.last_state) return;
  for (int v = 0; v < group.vectors; ++v) {
    unpack_states(group.state + v * shape.state_floats(), group.lanes(v), p.d_state, p.last_state + group.state_row(v));
  }
}

// One step of one vector of channels, a vector running over states.
void step_vector(const SelectiveScanFwdParams& p, int64_t b, int64_t vector) {
  const int lanes = lanes_of(p.d_inner, vector);
  const int64_t channel = vector * kWidth;
  Vec raw = load_lanes(p.delta + b * p.delta_row_stride + channel, lanes);
  if (p.delta_bias) raw += load_lanes(p.delta_bias + channel, lanes);
  const Vec u = load_lanes(p.u + b * p.u_row_stride + channel, lanes);
  const Vec step = p.delta_softplus ? softplus(raw) : raw;
  float delta[kWidth], input[kWidth], products[kWidth * kWidth];
  store(delta, step * kLog2E);
  store(input, step * u);
  const float *B = p.B + b * p.B_row_stride, *C = p.C + b * p.C_row_stride;
  for (int lane = 0; lane < lanes; ++lane) {
    const float* A = p.A + (channel + lane) * p.d_state;
    const int64_t row = (b * p.d_inner + channel + lane) * p.d_state;
    Vec sum = {};
    for (int64_t n = 0; n < p.d_state; n += kWidth) {
      const int count = p.d_state - n < kWidth ? static_cast<int>(p.d_state - n) : kWidth;
      Vec h = input[lane] * load_lanes(B + n, count);
      if (p.h0) h += exp2(delta[lane] * load_lanes(A + n, count)) * load_lanes(p.h0 + row + n, count);
      sum += h * load_lanes(C + n, count);
      if (p.last_state) store_lanes(p.last_state + row + n, h, count);
    }
    store(products + lane * kWidth, sum);
  }
  for (int lane = lanes; lane < kWidth; ++lane) store(products + lane * kWidth, Vec{});
  Vec y = sum_lanes_of_each(products);
  if (p.D) y += load_lanes(p.D + channel, lanes) * u;
  if (p.z) {
    const Vec z = load_lanes(p.z + b * p.z_row_stride + channel, lanes);
    y *= z * sigmoid(z);
  }
  store_lanes(p.out + b * p.d_inner + channel, y, lanes);
}

void single_step(const SelectiveScanFwdParams& p, const ScanShape& shape) {
  const int64_t vectors = p.batch * shape.vectors;
  const int64_t grain = kStepGrain / shape.state_floats() + 1;
  parallel_for((vectors + grain - 1) / grain, [&](int64_t task, int) {
    const int64_t end = (task + 1) * grain < vectors ? (task + 1) * grain : vectors;
    for (int64_t i = task * grain; i < end; ++i) step_vector(p, i / shape.vectors, i % shape.vectors);
  });
}

}  // namespace

Error selective_scan_fwd(const SelectiveScanFwdParams& p) {
  if (p.batch == 0 || p.seqlen == 0 || p.d_inner == 0) return nullptr;
  const ScanShape shape(p);
  if (p.seqlen == 1) {
    single_step(p, shape);
    return nullptr;
  }
  const int threads = thread_count();
  int64_t group = kMaxGroup;
  while (group > 1 && p.batch * ((shape.vectors + group - 1) / group) < 2 * threads) group /= 2;
  const int64_t groups = (shape.vectors + group - 1) / group, per_thread = Group::scratch(shape);
  float* scratch = thread_scratch(static_cast<size_t>(threads * per_thread));
  if (!scratch) return "selective_scan: out of memory for the working buffers";
  parallel_for(p.batch * groups, [&](int64_t task, int thread) {
    const int64_t first = task % groups * group;
    const int64_t count = shape.vectors - first < group ? shape.vectors - first : group;
    Group work(p, shape, task / groups, first, static_cast<int>(count), scratch + thread * per_thread);
    scan_group(work);
  });
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
