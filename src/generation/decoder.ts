// SPDX-License-Identifier: Apache-2.0
/** What generation asks of a model: run prompts, run single tokens, with the state of every row carried in between. */
import type { Tensor3D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import type { MambaCache } from '../model/backbone.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';

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
  /** From here on the batch is these rows of the present one, in this order; a row may come several times. */
  selectRows(rows: readonly number[]): void;
  /** A copy of the state after what has run: the caller's to dispose of. */
  copyState(): MambaCache;
  dispose(): void;
}

/**
 * The fastest decoder that the model's backend has for it.
 * @param state to continue from, one row of it a row; it stays the caller's. Default the beginning of a text.
 */
export function createDecoder(model: MambaForCausalLM, state?: MambaCache): Decoder {
  return composedDecoder(model, state);
}

/** Native products of at most 32 rows add their terms in another order than larger ones do (native/cpu/gemm.h). */
const NATIVE_LEAST_ROWS = 33;
/** So does the scan of one position (native/cpu/selective_scan_fwd.cc). */
const NATIVE_LEAST_SEQLEN = 2;

/** Single tokens go the way of prompts: op by op. */
function composedDecoder(model: MambaForCausalLM, state?: MambaCache): Decoder {
  let cache = state && mapStates(state, tf.clone);
  const run: Decoder['prefill'] = async (inputIds, attentionMask) => {
    const { logits, cacheParams } = model.forward({
      inputIds,
      ...(attentionMask && { attentionMask }),
      ...(cache && { cacheParams: cache }),
      useCache: true,
      logitsToKeep: 1,
    });
    cache?.dispose();
    cache = cacheParams;
    const values = await logits.data<'float32'>();
    logits.dispose();
    return values;
  };
  const current = (): MambaCache => {
    if (!cache) throw new Error('the decoder has no state before its first prefill');
    return cache;
  };
  return {
    prefill: run,
    leastPositions: (batch) =>
      tf.getBackend() === 'native' ? Math.max(NATIVE_LEAST_SEQLEN, Math.ceil(NATIVE_LEAST_ROWS / batch)) : 1,
    step: (tokens) => run(tokens.map((id) => [id])),
    selectRows(rows) {
      const before = current();
      cache = selectRows(before, rows);
      before.dispose();
    },
    copyState: () => mapStates(current(), tf.clone),
    dispose: () => cache?.dispose(),
  };
}

/** A new state of these rows of another. */
function selectRows(state: MambaCache, rows: readonly number[]): MambaCache {
  return mapStates(state, (tensor) => tf.gather(tensor, tf.tensor1d([...rows], 'int32')));
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

function mapStates(state: MambaCache, f: (tensor: Tensor3D) => Tensor3D): MambaCache {
  const map = (tensors: readonly Tensor3D[]) => tensors.map((tensor) => tf.tidy(() => f(tensor)));
  return makeState(map(state.convStates), map(state.ssmStates));
}

/** A state that owns these tensors. */
export function makeState(convStates: Tensor3D[], ssmStates: Tensor3D[]): MambaCache {
  return { convStates, ssmStates, dispose: () => tf.dispose([convStates, ssmStates]) };
}
