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
  __device__ float4 factors(int64_t element) const { return factors_of(kept(element / 4)); }

  // The same from any element on: of two neighbouring fours.
  __device__ float4 factors_from(int64_t element) const {
    return factors_of((kept(element / 4) | kept(element / 4 + 1) << 4) >> (element & 3));
  }

 private:
  // Bit i: element 4 * block + i is kept.
  __device__ uint32_t kept(int64_t block) const {
    const auto counter = static_cast<uint64_t>(block);
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
    return uint32_t{c0 >= threshold} | uint32_t{c1 >= threshold} << 1 | uint32_t{c2 >= threshold} << 2 | uint32_t{c3 >= threshold} << 3;
  }

  __device__ float4 factors_of(uint32_t mask) const {
    return make_float4(mask & 1 ? scale : 0.0f, mask & 2 ? scale : 0.0f, mask & 4 ? scale : 0.0f, mask & 8 ? scale : 0.0f);
  }
};

}  // namespace cuda
}  // namespace mambatune
