// SPDX-License-Identifier: Apache-2.0
// Selective scan, backward: one chunk of time of one block of channels. prepare() computes what depends on a channel alone,
// walk() replays the forward and runs the adjoint for a few vectors, finish() writes the gradients of the activations.
#pragma once
#include "selective_scan_detail.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int kVectorBlock = kWidth == 16 ? 4 : 2;  // vectors walked together with kStateBlock states each
constexpr int64_t kBlockVectors = 128 / kWidth;    // vectors of a task's channel block

// What is kept per step and vector of channels during a chunk.
enum Column { kDelta, kInput, kDy, kY, kGradInput, kGradDelta, kSlope, kGate, kColumns };

struct Plan {
  const SelectiveScanBwdParams& p;
  ScanShape shape;
  int64_t blocks;
  float* partial_BC;    // [batches of a slab, blocks, seqlen, 2, states]
  float* partial_A;     // [batch, vectors, states, kWidth] or null
  float* partial_D;     // [batch, vectors, kWidth]
  float* partial_bias;  // [batch, vectors, kWidth]

  int64_t task_floats() const {
    return kBlockVectors * (2 * shape.state_floats() + 2 * kWidth + kColumns * kChunk * kWidth) +
           2 * kChunk * shape.state_floats() + 2 * kVectorBlock * kStateBlock * kChunk * kWidth +
           kVectorBlock * shape.state_floats() + 2 * kChunk * shape.states;
  }
};

// The working memory of a task.
struct Block {
  const Plan& plan;
  int64_t batch, slab_batch, block, first_vector;
  int vectors;
  float *A, *carry, *bias, *skip, *columns, *sum_B, *sum_C, *decay, *before, *start, *B_padded, *C_padded;

  Block(const Plan& the_plan, int64_t b, int64_t in_slab, int64_t index, float* memory)
      : plan(the_plan), batch(b), slab_batch(in_slab), block(index), first_vector(index * kBlockVectors) {
    const ScanShape& shape = plan.shape;
    const int64_t left = shape.vectors - first_vector;
    vectors = static_cast<int>(left < kBlockVectors ? left : kBlockVectors);
    A = memory;
    carry = A + kBlockVectors * shape.state_floats();
    bias = carry + kBlockVectors * shape.state_floats();
    skip = bias + kBlockVectors * kWidth;
    columns = skip + kBlockVectors * kWidth;
    sum_B = columns + kBlockVectors * kColumns * kChunk * kWidth;
    sum_C = sum_B + kChunk * shape.state_floats();
    decay = sum_C + kChunk * shape.state_floats();
    before = decay + kVectorBlock * kStateBlock * kChunk * kWidth;
    start = before + kVectorBlock * kStateBlock * kChunk * kWidth;
    B_padded = start + kVectorBlock * shape.state_floats();
    C_padded = B_padded + kChunk * shape.states;
  }

  // Of the vectors walked together, what one step needs lies together: apart, it would compete for the same sets of the
  // cache.
  MAMBATUNE_INLINE float* column(int64_t t, int64_t v, Column which) const {
    const int64_t pair = v / kVectorBlock, place = v % kVectorBlock;
    return columns + (((pair * kChunk + t) * kVectorBlock + place) * kColumns + which) * kWidth;
  }

  // Sums for dB or dC of states n .. n + kStateBlock at step t.
  MAMBATUNE_INLINE float* sums(float* of, int64_t t, int64_t n) const { return of + (n * kChunk + t * kStateBlock) * kWidth; }

  int lanes(int64_t v) const { return lanes_of(plan.p.d_inner, first_vector + v); }
  int64_t channel(int64_t v) const { return (first_vector + v) * kWidth; }
  int64_t state_row(int64_t v) const { return (batch * plan.p.d_inner + channel(v)) * plan.p.d_state; }
  int64_t vector_row(int64_t v) const { return batch * plan.shape.vectors + first_vector + v; }
};

// A chunk of time as the inner loops see it.
struct Chunk {
  int64_t row, steps;
  StateRows B, C;
  const bool* resets;
};

