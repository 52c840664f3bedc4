// SPDX-License-Identifier: Apache-2.0
/**
 * Kernels MambaBlock and MambaBlockGrad on the native devices: a schedule of the devices' own ops (src/ops/mamba_block.ts says what
 * it saves).
 */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DeviceBackend, Rows } from '../device_backend.ts';
import { NO_X_PROJ } from './causal_conv1d.ts';
import type { Infos } from './define.ts';
import { defineKernel, required } from './define.ts';

const LINEARS = ['inProj', 'xProj', 'dtProj', 'outProj'] as const;
type Linear = (typeof LINEARS)[number];
const ADAPTERS = LINEARS.flatMap((linear) => [`${linear}A`, `${linear}B`]);

const NONE: Rows = [0, 0, 0];

interface Settings {
  scaling: number;
  dropout: number;
  offset: number;
}

/** What both kernels know of the block, with the calls of its ops. */
function blockOf(backend: DeviceBackend, inputs: Infos, attrs: Record<string, unknown>, stream: TensorInfo) {
  const { addon, device } = backend;
  const [batch, seqlen, dModel] = stream.shape as [number, number, number];
  const [dInner, dState] = required(inputs, 'A').shape as [number, number];
  const [, dConv] = required(inputs, 'convWeight').shape as [number, number];
  const [, dtRank] = required(inputs, 'dtProjW').shape as [number, number];
  const rows = batch * seqlen;
  const settings = attrs.settings as Record<Linear, Settings>;
  const handle = (name: string) => backend.handle(inputs[name]);
  const buffer = (channels: number) => backend.output([batch, seqlen, channels]);
  const rankOf = (linear: Linear) => inputs[`${linear}A`]?.shape[0] ?? 0;

  /** Columns of [rows, width] from `first` on. */
  const columns = (info: TensorInfo, first: number): Rows => [backend.handle(info), first, info.shape[2] as number];

  const linearOperands = (linear: Linear, x: Rows, bias: number): (number | boolean)[] => {
    const [out, inFeatures] = required(inputs, `${linear}W`).shape as [number, number];
    const { scaling, dropout, offset } = settings[linear];
    const adapter = [handle(`${linear}A`), handle(`${linear}B`), scaling, dropout, (attrs.seed as number) ?? 0, offset];
    const step = handle('dropoutStep');
    return [rows, out, inFeatures, rankOf(linear), ...x, handle(`${linear}W`), true, bias, ...adapter, step];
  };

  return {
    batch,
    seqlen,
    dModel,
    dInner,
    dState,
    dtRank,
    rows,
    buffer,
    rankOf,
    release: (...infos: (TensorInfo | undefined)[]) => {
      for (const info of infos) if (info) backend.disposeData(info.dataId);
    },
    columns,
    /** Of a matrix whose last columns are an adapter's projected input; nothing without the adapter. */
    lastColumns: (info: TensorInfo, linear: Linear): Rows =>
      rankOf(linear) > 0 ? columns(info, (info.shape[2] as number) - rankOf(linear)) : NONE,
    /** Room for an adapter's projected input of its own; empty where the device does not keep that. */
    projected: (linear: Linear) => {
      if (rankOf(linear) === 0) return undefined;
      const keeps = addon.loraLinearKeepsXa(device, ...linearOperands(linear, NONE, 0));
      return backend.output([keeps ? rows : 0, rankOf(linear)]);
    },
    whole: (info: TensorInfo | undefined): Rows => (info && info.shape[0] !== 0 ? [backend.handle(info), 0, 0] : NONE),
    /** scales: of the rows of the stream, 1 / sqrt(mean(x^2) + eps). */
    norm: (
      x: TensorInfo,
      residual: TensorInfo | undefined,
      y: TensorInfo,
      into: { stream?: TensorInfo | undefined; scales?: TensorInfo | undefined },
    ) =>
      addon.rmsNormFwd(
        device,
        rows,
        dModel,
        backend.handle(x),
        backend.handle(residual),
        handle('norm'),
        attrs.eps as number,
        backend.handle(y),
        backend.handle(into.stream),
        backend.handle(into.scales),
      ),
    normGrad: (x: TensorInfo, dy: TensorInfo, dresidualOut: TensorInfo | undefined, ds: TensorInfo) =>
      addon.rmsNormBwd(
        device,
        rows,
        dModel,
        backend.handle(x),
        handle('norm'),
        attrs.eps as number,
        backend.handle(dy),
        backend.handle(dresidualOut),
        backend.handle(ds),
        0,
      ),
    linear: (linear: Linear, x: Rows, y: Rows, xa: Rows, bias = handle(`${linear}Bias`)) =>
      addon.loraLinearFwd(device, ...linearOperands(linear, x, bias), ...y, ...xa),
    /** dy undefined: only A's gradient, from what an earlier call left in dxa. x is multiplied by `scales` of its rows and columns. */
    linearGrad: (
      linear: Linear,
      x: Rows,
      xa: Rows,
      dy: TensorInfo | undefined,
      into: { dxa?: TensorInfo | undefined; dx?: Rows; accumulate?: boolean; A?: TensorInfo; B?: TensorInfo },
      scales: [number, number] = [0, 0],
    ) =>
      addon.loraLinearBwd(
        device,
        ...linearOperands(linear, x, 0),
        ...xa,
        backend.handle(dy),
        backend.handle(into.dxa),
        ...(into.dx ?? NONE),
        into.accumulate ?? false,
        ...scales,
        backend.handle(into.A),
        backend.handle(into.B),
        0,
        0,
      ),
    convOperands: (x: Rows): (number | boolean)[] => [
      ...[batch, seqlen, dInner, dConv, ...x, handle('convWeight'), handle('convBias'), handle('seqIdx'), 0],
      true,
    ],
    /** Whether the convolution's backward, with x in columns of xz and dx in those of dxz, does x_proj's as well. */
    convTakesXProj: (xz: TensorInfo, dxz: TensorInfo): boolean => {
      const [n, strides] = [dtRank + 2 * dState, [xz.shape[2] as number, dxz.shape[2] as number] as const];
      if (rankOf('xProj') > 0 && settings.xProj.dropout > 0) return false;
      return addon.causalConv1dBwdTakesXProj(device, dInner, dConv, ...strides, n, rankOf('xProj'));
    },
    /** Of x_proj, for the convolution's backward. */
    xProjOperands: (ddbc: TensorInfo, dxa: TensorInfo | undefined, dA: TensorInfo | undefined): number[] => [
      ...[dtRank + 2 * dState, rankOf('xProj'), backend.handle(ddbc), handle('xProjW')],
      ...[backend.handle(dxa), handle('xProjA'), backend.handle(dA)],
    ],
    scanOperands: (u: TensorInfo, delta: TensorInfo, dbc: TensorInfo, xz: TensorInfo): (number | boolean)[] => {
      return [
        ...[batch, seqlen, dInner, dState, backend.handle(u), 0, 0, backend.handle(delta), 0, 0, handle('A')],
        ...[...columns(dbc, dtRank), ...columns(dbc, dtRank + dState), handle('D')],
        ...[...columns(xz, dInner), handle('dtProjBias'), handle('seqIdx'), 0],
        true,
      ];
    },
  };
}

