// SPDX-License-Identifier: Apache-2.0
/** tfjs-core's elementwise kernels on the native devices (contract: native/include/tensor_ops.h). */
import type { DataType, TensorInfo } from '@tensorflow/tfjs-core';
import { backend_util, upcastType } from '@tensorflow/tfjs-core';
import type { DeviceBackend, NativeDType } from '../device_backend.ts';
import { NATIVE_DTYPE } from '../device_backend.ts';
import { defineKernel, required, sizeOf } from './define.ts';

/** Enum UnaryOp, in order. */
const UNARY = [
  'Neg',
  'Abs',
  'Exp',
  'Expm1',
  'Log',
  'Log1p',
  'Sqrt',
  'Rsqrt',
  'Square',
  'Reciprocal',
  'Sigmoid',
  'Softplus',
  'Tanh',
  'Relu',
  'Sign',
  'Step',
  'Floor',
  'Ceil',
  'Round',
  'Erf',
  'Sin',
  'Cos',
  'IsNan',
  'IsFinite',
  'IsInf',
  'LogicalNot',
];
/** Enum BinaryOp, in order; from Equal on the output is bool. */
const BINARY = [
  'Add',
  'Sub',
  'Multiply',
  'RealDiv',
  'Maximum',
  'Minimum',
  'Pow',
  'SquaredDifference',
  'FloorDiv',
  'Mod',
  'Equal',
  'NotEqual',
  'Less',
  'LessEqual',
  'Greater',
  'GreaterEqual',
  'LogicalAnd',
  'LogicalOr',
];
const FIRST_BOOL_UNARY = UNARY.indexOf('IsNan');
const FIRST_BOOL_BINARY = BINARY.indexOf('Equal');
const INTEGER_UNARY = new Set(['Neg', 'Abs', 'Square', 'Relu', 'Sign', 'Floor', 'Ceil', 'Round']);

for (const [op, kernelName] of UNARY.entries()) {
  defineKernel(kernelName, (backend, inputs, attrs) => {
    if (attrs.alpha)
      throw new Error(`${kernelName} with alpha ${attrs.alpha} is not supported by the native backends; expected 0`);
    const given = required(inputs, 'x');
    const x =
      kernelName === 'LogicalNot' || given.dtype === 'float32' || INTEGER_UNARY.has(kernelName)
        ? given
        : cast(backend, given, 'float32');
    const y = backend.output(x.shape, op >= FIRST_BOOL_UNARY ? 'bool' : x.dtype);
    backend.addon.unary(backend.device, op, dtypeOf(x), sizeOf(x.shape), backend.handle(x), backend.handle(y));
    if (x !== given) backend.disposeData(x.dataId);
    return y;
  });
}

for (const [op, kernelName] of BINARY.entries()) {
  defineKernel(kernelName, (backend, inputs) => {
    const shape = backend_util.assertAndGetBroadcastShape(required(inputs, 'a').shape, required(inputs, 'b').shape);
    const dtype = upcastType(required(inputs, 'a').dtype, required(inputs, 'b').dtype);
    const a = cast(backend, required(inputs, 'a'), dtype);
    const b = cast(backend, required(inputs, 'b'), dtype);
    const out = backend.output(shape, op >= FIRST_BOOL_BINARY ? 'bool' : dtype);
    const aStrides = broadcastStrides(a.shape, shape.length);
    const bStrides = broadcastStrides(b.shape, shape.length);
    backend.addon.binary(
      backend.device,
      op,
      NATIVE_DTYPE[dtype as NativeDType],
      shape.length,
      Int32Array.from(shape),
      aStrides,
      bStrides,
      backend.handle(a),
      backend.handle(b),
      backend.handle(out),
    );
    backend.disposeData(a.dataId);
    backend.disposeData(b.dataId);
    return out;
  });
}

defineKernel('Cast', (backend, inputs, attrs) => cast(backend, required(inputs, 'x'), attrs.dtype as DataType));

defineKernel('Select', (backend, inputs) => {
  const condition = required(inputs, 'condition');
  const t = required(inputs, 't');
  const full = condition.shape.length === t.shape.length ? undefined : spreadRows(backend, condition, t.shape);
  const out = backend.output(t.shape, t.dtype);
  backend.addon.select(
    backend.device,
    dtypeOf(t),
    sizeOf(t.shape),
    backend.handle(full ?? condition),
    backend.handle(t),
    backend.handle(required(inputs, 'e')),
    backend.handle(out),
  );
  if (full) backend.disposeData(full.dataId);
  return out;
});

defineKernel('Fill', (backend, _inputs, attrs) => {
  const { shape, value, dtype } = attrs as { shape: number[]; value: number; dtype?: DataType };
  return fill(backend, shape, dtype ?? 'float32', value);
});
defineKernel('ZerosLike', (backend, inputs) =>
  fill(backend, required(inputs, 'x').shape, required(inputs, 'x').dtype, 0),
);
defineKernel('OnesLike', (backend, inputs) =>
  fill(backend, required(inputs, 'x').shape, required(inputs, 'x').dtype, 1),
);

function dtypeOf(info: TensorInfo): number {
  return NATIVE_DTYPE[info.dtype as NativeDType];
}

/** x in another dtype: a new tensor, on shared data when the dtype is the same. */
export function cast(backend: DeviceBackend, x: TensorInfo, dtype: DataType): TensorInfo {
  if (x.dtype === dtype) return backend.share(x, x.shape);
  const y = backend.output(x.shape, dtype);
  backend.addon.cast(backend.device, dtypeOf(x), dtypeOf(y), sizeOf(x.shape), backend.handle(x), backend.handle(y));
  return y;
}

function fill(backend: DeviceBackend, shape: number[], dtype: DataType, value: number): TensorInfo {
  const y = backend.output(shape, dtype);
  backend.addon.fill(backend.device, dtypeOf(y), sizeOf(shape), value, backend.handle(y));
  return y;
}

/** A condition of one value a row, for every element of the row. */
function spreadRows(backend: DeviceBackend, condition: TensorInfo, shape: number[]): TensorInfo {
  const out = backend.output(shape, 'bool');
  const rows = sizeOf(condition.shape);
  const columns = sizeOf(shape) / Math.max(rows, 1);
  backend.addon.stridedCopy(
    backend.device,
    NATIVE_DTYPE.bool,
    2,
    Int32Array.of(rows, columns),
    Int32Array.of(1, 0),
    Int32Array.of(columns, 1),
    backend.handle(condition),
    0,
    backend.handle(out),
    0,
  );
  return out;
}

/** Strides in elements of a contiguous tensor seen under a broadcast shape of `rank` dimensions: 0 where it is repeated. */
function broadcastStrides(shape: number[], rank: number): Int32Array {
  const strides = new Int32Array(rank);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = shape[i] as number;
    strides[rank - shape.length + i] = size === 1 ? 0 : stride;
    stride *= size;
  }
  return strides;
}
