// SPDX-License-Identifier: Apache-2.0
// A weight matrix as the linear ops see it.
#pragma once
#include <cstdint>

namespace mambatune {

// Device-private copies of a weight in another layout or precision, owned by the weight's buffer. The device creates it on
// first use through Weight::cache and frees it in DeviceApi::free_weight_cache.
struct WeightCache;

struct Weight {
  const float* data;    // [rows, cols] row-major
  int64_t rows, cols;   // out features, in features
  WeightCache** cache;  // null when the weight may change between calls (it is trainable): pack nothing then
  bool is_bfloat16 = false;  // where every element is a bfloat16's value, a product may read a copy of half the size (needs cache)
};

}  // namespace mambatune
