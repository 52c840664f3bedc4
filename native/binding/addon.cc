// SPDX-License-Identifier: Apache-2.0
// The N-API module. What each function takes is typed in src/backends/addon.ts.
#include "exports.h"

namespace mambatune {

void export_functions(napi_env env, napi_value exports, const Export* functions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, nullptr, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
}

}  // namespace mambatune

NAPI_MODULE_INIT() {
  mambatune::export_mamba_layer_step(env, exports);
  mambatune::export_memory(env, exports);
  mambatune::export_model_ops(env, exports);
  mambatune::export_tensor_ops(env, exports);
  return exports;
}
