// SPDX-License-Identifier: Apache-2.0
/** Seeded damage to files: to their bytes, to the words of a text, to the values of a JSON tree. */

const BYTES = [0, 1, 0x7f, 0x80, 0xff, ...Buffer.from('"{}[],:\\\n\r\t \'-#&*!|>%@`')];
const WORDS = [
  ...['0', '-1', '1e308', '1e999', '99999999999999999999', '0.5', 'NaN', 'null', 'true', '~', '""', '[]', '{}'],
  ...['"__proto__"', '"constructor"', '"../../etc/passwd"', '"\\u0000"', '"\\ud800"', '\ufeff', '[['.repeat(400)],
  ...['{"a":'.repeat(400), '"'.padEnd(20_000, 'x'), '&a [*a, *a]', '!!js/function', '? ', '- - - - ', '\u2028'],
];
const VALUES = [
  ...[null, true, false, 0, -1, 1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 1e308, -1e-300, '', 'x', '0', '-1', '\0', '\ud800'],
  ...['__proto__', 'constructor', '../../etc/passwd', '/dev/zero', '(a+)+$', '[', '.*', 'F32', 'x'.repeat(20_000)],
  ...[[], {}, [[]], [null], [-1], [2 ** 40], [2 ** 31, 2 ** 31], { a: 1 }, [0, 0, 0]],
];

/** Random numbers of a seed: mulberry32. */
export function createRandom(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit) => Math.floor(next() * limit);
  return { below, pick: (list) => list[below(list.length)], chance: (share) => next() < share };
}

/**
 * Damages bytes in one place, or a few.
 * @param hot where damage tells most: bytes at the beginning and at the end
 */
export function mutateBytes(bytes, random, other = bytes, hot = { head: 1024, tail: 512 }) {
  let result = Buffer.from(bytes);
  for (let count = random.pick([1, 1, 1, 2, 5]); count > 0; count--) result = damage(result, random, other, hot);
  return result;
}

function damage(bytes, random, other, { head, tail }) {
  const size = bytes.length;
  if (size === 0) return Buffer.from([random.pick(BYTES)]);
  const place = random.below(3);
  const at =
    place === 0
      ? random.below(Math.min(size, head))
      : place === 1
        ? size - 1 - random.below(Math.min(size, tail))
        : random.below(size);
  const length = Math.min(size - at, 1 + random.below(random.chance(0.2) ? size : 16));
  const before = bytes.subarray(0, at);
  const after = bytes.subarray(at);
  switch (random.below(9)) {
    case 0:
      bytes[at] ^= 1 << random.below(8);
      return bytes;
    case 1:
      bytes[at] = random.chance(0.5) ? random.pick(BYTES) : random.below(256);
      return bytes;
    case 2:
      return Buffer.concat([before, Buffer.from(Array.from({ length }, () => random.below(256))), after]);
    case 3:
      return Buffer.concat([before, bytes.subarray(at + length)]);
    case 4:
      return Buffer.concat([before, bytes.subarray(at, at + length), after]);
    case 5:
      return random.chance(0.3) ? Buffer.from(before) : bytes;
    case 6:
      return overwriteNumber(bytes, at, random);
    case 7: {
      const from = random.below(other.length);
      return Buffer.concat([before, other.subarray(from, from + length), after]);
    }
    default:
      bytes.fill(random.pick(BYTES), at, at + length);
      return bytes;
  }
}

/** Sizes and offsets of binary formats. */
function overwriteNumber(bytes, at, random) {
  const values = [0n, 1n, -1n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 40n, 2n ** 53n, 2n ** 63n - 1n];
  const value = BigInt.asUintN(64, random.pick([...values, BigInt(bytes.length), BigInt(bytes.length) - 1n]));
  const width = random.pick([2, 4, 8]);
  for (let i = 0; i < width && at + i < bytes.length; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 255n);
  return bytes;
}

/** Damages a text: whole words of it are replaced, lines repeated or dropped; now and then also its bytes. */
export function mutateText(bytes, random, other = bytes) {
  if (random.chance(0.35)) return mutateBytes(bytes, random, other);
  let text = bytes.toString('utf8');
  for (let count = random.pick([1, 1, 2, 4]); count > 0; count--) {
    const words = [...text.matchAll(/"(?:[^"\\]|\\.)*"|[\w.+-]+|[^\s\w]/g)];
    const word = words.length > 0 ? random.pick(words) : { index: 0, 0: '' };
    const end = word.index + word[0].length;
    const by = [
      random.pick(WORDS),
      '',
      word[0] + word[0],
      word[0].slice(1),
      '\n',
      words.length > 0 ? random.pick(words)[0] : '',
    ];
    text = text.slice(0, word.index) + random.pick(by) + text.slice(end);
  }
  if (random.chance(0.2)) {
    const lines = text.split('\n');
    lines.splice(random.below(lines.length), random.below(2), random.pick(lines));
    text = lines.join(random.pick(['\n', '\r\n', '\n\n']));
  }
  return Buffer.from(text);
}

/** Damages a JSON text: values of its tree are replaced, removed, doubled or wrapped; now and then the text. */
export function mutateJson(bytes, random, other = bytes) {
  if (random.chance(0.3)) return mutateText(bytes, random, other);
  const root = { value: JSON.parse(bytes.toString('utf8')) };
  for (let count = random.pick([1, 1, 3]); count > 0; count--) damageTree(root, random);
  return Buffer.from(JSON.stringify(root.value) ?? '');
}

function damageTree(root, random) {
  let parent = root;
  let key = 'value';
  while (isTree(parent[key]) && random.chance(0.85)) {
    const keys = Object.keys(parent[key]);
    if (keys.length === 0) break;
    parent = parent[key];
    key = random.pick(keys);
  }
  const value = parent[key];
  switch (random.below(7)) {
    case 0:
      if (Array.isArray(parent)) parent.splice(Number(key), 1);
      else delete parent[key];
      break;
    case 1:
      Object.defineProperty(parent, random.pick(['extra', '__proto__', 'toString', '0']), {
        value,
        enumerable: true,
        configurable: true,
        writable: true,
      });
      break;
    case 2: {
      let wrapped = value;
      for (let depth = random.pick([1, 2, 150, 250]); depth > 0; depth--) wrapped = [wrapped];
      parent[key] = wrapped;
      break;
    }
    case 3:
      if (Array.isArray(value)) value.push(...value.slice(0, 50));
      else
        parent[key] =
          typeof value === 'number' ? random.pick([-value, value + 1, value * 1e9, value / 3]) : JSON.stringify(value);
      break;
    default:
      parent[key] = structuredClone(random.pick(VALUES));
  }
}

function isTree(value) {
  return typeof value === 'object' && value !== null;
}

/** Damages a safetensors file: mostly its header, whose length is mended then. */
export function mutateSafetensors(bytes, random, other = bytes) {
  if (random.chance(0.4)) return mutateBytes(bytes, random, other);
  const size = Number(bytes.readBigUInt64LE(0));
  const header = mutateJson(bytes.subarray(8, 8 + size), random);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, bytes.subarray(8 + size)]);
}
