// SPDX-License-Identifier: Apache-2.0
// Choice by chance, in launches over parts of the rows and launches of a block a row:
//
//   1. parts: the largest score of each 32 logits and of each part (2,048)
//   2. parts, for top_p without top_k: the weights by score, in 1,024 bins
//   3. rows, for top_k and top_p: the edge of what is kept. The 32s whose largest reach it are all that is looked at
//   4. parts: the kept weights of each 32
//   5. rows: the random number, the 32 in which the running sum passes it, and the token
//
// Sums are of integers and therefore the same in any order. Of a row of 50,280 logits launch 1 reads 201 KB and writes 6. 2, 3 and 4
// read again the 32s that matter, a few KB where the row is sharp, 201 KB at most; beside them 3 reads 6 KB and 5 reads 13. What is
// computed is float64, at 14.8 T operations a second on an H100: a division by the temperature, 20 of them, wherever a logit is read,
// and an exponential, 26, for what 2 and 4 look at. That is, for 64 rows of a flat distribution: top_k 13 MB of the L2 cache and 4 us of
// divisions; top_p alone at most 51 MB and 29 us, 11 where the temperature is 1. One row is five launches that wait for latency, 10 to 20 us.
#include "ops.cuh"
#include "sample_token_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr const char* kOp = "sample_token";

struct Part {
  int64_t row, first_group;  // of the warp
  __device__ explicit Part(const Sampling& s)
      : row(blockIdx.x / s.parts), first_group(blockIdx.x % s.parts * kGroupsOfPart + threadIdx.x / 32 * kGroupsOfWarp) {}
};

__global__ void __launch_bounds__(kThreads) largest_kernel(const Sampling s) {
  __shared__ uint32_t of_warps[kWarps];
  let_next_start();
  wait_for_previous();
  const Part part(s);
  const int lane = threadIdx.x % 32;
  uint32_t keys[kGroupsOfWarp], own = 0, largest = 0;
#pragma unroll
  for (int i = 0; i < kGroupsOfWarp; ++i) keys[i] = key_at(s, part.row, (part.first_group + i) * kGroup + lane);
#pragma unroll
  for (int i = 0; i < kGroupsOfWarp; ++i) {
    const uint32_t of_group = __reduce_max_sync(kAll, keys[i]);
    if (lane == i) own = of_group;
    largest = max(largest, of_group);
  }
  const int64_t group = part.first_group + lane;
  if (lane < kGroupsOfWarp && group < s.groups) s.group_largest[part.row * s.groups + group] = own;
  if (lane == 0) of_warps[threadIdx.x / 32] = largest;
  if (s.bins && blockIdx.x % s.parts == 0) {
    for (int i = threadIdx.x; i < kBins; i += kThreads) s.bins[part.row * kBins + i] = 0;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) largest = max(largest, of_warps[i]);
  s.part_largest[blockIdx.x] = largest;
}

__global__ void __launch_bounds__(kThreads) bins_kernel(const Sampling s) {
  __shared__ uint32_t low[kBins], high[kBins];
  let_next_start();
  wait_for_previous();
  const Part part(s);
  const uint32_t largest = largest_of(s, part.row);
  if (!has_choice(largest)) return;
  for (int i = threadIdx.x; i < kBins; i += kThreads) low[i] = high[i] = 0;
  __syncthreads();
  const uint32_t lowest = lowest_with_weight(s, largest);
  const Division division(lowest, largest, true);
#pragma unroll
  for (int i = 0; i < kGroupsOfWarp; ++i) {
    const uint32_t key = key_at(s, part.row, (part.first_group + i) * kGroup + threadIdx.x % 32);
    if (key >= lowest) add_to_bin(low, high, division.bin_of(key), weight_of(s, key, largest));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    const unsigned long long sum = static_cast<unsigned long long>(high[i]) << 32 | low[i];
    if (sum) atomicAdd(reinterpret_cast<unsigned long long*>(&s.bins[part.row * kBins + i]), sum);
  }
}