// Fills the columns.
inline void prepare(const Block& block, const Chunk& chunk) {
  const SelectiveScanBwdParams p = block.plan.p;
  const int64_t first = block.channel(0);
  const int vectors = block.vectors, last_lanes = block.lanes(vectors - 1);
  for (int64_t t = 0; t < chunk.steps; ++t) {
    const int64_t row = chunk.row + t;
    const float *delta = p.delta + row * p.delta_row_stride + first, *u = p.u + row * p.u_row_stride + first;
    const float *dout = p.dout + row * p.d_inner + first, *z = p.z ? p.z + row * p.z_row_stride + first : nullptr;
    for (int v = 0; v < vectors; ++v) {
      const int lanes = v + 1 < vectors ? kWidth : last_lanes;
      prefetch_read(delta + kAhead * p.delta_row_stride + v * kWidth);
      prefetch_read(u + kAhead * p.u_row_stride + v * kWidth);
      prefetch_read(dout + kAhead * p.d_inner + v * kWidth);
      if (z) prefetch_read(z + kAhead * p.z_row_stride + v * kWidth);
      const Vec raw = load_lanes(delta + v * kWidth, lanes) + load(block.bias + v * kWidth);
      const Vec input = load_lanes(u + v * kWidth, lanes);
      Vec dy = load_lanes(dout + v * kWidth, lanes);
      Vec step = raw, slope = broadcast(1.0f);
      if (p.delta_softplus) {
        const Vec tail = exp(-abs(raw));  // softplus and its slope, the sigmoid, from one exponential
        const Vec small = 1.0f / (1.0f + tail);
        slope = raw > kSoftplusThreshold ? slope : (raw < 0.0f ? tail * small : small);
        step = raw > kSoftplusThreshold ? raw : clamp_below(0.0f, raw) + log1p_unit(tail);
      }
      if (z) {
        const Vec z_t = load_lanes(z + v * kWidth, lanes), gate = sigmoid(z_t);
        store(block.column(t, v, kGate), gate);
        dy *= z_t * gate;
      }
      store(block.column(t, v, kDelta), step);
      store(block.column(t, v, kInput), step * input);
      store(block.column(t, v, kDy), dy);
      store(block.column(t, v, kY), load(block.skip + v * kWidth) * input);
      store(block.column(t, v, kGradInput), Vec{});
      store(block.column(t, v, kGradDelta), Vec{});
      store(block.column(t, v, kSlope), slope);
    }
  }
}

// Writes du, ddelta, dz and out from the columns, and adds to the sums over time.
inline void finish(const Block& block, const Chunk& chunk) {
  const SelectiveScanBwdParams p = block.plan.p;
  const int64_t first = block.channel(0);
  const int vectors = block.vectors, last_lanes = block.lanes(vectors - 1);
  Vec sum_D[kBlockVectors] = {}, sum_bias[kBlockVectors] = {};
  for (int64_t t = 0; t < chunk.steps; ++t) {
    const int64_t row = chunk.row + t;
    const float *u = p.u + row * p.u_row_stride + first, *dout = p.dout + row * p.d_inner + first;
    float *du = p.du + row * p.du_row_stride + first, *ddelta = p.ddelta + row * p.ddelta_row_stride + first;
    for (int v = 0; v < vectors; ++v) {
      const int lanes = v + 1 < vectors ? kWidth : last_lanes;
      const int64_t c = v * kWidth;
      prefetch_write(du + kAhead * p.du_row_stride + c);
      prefetch_write(ddelta + kAhead * p.ddelta_row_stride + c);
      const Vec input = load_lanes(u + c, lanes), dy = load(block.column(t, v, kDy));
      const Vec grad_input = load(block.column(t, v, kGradInput));
      const Vec grad_delta =
          (grad_input * input + kLn2 * load(block.column(t, v, kGradDelta))) * load(block.column(t, v, kSlope));
      store_lanes(du + c, grad_input * load(block.column(t, v, kDelta)) + load(block.skip + c) * dy, lanes);
      store_lanes(ddelta + c, grad_delta, lanes);
      sum_D[v] += dy * input;
      sum_bias[v] += grad_delta;
      Vec y = load(block.column(t, v, kY));
      if (p.z) {
        const Vec z = load_lanes(p.z + row * p.z_row_stride + first + c, lanes), gate = load(block.column(t, v, kGate));
        const Vec dz = load_lanes(dout + c, lanes) * y * gate * (1.0f + z * (1.0f - gate));
        store_lanes(p.dz + row * p.dz_row_stride + first + c, dz, lanes);
        prefetch_write(p.dz + (row + kAhead) * p.dz_row_stride + first + c);
        y *= z * gate;
      }
      if (p.out) store_lanes(p.out + row * p.d_inner + first + c, y, lanes);
    }
  }
  float* partial_D = block.plan.partial_D + block.vector_row(0) * kWidth;
  float* partial_bias = block.plan.partial_bias + block.vector_row(0) * kWidth;
  for (int v = 0; v < vectors; ++v) {
    store(partial_D + v * kWidth, load(partial_D + v * kWidth) + sum_D[v]);
    store(partial_bias + v * kWidth, load(partial_bias + v * kWidth) + sum_bias[v]);
  }
}

