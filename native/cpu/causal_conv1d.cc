// SPDX-License-Identifier: Apache-2.0
// Depthwise causal convolution along time, forward and backward. A task walks vectors of channels through a block of time
// with the last d_conv inputs (and, backward, the next d_conv gradients) in registers.
#include "../include/causal_conv1d.h"

#include "../include/device.h"
#include "simd.h"
#include "thread_pool.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int kMaxTaps = 8;
constexpr int64_t kTimeBlock = 128;
constexpr int64_t kTaskElements = 16384;  // outputs a task is worth

// Which rows and channels each task works on. The same for any number of threads.
struct Tiles {
  int64_t time_blocks, vectors, vectors_per_task, channel_blocks, tasks;

  explicit Tiles(const CausalConv1dInputs& p) {
    const int64_t rows = p.seqlen < 1 ? 1 : p.seqlen < kTimeBlock ? p.seqlen : kTimeBlock;
    time_blocks = (p.seqlen + kTimeBlock - 1) / kTimeBlock;
    vectors = (p.d_inner + kWidth - 1) / kWidth;
    vectors_per_task = (kTaskElements / rows + kWidth - 1) / kWidth;
    channel_blocks = (vectors + vectors_per_task - 1) / vectors_per_task;
    tasks = p.batch * time_blocks * channel_blocks;
  }
};

struct Tile {
  int64_t batch, begin, end;  // time steps
  int64_t first_vector, end_vector;
  int64_t index;              // of the block of time over the whole batch

  Tile(const CausalConv1dInputs& p, const Tiles& tiles, int64_t task) {
    index = task / tiles.channel_blocks;
    batch = index / tiles.time_blocks;
    begin = index % tiles.time_blocks * kTimeBlock;
    end = begin + kTimeBlock < p.seqlen ? begin + kTimeBlock : p.seqlen;
    first_vector = task % tiles.channel_blocks * tiles.vectors_per_task;
    end_vector = first_vector + tiles.vectors_per_task < tiles.vectors ? first_vector + tiles.vectors_per_task : tiles.vectors;
  }
};

// Bit k of masks[t - begin]: tap k of step t lies in t's document. Null when every bit of the block is set.
const uint8_t* tap_masks(const CausalConv1dInputs& p, int64_t batch, int64_t begin, int64_t end, uint8_t* masks) {
  if (!p.seq_idx) return nullptr;
  const int32_t* documents = p.seq_idx + batch * p.seqlen;
  bool all = true;
  for (int64_t t = begin; t < end; ++t) {
    unsigned mask = 0;
    for (int64_t k = 0; k < p.d_conv; ++k) {
      const int64_t from = t - (p.d_conv - 1) + k;
      if (documents[from < 0 ? 0 : from] == documents[t]) mask |= 1u << k;
    }
    masks[t - begin] = static_cast<uint8_t>(mask);
    all &= mask == (1u << p.d_conv) - 1u;
  }
  return all ? nullptr : masks;
}

// One vector of channels of one batch row, and its weights.
template <int Taps>
struct Channels {
  const CausalConv1dInputs& p;
  int64_t batch, channel;
  int lanes;
  Vec weight[Taps], bias;

  MAMBATUNE_INLINE Channels(const CausalConv1dInputs& inputs, int64_t b, int64_t vector)
      : p(inputs), batch(b), channel(vector * kWidth) {
    lanes = p.d_inner - channel < kWidth ? static_cast<int>(p.d_inner - channel) : kWidth;
    MAMBATUNE_UNROLL
    for (int k = 0; k < Taps; ++k) weight[k] = load_strided(p.weight + channel * Taps + k, Taps, lanes);
    bias = p.bias ? load_lanes(p.bias + channel, lanes) : Vec{};
  }

  MAMBATUNE_INLINE Vec input(int64_t t) const {
    if (t >= 0) return load_lanes(p.x + (batch * p.seqlen + t) * p.x_row_stride + channel, lanes);
    if (!p.conv_state) return Vec{};
    return load_lanes(p.conv_state + (batch * (Taps - 1) + Taps - 1 + t) * p.d_inner + channel, lanes);
  }

