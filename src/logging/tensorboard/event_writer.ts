// SPDX-License-Identifier: Apache-2.0
/**
 * Event files of TensorBoard: TFRecords (length, its checksum, data, its checksum) of tensorflow's Event messages, as
 * `tensorboard --logdir` reads them. Each call is in the file when it returns.
 */
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileError, writeFully } from '../../files.ts';
import { maskedCrc32c } from './crc32c.ts';
import { type ProtoWriter, protoWriter } from './protobuf.ts';
import {
  type HparamValue,
  histogramValue,
  hparamsValues,
  type SessionStatus,
  scalarValue,
  sessionEndValue,
  textValue,
} from './summaries.ts';

/** Writes one event file; `step` is the optimizer step, or whatever a chart's axis counts. */
export interface EventWriter {
  /** Points of several charts at one step. A tag's part before the first slash groups its charts. */
  scalars(step: number, values: Readonly<Record<string, number>>): void;
  /** Shown as Markdown. */
  text(step: number, tag: string, markdown: string): void;
  /** @param values at least one; those that are not finite are left out, and nothing is written when none is left */
  histogram(step: number, tag: string, values: ArrayLike<number>): void;
  /** The settings by which the HPARAMS page compares runs, and the scalars it compares. Once a file. */
  hparams(values: Readonly<Record<string, HparamValue>>, metrics: readonly string[]): void;
  /** Says on the HPARAMS page how the run ended, and closes the file. A second call does nothing. */
  close(status?: SessionStatus): void;
}

export interface EventWriterOptions {
  /** Readers forget what earlier files of the folder hold from this step on: for a run that is resumed. Default: nothing. */
  purgeStep?: number;
}

let filesOpened = 0;

/**
 * Starts a new event file in a folder, which is made when it is missing.
 * @throws UserError when it cannot be written; so do the writer's calls
 */
export function createEventWriter(folder: string, { purgeStep }: EventWriterOptions = {}): EventWriter {
  const seconds = String(Math.floor(Date.now() / 1000)).padStart(10, '0');
  const path = join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${filesOpened++}`);
  let isClosed = false;
  const attempt = <T>(action: () => T): T => {
    try {
      return action();
    } catch (error) {
      throw fileError(error, path, 'write');
    }
  };
  const descriptor = attempt(() => {
    mkdirSync(folder, { recursive: true });
    return openSync(path, 'wx');
  });
  const append = (step: number, fill: (event: ProtoWriter) => void) => {
    const event = protoWriter()
      .double(1, Date.now() / 1000)
      .integer(2, step);
    fill(event);
    attempt(() => writeFully(descriptor, tfRecord(event.finish())));
  };
  const summary = (step: number, values: readonly Uint8Array[]) => {
    const message = protoWriter();
    for (const value of values) message.bytes(1, value);
    append(step, (event) => event.bytes(5, message.finish()));
  };

  append(0, (event) => event.string(3, 'brain.Event:2').bytes(10, protoWriter().string(1, 'mambatune').finish()));
  if (purgeStep !== undefined) append(purgeStep, (event) => event.bytes(7, protoWriter().integer(1, 1).finish()));

  return {
    scalars: (step, values) =>
      summary(
        step,
        Object.entries(values).map(([tag, value]) => scalarValue(tag, value)),
      ),
    text: (step, tag, markdown) => summary(step, [textValue(tag, markdown)]),
    histogram: (step, tag, values) => {
      const finite = Array.from(values).filter(Number.isFinite);
      if (finite.length > 0) summary(step, [histogramValue(tag, finite)]);
    },
    hparams: (values, metrics) => summary(0, hparamsValues(values, metrics, Date.now() / 1000)),
    close: (status) => {
      if (isClosed) return;
      isClosed = true;
      try {
        if (status !== undefined) summary(0, [sessionEndValue(status, Date.now() / 1000)]);
      } finally {
        closeSync(descriptor);
      }
    },
  };
}

function tfRecord(data: Uint8Array): Uint8Array {
  const record = Buffer.alloc(data.byteLength + 16);
  record.writeBigUInt64LE(BigInt(data.byteLength), 0);
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedCrc32c(data), 12 + data.byteLength);
  return record;
}
