// SPDX-License-Identifier: Apache-2.0
// Opens libcublas at run time, with the few prototypes declared here, and gives it a workspace of its own, so that products
// can be recorded into graphs and always run the same way.
#include "cublas.h"

#include <dlfcn.h>
#include <glob.h>
#include <library_types.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>

#include "allocator.cuh"
#include "beside.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper
constexpr size_t kSideWorkspaceBytes = size_t{8} << 20;  // of parts beside others, whose products are small
constexpr const char* kVariable = "MAMBATUNE_CUBLAS";
constexpr const char* kVersions[] = {"13", "12", "11"};

// Values of cuBLAS's enumerations.
constexpr int kCompute32F = 68, kComputeTf32 = 77;
constexpr int kNotTransposed = 0, kTransposed = 1;
constexpr int kDefaultAlgorithm = -1;

using Handle = void*;
struct Functions {
  int (*create)(Handle*);
  int (*set_stream)(Handle, cudaStream_t);
  int (*set_workspace)(Handle, void*, size_t);
  int (*get_version)(Handle, int*);
  const char* (*status_string)(int);
  int (*gemm_strided_batched)(Handle, int trans_a, int trans_b, int m, int n, int k, const void* alpha, const void* a,
                              cudaDataType a_type, int lda, long long a_stride, const void* b, cudaDataType b_type, int ldb,
                              long long b_stride, const void* beta, void* c, cudaDataType c_type, int ldc, long long c_stride,
                              int batch, int compute_type, int algorithm);
};

Functions functions;
Handle handles[kStreams] = {};  // of each stream, since a workspace serves one product at a time
int version = 0;
MatmulPrecision precision = MatmulPrecision::kHighest;
std::string& path = *new std::string();
std::vector<CublasPlace>& places = *new std::vector<CublasPlace>();

bool exists(const std::string& name) {
  struct stat status;
  return stat(name.c_str(), &status) == 0;
}

bool is_folder(const std::string& name) {
  struct stat status;
  return stat(name.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

template <class Function>
bool resolve(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Opens one file or soname and notes what came of it.
bool open_library(const std::string& name) {
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    places.push_back({name, reason ? reason : "could not be opened"});
    return false;
  }
  const bool complete = resolve(library, "cublasCreate_v2", &functions.create) &&
                        resolve(library, "cublasSetStream_v2", &functions.set_stream) &&
                        resolve(library, "cublasSetWorkspace_v2", &functions.set_workspace) &&
                        resolve(library, "cublasGetVersion_v2", &functions.get_version) &&
                        resolve(library, "cublasGetStatusString", &functions.status_string) &&
                        resolve(library, "cublasGemmStridedBatchedEx", &functions.gemm_strided_batched);
  if (!complete) {
    places.push_back({name, "too old: it lacks a function (11.5 or newer is needed)"});
    dlclose(library);
    return false;
  }
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(functions.create), &info);
  path = info.dli_fname ? info.dli_fname : name;
  places.push_back({name, "opened"});
  return true;
}

// libcublas needs libcublasLt from beside it; once that is open, the loader takes it from memory.
bool open_in_folder(const std::string& folder) {
  bool found = false;
  for (const char* number : kVersions) {
    const std::string file = folder + "/libcublas.so." + number;
    if (!exists(file)) continue;
    found = true;
    dlopen((folder + "/libcublasLt.so." + number).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (open_library(file)) return true;
  }
  if (!found) places.push_back({folder, is_folder(folder) ? "has no libcublas.so.13, .12 or .11" : "no such folder"});
  return false;
}

// The folders a pattern stands for, newest name first.
bool open_in_pattern(const std::string& pattern) {
  glob_t matches{};
  if (glob(pattern.c_str(), 0, nullptr, &matches) != 0) {
    places.push_back({pattern, "no such folder"});
    return false;
  }
  bool opened = false;
  for (size_t i = matches.gl_pathc; i > 0 && !opened; --i) opened = open_in_folder(matches.gl_pathv[i - 1]);
  globfree(&matches);
  return opened;
}

std::vector<std::string> patterns() {
#if defined(__aarch64__)
  const std::string target = "/targets/sbsa-linux/lib";
#else
  const std::string target = "/targets/x86_64-linux/lib";
#endif
  const std::string packages = "/lib/python3*/site-packages/nvidia/*/lib";
  std::vector<std::string> all;
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* home = std::getenv(name);
    if (!home || !*home) continue;
    all.push_back(std::string(home) + "/lib64");
    all.push_back(home + target);
  }
  all.push_back("/usr/local/cuda*/lib64");
  all.push_back("/usr/local/cuda*" + target);
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const char* home = std::getenv(name);
    if (!home || !*home) continue;
    all.push_back(home + packages);
    all.push_back(std::string(home) + "/lib");
  }
  all.push_back("/opt/*" + packages);
  all.push_back("/usr/local/lib/python3*/*-packages/nvidia/*/lib");
  all.push_back("/usr/lib/python3*/*-packages/nvidia/*/lib");
  if (const char* home = std::getenv("HOME")) all.push_back(home + ("/.local" + packages));
  return all;
}

