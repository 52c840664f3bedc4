// SPDX-License-Identifier: Apache-2.0
// Copies of frozen weights in bfloat16: half the bytes to read where a product is bound by memory.
#pragma once
#include "../include/device.h"

namespace mambatune {

// W's values as bfloat16, copied when first asked for and kept as long as the weight. *copy is null where W wants none, or has a
// value that is no bfloat16's: reading the copy changes no bit of a product.
Error bfloat16_copy(const Weight& W, const uint16_t** copy);
void free_weight_cache(WeightCache* cache);

}  // namespace mambatune
