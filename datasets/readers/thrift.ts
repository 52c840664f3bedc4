// SPDX-License-Identifier: Apache-2.0
/** Checks structs of Thrift's compact protocol, as Parquet has them, before anything decodes them. */

const MAX_DEPTH = 32;
const MAX_VARINT_BYTES = 10;

/**
 * Walks the struct at `at`, of which nothing lies behind `end`, and no list claims more than there are bytes for.
 * @returns where it ends
 * @throws Error with the place in `bytes`
 */
export function checkThrift(bytes: Uint8Array, at: number, end: number): number {
  let place = at;
  const fail = (problem: string) => new Error(`byte ${place}: ${problem}`);
  const skip = (count: number): void => {
    if (count > end - place) throw fail(`found a length of ${count}; there are ${end - place} bytes`);
    place += count;
  };
  const next = (): number => {
    skip(1);
    return bytes[place - 1] as number;
  };
  const varint = (): number => {
    let value = 0;
    for (let index = 0; index < MAX_VARINT_BYTES; index++) {
      const byte = next();
      value += (byte & 0x7f) * 2 ** (7 * index);
      if (byte < 0x80) return value;
    }
    throw fail('a number does not end');
  };
  const element = (type: number, depth: number, isInList: boolean): void => {
    switch (type) {
      case 1:
      case 2:
        if (isInList) skip(1);
        return;
      case 3:
        skip(1);
        return;
      case 4:
      case 5:
      case 6:
        varint();
        return;
      case 7:
        skip(8);
        return;
      case 8:
        skip(varint());
        return;
      case 9: {
        const head = next();
        const count = head >> 4 === 15 ? varint() : head >> 4;
        if (count > end - place) throw fail(`a list claims ${count} entries; there are ${end - place} bytes`);
        for (let index = 0; index < count; index++) element(head & 15, depth + 1, true);
        return;
      }
      case 12:
        struct(depth + 1);
        return;
      default:
        throw fail(`found a value of the unknown type ${type}`);
    }
  };
  const struct = (depth: number): void => {
    if (depth > MAX_DEPTH) throw fail('structs are nested too deeply');
    for (let head = next(); (head & 15) !== 0; head = next()) {
      if (head >> 4 === 0) varint();
      element(head & 15, depth, false);
    }
  };
  struct(0);
  return place;
}
