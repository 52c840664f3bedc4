// SPDX-License-Identifier: Apache-2.0
// The GPU as a device: opens the first card, checks that it can run the kernels, and puts them and the memory functions into
// one table. CUDA_VISIBLE_DEVICES chooses the card.
#include <string>

#include "allocator.cuh"
#include "beside.cuh"
#include "cublas.h"
#include "ops.cuh"
#include "weight_cache.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr int kLeastMajor = 8;  // compute capability

cudaDeviceProp card;
int driver_version = 0, runtime_version = 0;

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : static_cast<unsigned char>(c) < 0x7f ? c : '?';
  }
  return quoted + '"';
}

const char* describe() {
  static std::string& text = *new std::string();
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  const char* precisions[] = {"highest", "high", "medium"};
  const int cublas = cublas_version();
  const std::string cublas_text =
      std::to_string(cublas / 10000) + "." + std::to_string(cublas % 10000 / 100) + "." + std::to_string(cublas % 100);
  text = "{\"device\": " + json_string(card.name);
  text += ", \"computeCapability\": \"" + std::to_string(card.major) + "." + std::to_string(card.minor) + "\"";
  text += ", \"multiprocessors\": " + std::to_string(card.multiProcessorCount);
  text += ", \"memoryBytes\": " + std::to_string(total_bytes) + ", \"freeBytes\": " + std::to_string(free_bytes);
  text += ", \"driverCuda\": " + json_string(version_text(driver_version));
  text += ", \"runtimeCuda\": " + json_string(version_text(runtime_version));
  text += ", \"matmulPrecision\": " + json_string(precisions[static_cast<int>(matmul_precision())]);
  text += ", \"cublas\": " + json_string(cublas_path() + " (" + cublas_text + ")") + ", \"cublasLookedAt\": [";
  std::string separator;
  for (const CublasPlace& place : cublas_places()) {
    text += separator + json_string(place.place + ": " + place.result);
    separator = ", ";
  }
  text += "], \"warnings\": []}";
  return text.c_str();
}

Error check_driver() {
  runtime_version = CUDART_VERSION;
  cudaDriverGetVersion(&driver_version);
  if (driver_version == 0) return "no NVIDIA driver is installed (libcuda.so.1 was not found)";
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    return format_error("the NVIDIA driver is too old: it supports CUDA up to %s, and the plugin was built with %s. Install a newer "
                        "driver, or build the plugin with an older toolkit (NVCC=... npm run build:cuda)",
                        version_text(driver_version).c_str(), version_text(runtime_version).c_str());
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    return visible ? format_error("no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES is '%.100s'", visible)
                   : "the NVIDIA driver found no GPU (nvidia-smi shows what it sees)";
  }
  if (status != cudaSuccess) return describe_error(status, "looking for GPUs");
  return nullptr;
}

Error open_card() {
  MAMBATUNE_TRY(check_driver());
  MAMBATUNE_TRY(describe_error(cudaGetDeviceProperties(&card, 0), "reading the GPU's properties"));
  if (card.major < kLeastMajor) {
    return format_error("the GPU %s has compute capability %d.%d; %d.0 (Ampere) or newer is needed", card.name, card.major, card.minor,
                        kLeastMajor);
  }
  MAMBATUNE_TRY(describe_error(cudaSetDevice(0), "taking the GPU"));
  MAMBATUNE_TRY(open_streams());
  return open_cublas();
}

DeviceApi make_device() {
  DeviceApi api{};
  api.abi = kDeviceAbi;
  api.name = "cuda";
  api.describe = describe;
  api.allocate = allocate;
  api.release = release;
  api.upload = upload;
  api.download = download;
  api.copy = copy;
  api.synchronize = synchronize;
  api.memory_stats = memory_stats;
  api.reset_peak = reset_peak;
  api.trim = trim;
  api.free_weight_cache = free_weight_cache;
  api.set_matmul_precision = set_matmul_precision;
  api.graph_begin = graph_begin;
  api.graph_end = graph_end;
  api.graph_launch = graph_launch;
  api.graph_release = graph_release;
  api.begin_beside = begin_beside;
  api.begin_side = begin_side;
  api.end_beside = end_beside;
  api.causal_conv1d_bwd_takes_x_proj = causal_conv1d_bwd_takes_x_proj;
  api.selective_scan_checkpoint_size = selective_scan_checkpoint_size;
  api.lora_linear_keeps_xa = lora_linear_keeps_xa;
#define MAMBATUNE_ASSIGN(op, Params) api.op = op;
  MAMBATUNE_CUDA_OPS(MAMBATUNE_ASSIGN)
#undef MAMBATUNE_ASSIGN
  return api;
}

}  // namespace

bool starts_early() { return card.major >= 9; }

}  // namespace cuda
}  // namespace mambatune

extern "C" __attribute__((visibility("default"))) const mambatune::DeviceApi* mambatune_cuda_device(uint32_t abi, const char** error) {
  using namespace mambatune;
  if (abi != kDeviceAbi) {
    *error = cuda::format_error("the CUDA plugin has interface %u, the addon %u: build both anew (npm run build:cuda)", kDeviceAbi, abi);
    return nullptr;
  }
  *error = cuda::open_card();
  if (*error) return nullptr;
  static const DeviceApi api = cuda::make_device();
  return &api;
}
