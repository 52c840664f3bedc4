// SPDX-License-Identifier: Apache-2.0
/**
 * A decoder whose single tokens are one launch of a recorded step. The step reads the tokens and updates the state in device memory;
 * where the likeliest tokens are wanted it also writes its choice over the tokens, so that a series of launches follows each other
 * without the host, which reads their choices together, and launches the next series before it hands them on.
 */
import type { Rank, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import * as tf from '@tensorflow/tfjs-core';
import { copyInto, overwrite, type Recording, record } from '../backends/graphs.ts';
import { UserError } from '../errors.ts';
import { type MambaCache, makeState } from '../model/backbone.ts';
import type { MambaForCausalLM } from '../model/causal_lm.ts';
import { checkIds } from '../model/model_inputs.ts';
import type { Decoder } from './decoder.ts';
import { checkNumbers, greedy } from './sampling.ts';

/** Most launches between two readings: what a reading costs is little beside them, and few run beyond the end of a text. */
const MOST_LAUNCHES = 16;

/** What one recording reads and gives. */
interface RecordedStep {
  /** int32 [batch, 1]: read, then written over with the likeliest. */
  tokens: Tensor2D;
  /** The choices of the launches since the last reading, int32 [MOST_LAUNCHES * batch]. */
  choices: Tensor1D;
  /** Sums of the hidden states that they were made from: not finite where a logit cannot be trusted. */
  sums: Tensor1D;
  recording: Recording<[logits: Tensor2D, likeliest: Tensor, sum: Tensor]>;
}

/**
 * Puts recorded steps over a decoder.
 * @param base runs everything but steps, and the first step: what a model makes once must not be recorded
 * @param fromState a decoder like it, which continues a state of its own
 */
export function recordedDecoder(
  model: MambaForCausalLM,
  base: Decoder,
  fromState: (state: MambaCache) => Decoder,
): Decoder {
  let decoder = base;
  /** Set from the first recorded step on, in place of `decoder`'s state. */
  let recorded: { state: MambaCache; step: RecordedStep } | undefined;
  let stepsTaken = 0;
  /** Of the next series. */
  let launches = 1;
  /** What has run beyond what the caller knows: a series that nobody has read, or choices that were read when rows were chosen. */
  let ahead: { after: readonly number[]; unread: number; read: Int32Array[] } | undefined;

  const start = (batch: number): RecordedStep => {
    if (!recorded) {
      const state = decoder.copyState();
      decoder.dispose();
      recorded = { state, step: recordStep(model, state, batch) };
    }
    return recorded.step;
  };
  /** Goes back to steps that run as they come. */
  const stop = (): Decoder => {
    ahead = undefined;
    if (recorded) {
      const { state, step } = recorded;
      recorded = undefined;
      release(step);
      decoder = fromState(state);
      state.dispose();
    }
    stepsTaken = 0;
    launches = 1;
    return decoder;
  };
  const put = (step: RecordedStep, tokens: readonly number[]) => {
    const ids = Int32Array.from(tokens);
    checkIds(ids, 'inputIds', model.config.vocabSize);
    overwrite(step.tokens, ids);
  };
  const launchSeries = (step: RecordedStep, after: readonly number[], most: number) => {
    const unread = Math.min(launches, most, MOST_LAUNCHES);
    launches *= 2;
    for (let i = 0; i < unread; i++) {
      step.recording.launch();
      copyInto(step.choices, i * after.length, step.recording.outputs[1]);
      copyInto(step.sums, i * after.length, step.recording.outputs[2]);
    }
    ahead = unread > 0 ? { after, unread, read: [] } : undefined;
  };
  /** The choices of `ahead`, which is over then. */
  const takeAhead = (): Int32Array[] => {
    if (!ahead) return [];
    const { after, unread, read } = ahead;
    const batch = after.length;
    ahead = undefined;
    if (unread === 0 || !recorded) return read;
    const { step } = recorded;
    const choices = step.choices.dataSync<'int32'>();
    const sums = step.sums.dataSync<'float32'>().subarray(0, unread * batch);
    if (!sums.every(Number.isFinite)) throw notANumber();
    return Array.from({ length: unread }, (_, i) => choices.slice(i * batch, (i + 1) * batch));
  };
  const refuseAhead = (call: string) => {
    if (ahead) throw new Error(`${call}: the decoder has run ahead; only likeliest, selectRows and dispose can follow`);
  };

  return {
    prefill(inputIds, attentionMask) {
      refuseAhead('prefill');
      return stop().prefill(inputIds, attentionMask);
    },
    leastPositions: (batch) => decoder.leastPositions(batch),
    async step(tokens) {
      refuseAhead('step');
      if (stepsTaken++ === 0) return decoder.step(tokens);
      const step = start(tokens.length);
      put(step, tokens);
      step.recording.launch();
      return step.recording.outputs[0].data<'float32'>();
    },
    async likeliest(tokens, most) {
      const batch = tokens.length;
      const { vocabSize } = model.config;
      if (ahead && tokens.some((token, row) => token !== ahead?.after[row]))
        throw new Error(
          `likeliest: found the tokens ${tokens}; expected ${ahead.after}, after which the decoder has run on`,
        );
      if (ahead && ahead.unread === 0) return takeAhead();
      if (stepsTaken++ === 0) {
        const logits = await decoder.step(tokens);
        return [
          Int32Array.from(tokens, (_, row) => likeliest(logits.subarray(row * vocabSize, (row + 1) * vocabSize))),
        ];
      }
      const step = start(batch);
      if (!ahead) {
        put(step, tokens);
        launchSeries(step, tokens, most);
      }
      const choices = takeAhead();
      launchSeries(step, [...(choices.at(-1) as Int32Array)], most - choices.length);
      return choices;
    },
    selectRows(rows) {
      const after = ahead && rows.map((row) => ahead?.after[row] as number);
      const read = takeAhead().map((choices) => Int32Array.from(rows, (row) => choices[row] as number));
      stop().selectRows(rows);
      if (after && read.length > 0) ahead = { after, unread: 0, read };
    },
    copyState() {
      refuseAhead('copyState');
      return recorded ? copyState(recorded.state) : decoder.copyState();
    },
    dispose: () => stop().dispose(),
  };
}

function recordStep(model: MambaForCausalLM, state: MambaCache, batch: number): RecordedStep {
  const tokens = tf.zeros([batch, 1], 'int32') as Tensor2D;
  const choices = tf.zeros([MOST_LAUNCHES * batch], 'int32') as Tensor1D;
  const sums = tf.zeros([MOST_LAUNCHES * batch]) as Tensor1D;
  for (const tensor of [tokens, choices, sums]) tf.keep(tensor);
  const recording = record((): [Tensor2D, Tensor, Tensor] => {
    const { logits, hidden } = model.advance(tokens, state);
    const likeliest = tf.argMax(logits, 1);
    copyInto(tokens, 0, likeliest);
    return [logits, likeliest, tf.sum(hidden, 1)];
  });
  return { tokens, choices, sums, recording };
}

function release({ tokens, choices, sums, recording }: RecordedStep): void {
  recording.release();
  tf.dispose([tokens, choices, sums]);
}

/** Of the values: recorded steps write over the original's. */
function copyState(state: MambaCache): MambaCache {
  const copy = (tensors: MambaCache['convStates']) =>
    tensors.map((tensor) => {
      const values = tf.zeros<Rank.R3>(tensor.shape);
      copyInto(values, 0, tensor);
      return values;
    });
  return makeState(copy(state.convStates), copy(state.ssmStates));
}

function likeliest(logits: Float32Array): number {
  checkNumbers(logits);
  return greedy(logits);
}

function notANumber(): UserError {
  return new UserError(
    "the model gave a logit that is not a number. Its weights or the adapter's are damaged, or it was trained to divergence.",
  );
}
