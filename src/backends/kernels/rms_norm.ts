// SPDX-License-Identifier: Apache-2.0
/** Kernels RmsNorm and RmsNormGrad on the native devices (contract: native/include/rms_norm.h). */
import { defineKernel, lastDim, required, rowCount } from './define.ts';

/** attrs: eps. Outputs: y, then x + residual when there is a residual. */
defineKernel('RmsNorm', (backend, inputs, attrs) => {
  const x = required(inputs, 'x');
  const y = backend.output(x.shape);
  const residualOut = inputs.residual ? backend.output(x.shape) : undefined;
  backend.addon.rmsNormFwd(
    backend.device,
    rowCount(x),
    lastDim(x),
    backend.handle(x),
    backend.handle(inputs.residual),
    backend.handle(inputs.weight),
    attrs.eps as number,
    backend.handle(y),
    backend.handle(residualOut),
    0,
  );
  return residualOut ? [y, residualOut] : [y];
});

/** inputs: s, weight?, dy, dresidualOut?; attrs: eps, needsWeight. Outputs: ds, then dweight when needed. */
defineKernel('RmsNormGrad', (backend, inputs, attrs) => {
  const s = required(inputs, 's');
  const ds = backend.output(s.shape);
  const dweight = attrs.needsWeight ? backend.output([lastDim(s)]) : undefined;
  backend.addon.rmsNormBwd(
    backend.device,
    rowCount(s),
    lastDim(s),
    backend.handle(s),
    backend.handle(inputs.weight),
    attrs.eps as number,
    backend.handle(required(inputs, 'dy')),
    backend.handle(inputs.dresidualOut),
    backend.handle(ds),
    backend.handle(dweight),
  );
  return dweight ? [ds, dweight] : [ds];
});
