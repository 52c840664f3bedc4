// SPDX-License-Identifier: Apache-2.0
// Bindings of the plain tensor kernels (native/include/tensor_ops.h). Arguments in the order in which they are read here.
#include "tensor_ops.h"

#include <iterator>

#include "arguments.h"
#include "exports.h"

namespace mambatune {
namespace {

int64_t element_size(DType dtype) { return dtype == DType::kBool ? 1 : 4; }

DType read_dtype(Arguments& args) {
  const uint32_t value = args.uint32();
  if (value > static_cast<uint32_t>(DType::kBool)) args.fail("native call with an unknown dtype");
  return static_cast<DType>(value);
}

// A member of an op enum whose last is `last`.
template <class Op>
Op read_op(Arguments& args, Op last) {
  const uint32_t value = args.uint32();
  if (value > static_cast<uint32_t>(last)) args.fail("native call with an unknown op");
  return static_cast<Op>(value);
}

const void* input_of(Arguments& args, DType dtype, int64_t count) {
  return element_size(dtype) == 1 ? static_cast<const void*>(args.input<uint8_t>({count})) : args.input<float>({count});
}

void* output_of(Arguments& args, DType dtype, int64_t count) {
  return element_size(dtype) == 1 ? static_cast<void*>(args.output<uint8_t>({count})) : args.output<float>({count});
}

// An Int32Array of `rank` numbers into int64 slots.
void read_strides(Arguments& args, int32_t rank, int64_t* strides) {
  int64_t length = 0;
  const int32_t* values = args.int32_array(&length);
  if (args.ok() && length != rank) args.fail("native call with a shape of the wrong rank");
  for (int32_t i = 0; args.ok() && i < rank; i++) strides[i] = values[i];
}

void read_dims(Arguments& args, int32_t rank, int64_t* dims) {
  read_strides(args, rank, dims);
  for (int32_t i = 0; args.ok() && i < rank; i++) {
    if (dims[i] < 0) args.fail("native call with a negative dimension");
  }
}

int32_t read_rank(Arguments& args) {
  const int64_t rank = args.size();
  if (args.ok() && rank > kMaxRank) args.fail("native call with a tensor of rank over 6");
  return args.ok() ? static_cast<int32_t>(rank) : 0;
}

int64_t product(const int64_t* dims, int32_t rank) {
  int64_t size = 1;
  for (int32_t i = 0; i < rank; i++) size = product_of({size, dims[i]});
  return size;
}

// One past the highest and the lowest element that a strided walk touches, relative to its base. Dimensions and strides come from
// 32 bits, so that each term fits; at most six of them are added.
void extent(const int64_t* dims, const int64_t* strides, int32_t rank, int64_t* low, int64_t* high) {
  *low = 0;
  *high = product(dims, rank) > 0 ? 1 : 0;
  for (int32_t i = 0; i < rank && *high > 0; i++) {
    int64_t& end = strides[i] < 0 ? *low : *high;
    if (__builtin_add_overflow(end, strides[i] * (dims[i] - 1), &end)) end = strides[i] < 0 ? INT64_MIN : INT64_MAX;
  }
}

bool writes_bool(UnaryOp op) {
  return op == UnaryOp::kIsNan || op == UnaryOp::kIsFinite || op == UnaryOp::kIsInf || op == UnaryOp::kLogicalNot;
}

napi_value unary(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  UnaryParams p{};
  p.op = read_op(args, UnaryOp::kLogicalNot);
  p.dtype = read_dtype(args);
  p.size = args.size();
  p.x = input_of(args, p.dtype, p.size);
  p.y = output_of(args, writes_bool(p.op) ? DType::kBool : p.dtype, p.size);
  return args.ok() ? args.finish(device->unary(p)) : nullptr;
}

napi_value binary(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  BinaryParams p{};
  p.op = read_op(args, BinaryOp::kLogicalOr);
  p.dtype = read_dtype(args);
  p.rank = read_rank(args);
  read_dims(args, p.rank, p.dims);
  read_strides(args, p.rank, p.a_strides);
  read_strides(args, p.rank, p.b_strides);
  if (!args.ok()) return nullptr;
  int64_t a_low = 0, b_low = 0, a_high = 0, b_high = 0;
  extent(p.dims, p.a_strides, p.rank, &a_low, &a_high);
  extent(p.dims, p.b_strides, p.rank, &b_low, &b_high);
  if (a_low < 0 || b_low < 0) args.fail("native call with a negative stride");
  p.a = input_of(args, p.dtype, a_high);
  p.b = input_of(args, p.dtype, b_high);
  p.out = output_of(args, p.op >= BinaryOp::kEqual ? DType::kBool : p.dtype, product(p.dims, p.rank));
  return args.ok() ? args.finish(device->binary(p)) : nullptr;
}

napi_value select(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  SelectParams p{};
  const DType dtype = read_dtype(args);
  p.size = args.size();
  p.element_size = static_cast<int32_t>(element_size(dtype));
  p.condition = args.input<uint8_t>({p.size});
  p.a = input_of(args, dtype, p.size);
  p.b = input_of(args, dtype, p.size);
  p.out = output_of(args, dtype, p.size);
  return args.ok() ? args.finish(device->select(p)) : nullptr;
}

napi_value reduce(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  ReduceParams p{};
  p.op = read_op(args, ReduceOp::kAll);
  p.dtype = read_dtype(args);
  p.outer = args.size();
  p.length = args.size();
  p.inner = args.size();
  p.x = input_of(args, p.dtype, product_of({p.outer, p.length, p.inner}));
  const bool index = p.op == ReduceOp::kArgMax || p.op == ReduceOp::kArgMin;
  p.out = output_of(args, index ? DType::kInt32 : p.dtype, product_of({p.outer, p.inner}));
  return args.ok() ? args.finish(device->reduce(p)) : nullptr;
}

napi_value cumsum(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  CumsumParams p{};
  p.dtype = read_dtype(args);
  p.outer = args.size();
  p.length = args.size();
  p.inner = args.size();
  p.exclusive = args.boolean();
  p.reverse = args.boolean();
  p.x = input_of(args, p.dtype, product_of({p.outer, p.length, p.inner}));
  p.out = output_of(args, p.dtype, product_of({p.outer, p.length, p.inner}));
  return args.ok() ? args.finish(device->cumsum(p)) : nullptr;
}

napi_value matmul(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  MatmulParams p{};
  p.batch = args.size();
  p.m = args.size();
  p.n = args.size();
  p.k = args.size();
  p.a_batch_stride = args.size();
  p.b_batch_stride = args.size();
  p.transpose_a = args.boolean();
  p.transpose_b = args.boolean();
  const int64_t last = p.batch > 0 ? p.batch - 1 : 0;
  p.a = args.input<float>({sum_of(product_of({last, p.a_batch_stride}), product_of({p.m, p.k}))});
  p.b = args.input<float>({sum_of(product_of({last, p.b_batch_stride}), product_of({p.k, p.n}))});
  p.out = args.output<float>({p.batch, p.m, p.n});
  return args.ok() ? args.finish(device->matmul(p)) : nullptr;
}

// stridedCopy(device, dtype, rank, dims, srcStrides, dstStrides, src, srcOffset, dst, dstOffset)
napi_value strided_copy(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  StridedCopyParams p{};
  const DType dtype = read_dtype(args);
  p.element_size = static_cast<int32_t>(element_size(dtype));
  p.rank = read_rank(args);
  read_dims(args, p.rank, p.dims);
  read_strides(args, p.rank, p.src_strides);
  read_strides(args, p.rank, p.dst_strides);
  if (!args.ok()) return nullptr;
  int64_t src_low = 0, src_high = 0, dst_low = 0, dst_high = 0;
  extent(p.dims, p.src_strides, p.rank, &src_low, &src_high);
  extent(p.dims, p.dst_strides, p.rank, &dst_low, &dst_high);
  Buffer* src = args.buffer();
  const int64_t src_offset = args.size();
  Buffer* dst = args.buffer();
  const int64_t dst_offset = args.size();
  if (!args.ok()) return nullptr;
  const auto inside = [&](const Buffer* buffer, int64_t offset, int64_t low, int64_t high) {
    return buffer->device == device && low >= -offset &&
           static_cast<uint64_t>(sum_of(offset, high)) <= buffer->bytes / static_cast<uint64_t>(p.element_size);
  };
  if (!inside(src, src_offset, src_low, src_high) || !inside(dst, dst_offset, dst_low, dst_high)) {
    args.fail("native copy outside a buffer");
    return nullptr;
  }
  drop_weight_cache(*dst);
  p.src = static_cast<const char*>(src->memory) + src_offset * p.element_size;
  p.dst = static_cast<char*>(dst->memory) + dst_offset * p.element_size;
  return args.finish(device->strided_copy(p));
}

napi_value gather(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  GatherParams p{};
  const DType dtype = read_dtype(args);
  p.element_size = static_cast<int32_t>(element_size(dtype));
  p.outer = args.size();
  p.length = args.size();
  p.inner = args.size();
  p.count = args.size();
  p.x = input_of(args, dtype, product_of({p.outer, p.length, p.inner}));
  p.indices = args.input<int32_t>({p.count});
  p.out = output_of(args, dtype, product_of({p.outer, p.count, p.inner}));
  return args.ok() ? args.finish(device->gather(p)) : nullptr;
}

napi_value cast(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  CastParams p{};
  p.from = read_dtype(args);
  p.to = read_dtype(args);
  p.size = args.size();
  p.x = input_of(args, p.from, p.size);
  p.y = output_of(args, p.to, p.size);
  return args.ok() ? args.finish(device->cast(p)) : nullptr;
}

napi_value fill(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  FillParams p{};
  p.dtype = read_dtype(args);
  p.size = args.size();
  p.value = args.number();
  p.y = output_of(args, p.dtype, p.size);
  return args.ok() ? args.finish(device->fill(p)) : nullptr;
}

napi_value softmax(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  SoftmaxParams p{};
  p.rows = args.size();
  p.cols = args.size();
  p.x = args.input<float>({p.rows, p.cols});
  p.y = args.output<float>({p.rows, p.cols});
  return args.ok() ? args.finish(device->softmax(p)) : nullptr;
}

napi_value choose_likeliest(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  ChooseLikeliestParams p{};
  p.rows = args.size();
  p.cols = args.size();
  p.slots = args.size();
  if (args.ok() && p.slots == 0) args.fail("choose_likeliest: there must be a slot for a choice");
  p.logits = args.input<float>({p.rows, p.cols});
  p.tokens = args.output<int32_t>({p.rows});
  p.choices = args.output<int32_t>({p.slots, p.rows});
  p.counts = args.output<int32_t>({p.rows});
  return args.ok() ? args.finish(device->choose_likeliest(p)) : nullptr;
}

napi_value sample_token(napi_env env, napi_callback_info info) {
  Arguments args(env, info);
  const DeviceApi* device = args.device();
  SampleTokenParams p{};
  p.rows = args.size();
  p.cols = args.size();
  p.slots = args.size();
  p.do_sample = args.boolean();
  p.temperature = args.number();
  p.top_k = args.size();
  p.top_p = args.number();
  p.log_min_p = args.number();
  p.penalty = args.number();
  p.seed = args.uint64();
  p.stream = args.uint32();
  if (args.ok() && p.slots == 0) args.fail("sample_token: there must be a slot for a choice");
  if (args.ok() && (p.cols == 0 || p.cols > INT32_MAX)) args.fail("sample_token: a row must have 1 to 2^31 - 1 logits");
  p.logits = args.input<float>({p.rows, p.cols});
  p.substreams = args.input<int32_t>({p.rows});
  p.positions = args.output<int32_t>({p.rows});
  p.seen = args.output<uint32_t>({p.rows, p.cols / 32 + (p.cols % 32 > 0)}, true);
  p.tokens = args.output<int32_t>({p.rows});
  p.choices = args.output<int32_t>({p.slots, p.rows});
  p.counts = args.output<int32_t>({p.rows});
  if (args.ok() && !(p.temperature > 0 && p.penalty > 0 && p.top_p >= 0 && p.log_min_p <= 0)) {
    args.fail("sample_token: temperature and penalty must be above 0, top_p from 0 on, log_min_p up to 0");
  }
  return args.ok() ? args.finish(device->sample_token(p)) : nullptr;
}

const Export kExports[] = {
    {"unary", unary},   {"binary", binary}, {"select", select},           {"reduce", reduce}, {"cumsum", cumsum},
    {"matmul", matmul}, {"gather", gather}, {"stridedCopy", strided_copy}, {"cast", cast},
    {"fill", fill},     {"softmax", softmax}, {"chooseLikeliest", choose_likeliest},
    {"sampleToken", sample_token},
};

}  // namespace

void export_tensor_ops(napi_env env, napi_value exports) { export_functions(env, exports, kExports, std::size(kExports)); }

}  // namespace mambatune
