// SPDX-License-Identifier: Apache-2.0
/** Kernel MambaLayerStep on the native devices (contract: native/include/mamba_layer_step.h). */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { layerArguments, type StepLinear, scratchFloats, WEIGHT_KIND } from '../layer_step.ts';
import type { Infos } from './define.ts';
import { defineKernel, lastDim, required, rowCount } from './define.ts';

function linearOf(inputs: Infos, name: string, scaling: number): StepLinear {
  const [A, B] = [inputs[`${name}A`], inputs[`${name}B`]];
  return {
    weight: required(inputs, `${name}W`),
    bias: inputs[`${name}Bias`] ?? null,
    lora: A && B ? { A, B, scaling } : null,
  };
}

/** attrs: eps, scaling (of each projection's adapter, by its name), frozen (weights may be packed). convState and ssmState are written over. Outputs: out, then residualOut when there is a residual. */
defineKernel('MambaLayerStep', (backend, inputs, attrs) => {
  const hidden = required(inputs, 'hidden');
  const scaling = attrs.scaling as Record<string, number>;
  const linear = (name: string) => linearOf(inputs, name, scaling[name] ?? 1);
  const layer = {
    norm: required(inputs, 'norm'),
    inProj: linear('inProj'),
    convWeight: required(inputs, 'convWeight'),
    convBias: inputs.convBias ?? null,
    xProj: linear('xProj'),
    dtProj: linear('dtProj'),
    A: required(inputs, 'A'),
    D: required(inputs, 'D'),
    outProj: linear('outProj'),
  };
  const dModel = lastDim(hidden);
  const out = backend.output(hidden.shape);
  const residualOut = inputs.residual && backend.output(hidden.shape);
  const floats = scratchFloats(backend, layer, dModel);
  const scratch: TensorInfo | undefined = floats > 0 ? backend.output([floats]) : undefined;
  const kind = attrs.frozen ? WEIGHT_KIND.frozen : WEIGHT_KIND.changing;
  backend.addon.mambaLayerStep(
    backend.device,
    ...layerArguments(backend, layer, { rows: rowCount(hidden), dModel, eps: attrs.eps as number, kind }),
    backend.handle(required(inputs, 'convState')),
    backend.handle(required(inputs, 'ssmState')),
    backend.handle(hidden),
    backend.handle(inputs.residual),
    backend.handle(residualOut),
    backend.handle(out),
    backend.handle(scratch),
  );
  if (scratch) backend.disposeData(scratch.dataId);
  return residualOut ? [out, residualOut] : [out];
});