  // window[k] is the input of tap k.
  MAMBATUNE_INLINE Vec convolve(const Vec (&window)[Taps], unsigned mask) const {
    Vec sum = bias;
    MAMBATUNE_UNROLL
    for (int k = 0; k < Taps; ++k) {
      if (mask >> k & 1) sum += weight[k] * window[k];
    }
    return sum;
  }
};

template <int Taps>
void forward_channels(const CausalConv1dFwdParams& p, const Tile& tile, int64_t vector, const uint8_t* masks) {
  const Channels<Taps> channels(p, tile.batch, vector);
  Vec window[Taps];
  MAMBATUNE_UNROLL
  for (int k = 0; k < Taps; ++k) window[k] = k == 0 ? Vec{} : channels.input(tile.begin - Taps + k);
  float* y = p.y + (tile.batch * p.seqlen + tile.begin) * p.d_inner + channels.channel;
  for (int64_t t = tile.begin; t < tile.end; ++t, y += p.d_inner) {
    MAMBATUNE_UNROLL
    for (int k = 0; k + 1 < Taps; ++k) window[k] = window[k + 1];
    window[Taps - 1] = channels.input(t);
    Vec value = masks ? channels.convolve(window, masks[t - tile.begin]) : channels.convolve(window, ~0u);
    if (p.silu) value *= sigmoid(value);
    store_lanes(y, value, channels.lanes);
  }
}

template <int Taps>
void forward(const CausalConv1dFwdParams& p) {
  const Tiles tiles(p);
  parallel_for(tiles.tasks, [&](int64_t task, int) {
    const Tile tile(p, tiles, task);
    uint8_t memory[kTimeBlock];
    const uint8_t* masks = tap_masks(p, tile.batch, tile.begin, tile.end, memory);
    for (int64_t v = tile.first_vector; v < tile.end_vector; ++v) forward_channels<Taps>(p, tile, v, masks);
  });
}

// The last d_conv - 1 rows of conv_state followed by x. Rows move towards lower addresses, so conv_state may be overwritten.
void save_state(const CausalConv1dFwdParams& p) {
  const int64_t rows = p.d_conv - 1;
  const size_t bytes = static_cast<size_t>(p.d_inner) * sizeof(float);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t i = 0; i < rows; ++i) {
      float* to = p.last_conv_state + (b * rows + i) * p.d_inner;
      const int64_t t = p.seqlen - rows + i;
      if (t >= 0) {
        memcpy(to, p.x + (b * p.seqlen + t) * p.x_row_stride, bytes);
      } else if (p.conv_state) {
        memmove(to, p.conv_state + (b * rows + rows + t) * p.d_inner, bytes);
      } else {
        memset(to, 0, bytes);
      }
    }
  }
}

// Walks back through time: window[k] is the input of tap k of step t, grad[j] the gradient of the pre-activation of step
// t + j. Steps past the tile's end only feed grad.
template <int Taps>
void backward_channels(const CausalConv1dBwdParams& p, const Tile& tile, int64_t vector, const uint8_t* masks,
                       float* partial) {
  const Channels<Taps> channels(p, tile.batch, vector);
  const int64_t last = tile.end + Taps - 1 < p.seqlen ? tile.end + Taps - 1 : p.seqlen;
  Vec window[Taps], grad[Taps], grad_weight[Taps], grad_bias = {};
  MAMBATUNE_UNROLL
  for (int k = 0; k < Taps; ++k) {
    window[k] = k + 1 < Taps ? channels.input(last - Taps + k + 1) : Vec{};
    grad[k] = grad_weight[k] = Vec{};
  }
  for (int64_t t = last - 1; t >= tile.begin; --t) {
    MAMBATUNE_UNROLL
    for (int k = Taps - 1; k > 0; --k) {
      window[k] = window[k - 1];
      grad[k] = grad[k - 1];
    }
    window[0] = channels.input(t - Taps + 1);
    const unsigned mask = masks ? masks[t - tile.begin] : ~0u;
    Vec value = load_lanes(p.dy + (tile.batch * p.seqlen + t) * p.d_inner + channels.channel, channels.lanes);
    if (p.silu) {
      const Vec pre = masks ? channels.convolve(window, mask) : channels.convolve(window, ~0u);
      const Vec gate = sigmoid(pre);
      value *= gate * (1.0f + pre * (1.0f - gate));
    }
    grad[0] = value;
    if (t >= tile.end) continue;
    Vec dx = {};
    if (masks) {
      for (int k = 0; k < Taps; ++k) {
        if (t + Taps - 1 - k < last && masks[t + Taps - 1 - k - tile.begin] >> k & 1) {
          dx += channels.weight[k] * grad[Taps - 1 - k];
        }
        if (partial && mask >> k & 1) grad_weight[k] += value * window[k];
      }
    } else {
      MAMBATUNE_UNROLL
      for (int k = 0; k < Taps; ++k) {
        dx += channels.weight[k] * grad[Taps - 1 - k];
        grad_weight[k] += value * window[k];
      }
    }
    grad_bias += value;
    store_lanes(p.dx + (tile.batch * p.seqlen + t) * p.dx_row_stride + channels.channel, dx, channels.lanes);
  }
  if (!partial) return;
  MAMBATUNE_UNROLL
  for (int k = 0; k < Taps; ++k) store(partial + k * kWidth, grad_weight[k]);
  store(partial + Taps * kWidth, grad_bias);
}

