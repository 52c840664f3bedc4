// SPDX-License-Identifier: Apache-2.0
/**
 * The tfjs backend over a device of the native addon: lifetime of its data and nothing else (kernels are in kernels/).
 *
 * A tensor's data is a {@link Storage}: usually a whole buffer, sometimes the columns of a wider matrix (a view, as
 * `splitChannels` makes it). Kernels that can walk rows with a stride take {@link DeviceBackend.rows}; all others take
 * {@link DeviceBackend.handle}, which first gives a view a buffer of its own.
 */
import type { DataType, TensorInfo } from '@tensorflow/tfjs-core';
import { DataStorage, engine, KernelBackend, util } from '@tensorflow/tfjs-core';
import type { Addon, DeviceName, MemoryStats } from './addon.ts';
import { DEVICE_INDEX } from './addon.ts';

/** Enum of native/include/tensor_ops.h. */
export const NATIVE_DTYPE = { float32: 0, int32: 1, bool: 2 } as const;
export type NativeDType = keyof typeof NATIVE_DTYPE;
export type Rows = [handle: number, offset: number, rowStride: number];

interface SharedBuffer {
  handle: number;
  users: number;
}

interface Storage {
  buffer: SharedBuffer;
  dtype: NativeDType;
  size: number;
  refCount: number;
  /** Set for a view: element (row, column) lies at offset + row * stride + column of the buffer. */
  view?: { offset: number; stride: number; columns: number };
}

export class DeviceBackend extends KernelBackend {
  readonly addon: Addon;
  readonly device: number;
  private readonly storages: DataStorage<Storage>;
  private count = 0;

  constructor(addon: Addon, name: DeviceName) {
    super();
    this.addon = addon;
    this.device = DEVICE_INDEX[name];
    this.storages = new DataStorage<Storage>(this, engine());
  }

  /** A new uninitialised tensor. */
  output(shape: number[], dtype: DataType = 'float32'): TensorInfo {
    const size = util.sizeFromShape(shape);
    const native = nativeDType(dtype);
    const handle = this.addon.allocate(this.device, size * util.bytesPerElement(native));
    return this.register({ handle, users: 0 }, shape, native);
  }

  /** The handle of a tensor's contiguous data; 0 for an absent one. */
  handle(info: TensorInfo | undefined): number {
    if (!info) return 0;
    const storage = this.storageOf(info);
    if (storage.view) this.makeContiguous(storage);
    return storage.buffer.handle;
  }

  /** Rows of the last axis with their stride, without copying a view. */
  rows(info: TensorInfo | undefined): Rows {
    if (!info) return [0, 0, 0];
    const { buffer, view } = this.storageOf(info);
    if (!view) return [buffer.handle, 0, 0];
    if (view.columns !== info.shape[info.shape.length - 1]) return [this.handle(info), 0, 0];
    return [buffer.handle, view.offset, view.stride];
  }

  /** Columns [begin, begin + columns) of x's last axis as a view on x's data. */
  columnsView(x: TensorInfo, begin: number, columns: number): TensorInfo {
    const storage = this.storageOf(x);
    const width = x.shape[x.shape.length - 1] ?? 1;
    if (storage.view && storage.view.columns !== width) this.makeContiguous(storage);
    const { offset, stride } = storage.view ?? { offset: 0, stride: width };
    const shape = [...x.shape.slice(0, -1), columns];
    return this.register(storage.buffer, shape, storage.dtype, { offset: offset + begin, stride, columns });
  }

  /** The same data under another shape. */
  share(x: TensorInfo, shape: number[]): TensorInfo {
    const storage = this.storageOf(x);
    if (storage.view && storage.view.columns !== shape[shape.length - 1]) this.makeContiguous(storage);
    storage.refCount++;
    return { dataId: x.dataId, shape, dtype: x.dtype };
  }

  /** Replaces a tensor's values in place. */
  overwrite(info: TensorInfo, values: ArrayBufferView): void {
    this.addon.write(this.handle(info), values, 0);
  }

  /** Copies all of `source` over elements of `target` from `first` on. */
  copyInto(target: TensorInfo, first: number, source: TensorInfo): void {
    const dtype = nativeDType(source.dtype);
    const size = util.sizeFromShape(source.shape);
    const [length, step] = [Int32Array.of(size), Int32Array.of(1)];
    const [from, to] = [this.handle(source), this.handle(target)];
    this.addon.stridedCopy(this.device, NATIVE_DTYPE[dtype], 1, length, step, step, from, 0, to, first);
  }

  /**
   * Runs two parts of a schedule, neither of which reads or writes what the other writes: beside each other where the device can do that,
   * else one after the other. `main` is the one that takes longer.
   */
  beside(main: () => void, side: () => void): void {
    const { addon, device } = this;
    addon.beginBeside(device);
    try {
      try {
        main();
      } finally {
        addon.beginSide(device);
      }
      side();
    } finally {
      addon.endBeside(device);
    }
  }