bool find_library() {
  const char* wanted = std::getenv(kVariable);
  if (wanted && *wanted) return is_folder(wanted) ? open_in_folder(wanted) : open_library(wanted);
  for (const char* number : kVersions) {
    if (open_library(std::string("libcublas.so.") + number)) return true;
  }
  for (const std::string& pattern : patterns()) {
    if (open_in_pattern(pattern)) return true;
  }
  return false;
}

Error check(int status, const char* op) {
  return status == 0 ? nullptr : format_error("%s: cuBLAS error %d: %s", op, status, functions.status_string(status));
}

}  // namespace

Error open_cublas() {
  places.clear();
  if (!find_library()) {
    std::string list;
    for (const CublasPlace& place : places) list += "\n  " + place.place + ": " + place.result;
    const char* advice = std::getenv(kVariable) ? "correct or unset MAMBATUNE_CUBLAS"
                                                : "install the CUDA toolkit or `pip install nvidia-cublas`, or name the file or "
                                                  "its folder in MAMBATUNE_CUBLAS";
    return format_error("libcublas was not found; %s. Looked at:%.3500s", advice, list.c_str());
  }
  void* memory = nullptr;
  MAMBATUNE_TRY(allocate_hidden(kWorkspaceBytes + (kStreams - 1) * kSideWorkspaceBytes, false, &memory));
  char* workspace = static_cast<char*>(memory);
  for (int i = 0; i < kStreams; ++i) {
    const size_t bytes = i == 0 ? kWorkspaceBytes : kSideWorkspaceBytes;
    MAMBATUNE_TRY(check(functions.create(&handles[i]), "cublasCreate"));
    MAMBATUNE_TRY(check(functions.set_stream(handles[i], stream_at(i)), "cublasSetStream"));
    MAMBATUNE_TRY(check(functions.set_workspace(handles[i], workspace, bytes), "cublasSetWorkspace"));
    workspace += bytes;
  }
  return check(functions.get_version(handles[0], &version), "cublasGetVersion");
}

const std::vector<CublasPlace>& cublas_places() { return places; }
const std::string& cublas_path() { return path; }
int cublas_version() { return version; }

MatmulPrecision matmul_precision() { return precision; }

Error set_matmul_precision(int32_t value) {
  if (value < 0 || value > static_cast<int32_t>(MatmulPrecision::kMedium)) return "set_matmul_precision: expected 0, 1 or 2";
  precision = static_cast<MatmulPrecision>(value);
  return nullptr;
}

