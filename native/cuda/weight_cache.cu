// SPDX-License-Identifier: Apache-2.0
#include "weight_cache.cuh"

#include "allocator.cuh"
#include "launch.cuh"

namespace mambatune {

struct WeightCache {
  void* bfloat16;
  size_t bytes;
};

namespace cuda {
namespace {

constexpr const char* kOp = "conversion to bfloat16";

// Four columns a thread.
__global__ void __launch_bounds__(kThreads)
    to_bfloat16_kernel(const float* from, int64_t from_stride, int64_t rows, int64_t cols, __nv_bfloat16* to, int64_t to_stride,
                       bool vector) {
  const int64_t quads = (to_stride + 3) / 4;
  for (int64_t i = first_index(); i < rows * quads; i += index_step()) {
    const int64_t row = i / quads, col = i % quads * 4;
    const float* x = from + row * from_stride + col;
    __nv_bfloat16* y = to + row * to_stride + col;
    if (vector && col + 4 <= cols) {
      const float4 v = *reinterpret_cast<const float4*>(x);
      __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
      *reinterpret_cast<uint2*>(y) = *reinterpret_cast<const uint2*>(pair);
    } else {
      for (int64_t j = 0; j < 4 && col + j < to_stride; ++j) y[j] = __float2bfloat16_rn(col + j < cols ? x[j] : 0.0f);
    }
  }
}

}  // namespace

Error to_bfloat16(const float* from, int64_t from_stride, int64_t rows, int64_t cols, __nv_bfloat16* to, int64_t to_stride) {
  const int64_t threads = rows * ceil_div(to_stride, 4);
  if (threads == 0) return nullptr;
  const bool vector = aligned_to(from, 16) && from_stride % 4 == 0 && aligned_to(to, 8) && to_stride % 4 == 0;
  to_bfloat16_kernel<<<blocks_for(threads), kThreads, 0, stream()>>>(from, from_stride, rows, cols, to, to_stride, vector);
  return describe_error(cudaGetLastError(), kOp);
}

Error bfloat16_weight(const Weight& W, Scratch* owner, const __nv_bfloat16** copy) {
  if (W.cache && *W.cache) {
    *copy = static_cast<const __nv_bfloat16*>((*W.cache)->bfloat16);
    return nullptr;
  }
  const size_t bytes = static_cast<size_t>(W.rows * W.cols) * sizeof(__nv_bfloat16);
  void* memory = nullptr;
  const bool keep = W.cache && !is_recording();
  if (keep) {
    MAMBATUNE_TRY(allocate_hidden(bytes, true, &memory));
    *W.cache = new WeightCache{memory, bytes};
  } else {
    MAMBATUNE_TRY(owner->reserve(ceil_div(W.rows * W.cols, 2)));
    memory = owner->get();
  }
  *copy = static_cast<const __nv_bfloat16*>(memory);
  return to_bfloat16(W.data, W.cols, W.rows, W.cols, static_cast<__nv_bfloat16*>(memory), W.cols);
}

void free_weight_cache(WeightCache* cache) {
  if (!cache) return;
  release_hidden(cache->bfloat16, cache->bytes, true);
  delete cache;
}

}  // namespace cuda
}  // namespace mambatune
