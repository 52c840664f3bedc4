// SPDX-License-Identifier: Apache-2.0
// Reductions, running sums, softmax and greedy choice. Long sums are cut into blocks of fixed size whose partial sums are added in
// float64, so results do not depend on the number of threads.
#include "../include/device.h"
#include "tensor_ops_detail.h"

namespace mambatune {
namespace MAMBATUNE_ISA {
namespace {

constexpr int64_t kSumBlock = 1024;   // elements of a partial sum in float32
constexpr int64_t kColumnTile = 512;  // neighbouring columns a task reduces together
constexpr int64_t kRowBlock = 4096;   // rows of a column sum that make a task of their own

double sum_run(const float* x, int64_t size) {
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kSumBlock) {
    const int64_t end = smaller(begin + kSumBlock, size);
    Vec parts[4] = {};
    int64_t i = begin;
    for (; i + 4 * kWidth <= end; i += 4 * kWidth) {
      MAMBATUNE_UNROLL
      for (int j = 0; j < 4; ++j) parts[j] += load(x + i + j * kWidth);
    }
    for (; i < end; i += kWidth) parts[0] += load_lanes(x + i, static_cast<int>(smaller(end - i, kWidth)));
    total += sum_lanes((parts[0] + parts[1]) + (parts[2] + parts[3]));
  }
  return total;
}

// Sums of the columns of rows [begin, end), kSumBlock rows at a time in float32.
void sum_columns(const float* x, int64_t inner, int64_t begin, int64_t end, int64_t columns, double* totals) {
  float part[kColumnTile];
  for (int64_t c = 0; c < columns; ++c) totals[c] = 0;
  for (int64_t row = begin; row < end; row += kSumBlock) {
    const int64_t last = smaller(row + kSumBlock, end);
    for (int64_t c = 0; c < columns; ++c) part[c] = 0;
    for (int64_t r = row; r < last; ++r) {
      for (int64_t c = 0; c < columns; ++c) part[c] += x[r * inner + c];
    }
    for (int64_t c = 0; c < columns; ++c) totals[c] += part[c];
  }
}

// A sum over everything: partial sums of kElementBlock elements.
Error sum_all(const ReduceParams& p, double scale) {
  const float* x = static_cast<const float*>(p.x);
  const int64_t blocks = (p.length + kElementBlock - 1) / kElementBlock;
  double* sums = reinterpret_cast<double*>(thread_scratch(static_cast<size_t>(2 * blocks + 2)));
  if (!sums) return "reduce: out of memory for the partial sums";
  for_each_block(p.length, kElementBlock,
                 [&](int64_t begin, int64_t end) { sums[begin / kElementBlock] = sum_run(x + begin, end - begin); });
  double total = 0;
  for (int64_t block = 0; block < blocks; ++block) total += sums[block];
  *static_cast<float*>(p.out) = static_cast<float>(total * scale);
  return nullptr;
}

Error sum_float(const ReduceParams& p, double scale) {
  const float* x = static_cast<const float*>(p.x);
  float* out = static_cast<float*>(p.out);
  if (p.inner == 1 && p.outer == 1) return sum_all(p, scale);
  if (p.inner == 1) {
    for_each_block(p.outer, units_per_task(p.length), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) out[o] = static_cast<float>(sum_run(x + o * p.length, p.length) * scale);
    });
    return nullptr;
  }
  const int64_t tiles = (p.inner + kColumnTile - 1) / kColumnTile;
  const int64_t row_blocks = p.length > kRowBlock ? (p.length + kRowBlock - 1) / kRowBlock : 1;
  const int64_t columns = p.outer * p.inner;
  double* sums = reinterpret_cast<double*>(thread_scratch(static_cast<size_t>(2 * row_blocks * columns + 2)));
  if (!sums) return "reduce: out of memory for the partial sums";
  const int64_t unit = smaller(p.length, kRowBlock) * smaller(p.inner, kColumnTile);
  for_each_block(p.outer * tiles * row_blocks, units_per_task(unit), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i % row_blocks, tile = i / row_blocks % tiles, o = i / row_blocks / tiles;
      const int64_t first = tile * kColumnTile;
      sum_columns(x + o * p.length * p.inner + first, p.inner, block * kRowBlock, smaller((block + 1) * kRowBlock, p.length),
                  smaller(p.inner - first, kColumnTile), sums + block * columns + o * p.inner + first);
    }
  });
  for_each_block(columns, kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double total = sums[i];
      for (int64_t block = 1; block < row_blocks; ++block) total += sums[block * columns + i];
      out[i] = static_cast<float>(total * scale);
    }
  });
  return nullptr;
}