__global__ void __launch_bounds__(kRowThreads) cut_kernel(const Sampling s) {
  __shared__ RowMemory memory;
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const uint32_t largest = largest_of(s, row);
  if (!has_choice(largest)) return;
  RowSearch search(s, memory, row, largest);
  Cut cut{lowest_with_weight(s, largest), INT32_MAX};
  if (s.by_top_k) {
    const uint64_t k = static_cast<uint64_t>(s.p.top_k);
    const uint32_t bound = search.bound_of_top_k(s.p.top_k);
    search.list(bound, largest);
    cut.edge = search.search(bound, largest, nullptr, [](uint32_t) { return uint64_t{1}; },
                             [&](uint64_t all) { return all > k ? all - k : 0; }).key;
  }
  if (s.by_top_p) {
    const auto weight = [&](uint32_t key) { return weight_of(s, key, largest); };
    const auto limit = [&](uint64_t all) {
      const uint64_t removable = static_cast<uint64_t>((1 - s.p.top_p) * static_cast<double>(all));
      return removable < all - 1 ? removable : all - 1;
    };
    const auto found = search.search(cut.edge, largest, s.bins ? s.bins + row * kBins : nullptr, weight, limit);
    const uint64_t each = weight(found.key), removed = found.rest / each;
    cut.edge = found.key;
    if (removed > 0) cut.last_tie = search.position_of(found.key, static_cast<int64_t>(found.mass / each - removed));
  }
  const uint32_t least = min_p_edge(s, largest);
  if (least > cut.edge) cut = {least, INT32_MAX};
  if (threadIdx.x == 0) s.cuts[row] = cut;
}

__device__ __forceinline__ Cut cut_of(const Sampling& s, int64_t row, uint32_t largest) {
  if (!s.p.do_sample) return {largest, INT32_MAX};
  if (s.cuts) return s.cuts[row];
  return {max(lowest_with_weight(s, largest), min_p_edge(s, largest)), INT32_MAX};
}

// The weight of the lane's element of a group where it is kept, else 0.
__device__ __forceinline__ uint64_t kept_weight(const Sampling& s, int64_t row, int64_t group, const Cut& cut, uint32_t largest) {
  const int64_t position = group * kGroup + threadIdx.x % 32;
  const uint32_t key = key_at(s, row, position);
  const bool is_kept = key > cut.edge || (key == cut.edge && position <= cut.last_tie);
  return is_kept ? weight_of(s, key, largest) : 0;
}

__global__ void __launch_bounds__(kThreads) masses_kernel(const Sampling s) {
  let_next_start();
  wait_for_previous();
  const Part part(s);
  const uint32_t largest = largest_of(s, part.row);
  if (!has_choice(largest)) return;
  const Cut cut = cut_of(s, part.row, largest);
  const int lane = threadIdx.x % 32;
  const int64_t group = part.first_group + lane;
  const bool is_own = lane < kGroupsOfWarp && group < s.groups;
  const unsigned reached = __ballot_sync(kAll, is_own && s.group_largest[part.row * s.groups + group] >= cut.edge);
  uint64_t mass = 0;
#pragma unroll
  for (int i = 0; i < kGroupsOfWarp; ++i) {
    if (!(reached >> i & 1)) continue;
    const uint64_t sum = warp_inclusive_sum(kept_weight(s, part.row, part.first_group + i, cut, largest));
    const uint64_t all = __shfl_sync(kAll, sum, 31);
    if (lane == i) mass = all;
  }
  if (is_own) s.masses[part.row * s.groups + group] = mass;
}

// Word `position` of the substream: Philox4x32-10 of src/random.ts.
__device__ uint32_t random_word(const SampleTokenParams& p, uint32_t substream, uint32_t position) {
  uint32_t words[4] = {position / 4, 0, substream, p.stream};
  uint32_t key0 = static_cast<uint32_t>(p.seed), key1 = static_cast<uint32_t>(p.seed >> 32);
#pragma unroll 1
  for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
    const uint64_t first = uint64_t{0xD2511F53u} * words[0], second = uint64_t{0xCD9E8D57u} * words[2];
    words[0] = static_cast<uint32_t>(second >> 32) ^ words[1] ^ key0;
    words[1] = static_cast<uint32_t>(second);
    words[2] = static_cast<uint32_t>(first >> 32) ^ words[3] ^ key1;
    words[3] = static_cast<uint32_t>(first);
  }
  return position & 2 ? (position & 1 ? words[3] : words[2]) : (position & 1 ? words[1] : words[0]);
}

__device__ void put_choice(const Sampling& s, int64_t row, int32_t choice) {
  const uint32_t count = static_cast<uint32_t>(s.p.counts[row]);
  s.p.tokens[row] = choice < 0 ? 0 : choice;
  s.p.choices[count % s.p.slots * s.p.rows + row] = choice;
  s.p.counts[row] = static_cast<int32_t>(count + 1);
  s.p.positions[row] = static_cast<int32_t>(static_cast<uint32_t>(s.p.positions[row]) + 1);
  if (s.p.seen && choice >= 0) s.p.seen[row * s.groups + choice / kGroup] |= 1u << choice % kGroup;
}