/**
 * inputs: hidden, residual?, norm, convWeight, convBias?, A, D, seqIdx?, dropoutStep?, and W, Bias?, A?, B? of each projection behind
 * its name; attrs: eps, seed, settings (scaling, dropout, offset of each projection), saves. Outputs: out, hidden + residual when
 * there is a residual, and with `saves`: the scales of the stream's rows, xz and dbc, whose last columns are the projected inputs of their
 * adapters, checkpoints, dtProjXa?, outProjXa?, empty where the device does not keep them.
 */
defineKernel('MambaBlock', (backend, inputs, attrs) => {
  const { addon, device } = backend;
  const hidden = required(inputs, 'hidden');
  const block = blockOf(backend, inputs, attrs, hidden);
  const { batch, seqlen, dModel, dInner, dState, dtRank, buffer, release, columns, whole } = block;
  const saves = attrs.saves as boolean;

  const normed = buffer(dModel);
  const residualOut = inputs.residual && buffer(dModel);
  const scales = saves ? backend.output([batch * seqlen]) : undefined;
  block.norm(hidden, inputs.residual, normed, { stream: residualOut, scales });
  const xz = buffer(2 * dInner + block.rankOf('inProj'));
  block.linear('inProj', whole(normed), columns(xz, 0), block.lastColumns(xz, 'inProj'));
  release(normed);
  const u = buffer(dInner);
  addon.causalConv1dFwd(device, ...block.convOperands(columns(xz, 0)), backend.handle(u), 0);
  const dbc = buffer(dtRank + 2 * dState + block.rankOf('xProj'));
  block.linear('xProj', whole(u), columns(dbc, 0), block.lastColumns(dbc, 'xProj'));
  const delta = buffer(dInner);
  const dtXa = block.projected('dtProj');
  block.linear('dtProj', columns(dbc, 0), whole(delta), whole(dtXa), 0);
  const scanned = buffer(dInner);
  const checkpoints = saves
    ? backend.output([addon.selectiveScanCheckpointSize(device, batch, seqlen, dInner, dState)])
    : undefined;
  const operands = block.scanOperands(u, delta, dbc, xz);
  addon.selectiveScanFwd(device, ...operands, backend.handle(scanned), 0, backend.handle(checkpoints));
  release(u, delta);
  const out = buffer(dModel);
  const outXa = block.projected('outProj');
  block.linear('outProj', whole(scanned), whole(out), whole(outXa));
  release(scanned);
  const kept = [scales, xz, dbc, checkpoints, dtXa, outXa];
  if (!saves) release(...kept);
  return [out, residualOut, ...(saves ? kept : [])].filter((info) => info !== undefined);
});

