// SPDX-License-Identifier: Apache-2.0
#include "arguments.h"

#include <cmath>
#include <cstdio>

namespace mambatune {

Arguments::Arguments(napi_env env, napi_callback_info info) : env_(env) {
  napi_get_cb_info(env, info, &count_, values_, nullptr, nullptr);
}

void Arguments::fail(const char* message) {
  if (failed_) return;
  failed_ = true;
  char text[512];
  std::snprintf(text, sizeof text, "%s (argument %zu)", message, next_);
  napi_throw_error(env_, nullptr, text);
}

napi_value Arguments::next() {
  if (next_ < count_ && next_ < kMost) return values_[next_++];
  fail("native call with too few arguments");
  return nullptr;
}

const DeviceApi* Arguments::device() {
  device_ = device_at(uint32());
  if (!failed_ && !device_) fail("native call for a device that is not open");
  return device_;
}

double Arguments::number() {
  napi_value value = next();
  if (failed_) return 0;
  double result = 0;
  if (napi_get_value_double(env_, value, &result) == napi_ok) return result;
  bool flag = false;
  if (napi_get_value_bool(env_, value, &flag) == napi_ok) return flag;
  fail("native call with an argument that is not a number");
  return 0;
}

int64_t Arguments::size() {
  const double value = number();
  if (value >= 0 && value <= 9007199254740991.0 && value == std::floor(value)) return static_cast<int64_t>(value);
  fail("native call with a size that is not a whole number");
  return 0;
}

uint32_t Arguments::uint32() {
  const int64_t value = size();
  if (value <= UINT32_MAX) return static_cast<uint32_t>(value);
  fail("native call with a number beyond 32 bits");
  return 0;
}

Buffer* Arguments::buffer(uint32_t* handle) {
  const uint32_t value = uint32();
  if (failed_) return nullptr;
  if (handle) *handle = value;
  Buffer* found = buffer_at(value);
  if (!found) fail("native call with a handle that is not alive");
  return found;
}

void* Arguments::memory(int64_t count, size_t element, bool optional, bool written) {
  const uint32_t handle = uint32();
  if (failed_ || (handle == 0 && optional)) return nullptr;
  Buffer* found = buffer_at(handle);
  if (!found) {
    fail("native call with a handle that is not alive");
    return nullptr;
  }
  if (found->device != device_) fail("native call with a buffer of another device");
  if (found->bytes / element < static_cast<uint64_t>(count)) fail("native call with a buffer that is too small");
  if (written) drop_weight_cache(*found);
  return failed_ ? nullptr : found->memory;
}

float* Arguments::rows_of(int64_t rows, int64_t cols, int64_t* row_stride, bool optional, bool written) {
  const size_t position = next_;
  next_ += 1;
  const int64_t offset = size();
  const int64_t stride = size();
  const size_t end = next_;
  if (failed_) return nullptr;
  *row_stride = stride ? stride : cols;
  if (*row_stride < cols) fail("native call with a row stride below the row's length");
  next_ = position;
  auto* base = static_cast<float*>(memory(rows > 0 ? sum_of(offset, sum_of(product_of({rows - 1, *row_stride}), cols)) : 0, sizeof(float), optional, written));
  next_ = end;
  return base ? base + offset : nullptr;
}

Weight Arguments::weight(int64_t rows, int64_t cols) {
  const size_t position = next_;
  const float* data = input<float>({rows, cols});
  const size_t end = next_;
  next_ = position;
  Buffer* owner = failed_ ? nullptr : buffer();
  next_ = end;
  const double kind = number();
  return Weight{data, rows, cols, owner && kind >= 1 ? &owner->cache : nullptr, kind == 2};
}

void* Arguments::typed_array(napi_typedarray_type wanted, const char* name, int64_t* length) {
  napi_value value = next();
  if (failed_) return nullptr;
  napi_typedarray_type type;
  size_t count = 0;
  void* data = nullptr;
  bool is_typed_array = false;
  napi_is_typedarray(env_, value, &is_typed_array);
  if (!is_typed_array || napi_get_typedarray_info(env_, value, &type, &count, &data, nullptr, nullptr) != napi_ok || type != wanted) {
    fail(name);
    return nullptr;
  }
  *length = static_cast<int64_t>(count);
  return data;
}

const uint32_t* Arguments::uint32_array(int64_t* length) {
  return static_cast<const uint32_t*>(typed_array(napi_uint32_array, "native call: expected a Uint32Array", length));
}

const int32_t* Arguments::int32_array(int64_t* length) {
  return static_cast<const int32_t*>(typed_array(napi_int32_array, "native call: expected an Int32Array", length));
}

const float* Arguments::float32_array(int64_t length) {
  int64_t found = 0;
  auto* data = static_cast<const float*>(typed_array(napi_float32_array, "native call: expected a Float32Array", &found));
  if (!failed_ && found < length) fail("native call with a Float32Array that is too short");
  return data;
}

void* Arguments::bytes(size_t* length) {
  napi_value value = next();
  if (failed_) return nullptr;
  napi_typedarray_type type;
  size_t count = 0;
  void* data = nullptr;
  bool is_typed_array = false;
  napi_is_typedarray(env_, value, &is_typed_array);
  if (!is_typed_array || napi_get_typedarray_info(env_, value, &type, &count, &data, nullptr, nullptr) != napi_ok) {
    fail("native call: expected a typed array");
    return nullptr;
  }
  const bool one_byte = type == napi_int8_array || type == napi_uint8_array || type == napi_uint8_clamped_array;
  const bool two_bytes = type == napi_int16_array || type == napi_uint16_array;
  const bool eight_bytes = type == napi_float64_array || type == napi_bigint64_array || type == napi_biguint64_array;
  *length = count * (one_byte ? 1 : two_bytes ? 2 : eight_bytes ? 8 : 4);
  return data;
}

void Arguments::string(char* text, size_t capacity) {
  napi_value value = next();
  size_t written = 0;
  if (!failed_ && napi_get_value_string_utf8(env_, value, text, capacity, &written) != napi_ok) fail("native call: expected a string");
}

napi_value Arguments::finish(Error error) {
  if (!failed_ && error) {
    failed_ = true;
    napi_throw_error(env_, "ERR_MAMBATUNE_NATIVE", error);
  }
  return nullptr;
}

}  // namespace mambatune
