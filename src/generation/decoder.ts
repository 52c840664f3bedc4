// SPDX-License-Identifier: Apache-2.0
/** What generation asks of a model: run prompts, run single tokens, with the state of every row carried in between. */
import type { Tensor, Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { canRecord } from '../backends/graphs.ts';
import { createMambaStep } from '../backends/mamba_step.ts';
import { type MambaCache, makeState } from '../model/backbone.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { checkIds } from '../model/model_inputs.ts';
import type { DeviceChoice, TokenChooser } from './chooser.ts';
import { recordedDecoder } from './recorded_decoder.ts';
import { stepModelOf } from './step_model.ts';

/** Runs a model over the rows of a batch. One call at a time. */
export interface Decoder {
  /**
   * Runs further positions of every row.
   * @param inputIds [batch, seqlen]
   * @param attentionMask [batch, seqlen], 0 at padding, which stands before everything else of its row; default all ones
   * @returns the logits after each row's last position [batch * vocab_size]; valid until the next call
   * @throws UserError when an id is outside the vocabulary
   */
  prefill(
    inputIds: readonly (readonly number[])[],
    attentionMask?: readonly (readonly number[])[],
  ): Promise<Float32Array>;
  /**
   * Fewest positions a row that `prefill` should be given (padding counts), so that a row's bits depend neither on the batch nor
   * on the pieces in which it is run.
   */
  leastPositions(batch: number): number;
  /** {@link prefill} of one position a row. */
  step(tokens: readonly number[]): Promise<Float32Array>;
  /**
   * Runs `tokens` and then what is chosen after them, position by position, without coming back between. Absent where the device
   * cannot choose. It may run on beyond what it returns, up to `most`: until that many choices were taken, only `runAhead`,
   * `selectRows` and `dispose` may be called.
   * @param tokens the last choices, where it was called before
   * @param most positions to run, from 1
   * @param choosers of the rows, which have taken `tokens`. It takes nothing of what it chooses for them: that is the caller's to tell them
   * @param choice how to choose in their place; one object for all calls
   * @returns the choice of each row [batch] after each position, at least one
   * @throws UserError when the model gives what is not a number, or leaves nothing to choose
   */
  runAhead?(
    tokens: readonly number[],
    most: number,
    choosers: readonly TokenChooser[],
    choice: DeviceChoice,
  ): Promise<Int32Array[]>;
  /** From here on the batch is these rows of the present one, in this order; a row may come several times. */
  selectRows(rows: readonly number[]): void;
  /** A copy of the state after what has run: the caller's to dispose of. */
  copyState(): MambaCache;
  dispose(): void;
}

/**
 * A decoder of a model, whose parameters and adapters must stay as they are while it lives. Prompts go op by op; single tokens in
 * recorded steps where the backend can record, else in one fused step where the backend has one for the model.
 *
 * @param state to continue from, one row of it a row; it stays the caller's. Default the beginning of a text.
 */
export function createDecoder(model: MambaForCausalLM, state?: MambaCache): Decoder {
  const base = plainDecoder(model, state);
  return canRecord() ? recordedDecoder(model, base, (own) => plainDecoder(model, own)) : base;
}

/** Native products of at most 32 rows add their terms in another order than larger ones do (native/cpu/gemm.h). */
const NATIVE_LEAST_ROWS = 33;
/** So does the scan of one position (native/cpu/selective_scan_fwd.cc). */
const NATIVE_LEAST_SEQLEN = 2;

/** Prompts go op by op; single tokens in one fused step where the backend has one for the model. */
function plainDecoder(model: MambaForCausalLM, state?: MambaCache): Decoder {
  let cache = state && copyRows(state);
  let fused: FusedStep | undefined;
  const current = (): MambaCache => {
    if (!cache) throw new Error('the decoder has no state before its first prefill');
    return cache;
  };
  const replace = (next: MambaCache | undefined) => {
    fused?.dispose();
    fused = undefined;
    cache?.dispose();
    cache = next;
  };
  const prefill: Decoder['prefill'] = async (inputIds, attentionMask) => {
    const { logits, cacheParams } = model.forward({
      inputIds,
      ...(attentionMask && { attentionMask }),
      ...(cache && { cacheParams: cache }),
      useCache: true,
      logitsToKeep: 1,
    });
    replace(cacheParams);
    const values = await logits.data<'float32'>();
    logits.dispose();
    return values;
  };
  return {
    prefill,
    leastPositions: (batch) =>
      tf.getBackend() === 'native' ? Math.max(NATIVE_LEAST_SEQLEN, Math.ceil(NATIVE_LEAST_ROWS / batch)) : 1,
    async step(tokens) {
      fused ??= createFusedStep(model, current());
      if (!fused) return prefill(tokens.map((id) => [id]));
      const ids = Int32Array.from(tokens);
      checkIds(ids, 'inputIds', model.config.vocabSize);
      return fused.run(ids);
    },
    selectRows: (rows) => replace(copyRows(current(), rows)),
    copyState: () => copyRows(current()),
    dispose: () => replace(undefined),
  };
}

interface FusedStep {
  run(tokens: Int32Array): Float32Array;
  dispose(): void;
}

/** Undefined where the backend has none for the model. */
function createFusedStep(model: MambaForCausalLM, state: MambaCache): FusedStep | undefined {
  const kept: Tensor[] = [];
  const description = stepModelOf(model, (tensor) => kept.push(tensor));
  const step = description && createMambaStep(description, state);
  if (!step) return undefined;
  return {
    run: step.run,
    dispose() {
      step.dispose();
      tf.dispose(kept);
    },
  };
}

/** A new state with memory of its own, of these rows of another; default all. */
function copyRows(state: MambaCache, rows?: readonly number[]): MambaCache {
  const batch = state.ssmStates[0]?.shape[0] ?? 0;
  const indices = rows ?? Array.from({ length: batch }, (_, row) => row);
  const copy = (tensor: Tensor3D): Tensor3D => tf.tidy(() => tf.gather(tensor, tf.tensor1d([...indices], 'int32')));
  return makeState(state.convStates.map(copy), state.ssmStates.map(copy));
}

/** A new state whose rows are those of several, in order. */
export function joinStates(states: readonly MambaCache[]): MambaCache {
  const join = (tensors: (state: MambaCache) => readonly Tensor3D[]) =>
    tensors(states[0] as MambaCache).map((_, layer) =>
      tf.concat(states.map((state) => tensors(state)[layer] as Tensor3D)),
    );
  return makeState(
    join((state) => state.convStates),
    join((state) => state.ssmStates),
  );
}
