// SPDX-License-Identifier: Apache-2.0
// CUDA graphs: what is enqueued between graph_begin and graph_end is recorded from the stream and launched as one. The mode is
// relaxed because memory may have to be allocated meanwhile; nothing else that recording forbids is called.
#include <unordered_map>

#include "allocator.cuh"
#include "ops.cuh"
#include "transfers.cuh"

namespace mambatune {
namespace cuda {
namespace {

struct Graph {
  cudaGraphExec_t executable = nullptr;
  std::vector<void*> kept;            // memory released while recording, still used by the graph
  std::vector<RecordedTable> tables;
  uint64_t peak_bytes = 0;
};

std::unordered_map<uint32_t, Graph>& graphs = *new std::unordered_map<uint32_t, Graph>();
uint32_t last_graph = 0;

void release_memory(const Graph& graph) {
  release_kept(graph.kept);
  for (const RecordedTable& table : graph.tables) release_hidden(table.memory, table.bytes, false);
}

}  // namespace

Error graph_begin() {
  if (is_recording()) return "graph_begin: a graph is being recorded already";
  MAMBATUNE_TRY(describe_error(cudaStreamSynchronize(stream()), "graph_begin"));
  trim();  // the pool of graphs is about to grow by about what the cache holds
  MAMBATUNE_TRY(describe_error(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "graph_begin"));
  start_recording();
  return nullptr;
}

Error graph_end(uint32_t* id) {
  if (!is_recording()) return "graph_end: no graph is being recorded";
  Graph graph;
  cudaGraph_t recorded = nullptr;
  cudaError_t status = cudaStreamEndCapture(stream(), &recorded);
  stop_recording(&graph.kept);
  graph.tables = take_recorded_tables();
  graph.peak_bytes = recorded_peak_bytes();
  if (status == cudaSuccess && id) status = cudaGraphInstantiate(&graph.executable, recorded, 0);
  if (recorded) cudaGraphDestroy(recorded);
  cudaGetLastError();
  if (status != cudaSuccess || !id) {
    release_memory(graph);
    return id ? describe_error(status, "graph_end") : nullptr;
  }
  *id = ++last_graph;
  graphs.emplace(*id, std::move(graph));
  count_graphs(1);
  return nullptr;
}

Error graph_launch(uint32_t id) {
  if (is_recording()) return "graph_launch: not possible while a graph is recorded";
  const auto found = graphs.find(id);
  if (found == graphs.end()) return "graph_launch: no such graph";
  note_launch(found->second.peak_bytes);
  return describe_error(cudaGraphLaunch(found->second.executable, stream()), "graph_launch");
}

void graph_release(uint32_t id) {
  const auto found = graphs.find(id);
  if (found == graphs.end()) return;
  cudaStreamSynchronize(stream());
  cudaGraphExecDestroy(found->second.executable);
  release_memory(found->second);
  graphs.erase(found);
  count_graphs(-1);
}

}  // namespace cuda
}  // namespace mambatune