  memoryStats(): MemoryStats {
    return this.addon.memoryStats(this.device);
  }

  override numDataIds(): number {
    return this.count;
  }

  override write(values: Float32Array | Int32Array | Uint8Array, shape: number[], dtype: DataType): object {
    const info = this.output(shape, dtype);
    this.addon.write(this.storageOf(info).buffer.handle, typedValues(values, nativeDType(dtype)), 0);
    return info.dataId;
  }

  override move(
    dataId: object,
    values: Float32Array | Int32Array | Uint8Array,
    shape: number[],
    dtype: DataType,
    refCount: number,
  ): void {
    const native = nativeDType(dtype);
    const size = util.sizeFromShape(shape);
    const handle = this.addon.allocate(this.device, size * util.bytesPerElement(native));
    this.addon.write(handle, typedValues(values, native), 0);
    this.storages.set(dataId, { buffer: { handle, users: 1 }, dtype: native, size, refCount });
    this.count++;
  }

  override readSync(dataId: object): Float32Array | Int32Array | Uint8Array {
    const storage = this.storages.get(dataId);
    if (storage.view) this.makeContiguous(storage);
    const into = newTypedArray(storage.dtype, storage.size);
    this.addon.read(storage.buffer.handle, into, 0);
    return into;
  }

  override async read(dataId: object): Promise<Float32Array | Int32Array | Uint8Array> {
    return this.readSync(dataId);
  }

  override refCount(dataId: object): number {
    return this.storages.has(dataId) ? this.storages.get(dataId).refCount : 0;
  }

  override incRef(dataId: object): void {
    this.storages.get(dataId).refCount++;
  }

  override disposeData(dataId: object, force = false): boolean {
    if (!this.storages.has(dataId)) return true;
    const storage = this.storages.get(dataId);
    storage.refCount--;
    if (!force && storage.refCount > 0) return false;
    this.dropBuffer(storage.buffer);
    this.storages.delete(dataId);
    this.count--;
    return true;
  }

  override memory(): { unreliable: boolean } {
    return { unreliable: false };
  }

  override floatPrecision(): 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7;
  }

  override timerAvailable(): boolean {
    return true;
  }

  override async time(f: () => void): Promise<{ kernelMs: number }> {
    const start = performance.now();
    f();
    this.addon.synchronize(this.device);
    return { kernelMs: performance.now() - start };
  }

  override dispose(): void {}

  private storageOf(info: TensorInfo): Storage {
    return this.storages.get(info.dataId);
  }

  private register(buffer: SharedBuffer, shape: number[], dtype: NativeDType, view?: Storage['view']): TensorInfo {
    const dataId = {};
    buffer.users++;
    this.storages.set(dataId, { buffer, dtype, size: util.sizeFromShape(shape), refCount: 1, ...(view && { view }) });
    this.count++;
    return { dataId, shape, dtype };
  }

  private dropBuffer(buffer: SharedBuffer): void {
    if (--buffer.users === 0) this.addon.release(buffer.handle);
  }

  private makeContiguous(storage: Storage): void {
    const { view } = storage;
    if (!view) return;
    const rows = storage.size / view.columns;
    const handle = this.addon.allocate(this.device, storage.size * util.bytesPerElement(storage.dtype));
    const dims = Int32Array.of(rows, view.columns);
    const from = Int32Array.of(view.stride, 1);
    const to = Int32Array.of(view.columns, 1);
    this.addon.stridedCopy(
      this.device,
      NATIVE_DTYPE[storage.dtype],
      2,
      dims,
      from,
      to,
      storage.buffer.handle,
      view.offset,
      handle,
      0,
    );
    this.dropBuffer(storage.buffer);
    storage.buffer = { handle, users: 1 };
    delete storage.view;
  }
}

function nativeDType(dtype: DataType): NativeDType {
  if (dtype === 'float32' || dtype === 'int32' || dtype === 'bool') return dtype;
  throw new Error(
    `tensors of dtype ${dtype} are not supported by the native backends; expected float32, int32 or bool`,
  );
}

function newTypedArray(dtype: NativeDType, size: number): Float32Array | Int32Array | Uint8Array {
  return dtype === 'float32' ? new Float32Array(size) : dtype === 'int32' ? new Int32Array(size) : new Uint8Array(size);
}

function typedValues(values: ArrayLike<number>, dtype: NativeDType): Float32Array | Int32Array | Uint8Array {
  if (dtype === 'float32') return values instanceof Float32Array ? values : Float32Array.from(values);
  if (dtype === 'int32') return values instanceof Int32Array ? values : Int32Array.from(values);
  return values instanceof Uint8Array ? values : Uint8Array.from(values);
}