// dweight and dbias: the sums of the blocks of time, added in their order.
void add_blocks(const CausalConv1dBwdParams& p, const Tiles& tiles, const float* partial) {
  const int64_t blocks = p.batch * tiles.time_blocks, sums = p.d_conv + 1;
  parallel_for(tiles.vectors, [&](int64_t vector, int) {
    const int64_t channel = vector * kWidth;
    const int lanes = p.d_inner - channel < kWidth ? static_cast<int>(p.d_inner - channel) : kWidth;
    for (int64_t k = 0; k < sums; ++k) {
      Vec total = {};
      for (int64_t block = 0; block < blocks; ++block) {
        total += load(partial + ((block * tiles.vectors + vector) * sums + k) * kWidth);
      }
      if (k == p.d_conv) {
        if (p.dbias) store_lanes(p.dbias + channel, total, lanes);
      } else if (p.dweight) {
        for (int lane = 0; lane < lanes; ++lane) p.dweight[(channel + lane) * p.d_conv + k] = total[lane];
      }
    }
  });
}

template <int Taps>
Error backward(const CausalConv1dBwdParams& p) {
  const Tiles tiles(p);
  float* sums = nullptr;
  if (p.dweight || p.dbias) {
    sums = thread_scratch(static_cast<size_t>(p.batch * tiles.time_blocks * tiles.vectors * (Taps + 1) * kWidth + 1));
    if (!sums) return "causal_conv1d backward: out of memory for the sums over time";
  }
  parallel_for(tiles.tasks, [&](int64_t task, int) {
    const Tile tile(p, tiles, task);
    uint8_t memory[kTimeBlock + kMaxTaps];
    const int64_t end = tile.end + Taps - 1 < p.seqlen ? tile.end + Taps - 1 : p.seqlen;
    const uint8_t* masks = tap_masks(p, tile.batch, tile.begin, end, memory);
    for (int64_t v = tile.first_vector; v < tile.end_vector; ++v) {
      float* partial = sums ? sums + (tile.index * tiles.vectors + v) * (Taps + 1) * kWidth : nullptr;
      backward_channels<Taps>(p, tile, v, masks, partial);
    }
  });
  if (sums) add_blocks(p, tiles, sums);
  return nullptr;
}

}  // namespace

Error causal_conv1d_fwd(const CausalConv1dFwdParams& p) {
  switch (p.d_conv) {
    case 1: forward<1>(p); break;
    case 2: forward<2>(p); break;
    case 3: forward<3>(p); break;
    case 4: forward<4>(p); break;
    case 5: forward<5>(p); break;
    case 6: forward<6>(p); break;
    case 7: forward<7>(p); break;
    case 8: forward<8>(p); break;
    default: return "causal_conv1d: d_conv must be 1 to 8";
  }
  if (p.last_conv_state) save_state(p);
  return nullptr;
}

Error causal_conv1d_bwd(const CausalConv1dBwdParams& p) {
  switch (p.d_conv) {
    case 1: return backward<1>(p);
    case 2: return backward<2>(p);
    case 3: return backward<3>(p);
    case 4: return backward<4>(p);
    case 5: return backward<5>(p);
    case 6: return backward<6>(p);
    case 7: return backward<7>(p);
    case 8: return backward<8>(p);
    default: return "causal_conv1d backward: d_conv must be 1 to 8";
  }
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
