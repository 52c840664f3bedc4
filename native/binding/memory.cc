// SPDX-License-Identifier: Apache-2.0
// Bindings of device memory: allocation, transfer, statistics.
#include <iterator>

#include "arguments.h"
#include "exports.h"

namespace mambatune {
namespace {

napi_value number_value(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

// openCuda(path): the reason it could not be opened, or ''
napi_value open_cuda_binding(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  char path[4096] = "";
  args.string(path, sizeof path);
  if (!args.ok()) return nullptr;
  const char* error = open_cuda(path);
  napi_value result;
  napi_create_string_utf8(env, error ? error : "", NAPI_AUTO_LENGTH, &result);
  return result;
}

// describe(device): JSON text
napi_value describe(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok()) return nullptr;
  napi_value result;
  napi_create_string_utf8(env, device->describe(), NAPI_AUTO_LENGTH, &result);
  return result;
}

// allocate(device, bytes): handle
napi_value allocate(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  Buffer buffer;
  buffer.device = args.device();
  buffer.bytes = static_cast<uint64_t>(args.size());
  if (!args.ok()) return nullptr;
  if (Error error = buffer.device->allocate(buffer.bytes, &buffer.memory)) return args.finish(error);
  return number_value(env, add_buffer(buffer));
}

// release(handle)
napi_value release(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  uint32_t handle = 0;
  if (args.buffer(&handle)) remove_buffer(handle);
  return nullptr;
}

// write(handle, typedArray, byteOffset)
napi_value write(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  Buffer* buffer = args.buffer();
  size_t length = 0;
  const void* data = args.bytes(&length);
  const auto offset = static_cast<uint64_t>(args.size());
  if (!args.ok()) return nullptr;
  if (offset > buffer->bytes || length > buffer->bytes - offset) {
    args.fail("native write past the end of a buffer");
    return nullptr;
  }
  drop_weight_cache(*buffer);
  return args.finish(buffer->device->upload(static_cast<char*>(buffer->memory) + offset, data, length));
}

// read(handle, typedArray, byteOffset)
napi_value read(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  Buffer* buffer = args.buffer();
  size_t length = 0;
  void* data = args.bytes(&length);
  const auto offset = static_cast<uint64_t>(args.size());
  if (!args.ok()) return nullptr;
  if (offset > buffer->bytes || length > buffer->bytes - offset) {
    args.fail("native read past the end of a buffer");
    return nullptr;
  }
  return args.finish(buffer->device->download(data, static_cast<char*>(buffer->memory) + offset, length));
}

// memoryStats(device): { liveBytes, peakBytes, cachedBytes, liveBuffers, weightCacheBytes }
napi_value memory_stats(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok()) return nullptr;
  MemoryStats stats{};
  device->memory_stats(&stats);
  napi_value result;
  napi_create_object(env, &result);
  const struct { const char* name; uint64_t value; } fields[] = {
      {"liveBytes", stats.live_bytes},     {"peakBytes", stats.peak_bytes},
      {"cachedBytes", stats.cached_bytes}, {"liveBuffers", stats.live_buffers},
      {"weightCacheBytes", stats.weight_cache_bytes},
  };
  for (const auto& field : fields) napi_set_named_property(env, result, field.name, number_value(env, static_cast<double>(field.value)));
  return result;
}

// resetPeak(device), trim(device), synchronize(device)
napi_value reset_peak(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  if (const DeviceApi* device = args.device()) device->reset_peak();
  return nullptr;
}

napi_value trim(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  if (const DeviceApi* device = args.device()) device->trim();
  return nullptr;
}

napi_value synchronize(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  return args.ok() ? args.finish(device->synchronize()) : nullptr;
}

// beginBeside(device), beginSide(device), endBeside(device): a device without parts beside each other runs them one after the other
napi_value begin_beside(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok() || !device->begin_beside) return nullptr;
  return args.finish(device->begin_beside());
}

napi_value begin_side(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok() || !device->begin_side) return nullptr;
  return args.finish(device->begin_side());
}

napi_value end_beside(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok() || !device->end_beside) return nullptr;
  return args.finish(device->end_beside());
}

// setMatmulPrecision(device, precision): 0 highest, 1 high, 2 medium
napi_value set_matmul_precision(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  const auto precision = static_cast<int32_t>(args.size());
  if (!args.ok()) return nullptr;
  if (device->set_matmul_precision) return args.finish(device->set_matmul_precision(precision));
  return args.finish(precision == 0 ? nullptr : "this device has IEEE float32 products alone (matmul_precision: highest)");
}

// graphBegin(device)
napi_value graph_begin(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok()) return nullptr;
  return args.finish(device->graph_begin ? device->graph_begin() : "this device has no graphs");
}

// graphEnd(device): the graph
napi_value graph_end(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok()) return nullptr;
  uint32_t graph = 0;
  if (Error error = device->graph_end ? device->graph_end(&graph) : "this device has no graphs") return args.finish(error);
  return number_value(env, graph);
}

// graphDiscard(device): ends a recording that went wrong
napi_value graph_discard(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  if (!args.ok()) return nullptr;
  return args.finish(device->graph_end ? device->graph_end(nullptr) : "this device has no graphs");
}

// graphLaunch(device, graph)
napi_value graph_launch(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  const int64_t graph = args.size();
  if (!args.ok()) return nullptr;
  return args.finish(device->graph_launch ? device->graph_launch(static_cast<uint32_t>(graph)) : "this device has no graphs");
}

// graphRelease(device, graph)
napi_value graph_release(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  const int64_t graph = args.size();
  if (args.ok() && device->graph_release) device->graph_release(static_cast<uint32_t>(graph));
  return nullptr;
}

const Export kExports[] = {
    {"setMatmulPrecision", set_matmul_precision},
    {"graphBegin", graph_begin},
    {"graphEnd", graph_end},
    {"graphDiscard", graph_discard},
    {"graphLaunch", graph_launch},
    {"graphRelease", graph_release},
    {"openCuda", open_cuda_binding}, {"describe", describe},     {"allocate", allocate},
    {"release", release},            {"write", write},           {"read", read},
    {"memoryStats", memory_stats},   {"resetPeak", reset_peak},  {"trim", trim},
    {"synchronize", synchronize},    {"beginBeside", begin_beside}, {"beginSide", begin_side},
    {"endBeside", end_beside},
};

}  // namespace

void export_memory(napi_env env, napi_value exports) { export_functions(env, exports, kExports, std::size(kExports)); }

}  // namespace mambatune