// out[o, c] = fold over the length: start(first element), then step(accumulator, element, position), then end.
template <class T, class Acc, class Out, class Start, class Step, class End>
void fold(const ReduceParams& p, const Start& start, const Step& step, const End& end) {
  const T* x = static_cast<const T*>(p.x);
  Out* out = static_cast<Out*>(p.out);
  if (p.inner == 1) {
    for_each_block(p.outer, units_per_task(p.length), [&](int64_t first, int64_t last) {
      for (int64_t o = first; o < last; ++o) {
        const T* from = x + o * p.length;
        Acc acc = start(from);
        for (int64_t r = 0; r < p.length; ++r) acc = step(acc, from[r], r);
        out[o] = end(acc);
      }
    });
    return;
  }
  const int64_t tile = smaller(p.inner, 64), tiles = (p.inner + tile - 1) / tile;
  for_each_block(p.outer * tiles, units_per_task(p.length * tile), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t column = i % tiles * tile, count = smaller(p.inner - column, tile);
      const T* from = x + i / tiles * p.length * p.inner + column;
      Out* to = out + i / tiles * p.inner + column;
      Acc acc[64];
      for (int64_t c = 0; c < count; ++c) acc[c] = start(from + c);
      for (int64_t r = 0; r < p.length; ++r) {
        for (int64_t c = 0; c < count; ++c) acc[c] = step(acc[c], from[r * p.inner + c], r);
      }
      for (int64_t c = 0; c < count; ++c) to[c] = end(acc[c]);
    }
  });
}

// The extreme element so far and where it lies.
template <class T>
struct Best {
  T value;
  int32_t index;
};

// The value an empty reduction starts from: NaN, or 0 where there is none.
MAMBATUNE_INLINE float nothing(float) { return __builtin_nanf(""); }
MAMBATUNE_INLINE int32_t nothing(int32_t) { return 0; }
MAMBATUNE_INLINE uint8_t nothing(uint8_t) { return 0; }

// Max and min keep NaN once met; argmax and argmin never move to one.
template <class T>
Error reduce_values(const ReduceParams& p) {
  const bool empty = p.length == 0;
  const auto first = [=](const T* x) { return empty ? nothing(T()) : *x; };
  const auto first_best = [=](const T* x) { return Best<T>{empty ? T() : *x, 0}; };
  const auto same = [](T acc) { return acc; };
  const auto index = [](const Best<T>& best) { return best.index; };
  const auto product = [](double acc) {
    T out;
    convert(acc, &out);
    return out;
  };
  const auto truth = [](uint8_t acc) { return static_cast<T>(acc); };
  switch (p.op) {
    case ReduceOp::kMax:
      fold<T, T, T>(p, first, [](T acc, T x, int64_t) { return x > acc || x != x ? x : acc; }, same);
      break;
    case ReduceOp::kMin:
      fold<T, T, T>(p, first, [](T acc, T x, int64_t) { return x < acc || x != x ? x : acc; }, same);
      break;
    case ReduceOp::kArgMax:
      fold<T, Best<T>, int32_t>(p, first_best, [](const Best<T>& best, T x, int64_t at) {
        return x > best.value ? Best<T>{x, static_cast<int32_t>(at)} : best;
      }, index);
      break;
    case ReduceOp::kArgMin:
      fold<T, Best<T>, int32_t>(p, first_best, [](const Best<T>& best, T x, int64_t at) {
        return x < best.value ? Best<T>{x, static_cast<int32_t>(at)} : best;
      }, index);
      break;
    case ReduceOp::kProd:
      fold<T, double, T>(p, [](const T*) { return 1.0; }, [](double acc, T x, int64_t) { return acc * x; }, product);
      break;
    case ReduceOp::kAny:
      fold<T, uint8_t, T>(p, [](const T*) -> uint8_t { return 0; },
                          [](uint8_t acc, T x, int64_t) -> uint8_t { return acc | (x != 0); }, truth);
      break;
    case ReduceOp::kAll:
      fold<T, uint8_t, T>(p, [](const T*) -> uint8_t { return 1; },
                          [](uint8_t acc, T x, int64_t) -> uint8_t { return acc & (x != 0); }, truth);
      break;
    case ReduceOp::kSum:
      fold<T, double, T>(p, [](const T*) { return 0.0; }, [](double acc, T x, int64_t) { return acc + x; }, product);
      break;
    case ReduceOp::kMean: {
      const double length = static_cast<double>(p.length);
      fold<T, double, T>(p, [](const T*) { return 0.0; }, [](double acc, T x, int64_t) { return acc + x; },
                         [&](double acc) { return product(acc / length); });
      break;
    }
  }
  return nullptr;
}

float max_run(const float* x, int64_t size) {
  float best = x[0];
  int64_t i = 0;
  if (size >= kWidth) {
    Vec top = load(x);
    for (i = kWidth; i + kWidth <= size; i += kWidth) {
      const Vec v = load(x + i);
      top = v > top ? v : (v == v ? top : v);
    }
    best = top[0];
    for (int j = 1; j < kWidth; ++j) best = top[j] > best || top[j] != top[j] ? top[j] : best;
  }
  for (; i < size; ++i) best = x[i] > best || x[i] != x[i] ? x[i] : best;
  return best;
}

