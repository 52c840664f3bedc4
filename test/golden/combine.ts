// SPDX-License-Identifier: Apache-2.0
/** Combinations of adapters that were made by peft (README.md says how), and how to compare with them. */
import { join } from 'node:path';
import { expect } from 'vitest';
import { type ModuleAdapter, readAdapterFolder } from '../../adapters/adapter_folder.ts';
import type { CombineOptions } from '../../adapters/index.ts';
import { createRandom, randomStreams } from '../../src/random.ts';
import { expectClose } from '../helpers/compare.ts';
import { GOLDEN_FOLDER } from './golden.ts';

export const COMBINE_FOLDER = join(GOLDEN_FOLDER, 'combine');
const adapter = {
  a: join(GOLDEN_FOLDER, 'tied', 'adapter'),
  b: join(COMBINE_FOLDER, 'b'),
  c: join(COMBINE_FOLDER, 'c'),
};

export interface CombineCase {
  name: string;
  folders: string[];
  weights: number[];
  options: CombineOptions;
}

const pair = { folders: [adapter.a, adapter.b], weights: [0.7, -1.3] };
const any = { folders: [adapter.a, adapter.b, adapter.c], weights: [0.7, -1.3, 0.4] };

export const COMBINE_CASES: CombineCase[] = [
  { name: 'linear', ...pair, options: { combinationType: 'linear' } },
  { name: 'cat', ...any, options: { combinationType: 'cat' } },
  // Without dt_proj, whose input is narrower than the rank: peft fails there.
  { name: 'svd', folders: [adapter.a, adapter.c], weights: [0.7, -1.3], options: { combinationType: 'svd' } },
  { name: 'svd_rank_2', ...any, options: { combinationType: 'svd', svdRank: 2 } },
  { name: 'ties', ...pair, options: { combinationType: 'ties', density: 0.4 } },
  {
    name: 'ties_frequency',
    ...pair,
    options: { combinationType: 'ties', density: 0.6, majoritySignMethod: 'frequency' },
  },
  { name: 'magnitude_prune', ...pair, options: { combinationType: 'magnitude_prune', density: 0.3 } },
  { name: 'dare_linear', ...pair, options: { combinationType: 'dare_linear', density: 0.5, seed: 3 } },
  { name: 'dare_ties', ...pair, options: { combinationType: 'dare_ties', density: 0.5, seed: 4 } },
  { name: 'one', folders: [adapter.b], weights: [-0.5], options: {} },
];

/** Fails unless two adapters hold the same matrices; of `svd` the same products, as singular vectors have no sign of their own. */
export function expectSameAdapter(found: string, wanted: string, type: string): void {
  const [ours, theirs] = [found, wanted].map((folder) => readAdapterFolder(folder).modules);
  if (!ours || !theirs) throw new Error('unreachable');
  expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort());
  for (const [name, module] of ours) {
    const other = theirs.get(name) as ModuleAdapter;
    expect(module.A.shape, name).toEqual(other.A.shape);
    if (type.startsWith('svd')) {
      expectClose(product(module), product(other), { rtol: 1e-5, name });
      continue;
    }
    for (const side of ['A', 'B'] as const) expectClose(module[side].data, other[side].data, { rtol: 1e-5, name });
  }
}

function product({ A, B, rank }: ModuleAdapter): Float64Array {
  const columns = A.shape[1];
  return new Float64Array(B.shape[0] * columns).map((_, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += (B.data[row * rank + k] as number) * (A.data[k * columns + column] as number);
    return sum;
  });
}

/**
 * The masks that `dare_*` draws, in the order in which peft asks for them: by module as the model has them, A of each adapter, then B.
 * @param modules the model's modules, in its order
 */
export function dareMasks({ folders, options }: CombineCase, modules: readonly string[]): number[][] {
  const { combinationType = '', density = 1, seed = 0 } = options;
  if (!combinationType.startsWith('dare')) return [];
  const adapters = folders.map((folder) => readAdapterFolder(folder).modules);
  const names = [...new Set(adapters.flatMap((adapterModules) => [...adapterModules.keys()]))];
  return modules
    .filter((name) => names.includes(name))
    .flatMap((name) =>
      (['A', 'B'] as const).flatMap((side, sideIndex) => {
        const parts = adapters.flatMap((adapterModules) => adapterModules.get(name) ?? []);
        return parts.map((part, i) => {
          const substream = (2 * names.indexOf(name) + sideIndex) * parts.length + i;
          const random = createRandom({ seed, stream: randomStreams.pruning, substream });
          return Array.from(part[side].data, () => Number(random.uniform() < density));
        });
      }),
    );
}
