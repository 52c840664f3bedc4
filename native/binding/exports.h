// SPDX-License-Identifier: Apache-2.0
// The addon's export table: each file of bindings adds its functions.
#pragma once
#include <node_api.h>

namespace mambatune {

struct Export {
  const char* name;
  napi_callback function;
};

void export_functions(napi_env env, napi_value exports, const Export* functions, size_t count);

void export_mamba_layer_step(napi_env env, napi_value exports);
void export_memory(napi_env env, napi_value exports);
void export_model_ops(napi_env env, napi_value exports);
void export_tensor_ops(napi_env env, napi_value exports);

}  // namespace mambatune
