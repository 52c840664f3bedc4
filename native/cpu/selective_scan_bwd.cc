// SPDX-License-Identifier: Apache-2.0
// Selective scan, backward. A task walks a block of channels of one batch row through the chunks of time in reverse. Per
// chunk it replays the forward from the saved state, keeping decays and states of a few (channel vector, state) pairs in
// the first-level cache, and runs the adjoint recurrence
//
//   g_t = C_t dy_t + a_{t+1} g_{t+1}      with a_t = exp(delta'_t A), dy_t = dout_t silu(z_t)
//
// over them. dB and dC, sums over channels, are summed lane by lane over the block's vectors, then over lanes, then over
// blocks, always in the same order, so that no result depends on the number of threads.
#include "../include/device.h"
#include "selective_scan_bwd_chunk.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int64_t kPartialFloats = 4 << 20;  // aim for the sums over blocks that wait to be added

// The sums over lanes of one chunk's sums for dB or dC, to rows of 2 * states floats.
void sum_block(const Block& block, float* of, int64_t steps, float* rows) {
  const int64_t states = block.plan.shape.states;
  constexpr int kSteps = kWidth / kStateBlock;  // whose sums one vector takes
  for (int64_t n = 0; n < states; n += kStateBlock) {
    for (int64_t t = 0; t < steps; t += kSteps) {
      float sums[kWidth];
      store(sums, sum_lanes_of_each(block.sums(of, t, n)));
      for (int64_t i = 0; i < kSteps && t + i < steps; ++i) {
        memcpy(rows + (t + i) * 2 * states + n, sums + i * kStateBlock, kStateBlock * sizeof(float));
      }
    }
  }
}

// h0, or zeros, of `count` vectors of the block from `vector` on.
void initial_states(const Block& block, int64_t vector, int count) {
  const SelectiveScanBwdParams& p = block.plan.p;
  const int64_t floats = block.plan.shape.state_floats();
  for (int v = 0; v < count; ++v) {
    float* start = block.start + v * floats;
    if (p.h0) {
      pack_states(p.h0 + block.state_row(vector + v), block.lanes(vector + v), p.d_state, block.plan.shape.states, 1.0f, start);
    } else {
      memset(start, 0, static_cast<size_t>(floats) * sizeof(float));
    }
  }
}

void begin(const Block& block) {
  const Plan& plan = block.plan;
  const SelectiveScanBwdParams& p = plan.p;
  const int64_t floats = plan.shape.state_floats(), states = plan.shape.states;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  for (int64_t v = 0; v < block.vectors; ++v) {
    pack_states(p.A + block.channel(v) * p.d_state, block.lanes(v), p.d_state, states, kLog2E, block.A + v * floats);
    if (p.dlast_state) {
      pack_states(p.dlast_state + block.state_row(v), block.lanes(v), p.d_state, states, 1.0f, block.carry + v * floats);
    } else {
      memset(block.carry + v * floats, 0, bytes);
    }
    store(block.bias + v * kWidth, p.delta_bias ? load_lanes(p.delta_bias + block.channel(v), block.lanes(v)) : Vec{});
    store(block.skip + v * kWidth, p.D ? load_lanes(p.D + block.channel(v), block.lanes(v)) : Vec{});
    if (plan.partial_A) memset(plan.partial_A + block.vector_row(v) * floats, 0, bytes);
    store(plan.partial_D + block.vector_row(v) * kWidth, Vec{});
    store(plan.partial_bias + block.vector_row(v) * kWidth, Vec{});
  }
}

void scan_block(const Block& block) {
  const Plan& plan = block.plan;
  const SelectiveScanBwdParams& p = plan.p;
  const ScanShape& shape = plan.shape;
  const int64_t floats = shape.state_floats();
  const int32_t* seq_idx = p.seq_idx ? p.seq_idx + block.batch * p.seqlen : nullptr;
  bool reset_flags[kChunk];
  begin(block);
  for (int64_t index = shape.chunks - 1; index >= 0; --index) {
    const int64_t first = index * kChunk, row = block.batch * p.seqlen + first;
    const int64_t steps = p.seqlen - first < kChunk ? p.seqlen - first : kChunk;
    const Chunk chunk = {row, steps,
                         StateRows(p.B, p.B_row_stride, row, steps, p.d_state, shape.states, block.B_padded),
                         StateRows(p.C, p.C_row_stride, row, steps, p.d_state, shape.states, block.C_padded),
                         find_resets(seq_idx, first, steps, reset_flags)};
    prepare(block, chunk);
    memset(block.sum_B, 0, static_cast<size_t>(2 * kChunk * floats) * sizeof(float));
    for (int64_t v = 0; v < block.vectors;) {
      const int count = block.vectors - v >= kVectorBlock ? kVectorBlock : 1;
      const float* start = block.start;
      if (index > 0) {
        start = p.checkpoints + shape.checkpoint(block.batch, index, block.first_vector + v);
      } else {
        initial_states(block, v, count);
      }
      if (count == kVectorBlock) {
        walk<kVectorBlock>(block, chunk, v, start);
      } else {
        walk<1>(block, chunk, v, start);
      }
      v += count;
    }
    finish(block, chunk);
    float* partial = plan.partial_BC + ((block.slab_batch * plan.blocks + block.block) * p.seqlen + first) * 2 * shape.states;
    sum_block(block, block.sum_B, steps, partial);
    sum_block(block, block.sum_C, steps, partial + shape.states);
  }
  if (!p.dh0) return;
  for (int64_t v = 0; v < block.vectors; ++v) {
    unpack_states(block.carry + v * floats, block.lanes(v), p.d_state, p.dh0 + block.state_row(v));
  }
}

