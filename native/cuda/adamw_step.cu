// SPDX-License-Identifier: Apache-2.0
// The optimizer over all parameters in one launch, and the norm of all gradients in one. Every tensor is cut into pieces of a
// fixed size, one block each; a table says which tensor a block's piece belongs to. The norm's last block to finish adds the
// blocks' sums in their order.
//
// Bytes of an element: 28 (p, m and v read and written, g read) and 4; 2.3 M elements of the 130m LoRA: 64 MB, 16 us.
#include <cstring>
#include <vector>

#include "common.cuh"
#include "transfers.cuh"

namespace mambatune {
namespace cuda {
namespace {

constexpr const char* kStepOp = "adamw_step";
constexpr const char* kNormOp = "global_norm";
constexpr int kBlockThreads = 256;
constexpr int64_t kPiece = 4096;  // elements of a block

struct Entry {
  float* param;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;
  int64_t size;
  int64_t first_block;
  float learning_rate, weight_decay;
};

struct Table {
  const Entry* entries;
  int64_t count, blocks;
};

struct Piece {
  Entry entry;
  int64_t begin, end;
};

__device__ Piece find_piece(const Table& table, int64_t block) {
  int64_t low = 0, high = table.count;  // the last entry that starts at or before `block`
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (table.entries[middle].first_block <= block ? low : high) = middle;
  }
  Piece piece;
  piece.entry = table.entries[low];
  piece.begin = (block - piece.entry.first_block) * kPiece;
  piece.end = min(piece.begin + kPiece, piece.entry.size);
  return piece;
}

// The sum over the block, for its first thread.
__device__ double block_sum(double value) {
  __shared__ double parts[kBlockThreads / 32];
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = parts[0];
  for (int i = 1; i < kBlockThreads / 32; ++i) sum += parts[i];
  __syncthreads();
  return sum;
}

// sums: one of each block; finished: 0 between launches.
__global__ void __launch_bounds__(kBlockThreads) global_norm_kernel(Table table, double* sums, unsigned* finished, float* norm) {
  __shared__ bool last;
  const Piece piece = find_piece(table, blockIdx.x);
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = piece.begin + threadIdx.x; i < piece.end; i += kBlockThreads) {
    const double g = piece.entry.grad[i];
    sum += g * g;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(finished, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  sum = 0.0;
  for (int64_t i = threadIdx.x; i < table.blocks; i += kBlockThreads) sum += __ldcg(sums + i);
  sum = block_sum(sum);
  if (threadIdx.x > 0) return;
  *norm = static_cast<float>(sqrt(sum));
  *finished = 0;
}

struct Settings {
  double beta1, beta2;
  float eps;
  int64_t step;
  const float* schedule;
  const float* grad_norm;
  float max_grad_norm;
};

__global__ void __launch_bounds__(kBlockThreads) adamw_step_kernel(Table table, Settings s) {
  __shared__ float clip, decay, step_size, inverse_root;
  const float norm = s.grad_norm ? *s.grad_norm : 0.0f;
  if (!isfinite(norm)) return;
  const Piece piece = find_piece(table, blockIdx.x);
  if (threadIdx.x == 0) {
    const float ratio = s.max_grad_norm / (norm + 1e-6f);
    clip = s.grad_norm && s.max_grad_norm > 0.0f && ratio < 1.0f ? ratio : 1.0f;
    const float rate = s.schedule ? s.schedule[0] : piece.entry.learning_rate;
    const double steps = s.schedule ? static_cast<double>(s.schedule[1]) : static_cast<double>(s.step);
    decay = 1.0f - rate * piece.entry.weight_decay;
    step_size = static_cast<float>(rate / (1.0 - pow(s.beta1, steps)));
    inverse_root = static_cast<float>(1.0 / sqrt(1.0 - pow(s.beta2, steps)));
  }
  __syncthreads();
  const float beta1 = static_cast<float>(s.beta1), rest1 = static_cast<float>(1.0 - s.beta1);
  const float beta2 = static_cast<float>(s.beta2), rest2 = static_cast<float>(1.0 - s.beta2);
  const auto update = [&](float& param, float grad, float& m, float& v) {
    const float g = grad * clip;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    param = param * decay - step_size * m / (sqrtf(v) * inverse_root + s.eps);
  };
  const Entry& entry = piece.entry;
  const int64_t vector_end = piece.begin + (piece.end - piece.begin) / 4 * 4;
  for (int64_t i = piece.begin + threadIdx.x * 4; i < vector_end; i += kBlockThreads * 4) {
    float4 param = *reinterpret_cast<float4*>(entry.param + i), m = *reinterpret_cast<float4*>(entry.exp_avg + i);
    float4 v = *reinterpret_cast<float4*>(entry.exp_avg_sq + i);
    const float4 grad = *reinterpret_cast<const float4*>(entry.grad + i);
    update(param.x, grad.x, m.x, v.x);
    update(param.y, grad.y, m.y, v.y);
    update(param.z, grad.z, m.z, v.z);
    update(param.w, grad.w, m.w, v.w);
    *reinterpret_cast<float4*>(entry.param + i) = param;
    *reinterpret_cast<float4*>(entry.exp_avg + i) = m;
    *reinterpret_cast<float4*>(entry.exp_avg_sq + i) = v;
  }
  const int64_t i = vector_end + threadIdx.x;
  if (i < piece.end) update(entry.param[i], entry.grad[i], entry.exp_avg[i], entry.exp_avg_sq[i]);
}

// Puts the entries on the device; table->blocks is 0 when there is nothing to do.
Error make_table(std::vector<Entry>* entries, Table* table) {
  *table = {nullptr, static_cast<int64_t>(entries->size()), 0};
  for (Entry& entry : *entries) {
    entry.first_block = table->blocks;
    table->blocks += ceil_div(entry.size, kPiece);
  }
  if (table->blocks == 0) return nullptr;
  void* memory = nullptr;
  MAMBATUNE_TRY(constant_table(entries->data(), entries->size() * sizeof(Entry), &memory));
  table->entries = static_cast<const Entry*>(memory);
  return nullptr;
}

// Entries whose padding is zero, so that equal ones have equal bytes.
std::vector<Entry> zeroed_entries(int64_t count) {
  std::vector<Entry> entries(static_cast<size_t>(count));
  if (count > 0) std::memset(static_cast<void*>(entries.data()), 0, entries.size() * sizeof(Entry));
  return entries;
}

}  // namespace

Error global_norm(const GlobalNormParams& p) {
  std::vector<Entry> entries = zeroed_entries(p.count);
  for (int64_t i = 0; i < p.count; ++i) {
    entries[static_cast<size_t>(i)].grad = p.grad[i];
    entries[static_cast<size_t>(i)].size = p.size[i];
  }
  Table table;
  MAMBATUNE_TRY(make_table(&entries, &table));
  if (table.blocks == 0) return describe_error(cudaMemsetAsync(p.norm, 0, sizeof(float), stream()), kNormOp);
  static const char zeros[64] = {};
  void* finished = nullptr;
  Scratch sums;
  MAMBATUNE_TRY(constant_table(zeros, sizeof zeros, &finished));
  MAMBATUNE_TRY(sums.reserve(2 * table.blocks));
  global_norm_kernel<<<static_cast<unsigned>(table.blocks), kBlockThreads, 0, stream()>>>(
      table, reinterpret_cast<double*>(sums.get()), static_cast<unsigned*>(finished), p.norm);
  return describe_error(cudaGetLastError(), kNormOp);
}

Error adamw_step(const AdamwStepParams& p) {
  std::vector<Entry> entries = zeroed_entries(p.count);
  for (int64_t i = 0; i < p.count; ++i) {
    Entry& entry = entries[static_cast<size_t>(i)];
    entry.param = p.param[i];
    entry.grad = p.grad[i];
    entry.exp_avg = p.exp_avg[i];
    entry.exp_avg_sq = p.exp_avg_sq[i];
    entry.size = p.size[i];
    entry.learning_rate = p.schedule ? 0.0f : p.learning_rate[i];
    entry.weight_decay = p.weight_decay[i];
  }
  Table table;
  MAMBATUNE_TRY(make_table(&entries, &table));
  if (table.blocks == 0) return nullptr;
  adamw_step_kernel<<<static_cast<unsigned>(table.blocks), kBlockThreads, 0, stream()>>>(
      table, Settings{p.beta1, p.beta2, p.eps, p.step, p.schedule, p.grad_norm, p.max_grad_norm});
  return describe_error(cudaGetLastError(), kStepOp);
}

}  // namespace cuda
}  // namespace mambatune
