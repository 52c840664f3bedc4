// SPDX-License-Identifier: Apache-2.0
// Reads a JavaScript call's positional arguments into op parameters, checking every handle and size, so that no call from
// JavaScript can make a kernel read or write outside a buffer. The first problem becomes a JavaScript Error.
#pragma once
#include <node_api.h>

#include <cstdint>
#include <initializer_list>

#include "buffers.h"

namespace mambatune {

// Product and sum of sizes, the largest number when they overflow: no buffer is that large.
inline int64_t product_of(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (size == 0) return 0;
    if (__builtin_mul_overflow(result, size, &result)) result = INT64_MAX;
  }
  return result;
}
inline int64_t sum_of(int64_t a, int64_t b) {
  int64_t result;
  return __builtin_add_overflow(a, b, &result) ? INT64_MAX : result;
}

class Arguments {
 public:
  Arguments(napi_env env, napi_callback_info info);

  // The device a call runs on: its first argument.
  const DeviceApi* device();

  double number();
  int64_t size();  // a whole number >= 0
  uint32_t uint32();  // a whole number in [0, 2^32)
  float float32() { return static_cast<float>(number()); }
  bool boolean() { return number() != 0; }
  uint64_t uint64() { return static_cast<uint64_t>(size()); }

  // A handle to at least as many elements as the product of `dims`, or null for handle 0 (`optional` says whether that is allowed).
  template <class T>
  const T* input(std::initializer_list<int64_t> dims, bool optional = false) {
    return static_cast<const T*>(memory(product_of(dims), sizeof(T), optional, false));
  }
  template <class T>
  T* output(std::initializer_list<int64_t> dims, bool optional = false) {
    return static_cast<T*>(memory(product_of(dims), sizeof(T), optional, true));
  }
  // handle, offset, row_stride: float32 rows of `cols` elements.
  const float* input_rows(int64_t rows, int64_t cols, int64_t* row_stride, bool optional = false) {
    return rows_of(rows, cols, row_stride, optional, false);
  }
  float* output_rows(int64_t rows, int64_t cols, int64_t* row_stride, bool optional = false) {
    return rows_of(rows, cols, row_stride, optional, true);
  }
  // handle, kind: 0 it may change between calls, 1 frozen, 2 frozen and of bfloat16 values
  Weight weight(int64_t rows, int64_t cols);

  // A typed array argument; null and an error when the type differs.
  const uint32_t* uint32_array(int64_t* length);
  const float* float32_array(int64_t length);
  const int32_t* int32_array(int64_t* length);
  // Any typed array, as bytes.
  void* bytes(size_t* length);
  // A string of at most `capacity` - 1 bytes.
  void string(char* text, size_t capacity);
  Buffer* buffer(uint32_t* handle = nullptr);

  void fail(const char* message);
  bool ok() const { return !failed_; }
  // undefined, after turning an op's error into a JavaScript Error.
  napi_value finish(Error error);
  napi_env env() const { return env_; }

 private:
  static constexpr size_t kMost = 64;
  napi_value next();
  void* memory(int64_t count, size_t element, bool optional, bool written);
  float* rows_of(int64_t rows, int64_t cols, int64_t* row_stride, bool optional, bool written);
  void* typed_array(napi_typedarray_type wanted, const char* name, int64_t* length);

  napi_env env_;
  napi_value values_[kMost];
  size_t count_ = kMost;
  size_t next_ = 0;
  const DeviceApi* device_ = nullptr;
  bool failed_ = false;
};

}  // namespace mambatune
