// SPDX-License-Identifier: Apache-2.0
/** The dropout mask of native/include/lora_linear.h, with a Philox4x32-10 of its own on 64-bit integers. */

const MASK = 0xffffffffn;

/** Philox4x32-10 as in Salmon et al. 2011, table 2 and section 3.3. */
function philox(counter: [bigint, bigint, bigint, bigint], key: [bigint, bigint]): [bigint, bigint, bigint, bigint] {
  let [x0, x1, x2, x3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const p0 = x0 * 0xd2511f53n;
    const p1 = x2 * 0xcd9e8d57n;
    [x0, x1, x2, x3] = [(p1 >> 32n) ^ x1 ^ k0, p1 & MASK, (p0 >> 32n) ^ x3 ^ k1, p0 & MASK];
    k0 = (k0 + 0x9e3779b9n) & MASK;
    k1 = (k1 + 0xbb67ae85n) & MASK;
  }
  return [x0, x1, x2, x3];
}

/** 0 for a dropped element, 1 / (1 - p) for a kept one. */
export function dropoutMask(size: number, p: number, seed: number, offset: number): Float64Array {
  const [s, o] = [BigInt(seed), BigInt(offset)];
  const mask = new Float64Array(size);
  for (let e = 0; e < size; e++) {
    const block = BigInt(Math.floor(e / 4));
    const words = philox([block & MASK, block >> 32n, o & MASK, o >> 32n], [s & MASK, s >> 32n]);
    const threshold = Math.ceil(Math.fround(p) * 2 ** 32);
    mask[e] = Number(words[e % 4] as bigint) >= threshold ? 1 / (1 - p) : 0;
  }
  return mask;
}
