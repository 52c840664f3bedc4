// SPDX-License-Identifier: Apache-2.0
// Of sample_token.cu: scores and weights of a row, and the search for the score at which a rising sum passes a limit.
#pragma once
#include <cmath>

#include "launch.cuh"

namespace mambatune {
namespace cuda {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kGroup = 32;                        // logits that a warp looks at together
constexpr int kWarps = kThreads / 32;
constexpr int kGroupsOfWarp = 8;
constexpr int kGroupsOfPart = kWarps * kGroupsOfWarp;
constexpr int kRowThreads = 1024;                 // of a block that owns a row
constexpr int kRowWarps = kRowThreads / 32;
constexpr int kLogBins = 10, kBins = 1 << kLogBins;
static_assert(kBins == kRowThreads, "each thread has a bin of its own");
constexpr int kCandidates = 4096;

// A score as a number that rises with it; both zeros have the same, NaN has the largest.
constexpr uint32_t kNotANumberKey = 0xffffffffu, kLowestKey = 0x007fffffu, kInfinityKey = 0xff800000u;

__device__ __forceinline__ uint32_t key_of(float score) {
  if (score != score) return kNotANumberKey;
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float score_of(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

// The first kept key, and the last position that is kept of those equal to it.
struct Cut {
  uint32_t edge;
  int32_t last_tie;
};

struct Sampling {
  SampleTokenParams p;
  int64_t groups, parts;    // of a row
  double unit;              // the largest weight: 2^sample_weight_bits
  float depth;              // scores further below the largest weigh 0
  bool by_top_k, by_top_p;  // whether they do anything
  uint64_t* masses;         // [rows, groups]: kept weights
  uint64_t* bins;           // [rows, kBins]; top_p without top_k: weights of the row by score
  Cut* cuts;                // [rows]; null without top_k and top_p
  uint32_t* group_largest;  // [rows, groups]: keys
  uint32_t* part_largest;   // [rows, parts]
};

// 0 beyond the row.
__device__ __forceinline__ uint32_t key_at(const Sampling& s, int64_t row, int64_t position) {
  if (position >= s.p.cols) return 0;
  float score = s.p.logits[row * s.p.cols + position];
  if (s.p.seen && (s.p.seen[row * s.groups + position / kGroup] >> (position % kGroup) & 1)) {
    score = static_cast<float>(score < 0 ? score * s.p.penalty : score / s.p.penalty);
  }
  if (s.p.temperature != 1) score = static_cast<float>(score / s.p.temperature);
  return key_of(score);
}

__device__ __forceinline__ uint64_t weight_of(const Sampling& s, uint32_t key, uint32_t largest) {
  if (key == largest) return static_cast<uint64_t>(s.unit);
  const double difference = static_cast<double>(score_of(key)) - static_cast<double>(score_of(largest));
  return static_cast<uint64_t>(rint(exp(difference) * s.unit));
}

// Of a whole warp: the largest key of its row.
__device__ __forceinline__ uint32_t largest_of(const Sampling& s, int64_t row) {
  uint32_t largest = 0;
  for (int64_t i = threadIdx.x % 32; i < s.parts; i += 32) largest = max(largest, s.part_largest[row * s.parts + i]);
  return __reduce_max_sync(kAll, largest);
}
__device__ __forceinline__ bool has_choice(uint32_t largest) { return largest != kNotANumberKey && largest > kLowestKey; }

// Keys below weigh 0.
__device__ __forceinline__ uint32_t lowest_with_weight(const Sampling& s, uint32_t largest) {
  return max(key_of(score_of(largest) - s.depth), kLowestKey);
}

// The key from which on min_p keeps.
__device__ __forceinline__ uint32_t min_p_edge(const Sampling& s, uint32_t largest) {
  if (isinf(s.p.log_min_p)) return kLowestKey;
  const double least = static_cast<double>(score_of(largest)) + s.p.log_min_p;
  const float rounded = static_cast<float>(least);
  return key_of(rounded) + (static_cast<double>(rounded) < least ? 1 : 0);
}

__device__ __forceinline__ uint64_t warp_inclusive_sum(uint64_t value) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t other = __shfl_up_sync(kAll, value, distance);
    if (static_cast<int>(threadIdx.x % 32) >= distance) value += other;
  }
  return value;
}

// Divides the keys from `low` to `high` among bins, of equal width as scores or, where they lie close, as keys.
class Division {
 public:
  __device__ Division(uint32_t low, uint32_t high, bool as_scores) : low_(low), high_(high) {
    shift_ = max(0, 32 - kLogBins - __clz(static_cast<int>(high - low)));
    if (!as_scores || shift_ == 0) return;
    const float width = score_of(high) - score_of(low);
    if (width > 1e-30f && width < 1e30f) scale_ = kBins / width;
  }
  // Rises with the key.
  __device__ int bin_of(uint32_t key) const {
    if (scale_ > 0) return min(static_cast<int>((score_of(key) - score_of(low_)) * scale_), kBins - 1);
    return static_cast<int>((key - low_) >> shift_);
  }
  // The first key of a bin or a later one; high + 1 where there is none.
  __device__ uint32_t first_key(int bin) const {
    if (!(scale_ > 0)) return static_cast<uint32_t>(min(low_ + (static_cast<uint64_t>(bin) << shift_), uint64_t{high_} + 1));
    uint32_t below = low_, beyond = high_ + 1;
    while (below < beyond) {
      const uint32_t middle = below + (beyond - below) / 2;
      if (bin_of(middle) < bin) below = middle + 1;
      else beyond = middle;
    }
    return below;
  }