namespace {

#if CUDART_VERSION >= 13000
// What a recording would put after a stream's last work.
struct RecordedPlace {
  cudaGraph_t graph = nullptr;
  std::vector<cudaGraphNode_t> nodes;
};

RecordedPlace recorded_place(cudaStream_t at) {
  RecordedPlace place;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaGraphNode_t* nodes = nullptr;
  size_t count = 0;
  if (cudaStreamGetCaptureInfo(at, &status, nullptr, &place.graph, &nodes, nullptr, &count) == cudaSuccess && count > 0) {
    place.nodes.assign(nodes, nodes + count);
  }
  return place;
}

std::vector<cudaGraphNode_t> dependencies(cudaGraphNode_t node, std::vector<cudaGraphEdgeData>* edges) {
  size_t count = 0;
  cudaGraphNodeGetDependencies(node, nullptr, nullptr, &count);
  std::vector<cudaGraphNode_t> nodes(count);
  edges->resize(count);
  if (count > 0) cudaGraphNodeGetDependencies(node, nodes.data(), edges->data(), &count);
  return nodes;
}

RecordedPlace last_product[kStreams];  // of each workspace

// In a recording a product's first node may be the clearing of counters in its workspace. That needs to wait for the workspace's last
// product alone, so that it passes beside what computes the operands instead of after it.
void clear_counters_early(int index, const RecordedPlace& before, const RecordedPlace& after) {
  const RecordedPlace last = last_product[index];
  last_product[index] = after;
  if (after.nodes.size() != 1 || last.graph != after.graph || last.nodes.size() != 1) return;
  cudaGraphNode_t node = after.nodes[0], next = nullptr;
  std::vector<cudaGraphEdgeData> edges;
  std::vector<cudaGraphNode_t> ahead = dependencies(node, &edges);
  while (ahead.size() == 1 && ahead != before.nodes) {
    next = node, node = ahead[0];
    ahead = dependencies(node, &edges);
  }
  cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
  cudaGraphNodeGetType(node, &type);
  const bool waits_for_last = std::find(before.nodes.begin(), before.nodes.end(), last.nodes[0]) != before.nodes.end();
  if (!next || type != cudaGraphNodeTypeMemset || ahead != before.nodes || waits_for_last) return;
  const std::vector<cudaGraphNode_t> clears(ahead.size(), node), products(ahead.size(), next);
  if (cudaGraphAddDependencies(after.graph, ahead.data(), products.data(), nullptr, ahead.size()) != cudaSuccess) return;
  cudaGraphAddDependencies(after.graph, &last.nodes[0], &node, nullptr, 1);
  cudaGraphRemoveDependencies(after.graph, ahead.data(), clears.data(), edges.data(), ahead.size());
}
#endif

}  // namespace

Error gemm(const Gemm& g, const char* op) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return nullptr;
  const bool fits = g.m <= INT32_MAX && g.n <= INT32_MAX && g.k <= INT32_MAX && g.batch <= INT32_MAX && g.a.row_stride <= INT32_MAX &&
                    g.b.row_stride <= INT32_MAX && g.c_row_stride <= INT32_MAX;
  if (!fits) return format_error("%s: a matrix with a side over 2^31 - 1", op);
  if (g.k == 0) {
    if (g.beta == 1.0f) return nullptr;
    for (int64_t b = 0; b < g.batch; ++b) {
      MAMBATUNE_TRY(describe_error(cudaMemset2DAsync(g.c + b * g.c_batch_stride, static_cast<size_t>(g.c_row_stride) * sizeof(float), 0,
                                                     static_cast<size_t>(g.n) * sizeof(float), static_cast<size_t>(g.m), stream()), op));
    }
    return nullptr;
  }
  // Row-major matrices are the transposes of column-major ones: c^T = b^T a^T.
  const auto operation = [](const GemmOperand& operand) { return operand.transposed ? kTransposed : kNotTransposed; };
  const cudaDataType inputs = g.bfloat16 ? CUDA_R_16BF : CUDA_R_32F;
  const int compute = g.bfloat16 || precision == MatmulPrecision::kHighest ? kCompute32F : kComputeTf32;
  const int index = stream_index();
#if CUDART_VERSION >= 13000
  const RecordedPlace before = is_recording() ? recorded_place(stream_at(index)) : RecordedPlace();
#endif
  MAMBATUNE_TRY(check(functions.gemm_strided_batched(
                          handles[index], operation(g.b), operation(g.a), static_cast<int>(g.n), static_cast<int>(g.m), static_cast<int>(g.k),
                          &g.alpha, g.b.data, inputs, static_cast<int>(g.b.row_stride), g.b.batch_stride, g.a.data, inputs,
                          static_cast<int>(g.a.row_stride), g.a.batch_stride, &g.beta, g.c, CUDA_R_32F, static_cast<int>(g.c_row_stride),
                          g.c_batch_stride, static_cast<int>(g.batch), compute, kDefaultAlgorithm),
                      op));
  note_kernel();
#if CUDART_VERSION >= 13000
  if (is_recording()) clear_counters_early(index, before, recorded_place(stream_at(index)));
#endif
  return nullptr;
}

}  // namespace cuda
}  // namespace mambatune