// dB and dC of the batch rows of a slab: the blocks' sums, added in the order of the blocks.
void add_blocks(const Plan& plan, int64_t first_batch, int64_t batches) {
  const SelectiveScanBwdParams& p = plan.p;
  const int64_t states = plan.shape.states, chunks = plan.shape.chunks;
  parallel_for(batches * chunks, [&](int64_t task, int) {
    const int64_t b = task / chunks, first = task % chunks * kChunk;
    const int64_t end = first + kChunk < p.seqlen ? first + kChunk : p.seqlen;
    for (int64_t t = first; t < end; ++t) {
      const float* sums = plan.partial_BC + (b * plan.blocks * p.seqlen + t) * 2 * states;
      float* dB = p.dB + ((first_batch + b) * p.seqlen + t) * p.dB_row_stride;
      float* dC = p.dC + ((first_batch + b) * p.seqlen + t) * p.dC_row_stride;
      for (int64_t n = 0; n < p.d_state; ++n) dB[n] = sums[n];
      for (int64_t n = 0; n < p.d_state; ++n) dC[n] = sums[states + n];
      for (int64_t block = 1; block < plan.blocks; ++block) {
        sums += p.seqlen * 2 * states;
        for (int64_t n = 0; n < p.d_state; ++n) dB[n] += sums[n];
        for (int64_t n = 0; n < p.d_state; ++n) dC[n] += sums[states + n];
      }
    }
  });
}

// dA, dD and ddelta_bias: the batch rows' sums, added in the order of the batch.
void add_batches(const Plan& plan) {
  const SelectiveScanBwdParams& p = plan.p;
  const int64_t vectors = plan.shape.vectors, floats = plan.shape.state_floats();
  for (int64_t v = 0; v < vectors; ++v) {
    const int lanes = lanes_of(p.d_inner, v);
    Vec sum_D = {}, sum_bias = {};
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t row = b * vectors + v;
      if (p.dD) sum_D += load(plan.partial_D + row * kWidth);
      if (p.ddelta_bias) sum_bias += load(plan.partial_bias + row * kWidth);
      if (!p.dA || b == 0) continue;
      float* total = plan.partial_A + v * floats;
      for (int64_t i = 0; i < floats; i += kWidth) store(total + i, load(total + i) + load(plan.partial_A + row * floats + i));
    }
    if (p.dD) store_lanes(p.dD + v * kWidth, sum_D, lanes);
    if (p.ddelta_bias) store_lanes(p.ddelta_bias + v * kWidth, sum_bias, lanes);
    if (p.dA) unpack_states(plan.partial_A + v * floats, lanes, p.d_state, p.dA + v * kWidth * p.d_state);
  }
}

}  // namespace

Error selective_scan_bwd(const SelectiveScanBwdParams& p) {
  const ScanShape shape(p);
  const int64_t rows = p.batch * shape.vectors;
  if (rows == 0 || p.seqlen == 0) {
    const size_t channels = static_cast<size_t>(p.d_inner) * sizeof(float);
    if (p.dA) memset(p.dA, 0, channels * static_cast<size_t>(p.d_state));
    if (p.dD) memset(p.dD, 0, channels);
    if (p.ddelta_bias) memset(p.ddelta_bias, 0, channels);
    return nullptr;
  }
  Plan plan = {p, shape, (shape.vectors + kBlockVectors - 1) / kBlockVectors, nullptr, nullptr, nullptr, nullptr};
  const int64_t batch_floats = plan.blocks * p.seqlen * 2 * shape.states;
  int64_t slab = kPartialFloats / batch_floats;
  slab = slab < 1 ? 1 : slab < p.batch ? slab : p.batch;
  const int64_t threads = thread_count(), per_thread = plan.task_floats();
  const int64_t A_floats = p.dA ? rows * shape.state_floats() : 0;
  const int64_t total = threads * per_thread + A_floats + 2 * rows * kWidth + slab * batch_floats;
  float* scratch = thread_scratch(static_cast<size_t>(total));
  if (!scratch) return "selective_scan backward: out of memory for the working buffers";
  if (p.dA) plan.partial_A = scratch + threads * per_thread;
  plan.partial_D = scratch + threads * per_thread + A_floats;
  plan.partial_bias = plan.partial_D + rows * kWidth;
  plan.partial_BC = plan.partial_bias + rows * kWidth;
  for (int64_t first = 0; first < p.batch; first += slab) {
    const int64_t batches = p.batch - first < slab ? p.batch - first : slab;
    parallel_for(batches * plan.blocks, [&](int64_t task, int thread) {
      const int64_t b = task / plan.blocks;
      scan_block(Block(plan, first + b, b, task % plan.blocks, scratch + thread * per_thread));
    });
    add_blocks(plan, first, batches);
  }
  if (p.dA || p.dD || p.ddelta_bias) add_batches(plan);
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