 private:
  uint32_t low_, high_;
  int shift_ = 0;
  float scale_ = 0;
};

// What a block that owns a row shares. A bin's 64 bits lie in two words, so that integer atomics add to them.
struct RowMemory {
  uint32_t low[kBins], high[kBins];
  uint64_t of_warps[kRowWarps];
  uint64_t before, mass;
  uint32_t first, last;
  uint32_t candidates[kCandidates], candidate_count;
  int32_t last_tie;
};

__device__ __forceinline__ void add_to_bin(uint32_t* low, uint32_t* high, int bin, uint64_t weight) {
  const uint32_t word = static_cast<uint32_t>(weight), before = atomicAdd(&low[bin], word);
  const uint32_t carried = static_cast<uint32_t>(weight >> 32) + (before + word < before ? 1 : 0);
  if (carried) atomicAdd(&high[bin], carried);
}

// A block's search in its row. Every function is called by all threads, and begins and ends with the block in step.
class RowSearch {
 public:
  __device__ RowSearch(const Sampling& s, RowMemory& memory, int64_t row, uint32_t largest)
      : s_(s), memory_(memory), row_(row), largest_(largest) {}

  // A key that at least k of the row's scores reach, if so many have a weight.
  __device__ uint32_t bound_of_top_k(int64_t k) {
    const uint32_t low = lowest_with_weight(s_, largest_);
    const Division division(low, largest_, true);
    clear_bins();
    for (int64_t group = threadIdx.x; group < s_.groups; group += kRowThreads) {
      const uint32_t key = s_.group_largest[row_ * s_.groups + group];
      if (key >= low) atomicAdd(&memory_.low[division.bin_of(key)], 1u);
    }
    __syncthreads();
    const uint64_t all = sum_bins();
    if (all <= static_cast<uint64_t>(k)) return low;
    find(division, all - static_cast<uint64_t>(k));
    return memory_.first;
  }

  // Lists the keys from `low` to `high` for the sums to come, if they fit.
  __device__ void list(uint32_t low, uint32_t high) {
    is_listed_ = false;
    if (threadIdx.x == 0) memory_.candidate_count = 0;
    __syncthreads();
    walk(low, [&](uint32_t key) {
      if (key < low || key > high) return;
      const uint32_t place = atomicAdd(&memory_.candidate_count, 1u);
      if (place < kCandidates) memory_.candidates[place] = key;
    });
    __syncthreads();
    is_listed_ = memory_.candidate_count <= kCandidates;
  }

  struct Found {
    uint32_t key;
    uint64_t rest, mass;  // of the keys equal to it: the limit less what lies below them, and their sum
  };
  // The key in [low, high] at which the rising sum of weight(key) first exceeds limit(sum of all); with `bins`, those of the first
  // division of all of them.
  template <class Weight, class Limit>
  __device__ Found search(uint32_t low, uint32_t high, const uint64_t* bins, Weight weight, Limit limit_of) {
    uint64_t limit = 0;
    for (bool is_first = true;; is_first = false) {
      const Division division(low, high, is_first && !is_listed_);
      clear_bins();
      if (is_first && bins) {
        memory_.low[threadIdx.x] = static_cast<uint32_t>(bins[threadIdx.x]);
        memory_.high[threadIdx.x] = static_cast<uint32_t>(bins[threadIdx.x] >> 32);
      } else {
        each_key(low, high, [&](uint32_t key) { add_to_bin(memory_.low, memory_.high, division.bin_of(key), weight(key)); });
      }
      __syncthreads();
      const uint64_t all = sum_bins();
      if (is_first) limit = limit_of(all);
      find(division, limit);
      limit -= memory_.before;
      low = memory_.first;
      high = memory_.last;
      const uint64_t mass = memory_.mass;
      __syncthreads();
      if (low == high) return {low, limit, mass};
      if (is_first && bins) list(low, high);
    }
  }

