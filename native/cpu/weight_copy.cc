// SPDX-License-Identifier: Apache-2.0
#include "weight_copy.h"

#include <cstring>

#include "memory.h"

namespace mambatune {

struct WeightCache {
  uint16_t* values;  // null: the weight's values are not bfloat16's
  size_t bytes;
};

namespace {

// Whether every value was one.
bool to_bfloat16(const float* from, int64_t count, uint16_t* to) {
  uint32_t lost = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    lost |= bits;
    to[i] = static_cast<uint16_t>(bits >> 16);
  }
  return (lost & 0xffff) == 0;
}

}  // namespace

Error bfloat16_copy(const Weight& W, const uint16_t** copy) {
  *copy = nullptr;
  if (!W.is_bfloat16 || !W.cache) return nullptr;
  if (!*W.cache) {
    const int64_t count = W.rows * W.cols;
    const size_t bytes = static_cast<size_t>(count) * sizeof(uint16_t);
    void* memory = nullptr;
    if (Error error = allocate_copy(bytes, &memory)) return error;
    auto* values = static_cast<uint16_t*>(memory);
    if (!to_bfloat16(W.data, count, values)) {
      release_copy(memory, bytes);
      values = nullptr;
    }
    *W.cache = new WeightCache{values, bytes};
  }
  *copy = (*W.cache)->values;
  return nullptr;
}

void free_weight_cache(WeightCache* cache) {
  if (!cache) return;
  if (cache->values) release_copy(cache->values, cache->bytes);
  delete cache;
}

}  // namespace mambatune
