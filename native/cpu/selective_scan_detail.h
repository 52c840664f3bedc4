// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward scan share: how channels, states and time are blocked.
//
// One vector holds the same state n of kWidth channels; a vector's states are walked in blocks that stay in registers over
// a chunk of time. State counts are padded to a multiple of kStateBlock with A = B = C = 0, which leaves those states zero.
#pragma once
#include "../include/selective_scan.h"
#include "simd.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int kChunk = 32;       // time steps between two saved states
constexpr int kStateBlock = 4;   // states walked together, at least
constexpr int kChannelPad = 16;  // of the saved states, the same for every instruction set
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

struct ScanShape {
  int64_t chunks;
  int64_t states;   // d_state padded
  int64_t vectors;  // of channels
  int64_t stored_vectors;

  explicit ScanShape(const SelectiveScanInputs& p)
      : chunks((p.seqlen + kChunk - 1) / kChunk),
        states((p.d_state + kStateBlock - 1) / kStateBlock * kStateBlock),
        vectors((p.d_inner + kWidth - 1) / kWidth),
        stored_vectors((p.d_inner + kChannelPad - 1) / kChannelPad * (kChannelPad / kWidth)) {}

  int64_t state_floats() const { return states * kWidth; }  // of one vector of channels

  // Where the state before chunk `chunk` > 0 of vector `vector` is saved: [batch, chunks - 1, vectors, states, kWidth].
  int64_t checkpoint(int64_t batch, int64_t chunk, int64_t vector) const {
    return ((batch * (chunks - 1) + chunk - 1) * stored_vectors + vector) * state_floats();
  }
};

constexpr int64_t kAhead = 4;  // rows: the operands are strided by whole rows, which the processor does not foresee

MAMBATUNE_INLINE void prefetch_read(const float* at) { __builtin_prefetch(at, 0); }
MAMBATUNE_INLINE void prefetch_write(const float* at) { __builtin_prefetch(at, 1); }

inline int lanes_of(int64_t channels, int64_t vector) {
  const int64_t left = channels - vector * kWidth;
  return left < kWidth ? static_cast<int>(left) : kWidth;
}

// [channels, d_state] rows of one vector of channels, turned so that a vector runs over channels, times `scale`.
inline void pack_states(const float* rows, int lanes, int64_t d_state, int64_t states, float scale, float* packed) {
  memset(packed, 0, static_cast<size_t>(states * kWidth) * sizeof(float));
  for (int lane = 0; lane < lanes; ++lane) {
    for (int64_t n = 0; n < d_state; ++n) packed[n * kWidth + lane] = rows[lane * d_state + n] * scale;
  }
}

inline void unpack_states(const float* packed, int lanes, int64_t d_state, float* rows) {
  for (int lane = 0; lane < lanes; ++lane) {
    for (int64_t n = 0; n < d_state; ++n) rows[lane * d_state + n] = packed[n * kWidth + lane];
  }
}

// Rows of B or C of one chunk, padded to `states` columns: the operand itself when nothing has to be padded.
struct StateRows {
  const float* rows;
  int64_t stride;

  StateRows(const float* operand, int64_t row_stride, int64_t first, int64_t steps, int64_t d_state, int64_t states,
            float* padded) {
    rows = operand + first * row_stride;
    stride = row_stride;
    if (states == d_state) return;
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t n = 0; n < states; ++n) padded[t * states + n] = n < d_state ? rows[t * row_stride + n] : 0.0f;
    }
    rows = padded;
    stride = states;
  }
};

// resets[t] for the steps of a chunk that starts at row `first` of the batch row `seq_idx`: true where another document
// begins. Null when there is none in the chunk.
inline const bool* find_resets(const int32_t* seq_idx, int64_t first, int64_t steps, bool* resets) {
  if (!seq_idx) return nullptr;
  bool any = false;
  for (int64_t t = 0; t < steps; ++t) {
    resets[t] = first + t > 0 && seq_idx[first + t] != seq_idx[first + t - 1];
    any |= resets[t];
  }
  return any ? resets : nullptr;
}

}  // namespace
}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
