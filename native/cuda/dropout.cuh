// SPDX-License-Identifier: Apache-2.0
// The dropout of lora_linear.h: Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once
#include <cmath>

#include "common.cuh"

namespace mambatune {
namespace cuda {

// Elements are numbered row by row in a matrix of `cols` columns. threshold 0: no dropout.
struct Dropout {
  uint32_t threshold = 0;  // of uniform * 2^32
  float scale = 1.0f;
  uint64_t seed = 0, offset = 0;
  const uint32_t* step = nullptr;
  int64_t cols = 0;

  Dropout() = default;
  explicit Dropout(const LoraLinearInputs& in)
      : seed(in.seed), offset(in.offset), step(in.dropout_step), cols(in.W.cols) {
    if (!(in.dropout > 0)) return;
    threshold = static_cast<uint32_t>(std::ceil(static_cast<double>(in.dropout) * 4294967296.0));
    scale = static_cast<float>(1.0 / (1.0 - static_cast<double>(in.dropout)));
  }

  // What the four elements from `element` on, a multiple of 4, are multiplied by.
  __device__ float4 factors(int64_t element) const {
    const uint64_t counter = static_cast<uint64_t>(element) / 4;
    const uint64_t high = offset + (step ? static_cast<uint64_t>(*step) << 20 : 0);
    uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
    uint32_t c2 = static_cast<uint32_t>(high), c3 = static_cast<uint32_t>(high >> 32);
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
      const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
      c0 = high1 ^ c1 ^ key0;
      c1 = low1;
      c2 = high0 ^ c3 ^ key1;
      c3 = low0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    return make_float4(c0 >= threshold ? scale : 0.0f, c1 >= threshold ? scale : 0.0f, c2 >= threshold ? scale : 0.0f,
                       c3 >= threshold ? scale : 0.0f);
  }
  // The same from any element on: two neighbouring fours, shifted by the element's place in the first.
  __device__ float4 factors_from(int64_t element) const {
    const float4 low = factors(element & ~int64_t{3}), high = factors((element | 3) + 1);
    const bool by_one = element & 1, by_two = element & 2;
    const float a = by_two ? low.z : low.x, b = by_two ? low.w : low.y, c = by_two ? high.x : low.z;
    const float d = by_two ? high.y : low.w, e = by_two ? high.z : high.x;
    return make_float4(by_one ? b : a, by_one ? c : b, by_one ? d : c, by_one ? e : d);
  }
};

}  // namespace cuda
}  // namespace mambatune
