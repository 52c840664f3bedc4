// SPDX-License-Identifier: Apache-2.0
/**
 * Finds and loads the native addon, and types what it exports. Argument lists follow native/binding/*.cc: an operand given as
 * {@link Rows} is three numbers (handle, offset, row stride), a weight two (handle, and 0: it may change, 1: frozen, 2: frozen and of bfloat16 values); handle 0 is an absent operand.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../errors.ts';

/** Index of a device in the addon. */
export const DEVICE_INDEX = { native: 0, cuda: 1 } as const;
export type DeviceName = keyof typeof DEVICE_INDEX;

export interface MemoryStats {
  /** Bytes in use by buffers now. */
  liveBytes: number;
  /** Highest `liveBytes` since the last reset. */
  peakBytes: number;
  /** Bytes held for reuse, not in use. */
  cachedBytes: number;
  liveBuffers: number;
  /** Bytes of packed copies of frozen weights. */
  weightCacheBytes: number;
}

type Handle = number;
type Call = (device: number, ...args: (number | boolean | ArrayBufferView)[]) => void;

export interface Addon {
  /** Opens the CUDA plugin: '' or the reason why not. */
  openCuda(path: string): string;
  /** Facts about a device as JSON text. */
  describe(device: number): string;
  allocate(device: number, bytes: number): Handle;
  release(handle: Handle): void;
  write(handle: Handle, data: ArrayBufferView, byteOffset: number): void;
  read(handle: Handle, into: ArrayBufferView, byteOffset: number): void;
  memoryStats(device: number): MemoryStats;
  resetPeak(device: number): void;
  trim(device: number): void;
  synchronize(device: number): void;
  /** 0 highest, 1 high, 2 medium. Throws where the device has no other than highest. */
  setMatmulPrecision(device: number, precision: number): void;
  /** Ops are recorded from here on, not run (native/include/device.h says what that forbids). Throws on a device without graphs. */
  graphBegin(device: number): void;
  /** Ends the recording: the graph. */
  graphEnd(device: number): number;
  /** Ends a recording that went wrong. */
  graphDiscard(device: number): void;
  graphLaunch(device: number, graph: number): void;
  graphRelease(device: number, graph: number): void;

  /** What is enqueued from here to beginSide runs beside what is enqueued from there to endBeside; not on every device. */
  beginBeside(device: number): void;
  beginSide(device: number): void;
  endBeside(device: number): void;

  selectiveScanCheckpointSize(device: number, batch: number, seqlen: number, dInner: number, dState: number): number;
  selectiveScanFwd: Call;
  selectiveScanBwd: Call;
  causalConv1dFwd: Call;
  causalConv1dBwd: Call;
  /** Whether causalConv1dBwd of these sizes and row strides can do the backward of x_proj ([n, dInner], rank r) as well. */
  causalConv1dBwdTakesXProj(
    device: number,
    dInner: number,
    dConv: number,
    xRowStride: number,
    dxRowStride: number,
    n: number,
    r: number,
  ): boolean;
  rmsNormFwd: Call;
  rmsNormBwd: Call;
  /** Of the forward's operands: whether its backward wants xa. */
  loraLinearKeepsXa(device: number, ...operands: (number | boolean)[]): boolean;
  loraLinearFwd: Call;
  loraLinearBwd: Call;
  loraEmbeddingFwd: Call;
  loraEmbeddingBwd: Call;
  linearCrossEntropy: Call;
  mambaLayerStep: Call;
  globalNorm: Call;
  adamwStep: Call;

  unary: Call;
  binary: Call;
  select: Call;
  reduce: Call;
  cumsum: Call;
  matmul: Call;
  stridedCopy: Call;
  gather: Call;
  cast: Call;
  fill: Call;
  softmax: Call;
  chooseLikeliest: Call;
  sampleToken: Call;
}

export interface AddonLoad {
  addon?: Addon;
  /** Where it was loaded from. */
  path?: string;
  /** One line for each place that was tried without success. */
  reasons: string[];
}

/** The package's root folder, from the sources as from the built package. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

let loaded: AddonLoad | undefined;

/**
 * Loads the addon once, from the first of: the file named by the environment variable `MAMBATUNE_NATIVE`, the prebuilt package
 * `@mambatune/native-<platform>-<arch>`, and what `npm run build:native` built. Never throws: the reasons say what failed.
 */
export function loadAddon(): AddonLoad {
  loaded ??= tryCandidates();
  return loaded;
}

function tryCandidates(): AddonLoad {
  const require = createRequire(import.meta.url);
  const target = `${process.platform}-${process.arch}`;
  const override = process.env.MAMBATUNE_NATIVE;
  const candidates = override
    ? [override]
    : [`@mambatune/native-${target}/native.node`, join(packageRoot(), 'build', target, 'native.node')];
  const reasons: string[] = [];
  for (const path of candidates) {
    try {
      return { addon: require(path) as Addon, path, reasons };
    } catch (error) {
      reasons.push(`${path}: ${messageOf(error).split('\n')[0]}`);
    }
  }
  return { reasons };
}
