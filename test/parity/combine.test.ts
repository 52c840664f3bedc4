// SPDX-License-Identifier: Apache-2.0
/** Combined adapters against add_weighted_adapter of peft, and the goldens of test/golden/combine against it. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, inject, it } from 'vitest';
import { combineAdapters } from '../../adapters/index.ts';
import { openStreamedModel } from '../../src/model/streamed_model.ts';
import { COMBINE_CASES, COMBINE_FOLDER, dareMasks, expectSameAdapter } from '../golden/combine.ts';
import { GOLDEN_FOLDER } from '../golden/golden.ts';
import { temporaryFolder } from '../helpers/temporary_folder.ts';
import { type Python, startPython } from './python.ts';

const interpreter = inject('python');
const MODEL = join(GOLDEN_FOLDER, 'tied', 'model');

describe.runIf(interpreter)('combining', () => {
  let python: Python;
  beforeAll(() => {
    python = startPython(interpreter as string);
  });
  afterAll(() => python.stop());

  it.each(COMBINE_CASES)('$name', async (combineCase) => {
    const { name, folders, weights, options } = combineCase;
    const folder = temporaryFolder();
    const base = openStreamedModel(MODEL);
    const masks = dareMasks(combineCase, [...base.modules.keys()]);
    base.close();
    await combineAdapters(folders, weights, join(folder, 'ours'), { ...options, baseModelNameOrPath: 'tied' });
    await python.ask('combine', {
      model: MODEL,
      adapters: folders,
      weights,
      options: peftOptions(options),
      masks,
      output: folder,
    });
    expectSameAdapter(join(folder, 'ours'), join(folder, 'combined'), name);
    const golden = join(COMBINE_FOLDER, name);
    // MAMBATUNE_WRITE_GOLDENS=1 makes the goldens anew.
    if (process.env.MAMBATUNE_WRITE_GOLDENS === '1') {
      for (const file of ['adapter_config.json', 'adapter_model.safetensors']) {
        cpSync(join(folder, 'combined', file), join(golden, file));
      }
    }
    expectSameAdapter(golden, join(folder, 'combined'), name);
  });
});

function peftOptions({
  combinationType,
  svdRank,
  density,
  majoritySignMethod,
}: (typeof COMBINE_CASES)[number]['options']) {
  return {
    ...(combinationType && { combination_type: combinationType }),
    ...(svdRank && { svd_rank: svdRank }),
    ...(density && { density }),
    ...(majoritySignMethod && { majority_sign_method: majoritySignMethod }),
  };
}
