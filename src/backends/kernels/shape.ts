// SPDX-License-Identifier: Apache-2.0
/** tfjs-core's kernels that move, join and look up elements, on the native devices. */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { backend_util, slice_util, util } from '@tensorflow/tfjs-core';
import type { DeviceBackend, NativeDType } from '../device_backend.ts';
import { NATIVE_DTYPE } from '../device_backend.ts';
import { defineKernel, lastDim, required, sizeOf } from './define.ts';

defineKernel('Identity', (backend, inputs) => backend.share(required(inputs, 'x'), required(inputs, 'x').shape));

defineKernel('Reshape', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const shape = util.inferFromImplicitShape(attrs.shape as number[], sizeOf(x.shape));
  if (sizeOf(shape) !== sizeOf(x.shape)) throw new Error(`cannot reshape [${x.shape}] to [${shape}]: the sizes differ`);
  return backend.share(x, shape);
});

defineKernel('ExpandDims', (backend, inputs, attrs) => {
  const x = required(inputs, 'input');
  const rank = x.shape.length + 1;
  return backend.share(x, x.shape.toSpliced(((attrs.dim as number) + rank) % rank, 0, 1));
});

/** attrs: sizes. Outputs: consecutive columns of the last axis, as views on x's data. */
defineKernel('SplitChannels', (backend, inputs, attrs) => {
  let begin = 0;
  return (attrs.sizes as number[]).map((size) => {
    const view = backend.columnsView(required(inputs, 'x'), begin, size);
    begin += size;
    return view;
  });
});

defineKernel('Transpose', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const perm = attrs.perm as number[];
  const out = backend.output(
    perm.map((axis) => x.shape[axis] as number),
    x.dtype,
  );
  const from = stridesOf(x.shape);
  stridedCopy(
    backend,
    out.shape,
    x,
    perm.map((axis) => from[axis] as number),
    0,
    out,
    stridesOf(out.shape),
    0,
  );
  return out;
});

defineKernel('Slice', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const [begin = [], size = []] = slice_util.parseSliceParams(
    x as never,
    attrs.begin as number[],
    attrs.size as number[],
  );
  slice_util.assertParamsValid(x as never, begin, size);
  return slice(backend, x, begin, size);
});

defineKernel('StridedSlice', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const a = attrs as {
    begin: number[];
    end: number[];
    strides: number[];
    beginMask: number;
    endMask: number;
    ellipsisMask: number;
    newAxisMask: number;
    shrinkAxisMask: number;
  };
  const plan = slice_util.sliceInfo(
    x.shape,
    a.begin,
    a.end,
    a.strides,
    a.beginMask,
    a.endMask,
    a.ellipsisMask,
    a.newAxisMask,
    a.shrinkAxisMask,
  );
  const out = backend.output(plan.finalShapeSparse, x.dtype);
  const size = slice_util.computeOutShape(plan.begin, plan.end, plan.strides);
  const from = stridesOf(x.shape);
  const offset = plan.begin.reduce((sum, first, i) => sum + first * (from[i] as number), 0);
  stridedCopy(
    backend,
    size,
    x,
    from.map((stride, i) => stride * (plan.strides[i] as number)),
    offset,
    out,
    stridesOf(size),
    0,
  );
  const shaped = backend.share(out, plan.finalShape);
  backend.disposeData(out.dataId);
  return shaped;
});

defineKernel('Concat', (backend, inputs, attrs) => {
  const parts = Object.values(inputs).filter((info): info is TensorInfo => info !== undefined);
  const first = parts[0] as TensorInfo;
  const axis = util.parseAxisParam(attrs.axis as number, first.shape)[0] as number;
  const total = parts.reduce((sum, part) => sum + (part.shape[axis] as number), 0);
  return joinAlong(backend, parts, first.shape.with(axis, total), axis);
});

defineKernel('Pack', (backend, inputs, attrs) => {
  const parts = Object.values(inputs).filter((info): info is TensorInfo => info !== undefined);
  const first = parts[0] as TensorInfo;
  const rank = first.shape.length + 1;
  const axis = ((attrs.axis as number) + rank) % rank;
  const widened = parts.map((part) => ({ ...part, shape: part.shape.toSpliced(axis, 0, 1) }));
  return joinAlong(backend, widened, first.shape.toSpliced(axis, 0, parts.length), axis);
});

defineKernel('Unpack', (backend, inputs, attrs) => {
  const value = required(inputs, 'value');
  const axis = util.parseAxisParam(attrs.axis as number, value.shape)[0] as number;
  return Array.from({ length: value.shape[axis] as number }, (_, i) => {
    const part = slice(
      backend,
      value,
      value.shape.map((_size, d) => (d === axis ? i : 0)),
      value.shape.with(axis, 1),
    );
    const shaped = backend.share(part, value.shape.toSpliced(axis, 1));
    backend.disposeData(part.dataId);
    return shaped;
  });
});

defineKernel('SplitV', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const axis = util.parseAxisParam(attrs.axis as number, x.shape)[0] as number;
  const sizes = backend_util.prepareSplitSize(x as never, attrs.numOrSizeSplits as number | number[], axis);
  let begin = 0;
  return sizes.map((size) => {
    const part = slice(
      backend,
      x,
      x.shape.map((_size, d) => (d === axis ? begin : 0)),
      x.shape.with(axis, size),
    );
    begin += size;
    return part;
  });
});

