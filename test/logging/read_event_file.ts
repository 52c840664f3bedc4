// SPDX-License-Identifier: Apache-2.0
/** A small reader of event files that shares nothing with their writer: framing, checksums, and the fields that are looked at. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface DecodedValue {
  tag: string;
  plugin?: string;
  content?: Buffer;
  scalar?: number;
  text?: string;
  histogram?: {
    min: number;
    max: number;
    num: number;
    sum: number;
    squares: number;
    limits: number[];
    counts: number[];
  };
}

export interface DecodedEvent {
  wallTime: number;
  step: number;
  fileVersion?: string;
  sessionStatus?: number;
  values: DecodedValue[];
}

/** Fields of a message: whole numbers, the bytes of fixed-size numbers, strings and messages. */
export type Fields = { field: number; value: number | Buffer }[];

/** The one event file of a folder. */
export function readEventFolder(folder: string): DecodedEvent[] {
  const names = readdirSync(folder).filter((name) => name.includes('tfevents'));
  if (names.length !== 1) throw new Error(`${folder}: ${names.length} event files`);
  return readEventFile(join(folder, String(names[0])));
}

/** @throws Error at the first record whose length or data does not fit its checksum */
export function readEventFile(path: string): DecodedEvent[] {
  const bytes = readFileSync(path);
  const events: DecodedEvent[] = [];
  for (let offset = 0; offset < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(offset));
    checkCrc(bytes.subarray(offset, offset + 8), bytes.readUInt32LE(offset + 8), `length at ${offset}`);
    const data = bytes.subarray(offset + 12, offset + 12 + length);
    checkCrc(data, bytes.readUInt32LE(offset + 12 + length), `data at ${offset}`);
    events.push(decodeEvent(data));
    offset += length + 16;
  }
  return events;
}

/** The points of a scalar's chart. */
export function scalarsOf(events: readonly DecodedEvent[], tag: string): [number, number][] {
  return events.flatMap(({ step, values }) =>
    values.flatMap((value): [number, number][] =>
      value.tag === tag && value.scalar !== undefined ? [[step, value.scalar]] : [],
    ),
  );
}

export function decodeMessage(bytes: Buffer): Fields {
  const fields: Fields = [];
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error('a message ends within a number');
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(value);
    }
  };
  const take = (size: number) => {
    if (at + size > bytes.length) throw new Error('a message ends within a field');
    at += size;
    return bytes.subarray(at - size, at);
  };
  while (at < bytes.length) {
    const key = varint();
    const wire = key & 7;
    if (![0, 1, 2, 5].includes(wire)) throw new Error(`wire type ${wire}`);
    const value = wire === 0 ? varint() : take(wire === 1 ? 8 : wire === 5 ? 4 : varint());
    fields.push({ field: key >>> 3, value });
  }
  return fields;
}

/** Values of a field that are bytes. */
export function all(fields: Fields, field: number): Buffer[] {
  return fields.flatMap((one) => (one.field === field && Buffer.isBuffer(one.value) ? [one.value] : []));
}

export function number(fields: Fields, field: number): number | undefined {
  const value = fields.find((one) => one.field === field)?.value;
  return typeof value === 'number' ? value : undefined;
}

function decodeEvent(data: Buffer): DecodedEvent {
  const fields = decodeMessage(data);
  const [session] = all(fields, 7);
  return {
    wallTime: all(fields, 1)[0]?.readDoubleLE() ?? Number.NaN,
    step: number(fields, 2) ?? 0,
    fileVersion: all(fields, 3)[0]?.toString(),
    sessionStatus: session && number(decodeMessage(session), 1),
    values: all(fields, 5).flatMap((summary) => all(decodeMessage(summary), 1).map(decodeValue)),
  };
}

function decodeValue(bytes: Buffer): DecodedValue {
  const fields = decodeMessage(bytes);
  const [metadata] = all(fields, 9);
  const [plugin] = metadata ? all(decodeMessage(metadata), 1).map(decodeMessage) : [];
  const [tensor] = all(fields, 8).map(decodeMessage);
  const [histogram] = all(fields, 5).map(decodeMessage);
  const double = (field: number) => all(histogram ?? [], field)[0]?.readDoubleLE() ?? Number.NaN;
  const doubles = (field: number) => {
    const packed = all(histogram ?? [], field)[0] ?? Buffer.alloc(0);
    return Array.from({ length: packed.length / 8 }, (_, i) => packed.readDoubleLE(i * 8));
  };
  return {
    tag: String(all(fields, 1)[0]),
    plugin: plugin && all(plugin, 1)[0]?.toString(),
    content: plugin && all(plugin, 2)[0],
    scalar: all(fields, 2)[0]?.readFloatLE(),
    text: tensor && all(tensor, 8)[0]?.toString(),
    ...(histogram && {
      histogram: {
        min: double(1),
        max: double(2),
        num: double(3),
        sum: double(4),
        squares: double(5),
        limits: doubles(6),
        counts: doubles(7),
      },
    }),
  };
}

function checkCrc(data: Uint8Array, stored: number, where: string): void {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0x82f63b78 & -(crc & 1));
  }
  crc = ~crc >>> 0;
  const masked = Number((BigInt((crc >>> 15) | 0) + BigInt((crc << 17) >>> 0) + 0xa282ead8n) & 0xffffffffn);
  if (masked !== stored) throw new Error(`${where}: checksum ${stored}, expected ${masked}`);
}