// Forward over the chunk for states n .. n + kStateBlock of Vectors vectors: keeps decay and the state before each step,
// adds C . h to y and dy h to the sums for dC.
template <int Vectors>
void replay(const Block& block, const Chunk& chunk, int64_t vector, int64_t n, const float* const (&A)[Vectors],
            const float* const (&start)[Vectors]) {
  Vec h[Vectors][kStateBlock];
  MAMBATUNE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) h[v][i] = load(start[v] + i * kWidth);
  }
  for (int64_t t = 0; t < chunk.steps; ++t) {
    if (chunk.resets && chunk.resets[t]) {
      MAMBATUNE_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        MAMBATUNE_UNROLL
        for (int i = 0; i < kStateBlock; ++i) h[v][i] = Vec{};
      }
    }
    const float *B = chunk.B.rows + t * chunk.B.stride + n, *C = chunk.C.rows + t * chunk.C.stride + n;
    float* sum_C = block.sums(block.sum_C, t, n);
    float* decay = block.decay + t * Vectors * kStateBlock * kWidth;
    float* before = block.before + t * Vectors * kStateBlock * kWidth;
    Vec grad_C[kStateBlock];
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) grad_C[i] = load(sum_C + i * kWidth);
    MAMBATUNE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Vec step = load(block.column(t, vector + v, kDelta)), x = load(block.column(t, vector + v, kInput));
      const Vec dy = load(block.column(t, vector + v, kDy));
      Vec y = load(block.column(t, vector + v, kY));
      MAMBATUNE_UNROLL
      for (int i = 0; i < kStateBlock; ++i) {
        const Vec a = exp2(step * load(A[v] + i * kWidth));
        store(decay + (v * kStateBlock + i) * kWidth, a);
        store(before + (v * kStateBlock + i) * kWidth, h[v][i]);
        h[v][i] = a * h[v][i] + x * B[i];
        y += h[v][i] * C[i];
        grad_C[i] += dy * h[v][i];
      }
      store(block.column(t, vector + v, kY), y);
    }
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) store(sum_C + i * kWidth, grad_C[i]);
  }
}

// The adjoint over the chunk, from its last step to its first, for the states replay() has kept.
template <int Vectors, bool kWantA>
void reverse(const Block& block, const Chunk& chunk, int64_t vector, int64_t n, const float* const (&A)[Vectors],
             float* const (&carry)[Vectors], float* const (&grad_A)[Vectors]) {
  Vec g[Vectors][kStateBlock];
  MAMBATUNE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) g[v][i] = load(carry[v] + i * kWidth);
  }
  for (int64_t t = chunk.steps - 1; t >= 0; --t) {
    const float *B = chunk.B.rows + t * chunk.B.stride + n, *C = chunk.C.rows + t * chunk.C.stride + n;
    float* sum_B = block.sums(block.sum_B, t, n);
    const float* decay = block.decay + t * Vectors * kStateBlock * kWidth;
    const float* before = block.before + t * Vectors * kStateBlock * kWidth;
    Vec grad_B[kStateBlock];
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) grad_B[i] = load(sum_B + i * kWidth);
    MAMBATUNE_UNROLL
    for (int v = 0; v < Vectors; ++v) {
      const Vec dy = load(block.column(t, vector + v, kDy)), x = load(block.column(t, vector + v, kInput));
      Vec grad_input = load(block.column(t, vector + v, kGradInput));
      Vec grad_delta = load(block.column(t, vector + v, kGradDelta));
      MAMBATUNE_UNROLL
      for (int i = 0; i < kStateBlock; ++i) {
        g[v][i] += dy * C[i];
        grad_input += g[v][i] * B[i];
        grad_B[i] += g[v][i] * x;
        g[v][i] *= load(decay + (v * kStateBlock + i) * kWidth);
        const Vec product = g[v][i] * load(before + (v * kStateBlock + i) * kWidth);  // gradient of delta' * A
        grad_delta += product * load(A[v] + i * kWidth);
        if (kWantA) {
          const Vec step = load(block.column(t, vector + v, kDelta));
          store(grad_A[v] + i * kWidth, load(grad_A[v] + i * kWidth) + product * step);
        }
      }
      store(block.column(t, vector + v, kGradInput), grad_input);
      store(block.column(t, vector + v, kGradDelta), grad_delta);
    }
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) store(sum_B + i * kWidth, grad_B[i]);
    if (chunk.resets && chunk.resets[t]) {
      MAMBATUNE_UNROLL
      for (int v = 0; v < Vectors; ++v) {
        MAMBATUNE_UNROLL
        for (int i = 0; i < kStateBlock; ++i) g[v][i] = Vec{};
      }
    }
  }
  MAMBATUNE_UNROLL
  for (int v = 0; v < Vectors; ++v) {
    MAMBATUNE_UNROLL
    for (int i = 0; i < kStateBlock; ++i) store(carry[v] + i * kWidth, g[v][i]);
  }
}

// One chunk of Vectors vectors from `vector` on; `start` holds their states before the chunk.
template <int Vectors>
void walk(const Block& block, const Chunk& chunk, int64_t vector, const float* start) {
  const Plan& plan = block.plan;
  const int64_t floats = plan.shape.state_floats();
  for (int64_t n = 0; n < plan.shape.states; n += kStateBlock) {
    const float *A[Vectors], *before[Vectors];
    float *carry[Vectors], *grad_A[Vectors];
    for (int v = 0; v < Vectors; ++v) {
      A[v] = block.A + (vector + v) * floats + n * kWidth;
      before[v] = start + v * floats + n * kWidth;
      carry[v] = block.carry + (vector + v) * floats + n * kWidth;
      grad_A[v] = plan.partial_A ? plan.partial_A + block.vector_row(vector + v) * floats + n * kWidth : nullptr;
    }
    replay<Vectors>(block, chunk, vector, n, A, before);
    if (plan.partial_A) {
      reverse<Vectors, true>(block, chunk, vector, n, A, carry, grad_A);
    } else {
      reverse<Vectors, false>(block, chunk, vector, n, A, carry, grad_A);
    }
  }
}

}  // namespace
}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