defineKernel('PadV2', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const paddings = attrs.paddings as [number, number][];
  const shape = x.shape.map((size, i) => size + (paddings[i]?.[0] ?? 0) + (paddings[i]?.[1] ?? 0));
  const out = backend.output(shape, x.dtype);
  backend.addon.fill(
    backend.device,
    NATIVE_DTYPE[x.dtype as NativeDType],
    sizeOf(shape),
    (attrs.constantValue as number) ?? 0,
    backend.handle(out),
  );
  const to = stridesOf(shape);
  const offset = to.reduce((sum, stride, i) => sum + stride * (paddings[i]?.[0] ?? 0), 0);
  stridedCopy(backend, x.shape, x, stridesOf(x.shape), 0, out, to, offset);
  return out;
});

defineKernel('Tile', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const reps = attrs.reps as number[];
  const out = backend.output(
    x.shape.map((size, i) => size * (reps[i] as number)),
    x.dtype,
  );
  const dims = x.shape.flatMap((size, i) => [reps[i] as number, size]);
  const from = stridesOf(x.shape).flatMap((stride) => [0, stride]);
  const to = stridesOf(out.shape).flatMap((stride, i) => [stride * (x.shape[i] as number), stride]);
  stridedCopy(backend, dims, x, from, 0, out, to, 0);
  return out;
});

defineKernel('Reverse', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const axes = util.parseAxisParam(attrs.dims as number[], x.shape);
  const out = backend.output(x.shape, x.dtype);
  const to = stridesOf(x.shape);
  const offset = axes.reduce((sum, axis) => sum + (to[axis] as number) * ((x.shape[axis] as number) - 1), 0);
  stridedCopy(
    backend,
    x.shape,
    x,
    to,
    0,
    out,
    to.map((stride, i) => (axes.includes(i) ? -stride : stride)),
    sizeOf(x.shape) > 0 ? offset : 0,
  );
  return out;
});

defineKernel('GatherV2', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const indices = required(inputs, 'indices');
  if ((attrs.batchDims as number) !== 0)
    throw new Error('GatherV2 with batch dimensions is not supported by the native backends');
  const axis = util.parseAxisParam(attrs.axis as number, x.shape)[0] as number;
  const length = x.shape[axis] as number;
  checkIndices(backend, indices, length);
  const out = backend.output([...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)], x.dtype);
  backend.addon.gather(
    backend.device,
    NATIVE_DTYPE[x.dtype as NativeDType],
    sizeOf(x.shape.slice(0, axis)),
    length,
    sizeOf(x.shape.slice(axis + 1)),
    sizeOf(indices.shape),
    backend.handle(x),
    backend.handle(indices),
    backend.handle(out),
  );
  return out;
});

/** @throws when an index lies outside [0, length) */
export function checkIndices(backend: DeviceBackend, indices: TensorInfo, length: number): void {
  const values = backend.readSync(indices.dataId);
  const bad = values.findIndex((value) => value < 0 || value >= length);
  if (bad >= 0) throw new Error(`index ${values[bad]} at position ${bad} lies outside [0, ${length})`);
}

/** Concatenates the columns of the last axis: the adjoint of SplitChannels. */
export function joinColumns(backend: DeviceBackend, parts: TensorInfo[]): TensorInfo {
  const first = parts[0] as TensorInfo;
  const columns = parts.reduce((sum, part) => sum + lastDim(part), 0);
  return joinAlong(backend, parts, [...first.shape.slice(0, -1), columns], first.shape.length - 1);
}

function joinAlong(backend: DeviceBackend, parts: TensorInfo[], shape: number[], axis: number): TensorInfo {
  const out = backend.output(shape, (parts[0] as TensorInfo).dtype);
  const to = stridesOf(shape);
  let begin = 0;
  for (const part of parts) {
    stridedCopy(backend, part.shape, part, stridesOf(part.shape), 0, out, to, begin * (to[axis] as number));
    begin += part.shape[axis] as number;
  }
  return out;
}

function slice(backend: DeviceBackend, x: TensorInfo, begin: number[], size: number[]): TensorInfo {
  const out = backend.output(size, x.dtype);
  const from = stridesOf(x.shape);
  const offset = begin.reduce((sum, first, i) => sum + first * (from[i] as number), 0);
  stridedCopy(backend, size, x, from, sizeOf(size) > 0 ? offset : 0, out, stridesOf(size), 0);
  return out;
}

function stridesOf(shape: readonly number[]): number[] {
  const strides: number[] = [];
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i] as number;
  }
  return strides;
}

/** Copies with at most six dimensions: adjacent ones that are contiguous on both sides are merged first. */
function stridedCopy(
  backend: DeviceBackend,
  dims: readonly number[],
  src: TensorInfo,
  srcStrides: readonly number[],
  srcOffset: number,
  dst: TensorInfo,
  dstStrides: readonly number[],
  dstOffset: number,
): void {
  if (sizeOf(dims) === 0) return;
  const merged: { size: number; from: number; to: number }[] = [];
  for (let i = dims.length - 1; i >= 0; i--) {
    const size = dims[i] as number;
    if (size === 1) continue;
    const [from, to] = [srcStrides[i] as number, dstStrides[i] as number];
    const inner = merged[0];
    if (inner && from === inner.from * inner.size && to === inner.to * inner.size) inner.size *= size;
    else merged.unshift({ size, from, to });
  }
  backend.addon.stridedCopy(
    backend.device,
    NATIVE_DTYPE[src.dtype as NativeDType],
    merged.length,
    Int32Array.from(merged, (dim) => dim.size),
    Int32Array.from(merged, (dim) => dim.from),
    Int32Array.from(merged, (dim) => dim.to),
    backend.handle(src),
    srcOffset,
    backend.handle(dst),
    dstOffset,
  );
}
