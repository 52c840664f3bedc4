// SPDX-License-Identifier: Apache-2.0
/** The model against transformers and peft: logits, hidden states, losses, padding, every LoRA gradient. */
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PeftModel } from '../../adapters/index.ts';
import { valueAndGradients } from '../../src/autograd/index.ts';
import { MambaForCausalLM } from '../../src/model/causal_lm.ts';
import { type Golden, readGolden } from '../golden/golden.ts';
import { forEachBackend, hasOwnKernels } from '../helpers/backends.ts';
import { expectClose } from '../helpers/compare.ts';
import { expectNoLeak } from '../helpers/memory.ts';

/** Relative to the largest magnitude; the worst measured on any backend is 1e-6. */
const RTOL = 1e-5;

const LAYOUTS = [
  ['tied', 'model'],
  ['tied', 'model-sharded'],
  ['tied', 'model-original'],
  ['rslora', 'model'],
  ['dora', 'model'],
  ['falcon_mamba', 'model'],
] as const;

forEachBackend((backend) => {
  describe.each(LAYOUTS)('%s/%s', (name, layout) => {
    const golden = readGolden(name);
    let model: MambaForCausalLM;

    beforeEach(async () => {
      model = await MambaForCausalLM.fromPretrained(join(golden.folder, layout), { backend });
    });
    afterEach(() => model.dispose());

    it('base model: logits, hidden states, loss', () => {
      model.forward({ inputIds: [[0]] }).logits.dispose();
      expectNoLeak(() => {
        const result = model.forward({
          inputIds: golden.rows('input_ids'),
          labels: golden.rows('labels'),
          outputHiddenStates: true,
        });
        const hidden = tf.tidy(() => tf.stack(result.hiddenStates ?? []));
        expectClose(result.logits.dataSync(), golden.floats('logits'), { rtol: RTOL, name: 'logits' });
        expectClose(hidden.dataSync(), golden.floats('hidden_states'), { rtol: RTOL, name: 'hidden_states' });
        expectClose(result.loss?.dataSync() ?? [], [golden.losses.loss], { rtol: 1e-6, name: 'loss' });
        tf.dispose([result.logits, result.loss as tf.Scalar, ...(result.hiddenStates ?? []), hidden]);
      });
    });

    it('left padding: logits at the unmasked positions', () => {
      const attentionMask = golden.rows('leftpad_attention_mask');
      const { logits } = model.forward({ inputIds: golden.rows('input_ids'), attentionMask });
      const unmasked = (values: ArrayLike<number>) => unmaskedRows(values, attentionMask.flat());
      expect(attentionMask.flat()).toContain(0);
      expectClose(unmasked(logits.dataSync()), unmasked(golden.floats('leftpad_logits')), {
        rtol: RTOL,
        name: 'logits',
      });
      logits.dispose();
    });

    it('adapted model: logits, loss, every gradient, with and without gradient checkpointing', () => {
      const adapter = PeftModel.fromPretrained(model, join(golden.folder, 'adapter'), { trainable: true });
      const { logits } = model.forward({ inputIds: golden.rows('input_ids') });
      expectClose(logits.dataSync(), golden.floats('lora_logits'), { rtol: RTOL, name: 'lora_logits' });
      logits.dispose();

      const plain = lossAndGradients(model, golden);
      const wanted = golden.names.filter((key) => key.startsWith('grad.'));
      expect([...plain.gradients.keys()].map(goldenName).sort()).toEqual(wanted.sort());
      expect([...adapter.tensors().keys()]).toEqual([...plain.gradients.keys()]);
      expectClose([plain.loss], [golden.losses.lora_loss], { rtol: 1e-6, name: 'lora_loss' });
      for (const [key, gradient] of plain.gradients) {
        expectClose(gradient, golden.floats(goldenName(key)), { rtol: RTOL, name: goldenName(key) });
      }

      model.gradientCheckpointing = true;
      const recomputed = lossAndGradients(model, golden);
      expect(recomputed.loss).toBe(plain.loss);
      for (const [key, gradient] of plain.gradients) {
        // Composed ops give the residual's gradient in several parts, which a checkpoint adds up in another order.
        if (hasOwnKernels(backend)) expect(recomputed.gradients.get(key), key).toEqual(gradient);
        else expectClose(recomputed.gradients.get(key) ?? [], gradient, { rtol: 2e-6, name: key });
      }
    });
  });
});

/** peft's name in memory, which has the adapter's own name in it. */
function goldenName(key: string): string {
  return `grad.${key.replace(/\.(lora_[AB])\.weight$|\.(lora_magnitude_vector)$/, '.$1$2.default.weight').replace(/\.(lora_embedding_[AB])$/, '.$1.default')}`;
}

function unmaskedRows(values: ArrayLike<number>, mask: number[]): number[] {
  const width = values.length / mask.length;
  return Array.from(values).filter((_, i) => mask[Math.floor(i / width)] === 1);
}

type LossAndGradients = { loss: number; gradients: Map<string, Float32Array> };

function lossAndGradients(model: MambaForCausalLM, golden: Golden): LossAndGradients {
  const parameters = model.trainableParameters();
  const [batch, seqlen] = [golden.rows('input_ids').length, golden.rows('input_ids')[0]?.length ?? 0];
  const labels = golden.integers('labels');
  const tokens = labels.filter((label, i) => i % seqlen > 0 && label !== -100).length;
  return expectNoLeak(() => {
    const run = (): LossAndGradients => {
      const { value, gradients } = valueAndGradients(
        () => model.lossSum({ inputIds: golden.integers('input_ids'), labels, batch, seqlen }).lossSum,
        [...parameters.values()],
        { upstream: [tf.scalar(1 / tokens)] },
      );
      const named = Array.from(parameters.keys(), (key, i) => [key, gradients[i]?.dataSync() as Float32Array] as const);
      return { loss: (value.dataSync()[0] as number) / tokens, gradients: new Map(named) };
    };
    return tf.tidy(run as unknown as () => tf.TensorContainer) as unknown as LossAndGradients;
  });
}
