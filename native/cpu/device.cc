// SPDX-License-Identifier: Apache-2.0
// The CPU as a device: picks the instruction set and puts its kernels and the memory functions into one table.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "isa_kernels.h"
#include "memory.h"
#include "sample_token.h"
#include "thread_pool.h"
#include "weight_copy.h"

namespace mambatune {
namespace {

struct Isa {
  const char* name;
  bool supported;
  const IsaKernels* kernels;
};

struct Choice {
  Isa isa;
  std::string warning;
};

Choice choose_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  [[maybe_unused]] const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  [[maybe_unused]] const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  // An old compiler may lack an instruction set: build.mjs defines those whose kernels are linked in.
  const Isa levels[] = {
#if defined(MAMBATUNE_HAS_AVX512)
      {"avx512", avx512, &avx512::kernels},
#endif
#if defined(MAMBATUNE_HAS_AVX2)
      {"avx2", avx2, &avx2::kernels},
#endif
      {"portable", true, &portable::kernels},
  };
  Choice choice{{}, ""};
  for (const Isa& level : levels) {
    if (!level.supported) continue;
    choice.isa = level;
    break;
  }
  const char* wanted = std::getenv(kIsaVariable);
  if (!wanted || !*wanted) return choice;
  for (const Isa& level : levels) {
    if (std::strcmp(level.name, wanted) == 0 && level.supported) return {level, ""};
  }
  const bool known = std::strcmp(wanted, "avx512") == 0 || std::strcmp(wanted, "avx2") == 0;
  choice.warning = std::string(kIsaVariable) + " is '" + std::string(wanted).substr(0, 40) + "', " +
                   (known ? "which this processor does not support or this build lacks" : "not one of avx512, avx2, portable") + "; using " +
                   choice.isa.name;
  return choice;
}

const Choice& choice() {
  static const Choice value = choose_isa();
  return value;
}

std::string json_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      quoted += escape;
    } else {
      quoted += static_cast<unsigned char>(c) < 0x7f ? c : '?';
    }
  }
  return quoted + '"';
}

const char* describe() {
  static std::string text;
  text = "{\"isa\": " + json_string(choice().isa.name) + ", \"threads\": " + std::to_string(thread_count()) + ", \"warnings\": [";
  std::string separator;
  for (const std::string& warning : {choice().warning, std::string(thread_count_warning() ? thread_count_warning() : "")}) {
    if (warning.empty()) continue;
    text += separator + json_string(warning);
    separator = ", ";
  }
  text += "]}";
  return text.c_str();
}

Error copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
  return nullptr;
}

Error synchronize() { return nullptr; }

DeviceApi make_device() {
  const IsaKernels& kernels = *choice().isa.kernels;
  DeviceApi api{};
  api.abi = kDeviceAbi;
  api.name = "cpu";
  api.describe = describe;
  api.allocate = allocate;
  api.release = release;
  api.upload = copy;
  api.download = copy;
  api.copy = copy;
  api.synchronize = synchronize;
  api.memory_stats = memory_stats;
  api.reset_peak = reset_peak;
  api.trim = trim;
  api.free_weight_cache = free_weight_cache;
  api.selective_scan_checkpoint_size = kernels.selective_scan_checkpoint_size;
#define MAMBATUNE_ASSIGN(op, Params) api.op = kernels.op;
  MAMBATUNE_KERNELS(MAMBATUNE_ASSIGN)
#undef MAMBATUNE_ASSIGN
  api.sample_token = sample_token;
  return api;
}

}  // namespace

const DeviceApi* cpu_device() {
  static const DeviceApi api = make_device();
  return &api;
}

}  // namespace mambatune
