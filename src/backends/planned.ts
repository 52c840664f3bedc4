// SPDX-License-Identifier: Apache-2.0
/**
 * A device that computes nothing: it counts the bytes that the native CPU backend would have in use. What runs on it asks for the same
 * buffers, in the same order, as it does there, and gives zeros.
 */
import * as tf from '@tensorflow/tfjs-core';
import { type Addon, loadAddon, type MemoryStats } from './addon.ts';
import { DeviceBackend } from './device_backend.ts';
import { registerDeviceKernels } from './kernels/all.ts';

/** The bytes in use when most are, by what they were allocated for. */
export interface PlannedPeak {
  bytes: number;
  byPurpose: ReadonlyMap<string, number>;
}

export interface PlannedDevice {
  /** Whether steps can run: the native addon is there, which knows the sizes of its buffers. */
  readonly runsSteps: boolean;
  /** What is allocated from here on is for this. */
  setPurpose(purpose: string): void;
  /** Says what tensors were for that were allocated already. */
  mark(tensors: Iterable<tf.Tensor>, purpose: string): void;
  /** A variable of the device, without values. */
  variable(shape: number[]): tf.Variable;
  peak(): PlannedPeak;
}

/** What the working memory of a loss is for. */
export const LOGITS = 'logits';
const NAME = 'planned';

/** Runs `body` with every tensor on a device that only counts. The backend before is selected again then. */
export async function onPlannedDevice<T>(body: (device: PlannedDevice) => T | Promise<T>): Promise<T> {
  const { addon: native } = loadAddon();
  const before = tf.getBackend();
  const ledger = createLedger();
  registerDeviceKernels(NAME);
  const backend = new DeviceBackend(countingAddon(ledger, native), 'native');
  tf.registerBackend(NAME, () => backend, 0);
  await tf.setBackend(NAME);
  try {
    return await body({
      runsSteps: native !== undefined,
      setPurpose: ledger.setPurpose,
      mark: (tensors, purpose) => {
        for (const tensor of tensors) ledger.mark(backend.handle(tensor), purpose);
      },
      variable: (shape) =>
        tf.tidy(() => tf.variable(tf.engine().makeTensorFromTensorInfo(backend.output(shape)), false)),
      peak: ledger.peak,
    });
  } finally {
    if (before) await tf.setBackend(before);
    tf.removeBackend(NAME);
  }
}

interface Ledger {
  setPurpose(purpose: string): void;
  mark(handle: number, purpose: string): void;
  allocate(bytes: number): number;
  release(handle: number): void;
  /** Bytes that a kernel has in use while it runs. */
  borrow(bytes: number, purpose: string): void;
  stats(): MemoryStats;
  peak(): PlannedPeak;
}

/** Keeps every allocation and release, so that what was in use at the peak can be named afterwards. */
function createLedger(): Ledger {
  const bytesOf = [0];
  const purposeOf = [''];
  /** A handle where it was allocated, its negative where it was released. */
  const events: number[] = [];
  let purpose = '';
  let [live, most, eventsAtMost] = [0, 0, 0];
  const allocate = (bytes: number): number => {
    const handle = bytesOf.push(bytes) - 1;
    purposeOf.push(purpose);
    events.push(handle);
    live += bytes;
    if (live > most) [most, eventsAtMost] = [live, events.length];
    return handle;
  };
  const release = (handle: number): void => {
    events.push(-handle);
    live -= bytesOf[handle] as number;
  };
  return {
    setPurpose: (next) => {
      purpose = next;
    },
    mark: (handle, name) => {
      purposeOf[handle] = name;
    },
    allocate,
    release,
    borrow: (bytes, name) => {
      const handle = allocate(bytes);
      purposeOf[handle] = name;
      release(handle);
    },
    stats: () => ({ liveBytes: live, peakBytes: most, cachedBytes: 0, liveBuffers: 0, weightCacheBytes: 0 }),
    peak: () => {
      const byPurpose = new Map<string, number>();
      for (const event of events.slice(0, eventsAtMost)) {
        const handle = Math.abs(event);
        const name = purposeOf[handle] as string;
        byPurpose.set(name, (byPurpose.get(name) ?? 0) + Math.sign(event) * (bytesOf[handle] as number));
      }
      return { bytes: most, byPurpose };
    },
  };
}

function countingAddon(ledger: Ledger, native: Addon | undefined): Addon {
  const own: Partial<Addon> = {
    allocate: (_, bytes) => ledger.allocate(bytes),
    release: ledger.release,
    memoryStats: ledger.stats,
    read: () => {},
    loraLinearKeepsXa: () => true,
    ...(native && { selectiveScanCheckpointSize: native.selectiveScanCheckpointSize }),
    linearCrossEntropy: (_, rows, columns, vocabulary) =>
      ledger.borrow(lossBytes(Number(rows), Number(columns), Number(vocabulary)), LOGITS),
  };
  const nothing = () => 0;
  return new Proxy(own, { get: (target, name) => target[name as keyof Addon] ?? nothing }) as Addon;
}

/** What native/cpu/linear_cross_entropy.cc keeps while it runs: rows with a label, their states, gradients of parts. */
function lossBytes(rows: number, columns: number, vocabulary: number): number {
  const [blockRows, wantedTasks, minPart, maxPartialFloats] = [128, 32, 1024, 2 ** 22];
  const parts = Math.min(
    Math.ceil(wantedTasks / Math.ceil(rows / blockRows)),
    Math.ceil(vocabulary / minPart),
    1 + Math.floor(maxPartialFloats / (rows * columns)),
  );
  return 4 * (rows * (columns + 1) + 4 * parts * rows + (parts - 1) * rows * columns);
}
