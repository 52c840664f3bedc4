// SPDX-License-Identifier: Apache-2.0
// Kernels that move elements: strided_copy and gather. Where runs of them lie on both sides in multiples of 16
// bytes, they move as such.
#include <algorithm>

#include "sorted_rows.cuh"
#include "tensor_ops_detail.cuh"

namespace mambatune {
namespace cuda {
namespace {

struct Dim {
  int64_t size, src, dst;
};

// Dimensions, outermost by destination stride first, neighbours merged.
struct Layout {
  int rank = 0;
  int64_t size = 1;
  Dim dims[kMaxRank];

  explicit Layout(const StridedCopyParams& p) {
    const auto magnitude = [](int64_t x) { return x < 0 ? -x : x; };
    Dim sorted[kMaxRank];
    int count = 0;
    for (int d = 0; d < p.rank; ++d) {
      size *= p.dims[d];
      if (p.dims[d] == 1) continue;
      const Dim dim = {p.dims[d], p.src_strides[d], p.dst_strides[d]};
      int at = count++;
      for (; at > 0 && magnitude(sorted[at - 1].dst) < magnitude(dim.dst); --at) sorted[at] = sorted[at - 1];
      sorted[at] = dim;
    }
    for (int d = 0; d < count; ++d) {
      const Dim& dim = sorted[d];
      if (rank > 0 && dims[rank - 1].src == dim.src * dim.size && dims[rank - 1].dst == dim.dst * dim.size) {
        dims[rank - 1] = {dims[rank - 1].size * dim.size, dim.src, dim.dst};
      } else {
        dims[rank++] = dim;
      }
    }
  }

  // Turns runs of `wide` elements into one; false when the runs or the strides do not allow it.
  bool widen(int64_t wide) {
    if (rank == 0 || dims[rank - 1].src != 1 || dims[rank - 1].dst != 1 || dims[rank - 1].size % wide != 0) return false;
    for (int d = 0; d + 1 < rank; ++d) {
      if (dims[d].src % wide != 0 || dims[d].dst % wide != 0) return false;
    }
    for (int d = 0; d + 1 < rank; ++d) dims[d] = {dims[d].size, dims[d].src / wide, dims[d].dst / wide};
    dims[rank - 1].size /= wide;
    size /= wide;
    return true;
  }
};

template <class T, class Index>
__global__ void __launch_bounds__(kThreads) strided_copy_kernel(Layout layout, const T* src, T* dst) {
  for (int64_t index = first_index(); index < layout.size; index += index_step()) {
    Index rest = static_cast<Index>(index);
    int64_t from = 0, to = 0;
#pragma unroll
    for (int d = kMaxRank - 1; d >= 0; --d) {
      if (d >= layout.rank) continue;
      const Index size = static_cast<Index>(layout.dims[d].size);
      const int64_t at = d > 0 ? rest % size : rest;
      if (d > 0) rest /= size;
      from += at * layout.dims[d].src;
      to += at * layout.dims[d].dst;
    }
    dst[to] = src[from];
  }
}

template <class T>
Error copy_elements(const Layout& layout, const void* src, void* dst) {
  const T* from = static_cast<const T*>(src);
  T* to = static_cast<T*>(dst);
  const unsigned blocks = blocks_for(layout.size);
  if (layout.size <= UINT32_MAX) {
    strided_copy_kernel<T, uint32_t><<<blocks, kThreads, 0, stream()>>>(layout, from, to);
  } else {
    strided_copy_kernel<T, uint64_t><<<blocks, kThreads, 0, stream()>>>(layout, from, to);
  }
  return describe_error(cudaGetLastError(), "strided_copy");
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(int64_t size, int64_t length, int64_t inner, int64_t count, const T* x, const int32_t* indices, T* out) {
  for (int64_t i = first_index(); i < size; i += index_step()) {
    const int64_t row = i / inner, o = row / count;
    out[i] = x[(o * length + indices[row % count]) * inner + i % inner];
  }
}

template <class T>
Error gather_elements(const GatherParams& p, int64_t inner) {
  const int64_t size = p.outer * p.count * inner;
  gather_kernel<T><<<blocks_for(size), kThreads, 0, stream()>>>(size, p.length, inner, p.count, static_cast<const T*>(p.x), p.indices,
                                                             static_cast<T*>(p.out));
  return describe_error(cudaGetLastError(), "gather");
}

}  // namespace

Error strided_copy(const StridedCopyParams& p) {
  Layout layout(p);
  if (layout.size == 0) return nullptr;
  const int64_t wide = 16 / p.element_size;
  if (aligned_to(p.src, 16) && aligned_to(p.dst, 16) && layout.widen(wide)) return copy_elements<int4>(layout, p.src, p.dst);
  return p.element_size == 4 ? copy_elements<int32_t>(layout, p.src, p.dst) : copy_elements<uint8_t>(layout, p.src, p.dst);
}

Error gather(const GatherParams& p) {
  if (p.outer == 0 || p.count == 0 || p.inner == 0) return nullptr;
  const int64_t wide = 16 / p.element_size;
  if (p.inner % wide == 0 && aligned_to(p.x, 16) && aligned_to(p.out, 16)) return gather_elements<int4>(p, p.inner / wide);
  return p.element_size == 4 ? gather_elements<int32_t>(p, p.inner) : gather_elements<uint8_t>(p, p.inner);
}

}  // namespace cuda
}  // namespace mambatune
