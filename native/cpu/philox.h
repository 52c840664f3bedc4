// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once
#include <cstdint>

#include "simd.h"

namespace mambatune {
namespace MAMBATUNE_ISA {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9, kPhiloxWeyl1 = 0xBB67AE85;
constexpr int kPhiloxRounds = 10;
constexpr int kPhiloxCounters = 16;  // computed side by side

// out[4 * i + lane] of counters {first + i (64 bit), offset (64 bit)}, i < kPhiloxCounters.
inline void philox(uint64_t seed, uint64_t offset, uint64_t first, uint32_t* out) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#if defined(__AVX2__)
  // A counter's words lie in the low halves of 64-bit lanes; what gathers in the high halves is never read.
  constexpr int kVectors = kPhiloxCounters / 4;
  const __m256i multiplier0 = _mm256_set1_epi64x(kPhiloxMultiplier0), multiplier1 = _mm256_set1_epi64x(kPhiloxMultiplier1);
  __m256i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  MAMBATUNE_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    c0[v] = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(first + 4 * static_cast<uint64_t>(v))), _mm256_setr_epi64x(0, 1, 2, 3));
    c1[v] = _mm256_srli_epi64(c0[v], 32);
    c2[v] = _mm256_set1_epi64x(static_cast<int64_t>(offset));
    c3[v] = _mm256_srli_epi64(c2[v], 32);
  }
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const __m256i k0 = _mm256_set1_epi64x(key0), k1 = _mm256_set1_epi64x(key1);
    MAMBATUNE_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const __m256i product0 = _mm256_mul_epu32(c0[v], multiplier0), product1 = _mm256_mul_epu32(c2[v], multiplier1);
      c0[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1[v]), k0);
      c1[v] = product1;
      c2[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3[v]), k1);
      c3[v] = product0;
    }
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  MAMBATUNE_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    const __m256i words01 = _mm256_blend_epi32(c0[v], _mm256_slli_epi64(c1[v], 32), 0xaa);
    const __m256i words23 = _mm256_blend_epi32(c2[v], _mm256_slli_epi64(c3[v], 32), 0xaa);
    const __m256i even = _mm256_unpacklo_epi64(words01, words23), odd = _mm256_unpackhi_epi64(words01, words23);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * v), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16 * v + 8), _mm256_permute2x128_si256(even, odd, 0x31));
  }
#else
  for (int i = 0; i < kPhiloxCounters; ++i) {
    const uint64_t counter = first + static_cast<uint64_t>(i);
    uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
    uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
    for (uint32_t round = 0; round < kPhiloxRounds; ++round) {
      const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * c0, product1 = uint64_t{kPhiloxMultiplier1} * c2;
      c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ (key0 + round * kPhiloxWeyl0);
      c1 = static_cast<uint32_t>(product1);
      c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ (key1 + round * kPhiloxWeyl1);
      c3 = static_cast<uint32_t>(product0);
    }
    out[4 * i] = c0;
    out[4 * i + 1] = c1;
    out[4 * i + 2] = c2;
    out[4 * i + 3] = c3;
  }
#endif
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
