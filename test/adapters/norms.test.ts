// SPDX-License-Identifier: Apache-2.0
/** Norms of an adapter's updates, against the products themselves. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { adapterNorms, PeftModel } from '../../adapters/index.ts';
import { selectBackend } from '../../src/backends/select.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { readGolden } from '../golden/golden.ts';
import { testedBackends } from '../helpers/backends.ts';
import { liveMemory } from '../helpers/memory.ts';

describe.each(testedBackends())('adapter norms on %s', (backend) => {
  beforeAll(async () => {
    await selectBackend(backend);
  });

  it.each(['tied', 'rslora'])(
    '%s: of each module, the norm of scaling * B A, and its share of the weight’s',
    async (name) => {
      const { folder } = readGolden(name);
      const model = await MambaForCausalLM.fromPretrained(join(folder, 'model'), { backend });
      onTestFinished(() => model.dispose());
      const peft = PeftModel.fromPretrained(model, join(folder, 'adapter'));
      const before = liveMemory();
      const norms = adapterNorms(peft);
      expect(liveMemory()).toEqual(before);

      const adapted = [...model.modules.values()].filter((module) => module.lora !== null);
      expect([...norms.keys()]).toEqual(adapted.map((module) => module.name));
      for (const { name: moduleName, weight, lora } of adapted) {
        if (!lora) continue;
        const [r = 0, inputs = 0] = lora.A.shape;
        const [A, B] = [lora.A.dataSync<'float32'>(), lora.B.dataSync<'float32'>()];
        let square = 0;
        for (let row = 0; row < (lora.B.shape[0] as number); row++) {
          for (let column = 0; column < inputs; column++) {
            let value = 0;
            for (let k = 0; k < r; k++) value += (B[row * r + k] as number) * (A[k * inputs + column] as number);
            square += (lora.scaling * value) ** 2;
          }
        }
        const found = norms.get(moduleName);
        const weightNorm = Math.hypot(...weight.dataSync<'float32'>());
        expect(Math.sqrt(square), moduleName).toBeGreaterThan(0);
        expect((found?.norm ?? 0) / Math.sqrt(square), moduleName).toBeCloseTo(1, 4);
        expect(((found?.relative ?? 0) * weightNorm) / Math.sqrt(square), moduleName).toBeCloseTo(1, 4);
      }
    },
  );
});
