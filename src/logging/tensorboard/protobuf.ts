// SPDX-License-Identifier: Apache-2.0
/** The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding), as far as event files need it. */

/** A message, field after field. A field that holds its type's default is written all the same; readers do not mind. */
export interface ProtoWriter {
  /** int32, int64 and enums: a whole number from 0 to 2^53. */
  integer(field: number, value: number): ProtoWriter;
  double(field: number, value: number): ProtoWriter;
  float(field: number, value: number): ProtoWriter;
  /** UTF-8. */
  string(field: number, value: string): ProtoWriter;
  /** bytes, or a message within this one. */
  bytes(field: number, value: Uint8Array): ProtoWriter;
  /** repeated double, packed. */
  doubles(field: number, values: ArrayLike<number>): ProtoWriter;
  finish(): Uint8Array;
}

const WIRE = { varint: 0, fixed64: 1, length: 2, fixed32: 5 } as const;

export function protoWriter(): ProtoWriter {
  const parts: Uint8Array[] = [];
  const tag = (field: number, wire: number) => parts.push(varint(field * 8 + wire));
  const delimited = (field: number, value: Uint8Array) => {
    tag(field, WIRE.length);
    parts.push(varint(value.byteLength), value);
    return writer;
  };
  const writer: ProtoWriter = {
    integer: (field, value) => {
      tag(field, WIRE.varint);
      parts.push(varint(value));
      return writer;
    },
    double: (field, value) => {
      tag(field, WIRE.fixed64);
      parts.push(littleEndian([value], 8));
      return writer;
    },
    float: (field, value) => {
      tag(field, WIRE.fixed32);
      parts.push(littleEndian([value], 4));
      return writer;
    },
    string: (field, value) => delimited(field, Buffer.from(value, 'utf8')),
    bytes: delimited,
    doubles: (field, values) => delimited(field, littleEndian(values, 8)),
    finish: () => Buffer.concat(parts),
  };
  return writer;
}

function varint(value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`a varint of ${value}`);
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

function littleEndian(values: ArrayLike<number>, size: 4 | 8): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * size));
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (size === 8) view.setFloat64(i * 8, value, true);
    else view.setFloat32(i * 4, value, true);
  }
  return new Uint8Array(view.buffer);
}
