// SPDX-License-Identifier: Apache-2.0
// Device buffers behind uint32 handles: 0 is null, a handle is valid until released.
#pragma once
#include <cstdint>

#include "device.h"

namespace mambatune {

struct Buffer {
  const DeviceApi* device = nullptr;  // null: the slot is free
  void* memory = nullptr;
  uint64_t bytes = 0;
  WeightCache* cache = nullptr;
};

constexpr int kDeviceCount = 2;  // 0: cpu, 1: cuda
const DeviceApi* device_at(uint32_t index);  // null when that device has not been opened
// Opens the CUDA plugin at `path`; null on success.
const char* open_cuda(const char* path);

uint32_t add_buffer(const Buffer& buffer);
Buffer* buffer_at(uint32_t handle);  // null when the handle is not valid
void remove_buffer(uint32_t handle);
void drop_weight_cache(Buffer& buffer);

}  // namespace mambatune