__global__ void __launch_bounds__(kThreads) draw_kernel(const Sampling s) {
  __shared__ uint64_t of_warps[kWarps], rest;
  __shared__ int64_t group;
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t largest = largest_of(s, row);
  if (!has_choice(largest)) {
    if (threadIdx.x == 0) put_choice(s, row, largest == kNotANumberKey ? kNotANumberChoice : kNoChoice);
    return;
  }
  const uint64_t* masses = s.masses + row * s.groups;
  const int64_t share = ceil_div(s.groups, kThreads), begin = min(threadIdx.x * share, s.groups), end = min(begin + share, s.groups);
  uint64_t own = 0;
  for (int64_t i = begin; i < end; ++i) own += masses[i];
  const uint64_t through_own = warp_inclusive_sum(own);
  if (lane == 31) of_warps[warp] = through_own;
  __syncthreads();
  uint64_t before = through_own - own, all = 0;
  for (int i = 0; i < kWarps; ++i) {
    before += i < warp ? of_warps[i] : 0;
    all += of_warps[i];
  }
  // Infinite scores share the whole probability: the first of them, as where nothing is drawn.
  const bool draws = s.p.do_sample && largest != kInfinityKey;
  const uint32_t word = draws ? random_word(s.p, static_cast<uint32_t>(s.p.substreams[row]), static_cast<uint32_t>(s.p.positions[row])) : 0;
  const uint64_t passed = word * (all >> 32) + (word * (all & 0xffffffffu) >> 32);
  if (before <= passed && passed < before + own) {
    int64_t i = begin;
    for (; passed >= before + masses[i]; ++i) before += masses[i];
    group = i;
    rest = passed - before;
  }
  __syncthreads();
  if (warp > 0) return;
  const uint64_t sum = warp_inclusive_sum(kept_weight(s, row, group, cut_of(s, row, largest), largest));
  const unsigned past = __ballot_sync(kAll, sum > rest);
  if (lane == 0) put_choice(s, row, static_cast<int32_t>(group * kGroup + __ffs(past) - 1));
}

}  // namespace

Error sample_token(const SampleTokenParams& p) {
  if (p.rows == 0) return nullptr;
  Sampling s{};
  s.p = p;
  s.groups = ceil_div(p.cols, kGroup);
  s.parts = ceil_div(s.groups, kGroupsOfPart);
  const int bits = sample_weight_bits(p.cols);
  s.unit = std::ldexp(1.0, bits);
  s.depth = (bits + 1) * kLn2 + 1.0f;
  s.by_top_k = p.do_sample && p.top_k > 0 && p.top_k < p.cols;
  s.by_top_p = p.do_sample && p.top_p < 1;
  const bool has_cuts = s.by_top_k || s.by_top_p, has_bins = s.by_top_p && !s.by_top_k;

  Scratch scratch;
  const int64_t bins = has_bins ? kBins : 0, cuts = has_cuts ? 1 : 0;
  MAMBATUNE_TRY(scratch.reserve(p.rows * (2 * s.groups + 2 * bins + 2 * cuts + s.groups + s.parts)));
  s.masses = reinterpret_cast<uint64_t*>(scratch.get());
  uint64_t* const bins_memory = s.masses + p.rows * s.groups;
  Cut* const cuts_memory = reinterpret_cast<Cut*>(bins_memory + p.rows * bins);
  s.group_largest = reinterpret_cast<uint32_t*>(cuts_memory + p.rows * cuts);
  s.part_largest = s.group_largest + p.rows * s.groups;
  if (has_bins) s.bins = bins_memory;
  if (has_cuts) s.cuts = cuts_memory;

  const unsigned rows = static_cast<unsigned>(p.rows), parts = static_cast<unsigned>(p.rows * s.parts);
  MAMBATUNE_TRY(launch_early(largest_kernel, parts, kThreads, kOp, s));
  if (has_bins) MAMBATUNE_TRY(launch_early(bins_kernel, parts, kThreads, kOp, s));
  if (has_cuts) MAMBATUNE_TRY(launch_early(cut_kernel, rows, kRowThreads, kOp, s));
  MAMBATUNE_TRY(launch_early(masses_kernel, parts, kThreads, kOp, s));
  return launch_early(draw_kernel, rows, kThreads, kOp, s);
}

}  // namespace cuda
}  // namespace mambatune
