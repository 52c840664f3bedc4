// SPDX-License-Identifier: Apache-2.0
/** tfjs-core's reductions, running sums, softmax and matrix products on the native devices. */
import type { DataType, TensorInfo } from '@tensorflow/tfjs-core';
import { backend_util, broadcast_util, sumOutType, util } from '@tensorflow/tfjs-core';
import type { DeviceBackend, NativeDType } from '../device_backend.ts';
import { NATIVE_DTYPE } from '../device_backend.ts';
import type { Infos } from './define.ts';
import { defineKernel, lastDim, required, rowCount, sizeOf } from './define.ts';
import { cast } from './elementwise.ts';

/** Enum ReduceOp, in order. */
const REDUCE = ['Sum', 'Mean', 'Max', 'Min', 'Prod', 'ArgMax', 'ArgMin', 'Any', 'All'];

for (const [op, kernelName] of REDUCE.entries()) {
  defineKernel(kernelName, (backend, inputs, attrs) => {
    const x = required(inputs, 'x');
    const axes = util.parseAxisParam((attrs.axis ?? attrs.reductionIndices) as number | number[], x.shape);
    const sorted = axes.slice().sort((a, b) => a - b);
    const from = cast(backend, x, inputType(kernelName, x.dtype));
    const out = reduce(backend, kernelName, op, from, sorted);
    backend.disposeData(from.dataId);
    const shape = attrs.keepDims ? backend_util.expandShapeToKeepDim(out.shape, sorted) : out.shape;
    const shaped = backend.share(out, shape);
    backend.disposeData(out.dataId);
    return shaped;
  });
}

function inputType(kernelName: string, dtype: DataType): DataType {
  if (kernelName === 'Sum' || kernelName === 'Prod') return sumOutType(dtype);
  if (kernelName === 'Mean') return 'float32';
  if (kernelName === 'Any' || kernelName === 'All') return 'bool';
  return dtype === 'bool' ? 'int32' : dtype;
}

/** Reduces sorted axes: neighbours in one pass, the rest axis by axis from the last. */
function reduce(backend: DeviceBackend, kernelName: string, op: number, x: TensorInfo, axes: number[]): TensorInfo {
  if (axes.length === 0) return backend.share(x, x.shape);
  let current = backend.share(x, x.shape);
  const rest = axes.slice();
  while (rest.length > 0) {
    const last = rest.pop() as number;
    let first = last;
    while (rest[rest.length - 1] === first - 1) first = rest.pop() as number;
    const shape = current.shape;
    const out = backend.output(
      [...shape.slice(0, first), ...shape.slice(last + 1)],
      kernelName.startsWith('Arg') ? 'int32' : current.dtype,
    );
    backend.addon.reduce(
      backend.device,
      op,
      NATIVE_DTYPE[current.dtype as NativeDType],
      sizeOf(shape.slice(0, first)),
      sizeOf(shape.slice(first, last + 1)),
      sizeOf(shape.slice(last + 1)),
      backend.handle(current),
      backend.handle(out),
    );
    backend.disposeData(current.dataId);
    current = out;
  }
  return current;
}

defineKernel('Cumsum', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const axis = util.parseAxisParam(attrs.axis as number, x.shape)[0] as number;
  const from = cast(backend, x, sumOutType(x.dtype));
  const out = backend.output(x.shape, from.dtype);
  backend.addon.cumsum(
    backend.device,
    NATIVE_DTYPE[from.dtype as NativeDType],
    sizeOf(x.shape.slice(0, axis)),
    x.shape[axis] as number,
    sizeOf(x.shape.slice(axis + 1)),
    attrs.exclusive as boolean,
    attrs.reverse as boolean,
    backend.handle(from),
    backend.handle(out),
  );
  backend.disposeData(from.dataId);
  return out;
});

defineKernel('Softmax', (backend, inputs) => {
  const x = required(inputs, 'logits');
  const out = backend.output(x.shape);
  backend.addon.softmax(backend.device, rowCount(x), lastDim(x), backend.handle(x), backend.handle(out));
  return out;
});

defineKernel('BatchMatMul', (backend, inputs, attrs) =>
  matMul(backend, inputs, attrs.transposeA as boolean, attrs.transposeB as boolean),
);

function matMul(backend: DeviceBackend, inputs: Infos, transposeA: boolean, transposeB: boolean): TensorInfo {
  const a = required(inputs, 'a');
  const b = required(inputs, 'b');
  const [aRows, aColumns] = a.shape.slice(-2) as [number, number];
  const [bRows, bColumns] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [aColumns, aRows] : [aRows, aColumns];
  const [inner, n] = transposeB ? [bColumns, bRows] : [bRows, bColumns];
  if (k !== inner)
    throw new Error(
      `matMul: inner dimensions differ: [${a.shape}]${transposeA ? '^T' : ''} by [${b.shape}]${transposeB ? '^T' : ''}`,
    );
  const batchA = sizeOf(a.shape.slice(0, -2));
  const batchB = sizeOf(b.shape.slice(0, -2));
  const batchShape = broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const batch = sizeOf(batchShape);
  if ((batchA !== batch && batchA !== 1) || (batchB !== batch && batchB !== 1)) {
    throw new Error(
      `matMul: batch dimensions of [${a.shape}] and [${b.shape}] broadcast in a way the native backends do not support`,
    );
  }
  const out = backend.output([...batchShape, m, n]);
  backend.addon.matmul(
    backend.device,
    batch,
    m,
    n,
    k,
    batchA === 1 ? 0 : m * k,
    batchB === 1 ? 0 : k * n,
    transposeA,
    transposeB,
    backend.handle(a),
    backend.handle(b),
    backend.handle(out),
  );
  return out;
}
