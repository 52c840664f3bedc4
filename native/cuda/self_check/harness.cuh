// SPDX-License-Identifier: Apache-2.0
// What the self-check stands on: a stream and a scratch allocator in the plugin's place, tensors on both sides, comparison,
// and timing by graph replay with a cold second-level cache.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../common.cuh"

namespace mambatune {
namespace cuda {

inline cudaStream_t the_stream = nullptr;
inline std::multimap<size_t, void*> free_scratch;

cudaStream_t stream() { return the_stream; }

bool starts_early() { return true; }

bool follows_kernel() { return true; }

Error scratch(size_t bytes, void** memory) {
  const auto found = free_scratch.find(bytes);
  if (found == free_scratch.end()) return describe_error(cudaMalloc(memory, bytes), "scratch");
  *memory = found->second;
  free_scratch.erase(found);
  return nullptr;
}

void release_scratch(void* memory, size_t bytes) { free_scratch.emplace(bytes, memory); }

}  // namespace cuda

namespace self_check {

inline void require(Error error) {
  if (!error) return;
  fprintf(stderr, "%s\n", error);
  exit(2);
}
inline void require(cudaError_t status) { require(cuda::describe_error(status, "self-check")); }

inline std::mt19937 generator(1);

// rows x cols floats, `stride` apart, on the host and on the device. Outputs start as NaN, so that an element that nobody
// writes fails its comparison.
class Tensor {
 public:
  Tensor(int64_t rows, int64_t cols, int64_t stride) : rows(rows), cols(cols), stride(stride), host(rows * stride, NAN) {
    require(cudaMalloc(&device, std::max<size_t>(bytes(), 4)));
    upload();
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() { cudaFree(device); }

  size_t bytes() const { return host.size() * sizeof(float); }
  void upload() { require(cudaMemcpyAsync(device, host.data(), bytes(), cudaMemcpyHostToDevice, cuda::stream())); }
  void download() {
    require(cudaMemcpyAsync(host.data(), device, bytes(), cudaMemcpyDeviceToHost, cuda::stream()));
    require(cudaStreamSynchronize(cuda::stream()));
  }

  const int64_t rows, cols, stride;
  std::vector<float> host;
  float* device = nullptr;
};
using TensorPtr = std::unique_ptr<Tensor>;

inline TensorPtr output(int64_t rows, int64_t cols, int64_t padding = 0) { return std::make_unique<Tensor>(rows, cols, cols + padding); }

inline TensorPtr uniform(int64_t rows, int64_t cols, float low, float high, int64_t padding = 0) {
  TensorPtr tensor = output(rows, cols, padding);
  std::uniform_real_distribution<float> draw(low, high);
  for (float& value : tensor->host) value = draw(generator);
  tensor->upload();
  return tensor;
}

// Document numbers of packed rows: about one change in ten steps.
inline std::vector<int32_t> documents(int64_t batch, int64_t seqlen) {
  std::vector<int32_t> ids(batch * seqlen);
  for (int64_t i = 0; i < batch * seqlen; ++i) ids[i] = i % seqlen == 0 ? 0 : ids[i - 1] + (generator() % 10 == 0);
  return ids;
}

class DeviceInts {
 public:
  explicit DeviceInts(const std::vector<int32_t>& values) {
    require(cudaMalloc(&data, std::max<size_t>(values.size() * 4, 4)));
    require(cudaMemcpyAsync(data, values.data(), values.size() * 4, cudaMemcpyHostToDevice, cuda::stream()));
  }
  DeviceInts(const DeviceInts&) = delete;
  DeviceInts& operator=(const DeviceInts&) = delete;
  ~DeviceInts() { cudaFree(data); }
  int32_t* data = nullptr;
};

// The worst errors of every output over all shapes, relative to the largest element of the tensor.
struct Report {
  struct Worst {
    double error = 0.0;
    std::string shape;
  };
  std::map<std::string, Worst> worst;
  int comparisons = 0, failures = 0;

  void compare(const std::string& name, const std::string& shape, Tensor& got, const std::vector<double>& want, double tolerance) {
    got.download();
    double largest = 1e-30, error = 0.0;
    for (const double value : want) largest = std::max(largest, std::fabs(value));
    for (int64_t r = 0; r < got.rows; ++r) {
      for (int64_t c = 0; c < got.cols; ++c) {
        const double difference = std::fabs(got.host[r * got.stride + c] - want[r * got.cols + c]) / largest;
        error = std::isfinite(difference) ? std::max(error, difference) : INFINITY;
      }
    }
    ++comparisons;
    if (!(error <= tolerance)) {
      ++failures;
      printf("FAIL %s %s: %.2e of the largest element, at most %.0e allowed\n", name.c_str(), shape.c_str(), error, tolerance);
    }
    if (error >= worst[name].error) worst[name] = {error, shape};
  }

  // Runs twice from NaN outputs; the second run must give the same bits.
  void run_twice(const std::string& shape, const std::vector<Tensor*>& outputs, const std::function<Error()>& run) {
    std::vector<std::vector<float>> first;
    for (int pass = 0; pass < 2; ++pass) {
      for (Tensor* tensor : outputs) require(cudaMemsetAsync(tensor->device, 0xff, tensor->bytes(), cuda::stream()));
      require(run());
      for (size_t i = 0; i < outputs.size(); ++i) {
        outputs[i]->download();
        if (pass == 0) {
          first.push_back(outputs[i]->host);
        } else if (memcmp(first[i].data(), outputs[i]->host.data(), outputs[i]->bytes()) != 0) {
          ++failures;
          printf("FAIL %s: output %zu differs between two runs\n", shape.c_str(), i);
        }
      }
    }
  }

  void print() const {
    for (const auto& [name, entry] : worst) printf("  %-28s %.2e  %s\n", name.c_str(), entry.error, entry.shape.c_str());
    printf("  %d comparisons, %d failures\n", comparisons, failures);
  }
};

// Median microseconds of a captured graph of one call; a 256 MB write before each one empties the cache.
inline double time_graph(const std::function<Error()>& run) {
  constexpr int kRuns = 50, kWarmUp = 5;
  constexpr size_t kFlushBytes = 256 << 20;
  static void* flush = nullptr;
  if (!flush) require(cudaMalloc(&flush, kFlushBytes));
  require(run());
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  require(cudaStreamBeginCapture(cuda::stream(), cudaStreamCaptureModeThreadLocal));
  require(run());
  require(cudaStreamEndCapture(cuda::stream(), &graph));
  require(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin));
  require(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < kRuns + kWarmUp; ++i) {
    require(cudaMemsetAsync(flush, i, kFlushBytes, cuda::stream()));
    require(cudaEventRecord(begin, cuda::stream()));
    require(cudaGraphLaunch(executable, cuda::stream()));
    require(cudaEventRecord(end, cuda::stream()));
    require(cudaStreamSynchronize(cuda::stream()));
    float milliseconds = 0.0f;
    require(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= kWarmUp) times.push_back(1e3 * milliseconds);
  }
  std::sort(times.begin(), times.end());
  require(cudaEventDestroy(begin));
  require(cudaEventDestroy(end));
  require(cudaGraphExecDestroy(executable));
  require(cudaGraphDestroy(graph));
  return times[kRuns / 2];
}

}  // namespace self_check
}  // namespace mambatune