  // The position of the count-th score of this key.
  __device__ int32_t position_of(uint32_t key, int64_t count) {
    const int64_t runs = ceil_div(s_.groups, 32), share = ceil_div(runs, kRowWarps);
    const int64_t begin = warp() * share, end = min(begin + share, runs);
    int64_t found = 0;
    const auto look = [&](auto take) {
      for (int64_t run = begin; run < end; ++run) {
        for (unsigned groups = groups_from(run, key); groups; groups &= groups - 1) {
          const int64_t group = run * 32 + __ffs(groups) - 1;
          take(group, __ballot_sync(kAll, key_at(s_, row_, group * kGroup + lane()) == key));
        }
      }
    };
    look([&](int64_t, unsigned equal) { found += __popc(equal); });
    if (lane() == 0) memory_.of_warps[warp()] = static_cast<uint64_t>(found);
    __syncthreads();
    int64_t before = 0;
    for (int i = 0; i < warp(); ++i) before += static_cast<int64_t>(memory_.of_warps[i]);
    if (before < count && count <= before + found) {
      look([&](int64_t group, unsigned equal) {
        const int64_t rank = before + __popc(equal & ((1u << lane()) - 1)) + 1;
        if ((equal >> lane() & 1) && rank == count) memory_.last_tie = static_cast<int32_t>(group * kGroup + lane());
        before += __popc(equal);
      });
    }
    __syncthreads();
    return memory_.last_tie;
  }

 private:
  __device__ static int lane() { return threadIdx.x % 32; }
  __device__ static int warp() { return threadIdx.x / 32; }

  __device__ void clear_bins() {
    memory_.low[threadIdx.x] = memory_.high[threadIdx.x] = 0;
    __syncthreads();
  }

  // The sum of all bins, and the thread's own bin and those before it.
  __device__ uint64_t sum_bins() {
    own_ = static_cast<uint64_t>(memory_.high[threadIdx.x]) << 32 | memory_.low[threadIdx.x];
    const uint64_t through_own = warp_inclusive_sum(own_);
    if (lane() == 31) memory_.of_warps[warp()] = through_own;
    __syncthreads();
    const uint64_t through_warp = warp_inclusive_sum(memory_.of_warps[lane()]), before_warp = __shfl_sync(kAll, through_warp, (warp() + 31) % 32);
    before_ = through_own - own_ + (warp() > 0 ? before_warp : 0);
    return __shfl_sync(kAll, through_warp, 31);
  }

  // After sum_bins(): the bin at which the sum exceeds the limit, as `first` and `last` key, `mass`, and the sum `before` it.
  __device__ void find(const Division& division, uint64_t limit) {
    if (before_ <= limit && limit < before_ + own_) {
      memory_.before = before_;
      memory_.mass = own_;
      memory_.first = division.first_key(threadIdx.x);
      memory_.last = division.first_key(threadIdx.x + 1) - 1;
    }
    __syncthreads();
  }

  // Bit i: group 32 * run + i has a key from `low` on.
  __device__ unsigned groups_from(int64_t run, uint32_t low) const {
    const int64_t group = run * 32 + lane();
    return __ballot_sync(kAll, group < s_.groups && s_.group_largest[row_ * s_.groups + group] >= low);
  }

  // Every key of the groups that have one from `low` on, four groups at a time.
  template <class Take>
  __device__ void walk(uint32_t low, Take take) const {
    constexpr int kAtOnce = 4;
    for (int64_t run = warp(); run * 32 < s_.groups; run += kRowWarps) {
      unsigned groups = groups_from(run, low);
      while (groups) {
        uint32_t keys[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          keys[i] = groups ? key_at(s_, row_, (run * 32 + __ffs(groups) - 1) * kGroup + lane()) : 0;
          groups &= groups - 1;
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) take(keys[i]);
      }
    }
  }

  template <class Take>
  __device__ void each_key(uint32_t low, uint32_t high, Take take) const {
    const auto take_within = [&](uint32_t key) {
      if (key >= low && key <= high) take(key);
    };
    if (is_listed_) {
      for (uint32_t i = threadIdx.x; i < memory_.candidate_count; i += kRowThreads) take_within(memory_.candidates[i]);
    } else {
      walk(low, take_within);
    }
  }

  const Sampling& s_;
  RowMemory& memory_;
  int64_t row_;
  uint32_t largest_;
  uint64_t own_ = 0, before_ = 0;
  bool is_listed_ = false;
};

}  // namespace cuda
}  // namespace mambatune
