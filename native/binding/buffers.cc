// SPDX-License-Identifier: Apache-2.0
#include "buffers.h"

#include <dlfcn.h>

#include <string>
#include <vector>

namespace mambatune {
namespace {

std::vector<Buffer> slots(1);
std::vector<uint32_t> free_slots;
const DeviceApi* cuda = nullptr;

}  // namespace

const DeviceApi* device_at(uint32_t index) { return index == 0 ? cpu_device() : index == 1 ? cuda : nullptr; }

const char* open_cuda(const char* path) {
  static std::string message;
  if (cuda) return nullptr;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return (message = dlerror()).c_str();
  auto entry = reinterpret_cast<decltype(&mambatune_cuda_device)>(dlsym(library, "mambatune_cuda_device"));
  if (!entry) return (message = std::string(path) + " has no symbol mambatune_cuda_device").c_str();
  const char* error = nullptr;
  cuda = entry(kDeviceAbi, &error);
  return cuda ? nullptr : error;
}

uint32_t add_buffer(const Buffer& buffer) {
  if (free_slots.empty()) {
    slots.push_back(buffer);
    return static_cast<uint32_t>(slots.size() - 1);
  }
  const uint32_t handle = free_slots.back();
  free_slots.pop_back();
  slots[handle] = buffer;
  return handle;
}

Buffer* buffer_at(uint32_t handle) {
  return handle > 0 && handle < slots.size() && slots[handle].device ? &slots[handle] : nullptr;
}

void remove_buffer(uint32_t handle) {
  Buffer& buffer = slots[handle];
  drop_weight_cache(buffer);
  buffer.device->release(buffer.memory, buffer.bytes);
  buffer = Buffer{};
  free_slots.push_back(handle);
}

void drop_weight_cache(Buffer& buffer) {
  if (!buffer.cache) return;
  buffer.device->free_weight_cache(buffer.cache);
  buffer.cache = nullptr;
}

}  // namespace mambatune