// Max over contiguous rows; the other reductions of floats are rare and take fold().
void max_rows(const ReduceParams& p) {
  const float* x = static_cast<const float*>(p.x);
  float* out = static_cast<float*>(p.out);
  for_each_block(p.outer, units_per_task(p.length), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) out[o] = max_run(x + o * p.length, p.length);
  });
}

// Running sums of `count` neighbouring columns of one of the outer slices. Float sums run in double; int32 sums wrap.
template <int kColumns, class T, class Acc>
MAMBATUNE_INLINE void cumulate_columns(const CumsumParams& p, const T* x, T* y, int64_t count) {
  Acc sums[kColumns] = {};
  const int64_t stride = p.reverse ? -p.inner : p.inner;
  int64_t at = p.reverse ? (p.length - 1) * p.inner : 0;
  for (int64_t row = 0; row < p.length; ++row, at += stride) {
    for (int64_t c = 0; c < count; ++c) {
      const Acc before = sums[c];
      sums[c] = before + static_cast<Acc>(x[at + c]);
      y[at + c] = static_cast<T>(p.exclusive ? before : sums[c]);
    }
  }
}

template <class T, class Acc>
void cumulate(const CumsumParams& p) {
  constexpr int kTile = 64;
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.out);
  const int64_t tiles = (p.inner + kTile - 1) / kTile;
  for_each_block(p.outer * tiles, units_per_task(p.length * smaller(p.inner, kTile)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i % tiles * kTile, first = i / tiles * p.length * p.inner + column;
      if (p.inner == 1) {
        cumulate_columns<1, T, Acc>(p, x + first, y + first, 1);
      } else {
        cumulate_columns<kTile, T, Acc>(p, x + first, y + first, smaller(p.inner - column, kTile));
      }
    }
  });
}

// Index of the first of the largest elements; -1 where one is NaN or none is above -infinity.
int64_t first_largest(const float* x, int64_t size) {
  int64_t best = -1;
  float largest = -INFINITY;
  for (int64_t i = 0; i < size; ++i) {
    if (x[i] != x[i]) return -1;
    if (x[i] > largest) largest = x[best = i];
  }
  return best;
}

void softmax_row(const float* x, float* y, int64_t cols) {
  const float top = max_run(x, cols);
  Vec sum = {};
  for (int64_t i = 0; i < cols; i += kWidth) {
    const int lanes = static_cast<int>(smaller(cols - i, kWidth));
    const Vec value = exp(load_lanes(x + i, lanes) - top);
    store_lanes(y + i, value, lanes);
    sum += lanes == kWidth ? value : load_partial(y + i, lanes);  // the lanes beyond the row count for nothing
  }
  const float scale = 1.0f / sum_lanes(sum);
  for (int64_t i = 0; i < cols; ++i) y[i] *= scale;
}

}  // namespace

Error reduce(const ReduceParams& p) {
  if (p.outer == 0 || p.inner == 0) return nullptr;
  if (p.dtype == DType::kInt32) return reduce_values<int32_t>(p);
  if (p.dtype == DType::kBool) return reduce_values<uint8_t>(p);
  if (p.op == ReduceOp::kSum) return sum_float(p, 1.0);
  if (p.op == ReduceOp::kMean) return sum_float(p, 1.0 / static_cast<double>(p.length));
  if (p.op == ReduceOp::kMax && p.inner == 1 && p.length > 0) {
    max_rows(p);
    return nullptr;
  }
  return reduce_values<float>(p);
}

Error cumsum(const CumsumParams& p) {
  switch (p.dtype) {
    case DType::kFloat32: cumulate<float, double>(p); break;
    case DType::kInt32: cumulate<int32_t, uint32_t>(p); break;
    case DType::kBool: cumulate<uint8_t, uint32_t>(p); break;
  }
  return nullptr;
}

Error softmax(const SoftmaxParams& p) {
  if (p.cols == 0) return nullptr;
  for_each_block(p.rows, units_per_task(p.cols), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) softmax_row(p.x + row * p.cols, p.y + row * p.cols, p.cols);
  });
  return nullptr;
}

Error choose_likeliest(const ChooseLikeliestParams& p) {
  for_each_block(p.rows, units_per_task(p.cols), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t choice = first_largest(p.logits + row * p.cols, p.cols);
      p.tokens[row] = static_cast<int32_t>(choice < 0 ? 0 : choice);
      const uint32_t count = static_cast<uint32_t>(p.counts[row]);
      p.choices[count % p.slots * p.rows + row] = static_cast<int32_t>(choice);
      p.counts[row] = static_cast<int32_t>(count + 1);
    }
  });
  return nullptr;
}

}  // namespace MAMBATUNE_ISA
}  // namespace mambatune
