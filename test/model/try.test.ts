import { test } from 'vitest';
import * as tf from '@tensorflow/tfjs-core';
import { MambaForCausalLM } from '/work/main/src/model/causal_lm.ts';
import { PeftModel } from '/work/main/adapters/index.ts';
import { openSafetensors } from '/work/main/src/checkpoint/safetensors.ts';
import { valueAndGradients } from '/work/main/src/autograd/index.ts';
const rows = (a: ArrayLike<number>, n: number, m: number) => Array.from({length:n},(_, i)=>Array.from({length:m},(_, j)=>a[i*m+j] as number));
const diff = (a: ArrayLike<number>, b: ArrayLike<number>) => { let w=0, mx=0; for (let i=0;i<a.length;i++){ w=Math.max(w,Math.abs((a[i] as number)-(b[i] as number))); mx=Math.max(mx,Math.abs(b[i] as number)); if(Number.isNaN(a[i])) return NaN;} return [w, w/mx]; };
for (const backend of ['native','wasm','cpu'] as const) for (const name of ['tied','rslora'])
test(`${backend} ${name}`, async () => {
  const g = openSafetensors(`/work/main/test/golden/${name}/golden.safetensors`);
  const m = await MambaForCausalLM.fromPretrained(`/work/main/test/golden/${name}/model`, {backend});
  const ids = rows(g.readInt32('input_ids'),3,24), labels = rows(g.readInt32('labels'),3,24);
  const o = m.forward({inputIds: ids, labels, outputHiddenStates: true});
  console.log(backend, name, 'logits', diff(o.logits.dataSync(), g.readFloat32('logits')), 'loss', o.loss!.dataSync()[0]);
  console.log('hidden', diff(Array.from(tf.stack(o.hiddenStates!).dataSync()), g.readFloat32('hidden_states')));
  const p = PeftModel.fromPretrained(m, `/work/main/test/golden/${name}/adapter`, {trainable:true});
  console.log(p.counts());
  const leaves = [...m.trainableParameters()];
  const batch = {inputIds: Int32Array.from(ids.flat()), labels: Int32Array.from(labels.flat()), batch:3, seqlen:24};
  for (const ck of [false, true]) {
  m.gradientCheckpointing = ck;
  const before = tf.memory().numTensors;
  const { value, gradients } = valueAndGradients(() => { const {lossSum, count} = m.lossSum(batch); return tf.div(lossSum, count); }, leaves.map(x=>x[1]));
  console.log('lora loss', value.dataSync()[0]);
  let worst = 0;
  for (const [i,[k]] of leaves.entries()) { const key = 'grad.'+ (k.includes('embedding') ? k+'.default' : k.replace('.weight','.default.weight')); const d = diff(gradients[i]!.dataSync(), g.readFloat32(key)); worst = Math.max(worst, (d as number[])[1]!); }
  console.log('worst grad', worst);
  value.dispose(); gradients.forEach(x=>x?.dispose()); console.log('leak', tf.memory().numTensors-before);
  }
}, 60000);
