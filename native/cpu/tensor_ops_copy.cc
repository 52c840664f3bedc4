// SPDX-License-Identifier: Apache-2.0
// Kernels that move elements: strided_copy and gather.
#include "../include/device.h"
#include "tensor_ops_detail.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

struct Dim {
  int64_t size, src, dst;
};

int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

// The copy's dimensions without those of size 1, outermost by destination stride, neighbours merged where both strides
// allow. Returns how many are left.
int simplify(const StridedCopyParams& p, Dim* dims) {
  int rank = 0;
  for (int d = 0; d < p.rank; ++d) {
    if (p.dims[d] == 1) continue;
    int at = rank++;
    const Dim dim = {p.dims[d], p.src_strides[d], p.dst_strides[d]};
    for (; at > 0 && magnitude(dims[at - 1].dst) < magnitude(dim.dst); --at) dims[at] = dims[at - 1];
    dims[at] = dim;
  }
  int merged = 0;
  for (int d = 0; d < rank; ++d) {
    if (merged > 0 && dims[merged - 1].src == dims[d].src * dims[d].size && dims[merged - 1].dst == dims[d].dst * dims[d].size) {
      dims[merged - 1] = {dims[merged - 1].size * dims[d].size, dims[d].src, dims[d].dst};
    } else {
      dims[merged++] = dims[d];
    }
  }
  return merged;
}

template <class T>
void copy_run(const T* src, int64_t src_step, T* dst, int64_t dst_step, int64_t count) {
  if (src_step == 1 && dst_step == 1) {
    memcpy(dst, src, static_cast<size_t>(count) * sizeof(T));
  } else if (src_step == 0 && dst_step == 1) {
    const T value = *src;
    for (int64_t i = 0; i < count; ++i) dst[i] = value;
  } else {
    for (int64_t i = 0; i < count; ++i) dst[i * dst_step] = src[i * src_step];
  }
}

constexpr int64_t kSquare = 16;  // 4-byte elements of a cache line

// A plane whose source is contiguous along `rows` (kSquare at most) and whose destination is along `columns`: square by
// square through a buffer, so that each line of either side is touched once.
template <class T>
void copy_plane(const T* src, T* dst, const Dim& rows, const Dim& columns) {
  T square[kSquare * kSquare];
  for (int64_t c = 0; c < columns.size; c += kSquare) {
    const int64_t count = smaller(columns.size - c, kSquare);
    for (int64_t j = 0; j < count; ++j) {
      const T* from = src + (c + j) * columns.src;
      for (int64_t i = 0; i < rows.size; ++i) square[j * kSquare + i] = from[i * rows.src];
    }
    for (int64_t i = 0; i < rows.size; ++i) {
      T* to = dst + i * rows.dst + c * columns.dst;
      for (int64_t j = 0; j < count; ++j) to[j * columns.dst] = square[j * kSquare + i];
    }
  }
}

template <class T>
void copy_elements(const StridedCopyParams& p) {
  Dim dims[kMaxRank + 1];
  int rank = simplify(p, dims);
  const T* src = static_cast<const T*>(p.src);
  T* dst = static_cast<T*>(p.dst);
  if (rank == 0) {
    *dst = *src;
    return;
  }
  const Dim inner = dims[--rank];
  // The dimension the source is contiguous along, when that is not the inner one: cut into strips, a task each.
  Dim strip = {1, 0, 0};
  int64_t strips = 1, strip_rows = 1;
  if (magnitude(inner.src) > 1) {
    for (int d = 0; d < rank; ++d) {
      if (magnitude(dims[d].src) != 1) continue;
      strip = dims[d];
      for (int e = d; e + 1 < rank; ++e) dims[e] = dims[e + 1];
      --rank;
      strip_rows = smaller(strip.size, kSquare);
      strips = (strip.size + strip_rows - 1) / strip_rows;
      break;
    }
  }
  const int64_t pieces = (inner.size + kElementBlock - 1) / kElementBlock;
  int64_t units = strips * pieces;
  for (int d = 0; d < rank; ++d) units *= dims[d].size;
  for_each_block(units, units_per_task(smaller(inner.size, kElementBlock) * strip_rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * kElementBlock, row = i / pieces % strips * strip_rows;
      int64_t from = first * inner.src + row * strip.src, to = first * inner.dst + row * strip.dst;
      int64_t rest = i / pieces / strips;
      for (int d = rank - 1; d >= 0; --d) {
        from += rest % dims[d].size * dims[d].src;
        to += rest % dims[d].size * dims[d].dst;
        rest /= dims[d].size;
      }
      const int64_t count = smaller(inner.size - first, kElementBlock), rows = smaller(strip.size - row, strip_rows);
      if (rows == 1) {
        copy_run(src + from, inner.src, dst + to, inner.dst, count);
      } else {
        copy_plane(src + from, dst + to, {rows, strip.src, strip.dst}, {count, inner.src, inner.dst});
      }
    }
  });
}

}  // namespace

Error strided_copy(const StridedCopyParams& p) {
  for (int d = 0; d < p.rank; ++d) {
    if (p.dims[d] == 0) return nullptr;
  }
  if (p.element_size == 4) {
    copy_elements<int32_t>(p);
  } else {
    copy_elements<uint8_t>(p);
  }
  return nullptr;
}

Error gather(const GatherParams& p) {
  const int64_t bytes = p.inner * p.element_size;
  const char* x = static_cast<const char*>(p.x);
  char* out = static_cast<char*>(p.out);
  for_each_block(p.outer * p.count, units_per_task(p.inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / p.count * p.length + p.indices[i % p.count];
      memcpy(out + i * bytes, x + row * bytes, static_cast<size_t>(bytes));
    }
  });
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