/**
 * inputs: s (the residual stream that was normed), the forward's operands without biases but dtProj's, what it saved, dout,
 * dresidualOut?; attrs as the forward's with needs (adapters' names) and needsInput. Outputs: ds when that is needed, then the needed
 * ones in the order of ADAPTERS.
 */
defineKernel('MambaBlockGrad', (backend, inputs, attrs) => {
  const { addon, device } = backend;
  const s = required(inputs, 's');
  const block = blockOf(backend, inputs, attrs, s);
  const { dModel, dInner, dState, dtRank, rows, buffer, release, columns, whole } = block;
  const needs = attrs.needs as string[];
  const gradients = new Map(
    ADAPTERS.filter((name) => needs.includes(name)).map((name) => [name, backend.output(required(inputs, name).shape)]),
  );
  const adapter = (linear: Linear) => {
    const [A, B] = [gradients.get(`${linear}A`), gradients.get(`${linear}B`)];
    return { ...(A && { A }), ...(B && { B }) };
  };
  const xz = required(inputs, 'xz');
  const dbc = required(inputs, 'dbc');
  const x = columns(xz, 0);
  const [dtXa, outXa] = [inputs.dtProjXa, inputs.outProjXa];

  // out_proj: the gradient of lora_A waits for the scan's output, and that of lora_B where xa was not kept. Beside it, what the forward
  // did not keep is computed again.
  const dout = required(inputs, 'dout');
  const { A: dOutA, B: dOutB } = adapter('outProj');
  const keptXa = outXa?.shape[0] !== 0;
  const dxa = dOutA && keptXa ? backend.output([rows, block.rankOf('outProj')]) : undefined;
  const [dscan, u, delta] = [buffer(dInner), buffer(dInner), buffer(dInner)];
  const again = block.projected('dtProj');
  backend.beside(
    () => {
      const early = { dxa, dx: whole(dscan), ...(dOutB && keptXa && { B: dOutB }) };
      block.linearGrad('outProj', NONE, whole(outXa), dout, early);
    },
    () =>
      backend.beside(
        () => addon.causalConv1dFwd(device, ...block.convOperands(x), backend.handle(u), 0),
        () => block.linear('dtProj', columns(dbc, 0), whole(delta), whole(again), 0),
      ),
  );
  release(again);

  // ddelta takes delta's place, and the scan's output that of its gradient.
  const du = buffer(dInner);
  const dxz = buffer(2 * dInner);
  const ddbc = buffer(dtRank + 2 * dState);
  addon.selectiveScanBwd(
    device,
    ...block.scanOperands(u, delta, dbc, xz),
    backend.handle(required(inputs, 'checkpoints')),
    backend.handle(dscan),
    0,
    ...whole(du),
    ...whole(delta),
    ...columns(ddbc, dtRank),
    ...columns(ddbc, dtRank + dState),
    ...columns(dxz, dInner),
    ...[0, 0, 0, 0],
    dOutA || (dOutB && !keptXa) ? backend.handle(dscan) : 0,
  );

  // x_proj's share of du and its lora_A's gradient come with the convolution's backward, where the device can do that.
  const { A: dXA, B: dXB } = adapter('xProj');
  const together = block.convTakesXProj(xz, dxz);
  const dXxa = together && block.rankOf('xProj') > 0 ? backend.output([rows, block.rankOf('xProj')]) : undefined;
  const xXa = block.lastColumns(dbc, 'xProj');
  const convGrad = (xProj: number[]) =>
    addon.causalConv1dBwd(device, ...block.convOperands(x), backend.handle(du), ...columns(dxz, 0), 0, 0, ...xProj);
  backend.beside(
    () => {
      block.linearGrad('dtProj', columns(dbc, 0), whole(dtXa), delta, { dx: columns(ddbc, 0), ...adapter('dtProj') });
      if (!together) {
        block.linearGrad('xProj', whole(u), xXa, ddbc, { dx: whole(du), accumulate: true, ...adapter('xProj') });
        convGrad(NO_X_PROJ);
        return;
      }
      backend.beside(
        () => {
          if (dXxa) block.linearGrad('xProj', NONE, xXa, ddbc, { dxa: dXxa });
          convGrad(block.xProjOperands(ddbc, dXxa, dXA));
        },
        () => {
          if (dXB) block.linearGrad('xProj', NONE, xXa, ddbc, { B: dXB });
        },
      );
    },
    () => {
      if (!keptXa) block.linearGrad('outProj', whole(dscan), NONE, dout, adapter('outProj'));
      else if (dOutA) block.linearGrad('outProj', whole(dscan), whole(outXa), undefined, { dxa, A: dOutA });
    },
  );
  release(dscan, dxa, u, delta, du, ddbc, dXxa);

  // The normed input is s by the scales of its rows and by the norm's weight: lora_A's gradient is taken from s itself.
  const inXa = block.lastColumns(xz, 'inProj');
  const scales: [number, number] = [backend.handle(required(inputs, 'scales')), backend.handle(inputs.norm)];
  if (!attrs.needsInput) {
    block.linearGrad('inProj', whole(s), inXa, dxz, adapter('inProj'), scales);
    release(dxz);
    return [...gradients.values()];
  }
  const { A: dInA, B: dInB } = adapter('inProj');
  const dInXa = dInA && backend.output([rows, block.rankOf('inProj')]);
  const [dnormed, ds] = [buffer(dModel), buffer(dModel)];
  block.linearGrad('inProj', NONE, inXa, dxz, { dxa: dInXa, dx: whole(dnormed), ...(dInB && { B: dInB }) });
  release(dxz);
  backend.beside(
    () => block.normGrad(s, dnormed, inputs.dresidualOut, ds),
    () => {
      if (dInA) block.linearGrad('inProj', whole(s), inXa, undefined, { dxa: dInXa, A: dInA }, scales);
    },
  );
  release(dnormed, dInXa);
  return [ds, ...gradients.values()];
});
