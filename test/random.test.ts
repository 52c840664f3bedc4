// SPDX-License-Identifier: Apache-2.0
/** Philox4x32-10 against the known-answer vectors of its authors' library, and the numbers drawn from it. */
import { describe, expect, it } from 'vitest';
import { createRandom, philox4x32, randomStreams } from '../src/random.ts';

describe('philox4x32', () => {
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)('gives the known answer for counter %j', (counter, key, answer) => {
    expect(philox4x32(counter, key)).toEqual(answer);
  });
});

describe('createRandom', () => {
  it('draws the words of successive blocks in order', () => {
    const random = createRandom({ seed: 0 });
    const words = Array.from({ length: 6 }, () => random.uint32());
    expect(words).toEqual([...philox4x32([0, 0, 0, 0], [0, 0]), ...philox4x32([1, 0, 0, 0], [0, 0]).slice(0, 2)]);
  });

  it('uses all 53 bits of the seed and all of the position', () => {
    const random = createRandom({ seed: 2 ** 33 + 5, stream: 3, substream: 7, position: 2 ** 36 + 1 });
    expect(random.uint32()).toBe(philox4x32([0, 4, 7, 3], [5, 2])[1]);
  });

  it('continues from a saved state, also after an odd number of words', () => {
    const random = createRandom({ seed: 42, stream: randomStreams.init });
    for (let i = 0; i < 7; i++) random.uniform();
    const restored = createRandom(JSON.parse(JSON.stringify(random.state())));
    expect(Array.from({ length: 20 }, () => restored.normal())).toEqual(
      Array.from({ length: 20 }, () => random.normal()),
    );
  });

  it('gives different numbers on different streams, substreams and seeds', () => {
    const firsts = [
      { seed: 1 },
      { seed: 2 },
      { seed: 1 + 2 ** 32 },
      { seed: 1, stream: 1 },
      { seed: 1, substream: 1 },
    ].map((state) => createRandom(state).uint32());
    expect(new Set(firsts).size).toBe(5);
  });

  it('has the moments of the uniform and the normal distribution', () => {
    const random = createRandom({ seed: 7 });
    const n = 100_000;
    const uniforms = Array.from({ length: n }, () => random.uniform());
    const normals = Array.from({ length: n }, () => random.normal());
    const moment = (values: number[], power: number) => values.reduce((sum, x) => sum + x ** power, 0) / n;
    expect(Math.abs(moment(uniforms, 1) - 1 / 2)).toBeLessThan(0.004);
    expect(Math.abs(moment(uniforms, 2) - 1 / 3)).toBeLessThan(0.004);
    expect(uniforms.every((x) => x >= 0 && x < 1)).toBe(true);
    expect(Math.abs(moment(normals, 1))).toBeLessThan(0.013);
    expect(Math.abs(moment(normals, 2) - 1)).toBeLessThan(0.02);
    expect(Math.abs(moment(normals, 3))).toBeLessThan(0.05);
    expect(Math.abs(moment(normals, 4) - 3)).toBeLessThan(0.15);
  });

  it('draws integers below n evenly', () => {
    const random = createRandom({ seed: 3 });
    const counts = [0, 0, 0];
    for (let i = 0; i < 30_000; i++) {
      const value = random.below(3);
      counts[value] = (counts[value] ?? 0) + 1;
    }
    expect(counts.reduce((sum, count) => sum + count)).toBe(30_000);
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(350);
    expect(createRandom({ seed: 3 }).below(2 ** 32)).toBe(createRandom({ seed: 3 }).uint32());
  });

  it.each([
    { seed: -1 },
    { seed: 1.5 },
    { seed: 2 ** 53 },
    { seed: 0, stream: 2 ** 32 },
    { seed: 0, position: Number.NaN },
  ])('refuses %j', (state) => {
    expect(() => createRandom(state)).toThrow(
      /random (seed|stream|position): found .*; expected an integer in \[0, 2\^/,
    );
  });
});
